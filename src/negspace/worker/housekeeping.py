"""Housekeeping while a worker runs: the steps of ``negspace.upkeep``."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from negspace import upkeep
from negspace.database import Database
from negspace.errors import NegspaceError, UnavailableError
from negspace.storage import Storage

log = logging.getLogger("negspace.worker")

ROUND: Final = 60.0  # seconds: how often it is looked what is due


class Housekeeper(threading.Thread):
    """Does every step at once and when it is due again, until its end."""

    def __init__(self, database: Database, storage: Storage | None = None) -> None:
        """Make it; the database is its own, and closed at its end."""
        super().__init__(name="negspace-housekeeper", daemon=True)
        self._keeping = upkeep.Keeping(database, storage)
        self._due: dict[str, float] = {}
        self._ended = threading.Event()

    def run(self) -> None:
        """The thread's life."""
        while True:
            try:
                for step in upkeep.STEPS:
                    self._do(step)
            except UnavailableError:  # the rest of the round would find no server either
                self._keeping.database.close()
            if self._ended.wait(ROUND):
                break
        self._keeping.database.close()

    def _do(self, step: upkeep.Step) -> None:
        now = time.monotonic()
        if getattr(self._keeping, step.needs) is None or now < self._due.get(step.name, 0.0):
            return
        try:
            step.work(self._keeping)
        except UnavailableError:
            raise
        except NegspaceError as error:  # jobs go on; the next time may do better
            log.warning("housekeeping: %s: %s", step.name, error.message)
        self._due[step.name] = now + step.every.total_seconds()

    def end(self) -> None:
        """Do it no more, once this round is done."""
        self._ended.set()
        self.join()
