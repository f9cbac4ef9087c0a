"""The sums behind the views of many rows: who did how much, how long jobs waited.

``audit_summary_by_user`` and ``queue_status_summary`` are exact without them, and slower.
"""

from __future__ import annotations

from typing import Final

from negspace.database import Database, only

_BATCH: Final = 100_000  # events in one transaction: a third of a second


def roll_up(database: Database) -> int:
    """Take in what can't change any more, batch by batch.

    Safe to call often and by many at once: one of them does it.

    Returns:
        How many events, details of events, and months of ended jobs were taken in.
    """
    total = 0
    while True:
        with database.transaction() as connection:
            row = only(connection, "select roll_up_summaries(%s) as taken", [_BATCH])
        done = int(row["taken"]) if row else 0
        if not done:
            return total
        total += done
