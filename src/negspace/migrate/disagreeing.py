"""Where a folder and a ledger don't fit: edited, missing and late files. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from negspace.migrate.files import Folder, Migration
from negspace.migrate.ledger import Applied, Standing
from negspace.migrate.names import key_of
from negspace.migrate.script import Problem
from negspace.migrate.squashed import squashed

__all__ = ["disagreements", "gone", "is_edited", "is_late"]


def disagreements(
    folder: Folder, standing: Standing, *, allow_late: bool = False
) -> Iterator[Problem]:
    """Where the folder and the ledger don't fit: edited, missing and late files."""
    there = {migration.key: migration for migration in folder.migrations}
    stand = squashed(folder, standing)
    yield from stand.problems
    for row in standing.applied:
        migration = there.get(key_of(row.name))
        if migration is None:
            if key_of(row.name) not in stand.replaced:
                yield gone(folder, row)
        elif is_edited(migration, row):
            yield Problem(
                migration.up.path,
                f"changed since it was applied (batch {row.batch})",
                "put the file back as it was, and write what you want in a new migration",
            )
    if not allow_late:
        yield from _late(folder, standing)


def is_edited(migration: Migration, row: Applied) -> bool:
    """Whether an applied file says something else now; comments and white space don't count."""
    if row.bytes_sha256 == migration.up.bytes_checksum:
        return False
    if migration.up.problem() is not None:
        return True
    if row.checksum_algorithm != migration.up.algorithm:
        return True
    return row.checksum != migration.up.checksum


def is_late(migration: Migration, standing: Standing) -> bool:
    """Whether a migration that isn't applied comes before one that is."""
    row = standing.by_key.get(migration.key)
    is_before = standing.newest is not None and migration.key < standing.newest
    return is_before and not (row and row.applied)


def gone(folder: Folder, row: Applied) -> Problem:
    """That a migration is applied and has no file."""
    return Problem(
        folder.path / row.name,
        f"applied (batch {row.batch}), and its file is gone",
        "bring the file back: version control has it",
    )


def _late(folder: Folder, standing: Standing) -> Iterator[Problem]:
    aside = squashed(folder, standing).aside
    for migration in folder.migrations:
        if migration.key not in aside and is_late(migration, standing):
            newest = max(standing.applied, key=lambda row: key_of(row.name))
            yield Problem(
                migration.up.path,
                f"comes before {newest.name}, which is applied already",
                "give it a number above that one, or --allow-out-of-order",
            )
