"""``get_or_compute``: values that are computed once, whoever asks, and kept for a time."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, LiteralString

from negspace.cache import bounds
from negspace.cache.encoding import encoded, see_times
from negspace.cache.leases import held, holder
from negspace.cache.uses import Uses
from negspace.database import Database, Row
from negspace.errors import InvalidInputError, RefusedError

log = logging.getLogger("negspace.cache")

LEASE: Final = timedelta(seconds=30)
_READ: Final[LiteralString] = (
    "select value from cached_values where key = %s and expires_at > clock_timestamp()"
)
_FIND: Final[LiteralString] = "select * from find_cached_value(%s, %s, %s, %s)"
_STORE: Final[LiteralString] = "select store_cached_value(%s, %s, %s::jsonb, %s, %s) as stored"
_FIRST_WAIT, _LONGEST_WAIT = 0.01, 0.5  # seconds between two looks of who waits
_SHARE: Final = 20  # trimmed when so much of the bound, one of so many parts, was stored


class Cache:
    """A cache that all processes on one database share. Close it, or use it in a ``with``.

    Who computes holds a lease, a row with an end, and no transaction: it works behind PgBouncer
    in transaction mode. Safe to share between threads; not across ``fork``.

    >>> with Cache(database) as cache:  # doctest: +SKIP
    ...     cache.get_or_compute("report:7", draw, ttl=timedelta(hours=1))

    Args:
        database: Where; calls take a connection of its pool for moments only.
        most_bytes: Size of all values, as JSON; those not used for longest go first.
        lease: How long after its process died a computation is taken over.
    """

    def __init__(
        self,
        database: Database,
        *,
        most_bytes: int = bounds.MOST_BYTES,
        lease: timedelta = LEASE,
    ) -> None:
        if most_bytes < 1 or lease <= timedelta():
            raise InvalidInputError(
                f"a cache of {most_bytes} bytes with a lease of {lease}",
                hint="both are more than nothing",
            )
        self._database = database
        self._most_bytes = most_bytes
        self._lease = lease
        self._uses = Uses(database)
        self._stored_bytes = 0

    def get(self, key: str) -> Any | None:
        """The value of a key, or None where there is none that has not expired."""
        row = self._database.ask(_READ, [key])
        if row is None:
            self._uses.miss()
            return None
        self._uses.hit(key)
        return row["value"]

    def get_or_compute(
        self,
        key: str,
        compute: Callable[[], Any],
        *,
        ttl: timedelta,
        stale: timedelta = timedelta(),
        patience: timedelta = timedelta(minutes=5),
    ) -> Any:
        """The value of a key; where there is none, it is computed, by one process at a time.

        Others wait meanwhile, or take the expired value where ``stale`` allows it. Where who
        computes fails or dies, one of those who wait computes.

        Args:
            key: 1 to 512 characters that say all that the value depends on: its owner too,
                where not everybody may see it.
            compute: Gives the value, as JSON knows it; called in this thread.
            ttl: How long it answers, 10 years at most.
            stale: How long after that it stands in while another is computed.
            patience: How long to wait for somebody else's computation.

        Returns:
            The value as it was stored: tuples come back as lists.

        Raises:
            InvalidInputError: The key or a time is refused, or what was computed is no JSON or
                takes more than 64 MB; what was there before stays.
            RefusedError: Somebody else computed longer than ``patience``.
            Exception: What ``compute`` raises.
        """
        see_times(ttl, stale)
        row = self._database.ask(_READ, [key])
        if row is not None:
            self._uses.hit(key)
            return row["value"]
        return self._found_or_computed(key, compute, ttl, stale, patience)

    def flush(self) -> None:
        """Count what was read so far; it happens by itself every 10 s while values are read."""
        self._uses.tell()

    def close(self) -> None:
        """Count what was read."""
        self.flush()

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _found_or_computed(
        self,
        key: str,
        compute: Callable[[], Any],
        ttl: timedelta,
        stale: timedelta,
        patience: timedelta,
    ) -> Any:
        found = self._find(key, stale, patience)
        if found["state"] == "compute":
            self._uses.miss()
            return self._compute(key, str(found["token"]), compute, ttl, stale)
        if found["state"] == "stale":
            self._uses.stale(key)
        else:
            self._uses.miss()  # it was waited for
        return found["value"]

    def _find(self, key: str, stale: timedelta, patience: timedelta) -> Row:
        """A value, or the right to compute it."""
        began, pause = time.monotonic(), _FIRST_WAIT
        while True:
            found = self._database.ask(_FIND, [key, self._lease, stale, holder()]) or {}
            if found["state"] != "wait":
                return found
            if time.monotonic() - began > patience.total_seconds():
                raise RefusedError(
                    f"{key!r} is still being computed elsewhere, after {patience}",
                    hint="select * from cached_value_leases says by whom; ask with more patience",
                )
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - so that not all look at once
            pause = min(2 * pause, _LONGEST_WAIT)

    def _compute(
        self, key: str, token: str, compute: Callable[[], Any], ttl: timedelta, stale: timedelta
    ) -> Any:
        with held(self._database, key, token, self._lease):
            text = encoded(key, compute())
            row = self._database.ask(_STORE, [key, token, text, ttl, stale])
        if row is None or not row["stored"]:
            log.warning("%r took longer than its lease was renewed; another computes it too", key)
        self._stored_bytes += len(text)
        if self._stored_bytes * _SHARE >= self._most_bytes:
            self._stored_bytes = 0
            bounds.trim_values(self._database, self._most_bytes)
        return json.loads(text)
