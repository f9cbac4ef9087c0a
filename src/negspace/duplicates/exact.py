"""The same file, or the same pixels in another file: facts, told by SHA-256."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from negspace import audit
from negspace.database import Database, only, rows


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
