"""How long an idle worker takes to start a job, where the driver's own code listens for jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, LiteralString

import psycopg
from line import PAUSE, Starts, answer, go

NOTIFY: LiteralString = "notify bench_jobs"


def latency(
    worker: psycopg.Connection[Any],
    count: int,
    *,
    claim: Callable[[], Sequence[Any]],
    finish: Callable[[Sequence[Any]], None],
    enqueue: Callable[[int], None],
) -> None:
    """``claim`` and ``finish`` use the worker's connection; ``enqueue`` notifies as it commits."""
    starts, started = Starts(), threading.Event()
    worker.execute("listen bench_jobs")

    def work() -> None:
        for _ in range(count):
            while not (held := claim()):
                for _ in worker.notifies(timeout=1, stop_after=1):
                    pass
            starts.started()
            finish(held)
            started.set()

    thread = threading.Thread(target=work)
    go()
    thread.start()
    for n in range(count):
        time.sleep(PAUSE)
        starts.come()
        enqueue(n)
        started.wait(30)
        started.clear()
    thread.join()
    answer(count, ms=starts.ms)
