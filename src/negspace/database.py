"""The database as the services see it: connections, a pool, transactions, errors.

The only module that imports psycopg. Everything runs in ``Database.transaction()``: it
commits when the block ends, rolls back when it raises, states who acts (for the audit
trail), and turns what PostgreSQL raises into ``negspace.errors``.
"""

from __future__ import annotations

import getpass
import os
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, LiteralString, TypeAlias

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from negspace.errors import (
    InvalidInputError,
    NegspaceError,
    SettingsError,
    UnavailableError,
    from_sqlstate,
)

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

    from negspace.settings import Settings

__all__ = [
    "Actor",
    "Answer",
    "Connection",
    "Database",
    "Diagnosis",
    "Executed",
    "Jsonb",
    "Row",
    "attempt",
    "connect",
    "conninfo",
    "diagnosis",
    "execute",
    "in_database",
    "libpq_environment",
    "only",
    "ping",
    "rows",
    "sql",
    "translated",
]

Row: TypeAlias = dict[str, Any]
Connection: TypeAlias = psycopg.Connection[Row]
Query: TypeAlias = LiteralString | sql.SQL | sql.Composed

CONNECT_TIMEOUT: Final = 10  # seconds to wait for a server that doesn't answer


@dataclass(frozen=True)
class Actor:
    """Who acts, as the audit trail records it; every part may be unknown."""

    user_id: int | None = None
    api_key_id: int | None = None
    ip_address: str | None = None
    user_agent: str | None = None
    request_id: str | None = None


