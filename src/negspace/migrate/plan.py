"""What a run will do: files and ledger in, steps out. Pure.

A plan is made whole or refused whole: an edited or missing file, a late one, a file that
would end the run's transaction, each is said with its place and its remedy before anything
is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from negspace.errors import InvalidInputError, MigrationFileError, RefusedError
from negspace.migrate.disagreeing import disagreements, gone
from negspace.migrate.files import Folder, Migration
from negspace.migrate.ledger import Applied, Standing
from negspace.migrate.names import is_number, key_of, number_of
from negspace.migrate.script import MigrationFile, Problem
from negspace.migrate.squashed import squashed

if TYPE_CHECKING:
    from negspace.migrate.lexer import Statement

__all__ = [
    "Plan",
    "Step",
    "bounded",
    "check",
    "has_way_down",
    "lacks_down",
    "plan_down",
    "plan_redo",
    "plan_up",
    "unrunnable",
]


@dataclass(frozen=True)
class Step:
    """One migration to apply or undo.

    Attributes:
        file: The file that runs.
        batch: The batch that the ledger will have it in.
        transaction: False where its statements run one by one, outside the run's transaction.
        reason: Why it runs outside the run's transaction, or why a commit comes before it.
        cuts: Indexes of the statements that a commit inside the file comes before; a file
            that has some runs part by part, each part in a transaction of its own.
        after_commit: What is before it is committed first.
        lacks_down: Nothing undoes it, and its file does not say why.
    """

    name: str
    version: str
    direction: str
    file: MigrationFile
    batch: int
    transaction: bool
    reason: str | None = None
    cuts: tuple[int, ...] = ()
    after_commit: bool = False
    lacks_down: bool = False


@dataclass(frozen=True)
class Plan:
    """The steps of a run, in order."""

    direction: str
    batch: int
    steps: tuple[Step, ...]

    def groups(self) -> Iterator[tuple[Step, ...]]:
        """The steps that share a transaction; one outside a transaction is alone."""
        group: list[Step] = []
        for step in self.steps:
            if group and (step.after_commit or not step.transaction):
                yield tuple(group)
                group = []
            if step.transaction:
                group.append(step)
            else:
                yield (step,)
        if group:
            yield tuple(group)


# ── what is wrong ────────────────────────────────────────────────────────────────────────


def unrunnable(file: MigrationFile) -> Iterator[Problem]:
    """The statements of a file that the runner can't run as they stand."""
    from negspace.migrate.statements import copies, ends_transaction

    for statement in file.statements:
        if copies(statement):
            yield _problem(
                file,
                statement,
                "COPY with the client's standard input or output",
                "use INSERT, or a .py migration with connection.cursor().copy(...)",
            )
        elif file.transaction and ends_transaction(statement):
            yield _problem(
                file,
                statement,
                f"{statement.tokens[0].upper()} in a file that runs inside the run's transaction",
                "take BEGIN and COMMIT out: a run is one transaction; or have them left out"
                " (--strip-transaction, or -- negspace: strip-transaction);"
                " or declare -- negspace: no-transaction, and the file has its own",
            )


def _problem(file: MigrationFile, at: Statement, message: str, hint: str) -> Problem:
    return Problem(file.path, message, hint, at.line, at.column)


def _refuse(problems: Sequence[Problem]) -> None:
    if not problems:
        return
    first = problems[0].error()
    if len(problems) > 1:
        raise MigrationFileError(
            f"{first.message}; and {len(problems) - 1} more",
            hint=f"{first.hint}; negspace migrate validate lists them all",
            **first.details,
        )
    raise first


def check(folder: Folder) -> None:
    """Refuse a folder with anything wrong in it.

    Raises:
        MigrationFileError: What is wrong, and how much else.
    """
    files = dict.fromkeys(f for m in folder.migrations for f in (m.up, m.down) if f is not None)
    sound = (file for file in files if file.problem() is None)
    _refuse([*folder.checked(), *(p for file in sound for p in unrunnable(file))])


def _runnable(file: MigrationFile) -> None:
    problem = file.problem()
    _refuse([problem] if problem else list(unrunnable(file)))


# ── plans ────────────────────────────────────────────────────────────────────────────────


def plan_up(
    folder: Folder, standing: Standing, *, to: str | None = None, allow_late: bool = False
) -> Plan:
    """What applying everything pending takes.

    Args:
        folder: The migrations.
        standing: The ledger.
        to: The last version to apply, as a number or a name; all when None.
        allow_late: Take those that come before an applied one too.

    Raises:
        MigrationFileError: A file that is invalid, edited, gone or late.
        InvalidInputError: There is no version ``to``.
    """
    _refuse([*folder.problems, *disagreements(folder, standing, allow_late=allow_late)])
    last = find(folder, to).key if to is not None else None
    batch = standing.last_batch + 1
    steps: list[Step] = []
    aside = squashed(folder, standing).aside
    for migration in folder.migrations:
        row = standing.by_key.get(migration.key)
        if (
            (row and row.applied)
            or migration.key in aside
            or (last is not None and migration.key > last)
        ):
            continue
        _runnable(migration.up)
        steps.append(_step(migration, "up", migration.up, batch))
    return Plan("up", batch, bounded(steps, standing.server_version))


