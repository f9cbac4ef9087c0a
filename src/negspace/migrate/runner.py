"""Apply, undo and look at the migrations of a folder: what the command line and programs call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from negspace.database import Connection
from negspace.errors import InvalidInputError
from negspace.migrate.disagreeing import disagreements, is_edited, is_late
from negspace.migrate.files import Folder, Migration, read_folder
from negspace.migrate.journal import Journal, check_answers, refuse_crossing
from negspace.migrate.ledger import Applied, Entry, Holder, Ledger, RunLock, Standing
from negspace.migrate.names import key_of
from negspace.migrate.outcome import RunResult
from negspace.migrate.plan import (
    Plan,
    plan_down,
    plan_redo,
    plan_up,
    unrunnable,
)
from negspace.migrate.session import Options, open_session
from negspace.migrate.squashed import Squashed, squashed

if TYPE_CHECKING:
    from negspace.migrate.script import Problem

__all__ = [
    "MigrationStatus",
    "Options",
    "down",
    "dump",
    "history",
    "redo",
    "status",
    "up",
    "validate",
]

OnWait = Callable[[Holder], None]
Guard = Callable[[Plan], None]


@dataclass(frozen=True)
class MigrationStatus:
    """Where one migration stands.

    Attributes:
        state: ``applied``, ``pending``, ``failed`` (pending, its last attempt failed),
            ``interrupted`` (begun outside a transaction and never ended), ``edited``
            (applied, and its file says something else now), ``gone`` (applied, and its file
            isn't there), ``late`` (pending, and comes before an applied one) or ``squashed``
            (a squash stands for it, or it is one whose migrations are applied).
        reversible: Whether it has a way down.
        last_error: Of its last attempt, where that failed.
    """

    version: str
    name: str
    state: str
    batch: int | None
    applied_at: datetime | None
    duration_ms: float | None
    reversible: bool
    last_error: str | None


def up(
    address: str,
    folder: Path,
    *,
    to: str | None = None,
    options: Options | None = None,
    on_wait: OnWait | None = None,
    late: Guard | None = None,
    guard: Guard | None = None,
) -> RunResult:
    """Apply everything that is pending, in one transaction.

    Of several runs at once, one works and the others wait and find nothing left to do.

    Args:
        address: Connection string of the database; its user owns what is made.
        folder: The migrations.
        to: The last version to apply; all when None.
        options: Dry run, timeouts, progress.
        on_wait: Called with who holds the lock, when there is somebody to wait for.
        late: Lets migrations that come before an applied one through, or raises, see
            ``ordering.either_order``; without it they are refused.
        guard: Called with the plan before anything is touched; it may raise, see
            ``lint.linted``.

    Returns:
        What was done. A migration that fails is told in ``failure``, not raised.

    Raises:
        MigrationFileError: A file that is invalid, edited, gone or late: nothing was touched.
        RefusedError: ``late`` refused: nothing was touched.
        UnavailableError: No database was reached.
    """
    there = _read(folder, options)

    def planned(standing: Standing) -> Plan:
        return plan_up(there, standing, to=to, allow_late=late is not None)

    return _run(address, planned, options, on_wait, _all_of(late, guard))


def _all_of(*guards: Guard | None) -> Guard | None:
    """One guard that asks them all, in that order."""
    asked = [guard for guard in guards if guard is not None]

    def guard(plan: Plan) -> None:
        for one in asked:
            one(plan)

    return guard if asked else None


def down(
    address: str,
    folder: Path,
    *,
    steps: int | None = None,
    to: str | None = None,
    batch: bool = False,
    options: Options | None = None,
    on_wait: OnWait | None = None,
    guard: Guard | None = None,
) -> RunResult:
    """Undo applied migrations, newest first, in one transaction.

    Args:
        address: Connection string of the database.
        folder: The migrations.
        steps: How many; one when neither this nor ``to`` nor ``batch`` is given.
        to: Undo what comes after this version; ``0`` undoes everything.
        batch: Undo the newest batch.
        options: Dry run, timeouts, progress.
        on_wait: Called with who holds the lock, when there is somebody to wait for.
        guard: Called with the plan before anything is touched; it may raise, see
            ``guard.proven``.

    Returns:
        What was done. A migration that fails is told in ``failure``, not raised.

    Raises:
        InvalidInputError: More than one of ``steps``, ``to`` and ``batch``, or no such version.
        RefusedError: One of them has no way down, or the guard refused: nothing was touched.
        MigrationFileError: A file that is invalid or gone: nothing was touched.
        UnavailableError: No database was reached.
    """
    if sum((steps is not None, to is not None, batch)) > 1:
        raise InvalidInputError("steps, to and batch exclude each other", hint="give one")
    there = _read(folder, options)

    def planned(standing: Standing) -> Plan:
        return plan_down(there, standing, steps=steps, to=to, batch=batch)

    return _run(address, planned, options, on_wait, guard)


def redo(
    address: str,
    folder: Path,
    *,
    options: Options | None = None,
    on_wait: OnWait | None = None,
    guard: Guard | None = None,
) -> RunResult:
    """Undo the newest migration and apply it again as it is now, in one transaction.

    Args, result and errors are those of ``down``.
    """
    there = _read(folder, options)
    return _run(address, lambda s: plan_redo(there, s), options, on_wait, guard)


def _read(folder: Path, options: Options | None) -> Folder:
    return read_folder(folder, strip_transaction=bool(options and options.strip_transaction))


def _run(
    address: str,
    planned: Callable[[Standing], Plan],
    options: Options | None,
    on_wait: OnWait | None,
    guard: Guard | None = None,
) -> RunResult:
    options = options or Options()
    with open_session(address) as connection:
        # Before the lock is asked for: nothing to do needs none, and a refusal neither.
        plan = planned(Ledger(connection).standing())
        options = _unfinished(connection, plan, options)
        if not plan.steps:
            return RunResult(plan.direction, plan.batch, options.dry_run, (), None, 0.0)
        if guard is not None:
            guard(plan)
        from negspace.migrate.execute import Run

        with RunLock(address, on_wait) as lock:
            guarded, plan = plan, planned(Ledger(connection).standing())
            if guard is not None and plan != guarded:
                guard(plan)
            options = _unfinished(connection, plan, options, restart=not options.dry_run)
            return Run(address, connection, lock, plan, options).result()


def _unfinished(
    connection: Connection, plan: Plan, options: Options, *, restart: bool = False
) -> Options:
    """Hold the plan against what earlier runs left half done; the options, answers checked."""
    journal = Journal(connection, uuid4())
    records = journal.unfinished()
    answers = check_answers(options.answers, records)
    forgotten = {name for name, answer in answers.items() if answer == "restart"}
    refuse_crossing(plan, [record for record in records if record.migration not in forgotten])
    if restart:
        for record in {r.migration: r for r in records if r.migration in forgotten}.values():
            journal.write(record.migration, record.direction, "settled", decided_by="operator")
    return replace(options, answers=answers)


def status(address: str, folder: Path) -> tuple[MigrationStatus, ...]:
    """Where each migration stands, by one query; those of the ledger without a file too.

    Raises:
        FileError: The folder can't be read.
        UnavailableError: No database was reached.
    """
    there = read_folder(folder)
    with open_session(address) as connection:
        standing = Ledger(connection).standing()
    stand = squashed(there, standing)
    found = [_status(migration, standing, stand) for migration in there.migrations]
    names = {migration.key for migration in there.migrations}
    gone = [row for key, row in standing.by_key.items() if row.applied and key not in names]
    found += [
        MigrationStatus(
            row.version,
            row.name,
            "squashed" if key_of(row.name) in stand.replaced else "gone",
            row.batch,
            row.applied_at,
            row.duration_ms,
            False,
            None,
        )
        for row in gone
    ]
    return tuple(found)


def _status(migration: Migration, standing: Standing, stand: Squashed) -> MigrationStatus:
    row = standing.by_key.get(migration.key)
    applied = row if row and row.applied else None
    stand_aside = applied is None and migration.key in stand.aside
    return MigrationStatus(
        version=migration.version,
        name=migration.name,
        state="squashed" if stand_aside else _state(migration, row, standing),
        batch=applied.batch if applied else None,
        applied_at=applied.applied_at if applied else None,
        duration_ms=applied.duration_ms if applied else None,
        reversible=migration.reversible,
        last_error=row.last_error if row else None,
    )


def _state(migration: Migration, row: Applied | None, standing: Standing) -> str:
    if row and row.applied:
        return "edited" if is_edited(migration, row) else "applied"
    if is_late(migration, standing):
        return "late"
    if row and row.last_status in {"failed", "running"}:
        return "failed" if row.last_status == "failed" else "interrupted"
    return "pending"


def validate(
    folder: Path, address: str | None = None, *, strip_transaction: bool = False
) -> tuple[Problem, ...]:
    """Everything that would stop a run, found without touching anything.

    Args:
        folder: The migrations; every file is read to its end.
        address: Of the database whose ledger they are held against; None leaves that out.
        strip_transaction: Files' own BEGIN and COMMIT will be left out, and are no problem.

    Raises:
        FileError: The folder can't be read.
        UnavailableError: No database was reached.
    """
    there = read_folder(folder, strip_transaction=strip_transaction)
    problems = [*there.checked(), *_unrunnable(there)]
    if address is not None:
        with open_session(address) as connection:
            problems += disagreements(there, Ledger(connection).standing())
    return tuple(problems)


def _unrunnable(folder: Folder) -> list[Problem]:
    files = dict.fromkeys(f for m in folder.migrations for f in (m.up, m.down) if f is not None)
    return [p for file in files if file.problem() is None for p in unrunnable(file)]


def history(address: str, count: int | None = None) -> tuple[Entry, ...]:
    """The ledger, newest first: every attempt, up and down, failed ones too.

    Args:
        address: Of the database.
        count: How many entries; all when None.

    Raises:
        UnavailableError: No database was reached.
    """
    with open_session(address) as connection:
        return tuple(Ledger(connection).history(count))


def dump(address: str) -> str:
    """The whole schema as a script for psql, the same bytes for the same schema.

    Args:
        address: Of the database.

    Raises:
        UnavailableError: No database was reached.
    """
    from negspace.migrate.catalog import read
    from negspace.migrate.schema_file import render

    with open_session(address) as connection:
        return render(read(connection))
