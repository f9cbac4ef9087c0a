"""What jobs said while they were computed, as it was stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from negspace.database import Database, rows


@dataclass(frozen=True)
class TryLog:
    """What one try of a job said.

    Attributes:
        attempt: Which try, from 1.
        worker_id: Who ran it.
        logged_at: When its lines were stored last.
        lines: Objects with ``logged_at``, ``level``, ``logger`` and ``message``, in order.
        left_out: How many lines there were besides, between the first and the last ones.
    """

    attempt: int
    worker_id: str
    logged_at: datetime
    lines: Sequence[Mapping[str, Any]]
    left_out: int


def of_job(database: Database, job: int) -> list[TryLog]:
    """What the tries of a job said, in order; those that said nothing are left out."""
    query: LiteralString = (
        "select attempt, worker_id, logged_at, lines, left_out from job_logs"
        " where job_id = %s order by attempt"
    )
    with database.transaction(read_only=True) as connection:
        return [TryLog(**row) for row in rows(connection, query, [job])]
