"""Our own lint rules: what only the live catalog and the plan can tell.

A function is a rule; docs/lint.md has a section for each, with the problem and the remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from negspace.migrate.ddl import Change, Constraint, Index, bare
from negspace.migrate.lexer import Statement
from negspace.migrate.lint_facts import Facts, Table, Use
from negspace.migrate.lint_locks import hold
from negspace.migrate.lint_run import Progress, Thresholds, constraints_of, same
from negspace.migrate.script import MigrationFile

__all__ = ["NO_WAY_DOWN", "RULES", "Said", "Subject", "has_leading_index"]

NO_WAY_DOWN: Final = "no-way-down"


class Said(NamedTuple):
    """What a rule says of a statement."""

    message: str
    remedy: str
    severity: str = "warning"


@dataclass(frozen=True)
class Subject:
    """One change of a statement, and what is known around it.

    Attributes:
        facts: Of the live database; None offline.
        lock_timeout: The run sets one.
    """

    file: MigrationFile
    statement: Statement
    change: Change
    run: Progress
    facts: Facts | None
    thresholds: Thresholds
    lock_timeout: bool

    def table(self) -> Table | None:
        """The table that is changed, if it is there and others may use it."""
        if self.facts is None or self.run.has_made(self.change.object):
            return None
        return self.facts.table(self.change.object)


def _is_large(table: Table, thresholds: Thresholds) -> bool:
    return table.bytes >= thresholds.large_bytes or table.rows >= thresholds.large_rows


# ── locks ────────────────────────────────────────────────────────────────────────────────

_INSTEAD: Final = {
    "create index": "CREATE INDEX CONCURRENTLY",
    "reindex": "REINDEX … CONCURRENTLY",
    "refresh": "REFRESH MATERIALIZED VIEW CONCURRENTLY",
    "add constraint": "add it NOT VALID and VALIDATE CONSTRAINT in a later migration; a key:"
    " CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT … USING INDEX",
    "set not null": "ADD CONSTRAINT … CHECK (column IS NOT NULL) NOT VALID, VALIDATE CONSTRAINT"
    " in a later migration, then SET NOT NULL, which finds the check",
    "alter column type": "add a column of the new type, fill it in batches, then swap the names",
    "add column": "add it without the default, set the default, fill the rows in batches",
}


def blocks_large_table(subject: Subject) -> Iterator[Said]:
    """A large table is scanned or rewritten under a lock that stops its users."""
    table = subject.table()
    if table is None or subject.facts is None or not _is_large(table, subject.thresholds):
        return
    held = hold(subject.change, subject.facts)
    if held.blocks and held.work:
        yield Said(
            f"a {held.work} of {table.name}, {_size(table)}, stops {held.blocks} of it until the"
            " run has ended",
            _INSTEAD.get(subject.change.kind, "do it while nobody uses the table, or in batches"),
            "error",
        )


def _size(table: Table) -> str:
    rate = f", {table.per_second:.0f} uses a second" if table.per_second >= 1 else ""
    return f"{table.bytes / 2**20:.0f} MB, {table.rows} rows{rate}"


def missing_lock_timeout(subject: Subject) -> Iterator[Said]:
    """A hot table is locked, and nothing bounds the wait for the lock."""
    table = subject.table()
    if table is None or subject.facts is None:
        return
    if subject.lock_timeout or subject.run.lock_timeout or subject.facts.lock_timeout:
        return
    is_hot = table.per_second >= subject.thresholds.hot_per_second
    if is_hot and hold(subject.change, subject.facts).blocks:
        yield Said(
            f"{table.name} has {table.per_second:.0f} uses a second, and all of them queue"
            " behind this statement while it waits for its lock",
            "negspace migrate up --lock-timeout 2, or SET lock_timeout in the file",
        )


# ── what is there already ────────────────────────────────────────────────────────────────


def duplicate_index(subject: Subject) -> Iterator[Said]:
    """The same index is there under another name."""
    index = subject.change.index
    if index is None:
        return
    for name, there in _indexes(subject):
        if name != subject.change.name and _covers(there, index):
            yield Said(
                f"index {name} of {subject.change.object} is the same",
                "leave this one out, or drop that one",
            )
            return


def _indexes(subject: Subject) -> Iterator[tuple[str, Index]]:
    """The indexes of the table, where the statement stands; those of keys too."""
    table = subject.change.object
    if subject.facts is not None and not subject.run.has_made(table):
        for part in subject.facts.parts_of(table):
            if part.change.index and not subject.run.has_dropped(part.name):
                yield part.name, part.change.index
    for change in subject.run.parts_of(table):
        if change.index is not None and not subject.run.has_dropped(change.name or ""):
            yield change.name or "without a name", change.index
        for key in constraints_of(change):
            if key.kind in {"primary key", "unique"} and key.columns:
                keys = tuple((column,) for column in key.columns)
                yield key.name or f"of the {key.kind}", Index(True, "btree", keys, (), ())


def _covers(there: Index, made: Index) -> bool:
    """Whether an index does all that another one would."""
    if made.unique and not there.unique:
        return False
    return (there.method, there.keys, there.include, there.where) == (
        made.method,
        made.keys,
        made.include,
        made.where,
    )


def duplicate_constraint(subject: Subject) -> Iterator[Said]:
    """The same constraint is there under another name."""
    for made in constraints_of(subject.change):
        for there in _constraints(subject):
            if _equal(there, made) and there.name != made.name:
                yield Said(
                    f"constraint {there.name or 'without a name'} of {subject.change.object}"
                    " is the same",
                    "leave this one out, or drop that one",
                )
                return


def _constraints(subject: Subject) -> Iterator[Constraint]:
    table = subject.change.object
    if subject.facts is not None and not subject.run.has_made(table):
        for part in subject.facts.parts_of(table):
            made = part.change.constraint
            if made and not subject.run.has_dropped(part.name):
                yield Constraint(
                    made.kind, part.name, made.columns, made.references, (), made.expression
                )
    for change in subject.run.parts_of(table):
        for made in constraints_of(change):
            if not subject.run.has_dropped(made.name or "", "drop constraint"):
                yield made


def _equal(one: Constraint, other: Constraint) -> bool:
    if one.kind != other.kind or one.kind in {"exclude", "not null"}:
        return False
    if one.kind == "check":
        return bare(one.expression) == bare(other.expression)
    if one.references is not None and other.references is not None:
        return one.columns == other.columns and same(one.references, other.references)
    return bool(one.columns) and one.columns == other.columns


def foreign_key_without_index(subject: Subject) -> Iterator[Said]:
    """No index leads with a foreign key's columns: each delete of a parent reads the table."""
    for key in constraints_of(subject.change):
        if key.kind == "foreign key" and not has_leading_index(subject, key.columns):
            columns = ", ".join(key.columns)
            yield Said(
                f"no index of {subject.change.object} begins with ({columns}): each delete or"
                f" key change in {key.references} reads the whole table",
                f"create an index on {subject.change.object} ({columns})",
            )


