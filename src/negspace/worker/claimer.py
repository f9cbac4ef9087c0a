"""The thread that claims jobs: as many as are wanted, as soon as there are some."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from negspace.errors import NegspaceError, UnavailableError
from negspace.worker import leases
from negspace.worker.leases import Claimed
from negspace.worker.reach import Identity, Reach
from negspace.worker.wakeups import Wakeups

log = logging.getLogger("negspace.worker")

_FIRST_POLL: Final = 0.05  # seconds; doubled up to Options.poll while there is nothing to do
_LATE: Final = 0.05  # seconds: who enqueued just before we slept, and told nobody, has committed


class Claimer(threading.Thread):
    """Claims until it is ended.

    Attributes:
        asleep: Whether it waits for a wake-up or the next poll, and has looked for late commits.
    """

    def __init__(
        self,
        identity: Identity,
        claimed: Callable[[Sequence[Claimed]], None],
        drained: Callable[[], None],
        failed: Callable[[NegspaceError], None],
    ) -> None:
        """Make it.

        Args:
            identity: Whose jobs.
            claimed: Called with new jobs; none is wanted then until it is told so again.
            drained: Called once, draining, when nothing is left that this worker could do.
            failed: Called where claiming is refused; the thread has ended then.
        """
        super().__init__(name="negspace-claimer", daemon=True)
        self._identity = identity
        self._claimed = claimed
        self._drained = drained
        self._failed = failed
        self._reach = Reach(identity, "the next claim")
        self._changed = threading.Condition()
        self._wanted = 0
        self._woken = False
        self.asleep = False
        self._before: int | None = None  # workers that sleep and were first; None: awake
        self._wakeups = Wakeups(identity, self._heard)

    def want(self, how_many: int) -> None:
        """Claim so many."""
        with self._changed:
            if how_many > self._wanted:
                self._changed.notify()
            self._wanted = how_many

    def wake(self) -> None:
        """There may be jobs: don't wait for the next poll."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def _heard(self, jobs: int) -> None:
        """New jobs came: as many sleepers wake, who sleeps longest first."""
        with self._changed:
            if self._before is None:
                return
            if self._before < jobs:
                self._woken = True
                self._changed.notify()
            else:
                self._before -= jobs

    def stop(self) -> None:
        """Claim no more; a claim that is under way still reports."""
        self._reach.ended.set()
        self.wake()

    def run(self) -> None:
        """The thread's life."""
        if not self._identity.options.drain:
            self._wakeups.start()
        try:
            self._work()
        except UnavailableError:
            pass  # told to end while there is no server
        except NegspaceError as error:
            self._failed(error)
        if self._wakeups.is_alive():
            self._wakeups.end()
        self._reach.database.close()

    def _work(self) -> None:
        pause, late, ended = _FIRST_POLL, False, self._reach.ended
        while not ended.is_set():
            how_many = self._next_wish()
            if ended.is_set():
                return
            jobs = self._reach.insist(partial(self._claim, how_many))
            if jobs:
                pause = _FIRST_POLL
                with self._changed:
                    self._wanted = 0
                self._claimed(jobs)
                self._rest(resting=False)
                continue
            if self._identity.options.drain and self._reach.insist(self._is_drained):
                self._drained()
                return
            if self._rest(resting=True):
                late = True
                continue  # a job may have come before we were known to sleep
            if self._before is not None:  # it will be woken
                pause = _LATE if late else self._identity.options.poll
            self._sleep(pause * random.uniform(0.5, 1.5), asleep=not late)  # noqa: S311  jitter
            late = False
            pause = min(2 * pause, self._identity.options.poll)

    def _next_wish(self) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._wanted > 0 or self._reach.ended.is_set())
            self._woken = False
            return self._wanted

    def _rest(self, *, resting: bool) -> bool:
        """Say whether we sleep, where there is somebody to hear it; whether that is new."""
        new = resting == (self._before is None)
        if self._identity.options.drain or not (new or resting):
            return False
        if resting and not self._wakeups.work:
            self._before = None
            return False
        step = partial(self._say_resting, resting if new else None)
        before = self._reach.insist(step)
        with self._changed:
            self._before = before if resting else None
        return new and resting

    def _sleep(self, seconds: float, *, asleep: bool) -> None:
        with self._changed:
            self.asleep = asleep
            self._changed.wait_for(lambda: self._woken, seconds)
            self.asleep = False

    def _claim(self, how_many: int) -> list[Claimed]:
        who, most = self._identity, self._identity.options.capacity
        return leases.claim(self._reach.database, who.worker, who.algorithms, how_many, most)

    def _say_resting(self, resting: bool | None) -> int:
        who = self._identity
        lease = who.options.lease_time
        return leases.rest(self._reach.database, who.worker, lease, resting=resting)

    def _is_drained(self) -> bool:
        who = self._identity
        return leases.is_drained(self._reach.database, who.algorithms, who.options.capacity)
