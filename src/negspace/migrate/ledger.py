"""The history of the migrations, in the database that they changed, and the run's lock.

The table ``public.negspace_migrations`` is append-only, enforced by a trigger: no row is ever
updated. Every attempt is a row: ``success`` and ``rolled_back`` rows are written by the very
transaction that applied or undid the migration, ``failed`` ones by a transaction of their own
after the rollback. A migration that runs outside a transaction has a ``running`` row first,
and a second one that says how it ended; where that is missing, the runner was killed. What is
applied now follows from the newest rows, by one query.
"""

from __future__ import annotations

import getpass
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID, uuid4

from negspace import __version__
from negspace.database import Connection, Jsonb, connect, translated
from negspace.errors import DatabaseError, RefusedError
from negspace.migrate.names import Key, key_of
from negspace.migrate.queries import query
from negspace.migrate.script import MigrationFile

__all__ = [
    "Applied",
    "Entry",
    "Holder",
    "Ledger",
    "NewEntry",
    "RunLock",
    "Standing",
    "hold_session",
    "hold_transaction",
]

FORMAT: Final = 1  # as the comment of the table says it, in queries/ledger_create.sql
_FORMAT_SAID: Final = re.compile(r"negspace ledger, format (\d+)")
_UNDEFINED_TABLE: Final = "42P01"
_INVALID_SCHEMA: Final = "3F000"


@dataclass(frozen=True)
class Applied:
    """Where one migration stands in the ledger.

    Attributes:
        settled_id: The ledger's row that says so: applied ones were applied in this order.
        last_status: The status of its last attempt, which may have failed.
    """

    name: str
    version: str
    applied: bool
    settled_id: int
    batch: int
    checksum: str | None
    checksum_algorithm: str | None
    bytes_sha256: str | None
    applied_at: datetime | None
    duration_ms: float | None
    last_status: str
    last_error: str | None


@dataclass(frozen=True)
class Standing:
    """What every plan starts from: the ledger's present state, and which server it is on."""

    by_key: Mapping[Key, Applied] = field(default_factory=dict)
    last_batch: int = 0
    server_version: int = 180_000

    @cached_property
    def applied(self) -> list[Applied]:
        """What is applied now, in the order in which it was."""
        rows = [row for row in self.by_key.values() if row.applied]
        return sorted(rows, key=lambda row: row.settled_id)

    @cached_property
    def newest(self) -> Key | None:
        """The key of the last in the folder's order that is applied; None where none is."""
        return max((key for key, row in self.by_key.items() if row.applied), default=None)


@dataclass(frozen=True)
class Entry:
    """One row of the ledger: one attempt."""

    id: int
    run_id: UUID
    batch: int
    version: str
    name: str
    direction: str
    status: str
    duration_ms: float | None
    error_message: str | None
    sqlstate: str | None
    started_at: datetime
    completed_at: datetime | None
    rolled_back_at: datetime | None
    executed_by: str
    host: str
    tool_version: str
    checksum: str | None
    checksum_algorithm: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True)
class NewEntry:
    """A row that the ledger is to have.

    Attributes:
        duration_ms: How long the attempt took, up to the moment in which this was made.
        made: That moment, on the monotonic clock.
    """

    name: str
    version: str
    file: MigrationFile
    batch: int
    direction: str
    status: str
    duration_ms: float = 0.0
    error_message: str | None = None
    sqlstate: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])
    made: float = field(default_factory=time.monotonic)

    def written(self, now: float) -> dict[str, object]:
        """As queries/ledger_insert.sql takes it."""
        return {
            "name": self.name,
            "version": self.version,
            "batch": self.batch,
            "direction": self.direction,
            "status": self.status,
            "checksum": self.file.checksum,
            "checksum_algorithm": self.file.algorithm,
            "bytes_sha256": self.file.bytes_checksum,
            "duration_ms": self.duration_ms,
            "ago_ms": (now - self.made) * 1000,
            "error_message": self.error_message,
            "sqlstate": self.sqlstate,
            "metadata": dict(self.metadata),
        }


