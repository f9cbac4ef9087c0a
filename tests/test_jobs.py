"""The queue's contract: what its functions promise, each promise tried at the real database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import queue_singly as leases
from bench import Bench, png, until
from negspace import cache, jobs, queue
from negspace.database import Connection, connect, rows
from negspace.errors import (
    ConstraintError,
    InvalidInputError,
    LeaseLostError,
    NegspaceError,
    NotFoundError,
    RefusedError,
)
from negspace.worker import registry
from queue_steps import ALL, claimed, completion, enlist


@pytest.fixture
def worker(bench: Bench) -> str:
    return enlist(bench)


def image_status(bench: Bench, image: int) -> str:
    return bench.value("select analysis_status::text from images where id = %s", [image])


def side_by_side(*steps: Callable[[], object]) -> list[BaseException]:
    """Run the steps in threads of their own; what they raised."""
    raised: list[BaseException] = []

    def run(step: Callable[[], object]) -> None:
        try:
            step()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert not any(thread.is_alive() for thread in threads)
    return raised


def waiting(bench: Bench) -> int:
    """How many sessions of this database wait for a lock."""
    query = (
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and wait_event_type = 'Lock'"
    )
    return bench.value(query)


# ── enqueue ──────────────────────────────────────────────────────────────────────────────


def test_enqueue_queues_once_and_answers_from_the_cache(bench: Bench, worker: str) -> None:
    first, second = bench.add_images(2)
    wanted = bench.wanted()
    answers = jobs.enqueue(bench.services, [second, first, second], wanted)
    assert [(a.image_id, a.outcome) for a in answers] == [(second, "queued"), (first, "queued")]
    again = jobs.enqueue(bench.services, [first], wanted)
    assert (again[0].outcome, again[0].job_id) == ("waiting", answers[1].job_id)
    other = jobs.enqueue(bench.services, [first], bench.wanted(mark="another"))
    assert other[0].outcome == "queued"

    job = claimed(bench)
    result = leases.complete(bench.services, job, completion())
    [answer] = jobs.enqueue(bench.services, [job.image_id], wanted)
    assert (answer.outcome, answer.result_id, answer.job_id) == ("cached", result, None)
    # the same bytes again: a row of their own, from the cache, no job
    content = (bench.storage.folder / job.file_path).read_bytes()
    twin = bench.add_image(content)
    [answer] = jobs.enqueue(bench.services, [twin], wanted)
    assert (answer.outcome, answer.job_id) == ("cached", None)
    assert image_status(bench, twin) == "completed"
    [row] = bench.all("select * from analysis_results where id = %s", [answer.result_id])
    assert (row["image_id"], row["cache_hit"]) == (twin, True)
    assert [event["changes_after"]["cache_hit"] for event in bench.audit(twin)] == [True]


def test_use_cache_false_computes_again(bench: Bench, worker: str) -> None:
    image = bench.add_image()
    bench.enqueue(image)
    result = leases.complete(bench.services, claimed(bench), completion())
    again = bench.enqueue(image, use_cache=False)
    job = claimed(bench)
    assert job.id == again
    assert leases.complete_from_cache(bench.services, job) is None
    assert leases.complete(bench.services, job, completion()) == result


def test_enqueue_is_part_of_the_callers_transaction(bench: Bench) -> None:
    image = bench.add_image()

    def half() -> None:
        with bench.services.transaction() as connection:
            jobs.enqueue_within(connection, [image], bench.wanted())
            raise RuntimeError("the caller changes its mind")

    with pytest.raises(RuntimeError):
        half()
    assert jobs.list_jobs(bench.services) == []


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"images": [10**12]}, NotFoundError, "no image 1000000000000"),
        ({"images": [10**30]}, InvalidInputError, "."),
        ({"priority": 11}, InvalidInputError, "priority is 11"),
        ({"priority": 0}, InvalidInputError, "priority is 0"),
        ({"max_retries": -1}, InvalidInputError, "retries is -1"),
        ({"scheduled_at": datetime(2030, 1, 1)}, InvalidInputError, "no time zone"),
        ({"what": jobs.Wanted("rehearsal", "1.0", {})}, ConstraintError, "semver"),
        ({"what": jobs.Wanted("rehearsal", "1.0.0", {"a": "\0"})}, InvalidInputError, "."),
        ({"what": jobs.Wanted("rehearsal", "1.0.0", {"a": float("nan")})}, InvalidInputError, "."),
    ],
)
def test_bad_requests_are_refused_whole(
    bench: Bench, change: dict[str, Any], error: type[NegspaceError], says: str
) -> None:
    image = bench.add_image()
    given = {"what": bench.wanted(), "images": []} | change
    given["images"] = [image, *given["images"]]
    with pytest.raises(error, match=says):
        jobs.enqueue(bench.services, given.pop("images"), given.pop("what"), **given)
    assert jobs.list_jobs(bench.services) == []
    assert image_status(bench, image) == "pending"


def test_unknown_analysers_profiles_and_parameters_are_refused_by_name(bench: Bench) -> None:
    for arguments, error, says in (
        ({"analyzer": "nothing"}, NotFoundError, "nothing"),
        ({"analyzer": "rehearsal", "allowed": ["negative_space"]}, RefusedError, "rehearsal"),
        ({"profile": "astrology"}, InvalidInputError, "astrology"),
        ({"analyzer": "rehearsal", "parameters": {"sigma": 1}}, InvalidInputError, "sigma"),
    ):
        with pytest.raises(error, match=says):
            jobs.wanted(**arguments)


def test_who_is_answered_from_the_cache_waits_for_nobody(bench: Bench, worker: str) -> None:
    """Answers come while somebody holds the entry, and to callers with equal contents crosswise."""
    for shade in (900, 901):
        bench.enqueue(bench.add_image(png(shade)))
        leases.complete(bench.services, claimed(bench), completion())
    ones = [bench.add_image(png(shade)) for shade in (900, 901)]
    twos = [bench.add_image(png(shade)) for shade in (901, 900)]
    wanted = jobs.Wanted(
        **bench.all(
            "select distinct algorithm_name, algorithm_version, algorithm_parameters"
            " from analysis_results"
        )[0]
    )

    def ask(images: list[int]) -> None:
        answers = jobs.enqueue(bench.services, images, wanted)
        assert [answer.outcome for answer in answers] == ["cached", "cached"]

    with connect(bench.database.app) as gate:
        gate.execute(
            "select from analysis_cache c join images i on c.cache_key ="
            " cache_key(i.file_hash, c.algorithm_fingerprint, i.user_id)"
            " where i.id = %s for update of c",
            [ones[0]],
        )
        assert side_by_side(lambda: ask(ones), lambda: ask(twos)) == []
    assert bench.value("select sum(hit_count) from analysis_cache") == 0
    assert cache.stats(bench.services).hits == 4
    assert cache.count_hits(bench.services) == 4 + 2  # and what was computed: rows of misses
    assert cache.stats(bench.services).hits == 4
    assert bench.value("select sum(hit_count) from analysis_cache") == 4


# ── claim ────────────────────────────────────────────────────────────────────────────────


def test_claims_take_the_most_urgent_then_the_oldest(bench: Bench, worker: str) -> None:
    images = bench.add_images(5)
    low, high, middle, tomorrow, middle_later = (
        bench.enqueue(image, priority=priority, scheduled_at=when)
        for image, priority, when in zip(
            images,
            (1, 10, 5, 10, 5),
            (None, None, None, datetime.now(UTC) + timedelta(days=1), None),
            strict=True,
        )
    )
    taken = [claimed(bench).id for _ in range(4)]
    assert taken == [high, middle, middle_later, low]
    assert leases.claim(bench.services, worker, ALL) is None
    assert bench.status(tomorrow) == "queued"
    assert image_status(bench, images[1]) == "processing"
    assert image_status(bench, images[3]) == "pending"


def test_many_at_once_come_in_order_and_to_one_worker_each(bench: Bench, worker: str) -> None:
    ids = bench.enqueue(bench.add_images(40))
    with connect(bench.database.app) as one, connect(bench.database.app) as two:
        ask = "select id from claim_jobs(%s, 15)"
        first = [row["id"] for row in rows(one, ask, ["w1"])]
        second = [row["id"] for row in rows(two, ask, ["w1"])]  # while the first is not committed
    assert first == ids[:15]
    assert second == ids[15:30]


def test_a_claim_passes_by_images_that_somebody_holds(bench: Bench, worker: str) -> None:
    held, free = bench.add_images(2)
    blocked = bench.enqueue(held, priority=10)
    job = bench.enqueue(free)
    with connect(bench.database.app) as other:
        other.execute("select from images where id = %s for update", [held])
        assert claimed(bench).id == job
    assert claimed(bench).id == blocked


def test_archiving_an_image_cancels_its_jobs(bench: Bench, worker: str) -> None:
    """By plain SQL too: a job that could never be claimed would stand in the others' way."""
    image = bench.add_image()
    job = bench.enqueue(image, priority=10)
    with bench.services.transaction() as connection:
        connection.execute("update images set analysis_status = 'archived' where id = %s", [image])
    assert bench.job(job).status == "cancelled"
    with pytest.raises(RefusedError, match="archived"):
        bench.enqueue(image)


