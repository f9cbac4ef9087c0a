"""What the steps do that is more than a call; each returns how much it did."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final, LiteralString

from negspace import metrics, queue
from negspace.database import Database, only, rows
from negspace.upkeep.files import tidy
from negspace.upkeep.keeping import Keeping

_LOGS_BATCH: Final = 10_000


def ensure_partitions(database: Database) -> int:
    """Make the months that are missing, back to that of the oldest job that waits or runs.

    Two years back at most: the month of an older job is made by hand; ``doctor`` says so.

    Returns:
        How many partitions were made.
    """
    return count(
        database,
        "select ensure_partitions(oldest => (select greatest(min(created_at),"
        "  now() - interval '2 years') from processing_queue"
        " where status in ('queued', 'processing', 'retrying')"
        " having min(created_at) is not null)) as n",  # greatest() passes nulls by
    )


def purge_job_logs(database: Database, older_than: timedelta) -> int:
    """Remove what jobs said longer ago; how many tries' logs were removed.

    Raises:
        InvalidInputError: The age is negative.
    """
    total = 0
    while True:
        query = "select purge_job_logs(%s, %s) as n"
        purged = count(database, query, older_than, _LOGS_BATCH)
        total += purged
        if purged < _LOGS_BATCH:
            return total


def drop_ended_jobs(keeping: Keeping) -> int:
    """Drop the months of jobs that are older than the policy keeps them."""
    older_than = keeping.policy.jobs
    return 0 if older_than is None else len(queue.drop_months(keeping.database, older_than))


def drop_samples(keeping: Keeping) -> int:
    """Drop the months of samples that are older than the policy keeps them."""
    policy = keeping.policy
    if keeping.owner is None:
        return 0
    gone = metrics.purge(keeping.owner, keep_samples=policy.samples, keep_minutes=policy.minutes)
    return len(gone)


def analyze(database: Database) -> int:
    """Refresh the statistics of partitioned tables: autovacuum sees to their partitions alone."""
    query = (
        "select c.relname as name from pg_class c where c.relkind = 'p' and not c.relispartition"
        " and c.relnamespace = 'public'::regnamespace order by 1"
    )
    with database.transaction(read_only=True) as connection:
        parents = [row["name"] for row in rows(connection, query)]
    for name in parents:
        database.ask("select analyze_parent(%s)", [name])
    return len(parents)


def tidy_storage(keeping: Keeping) -> int:
    """Remove files that no row names."""
    return 0 if keeping.storage is None else len(tidy(keeping.database, keeping.storage))


def count(database: Database, query: LiteralString, *given: Any) -> int:
    """The number ``n`` that a query returns, in a transaction of its own."""
    with database.transaction() as connection:
        row = only(connection, query, given)
    return int(row["n"]) if row else 0
