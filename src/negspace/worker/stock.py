"""Jobs that the worker holds and nobody computes yet, and how many it should hold."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Collection, Iterable
from typing import Final
from uuid import UUID

from negspace.worker.leases import Claimed

HORIZON: Final = 2.0  # seconds of work that a process has before it
MOST: Final = 500  # jobs for a process, however short they are
PATIENCE: Final = 5.0  # seconds that a job waits here before others get it
SHORT: Final = 0.1  # seconds: for a shorter job the way to the process and back matters
_WEIGHT: Final = 0.2  # of the newest length in their mean

Content = tuple[int, str, str, str, str]


def content_of(job: Claimed) -> Content:
    """What gives the same answer: an owner's same bytes, analysed in the same way."""
    parameters = json.dumps(dict(job.algorithm_parameters), sort_keys=True)
    return (job.owner, job.file_hash, job.algorithm_name, job.algorithm_version, parameters)


class Stock:
    """First in, first out. Used by one thread.

    How many jobs it should hold follows from how long they take: one for a process where they
    take minutes, hundreds where they take 10 ms, so that claims come a few times a second at
    most. It grows at most twofold with each claim: the first jobs may be unlike the rest.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._jobs: deque[tuple[Claimed, Content, float]] = deque()
        self._seconds: float | None = None
        self._size = processes

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def ahead(self) -> int:
        """How many jobs a process is given at a time: the next one too, where they are short."""
        return 2 if self._seconds is not None and self._seconds < SHORT else 1

    def learn(self, seconds: float) -> None:
        """A job took so long."""
        before = self._seconds
        self._seconds = seconds if before is None else before + _WEIGHT * (seconds - before)

    def wanted(self, given: int) -> int:
        """How many jobs to claim now.

        Args:
            given: Jobs that processes were given and that have not ended.
        """
        held = len(self._jobs) + given
        if 2 * held > self._size and (self._jobs or held >= self._processes):
            return 0
        return self._size - held

    def add(self, jobs: Iterable[Claimed]) -> None:
        """Jobs were claimed."""
        now = time.monotonic()
        self._jobs.extend((job, content_of(job), now) for job in jobs)
        if self._seconds is not None:
            fitting = min(MOST, max(1, round(HORIZON / max(self._seconds, 1e-4))))
            self._size = min(self._processes * fitting, 2 * self._size)

    def put_back(self, jobs: Iterable[Claimed]) -> None:
        """Jobs that were taken, and not begun, are the next again."""
        now = time.monotonic()
        self._jobs.extendleft((job, content_of(job), now) for job in reversed(list(jobs)))

    def take(self, busy: Collection[Content]) -> Claimed | None:
        """The next job whose content nobody is busy with: its answer would be the same."""
        for place, (job, content, _) in enumerate(self._jobs):
            if content not in busy:
                del self._jobs[place]
                return job
        return None

    def remove(self, tokens: Collection[UUID]) -> list[Claimed]:
        """Take out those of the jobs that are here."""
        found = [job for job, _, _ in self._jobs if job.token in tokens]
        if found:
            self._jobs = deque(entry for entry in self._jobs if entry[0].token not in tokens)
        return found

    def take_same(self, content: Content) -> list[Claimed]:
        """Take out the jobs of that content."""
        return self.remove({job.token for job, its, _ in self._jobs if its == content})

    def take_overdue(self) -> list[Claimed]:
        """Take out jobs that have waited for too long: slow ones are before them."""
        late = time.monotonic() - PATIENCE
        found = self.remove({job.token for job, _, since in self._jobs if since < late})
        if found:
            self._size = self._processes  # or the next claim would bring them back
        return found

    def take_all(self) -> list[Claimed]:
        """Take out every job."""
        jobs = [job for job, _, _ in self._jobs]
        self._jobs.clear()
        return jobs
