"""The thread that keeps a worker's jobs: heartbeats, and jobs the worker no longer holds.

It has a connection of its own and no work to do, so a busy job doesn't delay it. numpy, scipy
and most of scikit-image release the interpreter's lock while they compute; an analyser in
another language that holds it for longer than the lease loses its job.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final

from negspace.errors import NegspaceError, NotFoundError, UnavailableError
from negspace.worker import leases, registry

if TYPE_CHECKING:
    from negspace.worker.process import Assignment, Hands

log = logging.getLogger("negspace.worker")

DROPPED: Final = 75  # exit status of a worker that lost its job; the parent starts another


class Keeper(threading.Thread):
    """Beats until it is ended.

    A worker whose job was cancelled, or given to another, ends its process: nothing else
    stops a computation at once, and its memory is free. The parent starts another worker.
    """

    def __init__(self, assignment: Assignment, hands: Hands) -> None:
        super().__init__(name="negspace-keeper", daemon=True)
        self._assignment = assignment
        self._hands = hands
        self._database = assignment.open_database()
        self._ended = threading.Event()
        self._strays: frozenset[int] = frozenset()
        self._reachable = True

    def run(self) -> None:
        """The thread's life."""
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                self._beat()
                self._reachable = True
            except UnavailableError as error:
                if self._reachable:
                    log.warning("no heartbeat: %s", error.message)
                self._reachable = False
                self._database.close()
            except NegspaceError as error:  # the next beat may do better; no beat ends the lease
                log.warning("no heartbeat: %s", error.message)
            rest = self._assignment.options.heartbeat - (time.monotonic() - began)
            self._ended.wait(max(rest, 0.05))
        self._database.close()

    def end(self) -> None:
        """Beat no more; returns when the thread has ended."""
        self._ended.set()
        self.join()

    def _beat(self) -> None:
        mine = self._hands.job
        held = self._held()
        if mine is not None and mine.id not in held and self._hands.computes(mine):
            self._drop(mine.id)
        self._give_back_strays(held)
        rescued = registry.rescue(self._database, self._assignment.options.lease_time)
        if rescued:
            log.warning("%s jobs of workers that were not heard of wait again", rescued)

    def _held(self) -> frozenset[int]:
        worker = self._assignment.worker
        try:
            return registry.beat(self._database, worker)
        except NotFoundError:  # the table of workers was made anew
            self._assignment.register(self._database)
            return registry.beat(self._database, worker)

    def _drop(self, job: int) -> None:
        words = f"job {job} was cancelled or given to another while it ran"
        log.warning("%s: dropped", words)
        try:
            registry.stop(self._database, self._assignment.worker, words)
        finally:
            os._exit(DROPPED)

    def _give_back_strays(self, held: frozenset[int]) -> None:
        """Jobs held for two beats that nobody here works on: a claim's answer was lost."""
        mine = self._hands.job
        strays = held - ({mine.id} if mine else set())
        again = strays & self._strays
        self._strays = strays
        if again:
            given = leases.give_back_strays(self._database, self._assignment.worker, again)
            log.warning("gave back %s, claimed when the connection was lost", given)
