"""What a migration's name says: its number, by which migrations are in order, and its title. Pure.

``001_initial_schema`` has a number, ``2024-01-31-120000_users`` one with dashes in it, and
Flyway's ``V1.1__users`` one in parts: 1.1 comes between 1 and 1.2, and 1.10 after 1.9.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, TypeAlias

__all__ = ["FLYWAY_NAME", "NAME", "Key", "is_number", "key_of", "number_of", "version_of"]

Number: TypeAlias = tuple[int, ...]

Key: TypeAlias = tuple[Number, str]
"""What the order goes by, and what makes a migration the same: its number and its title."""

NAME: Final = re.compile(r"(?P<number>\d+(?:-\d+)*)[_-](?P<title>.+)")
"""A migration's name: its number, which may have dashes in it, and its title."""

FLYWAY_NAME: Final = re.compile(r"V(?P<number>\d+(?:[._]\d+)*)__(?P<title>.+)")
"""The same as Flyway has it: dots or underscores part the number."""

_NUMBER: Final = re.compile(r"\d+(?:[-._]\d+)*")
_COUNTED: Final = re.compile(r"(\d{4}-\d\d-\d\d-\d{6})-(\d{4})")  # diesel 2.3's, often -0000


def _found(name: str) -> re.Match[str] | None:
    return NAME.fullmatch(name) or FLYWAY_NAME.fullmatch(name)


def version_of(name: str) -> str:
    """The number as it is written, Flyway's with dots; nothing where there is none."""
    found = _found(name)
    return found["number"].replace("_", ".") if found else ""


@lru_cache(maxsize=1 << 14)  # every list of migrations is gone through by it, several times
def key_of(name: str) -> Key:
    """The value of a migration's number, and its name without it.

    Args:
        name: Such as ``001_initial_schema``; ``1_initial_schema`` gives the same.
    """
    found = _found(name)
    return (number_of(found["number"]), found["title"]) if found else ((0,), name)


def is_number(text: str) -> bool:
    """Whether a version is given by its number, and not by its name."""
    return _NUMBER.fullmatch(text) is not None


def number_of(text: str) -> Number:
    """The value of a number, part by part.

    Dashes only make a timestamp easier to read: 2024-01-31 is 20240131. What diesel counts up
    behind one is a part. Zeros at the end mean nothing: 1.0 is 1.
    """
    counted = _COUNTED.fullmatch(text)
    written = list(counted.groups()) if counted else re.split(r"[._]", text)
    parts = [int(part.replace("-", "")) for part in written]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)
