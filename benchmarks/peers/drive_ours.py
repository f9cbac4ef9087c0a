"""Ours: the queue's public functions, as a service and a worker call them.

``drain`` does what a worker does for each job except the analysis: result, job, image, audit
event, metrics and cache entry, in one transaction a batch. ``drain-bare`` ends jobs whose result
is there already, which is nearer to what the peers do.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, LiteralString

from line import ALGORITHM, PARAMETERS, PAUSE, RESULT, VERSION, Starts, answer, go, serve

from negspace import jobs
from negspace.database import Database, Jsonb, PoolSize, connect, rows
from negspace.errors import NegspaceError
from negspace.worker import Options
from negspace.worker.claimer import Claimer
from negspace.worker.leases import Claimed
from negspace.worker.reach import Identity

BATCH = 500
WANTED = jobs.Wanted(ALGORITHM, VERSION, PARAMETERS)
ALGORITHMS = [f"{ALGORITHM}@{VERSION}"]
ENQUEUE: LiteralString = "select outcome from enqueue_jobs(%s)"
WRITERS = 32
EXPECTED: LiteralString = (
    "select id, estimated_completion_at as at, completed_at from processing_queue"
    " where id = any (%s)"
)
LEARNED = 20  # jobs that end before the estimates are looked at


class Ours:
    """A worker's steps, in batches; one place to change when the functions do."""

    CLAIM: LiteralString = "select id, attempt, lease_token from claim_jobs(%s, %s, %s)"
    COMPLETE: LiteralString = "select complete_jobs(%s)"
    COMPLETE_BARE: LiteralString = "select answer_jobs(%s)"
    COMPLETE_EACH: LiteralString = (
        "select complete_job((e ->> 'job')::bigint, (e ->> 'token')::uuid,"
        " e -> 'negative_space_data', '[]', 0.9, 1, performance_stats => e -> 'performance_stats')"
        " from jsonb_array_elements(%s) e"
    )
    COMPLETE_BARE_EACH: LiteralString = (
        "select complete_job_from_cache((e ->> 'job')::bigint, (e ->> 'token')::uuid)"
        " from jsonb_array_elements(%s) e"
    )

    def __init__(self, address: str) -> None:
        self.name = f"benchmark-{os.getpid()}"
        self.connection = connect(address, autocommit=True)
        self.connection.execute(
            "select register_worker(%s, 'localhost', %s, %s)",
            [self.name, os.getpid(), ALGORITHMS],
        )

        found = rows(self.connection, "select to_regproc('complete_jobs') is not null as batches")
        if not found[0]["batches"]:
            self.COMPLETE, self.COMPLETE_BARE = self.COMPLETE_EACH, self.COMPLETE_BARE_EACH

    def claim(self, how_many: int = BATCH) -> list[dict[str, Any]]:
        return rows(self.connection, self.CLAIM, [self.name, how_many, ALGORITHMS])

    def complete(self, held: Sequence[dict[str, Any]]) -> None:
        self.connection.execute(self.COMPLETE, [ends(held, RESULT)])

    def complete_bare(self, held: Sequence[dict[str, Any]]) -> None:
        self.connection.execute(self.COMPLETE_BARE, [ends(held, {})])


def ends(held: Sequence[dict[str, Any]], result: dict[str, Any]) -> Jsonb:
    """The ends of jobs, as the functions take them."""
    return Jsonb(
        [
            {"job": job["id"], "attempt": job["attempt"], "token": str(job["lease_token"])} | result
            for job in held
        ]
    )


def images(address: str, count: int) -> list[int]:
    with connect(address) as connection:
        found = rows(connection, "select id from images order by id limit %s", [count])
    return [row["id"] for row in found]


def enqueue(address: str, count: int) -> None:
    wanted = images(address, count)
    with Database(address, pool=PoolSize(1, 1)) as database:
        with database.transaction() as connection:
            connection.execute("select")
        go()
        queued = jobs.enqueue(database, wanted, WANTED)
        answer(len(queued))


def draining(bare: bool) -> Callable[[str, int], None]:
    def drain(address: str, _: int) -> None:
        ours = Ours(address)
        done = 0
        go()
        while held := ours.claim():
            (ours.complete_bare if bare else ours.complete)(held)
            done += len(held)
        answer(done)

    return drain


