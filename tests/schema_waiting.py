"""Two transactions at once, without sleeping blindly."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from negspace import database
from negspace.database import Connection

DEADLINE = 30  # seconds
T = TypeVar("T")


class Other:
    """A second connection whose work runs beside the test's own."""

    def __init__(self, address: str) -> None:
        self.connection = database.connect(address)
        self._threads = ThreadPoolExecutor(1)

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.cancel()
        self._threads.shutdown()
        self.connection.close()

    def start(self, work: Callable[[Connection], T]) -> Future[T]:
        """Begin the work; it commits when it is done."""

        def run() -> T:
            with self.connection.transaction():
                return work(self.connection)

        return self._threads.submit(run)

    def is_waiting(self, watcher: Connection, future: Future[T]) -> bool:
        """Whether it came to wait for a lock, rather than to an end."""
        pid = self.connection.info.backend_pid
        query = "select wait_event_type as event from pg_stat_activity where pid = %s"
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline and not future.done():
            if (database.only(watcher, query, [pid]) or {}).get("event") == "Lock":
                return True
            time.sleep(0.01)
        return False
