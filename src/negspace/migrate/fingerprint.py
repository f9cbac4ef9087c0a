"""The catalog in one number, for the ledger: the same for databases that mean the same."""

from __future__ import annotations

import hashlib
from typing import Final

from negspace.database import Connection, translated
from negspace.errors import DatabaseError
from negspace.migrate.catalog import Catalog, read

__all__ = ["of_catalog", "of_database"]

_LOCK_NOT_AVAILABLE: Final = "55P03"


def of_catalog(catalog: Catalog) -> str:
    """SHA-256 of the canonical catalog, in hexadecimal."""
    digest = hashlib.sha256()
    for thing in catalog.objects:
        digest.update(f"{thing.identity}\0{thing.canonical}\0".encode())
    return digest.hexdigest()


def of_database(connection: Connection) -> str | None:
    """The fingerprint of what the connection sees now.

    PostgreSQL locks what it prints, for a moment, as a reader does. None where somebody holds
    a table so strongly that not even that may be had at once: a run waits for nobody's table
    but those that it changes.

    Raises:
        NegspaceError: What PostgreSQL refused.
    """
    try:
        with translated(), connection.transaction(force_rollback=True):
            connection.execute("set local lock_timeout = '100ms'")
            return of_catalog(read(connection))
    except DatabaseError as error:
        if error.details.get("sqlstate") != _LOCK_NOT_AVAILABLE:
            raise
        return None
