"""Ours: the queue's public functions, as a service and a worker call them.

``drain`` does what a worker does for each job except the analysis: result, job, image, audit
event, metrics and cache entry, in one transaction a batch. ``drain-bare`` ends jobs whose result
is there already, which is nearer to what the peers do.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, LiteralString

from line import PAUSE, Starts, answer, go, serve

from negspace import jobs
from negspace.database import Database, Jsonb, PoolSize, connect, rows

BATCH = 500
WANTED = jobs.Wanted("negative_space", "1.0.0", {"sigma_px": 2})
ALGORITHMS = ["negative_space@1.0.0"]
RESULT = {
    "negative_space_data": {"schema": "negspace.benchmark/1", "negative_space_ratio": 0.5},
    "anomalies": [],
    "confidence_score": 0.9,
    "processing_time_ms": 1,
    "performance_stats": {"megapixels": 12},
}


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
    ours, starts, started, over = Ours(address), Starts(), threading.Event(), threading.Event()

    def work() -> None:
        pause = 0.05
        while not over.is_set():
            if held := ours.claim(1):
                starts.started()
                ours.complete(held)
                pause = 0.05
                started.set()
                continue
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, 1.0)

    wanted = images(address, count)
    worker = threading.Thread(target=work)
    with Database(address, pool=PoolSize(1, 1)) as database:
        go()
        worker.start()
        for image in wanted:
            time.sleep(PAUSE)
            starts.come()
            jobs.enqueue(database, [image], WANTED)
            started.wait(30)
            started.clear()
    over.set()
    worker.join()
    answer(count, ms=starts.ms)


if __name__ == "__main__":
    serve(
        {
            "enqueue": enqueue,
            "copy": copy,
            "drain": draining(bare=False),
            "drain-bare": draining(bare=True),
            "latency": latency,
        }
    )