def plan_down(
    folder: Folder,
    standing: Standing,
    *,
    steps: int | None = None,
    to: str | None = None,
    batch: bool = False,
) -> Plan:
    """What undoing takes: the newest applied migrations, newest first.

    Args:
        folder: The migrations.
        standing: The ledger.
        steps: How many to undo; one when nothing else is said.
        to: Undo what was applied after this version; ``0`` undoes everything.
        batch: Undo the newest batch.

    Raises:
        RefusedError: One of them has no way down.
        MigrationFileError: A file that is invalid or gone.
        InvalidInputError: There is no version ``to``.
    """
    _refuse(folder.problems)
    there = {migration.key: migration for migration in folder.migrations}
    chosen: list[Step] = []
    for row in _to_undo(folder, standing, steps, to, batch=batch):
        migration = there.get(key_of(row.name))
        if migration is None:
            raise gone(folder, row).error()
        chosen.append(_step(migration, "down", _way_down(migration), row.batch))
    return Plan(
        "down",
        chosen[0].batch if chosen else standing.last_batch,
        bounded(chosen, standing.server_version),
    )


def plan_redo(folder: Folder, standing: Standing) -> Plan:
    """What undoing the newest applied migration and applying it again takes.

    Its file may have changed since: that is what one redoes a migration for.

    Raises:
        RefusedError: It has no way down.
        MigrationFileError: A file that is invalid or gone.
    """
    down = plan_down(folder, standing, steps=1)
    there = {migration.name: migration for migration in folder.migrations}
    again: list[Step] = []
    for step in down.steps:
        migration = there[step.name]
        _runnable(migration.up)
        again.append(_step(migration, "up", migration.up, step.batch))
    return Plan("redo", down.batch, bounded((*down.steps, *again), standing.server_version))


def _to_undo(
    folder: Folder, standing: Standing, steps: int | None, to: str | None, *, batch: bool
) -> list[Applied]:
    newest_first = standing.applied[::-1]
    if to is not None:
        floor = None if to.isdecimal() and int(to) == 0 else find(folder, to).key
        return [row for row in newest_first if floor is None or key_of(row.name) > floor]
    if batch:
        return [row for row in newest_first if row.batch == newest_first[0].batch]
    return newest_first[: 1 if steps is None else steps]


def has_way_down(migration: Migration) -> bool:
    """Whether a valid migration can be undone: it isn't declared irreversible, and has a down."""
    down = migration.down
    if migration.up.directives.irreversible is not None or down is None:
        return False
    return not down.is_python or "down" in down.functions


def lacks_down(migration: Migration) -> bool:
    """Whether nothing undoes it, and nothing says why; False where a file of it is invalid."""
    if migration.up.problem() is not None:
        return False
    return migration.up.directives.irreversible is None and not has_way_down(migration)


def _way_down(migration: Migration) -> MigrationFile:
    """The file that undoes a migration, valid."""
    reason = None if migration.up.problem() else migration.up.directives.irreversible
    down = migration.down
    if reason is not None:
        raise RefusedError(
            f"{migration.name} is declared irreversible: {reason}",
            hint="restore a backup, or write a new migration that goes on from here",
        )
    if down is not None:
        _runnable(down)
    if down is None or not migration.reversible:
        from negspace.migrate.forms import file_names

        up, file = file_names(migration.form, migration.name)
        other = file if file != up else f"it, in {file}"
        missing = "a function down(connection)" if down else other
        raise RefusedError(f"{migration.name} has no way down", hint=f"write {missing}")
    return down


def _step(migration: Migration, direction: str, file: MigrationFile, batch: int) -> Step:
    alone = _alone_because(file)
    reason = alone and f"outside a transaction: {alone}"
    return Step(
        migration.name,
        migration.version,
        direction,
        file,
        batch,
        file.transaction,
        reason,
        lacks_down=lacks_down(migration),
    )


def _alone_because(file: MigrationFile) -> str | None:
    """Why a file runs outside the run's transaction, or None where it runs inside."""
    if file.transaction:
        return None
    from negspace.migrate.autocommit import command

    for statement in file.statements:
        found = command(statement)
        if found is not None and file.directives.transaction:
            return f"{found} in line {statement.line} runs outside a transaction only"
    return "declared no-transaction"


def bounded(steps: Sequence[Step], server_version: int) -> tuple[Step, ...]:
    """The steps, with the commits that new enum values need on such a server."""
    if not steps:
        return ()
    from negspace.migrate.boundaries import Values

    values = Values(server_version)
    out: list[Step] = []
    for step in steps:
        if not step.transaction:
            values.committed()
            out.append(step)
            continue
        found = values.boundaries(step.file)
        inside = tuple(boundary for boundary in found if boundary.at)
        if inside:
            values.committed()  # it runs alone: what is before it is committed, its types too
            inside = values.boundaries(step.file)
            values.committed()
            reason = "commits inside the file: " + "; ".join(b.reason for b in inside)
            cuts = tuple(boundary.at for boundary in inside)
            out.append(replace(step, transaction=False, reason=reason, cuts=cuts))
        elif found:
            reason = f"after a commit: {found[0].reason}"
            out.append(replace(step, reason=reason, after_commit=True))
        else:
            out.append(step)
    return tuple(out)


def find(folder: Folder, version: str) -> Migration:
    """The migration that a number or a name means; the last of several with one number.

    Raises:
        InvalidInputError: There is none.
    """
    number = number_of(version) if is_number(version) else None
    found = [m for m in folder.migrations if m.name == version or m.key[0] == number]
    if not found:
        raise InvalidInputError(
            f"{folder.path} has no version {version}",
            hint="negspace migrate status lists them",
        )
    return found[-1]
