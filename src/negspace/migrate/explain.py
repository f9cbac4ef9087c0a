"""The statements that explain how one catalog became another: create, alter, drop. Pure.

What can't be said as a statement is said as a comment; so the whole is a script that makes
the one into the other as far as that is clear.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from negspace.migrate.catalog import Object
from negspace.migrate.lexer import LexError, split

__all__ = ["created", "dropped", "made"]

# Nothing of them is created; what they consist of is rights.
_RIGHTS: Final = {"default privileges of this database", "schema public"}
_ON_TABLE: Final = {"trigger", "rule", "policy"}
_CONSTRAINTS: Final = {"constraint", "foreign key"}
_REPLACED: Final = ("CREATE OR REPLACE", "create or replace")

_ENTRY: Final = re.compile(r"    (?P<constraint>constraint )?(?P<name>\"(?:[^\"]|\"\")+\"|\S+)")
_COLUMN: Final = re.compile(
    r"(?P<type>.+?)(?: collate (?P<collate>\S+))?(?P<not_null> not null)?"
    r"(?P<generated> generated .+)?(?: default (?P<default>.+))?",
    re.DOTALL,
)
_GRANT: Final = re.compile(
    r"grant (?P<what>.+) on (?P<on>.+) to (?P<who>.+?)(?: with grant option)?", re.DOTALL
)
_REVOKE: Final = re.compile(r"revoke (?P<what>.+) on (?P<on>.+) from (?P<who>.+)", re.DOTALL)
_COMMENT: Final = re.compile(r"(?P<target>comment on .+?) is '.*", re.DOTALL)
_SECURITY: Final = re.compile(r"(alter table .+?) (enable|force) row level security")


def created(thing: Object) -> tuple[str, ...]:
    """What makes an object."""
    return _statements(thing.definition)


def dropped(thing: Object) -> tuple[str, ...]:
    """What removes an object."""
    name, _, table = thing.name.rpartition(" on ")
    if thing.kind in _CONSTRAINTS:
        return (f"alter table {table} drop constraint {name};",)
    if thing.kind in _ON_TABLE:
        return (f"drop {thing.kind} {name} on {table};",)
    if thing.kind == "sequence owner":
        return (f"alter sequence {thing.name} owned by none;",)
    if thing.kind == "default privileges" or thing.definition.startswith("alter index"):
        return tuple(_undone(said) for said in _statements(thing.definition))
    return (f"drop {thing.kind} {thing.name};",)


def made(before: Object, after: Object) -> tuple[str, ...]:
    """What makes an object into another of the same kind and name."""
    old, new = _statements(before.definition), _statements(after.definition)
    whole: list[str] = []
    if before.kind == "table":
        whole = list(_altered_table(before.name, old[0], new[0]))
        old, new = old[1:], new[1:]
    elif old[:1] != new[:1] and before.identity not in _RIGHTS:
        labels = _added_labels(before.name, old[0], new[0]) if before.kind == "type" else []
        if labels or new[0].startswith(_REPLACED):
            whole, old, new = labels or [new[0]], old[1:], new[1:]
        else:
            return (*dropped(before), *new)
    return (*whole, *_tail(old, new))


def _statements(text: str) -> tuple[str, ...]:
    try:
        return tuple(f"{statement.text.strip()};" for statement in split(text).statements)
    except LexError:  # what the server printed in a way that ours can't split
        return (text,)


def _tail(old: tuple[str, ...], new: tuple[str, ...]) -> Iterator[str]:
    """Comments, grants and settings: those that went are undone before others are made."""
    overwritten = {found["target"] for said in new if (found := _COMMENT.match(said))}
    for said in old:
        comment = _COMMENT.match(said)
        if said not in new and not (comment and comment["target"] in overwritten):
            yield _undone(said)
    yield from (said for said in new if said not in old)


def _undone(said: str) -> str:
    text = said.removesuffix(";")
    if found := _COMMENT.fullmatch(text):
        return f"{found['target']} is null;"
    if found := _GRANT.fullmatch(text):
        return f"revoke {found['what']} on {found['on']} from {found['who']};"
    if found := _REVOKE.fullmatch(text):
        return f"grant {found['what']} on {found['on']} to {found['who']};"
    if found := _SECURITY.fullmatch(text):
        verb = "disable" if found[2] == "enable" else "no force"
        return f"{found[1]} {verb} row level security;"
    return _remark("undone", said)


def _remark(what: str, said: str) -> str:
    """What no statement says; in a script it does nothing."""
    return f"-- {what}: " + " ".join(said.split())


def _added_labels(name: str, old: str, new: str) -> list[str]:
    """The values that an enum got; nothing where that is not all that happened."""
    before, after = _labels(old), _labels(new)
    if not before or [label for label in after if label in before] != before:
        return []
    said: list[str] = []
    for at, label in enumerate(after):
        if label not in before:
            place = f"after {after[at - 1]}" if at else f"before {before[0]}"
            said.append(f"alter type {name} add value {label} {place};")
    return said


def _labels(text: str) -> list[str]:
    if " as enum (" not in text:
        return []
    return [line.strip().rstrip(",") for line in text.splitlines()[1:-1]]


# ── tables ───────────────────────────────────────────────────────────────────────────────


class _Table(NamedTuple):
    """A table's statement in parts; columns and constraints by name, as they are written."""

    frame: str
    columns: dict[str, str]
    constraints: dict[str, str]


