"""Images that are there twice: the same file, the same pixels, or nearly so.

Exact duplicates are facts: the same SHA-256 of the file, or of the decoded pixels. Near ones
are proposals from a perceptual hash, and a person decides: different slices of one scan look
alike to it too. Only images of one owner are compared, so that nobody learns what others have.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from negspace import audit
from negspace.database import Database, only, rows
from negspace.errors import InvalidInputError


@dataclass(frozen=True)
class Duplicates:
    """An original and its exact duplicates, a row of ``duplicate_images_report``.

    Attributes:
        original_id: The oldest of them.
        user_id: Whose they are.
        original_filename: The name it came with.
        file_hash: SHA-256 of its file.
        file_size: Of its file, in bytes.
        duplicate_count: How many duplicates.
        duplicate_ids: Their numbers.
        duplicate_filenames: Their names, in the same order.
        duplicate_bytes: Their sizes, summed; the same file is stored once all the same.
        last_duplicate_at: When the last came.
    """

    original_id: int
    user_id: int
    original_filename: str
    file_hash: str
    file_size: int
    duplicate_count: int
    duplicate_ids: tuple[int, ...]
    duplicate_filenames: tuple[str, ...]
    duplicate_bytes: int
    last_duplicate_at: datetime


@dataclass(frozen=True)
class NearPair:
    """Two images whose perceptual hashes differ in ``distance`` bits of 64."""

    user_id: int
    first_id: int
    first_filename: str
    second_id: int
    second_filename: str
    distance: int


def report(database: Database, *, user_id: int | None = None) -> list[Duplicates]:
    """Each original that has duplicates, of one account or of all."""
    query: LiteralString = (
        "select original_id, user_id, original_filename, file_hash, file_size, duplicate_count,"
        " duplicate_ids, duplicate_filenames, duplicate_bytes::bigint, last_duplicate_at"
        " from duplicate_images_report"
        " where (%(user_id)s::bigint is null or user_id = %(user_id)s) order by original_id"
    )
    with database.transaction(read_only=True) as connection:
        found = rows(connection, query, {"user_id": user_id})
    return [
        Duplicates(
            duplicate_ids=tuple(row.pop("duplicate_ids")),
            duplicate_filenames=tuple(row.pop("duplicate_filenames")),
            **row,
        )
        for row in found
    ]


def mark(database: Database) -> int:
    """Mark images whose file or pixels their owner has already, and return how many.

    Taking an image in does this for files at once; pixels are known when it was analysed.
    What was marked is an event of the audit trail.
    """
    with database.transaction() as connection:
        found = only(connection, "select mark_duplicate_images() as marked")
        marked = found["marked"] if found else 0
        if marked:
            audit.record(
                connection, "config_change", "image", changes_after={"marked_duplicate": marked}
            )
        return marked


def near(database: Database, *, user_id: int | None = None, distance: int = 8) -> list[NearPair]:
    """Pairs of originals of one owner that look alike, nearest first.

    Every pair of an owner's hashes is compared: exact, and quadratic in their number.

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


def groups(pairs: Iterable[NearPair]) -> list[tuple[int, ...]]:
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
