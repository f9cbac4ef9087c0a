"""What a dry run saw, as a table; and the options about locks that runs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from negspace import migrate
from negspace.cli import output
from negspace.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from negspace.cli.migrate_options import Command
    from negspace.migrate import Blocker, Exceeded, Gate, Rehearsal, RunResult

_SECONDS: Final = click.FloatRange(min=0)
_MOST_LOCKS: Final = 15
_MOST_STATEMENTS: Final = 10
_WIDEST: Final = 60
# Weaker ones hold up neither reads nor writes: --json has them.
_SHOWN: Final = {"share", "share_row_exclusive", "exclusive", "access_exclusive"}


def limit_options(command: Command) -> Command:
    """How long a run and its statements may wait and work, and what its rehearsal may show."""
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


def run_options(dry_run: bool, limits: Limits, *, strip: bool) -> migrate.Options:
    """How the command line has a plan run."""
    return migrate.Options(
        dry_run=dry_run,
        lock_timeout=limits.lock_timeout,
        lock_wait=limits.lock_wait,
        statement_timeout=limits.statement_timeout,
        fingerprint=limits.fingerprint,
        strip_transaction=strip,
        progress=_say_progress,
        on_blocked=_say_blocked,
    )


def say_waiting(holder: migrate.Holder) -> None:
    """Name on stderr the run that this one waits for."""
    since = f", since {holder.since:%H:%M:%S %Z}" if holder.since else ""
    output.note(
        f"waiting for another run: pid {holder.pid} ({holder.application}, {holder.user}){since}"
    )


def _say_progress(step: migrate.StepResult) -> None:
    spent = f"{step.duration_ms:.0f} ms" if step.duration_ms is not None else ""
    output.note(f"  {step.direction:<4} {step.name}  {step.status} {spent}".rstrip())


def _say_blocked(blockers: tuple[Blocker, ...]) -> None:
    """Name on stderr whom a statement waits for."""
    for blocker in blockers:
        wants = f" for {blocker.wants}" if blocker.wants else ""
        output.note(f"  waiting{wants}: {blocker}")


def exceeded(result: RunResult, gates: Sequence[Gate]) -> tuple[Exceeded, ...]:
    """The gates that the dry run ran into, each said on stderr."""
    if result.rehearsal is None or not gates:
        return ()
    from negspace.migrate import gates as judge

    found = judge.exceeded(result.rehearsal, gates)
    for one in found:
        where = f" ({one.what})" if one.what else ""
        seen = "can't be told" if one.value is None else f"{one.value:,.0f}"
        output.note(f"fails on {one.gate}: {seen}{where}")
    return found


def as_plain(result: RunResult, found: Sequence[Exceeded]) -> dict[str, Any]:
    """A run for ``--json``."""
    plain: dict[str, Any] = output.plain(result)
    return plain | ({"exceeded": output.plain(found)} if result.dry_run else {})


def show(rehearsal: Rehearsal) -> None:
    """The locks, held longest first, and the statements, longest first."""
    if not rehearsal.statements:
        return
    _show_locks(rehearsal)
    _show_statements(rehearsal)
    for name in rehearsal.rewrites:
        output.show_text(f"rewritten: {name}")
    wal = "unknown" if rehearsal.wal_bytes is None else _size(rehearsal.wal_bytes)
    output.show_text(
        f"the run: {rehearsal.duration_ms:.0f} ms, {rehearsal.rows:,} rows written, WAL {wal}"
    )


def _show_locks(rehearsal: Rehearsal) -> None:
    strongest: dict[str, Any] = {}
    for lock in rehearsal.locks:
        if lock.mode in _SHOWN and not lock.new:
            known = strongest.get(lock.table)
            # One mode of each relation: the one that holds up most.
            if known is None or (known.blocks != lock.blocks and "reads" in lock.blocks):
                strongest[lock.table] = lock
    if not strongest:
        output.show_text("no lock that holds up reads or writes of what was there")
        return
    locks = sorted(strongest.values(), key=lambda lock: -lock.held_ms)
    output.show_columns(
        ["held", "lock", "on", "blocks", "taken by"],
        [
            (
                f"{lock.held_ms:.0f} ms",
                lock.mode,
                lock.table if lock.kind == "table" else f"{lock.kind} {lock.table}",
                lock.blocks,
                _place(lock),
            )
            for lock in locks[:_MOST_LOCKS]
        ],
    )
    _say_more(len(locks) - _MOST_LOCKS, "locks")


def _show_statements(rehearsal: Rehearsal) -> None:
    longest = sorted(rehearsal.statements, key=lambda one: -one.duration_ms)
    output.show_columns(
        ["took", "rows", "WAL", "statement", "at"],
        [
            (
                f"{one.duration_ms:.0f} ms",
                one.rows,
                None if one.wal_bytes is None else _size(one.wal_bytes),
                _short(one.statement),
                _place(one),
            )
            for one in longest[:_MOST_STATEMENTS]
        ],
    )
    _say_more(len(longest) - _MOST_STATEMENTS, "statements")


def _place(one: Any) -> str:
    return one.migration if one.line is None else f"{one.migration}:{one.line}"


def _say_more(count: int, what: str) -> None:
    if count > 0:
        output.show_text(f"… and {count} more {what}: --json has all")


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _WIDEST else f"{words[:_WIDEST]}…"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GB"
