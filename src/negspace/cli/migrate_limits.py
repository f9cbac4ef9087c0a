"""The options about locks and time that the runs of ``negspace migrate`` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from negspace import migrate
from negspace.cli.migrate_show import say_blocked, say_progress
from negspace.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from negspace.cli.migrate_options import Command
    from negspace.migrate import Gate

__all__ = ["Limits", "limit_options", "run_options"]

_SECONDS: Final = click.FloatRange(min=0)


def limit_options(command: Command) -> Command:
    """How long a run and its statements may wait and work, and what its rehearsal may show."""
    return _lock_options(_work_options(command))


def _work_options(command: Command) -> Command:
    for option in (
        click.option(
            "--statement-timeout",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            help="The longest a statement runs.",
        ),
        click.option(
            "--fingerprint/--no-fingerprint",
            default=True,
            help="Keep in the ledger what the catalog was before and after the run.",
        ),
        click.option(
            "--fail-on",
            metavar="GATE",
            multiple=True,
            callback=_gates,
            help="With --dry-run: exit 3 if it saw more, such as 'access_exclusive>2s',"
            " 'rewrites>0', 'wal>1GB'. May be repeated.",
        ),
    ):
        command = option(command)
    return command


def _lock_options(command: Command) -> Command:
    for option in (
        click.option(
            "--lock-timeout",
            type=_SECONDS,
            metavar="SECONDS",
            default=1.0,
            show_default=True,
            callback=_seconds,
            help="The longest a statement waits for a lock before it makes way and tries again;"
            " 0: it does not make way.",
        ),
        click.option(
            "--lock-wait",
            type=_SECONDS,
            metavar="SECONDS",
            default=60.0,
            show_default=True,
            callback=_seconds,
            help="The longest the run waits for locks in all; 0: for ever.",
        ),
    ):
        command = option(command)
    return command


def _seconds(ctx: click.Context, param: click.Parameter, value: float) -> float | None:
    del ctx, param
    return value or None


def _gates(ctx: click.Context, param: click.Parameter, given: Sequence[str]) -> tuple[Gate, ...]:
    del param
    if not given:
        return ()
    if not ctx.params.get("dry_run"):
        raise InvalidInputError("--fail-on looks at a rehearsal", hint="add --dry-run")
    from negspace.migrate import gates

    return tuple(map(gates.parse, given))


@dataclass(frozen=True)
class Limits:
    """What ``limit_options`` gave, in seconds, and whether the catalog's fingerprint is kept."""

    lock_timeout: float | None
    lock_wait: float | None
    statement_timeout: float | None
    fingerprint: bool


def run_options(
    dry_run: bool,
    limits: Limits,
    *,
    strip: bool,
    answers: Mapping[str, migrate.Answer] | None = None,
) -> migrate.Options:
    """How the command line has a plan run."""
    return migrate.Options(
        dry_run=dry_run,
        lock_timeout=limits.lock_timeout,
        lock_wait=limits.lock_wait,
        statement_timeout=limits.statement_timeout,
        fingerprint=limits.fingerprint,
        strip_transaction=strip,
        progress=say_progress,
        on_blocked=say_blocked,
        answers=answers or {},
    )
