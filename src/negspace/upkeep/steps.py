"""The steps of housekeeping, as one table. A new duty is one more entry.

Each may be done by many at once and at any time, in short transactions of its own, and says how
much it did. The order is that in which they are done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from negspace import audit, cache, keys, metrics, recovery, summaries, users
from negspace.upkeep import duties
from negspace.upkeep.keeping import Keeping

_MINUTE: Final = timedelta(minutes=1)
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
    """

    name: str
    every: timedelta
    counts: str
    work: Callable[[Keeping], int]
    needs: Literal["database", "owner", "storage"] = "database"


STEPS: Final = (
    Step(
        "partitions", _HOUR, "partitions made", lambda keep: duties.ensure_partitions(keep.database)
    ),
    Step("audit seals", _MINUTE, "seals made", lambda keep: audit.seal(keep.database)),
    Step("metrics", _MINUTE, "hours rolled up", lambda keep: metrics.roll_up(keep.database)),
    Step("summaries", _MINUTE, "rows summed up", lambda keep: summaries.roll_up(keep.database)),
    Step(
        "cache", _HOUR, "expired answers removed", lambda keep: cache.purge_expired(keep.database)
    ),
    Step(
        "job logs",
        _HOUR,
        "old tries' logs removed",
        lambda keep: duties.purge_job_logs(keep.database, keep.policy.job_logs),
    ),
    Step("jobs", _DAY, "old months dropped", duties.drop_ended_jobs),
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
    Step("samples", _DAY, "old months dropped", duties.drop_samples, needs="owner"),
    Step("storage", _DAY, "files removed that no row named", duties.tidy_storage, needs="storage"),
)
