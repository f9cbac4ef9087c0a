"""What is recorded: one measurement, or many of them as one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias, get_args

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
        sample_count: How many measurements it stands for: ``value`` is their mean.
        percentiles: Their p50, p95 and p99; of one measurement they are its value.

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
    sample_count: int = 1
    percentiles: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidInputError(
                f"{self.name[:130]!r} is no name of a metric",
                hint="lower-case letters, digits, _ . and :, a letter first, 127 at most",
            )
        for number in (self.value, *(self.percentiles or ())):
            if not math.isfinite(number) or round(abs(Decimal(number)), 4) >= _LARGEST:
                raise InvalidInputError(
                    f"{self.name} can't be {number}",
                    hint="a finite number below 100,000,000,000 either way",
                )
        if not 1 <= self.sample_count < 2**31:
            raise InvalidInputError(
                f"{self.name} can't stand for {self.sample_count} samples", hint="1 or more"
            )
        if self.kind not in TYPES:
            raise InvalidInputError(
                f"there is no kind of metric {self.kind!r}", hint=f"one of {', '.join(TYPES)}"
            )
        _see_small(f"the labels of {self.name}", self.labels, _LABEL_BYTES)
        _see_small(f"the context of {self.name}", self.context, _CONTEXT_BYTES)
        _see_time(self.name, self.recorded_at)


def batch(
    name: str,
    values: Sequence[float],
    unit: str = "",
    *,
    labels: Mapping[str, Any] | None = None,
    recorded_at: datetime | None = None,
) -> Sample:
    """Many measurements of a histogram as one sample: their mean, number and percentiles.

    For what happens thousands of times a second. Percentiles over time are those of the rows,
    so record what is rarer one by one.

    Args:
        name: What was measured.
        values: Each measurement.
        unit: Such as ``ms``.
        labels: What all of them are told apart by.
        recorded_at: When, with a time zone; now if not given.

    Raises:
        InvalidInputError: There is none, or a sample can't hold them.
    """
    if not values:
        raise InvalidInputError(f"a batch of {name} without a value", hint="record one or more")
    ordered = sorted(values)
    p50, p95, p99 = (_percentile(ordered, fraction) for fraction in (0.50, 0.95, 0.99))
    return Sample(
        name,
        math.fsum(ordered) / len(ordered),
        unit,
        labels=labels or {},
        recorded_at=recorded_at or datetime.now(UTC),
        sample_count=len(ordered),
        percentiles=(p50, p95, p99),
    )


def _percentile(ordered: Sequence[float], fraction: float) -> float:
    """Interpolated, as percentile_cont has it."""
    place = fraction * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


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
