"""The thread that ends jobs in the database: many in one transaction where many wait.

What has ended waits a moment for others, and what ends while they are stored goes with the next
round: a slow job holds nothing back, and quick ones share their commits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

from negspace.errors import NegspaceError, UnavailableError
from negspace.worker import leases, work
from negspace.worker.leases import End, Outcome
from negspace.worker.reach import Identity, Reach

log = logging.getLogger("negspace.worker")

MOST: Final = 200  # ends in one transaction
MOMENT: Final = 0.05  # seconds that the first of them waits for others


class Finisher(threading.Thread):
    """Ends jobs until it is ended itself."""

    def __init__(self, identity: Identity, ended: Callable[[End, Outcome], None]) -> None:
        """Make it; ``ended`` is called with each end and what became of the job.

        That is ``unstored`` where the database couldn't be reached in time, and ``held`` where
        the cache was asked and has no answer.
        """
        super().__init__(name="negspace-finisher", daemon=True)
        self._reach = Reach(identity, "what is done")
        self._ended = ended
        self._ends: list[End] = []
        self._some = threading.Condition()
        self._closing = False

    def put(self, ends: Sequence[End]) -> None:
        """Let these jobs end."""
        with self._some:
            self._ends.extend(ends)
            self._some.notify()

    def hurry(self, seconds: float) -> None:
        """Wait no longer than that for a database that can't be reached."""
        timer = threading.Timer(seconds, self._reach.ended.set)
        timer.daemon = True
        timer.start()

    def end(self) -> None:
        """Store what there is, and end; returns when the thread has ended."""
        with self._some:
            self._closing = True
            self._some.notify()
        self.join()

    def run(self) -> None:
        """The thread's life."""
        while True:
            with self._some:
                self._some.wait_for(lambda: self._ends or self._closing)
                self._some.wait_for(lambda: len(self._ends) >= MOST or self._closing, MOMENT)
                ends, self._ends = self._ends[:MOST], self._ends[MOST:]
            if not ends:
                break
            for how in dict.fromkeys(end.how for end in ends):
                self._store([end for end in ends if end.how == how])
        self._reach.database.close()

    def _store(self, ends: Sequence[End]) -> None:
        how = ends[0].how
        try:
            outcomes: dict[int, Outcome] = self._reach.insist(
                lambda: leases.finish(self._reach.database, how, ends)
            )
        except UnavailableError:
            outcomes = dict.fromkeys((end.job.id for end in ends), "unstored")
        except NegspaceError as error:
            if len(ends) > 1:  # one of them is refused: the others are not to suffer
                for end in ends:
                    self._store([end])
            else:
                self._refused(ends[0], error)
            return
        for end in ends:
            self._ended(end, outcomes[end.job.id])

    def _refused(self, end: End, error: NegspaceError) -> None:
        if end.how == "complete":  # its result breaks a rule of the schema
            reason = f"{error.message} ({error.hint})" if error.hint else error.message
            kind, again = type(error).__name__, work.may_help(error)
            self._store([End(end.job, "fail", reason=reason, error=kind, again=again)])
        else:
            log.error("job %s: its end is refused: %s", end.job.id, error.message)
            self._ended(end, "lost")
