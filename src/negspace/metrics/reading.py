"""Reading metrics: in windows of time, or as one line each, from roll-ups and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString

from negspace.database import Database, Jsonb, rows


@dataclass(frozen=True)
class Window:
    """A metric in one window of time, its start included, its end not.

    ``sample_count`` and ``mean`` count samples; the percentiles are of the rows, of which one
    may stand for several samples. They are within 1 % where roll-ups answer, else exact.
    """

    window_start: datetime
    window_end: datetime
    sample_count: int
    mean: float
    minimum: float
    maximum: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Summary:
    """A metric over a span of time."""

    metric_name: str
    unit: str
    sample_count: int
    mean: float
    minimum: float
    maximum: float
    p50: float
    p95: float
    p99: float
    last_recorded_at: datetime


def aggregate(
    database: Database,
    name: str,
    window: timedelta,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    labels: Mapping[str, Any] | None = None,
) -> list[Window]:
    """A metric in windows of time, oldest first; windows without a sample are left out.

    Args:
        database: Where.
        name: Which.
        window: How long one is; they are counted from 2000-01-01 00:00 UTC.
        since: From this time on.
        until: Before this time.
        labels: Only samples that have these labels.

    Raises:
        InvalidInputError: The window is not longer than nothing, or longer than a century.
    """
    query = (
        "select window_start, window_end, sample_count, mean, minimum::float, maximum::float,"
        " p50, p95, p99 from aggregate_performance_metrics(%s, %s, %s, %s, %s)"
    )
    given = [name, window, since, until, Jsonb(dict(labels or {}))]
    with database.transaction(read_only=True) as connection:
        return [Window(**row) for row in rows(connection, query, given)]


_SUMMARY: Final[LiteralString] = """
    with names as (
        select metric_name from metric_series
        union
        select m.metric_name from performance_metrics m
        where m.recorded_at >= greatest(
            %(since)s,
            (select closed_through from rollup_progress where table_name = 'performance_metrics'))
        union
        select m.metric_name from metric_changes c
        join performance_metrics m
          on m.recorded_at >= c.hour and m.recorded_at < c.hour + interval '1 hour'
    )
    select n.metric_name,
           coalesce(
               (select min(s.unit) from metric_series s where s.metric_name = n.metric_name),
               (select min(m.unit) from performance_metrics m
                where m.metric_name = n.metric_name)) as unit,
           w.sample_count, w.mean, w.minimum::float as minimum, w.maximum::float as maximum,
           w.p50, w.p95, w.p99,
           coalesce(
               (select max(m.recorded_at) from performance_metrics m
                where m.metric_name = n.metric_name),
               (select max(h.started_at) from metric_series s
                join metric_hours h on h.series_id = s.id
                where s.metric_name = n.metric_name)) as last_recorded_at
    from names n
    cross join lateral aggregate_performance_metrics(
        n.metric_name, interval '36500 days', %(since)s) w
    where cardinality(%(names)s::text[]) = 0 or n.metric_name = any (%(names)s::text[])
    order by n.metric_name"""


def summary(
    database: Database, *, since: datetime | None = None, names: Sequence[str] = ()
) -> list[Summary]:
    """Every metric over a span of time, by name.

    Args:
        database: Where.
        since: From this time on; None: the last 24 hours.
        names: Only these; all when empty.

    Raises:
        InvalidInputError: ``since`` lies where samples are kept no more, and is no whole hour.
    """
    start = since or datetime.now(UTC) - timedelta(days=1)
    with database.transaction(read_only=True) as connection:
        return [
            Summary(**row)
            for row in rows(connection, _SUMMARY, {"since": start, "names": list(names)})
        ]
