"""What stands between a down and a production database: its proof."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from shlex import quote

from negspace.errors import RefusedError
from negspace.migrate.plan import Plan
from negspace.migrate.proof import MigrationProof, Progress, prove
from negspace.migrate.shadow import Ground

__all__ = ["proven"]


def proven(
    place: Callable[[], Ground],
    folder: Path,
    *,
    accept_loss: Collection[str] = (),
    strip_transaction: bool = False,
    progress: Progress | None = None,
) -> Callable[[Plan], None]:
    """A guard for ``down`` and ``redo``: it proves what they will undo, before they touch it.

    Args:
        place: Where shadows are made; asked when there is something to prove.
        folder: The migrations.
        accept_loss: The tables and columns whose data may be lost, by the proof's names.
        strip_transaction: As for the run.
        progress: Called after each migration that was proven.

    Returns:
        A function that raises RefusedError where a down lies or is broken, or loses data
        that ``accept_loss`` does not name.
    """

    def guard(plan: Plan) -> None:
        undone = {step.name for step in plan.steps if step.direction == "down"}
        proof = prove(
            place(), folder, only=undone, strip_transaction=strip_transaction, progress=progress
        )
        _refuse_worse(proof.migrations)
        if proof.unproven:
            raise RefusedError(
                f"{', '.join(proof.unproven)} can't be proven",
                hint="negspace migrate prove says why",
            )
        _refuse_loss(proof.migrations, accept_loss)

    return guard


def _refuse_worse(proofs: Iterable[MigrationProof]) -> None:
    for proof in proofs:
        if proof.grade == "lies":
            objects = ", ".join(d.identity for d in (*proof.after_down, *proof.after_second_up))
            raise RefusedError(
                f"the down of {proof.name} lies: it does not restore {objects}",
                hint="correct it, or go on with a new migration; negspace migrate prove shows more",
            )
        if proof.failure is not None:
            raise RefusedError(
                f"the down of {proof.name} is broken: {proof.failed_at} fails at"
                f" {proof.failure.where}: {proof.failure.message}",
                hint="correct it, or go on with a new migration",
            )


def _refuse_loss(proofs: Iterable[MigrationProof], accepted: Collection[str]) -> None:
    losses = {loss.name: loss for proof in proofs for loss in proof.losses}
    missing = [name for name in losses if name not in accepted]
    if missing:
        flags = " ".join(f"--accept-loss {quote(name)}" for name in missing)
        raise RefusedError(
            f"it loses the data of {', '.join(missing)}",
            hint=f"make a backup, then say so: {flags}",
            losses=missing,
        )
