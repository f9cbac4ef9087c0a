"""Pairs that look alike as they are kept, and what people decided on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, LiteralString, TypeAlias, get_args

from negspace import attempts
from negspace.database import Database, only, rows
from negspace.duplicates.exact import mark
from negspace.duplicates.near import groups
from negspace.errors import InvalidInputError, NotFoundError

Decision: TypeAlias = Literal["undecided", "same", "different"]
DECISIONS: Final[tuple[str, ...]] = get_args(Decision)
_BATCH: Final = 200


@dataclass(frozen=True)
class Scanned:
    """What a scan did.

    Attributes:
        marked: Images that were marked, since their owner has their file or pixels already.
        images: How many images were looked at: those whose hashes came since the last scan.
        pairs: How many pairs that look alike are new.
        alerts: How many images have pixels that another owner had; an event each.
    """

    marked: int
    images: int
    pairs: int
    alerts: int


@dataclass(frozen=True)
class Pair:
    """Two images that look alike, a row of ``duplicate_pairs`` with their names."""

    user_id: int
    first_id: int
    first_filename: str
    second_id: int
    second_filename: str
    bits: int
    decision: Decision
    decided_by: int | None
    decided_by_email: str | None
    decided_at: datetime | None
    note: str | None


@dataclass(frozen=True)
class Group:
    """Images that pairs join, but for those that are decided to be different.

    Attributes:
        id: The lowest number of its images, by which it is named.
        image_ids: Its images.
        pairs: What joins them, nearest first.
    """

    id: int
    image_ids: tuple[int, ...]
    pairs: tuple[Pair, ...]

    @property
    def undecided(self) -> int:
        """How many of its pairs nobody decided on."""
        return sum(pair.decision == "undecided" for pair in self.pairs)


def scan(database: Database) -> Scanned:
    """Mark exact duplicates, then look for the like of images whose hashes are new.

    Safe to call by many at once: one scans, the others find nothing to do.
    """
    marked = mark(database)
    found = scan_new(database)
    return Scanned(marked, found.images, found.pairs, found.alerts)


def scan_new(database: Database) -> Scanned:
    """``scan`` without marking: what housekeeping does."""
    images = pairs = alerts = 0
    while True:
        with database.transaction() as connection:
            row = only(connection, "select * from scan_duplicates(%s)", [_BATCH]) or {}
        images, pairs = images + row["scanned"], pairs + row["pairs"]
        alerts += row["alerts"]
        if row["scanned"] == 0:
            return Scanned(0, images, pairs, alerts)


def pairs(
    database: Database, *, user_id: int | None = None, decision: str | None = None
) -> list[Pair]:
    """Pairs that were found, nearest first; those of images that are marked meanwhile are left out.

    Args:
        database: Where.
        user_id: Only that account's.
        decision: Only those on which was decided so, one of ``DECISIONS``.

    Raises:
        InvalidInputError: There is no such decision.
    """
    if decision is not None:
        _see_decision(decision)
    query: LiteralString = (
        "select p.user_id, p.first_id, f.original_filename as first_filename, p.second_id,"
        " s.original_filename as second_filename, p.bits, p.decision::text, p.decided_by,"
        " u.email as decided_by_email, p.decided_at, p.note from duplicate_pairs p"
        " join images f on f.id = p.first_id and not f.is_duplicate"
        " join images s on s.id = p.second_id and not s.is_duplicate"
        " left join users u on u.id = p.decided_by"
        " where (%(user_id)s::bigint is null or p.user_id = %(user_id)s)"
        " and (%(decision)s::duplicate_decision is null"
        "  or p.decision = %(decision)s::duplicate_decision)"
        " order by p.bits, p.first_id, p.second_id"
    )
    given = {"user_id": user_id, "decision": decision}
    with database.transaction(read_only=True) as connection:
        return [Pair(**row) for row in rows(connection, query, given)]


def review(
    database: Database, *, user_id: int | None = None, everything: bool = False
) -> list[Group]:
    """Groups of images that look alike, those with a pair that nobody decided on.

    A pair that is decided to be different joins nothing.

    Args:
        database: Where.
        user_id: Only that account's.
        everything: Also those that are decided.
    """
    joining = [one for one in pairs(database, user_id=user_id) if one.decision != "different"]
    found = [_group(members, joining) for members in groups(joining)]
    return [group for group in found if everything or group.undecided]


def decide(
    database: Database,
    decision: str,
    chosen: Iterable[tuple[int, int]],
    *,
    note: str | None = None,
    user_id: int | None = None,
) -> int:
    """Keep what a person decided on pairs; an event each. Nothing is merged or removed by it.

    Args:
        database: Its actor is the person.
        decision: One of ``DECISIONS``; ``undecided`` takes a decision back.
        chosen: The pairs, by the numbers of both images, in either order.
        note: Why, in a few words.
        user_id: The person, where the database's actor is nobody.

    Returns:
        On how many pairs.

    Raises:
        InvalidInputError: There is no such decision, or nobody is named.
        NotFoundError: A pair was never found.
    """
    _see_decision(decision)
    ordered = sorted({(min(pair), max(pair)) for pair in chosen})
    if not ordered:
        raise NotFoundError("no pair is named", hint="negspace duplicates review shows them")
    act = attempts.recorded(database, "config_change", "duplicate_pair", None)
    query = "select decide_duplicates(%s, %s, %s::duplicate_decision, %s, %s) as n"
    firsts, seconds = [list(side) for side in zip(*ordered, strict=True)]
    with act, database.transaction() as connection:
        row = only(connection, query, [firsts, seconds, decision, note, user_id])
    return row["n"] if row else 0


def _group(members: tuple[int, ...], joining: list[Pair]) -> Group:
    return Group(members[0], members, tuple(one for one in joining if one.first_id in members))


def _see_decision(decision: str) -> None:
    if decision not in DECISIONS:
        raise InvalidInputError(
            f"there is no decision {decision!r}", hint=f"one of {', '.join(DECISIONS)}"
        )
