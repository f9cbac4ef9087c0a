"""The caches: what was computed is not computed again. docs/cache.md.

answers   results of analyses: jobs put them in and are answered from it, in the database
values    anything else: ``get_or_compute``, one computation at a time across processes
encoding  values as the database takes them, or why it can't
uses      hits and misses, counted in batches
leases    the right to compute, kept while somebody computes
bounds    what is held, and what is removed when there is too much
"""

from __future__ import annotations

from negspace.cache.answers import Stats, count, count_hits, key, purge, purge_expired, stats
from negspace.cache.bounds import (
    MOST_BYTES,
    ValueStats,
    count_values,
    purge_values,
    remove_expired_values,
    trim,
    value_stats,
)
from negspace.cache.encoding import MOST_VALUE_BYTES
from negspace.cache.values import Cache

__all__ = [
    "MOST_BYTES",
    "MOST_VALUE_BYTES",
    "Cache",
    "Stats",
    "ValueStats",
    "count",
    "count_hits",
    "count_values",
    "key",
    "purge",
    "purge_expired",
    "purge_values",
    "remove_expired_values",
    "stats",
    "trim",
    "value_stats",
]