def program_agent() -> str:
    """What stands for the user agent of somebody at a command line."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have
        name = f"uid {os.getuid()}"
    return f"negspace ({name}@{os.uname().nodename})"


def conninfo(settings: Settings, *, owner: bool = False) -> str:
    """The connection string of a server that the settings name.

    Args:
        settings: From ``settings.load()``.
        owner: Take ``NEGSPACE_OWNER_URL`` where it is set.

    Returns:
        A libpq connection string.

    Raises:
        SettingsError: The address can't be read, or TLS is asked for in two ways.
    """
    address = settings.owner_url if owner and settings.owner_url else settings.database_url
    if address is not None:
        name = "DATABASE_URL" if address is settings.database_url else "NEGSPACE_OWNER_URL"
        try:
            given = conninfo_to_dict(address.reveal())
        except psycopg.ProgrammingError:
            raise SettingsError(
                f"{name} can't be read",
                hint="it takes postgresql://user:password@host:5432/database",
                variable=name,
            ) from None
    else:
        given = {
            "host": settings.db_host,
            "port": settings.db_port,
            "dbname": settings.db_name,
            "user": settings.db_user,
            "password": settings.db_password.reveal(),
        }
    return make_conninfo("", **(_tls(settings, given) | given))


def _tls(settings: Settings, given: Mapping[str, Any]) -> dict[str, Any]:
    """TLS verified or none: never switched on without verification."""
    if settings.db_ssl:
        mode = given.get("sslmode", "verify-full")
        if mode != "verify-full":
            raise SettingsError(
                f"DB_SSL is on and the address says sslmode={mode}",
                hint="leave sslmode out: DB_SSL=true means verify-full",
                variable="DB_SSL",
            )
        return {"sslmode": mode, "sslrootcert": str(settings.db_ssl_root_cert or "system")}
    return {} if "sslmode" in given else {"sslmode": "disable"}


def in_database(address: str, name: str) -> str:
    """The address of another database on the same server, for the same role."""
    return make_conninfo(address, dbname=name)


def connect(address: str, *, autocommit: bool = False, **options: Any) -> Connection:
    """Open one connection.

    Args:
        address: A libpq connection string or URL.
        autocommit: No transaction around statements.
        options: Further libpq parameters, such as ``application_name``.

    Returns:
        A psycopg connection whose rows are dictionaries. Prepared statements are off, so
        that PgBouncer in transaction mode may stand in between.

    Raises:
        UnavailableError: No server, no such database, or not let in.
    """
    options.setdefault("connect_timeout", CONNECT_TIMEOUT)
    options.setdefault("application_name", "negspace")
    try:
        return psycopg.Connection[Row].connect(
            address,
            autocommit=autocommit,
            prepare_threshold=None,
            row_factory=dict_row,
            **options,
        )
    except psycopg.Error as error:
        raise _unavailable(address, error) from error


class Answer(Enum):
    """What a server says when one knocks."""

    READY = "takes connections"
    BUSY = "starts, recovers or stops"
    NONE = "nobody there"


def ping(**parameters: str | int) -> Answer:
    """Knock at a server; no password is needed, none is sent.

    Args:
        parameters: libpq's, at least ``host`` and ``port``.

    Returns:
        Its answer; NONE too where it is silent for ``CONNECT_TIMEOUT``.
    """
    address = make_conninfo("", connect_timeout=CONNECT_TIMEOUT, sslmode="disable", **parameters)
    answers = {pq.Ping.OK: Answer.READY, pq.Ping.REJECT: Answer.BUSY}
    return answers.get(pq.Ping(pq.PGconn.ping(address.encode())), Answer.NONE)


def libpq_environment(address: str) -> dict[str, str]:
    """The address as the variables that psql and its kin read, so that no option shows it."""
    return {
        option.envvar.decode(): option.val.decode()
        for option in pq.Conninfo.parse(address.encode())
        if option.envvar and option.val
    }


def _unavailable(address: str, error: psycopg.Error) -> UnavailableError:
    target = conninfo_to_dict(address)
    where = f"{target.get('host', 'localhost')}:{target.get('port', 5432)}"
    said = " ".join(str(error).split()).removeprefix("connection failed: ")
    who = f"database {target.get('dbname')!r} as {target.get('user')!r}"
    refused = bool(error.pgconn and (error.pgconn.needs_password or error.pgconn.used_password))
    hint = (
        "see DB_PASSWORD, DB_USER and DB_NAME, or these parts of DATABASE_URL"
        if refused
        else "is the server up? DB_HOST, DB_PORT, DB_NAME or DATABASE_URL name it;"
        " with none of them set, negspace runs its own"
    )
    return UnavailableError(f"can't reach {who} at {where}: {said}", hint=hint)


def translate(error: psycopg.Error) -> NegspaceError:
    """The error of ours that says what PostgreSQL raised."""
    diagnosis = error.diag
    message = diagnosis.message_primary or " ".join(str(error).split()) or "connection lost"
    if isinstance(error, psycopg.DataError) and error.sqlstate is None:
        return InvalidInputError(message)  # psycopg itself refused it: a NUL in a text, say
    return from_sqlstate(
        error.sqlstate,
        message,
        hint=diagnosis.message_hint,
        constraint=diagnosis.constraint_name,
        detail=diagnosis.message_detail,
    )


@dataclass(frozen=True)
class Diagnosis:
    """All that PostgreSQL said about a failure, for whoever wrote the statement.

    Attributes:
        position: Where in the statement, in characters from 1, or None.
        context: The call stack of functions, or None.
    """

    message: str
    sqlstate: str | None = None
    detail: str | None = None
    hint: str | None = None
    position: int | None = None
    context: str | None = None


def diagnosis(error: BaseException) -> Diagnosis | None:
    """What PostgreSQL said, or None where ``error`` did not come from a database."""
    if not isinstance(error, psycopg.Error):
        return None
    said = error.diag
    return Diagnosis(
        message=said.message_primary or " ".join(str(error).split()) or "connection lost",
        sqlstate=error.sqlstate,
        detail=said.message_detail,
        hint=said.message_hint,
        position=int(said.statement_position) if said.statement_position else None,
        context=said.context,
    )


@dataclass(frozen=True)
class Executed:
    """What became of SQL that was not written here.

    Attributes:
        rows: How many it inserted, updated, deleted or copied; None where it tells none.
        failure: What PostgreSQL said against it, or None.
    """

    rows: int | None = None
    failure: Diagnosis | None = None


def execute(connection: Connection, statement: bytes) -> Executed:
    """Execute SQL that was not written here, as it stands.

    Args:
        connection: Its client encoding is that of ``statement``.
        statement: One statement, or several without parameters.
    """
    try:
        cursor = connection.execute(statement)
    except psycopg.Error as error:
        return Executed(failure=diagnosis(error))
    counts = [_touched(cursor)]
    while cursor.nextset():
        counts.append(_touched(cursor))
    told = [count for count in counts if count is not None]
    return Executed(sum(told) if told else None)


def _touched(cursor: psycopg.Cursor[Row]) -> int | None:
    """The rows that the command wrote; those of a SELECT only where it made a table of them."""
    command = (cursor.statusmessage or "").partition(" ")[0]
    writes = command in {"INSERT", "UPDATE", "DELETE", "MERGE", "COPY"}
    if writes or (command == "SELECT" and cursor.description is None):
        return max(cursor.rowcount, 0)
    return None


def attempt(connection: Connection, statement: bytes) -> Diagnosis | None:
    """``execute``, where only the failure matters: None where it succeeded."""
    return execute(connection, statement).failure


@contextmanager
def translated() -> Generator[None]:
    """Raise ``NegspaceError`` for what psycopg raises inside the block."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error


