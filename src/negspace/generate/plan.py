"""How many rows of what, from which seed, over which year; and chance, slice by slice.

Everything is made in slices of the year, each from a generator of its own: a slice is the
same whoever makes it, whenever, so tables that speak of the same images agree without
keeping them in memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from negspace.errors import InvalidInputError

DAYS: Final = 365
DAY: Final = 86_400_000  # milliseconds
HOUR: Final = 3_600_000
_MOST: Final = 10**9  # rows of one kind

# How busy the hours of a day (UTC) and the days of a week from Monday are, night = 1.
_HOURS: Final = (1, 1, 1, 1, 1, 2, 3, 6, 10, 13, 14, 13, 10, 12, 14, 14, 12, 9, 6, 5, 4, 3, 2, 1)
_WEEK: Final = (1.0, 1.1, 1.1, 1.05, 0.9, 0.3, 0.2)
_GROWTH: Final = 0.6  # busier at the end of the year than at its beginning by this share


@dataclass(frozen=True)
class Plan:
    """What is to be made.

    Attributes:
        images: How many, at least 1; about as many results and jobs come with them.
        events: Events of the audit trail.
        metrics: Metric samples.
        users: Accounts; None: one for a hundred images, at least 10.
        seed: The same seed and the same ``until`` give the same rows.
        until: The year ends where this day begins (UTC).
    """

    images: int
    events: int
    metrics: int
    users: int | None = None
    seed: int = 1
    until: date = field(default_factory=lambda: datetime.now(UTC).date())

    def __post_init__(self) -> None:
        smallest = {"images": 1, "events": 0, "metrics": 0, "accounts": 1, "seed": 0}
        for name, low in smallest.items():
            value = getattr(self, name)
            if not low <= value <= _MOST:
                raise InvalidInputError(
                    f"{name} must be from {low} to {_MOST:,}, not {value:,}",
                    hint="1e6 is a million",
                )

    @property
    def accounts(self) -> int:
        """How many users."""
        return max(10, self.images // 100) if self.users is None else self.users

    @property
    def slices(self) -> int:
        """Into how many slices the year is cut: none has very many rows, each has an image."""
        wanted = max(1, self.images // 20_000, self.events // 100_000, self.metrics // 100_000)
        return min(wanted, self.images)

    @property
    def end(self) -> int:
        """The end of the year in milliseconds since 1970."""
        return int(np.datetime64(self.until, "ms").astype(np.int64))

    @property
    def start(self) -> int:
        """Its beginning."""
        return self.end - DAYS * DAY

    def part(self, total: int, piece: int) -> tuple[int, int]:
        """Which of ``total`` rows, counted from 0, belong to a slice: the first, and the end."""
        return total * piece // self.slices, total * (piece + 1) // self.slices

    def chance(self, what: str, piece: int = 0) -> np.random.Generator:
        """The generator of one kind of rows in one slice."""
        return np.random.default_rng([self.seed, zlib.crc32(what.encode()), piece])

    def times(self, chance: np.random.Generator, total: int, piece: int) -> NDArray[np.int64]:
        """Sorted times of a slice's rows, in milliseconds, busy when people are."""
        first, end = self.part(total, piece)
        low, high = piece / self.slices, (piece + 1) / self.slices
        share = np.sort(low + (high - low) * chance.random(end - first))
        hours = np.interp(share, self._busy, np.arange(len(self._busy)))
        return np.minimum(self.start + (hours * HOUR).astype(np.int64), self.end - 1)

    @cached_property
    def _busy(self) -> NDArray[np.float64]:
        """Share of the year's work that is done by the end of each hour."""
        hours = np.arange(DAYS * 24)
        weekday = (self.start // DAY + hours // 24 + 3) % 7  # 1970 began on a Thursday
        rate = np.array(_HOURS)[hours % 24] * np.array(_WEEK)[weekday]
        rate = rate * (1 - _GROWTH / 2 + _GROWTH * hours / len(hours))
        return np.concatenate([[0.0], np.cumsum(rate) / rate.sum()])

    def owners(self, chance: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Who did something, counted from 0: by Zipf's law, a few do most of it."""
        rank = np.searchsorted(self._shares, chance.random(count))
        return self._ranking[rank]

    @cached_property
    def _shares(self) -> NDArray[np.float64]:
        weights = 1 / np.arange(1, self.accounts + 1)
        shares = np.cumsum(weights) / weights.sum()
        shares[-1] = 1.0
        return shares

    @cached_property
    def _ranking(self) -> NDArray[np.int64]:
        return self.chance("ranking").permutation(self.accounts)


def chosen(chance: np.random.Generator, weights: Sequence[float], count: int) -> NDArray[np.int64]:
    """Indices drawn with those weights."""
    shares = np.cumsum(np.asarray(weights, float))
    return np.searchsorted(shares / shares[-1], chance.random(count))


def lognormal(
    chance: np.random.Generator, median: float, sigma: float, count: int
) -> NDArray[np.float64]:
    """Positive numbers with a long tail to the right, as sizes and durations have."""
    return median * np.exp(sigma * chance.standard_normal(count))
