"""Images that look alike: pairs of near perceptual hashes, found by an index of their bands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import LiteralString, Protocol

from negspace.database import Database, rows
from negspace.errors import InvalidInputError


class Paired(Protocol):
    """Two images that something joins."""

    @property
    def first_id(self) -> int:
        """The one."""
        ...

    @property
    def second_id(self) -> int:
        """The other."""
        ...


@dataclass(frozen=True)
class NearPair:
    """Two images whose perceptual hashes differ in ``distance`` bits of 64."""

    user_id: int
    first_id: int
    first_filename: str
    second_id: int
    second_filename: str
    distance: int


def near(database: Database, *, user_id: int | None = None, distance: int = 8) -> list[NearPair]:
    """Pairs of originals of one owner that look alike, nearest first.

    Computed anew, and exact: up to 11 bits by the index of the bands, beyond by comparing all.

    Args:
        database: Where.
        user_id: Only that account's.
        distance: Bits of 64 that may differ, 0 to 32; beyond 8 most pairs are no duplicates.

    Raises:
        InvalidInputError: The distance is out of range.
    """
    if not 0 <= distance <= 32:
        raise InvalidInputError(f"a distance of {distance} bits means nothing", hint="0 to 32")
    query: LiteralString = (
        "select i.user_id, i.id as first_id, i.original_filename as first_filename,"
        " o.id as second_id, o.original_filename as second_filename, n.bits as distance"
        " from images i cross join lateral near_images(i.id, %(distance)s) n"
        " join images o on o.id = n.image_id"
        " where i.perceptual_hash is not null and n.image_id > i.id"
        " and not i.is_duplicate and not o.is_duplicate"
        " and (%(user_id)s::bigint is null or i.user_id = %(user_id)s)"
        " order by distance, first_id, second_id"
    )
    with database.transaction(read_only=True) as connection:
        found = rows(connection, query, {"user_id": user_id, "distance": distance})
    return [NearPair(**row) for row in found]


def groups(pairs: Iterable[Paired]) -> list[tuple[int, ...]]:
    """Images that a chain of near pairs joins, each group and the groups by number.

    The ends of a chain may look less alike than any of its pairs.
    """
    group_of: dict[int, set[int]] = {}
    for pair in pairs:
        one = group_of.setdefault(pair.first_id, {pair.first_id})
        other = group_of.setdefault(pair.second_id, {pair.second_id})
        if one is not other:
            one |= other
            for member in other:
                group_of[member] = one
    return sorted({tuple(sorted(group)) for group in group_of.values()})
