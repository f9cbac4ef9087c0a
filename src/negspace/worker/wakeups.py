"""The thread that hears of new jobs, where notifications come through.

It finds that out by itself: it listens, lets another connection notify it, and waits. Behind a
pooler that shares connections between transactions nothing comes, and the worker only polls.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

from negspace.database import Connection, only, translated
from negspace.errors import NegspaceError, UnavailableError
from negspace.worker.reach import Identity, Reach

log = logging.getLogger("negspace.worker")

_PROBED_FOR: Final = 2.0  # seconds until a notification that doesn't come won't
_TURN: Final = 0.5  # seconds between two looks whether it is to end


class Wakeups(threading.Thread):
    """Listens until it is ended.

    Attributes:
        work: Whether notifications come through.
    """

    def __init__(self, identity: Identity, heard: Callable[[int], None]) -> None:
        """Make it; ``heard`` is called with the number of new jobs."""
        super().__init__(name="negspace-wakeups", daemon=True)
        self._heard = heard
        self._reach = Reach(identity, "listening")
        self.work = False

    def run(self) -> None:
        """The thread's life."""
        while not self._reach.ended.is_set():
            try:
                with translated(), self._reach.database.connect(autocommit=True) as connection:
                    self._listen(connection)
            except UnavailableError as error:
                self.work = False
                self._reach.wait_for_server(error)
            except NegspaceError as error:
                self.work = False
                log.warning("no wake-ups, new jobs are polled for: %s", error.message)
                break
        self._reach.database.close()

    def end(self) -> None:
        """Listen no more; returns when the thread has ended."""
        self._reach.ended.set()
        self.join()

    def _listen(self, connection: Connection) -> None:
        connection.execute("listen negspace_jobs")
        if not self._comes_through(connection):
            connection.execute("unlisten *")
            log.info("notifications don't come through, new jobs are polled for")
            self._reach.ended.wait()
            return
        self.work = True
        self._reach.reached()
        while not self._reach.ended.is_set():
            for note in connection.notifies(timeout=_TURN):
                if note.payload.isdecimal():
                    self._heard(int(note.payload))
                if self._reach.ended.is_set():
                    return

    def _comes_through(self, connection: Connection) -> bool:
        """Whether a notification of another connection arrives here."""
        probe = f"probe {secrets.token_hex(8)}"
        with self._reach.database.transaction() as other:
            there = only(other, "select to_regprocedure('rest_worker(text, boolean)') as f")
            if there is None or there["f"] is None:  # this schema wakes nobody
                return False
            other.execute("select pg_notify('negspace_jobs', %s)", [probe])
        self._reach.database.close()
        give_up = time.monotonic() + _PROBED_FOR
        while (left := give_up - time.monotonic()) > 0 and not self._reach.ended.is_set():
            for note in connection.notifies(timeout=min(left, _TURN)):
                if note.payload == probe:
                    return True
        return False
