"""What a check is, what it looks at, and what it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from negspace import database
from negspace.database import Connection, Query, Row
from negspace.errors import AccessError, NegspaceError, RefusedError
from negspace.settings import Settings
from negspace.storage import Storage

Status: TypeAlias = Literal["well", "found", "unknown"]


@dataclass(frozen=True)
class Limits:
    """From where on a check finds something.

    Attributes:
        clock_skew: Seconds between this machine's clock and the server's.
        months_ahead: Months after this one whose partitions must be there.
        snapshot: How long a transaction may hold vacuum up.
        held_transactions: How many transactions may have begun since, where its age is hidden.
        retained_wal: Bytes of WAL that an unused replication slot may keep.
        dead_rows: Dead rows of a table, where they are more than ``dead_share`` of it too.
        dead_share: Of all its rows, from 0 to 1.
        claim_index: Bytes of an index of the waiting jobs, beside 1 kB for each of them.
        unused_index: Bytes of an index that nothing has read since statistics began.
        unused_for: How long statistics must have been kept to tell.
        waiting: How long a job that could run may wait.
        backlog_growth: By how many jobs the queue may grow within ``backlog_span``.
        backlog_span: The time that growth is counted in.
        silence: How long a worker may be silent.
        running: How long a job may run.
        cache: Bytes of the result cache.
        unkept: How long a step of housekeeping may be overdue.
        unsealed: How long an audit event may wait for its seal.
        free_bytes: Bytes that must be free where files are written.
        free_share: Share of the disk that must be free.
        files: Images up to which the files are compared with the rows without being asked to.
    """

    clock_skew: float = 2.0
    months_ahead: int = 1
    snapshot: timedelta = timedelta(minutes=15)
    held_transactions: int = 1_000_000
    retained_wal: int = 10 * 2**30
    dead_rows: int = 10_000
    dead_share: float = 0.3
    claim_index: int = 32 * 2**20
    unused_index: int = 64 * 2**20
    unused_for: timedelta = timedelta(days=7)
    waiting: timedelta = timedelta(hours=1)
    backlog_growth: int = 1000
    backlog_span: timedelta = timedelta(minutes=10)
    silence: timedelta = timedelta(minutes=1)
    running: timedelta = timedelta(hours=24)
    cache: int = 10 * 2**30
    unkept: timedelta = timedelta(hours=1)
    unsealed: timedelta = timedelta(days=1)
    free_bytes: int = 2**30
    free_share: float = 0.05
    files: int = 10_000


@dataclass(frozen=True)
class Patient:
    """What is examined.

    Attributes:
        settings: Which server and storage.
        address: As the services reach the database; None where no server is there.
        operator: As its operator does: the owner, on the embedded server the superuser.
        connection: The operator's, read only, each query a transaction of its own. None where
            the database wasn't reached.
        storage: The image files.
        unreached: Why it wasn't reached.
        limits: From where on something is found.
        deep: Take the time that slow checks need.
        now: This machine's clock, in seconds since 1970.
    """

    settings: Settings
    address: str | None
    operator: str | None
    connection: Connection | None
    storage: Storage
    unreached: NegspaceError | None = None
    limits: Limits = field(default_factory=Limits)
    deep: bool = False
    now: Callable[[], float] = time.time

    @property
    def reached(self) -> Connection:
        """The operator's connection.

        Raises:
            RefusedError: The database wasn't reached.
        """
        if self.connection is None:
            raise RefusedError("the database wasn't reached")
        return self.connection

    @property
    def services(self) -> str:
        """The services' address.

        Raises:
            RefusedError: The database wasn't reached.
        """
        if self.address is None:
            raise RefusedError("the database wasn't reached")
        return self.address

    def rows(self, query: Query, given: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        """All rows of a query, as the operator."""
        return database.examined(self.reached, query, given)

    def row(self, query: Query, given: Sequence[Any] | Mapping[str, Any] = ()) -> Row:
        """The one row of a query, as the operator."""
        return self.rows(query, given)[0]


@dataclass(frozen=True)
class Fault:
    """Something that is wrong.

    Attributes:
        what: Where, and how much of it.
        remedy: The command that mends it.
    """

    what: str
    remedy: str


@dataclass(frozen=True)
class Check:
    """One thing that is looked at.

    Attributes:
        name: A word or two.
        matters: Why it does, where it finds something.
        look: Looks, and says what is wrong. What it raises says why it couldn't look.
        asked: The option without which it isn't run, or None.
    """

    name: str
    matters: str
    look: Callable[[Patient], Iterator[Fault]]
    asked: Literal["deep", "security"] | None = None


@dataclass(frozen=True)
class Finding:
    """What a check says.

    Attributes:
        check: Its name.
        status: ``well``, ``found`` (something is wrong) or ``unknown`` (it couldn't look).
        found: What is wrong, or why it couldn't look; None where all is well.
        matters: Why that matters.
        remedy: The command that mends it, or what lets it look.
    """

    check: str
    status: Status
    found: str | None = None
    matters: str | None = None
    remedy: str | None = None


def run(check: Check, patient: Patient) -> list[Finding]:
    """What one check says: a finding for each fault, or one that all is well."""
    try:
        with database.translated():
            found = list(check.look(patient))
    except AccessError as error:
        hint = error.hint or "let NEGSPACE_OWNER_URL name the owner, who may look"
        return [Finding(check.name, "unknown", error.message, None, hint)]
    except NegspaceError as error:
        return [Finding(check.name, "unknown", error.message, None, error.hint)]
    except OSError as error:
        said = f"{error.filename or 'the file system'}: {error.strerror or error}"
        return [Finding(check.name, "unknown", said)]
    if not found:
        return [Finding(check.name, "well")]
    return [Finding(check.name, "found", one.what, check.matters, one.remedy) for one in found]


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def size(count: float) -> str:
    """Bytes as a person reads them."""
    units = ("B", "kB", "MB", "GB")
    for unit in units:
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def span(seconds: float) -> str:
    """Seconds as a person reads them."""
    for name, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{seconds:.0f} s"
