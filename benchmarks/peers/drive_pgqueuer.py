"""pgqueuer with asyncpg, batches of 500."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
from line import PAUSE, Starts, answer, go, serve
from pgqueuer import AsyncpgDriver, PgQueuer, Queries
from pgqueuer.types import QueueExecutionMode


async def prepare(address: str, _: int) -> None:
    await Queries(AsyncpgDriver(await asyncpg.connect(address))).install()
    answer()


async def enqueue(address: str, count: int) -> None:
    queries = Queries(AsyncpgDriver(await asyncpg.connect(address)))
    go()
    await queries.enqueue(["nothing"] * count, [b"{}"] * count, [0] * count)
    answer(count)


async def drain(address: str, _: int) -> None:
    queue = PgQueuer(AsyncpgDriver(await asyncpg.connect(address)))
    done = 0

    @queue.entrypoint("nothing")
    async def nothing(job: object) -> None:
        nonlocal done
        done += 1

    go()
    await queue.qm.run(batch_size=500, mode=QueueExecutionMode.drain)
    answer(done)


async def latency(address: str, count: int) -> None:
    queue, starts = PgQueuer(AsyncpgDriver(await asyncpg.connect(address))), Starts()
    queries = Queries(AsyncpgDriver(await asyncpg.connect(address)))
    started = asyncio.Event()

    @queue.entrypoint("nothing")
    async def nothing(job: object) -> None:
        starts.started()
        started.set()

    worker = asyncio.create_task(queue.qm.run(dequeue_timeout=timedelta(seconds=1)))
    await asyncio.sleep(1)
    go()
    for _ in range(count):
        await asyncio.sleep(PAUSE)
        starts.come()
        await queries.enqueue("nothing", b"{}")
        await started.wait()
        started.clear()
    queue.qm.shutdown.set()
    await worker
    answer(count, ms=starts.ms)


def run(verb):
    return lambda address, count: asyncio.run(verb(address, count))


if __name__ == "__main__":
    serve({v.__name__: run(v) for v in (prepare, enqueue, drain, latency)})