def test_a_worker_gets_no_job_of_another_version(bench: Bench, worker: str) -> None:
    jobs.enqueue(bench.services, [bench.add_image()], jobs.Wanted("rehearsal", "1.0.1", {}))
    assert leases.claim(bench.services, worker, ALL) is None
    assert leases.is_drained(bench.services, ALL)
    assert leases.claim(bench.services, worker, ("rehearsal@1.0.1",)) is not None


# ── the ends of a job ────────────────────────────────────────────────────────────────────


def effects(bench: Bench, image: int, job: int) -> dict[str, Any]:
    return {
        "status": bench.status(job),
        "image": image_status(bench, image),
        "results": bench.value("select count(*) from analysis_results"),
        "cache": bench.value("select count(*) from analysis_cache"),
        "events": len(bench.audit(image)),
        "details": bench.value("select count(*) from audit_log_details"),
        "metrics": bench.value("select count(*) from performance_metrics"),
        "hashed": bench.value("select pixel_hash is not null from images where id = %s", [image]),
        "counted": bench.value("select sum(jobs_completed + jobs_failed) from workers"),
    }


def test_completion_is_all_or_nothing(bench: Bench, worker: str) -> None:
    image = bench.add_image()
    job = bench.enqueue(image)
    held = claimed(bench)
    before = effects(bench, image, job)
    # the last statement of the transaction fails: a hash the schema refuses
    with pytest.raises(ConstraintError):
        leases.complete(bench.services, held, completion(pixel_hash="no hash"))
    assert effects(bench, image, job) == before
    leases.complete(bench.services, held, completion())
    assert effects(bench, image, job) == {
        "status": "completed",
        "image": "completed",
        "results": 1,
        "cache": 1,
        "events": 1,
        "details": 1,
        "metrics": 2,
        "hashed": True,
        "counted": 1,
    }


