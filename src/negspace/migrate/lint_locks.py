"""Which changes hold others up, and for how long: a rewrite, a scan, or a moment. Pure.

After PostgreSQL's documentation of explicit locking and of ALTER TABLE.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from negspace.migrate.ddl import Change, bare
from negspace.migrate.lint_facts import Facts, functions_called

__all__ = ["Hold", "hold", "keeps_rows"]


class Hold(NamedTuple):
    """What a change does to those who use its table meanwhile.

    Attributes:
        blocks: ``reads and writes``, or ``writes``; empty where it stops neither.
        work: ``rewrite``, ``scan``, or empty where it lasts a moment.
    """

    blocks: str
    work: str = ""


_ALL: Final = "reads and writes"
_FIXED: Final = {
    "alter column type": Hold(_ALL, "rewrite"),
    "cluster": Hold(_ALL, "rewrite"),
    "vacuum full": Hold(_ALL, "rewrite"),
    "set not null": Hold(_ALL, "scan"),
    "drop column": Hold(_ALL),
    "drop constraint": Hold(_ALL),
    "drop table": Hold(_ALL),
    "rename table": Hold(_ALL),
    "rename column": Hold(_ALL),
    "rename constraint": Hold(_ALL),
    "truncate": Hold(_ALL),
    "create policy": Hold(_ALL),
    "create trigger": Hold("writes"),
    "alter table": Hold(_ALL),
    "alter column": Hold(_ALL),
}
_NOTHING: Final = Hold("")


def hold(change: Change, facts: Facts) -> Hold:
    """What a change does to those who use its table.

    Args:
        change: Of a table that is there already.
        facts: Of the live database: versions and columns decide.
    """
    if change.kind == "create index":
        return _NOTHING if change.concurrently else Hold("writes", "scan")
    if change.kind in {"refresh", "reindex", "detach partition"}:
        if change.concurrently:
            return _NOTHING
        return Hold(_ALL, "" if change.kind == "detach partition" else "scan")
    if change.kind == "add column":
        return _column(change, facts)
    if change.kind == "add constraint":
        return _constraint(change)
    if change.kind in {"alter table", "alter column"}:
        return _other(change)
    if change.kind == "alter column type" and keeps_rows(change, facts):
        return Hold(_ALL)
    if change.kind == "set not null" and _is_checked(change, facts):
        return Hold(_ALL)
    return _FIXED.get(change.kind, _NOTHING)


def _column(change: Change, facts: Facts) -> Hold:
    column = change.column
    if column is None:
        return _NOTHING
    changes_rows = column.stored or bool(facts.volatile & set(functions_called(change)))
    builds = any(c.kind in {"primary key", "unique"} for c in column.constraints)
    return Hold(_ALL, "rewrite" if changes_rows else "scan" if builds else "")


def _constraint(change: Change) -> Hold:
    made = change.constraint
    if made is None:
        return _NOTHING
    at_once = not made.valid or made.using_index is not None
    if made.kind == "foreign key":
        return Hold("writes", "" if at_once else "scan")
    return Hold(_ALL, "" if at_once else "scan")


_GENTLE: Final = (("set", "("), ("reset", "("), ("set", "statistics"), ("cluster", "on"))
_REWRITES: Final = (
    ("set", "logged"),
    ("set", "unlogged"),
    ("set", "tablespace"),
    ("set", "access"),
)


def _other(change: Change) -> Hold:
    head = change.type[:2]
    if head in _GENTLE:
        return _NOTHING
    return Hold(_ALL, "rewrite" if change.kind == "alter table" and head in _REWRITES else "")


def keeps_rows(change: Change, facts: Facts) -> bool:
    """Whether ``alter column type`` leaves the rows as they are: a wider text, or the same."""
    before = facts.column_type(change.object, change.name or "")
    if before is None:
        return False
    old = _text_width(before.replace("(", " ").replace(")", " ").split())
    new = _text_width(list(change.type))
    return old is not None and new is not None and old <= new


_UNLIMITED: Final = 1 << 62


def _text_width(tokens: list[str]) -> int | None:
    """How many characters a type of text holds; None for any other type."""
    words = [token for token in tokens if token not in {"(", ")"}]
    kind = " ".join(word for word in words if not word.isdecimal())
    if kind == "text":
        return _UNLIMITED
    if kind not in {"character varying", "varchar"}:
        return None
    widths = [int(word) for word in words if word.isdecimal()]
    return widths[0] if widths else _UNLIMITED


def _is_checked(change: Change, facts: Facts) -> bool:
    """Whether a valid check says already that the column is not null: from 12 on no scan."""
    wanted = (change.name or "", "is", "not", "null")
    return any(
        part.change.constraint is not None
        and part.change.constraint.valid
        and bare(part.change.constraint.expression) == wanted
        for part in facts.parts_of(change.object)
    )
