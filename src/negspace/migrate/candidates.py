"""Values worth trying for a column: of its type, and of what its checks speak of. Pure.

Each type gives a few texts that PostgreSQL may read as that type, best first, different for
each row. No rule of a check is understood here: the server tries them (filling.py). What a
check compares with is among them: its literals, lengths next to its numbers, JSON objects
with its keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final

from negspace.migrate.lexer import Kind, LexError, tokenize

__all__ = ["Hints", "Type", "harvest", "names_in", "values"]

_LONGEST: Final = 4096  # characters of a made-up text
_MOST_DIGITS: Final = 6
_HIGHEST: Final = Decimal(10) ** 20


@dataclass(frozen=True)
class Type:
    """A type of the catalog, as ``fill_types.sql`` gives it; 0 and None where it has no such."""

    oid: int
    name: str
    type: str
    kind: str
    category: str
    element: int
    is_array: bool
    base: int
    subtype: int
    labels: list[str] | None
    attributes: list[int] | None
    checks: str | None


@dataclass(frozen=True)
class Hints:
    """What checks speak of: their strings and numbers."""

    strings: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()

    def __or__(self, other: Hints) -> Hints:
        return Hints(self.strings + other.strings, self.numbers + other.numbers)


def harvest(expression: str) -> Hints:
    """The literals of an expression as PostgreSQL prints it."""
    strings: dict[str, None] = {}
    numbers: dict[str, None] = {}
    for kind, text in _tokens(expression):
        if kind is Kind.STRING and text[0] == "'":
            strings[text[1:-1].replace("''", "'")] = None
        elif kind is Kind.STRING and text[:2] in {"E'", "e'"}:
            strings[text[2:-1].replace("''", "'").replace("\\\\", "\\")] = None
        elif kind is Kind.NUMBER:
            numbers[text] = None
    return Hints(tuple(strings), tuple(numbers))


def names_in(expression: str) -> frozenset[str]:
    """The identifiers of an expression, quoted where it quotes them."""
    kinds = {Kind.WORD, Kind.QUOTED}
    return frozenset(text for kind, text in _tokens(expression) if kind in kinds)


def _tokens(expression: str) -> list[tuple[Kind, str]]:
    try:
        return [(t.kind, expression[t.start : t.end]) for t in tokenize(expression)]
    except LexError:  # what PostgreSQL printed can't be this; then there is no hint
        return []


def values(types: Mapping[int, Type], type_id: int, n: int, hints: Hints) -> list[str]:
    """Texts that may be a value of the type, best first.

    Args:
        types: By their oid.
        type_id: Of the type.
        n: The row's number: another number gives another best value where the type has one.
        hints: From the checks of the column.
    """
    found = types.get(type_id)
    if found is None:
        return ["1", "a", "{}"]
    return list(dict.fromkeys(_of(types, found, n, hints)))


def _of(types: Mapping[int, Type], given: Type, n: int, hints: Hints) -> list[str]:
    if given.kind == "d":
        return values(types, given.base, n, hints | harvest(given.checks or ""))
    if given.kind == "e":
        labels = given.labels or []
        return _rotated(labels, n)
    if given.kind == "c":
        parts = [_first(types, attribute, n) for attribute in given.attributes or []]
        return [f"({','.join(map(_quoted, parts))})"]
    if given.kind == "r":
        low, high = (_first(types, given.subtype, m) for m in (n, n + 1))
        pair = sorted((low, high)) if not low.isdecimal() else [low, high]
        return [f"[{_quoted(pair[0])},{_quoted(pair[1])})", "empty"]
    if given.kind == "m":
        return [f"{{{_first(types, given.subtype, n)}}}", "{}"]
    if given.is_array and given.element:
        inside = values(types, given.element, n, hints)
        return [*(f"{{{_quoted(text)}}}" for text in inside[:8]), "{}"]
    return _scalar(given, n, hints)


def _first(types: Mapping[int, Type], type_id: int, n: int) -> str:
    return values(types, type_id, n, Hints())[0]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _rotated(found: Sequence[str], n: int) -> list[str]:
    at = n % len(found) if found else 0
    return [*found[at:], *found[:at]]


# ── types of one value ───────────────────────────────────────────────────────────────────


def _scalar(given: Type, n: int, hints: Hints) -> list[str]:
    if given.name in {"json", "jsonb"}:
        return _json(n, hints)
    special = _BY_NAME.get(given.name)
    if special is not None:
        return [*special(n), *hints.strings]
    by_category = {"N": _number, "S": _text, "D": _time}.get(given.category)
    if by_category is not None:
        return by_category(n, hints)
    if given.category == "I":  # inet, cidr
        return [f"10.0.{n // 200}.{n % 200 + 1}", f"10.0.{n}.0/24", *hints.strings]
    return [*hints.strings, f"{n + 1}", "a", "{}", f"{n},{n + 1}", f"a=>{n}", f"[{n},1,1]"]


def _number(n: int, hints: Hints) -> list[str]:
    near: list[str] = []
    for number in map(_decimal, (*hints.numbers, *hints.strings)):
        if number is not None:
            step = n + 1 if number == number.to_integral_value() else Decimal(0)
            near += [f"{m:f}" for m in (number + step, number - step, number)]
            near += [f"{m:f}" for m in (number + 1, number - 1)]
    return [str(n + 1), *near, f"0.{n % 9 + 1}", "0", "-1", f"0.0{n % 9 + 1}"]


def _decimal(text: str) -> Decimal | None:
    """A number as PostgreSQL prints one; a negative one stands in quotes."""
    try:
        found = Decimal(text)
    except InvalidOperation:
        return None
    return found if found.is_finite() and abs(found) < _HIGHEST else None


def _time(n: int, hints: Hints) -> list[str]:
    day, hour = n % 28 + 1, n % 24
    near: list[str] = []
    for text in hints.strings:
        try:
            moment = datetime.fromisoformat(text)
            near += [str(moment + timedelta(hours=h)) for h in (n + 1, -n - 1, 24 * (n + 1))]
        except (ValueError, OverflowError):
            continue
    return [
        f"2024-01-{day:02} {hour:02}:00:00+00",
        *near,
        *hints.strings,
        f"2124-01-{day:02} 00:00:00+00",
        f"1990-01-{day:02} 00:00:00+00",
        f"{hour:02}:30:00",
    ]


def _text(n: int, hints: Hints) -> list[str]:
    """Texts that checks tend to ask for: addresses, hashes, versions, names, paths."""
    h = f"{n:x}"
    plausible = [
        f"text {n}",
        f"name{n}",
        f"n{h}",
        f"user{n}@example.org",
        f"1.0.{n}",
        f"image/x-{n}",
        "image/png",
        f"{h:0>64}",
        f"{h:0>40}",
        f"{h:0>32}",
        f"00000000-0000-4000-8000-{h:0>12}",
        f"https://example.org/{n}",
        f"/folder/file{n}.txt",
        f"$2b$12${h:a>53}",
        str(n + 1),
        f"+1555{n:07}",
        chr(ord("A") + n % 26) * 2,
        "{}",
        "",
    ]
    lengths = sorted({int(t) for t in hints.numbers if t.isdecimal() and len(t) <= _MOST_DIGITS})
    sized = [f"{h:0>{k}}"[-k:] for k in lengths if 0 < k <= _LONGEST]
    return [plausible[0], *hints.strings, *plausible[1:], *sized]


def _json(n: int, hints: Hints) -> list[str]:
    """Values of each JSON type, and an object with the keys that a check may ask for."""
    keys = [text for text in hints.strings if text and text[0] not in "{["]
    asked = [dict.fromkeys(keys, n + 1), dict.fromkeys(keys, f"{n}")] if keys else []
    made = [{"n": n}, *asked, [n], *([key] for key in keys), f"{n}", n + 1, {}, [], True]
    return [*map(json.dumps, made), *hints.strings]


def _bytes(n: int) -> list[str]:
    return [rf"\x{n:0{2 * size}x}" for size in (4, 32, 16, 20, 64)] + [r"\x"]


_BY_NAME: Final[Mapping[str, Callable[[int], list[str]]]] = {
    "bool": lambda n: ["true", "false"] if n % 2 == 0 else ["false", "true"],
    "bytea": _bytes,
    "uuid": lambda n: [f"00000000-0000-4000-8000-{n:012x}"],
    "interval": lambda n: [f"{n + 1} hours", "1 day"],
    "macaddr": lambda n: [f"08:00:2b:01:{n // 256 % 256:02x}:{n % 256:02x}"],
    "macaddr8": lambda n: [f"08:00:2b:01:02:03:{n // 256 % 256:02x}:{n % 256:02x}"],
    "bit": lambda n: [f"{n % 256:08b}", str(n % 2)],
    "varbit": lambda n: [f"{n % 256:08b}"],
    "xml": lambda n: [f"<n>{n}</n>"],
    "money": lambda n: [str(n + 1)],
    "tsvector": lambda n: [f"word{n}"],
    "tsquery": lambda n: [f"word{n}"],
    "point": lambda n: [f"({n},{n})"],
    "line": lambda n: [f"{{1,1,{n}}}"],
    "lseg": lambda n: [f"[({n},0),({n},1)]"],
    "box": lambda n: [f"(({n},0),({n + 1},1))"],
    "path": lambda n: [f"[({n},0),({n},1)]"],
    "polygon": lambda n: [f"(({n},0),({n},1),({n + 1},1))"],
    "circle": lambda n: [f"<({n},0),1>"],
    "pg_lsn": lambda n: [f"0/{n + 1:X}"],
    "hstore": lambda n: [f"n=>{n}"],
    "ltree": lambda n: [f"top.n{n}"],
    "oid": lambda n: [str(n + 1)],
    "regclass": lambda _: ["pg_class"],
    "name": lambda n: [f"name{n}"],
}
