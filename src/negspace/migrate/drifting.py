"""Drift: the live catalog against what the applied migrations should have made.

Exactly the migrations that the ledger has as applied run on a shadow database, in the order
in which they were applied, and the two catalogs are compared by meaning.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from negspace.errors import MigrationFileError
from negspace.migrate.catalog import Catalog, Difference, Object
from negspace.migrate.disagreeing import disagreements
from negspace.migrate.explain import created, dropped, made
from negspace.migrate.files import Folder, Migration, read_folder
from negspace.migrate.ledger import Ledger, Standing
from negspace.migrate.live import read_live
from negspace.migrate.meaning import differences
from negspace.migrate.ordering import applied_files, built
from negspace.migrate.schema_file import in_order
from negspace.migrate.session import open_session
from negspace.migrate.shadow import Ground

__all__ = ["Drift", "DriftedObject", "drift", "drifted"]

State: TypeAlias = Literal["added", "changed", "missing"]


@dataclass(frozen=True)
class DriftedObject:
    """One object that is not as the migrations make it.

    Attributes:
        identity: Its kind and name.
        state: ``added``: no migration made it; ``missing``: one did, and it is gone.
        expected: As the migrations make it, or None.
        found: As it is, or None.
        statements: What would explain it; none where it went with its table. What no
            statement says is a comment.
    """

    identity: str
    state: State
    expected: str | None
    found: str | None
    statements: tuple[str, ...]


@dataclass(frozen=True)
class Drift:
    """What differs.

    Attributes:
        objects: In an order in which their statements can run: removals first.
        applied: The migrations that the ledger has as applied, in that order.
        not_compared: Objects that the catalog does not cover, as ``kind name``.
        note: What is to be known of the server of the shadow, or None.
    """

    objects: tuple[DriftedObject, ...]
    applied: tuple[str, ...]
    not_compared: tuple[str, ...]
    note: str | None
    duration_ms: float

    @property
    def ok(self) -> bool:
        """Whether the database is what the migrations make."""
        return not self.objects


def drift(place: Ground, address: str, folder: Path, *, strip_transaction: bool = False) -> Drift:
    """Compare a database with what its applied migrations make of an empty one.

    Args:
        place: Where the shadow is made: ``shadow.ground(settings)``.
        address: Of the database; it is only read.
        folder: The migrations.
        strip_transaction: Leave out the files' own BEGIN and COMMIT.

    Returns:
        What differs. Other tools' history tables are no drift.

    Raises:
        MigrationFileError: The file of an applied migration is edited, gone or invalid.
        MigrationError: A migration fails on the shadow.
        RefusedError: No shadow database can be made.
        UnavailableError: No server was reached.
    """
    began = time.monotonic()
    there = read_folder(folder, strip_transaction=strip_transaction)
    with open_session(address) as connection:
        standing = Ledger(connection).standing()
        applied = _applied(there, standing)
        live = read_live(connection)
    expected = built(place, applied)
    return Drift(
        objects=drifted(*live.beside(expected)),
        applied=tuple(migration.name for migration in applied),
        not_compared=live.catalog.not_covered,
        note=place.note,
        duration_ms=(time.monotonic() - began) * 1000,
    )


def _applied(folder: Folder, standing: Standing) -> tuple[Migration, ...]:
    """The migrations of the ledger, whose files are as they were."""
    for problem in (*folder.problems, *disagreements(folder, standing, allow_late=True)):
        raise MigrationFileError(
            f"{problem.where}: {problem.message}", hint=problem.hint, file=str(problem.file)
        )
    return applied_files(folder, standing)


def drifted(expected: Catalog, live: Catalog) -> tuple[DriftedObject, ...]:
    """What differs, with the statements that explain it, in an order in which they can run."""
    found = {one.identity: one for one in differences(expected, live)}
    before, after = _by_identity(expected), _by_identity(live)
    gone = [identity for identity, one in found.items() if one.right is None]
    removals = [thing.identity for thing in in_order(expected.objects) if thing.identity in gone]
    changes = [thing.identity for thing in in_order(live.objects) if thing.identity in found]
    order = dict.fromkeys((*removals[::-1], *changes, *found))
    return tuple(_explained(found[identity], before, after, gone) for identity in order)


def _by_identity(catalog: Catalog) -> dict[str, Object]:
    return {thing.identity: thing for thing in catalog.objects}


def _explained(
    one: Difference,
    before: Mapping[str, Object],
    after: Mapping[str, Object],
    gone: Iterable[str],
) -> DriftedObject:
    old, new = before.get(one.identity), after.get(one.identity)
    state: State = "added" if one.left is None else "missing" if one.right is None else "changed"
    statements: tuple[str, ...] = ()
    if state == "added" and new is not None:
        statements = created(new)
    elif state == "changed" and old is not None and new is not None:
        statements = made(old, new)
    elif state == "missing" and old is not None and not set(_owners(old, before)) & set(gone):
        statements = dropped(old)
    return DriftedObject(
        one.identity,
        state,
        old.definition if old else one.left,
        new.definition if new else one.right,
        statements,
    )


def _owners(thing: Object, catalog: Mapping[str, Object]) -> Iterator[str]:
    """What an object goes with when that is dropped: its table, a sequence with its column's."""
    if thing.parent is not None:
        yield thing.parent
    if thing.kind == "sequence":
        owner = catalog.get(f"sequence owner {thing.name}")
        if owner is not None and owner.parent is not None:
            yield owner.parent