@pytest.mark.parametrize("end", ["complete", "from_cache", "fail", "give_back"])
def test_who_lost_the_lease_changes_nothing(bench: Bench, worker: str, end: str) -> None:
    image = bench.add_image()
    job = bench.enqueue(image)
    late = claimed(bench)
    leases.give_back(bench.services, late.id, late.token, "for another")
    now = claimed(bench)
    assert (now.id, now.attempt) == (late.id, 2)
    before = effects(bench, image, job)
    steps = {
        "complete": lambda: leases.complete(bench.services, late, completion()),
        "from_cache": lambda: leases.complete_from_cache(bench.services, late),
        "fail": lambda: leases.fail(bench.services, late, "too late", again=True),
        "give_back": lambda: leases.give_back(bench.services, late.id, late.token, "too late"),
    }
    with pytest.raises(LeaseLostError):
        steps[end]()
    assert effects(bench, image, job) == before
    leases.complete(bench.services, now, completion())


def test_failed_tries_back_off_and_end(bench: Bench, worker: str) -> None:
    image = bench.add_image()
    job = bench.enqueue(image, max_retries=2)
    for attempt in (1, 2):
        assert (
            leases.fail(bench.services, claimed(bench), f"try {attempt}\0", again=True)
            == "retrying"
        )
        state = bench.job(job)
        assert (state.retry_count, state.error_message) == (attempt, f"try {attempt}�")
        assert state.last_error_at is not None
        delay = state.scheduled_at - state.last_error_at
        assert timedelta(0) <= delay <= timedelta(seconds=2**attempt)
        assert image_status(bench, image) == "processing"
        bench.hurry()
    assert bench.audit(image) == [], "a try is no event; the end is"
    assert leases.fail(bench.services, claimed(bench), "try 3", again=True) == "failed"
    assert image_status(bench, image) == "failed"
    [event] = bench.audit(image)
    assert (event["status"], event["error_message"]) == ("failure", "try 3")
    [row] = bench.all("select analysis_retry_count, failure_reason from images")
    assert tuple(row.values()) == (2, "try 3")
    assert registry.counted(bench.services, ["w1"]) == (0, 3)


