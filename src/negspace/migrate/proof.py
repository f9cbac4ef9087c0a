"""The proof of the downs: up, down and up again, on a shadow database with rows in it.

A down is worth what it restores. Each one is run where nothing can be harmed, the catalog is
compared with the one before its up, the rows with those that were there, and the up must
work again and give what it gave before. What comes of it is a grade.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

from negspace.database import connect
from negspace.migrate.catalog import Catalog, Difference, compare
from negspace.migrate.failure import Failure
from negspace.migrate.files import Migration, read_folder
from negspace.migrate.filling import Unfilled
from negspace.migrate.meaning import differences
from negspace.migrate.plan import check, has_way_down
from negspace.migrate.rows import Loss, Snapshot, lost, without
from negspace.migrate.shadow import Ground
from negspace.migrate.trial import LeftAside, Trial

__all__ = ["Grade", "MigrationProof", "Proof", "prove"]

Grade: TypeAlias = Literal["exact", "loses data", "lies", "broken", "irreversible"]

WORSE_THAN_LOSS: Final = {"lies", "broken"}


@dataclass(frozen=True)
class MigrationProof:
    """What one migration's way down is worth.

    Attributes:
        grade: ``exact``: all is as it was. ``loses data``: the catalog is, data of
            ``losses`` is gone. ``lies``: the catalog is not, see ``after_down`` and
            ``after_second_up``. ``broken``: ``failure``. ``irreversible``: there is no way
            down, or the file says so.
        losses: The data that its down loses; 0 of it where none could be made.
        after_down: The objects that are not as before the up.
        after_second_up: The objects that the second up did not make as the first.
        failed_at: ``up``, ``down`` or ``second up``.
        up_refuses: Why the up fails where tables have rows; it was then proven without any.
        down_refuses: Why the down fails on rows that came after the up, or whose content is
            not what it takes; it was then proven without those.
        unfilled: Tables of this migration that no row could be made for.
    """

    version: str
    name: str
    grade: Grade
    losses: tuple[Loss, ...] = ()
    after_down: tuple[Difference, ...] = ()
    after_second_up: tuple[Difference, ...] = ()
    failed_at: str | None = None
    failure: Failure | None = None
    irreversible: str | None = None
    up_refuses: Failure | None = None
    down_refuses: Failure | None = None
    unfilled: tuple[Unfilled, ...] = ()
    duration_ms: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it neither lies nor is broken."""
        return self.grade not in WORSE_THAN_LOSS


@dataclass(frozen=True)
class Proof:
    """What the ways down of a folder are worth.

    Attributes:
        migrations: In order; after one whose up is broken nothing can be proven.
        unproven: The names of those.
        left_aside: Statements that were not run: they would change the whole server.
        not_compared: Objects that the catalog does not cover, as ``kind name``.
        server_version: Of the server it was proven on: 180000 is 18.0.
        note: What else is to be known of that server, or None.
    """

    migrations: tuple[MigrationProof, ...]
    unproven: tuple[str, ...]
    left_aside: tuple[LeftAside, ...]
    not_compared: tuple[str, ...]
    server_version: int
    note: str | None
    duration_ms: float

    @property
    def ok(self) -> bool:
        """Whether no migration lies or is broken."""
        return not self.unproven and all(proof.ok for proof in self.migrations)


Progress: TypeAlias = Callable[[MigrationProof], None]


def prove(
    place: Ground,
    folder: Path,
    *,
    only: Collection[str] | None = None,
    strip_transaction: bool = False,
    progress: Progress | None = None,
) -> Proof:
    """Prove what the ways down are worth, on shadow databases that are dropped afterwards.

    Args:
        place: Where shadows are made: ``shadow.ground(settings)``.
        folder: The migrations.
        only: The names of those to prove; the others are just applied. All when None.
        strip_transaction: Leave out the files' own BEGIN and COMMIT.
        progress: Called after each migration.

    Returns:
        The proof. A way down that fails is told in it, not raised.

    Raises:
        MigrationFileError: A file is invalid: nothing was run.
        MigrationError: A migration that only had to be applied fails.
        RefusedError: No shadow database can be made.
        UnavailableError: No server was reached.
    """
    began = time.monotonic()
    there = read_folder(folder, strip_transaction=strip_transaction)
    check(there)
    with connect(place.creator) as connection:
        server_version = connection.info.server_version
    with Trial(place, there.migrations) as trial:
        prover = _Prover(trial, progress)
        unproven = prover.run(only)
    proofs, left_aside = tuple(prover.proofs), tuple(trial.left_aside)
    said = proofs, unproven, left_aside, prover.not_compared, server_version, place.note
    return Proof(*said, duration_ms=(time.monotonic() - began) * 1000)


Kept: TypeAlias = Literal["all", "old", "none"]
"""Which rows a trial has: all, those from before the up alone, or none."""


@dataclass(frozen=True)
class _Cycle:
    """How one up, down, up went, as far as it came."""

    failed_at: str | None = None
    failure: Failure | None = None
    losses: tuple[Loss, ...] = ()
    after_down: tuple[Difference, ...] = ()
    after_second_up: tuple[Difference, ...] = ()
    unfilled: tuple[Unfilled, ...] = ()


