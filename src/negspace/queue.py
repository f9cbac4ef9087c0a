"""The queue as a whole: what may run at once, what failed, how long its history is kept.

Single jobs are in ``negspace.jobs``: docs/jobs.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from negspace.database import Database, only, rows
from negspace.errors import InvalidInputError

_PURGE_BATCH: Final = 10_000


@dataclass(frozen=True)
class Failures:
    """Failed tries of one analyser that had the same kind of error.

    Attributes:
        algorithm_name: The analyser.
        error_class: The name of an exception, or ProcessDied, TimeLimit, MemoryLimit,
            DeadlinePassed, WorkerLost, Unknown.
        tries: How many tries failed so.
        jobs: How many of them were the last: the job failed for good.
        last_failed_at: The newest hour in which one did.
    """

    algorithm_name: str
    error_class: str
    tries: int
    jobs: int
    last_failed_at: datetime


@dataclass(frozen=True)
class Limit:
    """How many jobs of a user, or of a group, may run at once.

    Attributes:
        user_email: Whose jobs, or None.
        job_group: Which group's, or None.
        max_running: How many.
        running: How many run now; more, where the limit came while they ran.
    """

    user_email: str | None
    job_group: str | None
    max_running: int
    running: int


def limits(database: Database) -> list[Limit]:
    """The limits that are in force, the oldest first."""
    query = (
        "select u.email as user_email, l.job_group, l.max_running, l.running from queue_limits l"
        " left join users u on u.id = l.user_id order by l.id"
    )
    with database.transaction(read_only=True) as connection:
        return [Limit(**row) for row in rows(connection, query)]


def limit_running(
    database: Database, most: int | None, *, user: int | None = None, group: str | None = None
) -> int | None:
    """Set how many jobs of a user, or of a group, may run at once; those that run go on.

    Args:
        database: Where.
        most: How many; None: no limit.
        user: Whose jobs.
        group: Or the ``job_group`` of the jobs.

    Returns:
        How many of them run now; None where there is no limit any more.

    Raises:
        InvalidInputError: Not one of both is named, or the number is negative.
    """
    if most is not None and not 0 <= most < 2**31:
        raise InvalidInputError(f"the limit is {most}", hint="a whole number, 0 or more")
    with database.transaction() as connection:
        query = "select limit_running_jobs(%s::integer, %s, %s) as n"
        row = only(connection, query, [most, user, group])
    return row["n"] if row else None


def drop_months(database: Database, older_than: timedelta) -> list[str]:
    """Drop whole months of jobs that all ended longer ago: cheaper than ``purge``.

    Returns:
        The partitions that were dropped.

    Raises:
        InvalidInputError: The age is negative.
    """
    with database.transaction() as connection:
        row = only(connection, "select drop_ended_months(%s) as months", [older_than])
    return row["months"] if row else []


def purge(database: Database, older_than: timedelta) -> int:
    """Remove jobs that ended longer ago; their results and audit events stay.

    Returns:
        How many were removed, in transactions of 10,000.

    Raises:
        InvalidInputError: The age is negative.
    """
    total = 0
    while True:
        with database.transaction() as connection:
            row = only(connection, "select purge_jobs(%s, %s) as n", [older_than, _PURGE_BATCH])
        purged: int = row["n"] if row else 0
        total += purged
        if purged < _PURGE_BATCH:
            return total


def count_ended(database: Database, older_than: timedelta) -> int:
    """How many jobs ended longer ago."""
    query = (
        "select count(*) as n from processing_queue"
        " where status in ('completed', 'failed', 'cancelled') and completed_at < now() - %s"
    )
    with database.transaction(read_only=True) as connection:
        row = only(connection, query, [older_than])
    return row["n"] if row else 0


def failures(database: Database, *, since: datetime | None = None) -> list[Failures]:
    """Failures by analyser and error, most first, from kept counters.

    Args:
        database: Where.
        since: Only of the hours since then, its own included; None: of all time.
    """
    query = "select * from failures_by_error(coalesce(%s, '-infinity'::timestamptz))"
    with database.transaction(read_only=True) as connection:
        return [Failures(**row) for row in rows(connection, query, [since])]
