"""The thread that keeps a worker's jobs: heartbeats, looks, and jobs of workers that are gone.

It runs where nothing is computed. In the process of a job it would be starved by foreign code
that holds the interpreter's lock, for as long as that takes; a computation in pure Python
would delay it by milliseconds only, but nobody knows what an analyser calls.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

from negspace.errors import NegspaceError, NotFoundError, UnavailableError
from negspace.worker import leases, registry
from negspace.worker.reach import Identity, Reach

log = logging.getLogger("negspace.worker")

LOOK: Final = 0.4  # seconds between two looks for jobs that were cancelled


class Keeper(threading.Thread):
    """Beats until it is ended."""

    def __init__(
        self,
        identity: Identity,
        known: Mapping[UUID, int],
        begun: Mapping[UUID, int],
        lost: Callable[[frozenset[UUID]], None],
    ) -> None:
        """Make it.

        Args:
            identity: Whose jobs.
            known: The jobs that the worker knows it holds, by token. Another thread changes it;
                here it is only copied, which is one step.
            begun: Those of them that are computed, in the same way.
            lost: Called with the tokens of those that the worker no longer holds.
        """
        super().__init__(name="negspace-keeper", daemon=True)
        self._identity = identity
        self._known = known
        self._begun = begun
        self._said: set[int] | None = None
        self._lost = lost
        self._reach = Reach(identity, "the heartbeat")
        self._strays: frozenset[int] = frozenset()

    def run(self) -> None:
        """The thread's life."""
        next_beat = 0.0
        while not self._reach.ended.is_set():
            began = time.monotonic()
            try:
                if began >= next_beat:
                    next_beat = began + self._identity.options.heartbeat
                    self._beat()
                self._look()
                self._reach.reached()
            except UnavailableError as error:
                next_beat = 0.0
                self._reach.wait_for_server(error)
            except NegspaceError as error:  # the next beat may do better; no beat ends the lease
                log.warning("no heartbeat: %s", error.message)
            self._reach.ended.wait(min(LOOK, max(next_beat - time.monotonic(), 0.02)))
        self._reach.database.close()

    def end(self) -> None:
        """Beat no more; returns when the thread has ended."""
        self._reach.ended.set()
        self.join()

    def _look(self) -> None:
        begun = set(dict(self._begun).values())
        if begun != self._said:
            leases.say_computing(self._reach.database, self._identity.worker, sorted(begun))
            self._said = begun
        known = dict(self._known)
        if known:
            gone = set(leases.lost(self._reach.database, known))
            if gone:
                self._lost(frozenset(token for token, job in known.items() if job in gone))

    def _beat(self) -> None:
        self._give_back_strays(self._held())
        rescued = registry.rescue(self._reach.database, self._identity.options.lease_time)
        if rescued:
            log.warning("%s jobs of workers that were not heard of wait again", rescued)

    def _held(self) -> frozenset[int]:
        who, database = self._identity, self._reach.database
        try:
            return registry.beat(database, who.worker)
        except NotFoundError:  # the table of workers was made anew
            registry.register(database, who.worker, who.hostname, os.getpid(), who.algorithms)
            self._said = None
            return registry.beat(database, who.worker)

    def _give_back_strays(self, held: frozenset[int]) -> None:
        """Jobs held for two beats that nobody here knows of: a claim's answer was lost."""
        strays = held - set(dict(self._known).values())
        again = strays & self._strays
        self._strays = strays
        if again:
            given = leases.give_back_strays(self._reach.database, self._identity.worker, again)
            log.warning("gave back %s, claimed when the connection was lost", given)