class Ledger:
    """The history table, as one run writes it and everything reads it."""

    def __init__(self, connection: Connection, run_id: UUID | None = None) -> None:
        self._connection = connection
        self.run_id = run_id or uuid4()

    def standing(self) -> Standing:
        """Where each migration stands, by one query; empty where there is no ledger yet."""
        rows = self._rows("ledger_state", {})
        by_key: dict[Key, Applied] = {}
        last_batch = 0
        for row in sorted(rows, key=lambda row: row.pop("last_id")):
            last_batch = row.pop("last_batch")
            by_key[key_of(row["name"])] = Applied(**row)
        return Standing(by_key, last_batch, self._connection.info.server_version)

    def history(self, count: int | None) -> list[Entry]:
        """The newest rows first: ``count`` of them, or all."""
        return [Entry(**row) for row in self._rows("ledger_history", {"count": count})]

    def _rows(self, name: str, parameters: dict[str, object]) -> list[dict[str, Any]]:
        self._refuse_newer()
        try:
            with translated():
                return self._connection.execute(query(name), parameters or None).fetchall()
        except DatabaseError as error:
            if error.details.get("sqlstate") in {_UNDEFINED_TABLE, _INVALID_SCHEMA}:
                return []
            raise

    def _refuse_newer(self) -> None:
        """A ledger of a newer negspace may mean what this one can't know: say so, touch nothing.

        Raises:
            RefusedError: It is of a newer format than this negspace writes.
        """
        with translated():
            row = self._connection.execute(
                "select obj_description(to_regclass('public.negspace_migrations'), 'pg_class')"
                " as said"
            ).fetchone()
        said: str | None = row["said"] if row else None
        found = _FORMAT_SAID.search(said or "")
        if found and int(found[1]) > FORMAT:
            raise RefusedError(
                f"the migration ledger is of format {found[1]}, and negspace {__version__} knows"
                f" formats up to {FORMAT}: a newer negspace has written it",
                hint="use that negspace, or a newer one; nothing was touched",
            )

    def create(self) -> None:
        """Make the table where it isn't there; the caller holds the lock."""
        with translated():
            found = self._connection.execute(
                "select to_regclass('public.negspace_migrations') is not null as there"
            ).fetchone()
            if not (found and found["there"]):
                self._connection.execute(query("ledger_create"))

    def write(self, rows: Sequence[NewEntry]) -> None:
        """Append rows, in the connection's present transaction and in one round trip."""
        now = time.monotonic()
        with translated():
            self._connection.execute(
                query("ledger_insert"),
                {
                    "run_id": self.run_id,
                    "host": _host(),
                    "tool_version": __version__,
                    "rows": Jsonb([row.written(now) for row in rows]),
                },
            )


def _host() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have
        user = f"uid {os.getuid()}"
    return f"{user}@{os.uname().nodename}"


# ── the lock ─────────────────────────────────────────────────────────────────────────────


def hold_session(connection: Connection) -> None:
    """Let the next run see, as long as this session lives, that this run isn't over.

    A run that is killed frees its lock at once, and what it had sent may still be at work, or
    be committing. Behind a pooler a session is not ours to mark: there each transaction is
    (``hold_transaction``), and each statement outside of one by a comment.
    """
    row = connection.execute("select pg_backend_pid() as pid").fetchone()
    if row and row["pid"] == connection.info.backend_pid:  # a pooler makes its own up
        connection.execute("select pg_advisory_lock_shared(7954877976375027571)")


def hold_transaction(connection: Connection) -> None:
    """The same, as long as the present transaction lives."""
    connection.execute("select pg_advisory_xact_lock_shared(7954877976375027571)")


@dataclass(frozen=True)
class Holder:
    """Who holds the lock that a run waits for."""

    pid: int
    application: str
    user: str | None
    since: datetime | None


class RunLock(AbstractContextManager["RunLock"]):
    """At most one run at a time in a database.

    A transaction-level advisory lock on a connection of its own, so that it holds behind
    PgBouncer in transaction mode too and goes with the connection, whatever ends the process.
    The transaction is READ COMMITTED and has no snapshot while it idles: it holds up neither
    vacuum nor CREATE INDEX CONCURRENTLY, as long as nothing is asked on it while a statement
    runs. It is tried, not waited for, each time in a transaction of its own: a waiter that has
    a snapshot would deadlock with CREATE INDEX CONCURRENTLY in the holder.

    Args:
        address: Of the database.
        on_wait: Called with the holder when there is one to wait for, and when it changes.
    """

    LONGEST_PAUSE: Final = 1.0  # seconds

    def __init__(self, address: str, on_wait: Callable[[Holder], None] | None = None) -> None:
        self._address = address
        self._on_wait = on_wait
        self._connection: Connection | None = None
        self.waited_ms = 0.0

    def __enter__(self) -> Self:
        self._connection = connect(self._address, application_name="negspace migrate: lock")
        try:
            with translated():
                self._acquire(self._connection)
        except BaseException:
            self._connection.close()
            raise
        return self

    def _acquire(self, connection: Connection) -> None:
        began, pause, told = time.monotonic(), 0.02, None
        while True:
            taken = self._try(connection)
            holder = self._ask(connection, "lock_predecessor" if taken else "lock_holder")
            if taken and holder is None:
                break
            connection.rollback()  # what is in the way may itself wait for our snapshot
            if holder is not None and holder.pid != told and self._on_wait is not None:
                told = holder.pid
                self._on_wait(holder)
            time.sleep(pause)
            pause = min(pause * 1.5, self.LONGEST_PAUSE)
        self.waited_ms = (time.monotonic() - began) * 1000

    def _try(self, connection: Connection) -> bool:
        connection.execute("set transaction isolation level read committed")
        connection.execute("set local idle_in_transaction_session_timeout = 0")
        if connection.info.server_version >= 170_000:
            connection.execute("set local transaction_timeout = 0")
        row = connection.execute(query("lock_take")).fetchone()
        return bool(row and row["taken"])

    def _ask(self, connection: Connection, who: str) -> Holder | None:
        row = connection.execute(query(who)).fetchone()
        return Holder(**row) if row else None

    def see_alive(self) -> None:
        """Make sure that the lock is still held, just before a commit.

        Raises:
            NegspaceError: Its connection is gone, and with it the lock.
        """
        if self._connection is not None:
            with translated():
                self._connection.execute("select 1")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._connection is not None:
            self._connection.close()
