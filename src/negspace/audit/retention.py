"""How long the audit trail is kept: legal holds, and months that leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import LiteralString

from negspace.audit import anchors, exports
from negspace.audit.anchors import Anchor
from negspace.audit.exports import Exported
from negspace.database import Database, only, rows
from negspace.errors import InvalidInputError, NotFoundError, RefusedError


@dataclass(frozen=True)
class Hold:
    """A legal hold: what time's events may not leave, whatever their age.

    Attributes:
        id: Its number.
        reason: Why.
        since: From when on; None: from the first event.
        until: Before when; None: without end.
        placed_at: When it was placed.
        released_at: When it was released; None: it holds.
    """

    id: int
    reason: str
    since: datetime | None
    until: datetime | None
    placed_at: datetime
    released_at: datetime | None


@dataclass(frozen=True)
class Leaving:
    """What became of a month that is old enough to leave.

    Attributes:
        month: Such as ``2026-01``.
        file: Where it was exported to, or None.
        left: Whether it has left.
        reason: Why it stays, or None.
    """

    month: str
    file: Path | None
    left: bool
    reason: str | None


def hold(
    database: Database,
    reason: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> int:
    """Place a legal hold and return its number; an event says so.

    Raises:
        InvalidInputError: No reason, or it ends before it begins.
    """
    if not reason.strip():
        raise InvalidInputError("a hold has a reason", hint="such as the matter that it is for")
    if since is not None and until is not None and until <= since:
        raise InvalidInputError(
            f"a hold from {since} until {until} covers nothing", hint="name a later end, or none"
        )
    with database.transaction() as connection:
        found = only(connection, "select hold_audit(%s, %s, %s) as id", [reason, since, until])
    assert found is not None  # noqa: S101  a function's row
    return found["id"]


def release(owner: Database, hold_id: int, reason: str) -> None:
    """Release a legal hold; an event says why.

    Args:
        owner: The owner's connections: the services' role can't.
        hold_id: Which.
        reason: Why.

    Raises:
        NotFoundError: There is no such hold in force.
        InvalidInputError: No reason is given.
    """
    with owner.transaction() as connection:
        connection.execute("select release_audit_hold(%s, %s)", [hold_id, reason])


def holds(database: Database) -> list[Hold]:
    """All holds, newest first, released ones too."""
    query: LiteralString = (
        "select id, reason, since, until, placed_at, released_at from audit_holds order by id desc"
    )
    with database.transaction(read_only=True) as connection:
        return [Hold(**row) for row in rows(connection, query)]


def old_months(database: Database, before: datetime) -> list[str]:
    """The months of the trail that were over by then, oldest first."""
    query: LiteralString = (
        "select m.month from pg_inherits i join pg_class c on c.oid = i.inhrelid"
        " cross join lateral (select regexp_replace(c.relname,"
        " '^security_audit_(....)(..)$', '\\1-\\2') as month) m"
        " where i.inhparent = 'security_audit'::regclass"
        " and (m.month || '-01 00:00+00')::timestamptz + interval '1 month' <= %s order by 1"
    )
    with database.transaction(read_only=True) as connection:
        connection.execute("set local timezone to 'UTC'")
        return [row["month"] for row in rows(connection, query, [before])]


def retain(owner: Database, before: datetime, anchor_file: Path, folder: Path) -> list[Leaving]:
    """Let the months leave that were over by then: each exported, checked, then dropped.

    A month leaves only once every row of it is sealed, its seals are anchored, its export is
    read back and holds those very seals, and no hold keeps it. Each leaving is an event.

    Args:
        owner: The owner's connections: the services' role can't.
        before: Keep everything from then on.
        anchor_file: What ``anchor`` wrote.
        folder: Where the exports go; one that is there is checked and used.

    Returns:
        What became of each, oldest first; what can't leave says why.

    Raises:
        RefusedError: There is no anchor in the file.
        FileError: A file can't be read or written.
    """
    known = anchors.read(anchor_file)
    if not known:
        raise RefusedError(f"{anchor_file} holds no anchor", hint="negspace audit anchor FILE")
    found = old_months(owner, before)
    return [_leave(owner, month, known[max(known)], known, folder) for month in found]


def _leave(
    owner: Database, month: str, newest: Anchor, known: Mapping[int, Anchor], folder: Path
) -> Leaving:
    file = folder / f"audit-{month}.jsonl.gz"
    try:
        made = exports.check_export(file) if file.exists() else None
        made = made or exports.export_month(owner, month, folder)
        _see_whole(owner, made, known)
        with owner.transaction() as connection:
            connection.execute(
                "select retire_audit_month(%s, %s, decode(%s, 'hex'), %s)",
                [exports.beginning(month), newest.seal, newest.hash, made.sha256],
            )
    except (RefusedError, NotFoundError) as error:
        return Leaving(month, file if file.exists() else None, left=False, reason=error.message)
    return Leaving(month, made.file, left=True, reason=None)


def _see_whole(owner: Database, made: Exported, known: Mapping[int, Anchor]) -> None:
    """See that an export holds all of its month's seals, and that they were anchored so."""
    month = [exports.beginning(made.month)]
    with owner.transaction(read_only=True) as connection:
        found = rows(connection, "select number from audit_seals where month = %s", month)
    if {row["number"] for row in found} != set(made.seals):
        raise RefusedError(
            f"{made.file} is of another time: it doesn't hold all seals of {made.month}",
            hint="move it away, and it is exported again",
        )
    for number, sealed in made.seals.items():
        if number not in known or known[number].hash != sealed:
            raise RefusedError(
                f"seal {number} of {made.file} is not anchored",
                hint="negspace audit anchor FILE --key KEY",
            )