def test_what_can_never_succeed_is_not_tried_again(bench: Bench, worker: str) -> None:
    job = bench.enqueue(bench.add_image())
    assert leases.fail(bench.services, claimed(bench), "no image", again=False) == "failed"
    assert bench.job(job).attempt == 1


def test_giving_back_costs_no_try_and_counts_nowhere(bench: Bench, worker: str) -> None:
    image = bench.add_image()
    job = bench.enqueue(image, max_retries=0)
    held = claimed(bench)
    leases.give_back(bench.services, held.id, held.token, "stopping")
    state = bench.job(job)
    assert (state.status, state.retry_count) == ("retrying", 0)
    assert registry.counted(bench.services, ["w1"]) == (0, 0)
    assert bench.value("select count(*) from performance_metrics") == 0
    assert bench.value("select analysis_retry_count from images") == 0
    assert claimed(bench).id == job, "it waits again at once"


def test_an_image_is_done_when_its_last_job_is(bench: Bench, worker: str) -> None:
    image = bench.add_image()
    bench.enqueue(image)
    jobs.enqueue(bench.services, [image], bench.wanted(mark="another"))
    one, two = claimed(bench), claimed(bench)
    leases.complete(bench.services, one, completion())
    assert image_status(bench, image) == "processing"
    leases.complete(bench.services, two, completion())
    assert image_status(bench, image) == "completed"


# ── rescue ───────────────────────────────────────────────────────────────────────────────


def silence(bench: Bench, worker: str) -> None:
    bench.owner.execute(
        "update workers set heartbeat_at = now() - interval '1 hour' where id = %s", [worker]
    )
    bench.owner.execute(
        "update processing_queue set started_at = now() - interval '1 hour' where worker_id = %s",
        [worker],
    )


def test_jobs_of_silent_workers_are_rescued_and_no_others(bench: Bench, worker: str) -> None:
    enlist(bench, "w2")
    dead, alive = bench.enqueue(bench.add_images(2), max_retries=1)
    assert claimed(bench, "w1").id == dead
    assert claimed(bench, "w2").id == alive
    silence(bench, "w1")
    silence(bench, "w2")
    registry.beat(bench.services, "w2")
    minute = timedelta(minutes=1)
    assert registry.rescue(bench.services, minute) == 1
    assert (bench.status(dead), bench.status(alive)) == ("retrying", "processing")
    assert "w1 was not heard of" in str(bench.job(dead).error_message)
    bench.hurry()
    assert claimed(bench, "w1").id == dead
    silence(bench, "w1")
    assert registry.rescue(bench.services, minute) == 1
    assert bench.status(dead) == "failed", "a job that kills its workers ends"
    assert registry.rescue(bench.services, minute) == 0


def test_two_who_rescue_crosswise_dont_deadlock(bench: Bench, worker: str) -> None:
    """The workers that are counted on are locked in one order."""
    enlist(bench, "w2")
    bench.enqueue(bench.add_images(4))
    for holder in ("w1", "w2", "w2", "w1"):
        claimed(bench, holder)
    silence(bench, "w1")
    silence(bench, "w2")
    done: list[str] = []
    with connect(bench.database.app) as one, connect(bench.database.app) as two:

        def rescue(connection: Connection, most: int) -> None:
            rows(connection, "select rescue_jobs('1 minute', %s)", [most])

        def first() -> None:
            until(lambda: waiting(bench) or "two has some" in done, "the other has some or waits")
            rescue(one, 2)
            one.commit()
            done.append("one has ended")

        def second() -> None:
            rescue(two, 2)
            done.append("two has some")
            until(lambda: waiting(bench) or "one has ended" in done, "the other waits or has ended")
            rescue(two, 4)
            two.commit()

        rescue(one, 1)
        assert side_by_side(first, second) == []
    assert bench.value("select count(*) from processing_queue where status = 'retrying'") == 4


