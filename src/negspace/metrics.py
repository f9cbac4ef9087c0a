"""Metrics: how fast everything runs, as samples over time and their percentiles.

Jobs record ``job_wait_ms`` and ``job_run_ms`` by themselves. docs/metrics.md.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, LiteralString, TypeAlias, get_args

from negspace.database import Database, Jsonb, rows
from negspace.errors import InvalidInputError

MetricType: TypeAlias = Literal["histogram", "gauge", "counter"]
TYPES: Final[tuple[str, ...]] = get_args(MetricType)

_NAME: Final = re.compile(r"[a-z][a-z0-9_.:]{0,126}")
_LARGEST: Final = Decimal(10) ** 11  # numeric(15, 4): eleven digits before the point
_LABEL_BYTES: Final = 8192
_CONTEXT_BYTES: Final = 65_536
_OLDEST: Final = timedelta(days=5 * 366)
_AHEAD: Final = timedelta(days=1)  # a clock that goes wrong goes wrong by less


@dataclass(frozen=True)
class Sample:
    """One measurement.

    Attributes:
        name: What was measured: lower-case letters, digits, ``_``, ``.`` and ``:``.
        value: Below 100,000,000,000 either way; kept to four decimals.
        unit: Such as ``ms``.
        kind: ``histogram``: a sample of a distribution; ``gauge``: a level; ``counter``: an
            amount added.
        labels: What it is told apart by, few and small: 8,192 bytes of JSON at most.
        context: What belongs to this sample alone: 65,536 bytes of JSON at most.
        recorded_at: When, with a time zone; at most five years ago.

    Raises:
        InvalidInputError: A part is not as it says here.
    """

    name: str
    value: float | Decimal
    unit: str = ""
    kind: MetricType = "histogram"
    labels: Mapping[str, Any] = field(default_factory=dict[str, Any])
    context: Mapping[str, Any] = field(default_factory=dict[str, Any])
    recorded_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidInputError(
                f"{self.name[:130]!r} is no name of a metric",
                hint="lower-case letters, digits, _ . and :, a letter first, 127 at most",
            )
        if not math.isfinite(self.value) or round(abs(Decimal(self.value)), 4) >= _LARGEST:
            raise InvalidInputError(
                f"{self.name} can't be {self.value}",
                hint="a finite number below 100,000,000,000 either way",
            )
        if self.kind not in TYPES:
            raise InvalidInputError(
                f"there is no kind of metric {self.kind!r}", hint=f"one of {', '.join(TYPES)}"
            )
        _see_small(f"the labels of {self.name}", self.labels, _LABEL_BYTES)
        _see_small(f"the context of {self.name}", self.context, _CONTEXT_BYTES)
        _see_time(self.name, self.recorded_at)


@dataclass(frozen=True)
class Window:
    """A metric in one window of time, its start included, its end not.

    ``sample_count`` and ``mean`` count samples; the percentiles are of the rows, of which one
    may stand for several samples.
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


def record(database: Database, *samples: Sample) -> None:
    """Record samples, all or none.

    Raises:
        NegspaceError: The database was not reached, or refuses a sample.
    """
    if not samples:
        return
    oldest = min(sample.recorded_at for sample in samples)
    copied = (
        "copy performance_metrics (metric_name, metric_type, value, unit, labels, context,"
        " recorded_at) from stdin"
    )
    with database.transaction() as connection:
        if oldest < datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0):
            connection.execute("select ensure_partitions(oldest => %s)", [oldest])
        with connection.cursor() as cursor, cursor.copy(copied) as copy:
            for sample in samples:
                copy.write_row(
                    (
                        sample.name,
                        sample.kind,
                        sample.value,
                        sample.unit,
                        Jsonb(dict(sample.labels)),
                        Jsonb(dict(sample.context)),
                        sample.recorded_at,
                    )
                )


class Recorder:
    """Collects samples and records them many at a time, by COPY.

    Safe to share between threads. Use it as a context manager, or call ``flush`` at the end:
    what is not flushed is lost with the process.
    """

    def __init__(self, database: Database, *, size: int = 1000) -> None:
        """Make one.

        Args:
            database: Where.
            size: How many samples are collected before they are recorded.
        """
        self._database = database
        self._size = size
        self._lock = threading.Lock()
        self._samples: list[Sample] = []

    def add(self, sample: Sample) -> None:
        """Collect a sample; records all there are when it is the last that fits."""
        with self._lock:
            self._samples.append(sample)
            full = len(self._samples) >= self._size
        if full:
            self.flush()

    def flush(self) -> int:
        """Record what is collected; how many that was.

        Raises:
            NegspaceError: They could not be recorded, and stay collected.
        """
        with self._lock:
            taken, self._samples = self._samples, []
        try:
            record(self._database, *taken)
        except BaseException:
            with self._lock:
                self._samples = taken + self._samples
            raise
        return len(taken)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()


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


def summary(
    database: Database, *, since: datetime | None = None, names: Sequence[str] = ()
) -> list[Summary]:
    """Every metric over a span of time, by name.

    Args:
        database: Where.
        since: From this time on; None: the last 24 hours.
        names: Only these; all when empty.
    """
    query: LiteralString = (
        "select metric_name, min(unit) as unit, sum(sample_count)::bigint as sample_count,"
        " (sum(value * sample_count) / sum(sample_count))::float as mean,"
        " min(value)::float as minimum, max(value)::float as maximum,"
        " percentile_cont(0.50) within group (order by value::float) as p50,"
        " percentile_cont(0.95) within group (order by value::float) as p95,"
        " percentile_cont(0.99) within group (order by value::float) as p99,"
        " max(recorded_at) as last_recorded_at"
        " from performance_metrics where recorded_at >= %(since)s"
        " and (cardinality(%(names)s::text[]) = 0 or metric_name = any (%(names)s::text[]))"
        " group by metric_name order by metric_name"
    )
    start = since or datetime.now(UTC) - timedelta(days=1)
    with database.transaction(read_only=True) as connection:
        return [
            Summary(**row)
            for row in rows(connection, query, {"since": start, "names": list(names)})
        ]


def _see_small(what: str, value: Mapping[str, Any], most: int) -> None:
    try:
        size = len(json.dumps(dict(value), ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError) as error:  # a key, NaN, half a surrogate pair
        raise InvalidInputError(f"{what} are no JSON: {error}", hint="plain values only") from None
    if size > most:
        raise InvalidInputError(f"{what} have {size:,} bytes", hint=f"{most:,} at most")


def _see_time(name: str, at: datetime) -> None:
    if at.tzinfo is None:
        raise InvalidInputError(f"the time of {name} has no time zone", hint="say which")
    now = datetime.now(UTC)
    if not now - _OLDEST <= at <= now + _AHEAD:
        raise InvalidInputError(
            f"{name} can't be of {at.isoformat()}", hint="at most five years ago, and not ahead"
        )
