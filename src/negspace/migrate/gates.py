"""``--fail-on``: what a rehearsal must not have seen. Pure.

A gate is ``MEASURE>LIMIT``, the limit a number with a unit that fits:

==============  ========================================================  ============
measure         what is held against the limit                            units
==============  ========================================================  ============
a lock mode     how long the run held a lock of that mode, or of a         ms, s, min
                stronger one, on a relation that was there before:
                ``access_exclusive``, ``share`` … as ``MODES`` names them
``statement``   the longest statement                                     ms, s, min
``run``         the whole run                                             ms, s, min
``rewrites``    how many relations got a new file                         none
``rows``        how many rows were written                                none
``wal``         WAL written                                               B, kB, MB, GB
==============  ========================================================  ============
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from negspace.errors import InvalidInputError
from negspace.migrate.rehearse import MODES, Rehearsal

__all__ = ["Exceeded", "Gate", "exceeded", "parse"]

_GATE: Final = re.compile(r"\s*([a-z_]+)\s*>\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_TIMES: Final = {"ms": 1.0, "s": 1000.0, "min": 60_000.0}
_SIZES: Final = {"B": 1.0, "kB": 1024.0, "MB": 1024.0**2, "GB": 1024.0**3}
_COUNTS: Final = {"": 1.0}
_UNITS: Final = {
    **dict.fromkeys(MODES, _TIMES),
    "statement": _TIMES,
    "run": _TIMES,
    "rewrites": _COUNTS,
    "rows": _COUNTS,
    "wal": _SIZES,
}


@dataclass(frozen=True)
class Gate:
    """A limit.

    Attributes:
        text: As it was given.
        limit: In milliseconds, bytes, or a count.
    """

    text: str
    measure: str
    limit: float


@dataclass(frozen=True)
class Exceeded:
    """A gate that a rehearsal ran into.

    Attributes:
        gate: As it was given.
        value: What was seen, in milliseconds, bytes, or a count; None: it can't be told.
        what: Where: a table, a statement, in words.
    """

    gate: str
    value: float | None
    what: str


def parse(text: str) -> Gate:
    """Read a gate.

    Raises:
        InvalidInputError: It can't be read; the hint says what can.
    """
    found = _GATE.fullmatch(text)
    measure, number, unit = found.groups() if found else ("", "0", "")
    units = _UNITS.get(measure)
    if units is None:
        raise InvalidInputError(
            f"--fail-on {text!r} can't be read",
            hint="write MEASURE>LIMIT, such as 'access_exclusive>2s'; measures: "
            + ", ".join(_UNITS),
        )
    if unit not in units:
        raise InvalidInputError(
            f"--fail-on {text!r}: {measure} is not measured in {unit or 'plain numbers'}",
            hint=f"units: {', '.join(units)}" if "" not in units else "leave the unit out",
        )
    return Gate(text.strip(), measure, float(number) * units[unit])


def exceeded(rehearsal: Rehearsal, gates: Iterable[Gate]) -> tuple[Exceeded, ...]:
    """The gates that the rehearsal ran into, with the worst value of each."""
    found = ((gate, _worst(rehearsal, gate.measure)) for gate in gates)
    return tuple(
        Exceeded(gate.text, value, what)
        for gate, (value, what) in found
        if value is None or value > gate.limit
    )


def _worst(rehearsal: Rehearsal, measure: str) -> tuple[float | None, str]:
    if measure in MODES:
        return _longest_lock(rehearsal, measure)
    if measure == "statement":
        worst = max(rehearsal.statements, key=lambda one: one.duration_ms, default=None)
        return (worst.duration_ms, f"{worst.migration}, line {worst.line}") if worst else (0.0, "")
    if measure == "wal":
        what = "the run" if rehearsal.wal_bytes is not None else "WAL is not known"
        return rehearsal.wal_bytes, what
    if measure == "rewrites":
        return len(rehearsal.rewrites), ", ".join(rehearsal.rewrites)
    return (rehearsal.duration_ms if measure == "run" else rehearsal.rows), "the run"


def _longest_lock(rehearsal: Rehearsal, mode: str) -> tuple[float, str]:
    strong = set(MODES[MODES.index(mode) :])
    held = [lock for lock in rehearsal.locks if lock.mode in strong and not lock.new]
    worst = max(held, key=lambda lock: lock.held_ms, default=None)
    if worst is None:
        return 0.0, ""
    return worst.held_ms, f"{worst.mode} on {worst.table}, {worst.migration}"
