"""Runs a Python migration."""

from __future__ import annotations

from types import ModuleType

from negspace.database import Connection
from negspace.migrate import failure as failed
from negspace.migrate.failure import Failure
from negspace.migrate.plan import Step

__all__ = ["run_python"]


def run_python(connection: Connection, step: Step) -> Failure | None:
    """Call ``up`` or ``down`` of the file, exactly as it was read and checked."""
    module = ModuleType(step.name)
    module.__file__ = str(step.file.path)
    try:
        code = compile(step.file.text, str(step.file.path), "exec")
        exec(code, module.__dict__)  # noqa: S102  a migration is code that its user asks to run
        getattr(module, step.direction)(connection)
    except Exception as error:  # whatever it is, it is the migration's failure
        return failed.in_python(step.name, step.file, error)
    return None
