"""awa with its COPY enqueue and 500 jobs at a time; it has no drain, so it stops at the count."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import awa
from line import PAUSE, Starts, answer, go, serve


@dataclass
class Nothing:
    image: int


async def prepare(address: str, _: int) -> None:
    await awa.migrate(address)
    client = awa.AsyncClient(address)
    await client.install_queue_storage()
    await client.close()
    answer()


async def enqueue(address: str, count: int) -> None:
    client = awa.AsyncClient(address)
    go()
    await client.enqueue_many_copy([Nothing(n) for n in range(count)])
    answer(count)


async def drain(address: str, _: int) -> None:
    client, done, quiet = awa.AsyncClient(address), 0, asyncio.Event()

    @client.task(Nothing)
    async def nothing(job: object) -> None:
        nonlocal done
        done += 1
        quiet.set()

    go()
    loop = asyncio.get_running_loop()
    await client.start([("default", 500)])
    last = loop.time()
    while True:
        try:
            await asyncio.wait_for(quiet.wait(), 1)
        except TimeoutError:
            break  # nothing for a second, which isn't counted
        last = loop.time()
        quiet.clear()
        await asyncio.sleep(0.005)
    answer(done, idle=loop.time() - last)
    await client.shutdown()


async def latency(address: str, count: int) -> None:
    client, starts, started = awa.AsyncClient(address), Starts(), asyncio.Event()

    @client.task(Nothing)
    async def nothing(job: object) -> None:
        starts.started()
        started.set()

    await client.start([("default", 10)])
    await asyncio.sleep(1)
    go()
    for n in range(count):
        await asyncio.sleep(PAUSE)
        starts.come()
        await client.insert(Nothing(n))
        await started.wait()
        started.clear()
    answer(count, ms=starts.ms)
    await client.shutdown()


def run(verb):
    return lambda address, count: asyncio.run(verb(address, count))


if __name__ == "__main__":
    serve({v.__name__: run(v) for v in (prepare, enqueue, drain, latency)})