def has_leading_index(subject: Subject, columns: tuple[str, ...]) -> bool:
    """Whether an index of the table, now or at the end of the run, begins with the columns."""
    table, run = subject.change.object, subject.run
    changes = list(run.parts_of(table, to_come=True))
    if subject.facts is not None:
        changes += [
            part.change
            for part in subject.facts.parts_of(table)
            if not any(
                made.change.kind.startswith("drop") and made.change.object.name == part.name
                for made in run.whole
            )
        ]
    return any(_leads(change, columns) for change in changes)


def _leads(change: Change, columns: tuple[str, ...]) -> bool:
    wanted, count = set(columns), len(columns)
    index = change.index
    # A key without a value refers to nothing: an index may leave such rows out.
    whole = {(), (columns[0], "is", "not", "null")} if columns else set[tuple[str, ...]]()
    if index is not None and index.where in whole and set(index.columns[:count]) == wanted:
        return True
    return any(
        key.kind in {"primary key", "unique"} and set(key.columns[:count]) == wanted
        for key in constraints_of(change)
    )


# ── what others still use ────────────────────────────────────────────────────────────────

_USED: Final = {
    "drop type": "type",
    "drop domain": "domain",
    "drop function": "function",
    "drop procedure": "procedure",
    "rename type": "type",
}


def still_used(subject: Subject) -> Iterator[Said]:
    """A type or function goes or gets another name, and something still uses it."""
    kind = _USED.get(subject.change.kind)
    if kind is None or subject.facts is None or subject.run.has_made(subject.change.object):
        return
    renames = subject.change.kind.startswith("rename")
    uses = [
        use
        for use in subject.facts.uses_of(subject.change.object)
        if (use.in_body or not renames) and not _is_gone(use, subject)
    ]
    if not uses:
        return
    takes = subject.change.cascade and any(not use.in_body for use in uses)
    users = ", ".join(use.by for use in uses[:5]) + (" …" if len(uses) > 5 else "")
    said = "takes along" if takes else "is still used by"
    yield Said(
        f"{kind} {subject.change.object} {said}: {users}",
        "drop or change those first, by name" if takes else "change those first",
        "error" if takes else "warning",
    )


def _is_gone(use: Use, subject: Subject) -> bool:
    """Whether the user was dropped, or made anew, before the statement, in the same run."""
    return any(
        made.change.kind.startswith(("drop", "create function", "create procedure"))
        and {made.change.object.name, made.change.name} & set(use.user)
        for made in subject.run.before
    )


def enum_value_used(subject: Subject) -> Iterator[Said]:
    """An enum value is added and used where the two would share a transaction."""
    change = subject.change
    if change.kind != "add enum value" or not subject.file.transaction:
        return
    if subject.run.has_made(change.object):
        return
    literal = "'" + (change.name or "").replace("'", "''") + "'"
    used = next((s for s in _after(subject) if literal in s.tokens), None)
    if used is not None:
        yield Said(
            f"{literal} is used in line {used.line}, and a new enum value can be used only after"
            " a commit: the run can't be one transaction",
            "use it in a migration of its own",
        )


def _after(subject: Subject) -> Iterator[Statement]:
    """The file's later statements, but for those that add values."""
    for statement in subject.file.statements:
        if statement.offset > subject.statement.offset and not statement.begins("alter", "type"):
            yield statement


RULES: Final[dict[str, Callable[[Subject], Iterator[Said]]]] = {
    "blocks-large-table": blocks_large_table,
    "missing-lock-timeout": missing_lock_timeout,
    "duplicate-index": duplicate_index,
    "duplicate-constraint": duplicate_constraint,
    "foreign-key-without-index": foreign_key_without_index,
    "still-used": still_used,
    "enum-value-used": enum_value_used,
}
