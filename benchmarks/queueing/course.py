"""The runs of one system, one after another, each on a fresh copy of its database."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.queueing.ground import Ground
from benchmarks.queueing.meter import Cost
from benchmarks.queueing.systems import BARE, OURS, PEER_SYSTEMS, DriverError, System

from negspace.database import connect

FEW = 1_000  # jobs, two batches
RUNS = ("drain", "two", "dirty", "enqueue", "writers", "estimate", "latency")


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    jobs: int = 20_000
    repeats: int = 3
    finished: int = 500_000
    dead: int = 100_000
    starts: int = 200
    writers: int = 4_000
    waits: int = 100


@dataclass
class Result:
    """What was measured of one system; what doesn't apply to it is None."""

    system: System
    enqueue: Cost | None = None
    copy: Cost | None = None
    drain: Cost | None = None
    two: Cost | None = None
    dirty: Cost | None = None
    latencies: list[float] = field(default_factory=list)
    asleep: Cost | None = None  # many who enqueue, workers that sleep, wake-ups sent
    awake: Cost | None = None  # the same, and nobody to wake
    estimate: dict[str, float] = field(default_factory=dict)  # of estimated_completion_at
    failure: str | None = None

    def latency(self, percentile: int) -> float | None:
        """Milliseconds."""
        if not self.latencies:
            return None
        if percentile == 50:
            return statistics.median(self.latencies)
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[percentile - 1]


class DifferentError(Exception):
    """Two systems that are to store the same don't."""


class Course:
    """Runs systems over the ground."""

    def __init__(self, ground: Ground, size: Size, only: Collection[str] = RUNS) -> None:
        self._ground = ground
        self._size = size
        self._only = only

    def run(self, system: System) -> Result:
        """Everything that applies to the system."""
        result = Result(system)
        try:
            self._fill(system, result)
        except DriverError as error:
            if system.name not in PEER_SYSTEMS:
                raise
            result.failure = str(error)
            self._say(system, "broken off", result.failure)
        return result

    def see_same(self, one: System, other: System) -> None:
        """Drain a few jobs of each, and look at what is stored then.

        Raises:
            DifferentError: One stores more, less or something else for a job.
        """
        stored = [self._stored(system) for system in (one, other)]
        if stored[0] != stored[1]:
            lines = [f"{one.name} and {other.name} don't store the same for {FEW:,} jobs:"]
            for system, mine, theirs in ((one, *stored), (other, *stored[::-1])):
                lines += [f"  {system.name}: {row}" for row in mine if row not in theirs]
            raise DifferentError("\n".join(lines))
        self._say(other, "the same rows as ours", f"{sum(row['rows'] for row in stored[0]):,}")

    def _stored(self, system: System) -> list[dict[str, Any]]:
        self._ground.prepare(system)
        with self._ground.copied(system) as name:
            self._ground.measure(system, "enqueue", name, FEW)
            self._ground.measure(system, system.drain, name, 0)
            return self._ground.stored(name)

    def _fill(self, system: System, result: Result) -> None:
        only = self._only
        self._ground.prepare(system)
        if "drain" in only:
            result.drain = self._repeated(system, "drain, 1 process", self._drain)
        if "two" in only:
            result.two = self._repeated(system, "drain, 2 processes", self._drain_two)
        if "dirty" in only:
            self._ground.prepare_finished(system, self._size.finished)
            result.dirty = self._repeated(system, "dirty drain", self._dirty)
        if system is BARE:
            return
        if "enqueue" in only:
            result.enqueue = self._repeated(system, "enqueue", self._enqueue)
        if system is OURS:
            self._fill_ours(result)
        if "latency" in only:
            self._fill_latency(system, result)

    def _fill_ours(self, result: Result) -> None:
        only = self._only
        if "enqueue" in only:
            result.copy = self._repeated(OURS, "COPY", self._copy)
        if "writers" in only:
            result.awake = self._repeated(OURS, "32 writers, nobody sleeps", self._writers)
            result.asleep = self._repeated(OURS, "32 writers, a worker sleeps", self._waking)
        if "estimate" in only:
            with self._ground.copied(OURS) as name:
                told = self._ground.told(OURS, "estimate", name, self._size.waits)
            result.estimate = {key: value for key, value in told.items() if key != "jobs"}
            self._say(
                OURS, "estimates", ", ".join(f"{k} {v:.0f}" for k, v in result.estimate.items())
            )

    def _fill_latency(self, system: System, result: Result) -> None:
        with self._ground.copied(system) as name:
            told = self._ground.told(system, "latency", name, self._size.starts)
        result.latencies = told.get("ms", [])
        if result.latencies:
            self._say(
                system,
                "latency",
                f"p50 {result.latency(50):.1f} ms, p99 {result.latency(99):.1f} ms",
            )

    def _repeated(self, system: System, what: str, run: Callable[[System], Cost]) -> Cost:
        """The median of the repeats; one alone where a run is very long."""
        costs: list[Cost] = []
        while len(costs) < self._size.repeats and (not costs or costs[-1].seconds < 10):
            costs.append(run(system))
        costs.sort(key=lambda cost: cost.rate)
        cost = costs[(len(costs) - 1) // 2]
        self._say(system, what, f"{cost.rate:,.0f}/s ({cost.each()})")
        return cost

    @staticmethod
    def _say(system: System, what: str, said: str) -> None:
        print(f"{system.name} · {what} · {said}", flush=True)

    def _enqueue(self, system: System) -> Cost:
        with self._ground.copied(system) as name:
            return self._ground.measure(system, "enqueue", name, self._size.jobs)

    def _copy(self, system: System) -> Cost:
        with self._ground.copied(system) as name:
            address = self._ground.superuser_address(name)
            return self._ground.measure(system, "copy", name, self._size.jobs, address=address)

    def _drain(self, system: System, processes: int = 1) -> Cost:
        with self._ground.copied(system) as name:
            self._ground.enqueue(system, name)
            return self._ground.measure(system, system.drain, name, 0, processes=processes)

    def _writers(self, system: System, verb: str = "writers") -> Cost:
        with self._ground.copied(system) as name:
            return self._ground.measure(system, verb, name, self._size.writers)

    def _waking(self, system: System) -> Cost:
        return self._writers(system, "writers-wake")

    def _drain_two(self, system: System) -> Cost:
        return self._drain(system, 2)

    def _dirty(self, system: System) -> Cost:
        """An old snapshot is held, much is finished, much is dead, the statistics know nothing."""
        with self._ground.copied(system, finished=True) as name, self._snapshot(name):
            with self._ground.superuser(name) as connection:
                for statement in system.dead:
                    connection.execute(statement.encode(), {"n": self._size.dead})
                connection.execute("analyze")
            self._ground.enqueue(system, name)
            return self._ground.measure(system, system.drain, name, 0)

    @contextmanager
    def _snapshot(self, name: str) -> Generator[None]:
        with connect(
            self._ground.superuser_address(name), application_name="benchmark snapshot"
        ) as held:
            held.execute("set transaction isolation level repeatable read")
            held.execute("select txid_current()")  # holds the horizon of rows as a writer does
            yield
            held.rollback()
