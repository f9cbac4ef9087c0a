"""Metrics in the text format of Prometheus, for its scraper or a push gateway.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final, LiteralString

from negspace.database import Database, Row, rows

_KINDS: Final = {"histogram": "summary", "gauge": "gauge", "counter": "counter"}
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


def exposition(database: Database, *, span: timedelta = timedelta(hours=1)) -> str:
    """Every metric in the text format 0.0.4.

    Counters and the counts and sums of histograms are of all time, so that they only grow;
    percentiles are of the last ``span``; a gauge is its last sample, as long as samples are
    kept. Names and labels are prefixed and rewritten where Prometheus takes fewer characters.
    As for Prometheus, all samples of a metric should have the same labels.

    Args:
        database: Where.
        span: What percentiles are of.
    """
    with database.transaction(read_only=True) as connection:
        found = rows(connection, _SERIES, {"span": span})
    families: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        families.setdefault((_family(row), str(row["metric_type"])), []).append(row)
    taken: set[str] = set()
    lines: list[str] = []
    for (family, kind), members in families.items():
        name = family if family not in taken else f"{family}_{kind}"
        taken.add(name)
        lines += [f"# HELP {name} {_help(members[0])}", f"# TYPE {name} {_KINDS[kind]}"]
        for row in members:
            lines += _lines(name, row)
    return "".join(f"{line}\n" for line in lines)


def _family(row: Row) -> str:
    name = "negspace_" + re.sub(r"[^a-z0-9_:]", "_", str(row["metric_name"]))
    return f"{name}_total" if row["metric_type"] == "counter" else name


def _help(row: Row) -> str:
    unit = f", in {row['unit']}" if row["unit"] else ""
    return f"{row['metric_name']}{unit}".replace("\\", "\\\\").replace("\n", "\\n")


def _lines(name: str, row: Row) -> Iterator[str]:
    labels = _labels(row)
    if row["metric_type"] == "counter":
        yield f"{name}{_shown(labels)} {_number(row['sum'])}"
    elif row["metric_type"] == "gauge":
        if row["last"] is not None:
            yield f"{name}{_shown(labels)} {_number(row['last'])}"
    else:
        for quantile, column in _QUANTILES:
            if row[column] is not None:
                yield f"{name}{_shown(labels | {'quantile': quantile})} {_number(row[column])}"
        yield f"{name}_sum{_shown(labels)} {_number(row['sum'])}"
        yield f"{name}_count{_shown(labels)} {row['count']}"


def _labels(row: Row) -> dict[str, str]:
    """The labels, and what else tells series apart whose names would be the same here."""
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
    if "." in row["metric_name"]:
        labels["metric"] = row["metric_name"]
    if row["unit"]:
        labels["unit"] = row["unit"]
    return labels


def _shown(labels: Mapping[str, str]) -> str:
    def quoted(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    inside = ",".join(f'{name}="{quoted(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _number(value: float) -> str:
    return repr(float(value))
