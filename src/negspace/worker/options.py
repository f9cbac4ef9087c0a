"""What a run of workers is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from negspace.errors import InvalidInputError


@dataclass(frozen=True)
class Options:
    """How many workers, and how they behave.

    Attributes:
        processes: Worker processes.
        drain: End when nothing is left to do, instead of waiting for more.
        heartbeat: Seconds between two signs of life of a worker.
        lease: Seconds after which a worker that gave none loses its jobs. All workers of a
            database should have the same: each takes jobs from others by its own.
        poll: Seconds at most between two looks for jobs, while there are none.

    Raises:
        InvalidInputError: A value makes no sense.
    """

    processes: int = 1
    drain: bool = False
    heartbeat: float = 2.5
    lease: float = 7.5
    poll: float = 1.0

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise InvalidInputError(
                f"{self.processes} worker processes can't run", hint="ask for 1 or more"
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

    @property
    def lease_time(self) -> timedelta:
        """The lease, as the database takes it."""
        return timedelta(seconds=self.lease)
