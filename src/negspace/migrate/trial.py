"""A folder's migrations on a shadow database, one by one, forth and back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self, TypeVar

from negspace.database import Connection, connect, only, sql, translated
from negspace.errors import NegspaceError
from negspace.migrate import catalog, rows
from negspace.migrate.execute import Run
from negspace.migrate.failure import Failure
from negspace.migrate.files import Migration
from negspace.migrate.filling import Filler, Unfilled
from negspace.migrate.ledger import RunLock
from negspace.migrate.lexer import Statement
from negspace.migrate.plan import Plan, Step, bounded
from negspace.migrate.public_schema import RIGHTS, everybodys_rights
from negspace.migrate.script import MigrationFile
from negspace.migrate.session import Options, open_session
from negspace.migrate.shadow import Ground, shadow
from negspace.migrate.statements import is_cluster_wide

__all__ = ["Built", "LeftAside", "Trial"]

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

_MAKES_ROLE: Final = (("create", "role"), ("create", "user"), ("create", "group"))


@dataclass(frozen=True)
class LeftAside:
    """A statement that was not run, since it would change what the whole server shares."""

    file: str
    line: int
    statement: str


@dataclass(frozen=True)
class Built:
    """What migrations made of an empty database.

    Attributes:
        rights: What PUBLIC may do in the schema public.
        left: Those of ``public_schema.RIGHTS`` that they left as they found them there.
    """

    catalog: catalog.Catalog
    rights: frozenset[str]
    left: frozenset[str]


@dataclass
class Trial:
    """Applies and undoes migrations on shadows; a context manager.

    What belongs to the whole server is left as it is: roles, its settings, other databases.
    A role that is missing is made, so that privileges can be granted, and dropped at the end.

    Args:
        place: Where the shadows are made.
        migrations: In order.
    """

    place: Ground
    migrations: Sequence[Migration]
    left_aside: dict[LeftAside, None] = field(default_factory=dict)
    _roles: dict[str, None] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._drop_roles()

    def start(self, count: int, *, filled: bool) -> None:
        """A new shadow with the first migrations applied; rows come after the last of them.

        Raises:
            MigrationError: One of them fails on tables without rows.
        """
        self._stack.close()
        self._address = self._stack.enter_context(shadow(self.place))
        self._lock = self._stack.enter_context(RunLock(self._address))
        self._session = self._stack.enter_context(_Session(self._address))
        self._rights_at_first = everybodys_rights(self._session.connection)
        for migration in self.migrations[:count]:
            failure = self.up(migration)
            if failure is not None:
                raise failure.error()
        if filled:
            self.fill(None)

    def up(self, migration: Migration) -> Failure | None:
        """Apply it."""
        return self._run(migration, "up", migration.up)

    def down(self, migration: Migration) -> Failure | None:
        """Undo it; it has a way down."""
        return self._run(migration, "down", migration.down or migration.up)

    def catalog(self) -> catalog.Catalog:
        """What the shadow consists of now."""
        return catalog.read(self._session.connection)

    def built(self) -> Built:
        """What the migrations have made of the empty database."""
        rights = everybodys_rights(self._session.connection)
        return Built(self.catalog(), rights, RIGHTS - (rights ^ self._rights_at_first))

    def rows(self) -> rows.Snapshot:
        """What rows it holds now."""
        return rows.read_rows(self._session.connection)

    def fill(self, tables: Collection[str] | None) -> tuple[Unfilled, ...]:
        """Make rows: in those tables and the empty ones, or in all of them."""
        return Filler(self._session.connection).fill(tables)

    def read(self, reader: Callable[[Connection], _T]) -> _T:
        """What somebody reads from the shadow."""
        return reader(self._session.connection)

    # ── running ──────────────────────────────────────────────────────────────────────────

    def _run(self, migration: Migration, direction: str, file: MigrationFile) -> Failure | None:
        connection = self._session.connection
        step = Step(migration.name, migration.version, direction, file, 1, file.transaction)
        path = file.path.name
        options = Options(
            fingerprint=False,
            left_out=lambda statement: self._is_left(connection, path, statement),
        )
        plan = Plan(direction, 1, bounded((step,), connection.info.server_version))
        return Run(self._address, connection, self._lock, plan, options).result().failure

    def _is_left(self, connection: Connection, file: str, statement: Statement) -> bool:
        if not is_cluster_wide(statement):
            return False
        if any(statement.begins(*words) for words in _MAKES_ROLE):
            role = statement.tokens[2].strip('"').replace('""', '"')
            there = only(connection, "select from pg_catalog.pg_roles where rolname = %s", [role])
            if there is None:
                self._roles[role] = None
                return False
            if role in self._roles:  # made by an up before
                return True
        self.left_aside[LeftAside(file, statement.line, _first_words(statement))] = None
        return True

    def _drop_roles(self) -> None:
        """After the shadow: nothing needs these roles any more, unless somebody else does."""
        with connect(self.place.address, autocommit=True) as connection:
            for role in self._roles:
                try:
                    with translated():
                        connection.execute(
                            sql.SQL("drop role if exists {}").format(sql.Identifier(role))
                        )
                except NegspaceError as error:
                    logger.info("the role %s stays: %s", role, error.message)


_WORDS: Final = 4


def _first_words(statement: Statement) -> str:
    return " ".join(statement.text.split()[:_WORDS])


class _Session:
    """A session that a failed run may close; then the next one is opened."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = open_session(self._address)
        return self._connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
