"""Which job comes next, what holds one back, and counters that are right at any moment."""

from __future__ import annotations

import re
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import queue_singly as leases
from bench import Bench
from conftest import programs
from negspace import jobs, queue
from negspace.database import Jsonb, connect, rows
from negspace.errors import InvalidInputError, NegspaceError, RefusedError
from negspace.server import binaries
from negspace.worker import registry
from queue_steps import ALL, claimed, completion, enlist

CLAIM = "select id from claim_jobs(%s, %s, %s, %s)"


@pytest.fixture
def worker(bench: Bench) -> str:
    return enlist(bench)


def take(bench: Bench, count: int, capacity: float | None = None) -> list[int]:
    with bench.services.transaction() as connection:
        found = rows(connection, CLAIM, ["w1", count, list(ALL), capacity])
    return [row["id"] for row in found]


def age(bench: Bench, job: int, by: str) -> None:
    """As if the job had been asked for so much earlier."""
    bench.owner.execute(
        "update processing_queue_hot set created_at = created_at - %s::interval,"
        " scheduled_at = scheduled_at - %s::interval where id = %s",
        [by, by, job],
    )


def sweep(bench: Bench) -> None:
    """Let the next claim begin from zero."""
    bench.owner.execute("select setval('queue_next_whole_sweep', 1)")


def recount(bench: Bench) -> dict[str, int]:
    """The counters, held against a count of all jobs."""
    kept = bench.all(
        "select status::text, priority, algorithm_name, job_count from queue_depth order by 1, 2, 3"
    )
    counted = bench.all(
        "select status::text, priority, algorithm_name, count(*) as job_count"
        " from processing_queue group by 1, 2, 3 order by 1, 2, 3"
    )
    assert kept == counted
    found: dict[str, int] = {}
    for row in kept:
        found[row["status"]] = found.get(row["status"], 0) + row["job_count"]
    return found


# ── order ────────────────────────────────────────────────────────────────────────────────


def test_waiting_raises_a_job_step_by_step(bench: Bench, worker: str) -> None:
    old, middle, urgent = bench.add_images(3)
    one = bench.enqueue(old, priority=1)
    five = bench.enqueue(middle, priority=5)
    ten = bench.enqueue(urgent, priority=10)
    age(bench, one, "91 minutes")
    age(bench, five, "49 minutes")
    sweep(bench)
    assert take(bench, 3) == [one, ten, five]


def test_a_claim_finds_what_lies_below_the_mark(bench: Bench, worker: str) -> None:
    """As of a transaction that was open for long, or after a clock that was set back."""
    first, second = bench.enqueue(bench.add_images(2))
    hour = "1 hour"
    for job in (first, second):
        age(bench, job, hour)
    sweep(bench)
    assert take(bench, 1) == [first]
    marked = "select to_timestamp(last_value / 1e6) <= now() - interval '59 min' from queue_mark_5"
    assert bench.value(marked)
    bench.owner.execute(
        "select setval('queue_mark_5', as_microseconds(now())),"
        " setval('queue_next_sweep', as_microseconds(now() + '5 seconds')),"
        " setval('queue_next_whole_sweep', as_microseconds(now() + '5 seconds'))"
    )
    assert take(bench, 1) == [], "it lies below the mark, until the next sweep from zero"
    sweep(bench)
    assert take(bench, 1) == [second]


def test_after_a_step_back_of_the_clock_what_is_ready_stays_ready(
    bench: Bench, worker: str
) -> None:
    """Jobs and marks of before lie in the future then."""
    ready, planned = bench.add_images(2)
    job = bench.enqueue(ready)
    later = bench.enqueue(planned, scheduled_at=datetime.now(UTC) + timedelta(minutes=5))
    age(bench, job, "-2 hours")
    bench.owner.execute(
        "select setval(c.oid, as_microseconds(now() + '2 hours')) from pg_class c"
        " where c.relkind = 'S' and c.relname ~ '^queue_(mark|next)_'"
    )
    assert take(bench, 2) == [job]
    assert bench.status(later) == "queued"


