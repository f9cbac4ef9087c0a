"""Whether a database's schema is the one that this negspace is for.

A program that runs on an older or a newer schema works until it calls what isn't there, or
is there with another meaning. So it is asked once, at the start, by one query.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, LiteralString

from negspace import __version__
from negspace.database import Connection, Database, only
from negspace.errors import AccessError, NegspaceError, RefusedError

__all__ = ["MIGRATIONS", "explained", "lacking", "see", "see_operator", "sees_all_rows", "unknown"]

MIGRATIONS: Final = Path(__file__).parent / "sql" / "migrations"

_UP: Final = ".up.sql"
_REPLACES: Final = re.compile(r"^-- negspace: replaces (\S+)", re.MULTILINE)
_UNDEFINED_FUNCTION: Final = "42883"


def see(connection: Connection, folder: Path = MIGRATIONS) -> None:
    """Refuse a database whose migrations are not those of this negspace.

    Args:
        connection: Of the services; the caller's transaction.
        folder: The migrations that this negspace ships.

    Raises:
        RefusedError: The schema is older or newer, or nothing says which it is.
        DatabaseError: There is no schema of ours, or one from before this could be asked;
            ``explained`` says which.
    """
    row = only(connection, "select public.applied_migrations() as names")
    names: list[str] | None = row["names"] if row else None
    if names is None:
        raise _no_ledger()
    newer = unknown(names, folder)
    if newer:
        raise RefusedError(
            f"the database's schema is newer than negspace {__version__}: it has {newer[-1]}",
            hint="install a newer negspace on this machine",
        )
    older = lacking(names, folder)
    if older:
        raise _older(older)


def sees_all_rows(connection: Connection) -> bool:
    """Whether the login is the operator's or the owner's, to whom row security hides nothing."""
    row = only(connection, "select public.sees_all_rows() as yes")
    return bool(row and row["yes"])


def see_operator(database: Database) -> None:
    """Refuse a login that would be shown nothing, which would look like an empty database.

    Raises:
        AccessError: It is a role of services for people.
    """
    with database.transaction(read_only=True) as connection:
        if not sees_all_rows(connection):
            raise AccessError(
                f"{connection.info.user} is a role of services: it sees only the rows of whom it"
                " proves to act for",
                hint="the command line and workers log in as operator_role: DB_USER, DATABASE_URL",
            )


def unknown(names: Collection[str], folder: Path = MIGRATIONS) -> list[str]:
    """The applied migrations that come after the last one of the folder, in order."""
    last = max(_shipped(folder))
    return sorted(name for name in names if name > last)


def lacking(names: Collection[str], folder: Path = MIGRATIONS) -> list[str]:
    """The migrations of the folder that a database with those applied lacks, in order."""
    return [
        name
        for name, file in sorted(_shipped(folder).items())
        if name not in names and not _stood_for(file, names)
    ]


def explained(error: NegspaceError, database: Database) -> NegspaceError:
    """What it means that ``see`` failed; the error itself where that says it."""
    if error.details.get("sqlstate") != _UNDEFINED_FUNCTION:
        return error
    query: LiteralString = (
        "select to_regclass('public.negspace_migrations') is not null as ledger,"
        " to_regclass('public.processing_queue') is not null as schema"
    )
    with database.transaction(read_only=True) as connection:
        found = only(connection, query) or {}
    if not found["schema"]:
        return RefusedError(
            "the database has no schema of negspace yet", hint="negspace migrate up"
        )
    return _older() if found["ledger"] else _no_ledger()


def _older(names: Collection[str] = ()) -> RefusedError:
    lacks = f": it lacks {', '.join(names)}" if names else ""
    return RefusedError(
        f"the database's schema is older than negspace {__version__}{lacks}",
        hint="negspace migrate up",
    )


def _no_ledger() -> RefusedError:
    return RefusedError(
        "the database has no ledger that says which migrations its schema has",
        hint="negspace migrate baseline records them; then negspace migrate up",
    )


def _shipped(folder: Path) -> Mapping[str, Path]:
    """By name, whose numbers have the same width: their order is that of the names."""
    return {file.name.removesuffix(_UP): file for file in folder.glob(f"*{_UP}")}


def _stood_for(squash: Path, names: Collection[str]) -> bool:
    """Whether a migration is a squash of migrations that are all applied."""
    replaced = _REPLACES.findall(squash.read_text(encoding="utf-8"))
    return bool(replaced) and set(replaced) <= set(names)
