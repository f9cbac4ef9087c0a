"""The migration runner; it knows nothing of images and works on any folder of migrations.

>>> from negspace import migrate
>>> result = migrate.up(address, Path("migrations"))  # doctest: +SKIP
>>> result.ok, result.failure  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from negspace.migrate.authoring import new
    from negspace.migrate.baselining import Baseline, baseline
    from negspace.migrate.drifting import Drift, DriftedObject, drift
    from negspace.migrate.failure import Failure
    from negspace.migrate.gates import Exceeded, Gate
    from negspace.migrate.guard import proven
    from negspace.migrate.journal import Answer
    from negspace.migrate.ledger import Entry, Holder
    from negspace.migrate.ordering import either_order
    from negspace.migrate.outcome import RunResult, StepResult
    from negspace.migrate.perform import StatementResult
    from negspace.migrate.proof import MigrationProof, Proof, prove
    from negspace.migrate.rehearse import LockHeld, LockTaken, Rehearsal, StatementRehearsal
    from negspace.migrate.runner import (
        MigrationStatus,
        down,
        dump,
        history,
        redo,
        status,
        up,
        validate,
    )
    from negspace.migrate.script import Problem
    from negspace.migrate.session import Options
    from negspace.migrate.shadow import Ground, ground
    from negspace.migrate.squashing import Squash, squash
    from negspace.migrate.watch import Blocker

# Each is imported when it is first asked for: to find nothing to do takes few of them.
_LATER: Final = {
    "Answer": "journal",
    "Baseline": "baselining",
    "Blocker": "watch",
    "Drift": "drifting",
    "DriftedObject": "drifting",
    "Entry": "ledger",
    "Exceeded": "gates",
    "Failure": "failure",
    "Gate": "gates",
    "Ground": "shadow",
    "Holder": "ledger",
    "LockHeld": "rehearse",
    "LockTaken": "rehearse",
    "MigrationProof": "proof",
    "MigrationStatus": "runner",
    "Options": "session",
    "Problem": "script",
    "Proof": "proof",
    "Rehearsal": "rehearse",
    "RunResult": "outcome",
    "Squash": "squashing",
    "StatementRehearsal": "rehearse",
    "StatementResult": "perform",
    "StepResult": "outcome",
    "baseline": "baselining",
    "down": "runner",
    "drift": "drifting",
    "dump": "runner",
    "either_order": "ordering",
    "ground": "shadow",
    "history": "runner",
    "new": "authoring",
    "prove": "proof",
    "proven": "guard",
    "redo": "runner",
    "squash": "squashing",
    "status": "runner",
    "up": "runner",
    "validate": "runner",
}

__all__ = [
    "Answer",
    "Baseline",
    "Blocker",
    "Drift",
    "DriftedObject",
    "Entry",
    "Exceeded",
    "Failure",
    "Gate",
    "Ground",
    "Holder",
    "LockHeld",
    "LockTaken",
    "MigrationProof",
    "MigrationStatus",
    "Options",
    "Problem",
    "Proof",
    "Rehearsal",
    "RunResult",
    "Squash",
    "StatementRehearsal",
    "StatementResult",
    "StepResult",
    "baseline",
    "down",
    "drift",
    "dump",
    "either_order",
    "ground",
    "history",
    "new",
    "prove",
    "proven",
    "redo",
    "squash",
    "status",
    "up",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"negspace.migrate.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