def test_a_claim_takes_no_more_than_fits(bench: Bench, worker: str) -> None:
    images = bench.add_images(3)
    heavy = bench.enqueue(images[0], weight=50, priority=10)
    light = bench.enqueue(images[1], weight=2)
    own = bench.enqueue(images[2])
    assert bench.value("select complexity_score from processing_queue where id = %s", [own]) == (
        Decimal("0.0004")
    )
    assert take(bench, 3, capacity=10) == [light, own]
    assert take(bench, 3) == [heavy]


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_a_weight_is_a_number(bench: Bench, weight: float) -> None:
    with pytest.raises(InvalidInputError, match="weight is"):
        bench.enqueue(bench.add_image(), weight=weight)
    assert jobs.list_jobs(bench.services) == []


# ── deadlines ────────────────────────────────────────────────────────────────────────────


def test_after_its_deadline_a_job_fails_and_never_begins(bench: Bench, worker: str) -> None:
    image, other = bench.add_images(2)
    soon = datetime.now(UTC) + timedelta(hours=1)
    job = bench.enqueue(image, deadline_at=soon, priority=10)
    further = bench.enqueue(other, deadline_at=soon)
    bench.owner.execute(
        "update processing_queue_hot set deadline_at = now() - interval '1 s' where id = %s", [job]
    )
    sweep(bench)
    assert take(bench, 5) == [further]
    state = bench.job(job)
    assert (state.status, state.attempt, state.started_at, state.worker_id) == (
        "failed", 0, None, None,
    )  # fmt: skip
    assert "deadline" in str(state.error_message)
    [event] = bench.audit(image)
    assert (event["status"], "deadline" in event["error_message"]) == ("failure", True)
    reason = "select failure_reason from images where id = %s"
    assert "deadline" in bench.value(reason, [image])
    recount(bench)


def test_a_deadline_that_is_over_is_refused(bench: Bench) -> None:
    now = datetime.now(UTC)
    for given in (
        {"deadline_at": now - timedelta(seconds=1)},
        {"deadline_at": now + timedelta(hours=1), "scheduled_at": now + timedelta(hours=2)},
    ):
        with pytest.raises(InvalidInputError, match="deadline"):
            bench.enqueue(bench.add_image(), **given)


# ── limits ───────────────────────────────────────────────────────────────────────────────


def running(bench: Bench) -> list[int]:
    return [row["running"] for row in bench.all("select running from queue_limits order by id")]


def test_limits_hold_for_users_and_groups_and_let_others_pass(bench: Bench, worker: str) -> None:
    eve = bench.add_user("eve@example.org")
    ours = bench.enqueue(bench.add_images(4), priority=10)
    theirs = bench.enqueue([bench.add_image(user=eve) for _ in range(3)], job_group="night")
    queue.limit_running(bench.services, 2, user=bench.user)
    queue.limit_running(bench.services, 1, group="night")
    assert take(bench, 10) == [*ours[:2], theirs[0]]
    assert take(bench, 10) == []
    assert running(bench) == [2, 1]
    jobs.cancel(bench.services, [ours[0]])
    assert take(bench, 10) == [ours[2]]
    bench.owner.execute("delete from images i using processing_queue q where q.id = %s"
                        " and i.id = q.image_id", [theirs[0]])  # fmt: skip
    assert running(bench) == [2, 0], "a job that is removed runs no more"
    queue.limit_running(bench.services, None, user=bench.user)
    assert take(bench, 10) == [ours[3], theirs[1]]
    with pytest.raises(InvalidInputError, match="one of both"):
        queue.limit_running(bench.services, 1)
    with pytest.raises(InvalidInputError, match="-1"):
        queue.limit_running(bench.services, -1, group="night")


def test_concurrent_claims_never_exceed_a_limit_nor_leak_it(bench: Bench, worker: str) -> None:
    bench.enqueue(bench.add_images(40))
    queue.limit_running(bench.services, 3, user=bench.user)
    most, raised = [0], []

    def work() -> None:
        seen = "select count(*) as n from processing_queue where status = 'processing'"
        try:
            with connect(bench.database.app, autocommit=True) as connection:
                for _ in range(60):
                    held = rows(
                        connection, "select id, attempt, lease_token from claim_jobs('w1', 2)"
                    )
                    most[0] = max(most[0], rows(connection, seen)[0]["n"])
                    ends = [
                        {
                            "job": one["id"],
                            "attempt": one["attempt"],
                            "token": str(one["lease_token"]),
                        }
                        | {"again": False}
                        for one in held
                    ]
                    rows(connection, "select fail_jobs(%s)", [Jsonb(ends)])
        except NegspaceError as error:
            raised.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert raised == []
    assert 0 < most[0] <= 3
    assert running(bench) == [bench.value(
        "select count(*) from processing_queue where status = 'processing'")]  # fmt: skip
    assert recount(bench).get("failed", 0) > 20
    assert bench.value("select reconcile_queue_counts()") == 0, "nothing was to be mended"


