"""Rolling metrics up, and letting old samples go: what housekeeping does."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from negspace.database import Database, only

KEEP_SAMPLES: Final = timedelta(days=400)
KEEP_MINUTES: Final = timedelta(days=30)
_BATCH: Final = 24  # hours in one transaction


def roll_up(database: Database) -> int:
    """Roll up every hour that is closed or changed late, a day in a transaction.

    Safe to call often and by many at once: one of them does it.

    Returns:
        How many hours were rolled up.
    """
    total = 0
    while True:
        with database.transaction() as connection:
            row = only(connection, "select roll_up_metrics(%s) as hours", [_BATCH])
        done = int(row["hours"]) if row else 0
        if not done:
            return total
        total += done


def purge(
    database: Database,
    *,
    keep_samples: timedelta = KEEP_SAMPLES,
    keep_minutes: timedelta = KEEP_MINUTES,
    dry_run: bool = False,
) -> list[str]:
    """Drop the months whose samples are old and rolled up; hours and days stay.

    Args:
        database: As its owner: services may not do this.
        keep_samples: Samples that are younger stay; 31 days at least.
        keep_minutes: Roll-ups by minute that are younger stay; a day at least.
        dry_run: Undo it.

    Returns:
        The names of the partitions that went.

    Raises:
        InvalidInputError: Too little would be kept.
        AccessError: The connection is not the owner's.
    """
    query = "select purge_metrics(%s, %s) as gone"
    with (
        database.transaction() as connection,
        connection.transaction(force_rollback=dry_run),
    ):
        row = only(connection, query, [keep_samples, keep_minutes])
    return list(row["gone"]) if row else []
