"""``negspace migrate``: apply, undo, rehearse and check migrations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from negspace import migrate
from negspace.cli import output
from negspace.cli.migrate_answers import answering
from negspace.cli.migrate_limits import Limits, limit_options, run_options
from negspace.cli.migrate_options import (
    Command,
    address,
    either_order,
    folder_option,
    is_embedded,
    settings,
    strip_option,
)
from negspace.cli.migrate_show import FOUND, say_waiting, show_run
from negspace.errors import FileError, InvalidInputError, RefusedError

if TYPE_CHECKING:
    from negspace.migrate.plan import Plan

_SETTLED: Final = {"applied", "squashed"}


# Verbs with a module of their own, which is imported when one of them is named.
_ELSEWHERE: Final = {
    "baseline": "migrate_drift",
    "drift": "migrate_drift",
    "lint": "migrate_lint",
    "prove": "migrate_proof",
    "squash": "migrate_proof",
    "validate": "migrate_lint",
}


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _ELSEWHERE:
            return getattr(import_module(f"negspace.cli.{_ELSEWHERE[cmd_name]}"), cmd_name)
        return super().get_command(ctx, cmd_name)


@click.group("migrate", cls=_Verbs)
def group() -> None:
    """Apply, undo, rehearse and check migrations: negspace's own, or any folder's."""


def _writes(command: Command) -> Command:
    """The options of a verb that runs migrations."""
    for option in (
        strip_option,
        click.option(
            "--dry-run",
            is_flag=True,
            is_eager=True,  # --fail-on asks for it
            help="Execute everything, measure it, then roll back.",
        ),
        limit_options,
    ):
        command = option(command)
    return output.json_option(folder_option(command))


def _undoes(command: Command) -> Command:
    """The options of a verb that undoes."""
    for option in (
        click.option("--yes", is_flag=True, help="Don't ask."),
        click.option(
            "--accept-loss",
            metavar="NAME",
            multiple=True,
            help="A table or column whose data may be lost, as the proof names it.",
        ),
        click.option(
            "--development",
            is_flag=True,
            help="The database is for development: prove nothing, lose what is lost.",
        ),
    ):
        command = option(command)
    return command


@group.command()
@_writes
@answering
@click.option("--to", metavar="VERSION", help="The last version to apply.")
@click.option("--no-lint", is_flag=True, help="Apply what lint calls an error too.")
@click.option(
    "--allow-out-of-order",
    is_flag=True,
    help="Apply late migrations too, where a trial shows that the order makes no difference.",
)
def up(
    folder: Path,
    to: str | None,
    answers: dict[str, migrate.Answer],
    no_lint: bool,
    allow_out_of_order: bool,
    dry_run: bool,
    lock_timeout: float | None,
    lock_wait: float | None,
    fingerprint: bool,
    fail_on: tuple[migrate.Gate, ...],
    statement_timeout: float | None,
    strip_transaction: bool,
    as_json: bool,
) -> int:
    """Apply what is pending, in one transaction: all or nothing."""
    limits = Limits(lock_timeout, lock_wait, statement_timeout, fingerprint)
    options = run_options(dry_run, limits, strip=strip_transaction, answers=answers)
    where = address()
    late = either_order(where, folder, strip=strip_transaction) if allow_out_of_order else None
    guard = None if no_lint else _linted(where, folder, options.lock_timeout)
    result = migrate.up(
        where, folder, to=to, options=options, on_wait=say_waiting, late=late, guard=guard
    )
    return show_run(result, fail_on, as_json=as_json)


@group.command()
@_writes
@click.option("--steps", type=click.IntRange(min=1), help="How many to undo; 1 by default.")
@click.option("--to", metavar="VERSION", help="Undo what comes after it; 0 undoes everything.")
@click.option("--batch", is_flag=True, help="Undo the newest batch.")
@answering
@_undoes
def down(
    folder: Path,
    answers: dict[str, migrate.Answer],
    steps: int | None,
    to: str | None,
    batch: bool,
    yes: bool,
    development: bool,
    accept_loss: tuple[str, ...],
    dry_run: bool,
    lock_timeout: float | None,
    lock_wait: float | None,
    fingerprint: bool,
    fail_on: tuple[migrate.Gate, ...],
    statement_timeout: float | None,
    strip_transaction: bool,
    as_json: bool,
) -> int:
    """Undo the newest migrations, in one transaction. Data that they hold is lost.

    On any server but the embedded one it is proven first what that loses, on a shadow
    database: a down that lies or is broken is refused, and data has to be named to be lost.
    """
    if sum((steps is not None, to is not None, batch)) > 1:
        raise InvalidInputError("--steps, --to and --batch exclude each other", hint="give one")
    if not (dry_run or yes):
        _ask("the newest batch" if batch else f"down to {to}" if to else f"the newest {steps or 1}")
    limits = Limits(lock_timeout, lock_wait, statement_timeout, fingerprint)
    options = run_options(dry_run, limits, strip=strip_transaction, answers=answers)
    result = migrate.down(
        address(),
        folder,
        steps=steps,
        to=to,
        batch=batch,
        options=options,
        on_wait=say_waiting,
        guard=_guard(folder, options, development, accept_loss),
    )
    return show_run(result, fail_on, as_json=as_json)


@group.command()
@_writes
@_undoes
def redo(
    folder: Path,
    yes: bool,
    development: bool,
    accept_loss: tuple[str, ...],
    dry_run: bool,
    lock_timeout: float | None,
    lock_wait: float | None,
    fingerprint: bool,
    fail_on: tuple[migrate.Gate, ...],
    statement_timeout: float | None,
    strip_transaction: bool,
    as_json: bool,
) -> int:
    """Undo the newest migration and apply it again as it is now. In one transaction."""
    if not (dry_run or yes):
        _ask("the newest, to be applied again")
    limits = Limits(lock_timeout, lock_wait, statement_timeout, fingerprint)
    options = run_options(dry_run, limits, strip=strip_transaction)
    result = migrate.redo(
        address(),
        folder,
        options=options,
        on_wait=say_waiting,
        guard=_guard(folder, options, development, accept_loss),
    )
    return show_run(result, fail_on, as_json=as_json)


def _linted(where: str, folder: Path, lock_timeout: float | None) -> Callable[[Plan], None]:
    """What ``up`` asks before it runs; lint is imported when there is something to run."""

    def check(plan: Plan) -> None:
        from negspace.cli.migrate_lint import say_no_way_down, say_warnings
        from negspace.migrate.lint import linted

        say_no_way_down([step.name for step in plan.steps if step.lacks_down])
        has_timeout = lock_timeout is not None
        linted(where, folder, lock_timeout=has_timeout, on_warnings=say_warnings)(plan)

    return check


def _guard(
    folder: Path, options: migrate.Options, development: bool, accept_loss: Sequence[str]
) -> Callable[[Plan], None] | None:
    """The proof before a down; none for a developer's own database, or a rehearsal."""
    found = settings()
    if options.dry_run or development or is_embedded(found):
        return None
    from negspace.cli.migrate_proof import say_proven
    from negspace.migrate.guard import proven
    from negspace.migrate.shadow import ground

    return proven(
        lambda: ground(found),
        folder,
        accept_loss=accept_loss,
        strip_transaction=options.strip_transaction,
        progress=say_proven,
    )


