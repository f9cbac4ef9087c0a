"""The pool: transactions of one actor, on connections that others use too."""

from __future__ import annotations

import getpass
import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, LiteralString, TypeVar

from psycopg.rows import RowFactory, args_row, dict_row, scalar_row

from negspace.database.connection import Connection, Query, Row, connect
from negspace.database.failure import translated
from negspace.database.watch import Watched, parameters_of
from negspace.errors import UnavailableError

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

    from negspace.settings import Settings

T = TypeVar("T")

# So soon after its last answer a connection is only looked at, without a round trip (seconds).
_LATELY: Final = 0.5
_STATE: Final[LiteralString] = (
    "select set_config('negspace.user_id', %s, true) as user_id,"
    " set_config('negspace.api_key_id', %s, true),"
    " set_config('negspace.ip_address', %s, true),"
    " set_config('negspace.user_agent', %s, true),"
    " set_config('negspace.request_id', %s, true)"
)
# One statement for both. What follows refers to what is stated, and isn't merged with it, so that
# it can't come first.
_STATED: Final[LiteralString] = (
    "select f.* from (" + _STATE + ") stated cross join lateral (select c.* from "
)
_LATER: Final[LiteralString] = " c where stated.user_id is not null offset 0) f"


@dataclass(frozen=True)
class Actor:
    """Who acts, as the audit trail records it; every part may be unknown."""

    user_id: int | None = None
    api_key_id: int | None = None
    ip_address: str | None = None
    user_agent: str | None = None
    request_id: str | None = None


@dataclass(frozen=True)
class Proof:
    """The call that proves who acts, which each transaction begins with: ``negspace.access``."""

    query: Query
    parameters: Sequence[Any] = field(repr=False)  # hashes of secrets


