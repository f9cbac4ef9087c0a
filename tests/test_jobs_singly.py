"""One image asked for, and one job claimed: short ways, to the same end as the long ones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bench import Bench
from negspace import jobs, queue
from negspace.database import connect, rows
from negspace.worker import leases
from queue_steps import ALL, enlist

CLAIM = "select * from claim_work('w1', %s, %s, %s)"
AHEAD = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def worker(bench: Bench) -> str:
    return enlist(bench)


def take(bench: Bench, count: int = 1, capacity: float | None = None) -> list[int]:
    """Jobs as a worker claims them."""
    return [job.id for job in leases.claim(bench.services, "w1", ALL, count, capacity)]


def looks(bench: Bench, count: int) -> tuple[list[int], int]:
    """The jobs that a claim takes, and how often it looked the long way."""
    calls = "select calls as n from pg_stat_xact_user_functions where funcname = 'next_jobs'"
    with connect(bench.database.superuser) as connection:
        connection.execute("set track_functions = 'all'")
        found = rows(connection, CLAIM, [count, list(ALL), None])
        said = rows(connection, calls)
    return [row["id"] for row in found], said[0]["n"] if said else 0


# ── A claim ──────────────────────────────────────────────────────────────────────────────


def add_many(bench: Bench, count: int) -> list[int]:
    """Images without files."""
    bench.owner.execute(
        "insert into images (user_id, file_name, original_filename, file_path, file_size,"
        " mime_type, file_hash)"
        " select %s, n || '.png', n || '.png', n || '.png', 1, 'image/png',"
        " encode(sha256(n::text::bytea), 'hex') from generate_series(1, %s) n",
        [bench.user, count],
    )
    return [row["id"] for row in bench.all("select id from images order by id")]


@pytest.mark.parametrize("statistics", ["none", "empty", "full"])
@pytest.mark.parametrize("function", ["claim_work", "claim_jobs"])
@pytest.mark.parametrize("count", [1, 5])
def test_a_claim_reads_what_it_takes_however_much_waits(
    bench: Bench, worker: str, function: str, count: int, statistics: str
) -> None:
    """With statistics of a queue that was full, or empty and not yet vacuumed, or with none."""
    images = add_many(bench, 4000)
    if statistics == "empty":
        bench.enqueue(images)
        bench.owner.execute("delete from processing_queue_hot")
        bench.owner.execute("analyze processing_queue_hot")
    queued = bench.enqueue(images)
    if statistics == "full":
        bench.owner.execute("analyze processing_queue_hot")
    read = (
        "select seq_tup_read + idx_tup_fetch as n from pg_stat_xact_user_tables"
        " where relname = 'processing_queue_hot'"
    )
    with connect(bench.database.superuser) as connection:
        found = rows(connection, f"select id from {function}('w1', {count})")  # type: ignore[arg-type]
        looked_at = rows(connection, read)[0]["n"]
    assert [row["id"] for row in found] == queued[:count]
    assert looked_at < 200, "of 4,000 that wait"


@pytest.mark.parametrize(
    ("waiting", "wanted", "looked"), [(1, 1, 0), (1, 9, 0), (2, 1, 0), (2, 2, 1)]
)
def test_what_waits_alone_is_found_by_the_first_look(
    bench: Bench, worker: str, waiting: int, wanted: int, looked: int
) -> None:
    queued = bench.enqueue(bench.add_images(waiting))
    assert looks(bench, wanted) == (queued[: min(waiting, wanted)], looked)


def test_a_job_claimed_alone_is_held_as_any_other(bench: Bench, worker: str) -> None:
    """The same columns, in the queue and in the worker's hands, as by the long way."""
    images = bench.add_images(4)
    bench.owner.execute("insert into algorithm_speeds values ('rehearsal', '1.0.0', 500, 2e6)")
    (alone,) = [bench.enqueue(images[0], deadline_at=AHEAD)]
    single = leases.claim(bench.services, "w1", ALL, 5)
    queued = bench.enqueue(images[1:3], deadline_at=AHEAD)
    several = leases.claim(bench.services, "w1", ALL, 5)
    assert [job.id for job in single + several] == [alone, *queued]
    own = {"id", "token", "image_id", "file_path", "file_hash", "original_filename", "deadline"}
    kept = [{k: v for k, v in vars(job).items() if k not in own} for job in single + several]
    assert kept[0] == kept[1] == kept[2]
    columns = (
        "select status, worker_id, attempt, lease_token is not null as held,"
        " estimated_completion_at - started_at between '0.7 s' and '0.9 s' as estimated,"
        " i.analysis_status, i.processing_history #- '{0,at}' as history, i.user_id,"
        " i.file_path, i.file_hash"
        " from processing_queue q join images i on i.id = q.image_id where q.id = any (%s)"
        " order by q.id"
    )
    held = bench.all(columns, [[alone, *queued]])
    for row, job in zip(held, single + several, strict=True):
        assert (row.pop("file_path"), row.pop("file_hash")) == (job.file_path, job.file_hash)
    assert held[0] == held[1] == held[2]
    assert (held[0]["status"], held[0]["estimated"], held[0]["attempt"]) == ("processing", True, 1)
    tokens = bench.all("select lease_token from processing_queue_hot order by id")
    assert [row["lease_token"] for row in tokens] == [job.token for job in single + several]


