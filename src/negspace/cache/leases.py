"""The right to compute a value: renewed while somebody computes, given back when that fails."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, LiteralString

from negspace.database import Database
from negspace.errors import NegspaceError

log = logging.getLogger("negspace.cache")

_RENEW: Final[LiteralString] = "select renew_cached_value(%s, %s, %s)"


def holder() -> str:
    """Who computes, as the lease names it."""
    return f"{socket.gethostname()}:{os.getpid()}"


@contextmanager
def held(database: Database, key: str, token: str, lease: timedelta) -> Generator[None]:
    """Renew a lease while the block runs; where the block raises, others may compute at once.

    A process that dies renews no more, so that another takes over when the lease ends.
    """
    ended = threading.Event()
    renewing = threading.Thread(
        target=_renew, args=(database, key, token, lease, ended), daemon=True, name="negspace-lease"
    )
    renewing.start()
    try:
        yield
    except BaseException:
        _give_back(database, key, token)
        raise
    finally:
        ended.set()
        renewing.join()


def _renew(
    database: Database, key: str, token: str, lease: timedelta, ended: threading.Event
) -> None:
    while not ended.wait(lease.total_seconds() / 3):
        try:
            database.ask(_RENEW, [key, token, lease])
        except NegspaceError as error:  # the next time, or another computes it too
            log.warning("the lease of %r is not renewed: %s", key, error.message)


def _give_back(database: Database, key: str, token: str) -> None:
    try:
        database.ask(_RENEW, [key, token, timedelta()])
    except NegspaceError as error:  # it ends by itself
        log.warning("the lease of %r is not given back: %s", key, error.message)
