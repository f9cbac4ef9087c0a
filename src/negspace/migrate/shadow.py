"""Shadow databases: empty, like the one they stand for, dropped when nobody needs them.

A shadow's name holds the database that it stands for, its maker's process id and the time.
As long as its maker lives, a transaction of it in that database holds an advisory lock on
the name; whoever makes a shadow drops those whose lock nobody holds: a killed maker's.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from negspace.database import Connection, connect, conninfo, in_database, only, sql, translated
from negspace.errors import NegspaceError, RefusedError
from negspace.migrate.queries import query

if TYPE_CHECKING:
    from negspace.settings import Settings

logger = logging.getLogger(__name__)

__all__ = ["Ground", "ground", "shadow"]

_PUBLIC_IS_CLOSED_SINCE: Final = 150_000


@dataclass(frozen=True)
class Ground:
    """The server on which shadows are made.

    Attributes:
        address: As whom the shadow is used; its database is replaced.
        creator: As whom it is made and dropped; the same address where that role may.
        note: What the reader of a proof should know of it, or None.
    """

    address: str
    creator: str
    note: str | None = None


def ground(settings: Settings) -> Ground:
    """Where to make shadows: on the settings' server, or else on the embedded one.

    Raises:
        UnavailableError: No server was reached.
    """
    if settings.embedded and settings.owner_url is None:
        return _embedded(settings)
    address = conninfo(settings, owner=True)
    with connect(address) as connection:
        may = only(
            connection,
            "select rolcreatedb or rolsuper as may, rolname as role"
            " from pg_catalog.pg_roles where rolname = current_user",
        )
        version = connection.info.server_version // 10_000
    if may is None or may["may"]:
        return Ground(address, address)
    note = f"{may['role']} may not create databases on the PostgreSQL {version} of the settings"
    return _embedded(settings, note)


def _embedded(settings: Settings, why: str | None = None) -> Ground:
    from negspace import server

    found = server.ensure(settings)
    note = why and (
        f"{why}: done on the embedded PostgreSQL {found.version}; between versions a view may be"
        " printed otherwise, and a migration do otherwise: what differs may be that alone"
    )
    return Ground(found.socket_address("owner"), found.socket_address("superuser"), note)


@contextmanager
def shadow(place: Ground) -> Generator[str]:
    """An empty database for the block; its address.

    Args:
        place: Where.

    Raises:
        RefusedError: The server lets nobody we know create a database.
        NegspaceError: What else PostgreSQL refused.
    """
    with (
        connect(place.creator, application_name="negspace shadow: lock") as lock,
        connect(place.creator, autocommit=True, application_name="negspace shadow") as creator,
    ):
        with translated():
            _prepare(lock)
            _sweep(lock, creator)
            name = _name(lock)
            _hold(lock, name)
            _create(creator, place, name)
        try:
            yield in_database(place.address, name)
        finally:
            _drop(creator, name)


def _prepare(lock: Connection) -> None:
    """The lock's transaction idles as long as the shadow lives."""
    lock.execute("set transaction isolation level read committed")
    lock.execute("set local idle_in_transaction_session_timeout = 0")
    if lock.info.server_version >= 170_000:
        lock.execute("set local transaction_timeout = 0")


def _hold(lock: Connection, name: str) -> None:
    """Lock the name, with no parameter.

    The portal of a statement with one would stay open, and its snapshot would hold up vacuum
    and CREATE INDEX CONCURRENTLY in the database where the lock is.
    """
    take = sql.SQL("select pg_advisory_xact_lock(hashtextextended({}, 0))")
    lock.execute(take.format(sql.Literal(name)))


def _name(lock: Connection) -> str:
    row = only(lock, "select oid from pg_catalog.pg_database where datname = current_database()")
    return f"negspace_shadow_{row and row['oid']}_{os.getpid()}_{time.time_ns() // 1_000_000}"


def _create(creator: Connection, place: Ground, name: str) -> None:
    with connect(place.address) as connection:
        owner = only(connection, "select current_user as role")
    wanted = {"name": name, "owner": owner and owner["role"]}
    made = creator.execute(query("shadow_create"), wanted).fetchone()
    try:
        with translated():
            creator.execute(str(made and made["statement"]).encode())
    except NegspaceError as error:
        raise RefusedError(
            f"no shadow database can be made: {error.message}",
            hint="give the role CREATEDB, on this server or on one for trials",
        ) from error
    if place.creator != place.address and creator.info.server_version < _PUBLIC_IS_CLOSED_SINCE:
        _close_public(place, name, str(wanted["owner"]))


def _close_public(place: Ground, name: str, owner: str) -> None:
    """The schema public as PostgreSQL 15 and newer make it: its owner's."""
    with connect(in_database(place.creator, name)) as connection:
        connection.execute(sql.SQL("alter schema public owner to {}").format(sql.Identifier(owner)))
        connection.execute("revoke create on schema public from public")


def _sweep(lock: Connection, creator: Connection) -> None:
    for row in lock.execute(query("shadow_stale")).fetchall():
        try:
            _drop(creator, row["name"])
        except NegspaceError as error:  # another role's, whose own next shadow sweeps it
            logger.info("%s is left over, and stays: %s", row["name"], error.message)


def _drop(creator: Connection, name: str) -> None:
    with translated():
        creator.execute(
            sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
        )