@pytest.mark.parametrize("count", [0, -1])
def test_who_wants_nothing_gets_nothing(bench: Bench, worker: str, count: int) -> None:
    job = bench.enqueue(bench.add_image())
    assert take(bench, count) == []
    assert take(bench) == [job]


PRIORITIES = (3, 9, 3, 10, 1, 5, 5)


def test_jobs_come_one_by_one_as_they_would_together(bench: Bench, worker: str) -> None:
    images = bench.add_images(7)
    queued = [bench.enqueue(image, priority=p) for image, p in zip(images, PRIORITIES, strict=True)]
    aged = {queued[4]: "100 minutes", queued[2]: "3 minutes", queued[6]: "49 minutes"}
    for job, by in aged.items():
        bench.owner.execute(
            "update processing_queue_hot set created_at = created_at - %s::interval,"
            " scheduled_at = scheduled_at - %s::interval where id = %s",
            [by, by, job],
        )
    planned = bench.enqueue(bench.add_image(), priority=2, scheduled_at=AHEAD)
    bench.owner.execute(
        "update processing_queue_hot set created_at = now() - interval '2 days',"
        " scheduled_at = now() - interval '95 minutes' where id = %s", [planned])  # fmt: skip
    bench.owner.execute("select setval('queue_next_whole_sweep', 1)")
    with connect(bench.database.superuser) as connection:
        together = rows(connection, "select id from claim_jobs('w1', 20, %s)", [list(ALL)])
        connection.rollback()
    singly = [take(bench)[0] for _ in range(8)]
    assert singly == [row["id"] for row in together]
    assert take(bench) == []


def limited(bench: Bench, job: int) -> None:
    queue.limit_running(bench.services, 0, user=bench.user)


def overdue(bench: Bench, job: int) -> None:
    """Since the last sweep, which would have ended it."""
    bench.owner.execute(
        "select setval('queue_next_sweep', as_microseconds(now() + '9 seconds')),"
        " setval('queue_next_whole_sweep', as_microseconds(now() + '9 seconds'))"
    )
    bench.owner.execute(
        "update processing_queue_hot set deadline_at = now() - interval '1 s' where id = %s", [job]
    )


def too_early(bench: Bench, job: int) -> None:
    bench.owner.execute(
        "update processing_queue_hot set scheduled_at = now() + interval '1 hour' where id = %s",
        [job],
    )


def of_another_version(bench: Bench, job: int) -> None:
    bench.owner.execute(
        "update processing_queue_hot set algorithm_version = '1.0.1' where id = %s", [job]
    )


def too_heavy(bench: Bench, job: int) -> None:
    bench.owner.execute(
        "update processing_queue_hot set complexity_score = 11 where id = %s", [job]
    )


def archived(bench: Bench, job: int) -> None:
    """As a transaction leaves it that hasn't cancelled its jobs yet."""
    bench.owner.execute("set session_replication_role = replica")
    bench.owner.execute("update images set analysis_status = 'archived'")
    bench.owner.execute("reset session_replication_role")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "stop", [limited, overdue, too_early, of_another_version, too_heavy, archived]
)
def test_what_holds_a_job_back_holds_it_alone(
    bench: Bench, worker: str, stop: Callable[[Bench, int], None], count: int
) -> None:
    job = bench.enqueue(bench.add_image())
    stop(bench, job)
    assert take(bench, count, capacity=10.0) == []
    assert bench.status(job) in ("queued", "failed")  # failed: it was overdue


