"""The migration runner; it knows nothing of images and works on any folder of migrations.

>>> from negspace import migrate
>>> result = migrate.up(address, Path("migrations"))  # doctest: +SKIP
>>> result.ok, result.failure  # doctest: +SKIP
"""

from __future__ import annotations

from negspace.migrate.execute import Options, RunResult, StepResult
from negspace.migrate.failure import Failure
from negspace.migrate.ledger import Entry, Holder
from negspace.migrate.runner import MigrationStatus, down, dump, history, new, status, up, validate
from negspace.migrate.script import Problem

__all__ = [
    "Entry",
    "Failure",
    "Holder",
    "MigrationStatus",
    "Options",
    "Problem",
    "RunResult",
    "StepResult",
    "down",
    "dump",
    "history",
    "new",
    "status",
    "up",
    "validate",
]
