"""What must happen now and then: partitions, expired answers, logs, counters, seals, roll-ups."""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta
from typing import Final

from negspace import audit, cache, keys, metrics, users
from negspace.database import Database
from negspace.errors import NegspaceError, UnavailableError
from negspace.worker import logs

log = logging.getLogger("negspace.worker")

INTERVAL: Final = 3600.0  # seconds
OFTEN: Final = 60.0  # seconds: how long an event may stand unsealed, and an hour not rolled up
_PATIENCE: Final = 5.0  # seconds for the last round
LOGS_KEPT: Final = timedelta(days=30)


def ensure_partitions(database: Database) -> None:
    """Make the months that are missing, back to that of the oldest job that waits or runs."""
    with database.transaction() as connection:
        connection.execute(
            "select ensure_partitions(oldest => (select min(created_at) from processing_queue"
            " where status in ('queued', 'processing', 'retrying')))"
        )


def refresh_counters(database: Database) -> None:
    """Bring the accounts' counters up to date, unless another worker is at it."""
    with database.transaction() as connection:
        connection.execute(
            "select refresh_user_counters() where pg_try_advisory_xact_lock("
            " hashtextextended('negspace.refresh_user_counters', 0))"
        )


class Housekeeper(threading.Thread):
    """Does all of it at once and every hour, seals and roll-ups every minute, until its end."""

    def __init__(self, database: Database) -> None:
        """Make it; the database is its own, and closed at its end."""
        super().__init__(name="negspace-housekeeper", daemon=True)
        self._database = database
        self._ended = threading.Event()

    def run(self) -> None:
        """The thread's life."""
        due = 0.0
        while True:
            try:
                if time.monotonic() >= due:
                    due = time.monotonic() + INTERVAL
                    ensure_partitions(self._database)
                    cache.purge_expired(self._database)
                    logs.purge(self._database, LOGS_KEPT)
                    keys.count_uses(self._database)
                    refresh_counters(self._database)
                    users.refresh_login_counters(self._database)
                audit.seal(self._database)
                metrics.roll_up(self._database)
            except UnavailableError:
                self._database.close()
            except NegspaceError as error:  # jobs go on; the next round may do better
                log.warning("housekeeping: %s", error.message)
            if self._ended.wait(OFTEN):
                break
        self._database.close()

    def end(self) -> None:
        """Do it no more; what waits for a server that isn't there is left alone."""
        self._ended.set()
        self.join(_PATIENCE)
