"""Whom a statement waits for, seen from beside it while it waits.

A statement that waits for a lock can't be asked. So a thread looks, on a connection of its own
that is opened when the first statement takes long enough to be looked at. Not on the one that
holds the run's lock: its transaction lasts as long as the run, and CREATE INDEX CONCURRENTLY
waits for the end of every transaction that has a snapshot in the moment when it asks. A look
is one; a look of its own ends at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from negspace.database import Connection, connect, translated
from negspace.errors import NegspaceError
from negspace.migrate.queries import query

__all__ = ["Blocker", "Watch"]

logger = logging.getLogger(__name__)

LONGEST_PAUSE: Final = 0.25  # seconds between two looks


@dataclass(frozen=True)
class Blocker:
    """A session that a statement of the run waited for.

    Attributes:
        pid: Its backend; 0 for a prepared transaction.
        application, user, state, query: As pg_stat_activity has them; of another role's
            session the run may see some only as a member of pg_read_all_stats.
        age_seconds: How old its transaction was when it was seen last.
        wants: What the run waited for: a lock mode, and the table.
    """

    pid: int
    application: str | None
    user: str | None
    state: str | None
    query: str | None
    age_seconds: float | None
    wants: str | None

    def __str__(self) -> str:
        """One line, as it is printed."""
        who = ", ".join(part for part in (self.application, self.user, self.state) if part)
        age = f", its transaction {self.age_seconds:.0f} s old" if self.age_seconds else ""
        said = f": {' '.join(self.query.split())[:_WIDEST]}" if self.query else ""
        return f"pid {self.pid} ({who}{age}){said}"


_WIDEST: Final = 120

OnBlocked = Callable[[tuple[Blocker, ...]], None]


class Watch:
    """Looks, while a statement runs, whether it waits; a context manager.

    Args:
        address: Of the database.
        on_blocked: Called, from another thread, when those who are waited for change.
    """

    def __init__(self, address: str, on_blocked: OnBlocked | None = None) -> None:
        self._address = address
        self._watched: int | None = None
        self._on_blocked = on_blocked
        self._pause = LONGEST_PAUSE
        self._ended = threading.Event()
        self._began: float | None = None
        self._seen: dict[int, Blocker] = {}
        self._seen_at = 0.0
        self._told: frozenset[int] = frozenset()
        self._thread: threading.Thread | None = None

    def follow(self, connection: Connection, slice_seconds: float | None) -> None:
        """Watch that connection, whose backend stays the same from now on."""
        row = connection.execute("select pg_backend_pid() as pid").fetchone()
        self._watched = row["pid"] if row else None
        self._pause = min(LONGEST_PAUSE, (slice_seconds or 1.0) / 4)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
            self._thread.start()

    def begin(self) -> None:
        """A statement begins."""
        self._seen, self._seen_at, self._told = {}, 0.0, frozenset()
        self._began = time.monotonic()

    def end(self) -> None:
        """It has ended, or pauses between two tries."""
        self._began = None

    def again(self) -> None:
        """It is tried once more; what was seen stays."""
        self._began = time.monotonic()

    @property
    def blockers(self) -> tuple[Blocker, ...]:
        """Whom the statement was seen waiting for."""
        return tuple(self._seen.values())

    @property
    def seen_at(self) -> float:
        """When it was seen waiting last, on the monotonic clock; 0 where it was not."""
        return self._seen_at

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        looker: Connection | None = None
        try:
            while not self._ended.wait(self._pause):
                began = self._began
                if began is None or time.monotonic() - began < self._pause:
                    continue
                looker = looker or connect(
                    self._address, autocommit=True, application_name="negspace migrate: watch"
                )
                found = self._look(looker)
                if found and self._began == began:
                    self._remember(found)
        except NegspaceError as error:  # the run itself goes on without
            logger.info("can't see whom the run waits for: %s", error.message)
        finally:
            if looker is not None:
                looker.close()

    def _look(self, looker: Connection) -> list[dict[str, Any]]:
        with translated():
            return looker.execute(query("blockers"), {"watched": self._watched}).fetchall()

    def _remember(self, found: list[dict[str, Any]]) -> None:
        blockers = tuple(Blocker(**row) for row in found)
        self._seen = self._seen | {blocker.pid: blocker for blocker in blockers}
        self._seen_at = time.monotonic()
        pids = frozenset(blocker.pid for blocker in blockers)
        if pids - self._told and self._on_blocked is not None:
            self._told |= pids
            self._on_blocked(blockers)
