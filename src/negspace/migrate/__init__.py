"""The migration runner; it knows nothing of images and works on any folder of migrations.

>>> from negspace import migrate
>>> result = migrate.up(address, Path("migrations"))  # doctest: +SKIP
>>> result.ok, result.failure  # doctest: +SKIP
"""

from __future__ import annotations

from negspace.migrate.execute import Options, RunResult, StepResult
from negspace.migrate.failure import Failure
from negspace.migrate.gates import Exceeded, Gate
from negspace.migrate.ledger import Entry, Holder
from negspace.migrate.perform import StatementResult
from negspace.migrate.rehearse import LockHeld, LockTaken, Rehearsal, StatementRehearsal
from negspace.migrate.runner import (
    MigrationStatus,
    down,
    dump,
    history,
    new,
    redo,
    status,
    up,
    validate,
)
from negspace.migrate.script import Problem
from negspace.migrate.watch import Blocker

__all__ = [
    "Blocker",
    "Entry",
    "Exceeded",
    "Failure",
    "Gate",
    "Holder",
    "LockHeld",
    "LockTaken",
    "MigrationStatus",
    "Options",
    "Problem",
    "Rehearsal",
    "RunResult",
    "StatementRehearsal",
    "StatementResult",
    "StepResult",
    "down",
    "dump",
    "history",
    "new",
    "redo",
    "status",
    "up",
    "validate",
]