def _ask(what: str) -> None:
    if not sys.stdin.isatty():
        raise RefusedError("undoing migrations may lose data", hint="say --yes, or --dry-run first")
    if not click.confirm(f"Undo migrations ({what})? Their data is lost", err=True):
        raise RefusedError("not undone", hint="--dry-run shows what would happen")


@group.command()
@folder_option
@click.option("--check", is_flag=True, help=f"Exit {FOUND} unless everything is applied as it is.")
@output.json_option
def status(folder: Path, check: bool, as_json: bool) -> int:
    """Show which migrations are applied, pending, edited or gone."""
    found = migrate.status(address(), folder)
    if as_json:
        output.show_json(found)
    else:
        output.show_columns(
            ["version", "name", "state", "batch", "applied at", "ms"],
            [
                (
                    row.version,
                    row.name.removeprefix(row.version)[1:],
                    row.state,
                    row.batch,
                    row.applied_at,
                    None if row.duration_ms is None else f"{row.duration_ms:.0f}",
                )
                for row in found
            ],
        )
        waiting = sum(row.state not in _SETTLED for row in found)
        output.show_text(
            f"{waiting} of {len(found)} not applied as they are; negspace migrate up, or validate"
            if waiting
            else f"all {len(found)} applied"
        )
    return FOUND if check and any(row.state not in _SETTLED for row in found) else 0


@group.command()
@click.argument("count", type=click.IntRange(min=1), required=False)
@output.json_option
def history(count: int | None, as_json: bool) -> None:
    """Show every attempt, newest first. The last COUNT, 20 by default; all as JSON."""
    wanted = count if as_json else (count or 20)
    found = migrate.history(address(), wanted)
    if as_json:
        output.show_json(found)
        return
    if not found:
        output.show_text("nothing was run yet")
        return
    output.show_columns(
        ["id", "when", "batch", "name", "direction", "status", "ms", "by", "error"],
        [
            (
                entry.id,
                entry.started_at,
                entry.batch,
                entry.name,
                entry.direction,
                entry.status,
                None if entry.duration_ms is None else f"{entry.duration_ms:.0f}",
                entry.host,
                " ".join(x for x in (entry.sqlstate, entry.error_message) if x),
            )
            for entry in found
        ],
    )


@group.command()
@click.argument("name")
@folder_option
@output.json_option
def new(name: str, folder: Path, as_json: bool) -> None:
    """Make the empty files of a new migration. In the folder's form, numbered after the last."""
    paths = migrate.new(folder, name)
    if as_json:
        output.show_json({"up": paths[0], "down": paths[1]})
        return
    for path in dict.fromkeys(paths):
        output.show_text(str(path))


@group.command()
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write it there; else to stdout.",
)
@output.json_option
def dump(target: Path | None, as_json: bool) -> None:
    """Print the schema as one script for psql. Owners, data and passwords are left out."""
    text = migrate.dump(address())
    if target is None:
        output.show_json({"schema": text}) if as_json else click.echo(text, nl=False)
        return
    try:
        target.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise FileError(
            f"{target}: {error.strerror}", hint="--output takes a file that can be written"
        ) from None
    if as_json:
        output.show_json({"file": target, "bytes": len(text.encode())})
    else:
        output.show_text(f"wrote {target}")
