"""What a run is asked for, and the connection that it works on.

Apart from ``execute``: to find nothing to do takes no more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from negspace.database import Connection, connect

if TYPE_CHECKING:
    from negspace.migrate.journal import Answer
    from negspace.migrate.lexer import Statement
    from negspace.migrate.outcome import StepResult
    from negspace.migrate.watch import OnBlocked

__all__ = ["Options", "open_session"]

logger = logging.getLogger(__name__)

APPLICATION: Final = "negspace migrate"


@dataclass(frozen=True)
class Options:
    """How a plan is run.

    Attributes:
        dry_run: Execute everything, then roll back; nothing is written.
        lock_timeout: Seconds a statement waits for a lock before it makes way for those behind
            it, to be tried again; None: no such slices.
        lock_wait: Seconds the run may wait for locks in all, or None for the server's own.
        statement_timeout: Seconds a statement may take, or None for the server's own.
        strip_transaction: Leave out the BEGIN and COMMIT that files have of their own.
        fingerprint: Keep in the ledger what the catalog was before and after.
        left_out: Which statements not to run, or None: all run.
        progress: Called after each step.
        answers: What to do about migrations that a run left unfinished, by name, where the
            catalog can't tell.
        at: Called at each point where a crash would leave something else behind, with the
            point's name.
        on_blocked: Called, from another thread, with whom a statement waits for.
    """

    dry_run: bool = False
    lock_timeout: float | None = 1.0
    lock_wait: float | None = 60.0
    statement_timeout: float | None = None
    strip_transaction: bool = False
    fingerprint: bool = True
    left_out: Callable[[Statement], bool] | None = None
    progress: Callable[[StepResult], None] | None = None
    answers: Mapping[str, Answer] = field(default_factory=dict)
    at: Callable[[str], None] | None = None
    on_blocked: OnBlocked | None = None


def open_session(address: str) -> Connection:
    """The connection that a run works on: autocommit, UTF-8, its notices logged."""
    connection = connect(
        address, autocommit=True, application_name=APPLICATION, client_encoding="UTF8"
    )
    connection.add_notice_handler(_log_notice)
    return connection


def _log_notice(notice: Any) -> None:
    level = logging.WARNING if notice.severity_nonlocalized == "WARNING" else logging.INFO
    logger.log(level, "%s: %s", notice.severity, notice.message_primary)