def copy(address: str, count: int) -> None:
    """The bound: what enqueue_jobs writes, written by a plain COPY."""
    wanted = images(address, count)
    parameters = Jsonb(dict(WANTED.algorithm_parameters))
    with connect(address) as connection, connection.cursor() as cursor:
        user = rows(connection, "select min(id) as id from users")[0]["id"]
        go()
        with cursor.copy(
            "copy processing_queue (image_id, user_id, algorithm_name, algorithm_version,"
            " algorithm_parameters, priority, max_retries, complexity_score,"
            " processing_metadata) from stdin"
        ) as to:
            for image in wanted:
                row = (image, user, WANTED.algorithm_name, WANTED.algorithm_version)
                to.write_row((*row, parameters, 5, 3, 12, "{}"))
        connection.commit()
        answer(count)


def latency(address: str, count: int) -> None:
    """With the claimer that workers have: it listens, and looks when it is told."""
    starts, started, held = Starts(), threading.Event(), list[Claimed]()
    ours = Ours(address)
    options = Options()
    identity = Identity(ours.name, tuple(ALGORITHMS), address, options)

    def claimed(found: Sequence[Claimed]) -> None:
        starts.started()
        held[:] = found
        started.set()

    def failed(error: NegspaceError) -> None:
        raise error

    claimer = Claimer(identity, claimed, drained=lambda: None, failed=failed)
    wanted = images(address, count + 1)
    with Database(address, pool=PoolSize(1, 1)) as database:
        claimer.start()
        claimer.want(1)
        go()
        time.sleep(2 * options.poll)  # until it has found out that it is told
        for image in wanted:
            time.sleep(PAUSE)
            starts.come()
            jobs.enqueue(database, [image], WANTED)
            started.wait(30)
            started.clear()
            ours.complete(
                [{"id": h.id, "attempt": h.attempt, "lease_token": h.token} for h in held]
            )
            claimer.want(1)
    claimer.stop()
    claimer.join()
    answer(count, ms=starts.ms[1:])


def writing(sleeper: bool) -> Callable[[str, int], None]:
    """Many who enqueue one job a transaction, while a worker sleeps and nothing wakes it."""

    def write(address: str, count: int) -> None:
        wanted = images(address, count)
        if sleeper:
            ours = Ours(address)
            ours.connection.execute("listen negspace_jobs")
            ours.connection.execute("select rest_worker(%s, true)", [ours.name])
        ready = threading.Barrier(WRITERS + 1)

        def write_some(mine: Sequence[int]) -> None:
            with connect(address, autocommit=True) as connection:
                connection.execute("select")
                ready.wait()
                for image in mine:
                    connection.execute(ENQUEUE, [[image]])

        threads = [
            threading.Thread(target=write_some, args=(wanted[n::WRITERS],)) for n in range(WRITERS)
        ]
        for thread in threads:
            thread.start()
        go()
        ready.wait()
        for thread in threads:
            thread.join()
        answer(count)

    return write


def estimate(address: str, count: int) -> None:
    """Jobs of 20 ms one after another: how far from their end they were expected to end."""
    ours = Ours(address)
    wanted = images(address, count + LEARNED)
    result = RESULT | {"processing_time_ms": 20}

    def work() -> None:
        while held := ours.claim(1):
            time.sleep(0.02)
            ours.connection.execute(ours.COMPLETE, [ends(held, result)])

    with Database(address, pool=PoolSize(1, 1)) as database:
        go()
        jobs.enqueue(database, wanted[:LEARNED], WANTED)
        work()
        ours.connection.execute("select measure_algorithms()")
        queued = jobs.enqueue(database, wanted[LEARNED:], WANTED)
        ids = [one.job_id for one in queued]
        first = {row["id"]: row["at"] for row in rows(ours.connection, EXPECTED, [ids])}
        work()
    ended = rows(ours.connection, EXPECTED, [ids])
    errors = {
        "when it was asked for": [abs(first[row["id"]] - row["completed_at"]) for row in ended],
        "when it was begun": [abs(row["at"] - row["completed_at"]) for row in ended],
    }
    medians = {
        when: statistics.median(error.total_seconds() * 1000 for error in found)
        for when, found in errors.items()
    }
    answer(count, **medians)


if __name__ == "__main__":
    serve(
        {
            "enqueue": enqueue,
            "copy": copy,
            "drain": draining(bare=False),
            "drain-bare": draining(bare=True),
            "latency": latency,
            "writers": writing(sleeper=False),
            "writers-wake": writing(sleeper=True),
            "estimate": estimate,
        }
    )
