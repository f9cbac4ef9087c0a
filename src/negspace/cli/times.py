"""Times as options take them: a span such as ``30m``, ``12h``, ``7d``, ``2w``, or a date."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN: Final = re.compile(r"([0-9]{1,6})([smhdw])")


def past(text: str) -> datetime:
    """The moment so long ago, or of that date; a date without a zone is local time.

    Raises:
        BadParameter: It is neither.
    """
    return _moment(text, -1)


def ahead(text: str) -> datetime:
    """The moment so long from now, or of that date."""
    return _moment(text, 1)


def span(text: str) -> timedelta:
    """A span of time.

    Raises:
        BadParameter: It is none.
    """
    found = _SPAN.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise click.BadParameter(f"{text!r} is no span of time: such as 30m, 12h or 7d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def lasting(seconds: float) -> str:
    """A time that something took, as people say it: ``12 ms``, ``3.4 s``, ``5 min``, ``2.1 h``."""
    if seconds < 1:
        return f"{max(seconds, 0.0) * 1000:.0f} ms"
    for least, unit, name in ((86_400 * 2, 86_400, "d"), (5400, 3600, "h"), (90, 60, "min")):
        if seconds >= least:
            return f"{short(seconds / unit)} {name}"
    return f"{short(seconds)} s"


def short(number: float) -> str:
    """A number with three digits, or more where it is that large."""
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"


def _moment(text: str, direction: int) -> datetime:
    span = _SPAN.fullmatch(text)
    try:
        if span is None:
            return datetime.fromisoformat(text).astimezone()
        return datetime.now(UTC) + direction * timedelta(**{_UNITS[span[2]]: int(span[1])})
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is no time: such as 7d, 12h or 2026-01-31") from None
