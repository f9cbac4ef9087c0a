"""The one moment whose state a backup holds: marked in the log, and read by a snapshot.

For a physical backup the moment must be the same in the write-ahead log, where a restore
stops, and in a snapshot, by which everything is counted and hashed. So for some milliseconds
nobody writes: all tables are locked in SHARE mode, by one statement that gives up after a
tenth of a second, long before PostgreSQL would look for deadlocks, and is tried again.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from negspace import database
from negspace.backup import facts
from negspace.database import Connection, only, sql, translated
from negspace.errors import DatabaseError, RefusedError

PATIENCE: Final = 60.0  # seconds in which a moment without writers is looked for
_PAUSE: Final = 0.2
_LOCK_NOT_AVAILABLE: Final = "55P03"


@dataclass(frozen=True)
class Moment:
    """A moment of the database.

    Attributes:
        taken_at: When.
        lsn: Everything that was committed by then lies before it in the log, all else after.
        after: The log is complete once it was received up to here.
        exact: Nobody was writing; else the log and the snapshot may differ by who was.
    """

    taken_at: datetime
    lsn: str
    after: str
    exact: bool


@contextmanager
def snapshot(address: str) -> Generator[Connection]:
    """A connection that will see one moment, from its first statement on."""
    with translated(), database.connect(address, autocommit=True) as connection:
        connection.execute("set idle_in_transaction_session_timeout = 0")
        connection.execute("set statement_timeout = 0")
        connection.execute("begin isolation level repeatable read read only")
        yield connection
        connection.execute("rollback")


def mark(address: str, reader: Connection, patience: float = PATIENCE) -> Moment:
    """Mark a moment in the log, and let the reader's snapshot be of that moment.

    Args:
        address: Of a role that may lock every table.
        reader: From ``snapshot``, not yet asked anything.
        patience: Seconds until the moment is marked although somebody writes.
    """
    end = time.monotonic() + patience
    with translated(), database.connect(address) as writer:
        tables = facts.table_names(writer)
        writer.rollback()
        while True:
            exact = not tables or _locked(writer, tables)
            if exact or time.monotonic() >= end:
                return _marked(writer, reader, exact=exact)
            time.sleep(_PAUSE)


def _locked(writer: Connection, tables: list[tuple[str, str]]) -> bool:
    names = sql.SQL(", ").join(sql.Identifier(*table) for table in tables)
    try:
        with translated():
            writer.execute("set local lock_timeout = '100ms'")
            writer.execute(sql.SQL("lock table {} in share mode").format(names))
            return True
    except DatabaseError as error:
        writer.rollback()
        if error.details.get("sqlstate") != _LOCK_NOT_AVAILABLE:
            raise
        return False


def _marked(writer: Connection, reader: Connection, *, exact: bool) -> Moment:
    reader.execute("select 1")
    here = (
        only(
            writer,
            "select clock_timestamp() as now, pg_current_wal_insert_lsn()::text as lsn",
        )
        or {}
    )
    writer.rollback()  # the locks go
    # A record after the moment, where recovery stops; its commit brings the log to the disk.
    writer.execute("set local synchronous_commit = local")
    mark = only(writer, "select pg_logical_emit_message(true, 'negspace', 'backup')::text as lsn")
    writer.commit()
    return Moment(here["now"], here["lsn"], mark["lsn"] if mark else here["lsn"], exact)


@contextmanager
def files_held(address: str) -> Generator[None]:
    """No stored file is removed while the block runs: rows of the backup may name it.

    Raises:
        RefusedError: Another backup of this database is being taken.
    """
    with translated(), database.connect(address, autocommit=True) as connection:
        connection.execute("set idle_session_timeout = 0")
        row = only(
            connection,
            "select pg_try_advisory_lock(hashtextextended('negspace.backup', 0)) as held",
        )
        if not row or not row["held"]:
            _wait(connection)
        yield


def _wait(connection: Connection) -> None:
    """Who removes a file holds the lock for a moment; another backup for long."""
    connection.execute("set lock_timeout = '5s'")
    try:
        with translated():
            connection.execute("select pg_advisory_lock(hashtextextended('negspace.backup', 0))")
    except DatabaseError as error:
        if error.details.get("sqlstate") != _LOCK_NOT_AVAILABLE:
            raise
        raise RefusedError(
            "another backup of this database is being taken", hint="try again when it is done"
        ) from error