def program_agent() -> str:
    """What stands for the user agent of somebody at a command line."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have
        name = f"uid {os.getuid()}"
    return f"negspace ({name}@{os.uname().nodename})"


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


class _Pool:
    """The connections that one ``Database`` and its views for other actors share."""

    def __init__(self, address: str, size: PoolSize) -> None:
        self._address = address
        self.size = size
        self._pool: ConnectionPool[Connection] | None = None
        self._opening = threading.Lock()

    @contextmanager
    def leased(self) -> Generator[Connection]:
        """One of them, of this thread alone inside the block."""
        from psycopg_pool import PoolTimeout

        with self._opening:
            pool = self._opened()
        try:
            with pool.connection() as connection:
                yield connection
        except PoolTimeout:
            connect(self._address).close()  # says why, where the server isn't there
            raise UnavailableError(
                f"no free connection within {self.size.acquire_timeout:g} s",
                hint="raise DB_POOL_MAX, or see what holds the connections",
            ) from None

    def _opened(self) -> ConnectionPool[Connection]:
        from psycopg_pool import ConnectionPool

        if self._pool is None:
            connect(self._address).close()  # fails at once, and says why, where a pool would wait
            self._pool = ConnectionPool[Connection](
                connection_class=Watched[Row],
                min_size=self.size.minimum,
                max_size=self.size.maximum,
                timeout=self.size.acquire_timeout,
                max_idle=self.size.idle_timeout,
                kwargs=parameters_of(self._address)
                | {"prepare_threshold": None, "row_factory": dict_row},
                check=_see_alive,
                open=True,
            )
        return self._pool

    def close(self) -> None:
        with self._opening:
            if self._pool is not None:
                self._pool.close()
                self._pool = None


class Database:
    """A pool of connections to one database, for one actor at a time.

    Safe to share between threads; not across ``fork``. Close it, or use it as a context
    manager.

    Attributes:
        address: Where it connects to.
        actor: Whom its transactions are attributed to.
        replica: Where read-only transactions go instead, or None. It is opened by whoever
            names it and closed with this one. The address itself is not connected to before
            something is to be written.
    """

    def __init__(
        self,
        address: str,
        *,
        actor: Actor | None = None,
        pool: PoolSize | None = None,
        replica: Database | None = None,
        proof: Proof | None = None,
    ) -> None:
        self.address = address
        self.actor = actor or Actor(user_agent=program_agent())
        self.replica = replica
        self._proof = proof
        self._pool = _Pool(address, pool or PoolSize())
        self._lent = False

    def acting_as(self, actor: Actor, *, proof: Proof | None = None) -> Database:
        """A view of the same pool whose transactions are attributed to ``actor``.

        Args:
            actor: Who acts, as far as it is known without proof.
            proof: What each transaction proves of it; None: nothing.
        """
        reader = self.replica.acting_as(actor, proof=proof) if self.replica is not None else None
        other = Database(self.address, actor=actor, replica=reader, proof=proof)
        other._pool, other._lent = self._pool, True
        return other

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Generator[Connection]:
        """One transaction: committed at the end of the block, rolled back when it raises.

        Args:
            read_only: Nothing can be written in it; it goes to the replica where there is one.

        Raises:
            NegspaceError: What PostgreSQL raised, or the pool had no connection in time.
        """
        pool = self.reading._pool if read_only else self._pool
        with translated(), pool.leased() as connection, connection.transaction():
            if read_only:
                connection.execute("set transaction read only")
            connection.execute(_STATE, self._stated())
            if self._proof is not None:
                connection.execute(self._proof.query, self._proof.parameters)
            yield connection

    def ask(self, query: Query, parameters: Sequence[Any] = ()) -> Row | None:
        """The first row of one statement that is a transaction of its own: one round trip.

        Nobody is stated to act, so what it does enters no audit trail.

        Raises:
            NegspaceError: As ``transaction`` does.
        """
        return next(iter(self._asked(dict_row, query, parameters)), None)

    def ask_value(self, query: Query, parameters: Sequence[Any] = ()) -> Any:
        """The first column of ``ask``'s row, or None where there is none.

        For whoever asks often: the columns' names are not looked at.

        Raises:
            NegspaceError: As ``transaction`` does.
        """
        return next(iter(self._asked(scalar_row, query, parameters)), None)

    def call(self, function: LiteralString, parameters: Sequence[Any] = ()) -> list[Row]:
        """The rows of a function that is called in a transaction of its own.

        One round trip, where a transaction takes four; with a proof it takes one more than those.

        Args:
            function: The call as it stands after ``from``, or a select in brackets; its alias is c.
            parameters: Its.

        Raises:
            NegspaceError: As ``transaction`` does.
        """
        return self._called(dict_row, function, parameters)

    def call_for(
        self, made: Callable[..., T], function: LiteralString, parameters: Sequence[Any] = ()
    ) -> list[T]:
        """What is made of each of ``call``'s rows, whose values are given in their order.

        For many rows: it takes half as long as what is made of dictionaries.

        Args:
            made: What makes it, such as a dataclass.
            function: As of ``call``.
            parameters: Its.

        Raises:
            NegspaceError: As ``transaction`` does.
        """
        return self._called(args_row(made), function, parameters)

    def _called(
        self, factory: RowFactory[T], function: LiteralString, parameters: Sequence[Any]
    ) -> list[T]:
        if self._proof is None:
            query = _STATED + function + _LATER
            return self._asked(factory, query, [*self._stated(), *parameters])
        with self.transaction() as connection:
            cursor = connection.cursor(row_factory=factory)
            return cursor.execute("select * from " + function + " c", parameters or None).fetchall()

    def _asked(self, factory: RowFactory[T], query: Query, parameters: Sequence[Any]) -> list[T]:
        with translated(), self._pool.leased() as connection:
            connection.autocommit = True
            try:
                cursor = connection.cursor(row_factory=factory)
                return cursor.execute(query, parameters or None).fetchall()
            finally:
                if not connection.closed:
                    connection.autocommit = False

    @property
    def reading(self) -> Database:
        """Where read-only transactions go: the replica, or this one."""
        return self if self.replica is None else self.replica

    def connect(self, *, autocommit: bool = False) -> Connection:
        """A connection of its own, outside the pool; the caller closes it."""
        return connect(self.address, autocommit=autocommit)

    def drop_connections(self) -> None:
        """Let the next transaction connect anew, of this one and of all that share its pool."""
        self._pool.close()

    def close(self) -> None:
        """Close the pool, unless it is another's; a transaction afterwards opens a new one."""
        if self.replica is not None:
            self.replica.close()
        if not self._lent:
            self._pool.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stated(self) -> list[str]:
        actor = self.actor
        return [
            "" if value is None else str(value)
            for value in (
                actor.user_id,
                actor.api_key_id,
                actor.ip_address,
                actor.user_agent,
                actor.request_id,
            )
        ]


def _see_alive(connection: Connection) -> None:
    """Raise where the server has gone, so that the pool hands out another connection."""
    if isinstance(connection, Watched) and connection.answered_within(_LATELY):
        return
    connection.autocommit = True  # or it would begin a transaction
    try:
        connection.execute("")
    finally:
        if not connection.closed:
            connection.autocommit = False
