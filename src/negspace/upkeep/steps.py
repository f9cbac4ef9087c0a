"""The steps of housekeeping, as one table. A new duty is one more entry.

Each may be done by many at once and at any time, in short transactions of its own, and says how
much it did. The order is that in which they are done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, LiteralString

from negspace import audit, cache, duplicates, keys, metrics, recovery, summaries, users
from negspace.upkeep import duties
from negspace.upkeep.keeping import Keeping

_MINUTE: Final = timedelta(seconds=50)  # workers look every minute: it must be due by then
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class Step:
    """One duty.

    Attributes:
        name: A word or two.
        every: How long after it was done it is due again.
        counts: What its count counts, such as "partitions made".
        work: Does it, and returns that count.
        needs: The field of ``Keeping`` without which it is left out.
        waiting: A query of how much waits to be done, ``n``; None: it takes as long as the work.
    """

    name: str
    every: timedelta
    counts: str
    work: Callable[[Keeping], int]
    needs: Literal["database", "owner", "storage"] = "database"
    waiting: LiteralString | None = None


STEPS: Final = (
    Step(
        "partitions",
        _HOUR,
        "partitions made",
        lambda keep: duties.ensure_partitions(keep.database),
        waiting="select count(*) as n from unnest(array['security_audit', 'audit_log_details',"
        " 'performance_metrics', 'processing_queue_ended']) as p (parent)"
        " cross join generate_series(0, 3) as ahead (months)"
        " where to_regclass(format('public.%s_%s', parent,"
        "  to_char(now() at time zone 'UTC' + make_interval(months => months), 'YYYYMM'))) is null",
    ),
    Step("audit seals", _MINUTE, "seals made", lambda keep: audit.seal(keep.database)),
    Step("metrics", _MINUTE, "hours rolled up", lambda keep: metrics.roll_up(keep.database)),
    Step("summaries", _MINUTE, "rows summed up", lambda keep: summaries.roll_up(keep.database)),
    Step(
        "cache",
        _HOUR,
        "expired answers removed",
        lambda keep: cache.purge_expired(keep.database),
        waiting="select count(*) as n from analysis_cache where expires_at <= now()",
    ),
    Step(
        "cache hits",
        _MINUTE,
        "hits and misses counted",
        lambda keep: cache.count_hits(keep.database),
        waiting="select (select count(*) from analysis_cache_uses)"
        " + (select count(*) from analysis_cache_misses) as n",
    ),
    Step(
        "cached values",
        _MINUTE,
        "expired values removed",
        lambda keep: cache.remove_expired_values(keep.database),
        waiting="select count(*) as n from cached_values where kept_until <= now()",
    ),
    Step(
        "cache size",
        _HOUR,
        "answers and values removed",
        lambda keep: cache.trim(keep.database, keep.policy.cache_bytes),
    ),
    Step(
        "job logs",
        _HOUR,
        "old tries' logs removed",
        lambda keep: duties.purge_job_logs(keep.database, keep.policy.job_logs),
    ),
    Step("jobs", _DAY, "old months dropped", duties.drop_ended_jobs),
    Step("samples", _DAY, "old months dropped", duties.drop_samples, needs="owner"),
    Step("keys", _HOUR, "keys' uses counted", lambda keep: keys.count_uses(keep.database)),
    Step(
        "accounts",
        _HOUR,
        "accounts' counters changed",
        lambda keep: duties.count(keep.database, "select refresh_user_counters() as n"),
    ),
    Step(
        "logins",
        _HOUR,
        "accounts' logins counted",
        lambda keep: users.refresh_login_counters(keep.database),
    ),
    Step("tokens", _HOUR, "old tokens removed", lambda keep: recovery.purge(keep.database)),
    Step(
        "duplicates",
        _MINUTE,
        "images looked at",
        lambda keep: duplicates.scan_new(keep.database).images,
        waiting="select count(*) as n from unscanned_images",
    ),
    Step("statistics", _DAY, "tables analysed", lambda keep: duties.analyze(keep.database)),
    Step("storage", _DAY, "files removed that no row named", duties.tidy_storage, needs="storage"),
)
