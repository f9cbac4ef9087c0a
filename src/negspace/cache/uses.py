"""Hits and misses, gathered in the process and counted in batches: a read writes nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import Final

from negspace.database import Database
from negspace.errors import NegspaceError

log = logging.getLogger("negspace.cache")

_MOST: Final = 1000  # uses
_LONGEST: Final = 10.0  # seconds


class Uses:
    """What a process read since it last told the database. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._hits: Counter[str] = Counter()
        self._stale = self._misses = self._seen = 0
        self._told_at = time.monotonic()

    def hit(self, key: str) -> None:
        """A value answered."""
        self._count(key, stale=0, missed=0)

    def stale(self, key: str) -> None:
        """An expired value answered, while another is computed."""
        self._count(key, stale=1, missed=0)

    def miss(self) -> None:
        """There was none."""
        self._count(None, stale=0, missed=1)

    def _count(self, key: str | None, *, stale: int, missed: int) -> None:
        with self._lock:
            if key is not None:
                self._hits[key] += 1
            self._stale += stale
            self._misses += missed
            self._seen += 1
            due = self._seen >= _MOST or time.monotonic() - self._told_at >= _LONGEST
        if due:
            self.tell()

    def tell(self) -> None:
        """Tell the database; where it can't be told, these uses are not counted."""
        with self._lock:
            hits, stale, misses = self._hits, self._stale, self._misses
            self._hits, self._stale, self._misses, self._seen = Counter(), 0, 0, 0
            self._told_at = time.monotonic()
        if not hits and not misses:
            return
        try:
            self._database.ask(
                "select count_cached_value_uses(%s::text[], %s::bigint[], %s, %s)",
                [list(hits), list(hits.values()), stale, misses],
            )
        except NegspaceError as error:  # who reads must not fail for want of a count
            log.warning("%s uses of the cache are not counted: %s", hits.total(), error.message)