# ── counters ─────────────────────────────────────────────────────────────────────────────


def test_counters_are_exact_whatever_moves_a_job(bench: Bench, worker: str) -> None:
    images = bench.add_images(6)
    ids = bench.enqueue(images)
    assert recount(bench) == {"queued": 6}
    leases.complete(bench.services, claimed(bench), completion())
    leases.fail(bench.services, claimed(bench), "no", again=False)
    leases.fail(bench.services, claimed(bench), "again", again=True)
    claimed(bench)
    jobs.cancel(bench.services, [ids[4]])
    expected = {
        "cancelled": 1, "completed": 1, "failed": 1, "processing": 1, "queued": 1, "retrying": 1,
    }  # fmt: skip
    assert recount(bench) == expected
    assert bench.value("select fold_queue_counts()") > 0
    assert recount(bench) == expected
    assert bench.value("select count(*) from queue_counts") == 6
    jobs.retry(bench.services, [ids[1]])
    bench.owner.execute("delete from images where id = %s", [images[5]])
    bench.owner.execute("update processing_queue set completed_at = now() - interval '9 days'"
                        " where status = 'completed'")  # fmt: skip
    assert queue.purge(bench.services, timedelta(days=8)) == 1
    assert recount(bench) == {"cancelled": 1, "processing": 1, "retrying": 2}
    assert bench.value("select reconcile_queue_counts()") == 0


def test_counters_that_went_wrong_are_mended(bench: Bench, worker: str) -> None:
    bench.enqueue(bench.add_images(3))
    queue.limit_running(bench.services, 5, user=bench.user)
    claimed(bench)
    bench.owner.execute("update queue_counts set jobs = jobs + 7")
    bench.owner.execute("update queue_limits set running = 4")
    assert bench.value("select reconcile_queue_counts()") >= 2
    assert recount(bench) == {"processing": 1, "queued": 2}
    assert running(bench) == [1]


# ── many at once ─────────────────────────────────────────────────────────────────────────


def test_many_are_cancelled_in_batches(bench: Bench, worker: str) -> None:
    ids = bench.enqueue(bench.add_images(5))
    assert jobs.cancel(bench.services, ids, batch=2) == ids
    assert recount(bench) == {"cancelled": 5}
    statuses = bench.all("select distinct analysis_status::text as status from images")
    assert [row["status"] for row in statuses] == ["pending"]
    events = "select count(*) from security_audit where resource_type = 'job'"
    assert bench.value(events) == 5


def test_months_of_ended_jobs_are_dropped_whole(bench: Bench, worker: str) -> None:
    bench.owner.execute("select ensure_partitions(0, now() - interval '3 months')")
    bench.enqueue(bench.add_images(2))
    leases.complete(bench.services, claimed(bench), completion())
    kept = bench.enqueue(bench.add_image())
    leases.complete(bench.services, claimed(bench), completion())
    bench.owner.execute(
        "update processing_queue set created_at = now() - interval '3 months',"
        " completed_at = now() - interval '3 months' where status = 'completed' and id < %s",
        [kept - 1],
    )
    before = recount(bench)
    assert before["completed"] == 2
    dropped = queue.drop_months(bench.services, timedelta(days=32))
    assert len(dropped) >= 1
    assert recount(bench) == before | {"completed": 1}
    assert queue.drop_months(bench.services, timedelta(days=32)) == []
    assert bench.value("select count(*) from analysis_results") == 2
    with pytest.raises(InvalidInputError, match="negative"):
        queue.drop_months(bench.services, timedelta(days=-1))


# ── wake-ups and estimates ───────────────────────────────────────────────────────────────