class _Prover:
    """Proves one migration after the other.

    ``_at`` is how many migrations the shadow has, or None where it has to be made anew.
    """

    def __init__(self, trial: Trial, progress: Progress | None) -> None:
        self._trial = trial
        self._progress = progress
        self._at: int | None = None
        self._catalog: Catalog | None = None
        self.proofs: list[MigrationProof] = []
        self.not_compared: tuple[str, ...] = ()

    def run(self, only: Collection[str] | None) -> tuple[str, ...]:
        """Prove all, or those; the names of what is left where nothing can follow."""
        wanted = {
            at: migration
            for at, migration in enumerate(self._trial.migrations)
            if only is None or migration.name in only
        }
        for at, migration in wanted.items():
            began = time.monotonic()
            proof = self._prove(at, migration)
            proof = replace(proof, duration_ms=(time.monotonic() - began) * 1000)
            self.proofs.append(proof)
            if self._progress is not None:
                self._progress(proof)
            if proof.failed_at == "up":
                break
        return tuple(migration.name for migration in wanted.values())[len(self.proofs) :]

    def _prove(self, at: int, migration: Migration) -> MigrationProof:
        """Try it with rows; where these are in its way, see how it does without."""
        first = cycle = self._cycle(at, migration, "all")
        if first.failed_at == "up":
            cycle = self._cycle(at, migration, "none")
        elif first.failed_at == "down":
            cycle = self._cycle(at, migration, "old")
            if cycle.failed_at == "down" and _is_of_content(cycle.failure):
                cycle = self._cycle(at, migration, "none")
        better = cycle.failed_at != first.failed_at
        return MigrationProof(
            version=migration.version,
            name=migration.name,
            grade=_grade(migration, cycle),
            losses=cycle.losses,
            after_down=cycle.after_down,
            after_second_up=cycle.after_second_up,
            failed_at=cycle.failed_at,
            failure=cycle.failure,
            irreversible=migration.up.directives.irreversible,
            up_refuses=first.failure if better and first.failed_at == "up" else None,
            down_refuses=first.failure if better and first.failed_at == "down" else None,
            unfilled=first.unfilled,
        )

    def _cycle(self, at: int, migration: Migration, kept: Kept) -> _Cycle:
        trial = self._trial
        if self._at != at or kept != "all":
            trial.start(at, filled=kept != "none")
            self._catalog = None
        self._at = None  # until all went well
        catalog, rows = self._catalog or trial.catalog(), trial.rows()
        failure = trial.up(migration)
        if failure is not None:
            return _Cycle("up", failure)
        made_catalog, made_rows = trial.catalog(), trial.rows()
        self.not_compared = made_catalog.not_covered
        changed = _changed(catalog, made_catalog)
        filled = trial.fill(changed) if kept == "all" else ()
        unfilled = tuple(table for table in filled if table.table in changed)
        if not has_way_down(migration):
            self._at, self._catalog = at + 1, made_catalog
            return _Cycle(unfilled=unfilled)
        full = trial.rows()
        failure = trial.down(migration)
        if failure is not None:
            return _Cycle("down", failure, unfilled=unfilled)
        after_down = differences(catalog, trial.catalog())
        losses = _losses(rows, made_rows, full, trial.rows())
        failure = trial.up(migration)
        if failure is not None:
            return _Cycle("second up", failure, losses, after_down, unfilled=unfilled)
        again = trial.catalog()
        after_up = differences(made_catalog, again)
        if not after_up and kept == "all":
            trial.fill(changed)  # the down took what its tables and columns held
            self._at, self._catalog = at + 1, again
        return _Cycle(None, None, losses, after_down, after_up, unfilled)


def _is_of_content(failure: Failure | None) -> bool:
    """Whether a value was not what a statement takes: a number in a text, a list in JSON.

    Made-up rows can't have that right; a down that fails on them may do well with real ones.
    """
    return failure is not None and (failure.sqlstate or "").startswith("22")


def _changed(before: Catalog, after: Catalog) -> set[str]:
    """The tables that a migration made or changed."""
    tables = {thing.identity: thing.name for thing in after.objects if thing.kind == "table"}
    found = (difference.identity for difference in compare(before, after))
    return {tables[identity] for identity in found if identity in tables}


def _losses(rows: Snapshot, made: Snapshot, full: Snapshot, after: Snapshot) -> tuple[Loss, ...]:
    """What is gone of what was there before the up, and of what came after it."""
    found = [*lost(rows, after), *lost(without(full, rows, made), after)]
    return tuple({(loss.kind, loss.name): loss for loss in found}.values())


def _grade(migration: Migration, cycle: _Cycle) -> Grade:
    if cycle.failed_at == "second up" and cycle.after_down:
        return "lies"  # the down left something in the way
    if cycle.failed_at is not None:
        return "broken"
    if not has_way_down(migration):
        return "irreversible"
    if cycle.after_down or cycle.after_second_up:
        return "lies"
    return "loses data" if cycle.losses else "exact"
