"""What became of a run and of its steps, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from negspace.migrate.failure import Failure
    from negspace.migrate.perform import StatementResult
    from negspace.migrate.plan import Step
    from negspace.migrate.rehearse import Rehearsal

__all__ = ["RunResult", "StepResult", "outcome"]


@dataclass(frozen=True)
class StepResult:
    """What became of one step.

    Attributes:
        status: ``success`` (applied), ``rolled_back`` (undone by down), ``failed``,
            ``undone`` (had run, and went with the failed transaction), ``not run``;
            in a dry run ``rehearsed``, or ``not rehearsed`` where it can't be.
        duration_ms: Its time; None where it did not run.
        statements: How many statements ran.
        reason: Why it runs outside the run's transaction, or after a commit.
        recovered: What was found and done about an earlier run that had died in it.
        details: Each statement that ran, the one that failed included.
    """

    name: str
    version: str
    direction: str
    status: str
    transaction: bool
    duration_ms: float | None = None
    statements: int = 0
    reason: str | None = None
    recovered: tuple[str, ...] = ()
    details: tuple[StatementResult, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """What a run did. A failure is told here, not raised.

    Attributes:
        batch: The batch that was applied or, by down, undone.
        steps: One per planned migration, in the order of the plan.
        failure: Why it stopped, or None.
        lock_wait_ms: How long it waited for another run.
        rehearsal: What a dry run saw; None otherwise.
    """

    direction: str
    batch: int
    dry_run: bool
    steps: tuple[StepResult, ...]
    failure: Failure | None
    duration_ms: float
    lock_wait_ms: float = 0.0
    rehearsal: Rehearsal | None = None

    @property
    def ok(self) -> bool:
        """Whether everything planned was done, or rehearsed."""
        return self.failure is None


def outcome(step: Step, status: str) -> StepResult:
    """What is known of a step by its plan alone."""
    return StepResult(
        step.name, step.version, step.direction, status, step.transaction, reason=step.reason
    )