def test_only_sleepers_are_woken_once_and_told_how_many(bench: Bench, worker: str) -> None:
    with connect(bench.database.app, autocommit=True) as listener:
        listener.execute("listen negspace_jobs")

        def heard() -> list[str]:
            return [note.payload for note in listener.notifies(timeout=0.3)]

        bench.enqueue(bench.add_image())
        assert heard() == [], "nobody sleeps"
        bench.owner.execute("select rest_worker('w1', true)")
        bench.enqueue(bench.add_images(3))
        assert heard() == ["3"]
        with connect(bench.database.app) as other:
            other.execute("select wake_workers(1)")
            bench.enqueue(bench.add_image())
            assert heard() == [], "one transaction at a time tells"
            other.commit()
        assert heard() == ["1"]
        bench.owner.execute("select setval('queue_untold', 1)")
        bench.enqueue(bench.add_image(), scheduled_at=datetime.now(UTC) + timedelta(hours=1))
        bench.owner.execute("select rest_worker('w1', false)")
        bench.enqueue(bench.add_image())
        assert heard() == []


def test_wake_ups_are_spaced_and_carry_what_came_between(bench: Bench, worker: str) -> None:
    enlist(bench, "w2")
    with connect(bench.database.app, autocommit=True) as listener:
        listener.execute("listen negspace_jobs")

        def heard() -> list[str]:
            return [note.payload for note in listener.notifies(timeout=0.3)]

        def told(jobs: int) -> bool:
            return bench.value("select wake_workers(%s)", [jobs])

        bench.owner.execute("select rest_worker('w1', true), rest_worker('w2', true)")
        assert told(2)
        soon = "select setval('queue_next_wakeup', as_microseconds(now() + interval '0.9 s'))"
        bench.owner.execute(soon)
        assert not told(3), "they were told just now"
        assert not told(4)
        assert heard() == ["2"]
        # w1 wakes: w2 learns what came meanwhile
        bench.owner.execute("select rest_worker('w1', false)")
        assert heard() == ["7"]
        bench.owner.execute("select rest_worker('w1', true)")
        assert told(1), "it has just fallen asleep, and heard nothing yet"
        # a clock that was set back doesn't close the way for long
        bench.owner.execute(
            "select setval('queue_next_wakeup', as_microseconds(now() + interval '1 hour'))"
        )
        assert told(1)


def test_estimates_take_priority_into_account(bench: Bench, worker: str) -> None:
    bench.enqueue(bench.add_image())
    leases.complete(bench.services, claimed(bench), completion(processing_time_ms=2000))
    bench.enqueue(bench.add_images(3), priority=8)
    bench.enqueue(bench.add_images(2), priority=2)
    bench.owner.execute("select measure_algorithms()")
    assert bench.value("select jobs_before from algorithm_speeds") == [5, 5, *[3] * 6, 0, 0]
    for priority, ahead in ((10, 0), (5, 3), (1, 5)):
        job = bench.job(bench.enqueue(bench.add_image(), priority=priority, weight=0.000384))
        assert job.estimated_completion_at is not None
        waits = job.estimated_completion_at - job.created_at
        assert waits == timedelta(seconds=2 * (ahead + 1)), priority


def test_estimates_come_from_what_was_measured(bench: Bench, worker: str) -> None:
    first = bench.enqueue(bench.add_image())
    assert bench.job(first).estimated_completion_at is None, "nothing was measured"
    leases.complete(bench.services, claimed(bench), completion(processing_time_ms=2000))
    bench.enqueue(bench.add_images(4))
    assert bench.value("select measure_algorithms()") == 1
    [pace] = bench.all("select * from algorithm_speeds")
    assert (pace["ms_per_job"], pace["jobs_ahead"], pace["live_workers"]) == (2000, 4, 1)
    job = bench.job(bench.enqueue(bench.add_image(), weight=0.000384))
    assert job.estimated_completion_at is not None
    # four ahead of it, two seconds each, one worker, and its own two seconds
    assert job.estimated_completion_at - job.created_at == timedelta(seconds=10)
    held = claimed(bench)
    state = bench.job(held.id)
    assert state.estimated_completion_at is not None
    assert state.started_at is not None
    took = state.estimated_completion_at - state.started_at
    assert abs(took - timedelta(seconds=2)) < timedelta(milliseconds=100)


