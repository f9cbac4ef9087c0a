"""How a run of migrations is shown, while it goes on and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from negspace import migrate
from negspace.cli import migrate_rehearsal, output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from negspace.migrate import Blocker

__all__ = ["FAILED", "FOUND", "say_blocked", "say_progress", "say_waiting", "show_run"]

FAILED: Final = 1
FOUND: Final = 3


def say_waiting(holder: migrate.Holder) -> None:
    """Say for whom the run waits."""
    since = f", since {holder.since:%H:%M:%S %Z}" if holder.since else ""
    output.note(
        f"waiting for another run: pid {holder.pid} ({holder.application}, {holder.user}){since}"
    )


def say_progress(step: migrate.StepResult) -> None:
    """Say what became of a migration."""
    spent = f"{step.duration_ms:.0f} ms" if step.duration_ms is not None else ""
    output.note(f"  {step.direction:<4} {step.name}  {step.status} {spent}".rstrip())
    for line in (step.reason, *step.recovered):
        if line:
            output.note(f"         {line}")


def say_blocked(blockers: tuple[Blocker, ...]) -> None:
    """Name on stderr whom a statement waits for."""
    for blocker in blockers:
        wants = f" for {blocker.wants}" if blocker.wants else ""
        output.note(f"  waiting{wants}: {blocker}")


def show_run(result: migrate.RunResult, gates: Sequence[migrate.Gate], *, as_json: bool) -> int:
    """Show the result of a run; the command's exit status."""
    exceeded = migrate_rehearsal.exceeded(result, gates)
    if as_json:
        output.show_json(migrate_rehearsal.as_plain(result, exceeded))
    elif result.failure is not None:
        _show_failure(result, result.failure)
    else:
        if result.rehearsal is not None:
            migrate_rehearsal.show(result.rehearsal)
        output.show_text(_summary(result))
    if not result.ok:
        return FAILED
    return FOUND if exceeded else 0


def _show_failure(result: migrate.RunResult, failure: migrate.Failure) -> None:
    for line in failure.lines():
        output.note(line)
    kept = [s.name for s in result.steps if s.status in {"success", "rolled_back"}]
    failed = next(step for step in result.steps if step.status == "failed")
    if result.dry_run:
        said = "nothing was changed: this was a dry run"
    elif not failed.transaction:
        done = failed.statements
        said = f"{failed.name} runs outside a transaction: {done} of its statements stay"
    else:
        said = "rolled back" if kept else "rolled back: nothing was changed"
    output.note(said)
    if kept:
        output.note(f"done before it, and stays: {', '.join(kept)}")


def _summary(result: migrate.RunResult) -> str:
    if not result.steps:
        return "nothing to do"
    count = len(result.steps)
    spent = f"{result.duration_ms / 1000:.2f} s"
    if result.dry_run:
        left = sum(step.status == "not rehearsed" for step in result.steps)
        also = (
            f", {left} not rehearsed: they run outside a transaction, or after one" if left else ""
        )
        ran = count - left
        of = output.counted(count, "migration")
        return f"dry run: {ran} of {of} would work{also}; rolled back after {spent}"
    if result.direction == "up":
        return (
            f"applied {output.counted(count, 'migration')} as batch {result.batch} in {spent}"
            "; negspace migrate history shows them"
        )
    if result.direction == "redo":
        return f"undid and applied {result.steps[0].name} again in {spent}"
    undone = output.counted(count, "migration")
    return f"undid {undone} in {spent}; negspace migrate up applies them again"
