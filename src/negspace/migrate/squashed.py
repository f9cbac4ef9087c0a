"""Which migrations a squash stands for, and which stand for it. Pure.

A squash says what it replaces: ``-- negspace: replaces 001_initial_schema``, a line for each;
one that is a squash itself is followed by what it replaces, since a database may have either.
A database that has all of these needs it no more, a new database needs none of them, and one
that has only some needs the rest, by their own files.
"""

from __future__ import annotations

from dataclasses import dataclass

from negspace.migrate.files import Folder, Migration
from negspace.migrate.ledger import Standing
from negspace.migrate.names import Key, key_of
from negspace.migrate.script import Problem

__all__ = ["Squashed", "squashed"]


@dataclass(frozen=True)
class Squashed:
    """What squashes make of a folder and a ledger.

    Attributes:
        aside: Migrations that are neither pending nor late: others stand for them.
        replaced: All that squashes replace; their files may be gone.
        problems: Squashes of which a database has only some, and the rest has no file.
    """

    aside: frozenset[Key]
    replaced: frozenset[Key]
    problems: tuple[Problem, ...]


def squashed(folder: Folder, standing: Standing) -> Squashed:
    """See which migrations stand for which."""
    there = {migration.key for migration in folder.migrations}
    aside: set[Key] = set()
    replaced: set[Key] = set()
    problems: list[Problem] = []
    for squash in folder.migrations:
        groups = [[key_of(name) for name in names] for names in squash.up.replaces]
        keys = {key for group in groups for key in group}
        replaced |= keys
        if _applied(standing, squash.key) or not any(_applied(standing, key) for key in keys):
            aside |= keys
        else:
            aside.add(squash.key)
            had = {key for key in keys if _applied(standing, key)}
            for group, names in zip(groups, squash.up.replaces, strict=True):
                if not _in(had | there, group):
                    problems.append(_half(squash, names[0]))
    return Squashed(frozenset(aside), frozenset(replaced), tuple(problems))


def _in(keys: set[Key], group: list[Key]) -> bool:
    """Whether a migration is among them, or, where it is a squash, all that it is one of."""
    return group[0] in keys or (len(group) > 1 and set(group[1:]) <= keys)


def _applied(standing: Standing, key: Key) -> bool:
    row = standing.by_key.get(key)
    return row is not None and row.applied


def _half(squash: Migration, lacking: str) -> Problem:
    return Problem(
        squash.up.path,
        "replaces migrations of which this database has only some;"
        f" {lacking} is missing, and has no file",
        "bring the files back that it replaces, and run up",
    )