def test_a_job_that_kills_its_worker_ends_with_its_last_words(bench: Bench, worker: str) -> None:
    job = bench.enqueue(bench.add_image(), max_retries=2)
    for _ in range(3):
        bench.hurry()
        assert claimed(bench).id == job
        bench.owner.execute("update workers set heartbeat_at = now() - interval '1 hour'")
        bench.owner.execute("update processing_queue set started_at = now() - interval '1 hour'")
        assert registry.rescue(bench.services, timedelta(minutes=1)) == 1
    state = bench.job(job)
    assert state.status == "failed"
    assert "w1 was not heard of" in str(state.error_message)


def test_archived_images_take_no_job(bench: Bench) -> None:
    image = bench.add_image()
    bench.owner.execute("update images set analysis_status = 'archived' where id = %s", [image])
    with pytest.raises(RefusedError, match="archived"):
        bench.enqueue([bench.add_image(), image])
    assert recount(bench) == {}


def test_the_key_of_the_cache_is_made_in_one_way(bench: Bench, worker: str) -> None:
    """complete_jobs() and enqueue_jobs() make it inline, for speed."""
    bench.enqueue(bench.add_image())
    lease = bench.all("select id as job, attempt, lease_token::text as token from claim_jobs('w1')")
    found: dict[str, Any] = {"negative_space_data": {}, "confidence_score": 1}
    bench.owner.execute(
        "select complete_jobs(%s)", [Jsonb([lease[0] | found | {"processing_time_ms": 1}])]
    )
    query = (
        "select c.cache_key = cache_key(i.file_hash, algorithm_fingerprint(r.algorithm_name,"
        " r.algorithm_version, r.algorithm_parameters), i.user_id) as same"
        " from analysis_cache c join analysis_results r on r.id = c.analysis_id"
        " join images i on i.id = r.image_id"
    )
    assert bench.value(query) is True


# ── the page ─────────────────────────────────────────────────────────────────────────────


def test_the_pages_sql_runs_in_psql(bench: Bench) -> None:
    bench.add_images(2)
    page = (Path(__file__).parent.parent / "docs/jobs.md").read_text("utf-8")
    [block] = re.findall(r"^```sql\n(.*?)^```", page, re.M | re.S)
    psql = (programs() or binaries.choose(bench.folder / "none")).program("psql")
    done = subprocess.run(
        [psql, "-XAtq", "-v", "ON_ERROR_STOP=1", bench.database.app],
        input=block,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "queued", "queued", "held", "held", "completed", "lost", "failed", "completed|1",
        "failed|1",
    ]  # fmt: skip


# ── Nothing is looked for twice ──────────────────────────────────────────────────────────


@pytest.mark.parametrize(("wanted", "looks"), [(2, 1), (3, 2)])
def test_a_claim_that_has_all_it_wanted_looks_no_further(
    bench: Bench, worker: str, wanted: int, looks: int
) -> None:
    bench.enqueue([bench.add_image(), bench.add_image()])
    with connect(bench.database.superuser) as connection:
        connection.execute("set track_functions = 'all'")
        assert len(rows(connection, CLAIM, ["w1", wanted, list(ALL), None])) == 2
        calls = "select calls from pg_stat_xact_user_functions where funcname = 'next_jobs'"
        assert rows(connection, calls) == [{"calls": looks}]


def test_outcomes_come_in_the_order_that_was_asked_for(bench: Bench, worker: str) -> None:
    images = [bench.add_image() for _ in range(6)]
    asked = [images[n] for n in (4, 0, 5, 2)]
    queued = bench.enqueue(asked)
    assert queued == sorted(queued), "and the jobs in that order"
    again = jobs.enqueue(bench.services, [images[3], *asked, images[3]], bench.wanted())
    mixed = jobs.enqueue(bench.services, images, bench.wanted(behave="well", mark=str(bench.mark)))
    assert [one.image_id for one in again] == [images[3], *asked]
    assert {one.outcome for one in again} == {"queued"}
    assert [one.image_id for one in mixed] == images
    assert [one.outcome for one in mixed] == [
        "waiting" if image in asked else "queued" for image in images
    ]