@pytest.mark.parametrize("of", ["images where id = %s", "processing_queue_hot where image_id = %s"])
def test_one_that_somebody_holds_is_passed_by(bench: Bench, worker: str, of: str) -> None:
    held, free = bench.add_images(2)
    blocked, job = bench.enqueue(held, priority=10), bench.enqueue(free)
    with connect(bench.database.superuser) as other:
        other.execute("select from " + of + " for update", [held])  # type: ignore[operator]
        assert take(bench) == [job]
        assert take(bench) == []
    assert take(bench) == [blocked]


# ── Asking ───────────────────────────────────────────────────────────────────────────────

WAYS: list[dict[str, Any]] = [
    {},
    {"priority": 9, "max_retries": 0},
    {"use_cache": False},
    {"weight": 12.5, "job_group": "night"},
    {"scheduled_at": AHEAD, "deadline_at": AHEAD + timedelta(hours=1)},
]


@pytest.mark.parametrize("how", WAYS, ids=lambda how: "_".join(how) or "plain")
@pytest.mark.parametrize("status", ["pending", "completed", "failed"])
def test_one_image_is_asked_for_as_many_are(
    bench: Bench, worker: str, how: dict[str, Any], status: str
) -> None:
    eve = bench.add_user("eve@example.org")
    one, two, three = bench.add_images(3)
    bench.owner.execute("set session_replication_role = replica")
    bench.owner.execute("update images set analysis_status = %s::analysis_status", [status])
    bench.owner.execute("reset session_replication_role")
    bench.owner.execute(
        "insert into algorithm_speeds (algorithm_name, algorithm_version, ms_per_job,"
        " ms_per_megapixel, jobs_ahead, live_workers) values ('rehearsal', '1.0.0', 500, 800, 7, 2)"
    )
    singly = bench.enqueue(one, requested_by=eve, **how)
    first, _ = bench.enqueue([two, three], requested_by=eve, **how)
    found = bench.all(
        "select to_jsonb(q) - array['id', 'image_id', 'created_at', 'scheduled_at',"
        "  'estimated_completion_at']"
        " || jsonb_build_object('ends', q.estimated_completion_at - q.scheduled_at, 'late',"
        "  q.scheduled_at - q.created_at > '1 hour', 'image', i.analysis_status) as job"
        " from processing_queue_hot q join images i on i.id = q.image_id"
        " where q.id = any (%s) order by q.id",
        [[singly, first]],
    )
    assert found[0]["job"] == found[1]["job"]
    assert found[0]["job"]["image"] == "pending"
    assert found[0]["job"]["user_id"] == eve
    again = jobs.enqueue(bench.services, [one], bench.wanted(behave="well", mark=str(bench.mark)))
    assert [(a.job_id, a.outcome) for a in again] == [(singly, "waiting")]


def test_one_image_that_is_asked_for_wakes_a_sleeper(bench: Bench, worker: str) -> None:
    image = bench.add_image()
    with connect(bench.database.app, autocommit=True) as sleeper:
        sleeper.execute("listen negspace_jobs")
        sleeper.execute("select rest_worker(%s, true)", [worker])
        bench.enqueue(image)
        told = [note.payload for note in sleeper.notifies(timeout=10, stop_after=1)]
    assert told == ["1"]


# ── Changes of images ────────────────────────────────────────────────────────────────────


def test_a_change_of_an_image_is_one_event_whatever_it_changes(bench: Bench) -> None:
    one, two = bench.add_images(2)
    told = (
        "select resource_id::bigint as image, changes_after as becomes from security_audit"
        " where resource_type = 'image' and action = 'config_change' order by resource_id::bigint"
    )
    change = bench.owner.execute
    change("update images set metadata = '{\"a\": 1}'")
    assert bench.all(told) == [
        {"image": image, "becomes": {"metadata": {"a": 1}}} for image in (one, two)
    ]
    change(
        "update images set original_filename = 'x', analysis_status = 'archived' where id = %s",
        [one],
    )
    change("update images set analysis_status = 'archived' where id = %s", [two])
    change("update images set metadata = metadata, analysis_status = analysis_status")
    assert [row["becomes"] for row in bench.all(told) if "metadata" not in row["becomes"]] == [
        {"original_filename": "x", "analysis_status": "archived"},
        {"analysis_status": "archived"},
    ]
    assert len(bench.all(told)) == 4
