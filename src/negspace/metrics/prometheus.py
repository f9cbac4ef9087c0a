"""Metrics as Prometheus has them, for its scraper or a push gateway.

https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, LiteralString

from negspace.database import Database, Row, rows
from negspace.metrics.text_format import Family, Kind, Value, text

_KINDS: Final[Mapping[str, Kind]] = {
    "histogram": "summary",
    "gauge": "gauge",
    "counter": "counter",
}
# Prometheus wants base units, at the end of the name: the base unit, and what to multiply with.
_UNITS: Final = {
    "us": ("seconds", 1e-6),
    "ms": ("seconds", 1e-3),
    "s": ("seconds", 1.0),
    "kB": ("bytes", 1e3),
    "B": ("bytes", 1.0),
}
_QUANTILES: Final = (("0.5", "p50"), ("0.95", "p95"), ("0.99", "p99"))

# Totals are of all time, so that they only grow; percentiles are of the last span.
_SERIES: Final[LiteralString] = """
    with progress as (
        select coalesce((select closed_through from rollup_progress
                         where table_name = 'performance_metrics'), '-infinity') as closed
    ), counted as (
        select s.metric_name, s.metric_type, s.unit, s.labels, h.sample_count as samples, h.total
        from progress p
        cross join metric_series s
        join metric_hours h on h.series_id = s.id
        where h.started_at < p.closed
          and not exists (select from metric_changes c where c.hour = h.started_at)
        union all
        select m.metric_name, m.metric_type, m.unit, m.labels, m.sample_count,
               m.value * m.sample_count
        from progress p join performance_metrics m on m.recorded_at >= p.closed
        union all
        select m.metric_name, m.metric_type, m.unit, m.labels, m.sample_count,
               m.value * m.sample_count
        from progress p
        join (select distinct hour from metric_changes) c on c.hour < p.closed
        join performance_metrics m
          on m.recorded_at >= c.hour and m.recorded_at < c.hour + interval '1 hour'
    )
    select s.*, q.p50, q.p95, q.p99, l.value::float8 as last
    from (
        select metric_name, metric_type, unit, labels,
               sum(samples)::bigint as count, sum(total)::float8 as sum
        from counted group by 1, 2, 3, 4
    ) s
    left join lateral aggregate_performance_metrics(
        s.metric_name, interval '36500 days', now() - %(span)s, null, s.labels
    ) q on s.metric_type = 'histogram'
    left join lateral (
        select m.value from performance_metrics m
        where m.metric_name = s.metric_name and m.unit = s.unit and m.labels = s.labels
        order by m.recorded_at desc limit 1
    ) l on s.metric_type = 'gauge'
    order by s.metric_name, s.metric_type, s.unit, s.labels::text"""


def exposition(
    database: Database, *, span: timedelta = timedelta(hours=1), taken: Collection[str] = ()
) -> str:
    """Every metric in the text format 0.0.4.

    Counters and the counts and sums of histograms are of all time, so that they only grow;
    percentiles are of the last ``span``; a gauge is its last sample, as long as samples are
    kept. Names and labels are prefixed and rewritten where Prometheus takes fewer characters;
    ``step_ms`` in ``ms`` becomes ``negspace_step_seconds``. As for Prometheus, all samples of a
    metric should have the same labels.

    Args:
        database: Where.
        span: What percentiles are of.
        taken: Names that are somebody else's: a metric of such a name gets another.
    """
    with database.transaction(read_only=True) as connection:
        found = rows(connection, _SERIES, {"span": span})
    families: dict[tuple[str, Kind], list[Row]] = {}
    for row in found:
        families.setdefault((_family(row), _KINDS[row["metric_type"]]), []).append(row)
    used = set(taken)
    shown: list[Family] = []
    for (family, kind), members in families.items():
        name = family
        while name in used:
            name = f"{name}_{members[0]['metric_type']}"
        used.add(name)
        shown.append(Family(name, kind, _help(members[0]), _values(members)))
    return text(shown)


def _unit(row: Row) -> tuple[str, float]:
    """The base unit, or the row's own where it is none that is known; and the factor to it."""
    return _UNITS.get(row["unit"], (row["unit"], 1.0))


def _family(row: Row) -> str:
    name = str(row["metric_name"])
    if row["unit"] in _UNITS:
        base, _ = _unit(row)
        for ending in (row["unit"].lower(), base):
            name = name.removesuffix(f"_{ending}")
        name = f"{name}_{base}"
    name = "negspace_" + re.sub(r"[^a-z0-9_:]", "_", name)
    return f"{name}_total" if row["metric_type"] == "counter" else name


def _help(row: Row) -> str:
    unit, _ = _unit(row)
    return f"{row['metric_name']}, in {unit}" if unit else str(row["metric_name"])


def _values(members: Sequence[Row]) -> list[Value]:
    mixed = len({(row["metric_name"], row["unit"]) for row in members}) > 1
    return [value for row in members for value in _values_of(row, _labels(row, mixed=mixed))]


def _values_of(row: Row, labels: dict[str, str]) -> Iterator[Value]:
    _, factor = _unit(row)
    if row["metric_type"] == "counter":
        yield Value(row["sum"] * factor, labels)
    elif row["metric_type"] == "gauge":
        if row["last"] is not None:
            yield Value(row["last"] * factor, labels)
    else:
        for quantile, column in _QUANTILES:
            if row[column] is not None:
                yield Value(row[column] * factor, labels | {"quantile": quantile})
        yield Value(row["sum"] * factor, labels, "_sum")
        yield Value(row["count"], labels, "_count")


def _labels(row: Row, *, mixed: bool) -> dict[str, str]:
    """The labels, and what else tells series apart whose names are the same here."""
    given: Mapping[str, Any] = row["labels"]
    labels: dict[str, str] = {}
    for key, value in sorted(given.items()):
        name = re.sub(r"[^a-zA-Z0-9_]", "_", key) or "_"
        if (
            name[0].isdigit()
            or name.startswith("__")
            or name in ("quantile", "le", "metric", "unit")
        ):
            name = f"label_{name}"
        while name in labels:
            name += "_"
        labels[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if mixed:
        labels["metric"] = row["metric_name"]
    if row["unit"] and (mixed or row["unit"] not in _UNITS):
        labels["unit"] = row["unit"]
    return labels
