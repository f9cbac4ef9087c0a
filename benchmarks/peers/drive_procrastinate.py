"""procrastinate with psycopg, 24 jobs at a time."""

from __future__ import annotations

import asyncio
import logging

from line import PAUSE, Starts, answer, go, serve
from procrastinate import App, PsycopgConnector

logging.getLogger("procrastinate").setLevel(logging.ERROR)


async def prepare(address: str, _: int) -> None:
    async with App(connector=PsycopgConnector(conninfo=address)).open_async() as app:
        await app.schema_manager.apply_schema_async()
    answer()


async def enqueue(address: str, count: int) -> None:
    async with App(connector=PsycopgConnector(conninfo=address)).open_async() as app:

        @app.task(name="nothing")
        async def nothing(image: int) -> None: ...

        go()
        await nothing.batch_defer_async(*({"image": n} for n in range(count)))
        answer(count)


async def drain(address: str, _: int) -> None:
    done = 0
    async with App(connector=PsycopgConnector(conninfo=address)).open_async() as app:

        @app.task(name="nothing")
        async def nothing(image: int) -> None:
            nonlocal done
            done += 1

        go()
        await app.run_worker_async(wait=False, concurrency=24, install_signal_handlers=False)
        answer(done)


async def latency(address: str, count: int) -> None:
    starts, started = Starts(), asyncio.Event()
    async with App(connector=PsycopgConnector(conninfo=address)).open_async() as app:

        @app.task(name="nothing")
        async def nothing(image: int) -> None:
            starts.started()
            started.set()

        worker = asyncio.create_task(app.run_worker_async(install_signal_handlers=False))
        await asyncio.sleep(1)
        go()
        for n in range(count):
            await asyncio.sleep(PAUSE)
            starts.come()
            await nothing.defer_async(image=n)
            await started.wait()
            started.clear()
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    answer(count, ms=starts.ms)


def run(verb):
    return lambda address, count: asyncio.run(verb(address, count))


if __name__ == "__main__":
    serve({v.__name__: run(v) for v in (prepare, enqueue, drain, latency)})