def rows(
    connection: Connection, query: Query, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> list[Row]:
    """All rows of a query."""
    return connection.execute(query, parameters or None).fetchall()


def only(
    connection: Connection, query: Query, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> Row | None:
    """The first row of a query, or None."""
    return connection.execute(query, parameters or None).fetchone()


class Database:
    """A pool of connections to one database, for one actor at a time.

    Safe to share between threads; not across ``fork``. Close it, or use it as a context
    manager.
    """

    def __init__(
        self, address: str, *, actor: Actor | None = None, pool: PoolSize | None = None
    ) -> None:
        self.address = address
        self.actor = actor or Actor(user_agent=program_agent())
        self._size = pool or PoolSize()
        self._pool: ConnectionPool[Connection] | None = None
        self._lent = False
        self._opening = threading.Lock()

    def acting_as(self, actor: Actor) -> Database:
        """A view of the same pool whose transactions are attributed to ``actor``."""
        with self._opening:
            other = Database(self.address, actor=actor, pool=self._size)
            other._pool, other._lent = self._opened(), True
            return other

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Generator[Connection]:
        """One transaction: committed at the end of the block, rolled back when it raises.

        Raises:
            NegspaceError: What PostgreSQL raised, or the pool had no connection in time.
        """
        with translated(), self._leased() as connection, connection.transaction():
            if read_only:
                connection.execute("set transaction read only")
            self._state_actor(connection)
            yield connection

    def connect(self, *, autocommit: bool = False) -> Connection:
        """A connection of its own, outside the pool; the caller closes it."""
        return connect(self.address, autocommit=autocommit)

    def close(self) -> None:
        """Close the pool, unless it is another's; a transaction afterwards opens a new one."""
        with self._opening:
            if self._pool is not None:
                if not self._lent:
                    self._pool.close()
                self._pool = None

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _state_actor(self, connection: Connection) -> None:
        actor = self.actor
        connection.execute(
            "select set_config('negspace.user_id', %s, true),"
            " set_config('negspace.api_key_id', %s, true),"
            " set_config('negspace.ip_address', %s, true),"
            " set_config('negspace.user_agent', %s, true),"
            " set_config('negspace.request_id', %s, true)",
            [
                "" if value is None else str(value)
                for value in (
                    actor.user_id,
                    actor.api_key_id,
                    actor.ip_address,
                    actor.user_agent,
                    actor.request_id,
                )
            ],
        )

    @contextmanager
    def _leased(self) -> Generator[Connection]:
        from psycopg_pool import PoolTimeout

        with self._opening:
            pool = self._opened()
        try:
            with pool.connection() as connection:
                yield connection
        except PoolTimeout:
            connect(self.address).close()  # says why, where the server isn't there
            raise UnavailableError(
                f"no free connection within {self._size.acquire_timeout:g} s",
                hint="raise DB_POOL_MAX, or see what holds the connections",
            ) from None

    def _opened(self) -> ConnectionPool[Connection]:
        from psycopg_pool import ConnectionPool

        if self._pool is None:
            connect(self.address).close()  # fails at once, and says why, where a pool would wait
            self._pool = ConnectionPool[Connection](
                self.address,
                connection_class=psycopg.Connection[Row],
                min_size=self._size.minimum,
                max_size=self._size.maximum,
                timeout=self._size.acquire_timeout,
                max_idle=self._size.idle_timeout,
                kwargs={
                    "prepare_threshold": None,
                    "row_factory": dict_row,
                    "application_name": "negspace",
                },
                check=_see_alive,
                open=True,
            )
        return self._pool


def _see_alive(connection: Connection) -> None:
    """Raise where the server has gone, so that the pool hands out another connection."""
    connection.execute("")


@dataclass(frozen=True)
class PoolSize:
    """How many connections a pool keeps, and how long it waits, in seconds."""

    minimum: int = 2
    maximum: int = 10
    acquire_timeout: float = 30.0
    idle_timeout: float = 30.0

    @classmethod
    def of(cls, settings: Settings) -> PoolSize:
        """The sizes that the settings ask for."""
        return cls(
            settings.db_pool_min,
            settings.db_pool_max,
            settings.db_pool_acquire_timeout,
            settings.db_pool_idle_timeout,
        )
