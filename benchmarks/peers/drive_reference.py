"""The reference: the claim that most people write, joined to its update, in batches of 500."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import LiteralString

import psycopg
from line import PAUSE, Starts, answer, go, serve
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


def drain(address: str, _: int) -> None:
    done = 0
    with psycopg.connect(address, autocommit=True) as connection:
        go()
        while held := connection.execute(CLAIM, [BATCH]).fetchall():
            connection.execute(FINISH, [[row[0] for row in held]])
            done += len(held)
        answer(done)


def latency(address: str, count: int) -> None:
    starts, started = Starts(), threading.Event()
    worker = psycopg.connect(address, autocommit=True)
    worker.execute("listen bench_jobs")

    def work() -> None:
        for _ in range(count):
            while not (held := worker.execute(CLAIM, [1]).fetchall()):
                for _ in worker.notifies(timeout=1, stop_after=1):
                    pass
            starts.started()
            worker.execute(FINISH, [[held[0][0]]])
            started.set()

    thread = threading.Thread(target=work)
    with psycopg.connect(address) as connection:
        go()
        thread.start()
        for n in range(count):
            time.sleep(PAUSE)
            starts.come()
            connection.execute("insert into bench_jobs (payload) values (%s)", [Jsonb({"n": n})])
            connection.execute("notify bench_jobs")
            connection.commit()
            started.wait(30)
            started.clear()
    thread.join()
    answer(count, ms=starts.ms)


if __name__ == "__main__":
    serve({"prepare": prepare, "enqueue": enqueue, "drain": drain, "latency": latency})
