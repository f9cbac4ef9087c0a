"""The reference: the claim that most people write, joined to its update, in batches of 500."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, LiteralString

import listening
import psycopg
from line import answer, go, serve
from listening import NOTIFY
from psycopg.types.json import Jsonb

BATCH = 500
CLAIM: LiteralString = """
    with next as (
        select id from bench_jobs
        where status = 'queued' and scheduled_at <= now()
        order by priority desc, scheduled_at, id
        limit %s
        for update skip locked
    )
    update bench_jobs q
    set status = 'processing', started_at = now(), attempt = attempt + 1, worker = 'reference'
    from next
    where q.id = next.id
    returning q.id, q.payload
"""
FINISH: LiteralString = (
    "update bench_jobs set status = 'completed', completed_at = now() where id = any (%s)"
)


def prepare(address: str, _: int) -> None:
    with psycopg.connect(address) as connection:
        connection.execute(Path(__file__).with_name("reference.sql").read_bytes())
    answer()


def enqueue(address: str, count: int) -> None:
    with psycopg.connect(address) as connection, connection.cursor() as cursor:
        connection.execute("select")
        go()
        with cursor.copy("copy bench_jobs (payload) from stdin") as copy:
            for n in range(count):
                copy.write_row((Jsonb({"image": n}),))
        connection.commit()
        answer(count)


def finish(connection: psycopg.Connection, held: Sequence[Any]) -> None:
    connection.execute(FINISH, [[row[0] for row in held]])


def drain(address: str, _: int) -> None:
    done = 0
    with psycopg.connect(address, autocommit=True) as connection:
        go()
        while held := connection.execute(CLAIM, [BATCH]).fetchall():
            finish(connection, held)
            done += len(held)
        answer(done)


def latency(address: str, count: int) -> None:
    worker = psycopg.connect(address, autocommit=True)
    with psycopg.connect(address) as connection:

        def enqueue_one(n: int) -> None:
            connection.execute("insert into bench_jobs (payload) values (%s)", [Jsonb({"n": n})])
            connection.execute(NOTIFY)
            connection.commit()

        listening.latency(
            worker,
            count,
            claim=lambda: worker.execute(CLAIM, [1]).fetchall(),
            finish=lambda held: finish(worker, held),
            enqueue=enqueue_one,
        )


if __name__ == "__main__":
    serve({"prepare": prepare, "enqueue": enqueue, "drain": drain, "latency": latency})
