"""What a run of workers is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

from negspace.errors import InvalidInputError
from negspace.worker.limits import memory_in_use


@dataclass(frozen=True)
class Options:
    """How many processes compute, and how the worker behaves.

    Attributes:
        processes: Processes that compute, one job each at a time.
        drain: End when nothing is left to do, instead of waiting for more.
        heartbeat: Seconds between two signs of life of a worker.
        lease: Seconds after which a worker that gave none loses its jobs. All workers of a
            database should have the same: each takes jobs from others by its own.
        poll: Seconds at most between two looks for jobs, while there are none.
        time_limit: Seconds that a job may be computed for.
        memory_limit: Bytes that a computing process may have in use; None: no limit.
        capacity: Megapixels of the largest image that it takes; None: any.

    Raises:
        InvalidInputError: A value makes no sense.
    """

    processes: int = 1
    drain: bool = False
    heartbeat: float = 2.5
    lease: float = 7.5
    poll: float = 1.0
    time_limit: float = 3600.0
    memory_limit: int | None = None
    capacity: float | None = None

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise InvalidInputError(
                f"{self.processes} computing processes can't run", hint="ask for 1 or more"
            )
        if not 0 < self.heartbeat <= 3600 or not 0 < self.poll <= 3600:
            raise InvalidInputError(
                "heartbeat and poll are seconds above 0 and up to 3600",
                hint="leave them out: 2.5 and 1 are good values",
            )
        if not 2 * self.heartbeat <= self.lease <= 86_400:
            raise InvalidInputError(
                f"a lease of {self.lease:g} s doesn't fit heartbeats every {self.heartbeat:g} s",
                hint="take at least twice the heartbeat, better three times",
            )
        self._see_limits()

    def _see_limits(self) -> None:
        if not 0 < self.time_limit <= 30 * 86_400:
            raise InvalidInputError(
                f"a job can't be given {self.time_limit:g} s",
                hint="the time limit is above 0 and at most 30 days; 3600 where it is left out",
            )
        if self.capacity is not None and not 0 < self.capacity < float("inf"):
            raise InvalidInputError(
                f"a worker can't take {self.capacity:g} megapixels",
                hint="a number above 0; leave it out to take images of any size",
            )
        if self.memory_limit is None:
            return
        if self.memory_limit < 2**26:
            raise InvalidInputError(
                f"a memory limit of {self.memory_limit} bytes is too small for any analysis",
                hint="a process that has loaded the libraries uses some 100 MB",
            )
        if memory_in_use(os.getpid()) is None:
            raise InvalidInputError(
                "this system doesn't say how much memory a process uses, so it can't be limited",
                hint="leave the memory limit out, or run workers on Linux",
            )

    @property
    def lease_time(self) -> timedelta:
        """The lease, as the database takes it."""
        return timedelta(seconds=self.lease)
