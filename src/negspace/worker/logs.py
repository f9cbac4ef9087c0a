"""What jobs said while they were computed, as it was stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString

from negspace.database import Database, only, rows

_BATCH: Final = 10_000


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


def purge(database: Database, older_than: timedelta) -> int:
    """Remove what was said longer ago; how many tries' logs were removed.

    Raises:
        InvalidInputError: The age is negative.
    """
    total = 0
    while True:
        with database.transaction() as connection:
            row = only(connection, "select purge_job_logs(%s, %s) as n", [older_than, _BATCH])
        purged: int = row["n"] if row else 0
        total += purged
        if purged < _BATCH:
            return total
