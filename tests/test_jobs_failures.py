"""Tries that fail: counted by error, taken from workers that are gone, ended by deadlines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bench import Bench, until
from negspace import jobs, queue
from negspace.errors import InvalidInputError, RefusedError
from negspace.worker import leases, registry
from negspace.worker.leases import Claimed, End
from queue_steps import claimed, enlist

MINUTE = timedelta(minutes=1)


@pytest.fixture
def worker(bench: Bench) -> str:
    return enlist(bench)


def fail(bench: Bench, job: Claimed, error: str, **more: Any) -> None:
    leases.finish(bench.services, "fail", [End(job, "fail", reason="why", error=error, **more)])


def silence(bench: Bench, worker: str) -> None:
    """The worker was last heard of an hour ago."""
    past = "now() - interval '1 hour'"
    for change in (
        f"update workers set heartbeat_at = {past} where id = %s",
        f"update processing_queue set started_at = {past} where worker_id = %s",
    ):
        bench.owner.execute(change.encode(), [worker])


# ── by error ─────────────────────────────────────────────────────────────────────────────


def test_failures_are_counted_by_error_and_outlive_their_jobs(bench: Bench, worker: str) -> None:
    bench.enqueue(bench.add_images(3), max_retries=1)
    first, second, third = (claimed(bench) for _ in range(3))
    fail(bench, first, "ImageError", again=False)
    fail(bench, second, "not a name; drop table")
    leases.finish(bench.services, "give_back", [End(third, "give_back", reason="stopped")])
    bench.hurry()
    for _ in range(2):  # the one given back, and the second try of the other
        fail(bench, claimed(bench), "ImageError", again=False)

    def counted(**more: Any) -> dict[str, tuple[int, int]]:
        found = queue.failures(bench.services, **more)
        return {one.error_class: (one.tries, one.jobs) for one in found}

    expected = {"ImageError": (3, 3), "Unknown": (1, 0)}
    assert counted() == expected, "what was given back is no failure"
    assert bench.value("select fold_job_failures()") == 4
    assert bench.value("select count(*) from job_failures") == 2
    assert counted() == expected
    assert queue.purge(bench.services, timedelta(0)) == 3
    fail(bench, _another(bench), "ImageError", again=False)
    bench.owner.execute("select fold_job_failures()")
    assert counted() == expected | {"ImageError": (4, 4)}
    assert counted(since=datetime.now(UTC)) == counted()
    assert counted(since=datetime.now(UTC) + timedelta(hours=2)) == {}


def _another(bench: Bench) -> Claimed:
    bench.enqueue(bench.add_image())
    return claimed(bench)


# ── workers that are gone ────────────────────────────────────────────────────────────────


def test_what_a_lost_worker_had_not_begun_costs_no_try(bench: Bench, worker: str) -> None:
    begun, held = bench.enqueue(bench.add_images(2))
    for _ in range(2):
        claimed(bench)
    leases.say_computing(bench.services, worker, [begun])
    silence(bench, worker)
    assert registry.rescue(bench.services, MINUTE) == 2
    assert [bench.job(job).retry_count for job in (begun, held)] == [1, 0]
    [counted] = queue.failures(bench.services)
    assert (counted.error_class, counted.tries, counted.jobs) == ("WorkerLost", 1, 0)
    # A job that ends its worker before that can say so is not believed for ever.
    for tries in (0, 1):
        registry.beat(bench.services, worker)
        bench.owner.execute("update processing_queue set priority = 10 where id = %s", [held])
        assert claimed(bench).id == held
        silence(bench, worker)
        assert registry.rescue(bench.services, MINUTE) == 1
        assert bench.job(held).retry_count == tries


def test_a_worker_that_doesnt_say_what_it_computes_has_begun_all(bench: Bench, worker: str) -> None:
    job = bench.enqueue(bench.add_image())
    claimed(bench)
    silence(bench, worker)
    assert registry.rescue(bench.services, MINUTE) == 1
    assert bench.job(job).retry_count == 1


def test_after_the_clock_was_set_back_a_lost_worker_is_still_noticed(
    bench: Bench, worker: str
) -> None:
    job = bench.enqueue(bench.add_image())
    claimed(bench)
    ahead = "now() + interval '1 hour'"
    bench.owner.execute(f"update workers set heartbeat_at = {ahead}".encode())
    bench.owner.execute(f"update processing_queue set started_at = {ahead}".encode())
    for _ in range(2):  # it may live: it is given the time of a lease, from now on
        assert registry.rescue(bench.services, MINUTE) == 0
    bench.owner.execute("update workers set heartbeat_at = heartbeat_at - interval '2 minutes'")
    assert registry.rescue(bench.services, MINUTE) == 1, "not in an hour"
    assert bench.status(job) == "retrying"


# ── deadlines ────────────────────────────────────────────────────────────────────────────


def test_a_running_job_is_stopped_at_its_deadline(bench: Bench) -> None:
    bench.start()
    first = bench.enqueue(bench.add_image())
    until(lambda: bench.status(first) == "completed", "its worker is warm")
    soon = datetime.now(UTC) + timedelta(seconds=8)
    late = bench.enqueue(bench.add_image(), behave="hold", deadline_at=soon)
    until(lambda: bench.status(late) == "failed", "the job is stopped")
    assert "not done by its deadline" in str(bench.job(late).error_message)
    assert bench.job(late).retry_count == 0, "another try would be later still"
    [counted] = queue.failures(bench.services)
    assert (counted.error_class, counted.jobs) == ("DeadlinePassed", 1)


def test_a_claimed_job_knows_how_long_it_has(bench: Bench, worker: str) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    bench.enqueue(bench.add_image(), deadline_at=soon)
    assert not claimed(bench).is_overdue()
    bench.enqueue(bench.add_image(), deadline_at=soon)
    held = claimed(bench)
    assert held.deadline is not None
    assert Claimed(**vars(held) | {"deadline": held.deadline - 3601}).is_overdue()
    bench.enqueue(bench.add_image())
    assert claimed(bench).deadline is None


def test_a_job_whose_deadline_has_passed_needs_a_new_one(bench: Bench, worker: str) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    late, other = bench.enqueue(bench.add_images(2), deadline_at=soon)
    for _ in range(2):
        fail(bench, claimed(bench), "ImageError", again=False)
    past = "update processing_queue set deadline_at = now() - interval '1 s' where id = %s"
    bench.owner.execute(past, [late])
    with pytest.raises(RefusedError, match=f"the deadline of job {late}") as refused:
        jobs.retry(bench.services, [other, late])
    assert "--deadline" in str(refused.value.hint)
    assert (bench.status(late), bench.status(other)) == ("failed", "failed")
    with pytest.raises(InvalidInputError, match="over already"):
        jobs.retry(bench.services, [late], deadline_at=datetime.now(UTC) - MINUTE)
    assert bench.cli("jobs", "retry", str(late)).status != 0
    assert bench.cli("jobs", "retry", str(late), "--deadline", "1h").status == 0
    assert jobs.retry(bench.services, [other]) == [other], "its own is still ahead"
    assert {claimed(bench).id, claimed(bench).id} == {late, other}


def test_of_equal_jobs_that_failed_one_is_tried_again(bench: Bench, worker: str) -> None:
    image = bench.add_image()
    first = bench.enqueue(image)
    fail(bench, claimed(bench), "ImageError", again=False)
    second = bench.enqueue(image)
    fail(bench, claimed(bench), "ImageError", again=False)
    assert jobs.retry(bench.services, [second, first]) == [first]
