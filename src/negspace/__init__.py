"""negspace: the PostgreSQL system of record for image-analysis platforms.

>>> import negspace
>>> with negspace.connect() as database:  # doctest: +SKIP
...     newest = negspace.images.list_images(database, limit=10)

Every name below is loaded when it is first used: ``import negspace`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from negspace import (
        access,
        analysis,
        audit,
        cache,
        doctor,
        duplicates,
        images,
        intake,
        jobs,
        keys,
        metrics,
        migrate,
        queue,
        recovery,
        report,
        results,
        server,
        sessions,
        settings,
        storage,
        upkeep,
        users,
        worker,
    )
    from negspace.analysis.negative_space import analyze
    from negspace.database import Actor, Database
    from negspace.errors import NegspaceError
    from negspace.server import connect

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "Database",
    "NegspaceError",
    "access",
    "analysis",
    "analyze",
    "audit",
    "cache",
    "connect",
    "doctor",
    "duplicates",
    "images",
    "intake",
    "jobs",
    "keys",
    "metrics",
    "migrate",
    "queue",
    "recovery",
    "report",
    "results",
    "server",
    "sessions",
    "settings",
    "storage",
    "upkeep",
    "users",
    "worker",
]

_FROM: Final = {
    "Actor": "negspace.database",
    "Database": "negspace.database",
    "NegspaceError": "negspace.errors",
    "analyze": "negspace.analysis.negative_space",
    "connect": "negspace.server",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'negspace' has no attribute {name!r}")
    if name in _FROM:
        return getattr(import_module(_FROM[name]), name)
    return import_module(f"negspace.{name}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