def _parts(text: str) -> _Table:
    head, _, rest = text.partition(" (\n")
    body, _, tail = rest.rpartition("\n)")
    columns: dict[str, str] = {}
    constraints: dict[str, str] = {}
    for entry in _entries(body):
        found = _ENTRY.match(entry)
        if found is not None:
            into = constraints if found["constraint"] else columns
            into[found["name"]] = " ".join(entry[found.end() :].split())
    return _Table(head + tail, columns, constraints)


def _entries(body: str) -> Iterator[str]:
    entry = ""
    for line in body.split("\n"):
        if entry and re.match(r"    \S", line):
            yield entry.removesuffix(",")
            entry = line
        else:
            entry = f"{entry}\n{line}" if entry else line
    if entry:
        yield entry


def _altered_table(name: str, old: str, new: str) -> Iterator[str]:
    before, after = _parts(old), _parts(new)
    table = f"alter table {name}"
    if before.frame != after.frame:
        yield _remark("the table itself was", before.frame)
        yield _remark("the table itself is", after.frame)
    for gone in _differing(before.constraints, after.constraints):
        yield f"{table} drop constraint {gone};"
    for column, said in before.columns.items():
        if column not in after.columns:
            yield f"{table} drop column {column};"
        elif said != after.columns[column]:
            yield from _altered_column(f"{table} alter column {column}", said, after, column)
    for column, said in after.columns.items():
        if column not in before.columns:
            yield f"{table} add column {column} {said};"
    for come in _differing(after.constraints, before.constraints):
        yield f"{table} add constraint {come} {after.constraints[come]};"


def _differing(these: dict[str, str], those: dict[str, str]) -> Iterable[str]:
    return (name for name, said in these.items() if those.get(name) != said)


def _altered_column(alter: str, said: str, table: _Table, column: str) -> Iterator[str]:
    now = table.columns[column]
    old, new = _COLUMN.fullmatch(said), _COLUMN.fullmatch(now)
    if old is None or new is None or old["generated"] != new["generated"]:
        yield _remark(f"{alter}, was", said)
        yield _remark(f"{alter}, is", now)
        return
    if (old["type"], old["collate"]) != (new["type"], new["collate"]):
        collate = f" collate {new['collate']}" if new["collate"] else ""
        yield f"{alter} type {new['type']}{collate};"
    if old["default"] != new["default"]:
        yield (
            f"{alter} set default {new['default']};" if new["default"] else f"{alter} drop default;"
        )
    if old["not_null"] != new["not_null"]:
        yield f"{alter} {'set' if new['not_null'] else 'drop'} not null;"