# ── what people do ───────────────────────────────────────────────────────────────────────


def test_cancelling_what_waits_runs_or_failed(bench: Bench, worker: str) -> None:
    running, waiting, failed, done = bench.add_images(4)
    ids = bench.enqueue([done, failed, running])
    leases.complete(bench.services, claimed(bench), completion())
    leases.fail(bench.services, claimed(bench), "no image", again=False)
    held = claimed(bench)
    last = bench.enqueue(waiting)
    taken = jobs.cancel(bench.services, [*ids, last, 10**9], reason="not needed")
    assert taken == sorted([ids[1], ids[2], last])
    assert bench.status(ids[0]) == "completed"
    with pytest.raises(LeaseLostError):
        leases.complete(bench.services, held, completion())
    assert [image_status(bench, i) for i in (running, waiting)] == ["failed", "pending"]
    assert bench.value("select failure_reason from images where id = %s", [running]) == "not needed"
    events = "select count(*) from security_audit where resource_type = 'job'"
    assert bench.value(events) == 3


def test_an_image_that_has_a_result_has_it_still_when_a_further_job_is_cancelled(
    bench: Bench, worker: str
) -> None:
    image = bench.add_image()
    bench.enqueue(image)
    leases.complete(bench.services, claimed(bench), completion())
    further = bench.enqueue(image, use_cache=False)
    assert image_status(bench, image) == "pending"
    jobs.cancel(bench.services, [further])
    assert image_status(bench, image) == "completed"


def test_failed_jobs_are_retried_with_all_their_tries(bench: Bench, worker: str) -> None:
    image, gone, anew = bench.add_images(3)
    ids = bench.enqueue([image, gone, anew], max_retries=1)
    for job in ids:
        leases.fail(bench.services, claimed(bench), "no", again=False)
        assert bench.status(job) == "failed"
    bench.owner.execute("update images set analysis_status = 'archived' where id = %s", [gone])
    bench.enqueue(anew)
    assert jobs.retry(bench.services, ids) == [ids[0]]
    state = bench.job(ids[0])
    assert (state.status, state.retry_count) == ("retrying", 0)
    assert image_status(bench, image) == "pending"
    other, again = claimed(bench), claimed(bench)
    assert (other.image_id, again.id) == (anew, ids[0])
    leases.complete(bench.services, again, completion())
    assert image_status(bench, image) == "completed"


def test_purging_removes_what_ended_long_ago(bench: Bench, worker: str) -> None:
    old, young, waiting = bench.enqueue(bench.add_images(3))
    leases.complete(bench.services, claimed(bench), completion())
    leases.complete(bench.services, claimed(bench), completion())
    bench.owner.execute(
        "update processing_queue set completed_at = now() - interval '40 days' where id = %s",
        [old],
    )
    assert queue.purge(bench.services, timedelta(days=30)) == 1
    assert [job.id for job in jobs.list_jobs(bench.services)] == [waiting, young]
    assert bench.value("select count(*) from analysis_results") == 2
    with pytest.raises(InvalidInputError, match="negative"):
        queue.purge(bench.services, timedelta(days=-1))


def test_lists_summary_and_progress(bench: Bench, worker: str) -> None:
    images = bench.add_images(4)
    ids = bench.enqueue(images)
    leases.complete(bench.services, claimed(bench), completion())
    leases.fail(bench.services, claimed(bench), "no", again=False)
    claimed(bench)
    listed = [job.id for job in jobs.list_jobs(bench.services, limit=2)]
    assert listed == [ids[3], ids[2]]
    older = jobs.list_jobs(bench.services, before=listed[-1])
    assert [job.id for job in older] == [ids[1], ids[0]]
    assert [j.id for j in jobs.list_jobs(bench.services, statuses=["failed"])] == [ids[1]]
    assert [j.id for j in jobs.list_jobs(bench.services, image=images[0])] == [ids[0]]
    with pytest.raises(InvalidInputError, match="'done'"):
        jobs.list_jobs(bench.services, statuses=["done"])
    with pytest.raises(NotFoundError, match="no job 99"):
        jobs.show(bench.services, 99)
    state = jobs.progress(bench.services)
    assert state == jobs.Progress(queued=1, processing=1, completed=1, failed=1)
    assert (state.open, state.ended) == (2, 2)
    later = jobs.progress(bench.services, since=datetime.now(UTC) + timedelta(hours=1))
    assert later == jobs.Progress(queued=1, processing=1)
    summary = {row.status: row.job_count for row in jobs.summary(bench.services)}
    assert list(summary) == ["queued", "processing", "completed", "failed", "retrying", "cancelled"]
    assert list(summary.values()) == [1, 1, 1, 1, 0, 0]


