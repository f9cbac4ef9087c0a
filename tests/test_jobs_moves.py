"""Jobs that end, come back or are taken back while somebody else has begun to look at them.

A job that ends moves to another partition. To a statement that began before, PostgreSQL reports
that as error 40001, whatever the statement would have skipped; no caller is to see it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, LiteralString

import pytest

from bench import Bench, until
from negspace.database import Connection, Jsonb, connect, rows
from negspace.errors import NegspaceError
from queue_steps import ALL, enlist

RESULT = {
    "negative_space_data": {"schema": "rehearsal/1"},
    "confidence_score": 0.5,
    "processing_time_ms": 12,
}
WAITS = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and pid = %s"

# A row policy is evaluated for each row that a statement reads, after its snapshot was taken and
# before the row is locked: the one place where a test can stop a statement half-way.
PAUSE = """
    create sequence looks;
    create function paused() returns boolean language plpgsql as $$
    begin
        if nextval('looks') = {look} then
            perform pg_advisory_xact_lock(42);
        end if;
        return true;
    end $$;
    grant all on sequence looks to public;
    alter table {table} enable row level security, force row level security;
    create policy pause on {table} using (paused()) with check (true);
"""


@pytest.fixture
def worker(bench: Bench) -> str:
    return enlist(bench)


def claim(connection: Connection, count: int, worker: str = "w1") -> list[dict[str, Any]]:
    query = "select id as job, attempt, lease_token::text as token from claim_jobs(%s, %s, %s)"
    return rows(connection, query, [worker, count, list(ALL)])


def complete(connection: Connection, held: list[dict[str, Any]]) -> list[str]:
    ends = Jsonb([RESULT | lease for lease in held])
    return [row["outcome"] for row in rows(connection, "select * from complete_jobs(%s)", [ends])]


def done(connection: Connection, query: LiteralString, *given: Any) -> Any:
    """The one value that a call returns."""
    return next(iter(rows(connection, query, list(given))[0].values()))


@contextmanager
def stopped(
    bench: Bench, table: str, look: int, query: LiteralString, *given: Any
) -> Generator[list[Any]]:
    """Inside the block the query of another session stands still at that look at a row."""
    bench.owner.execute(PAUSE.format(table=table, look=look).encode())
    found: list[Any] = []
    with connect(bench.database.app) as other:
        pid = done(other, "select pg_backend_pid()")

        def ask() -> None:
            try:
                found.extend(rows(other, query, list(given)))
            except NegspaceError as error:
                found.append(error)

        thread = threading.Thread(target=ask)
        bench.owner.execute("select pg_advisory_lock(42)")
        thread.start()
        try:
            until(lambda: done(bench.owner, WAITS, pid), "the other session stands still")
            yield found
        finally:
            bench.owner.execute("select pg_advisory_unlock(42)")
            thread.join(40)
        assert not thread.is_alive()


def test_a_claim_passes_by_jobs_that_end_while_it_looks(bench: Bench, worker: str) -> None:
    ids = bench.enqueue(bench.add_images(3))
    query = "select id from claim_jobs('w1', 3, %s)"
    # the sweep looks at the first job, the choice at all three, and then they are locked
    with stopped(bench, "processing_queue_hot", 5, query, list(ALL)) as found:
        assert done(bench.owner, "select cancel_jobs(%s)", ids[:2]) == ids[:2]
    assert found == [{"id": ids[2]}]


def test_a_claim_passes_by_the_one_job_that_ends_while_it_looks(bench: Bench, worker: str) -> None:
    [job] = bench.enqueue(bench.add_images(1))
    query = "select id from claim_work('w1', 1, %s)"
    # the sweep looks at it, the first look finds it, and then it is locked
    with stopped(bench, "processing_queue_hot", 3, query, list(ALL)) as found:
        assert done(bench.owner, "select cancel_jobs(%s)", [job]) == [job]
    assert found == []


def test_a_purge_passes_by_jobs_that_are_tried_again_meanwhile(bench: Bench, worker: str) -> None:
    ids = bench.enqueue(bench.add_images(2))
    with connect(bench.database.app, autocommit=True) as connection:
        ends = [lease | {"again": False} for lease in claim(connection, 2)]
        rows(connection, "select fail_jobs(%s)", [Jsonb(ends)])
    with stopped(bench, "processing_queue_ended", 1, "select purge_jobs('0')") as found:
        assert done(bench.owner, "select retry_jobs(%s)", ids[:1]) == ids[:1]
    assert found == [{"purge_jobs": 1}]
    left = bench.all("select id, status::text from processing_queue")
    assert left == [{"id": ids[0], "status": "retrying"}]


ENDS: dict[str, tuple[LiteralString, Callable[[dict[str, Any]], list[Any]], Any]] = {
    "complete": ("select (complete_jobs(%s)).outcome", lambda h: [Jsonb([RESULT | h])], "lost"),
    "answer": ("select (answer_jobs(%s)).outcome", lambda h: [Jsonb([h])], "lost"),
    "fail": ("select (fail_jobs(%s)).outcome", lambda h: [Jsonb([h])], "lost"),
    "give back": ("select (fail_jobs(%s, false)).outcome", lambda h: [Jsonb([h])], "lost"),
    "count its death": (
        "select jsonb_array_length(count_deaths(%s))", lambda h: [Jsonb([h])], 1,
    ),
    "cancel": ("select cancel_jobs(%s)", lambda h: [[h["job"]]], []),
    "try again": ("select retry_jobs(%s)", lambda h: [[h["job"]]], []),
    "rescue": ("select rescue_jobs('1 microsecond')", lambda _: [], 0),
    "claim": ("select count(*) from claim_jobs('w1', 5)", lambda _: [], 0),
}  # fmt: skip


@pytest.mark.parametrize("verb", ENDS)
@pytest.mark.parametrize("ending", ["complete", "cancel"])
def test_whoever_comes_while_a_job_ends_finds_it_ended(
    bench: Bench, worker: str, verb: str, ending: str
) -> None:
    [job] = bench.enqueue(bench.add_images(1))
    query, given, expected = ENDS[verb]
    found: list[Any] = []
    with connect(bench.database.app) as first, connect(bench.database.app) as second:
        [held] = claim(first, 1)
        first.commit()
        if ending == "complete":
            assert complete(first, [held]) == ["completed"]
        else:
            assert done(first, "select cancel_jobs(%s)", [job]) == [job]
        pid = done(second, "select pg_backend_pid()")
        thread = threading.Thread(target=lambda: found.append(done(second, query, *given(held))))
        thread.start()
        # some wait for it, some pass it by: both are seen before it is over
        until(lambda: found or done(bench.owner, WAITS, pid), "it waits, or passes it by")
        first.commit()
        thread.join(40)
    assert not thread.is_alive()
    assert found == [expected]
    status = "completed" if ending == "complete" else "cancelled"
    assert bench.all("select status::text from processing_queue") == [{"status": status}]


def test_a_heartbeat_while_a_job_is_taken_back_still_lists_it(bench: Bench, worker: str) -> None:
    [job] = bench.enqueue(bench.add_images(1))
    with connect(bench.database.app) as first, connect(bench.database.app) as second:
        claim(first, 1)
        first.commit()
        assert done(first, "select cancel_jobs(%s)", [job]) == [job]
        assert done(second, "select heartbeat('w1')") == [job]
        first.commit()
        assert done(second, "select heartbeat('w1')") == []


@pytest.mark.parametrize(
    "query", ["select fail_overdue_jobs()", "select count(*) from claim_jobs('w1', 5)"]
)
def test_whoever_comes_while_a_waiting_job_is_taken_back_passes_it_by(
    bench: Bench, worker: str, query: LiteralString
) -> None:
    [job] = bench.enqueue(bench.add_images(1))
    bench.owner.execute("update processing_queue_hot set deadline_at = now() - interval '1 s'")
    with connect(bench.database.app) as first, connect(bench.database.app) as second:
        assert done(first, "select cancel_jobs(%s)", [job]) == [job]
        assert done(second, query) == 0
        first.commit()
        assert done(second, query) == 0
    assert bench.all("select status::text from processing_queue") == [{"status": "cancelled"}]


def test_two_drains_beside_each_other_and_a_hand_that_cancels(bench: Bench, worker: str) -> None:
    ids = bench.enqueue(bench.add_images(160))
    raised: list[NegspaceError] = []
    over = threading.Event()

    def drain() -> None:
        try:
            with connect(bench.database.app, autocommit=True) as connection:
                while held := claim(connection, 8):
                    complete(connection, held)
        except NegspaceError as error:
            raised.append(error)

    def cancel() -> None:
        try:
            with connect(bench.database.app, autocommit=True) as connection:
                for job in reversed(ids):
                    if over.is_set():
                        return
                    done(connection, "select cancel_jobs(%s)", [job])
        except NegspaceError as error:
            raised.append(error)

    drains = [threading.Thread(target=drain) for _ in range(2)]
    hand = threading.Thread(target=cancel)
    for thread in (*drains, hand):
        thread.start()
    for thread in drains:
        thread.join(60)
    over.set()
    hand.join(60)
    assert raised == []
    counted = "select status::text, count(*) as n from processing_queue group by 1"
    found = {row["status"]: row["n"] for row in bench.all(counted)}
    assert set(found) <= {"completed", "cancelled"}
    assert sum(found.values()) == len(ids)
    assert bench.value("select count(*) from analysis_results") == found["completed"]
    events = "select count(*) from security_audit where action = 'run_analysis'"
    assert bench.value(events) == found["completed"]
    assert bench.value("select reconcile_queue_counts()") == 0, "nothing was to be mended"
