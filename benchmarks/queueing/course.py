"""The runs of one system, one after another, each on a fresh copy of its database."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.queueing.ground import Ground
from benchmarks.queueing.meter import Cost
from benchmarks.queueing.systems import BARE, OURS, PEER_SYSTEMS, DriverError, System

from negspace.database import connect, rows


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    jobs: int = 20_000
    repeats: int = 3
    finished: int = 500_000
    dead: int = 100_000
    starts: int = 200


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
    estimate: float | None = None  # milliseconds; median error of estimated_completion_at
    failure: str | None = None

    def latency(self, percentile: int) -> float | None:
        """Milliseconds."""
        if not self.latencies:
            return None
        if percentile == 50:
            return statistics.median(self.latencies)
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[percentile - 1]


class Course:
    """Runs systems over the ground."""

    def __init__(self, ground: Ground, size: Size) -> None:
        self._ground = ground
        self._size = size

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

    def _fill(self, system: System, result: Result) -> None:
        self._ground.prepare(system)
        result.drain = self._repeated(system, "drain, 1 process", self._drain)
        result.two = self._repeated(system, "drain, 2 processes", self._drain_two)
        result.dirty = self._repeated(system, "dirty drain", self._dirty)
        if system is BARE:
            return
        result.enqueue = self._repeated(system, "enqueue", self._enqueue)
        if system is OURS:
            result.copy = self._repeated(system, "COPY", self._copy)
            result.estimate = self._estimate()
        with self._ground.copied(system) as name:
            result.latencies = self._ground.latencies(system, name, self._size.starts)
        if result.latencies:
            self._say(
                system,
                "latency",
                f"p50 {result.latency(50):.1f} ms, p99 {result.latency(99):.1f} ms",
            )

    def _repeated(self, system: System, what: str, run: Callable[[System], Cost]) -> Cost:
        """The median of the repeats; one alone where a run is very long."""
        costs: list[Cost] = []
        while len(costs) < self._size.repeats and (not costs or costs[-1].seconds < 20):
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

    def _estimate(self) -> float | None:
        """How far from their end jobs were expected to end, once some of their like had ended."""
        query = (
            "select percentile_cont(0.5) within group (order by abs(extract(epoch from"
            " completed_at - estimated_completion_at))) * 1000 as ms from (select * from"
            " processing_queue where status = 'completed' order by id offset %s) q"
        )
        with self._ground.copied(OURS) as name:
            self._ground.enqueue(OURS, name)
            self._ground.measure(OURS, OURS.drain, name, 0)
            with self._ground.superuser(name) as connection:
                found = rows(connection, query, [self._size.jobs // 2])
        self._say(OURS, "estimated_completion_at", f"median error {found[0]['ms']:.0f} ms")
        return found[0]["ms"]

    def _drain_two(self, system: System) -> Cost:
        return self._drain(system, 2)

    def _dirty(self, system: System) -> Cost:
        """An old snapshot is held, much is finished, much is dead, the statistics know nothing."""
        with self._ground.copied(system) as name, self._snapshot(name):
            with self._ground.superuser(name) as connection:
                if system.finished:
                    connection.execute(system.finished.encode(), {"n": self._size.finished})
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