# ── the command line ─────────────────────────────────────────────────────────────────────


def test_all_that_is_pending_is_asked_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("negspace.cli.jobs._PAGE", 2)
    images = bench.add_images(5)
    bench.add_image(user=bench.add_user("eve@example.org"))
    bench.owner.execute("update images set analysis_status = 'failed' where id = %s", [images[1]])
    pending = ("--as", "ada@example.org", "jobs", "enqueue", "--pending")
    asked = bench.cli(*pending, "--json").json
    assert [one["image_id"] for one in asked] == [images[0], *images[2:]]
    assert bench.cli("jobs", "enqueue", "--pending").status == 2, "whose?"
    for which in ((), ("--pending", "1")):
        assert "which images?" in bench.cli("jobs", "enqueue", *which).err
    bench.owner.execute(
        "update images set analysis_status = 'failed' where analysis_status = 'pending'"
    )
    assert bench.cli(*pending).out == "no image is pending\n"


def test_the_command_line(bench: Bench, worker: str) -> None:
    images = bench.add_images(3)
    numbers = [str(image) for image in images]
    asked = bench.cli(
        "--as", "ada@example.org", "jobs", "enqueue", *numbers, "--profile", "astronomy",
        "--set", "background_k=4", "--priority", "7", "--at", "2h", "--json",
    )  # fmt: skip
    assert [one["outcome"] for one in asked.json] == ["queued"] * 3
    first = asked.json[0]["job_id"]
    shown = bench.cli("jobs", "show", str(first), "--json").json
    assert (shown["user_id"], shown["priority"]) == (bench.user, 7)
    assert shown["algorithm_parameters"]["background_k"] == 4
    assert bench.cli("jobs", "enqueue", "999").status == 1
    assert bench.cli("jobs", "enqueue", numbers[0], "--priority", "11").status == 2
    assert bench.cli("jobs", "enqueue", numbers[0], "--profile", "astrology").status == 2
    assert bench.cli("jobs", "enqueue", numbers[0], "--set", "sigma").status == 2

    cancelled = bench.cli("jobs", "cancel", str(first), "998", "--json")
    assert (cancelled.status, cancelled.json) == (1, {"changed": [first], "unchanged": [998]})
    assert bench.cli("jobs", "retry", str(first)).status == 1
    assert "cancelled" in bench.cli("jobs", "list").out
    listed = bench.cli("jobs", "list", "--status", "queued", "-n", "1", "--json").json
    assert [job["id"] for job in listed] == [first + 2]
    status = bench.cli("jobs", "status", "--json").json
    assert {row["status"]: row["job_count"] for row in status["summary"]}["queued"] == 2
    assert [one["id"] for one in status["workers"]] == [worker]
    assert "running: 1 worker\n" in bench.cli("jobs", "status").out
    limit = bench.cli("jobs", "limit", "2", "--group", "night", "--json").json
    assert limit == {"job_group": "night", "max_running": 2, "running": 0}
    [stands] = bench.cli("jobs", "status", "--json").json["limits"]
    assert stands == {"user_email": None} | limit
    assert "night" in bench.cli("jobs", "status").out
    assert "whose jobs?" in bench.cli("jobs", "limit", "2").err
    assert worker in bench.cli("worker", "list").out

    bench.owner.execute(
        "update processing_queue set completed_at = completed_at - interval '9 days'"
        " where status = 'cancelled'"
    )
    purge = ("jobs", "purge", "--older-than", "7d")
    assert bench.cli(*purge, "--dry-run", "--json").json == {"jobs": 1, "removed": False}
    refused = bench.cli(*purge)
    assert (refused.status, "--yes" in refused.err) == (4, True)
    assert "removed 1 job\n" in bench.cli(*purge, "--yes").out
