"""How a driver is talked to: ``drive_NAME.py VERB ADDRESS COUNT``.

It prepares, says ready, waits for a line, does its work, and answers with one line of JSON.
The time between the two lines is what is measured. The verbs: ``prepare`` makes the schema,
``enqueue`` takes COUNT jobs in, ``drain`` does what there is to do, ``latency`` measures COUNT
times how long an idle worker takes to start a job, in milliseconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PAUSE = 0.03  # seconds that a worker is idle before the next job comes

# What is asked for and what an analysis finds, where the contract is measured.
ALGORITHM, VERSION, PARAMETERS = "negative_space", "1.0.0", {"sigma_px": 2}
RESULT: dict[str, Any] = {
    "negative_space_data": {"schema": "negspace.benchmark/1", "negative_space_ratio": 0.5},
    "anomalies": [],
    "confidence_score": 0.9,
    "processing_time_ms": 1,
    "performance_stats": {"megapixels": 12},
}


@dataclass
class Starts:
    """When jobs came and when they were started."""

    ms: list[float] = field(default_factory=list)
    began: float = 0.0

    def come(self) -> None:
        self.began = time.perf_counter()

    def started(self) -> None:
        self.ms.append((time.perf_counter() - self.began) * 1000)


def go() -> None:
    """Say ready, and wait for the word."""
    print("ready", flush=True)
    sys.stdin.readline()


def answer(jobs: int = 0, **more: object) -> None:
    """Answer, and stay connected until the server's counters are read."""
    print(json.dumps({"jobs": jobs} | more), flush=True)
    sys.stdin.readline()


def serve(verbs: dict[str, Callable[[str, int], None]]) -> None:
    verb, address, count = sys.argv[1:4]
    verbs[verb](address, int(count))
