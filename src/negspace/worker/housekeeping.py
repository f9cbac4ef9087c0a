"""Housekeeping while a worker runs: the steps of ``negspace.upkeep``."""

from __future__ import annotations

import logging
import threading
from typing import Final

from negspace import upkeep
from negspace.database import Database
from negspace.errors import NegspaceError, UnavailableError
from negspace.storage import Storage

log = logging.getLogger("negspace.worker")

ROUND: Final = 60.0  # seconds: how often it is looked what is due


class Housekeeper(threading.Thread):
    """Does what is due, at once and every minute, until its end.

    Of all workers, and of who calls ``negspace maintain``, one does each step.
    """

    def __init__(self, database: Database, storage: Storage | None = None) -> None:
        super().__init__(name="negspace-housekeeper", daemon=True)
        self._keeping = upkeep.Keeping(database, storage)
        self._ended = threading.Event()

    def run(self) -> None:
        """The thread's life."""
        while True:
            try:
                for one in upkeep.maintain(self._keeping, due_only=True):
                    if one.state == "failed":  # jobs go on; the next round may do better
                        log.warning("housekeeping: %s: %s", one.step, one.said)
            except UnavailableError:
                self._keeping.database.close()
            except NegspaceError as error:
                log.warning("housekeeping: %s", error.message)
            if self._ended.wait(ROUND):
                return

    def end(self) -> None:
        """Do it no more."""
        self._ended.set()
        self.join()
