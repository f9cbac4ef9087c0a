"""What the caches hold, and removing what expired or is too much."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

from negspace.database import Database, only

MOST_BYTES: Final = 2**30
_BATCH: Final = 1000


@dataclass(frozen=True)
class ValueStats:
    """What ``Cache`` holds, and how it is used; uses are counted some seconds late.

    Attributes:
        values: Values it has.
        expired_values: Those of them that answer no more.
        value_bytes: Size of their texts.
        computing: Values that somebody computes now.
        hits_today: How often values answered since midnight (UTC).
        stale_hits_today: Those of them that had expired, while another was computed.
        misses_today: How often there was none.
        oldest_use_at: When what goes first was used last.
    """

    values: int
    expired_values: int
    value_bytes: int
    computing: int
    hits_today: int
    stale_hits_today: int
    misses_today: int
    oldest_use_at: datetime | None


def value_stats(database: Database) -> ValueStats:
    """What is held now."""
    query = (
        "select v.*, u.*, (select count(*) from cached_value_leases l"
        "  where l.leased_until > clock_timestamp()) as computing"
        " from (select count(*) as values,"
        "  count(*) filter (where expires_at <= now()) as expired_values,"
        "  coalesce(sum(size_bytes), 0)::bigint as value_bytes,"
        "  min(last_used_at) as oldest_use_at from cached_values) v,"
        " (select coalesce(sum(hits), 0)::bigint as hits_today,"
        "  coalesce(sum(stale_hits), 0)::bigint as stale_hits_today,"
        "  coalesce(sum(misses), 0)::bigint as misses_today"
        "  from cached_value_uses where day = date_trunc('day', now(), 'UTC')) u"
    )
    with database.transaction(read_only=True) as connection:
        row = only(connection, query)
    return ValueStats(**(row or {}))


def count_values(database: Database, prefix: str = "") -> int:
    """How many values ``purge_values`` would remove."""
    query = "select count(*) as n from cached_values where starts_with(key, %s)"
    with database.transaction(read_only=True) as connection:
        row = only(connection, query, [prefix])
    return row["n"] if row else 0


def purge_values(database: Database, prefix: str = "") -> int:
    """Remove the values whose keys begin so, all by default; how many those were."""
    return until_done(database, "select purge_cached_values(%s, %s) as n", prefix)


def remove_expired_values(database: Database) -> int:
    """Remove values that neither answer nor stand in any more; how many those were."""
    return until_done(database, "select cleanup_cached_values(%s) as n")


def trim(database: Database, most_bytes: int = MOST_BYTES) -> int:
    """Remove from each cache what was not used for longest, until it takes so much at most.

    Args:
        database: Where.
        most_bytes: Of the answers of analyses, and of the values: so much of each.

    Returns:
        How many answers and values were removed.
    """
    answers = until_done(database, "select trim_cache(%s, %s) as n", most_bytes)
    return answers + trim_values(database, most_bytes)


def trim_values(database: Database, most_bytes: int) -> int:
    """``trim`` of the values alone."""
    return until_done(database, "select trim_cached_values(%s, %s) as n", most_bytes)


def until_done(database: Database, query: LiteralString, *given: Any) -> int:
    """Call what removes a batch, each in a transaction of its own, until nothing is left."""
    total = 0
    while True:
        row = database.ask(query, [*given, _BATCH])
        removed: int = row["n"] if row else 0
        total += removed
        if removed == 0:
            return total
