"""What the lint rules know of the live catalog: sizes, traffic, indexes, who uses what.

One short look before a run, by name, at nothing that the pending migrations don't name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from negspace.database import Connection, translated
from negspace.migrate.ddl import Change, Name, changes
from negspace.migrate.lexer import split
from negspace.migrate.queries import query

__all__ = ["Facts", "Part", "Table", "Use", "look"]


@dataclass(frozen=True)
class Table:
    """A table that is there.

    Attributes:
        bytes: Of its rows, with what is stored out of line, indexes left out; with all
            partitions.
        rows: About how many, as the statistics say.
        per_second: Scans of it and rows written, on the mean since the statistics were reset.
        empty: Nothing was ever stored in it, or all of that is gone.
    """

    name: Name
    bytes: int
    rows: int
    per_second: float
    empty: bool


@dataclass(frozen=True)
class Part:
    """An index or a constraint that is there.

    Attributes:
        change: What would make it.
    """

    table: Name
    name: str
    change: Change


@dataclass(frozen=True)
class Use:
    """A use of a type or a routine.

    Attributes:
        by: What uses it, as the server describes it.
        user: The names in its address: its schema, its own, its table's.
        in_body: It stands in a function's body, where the server looks when it runs.
    """

    of: Name
    by: str
    user: tuple[str, ...]
    in_body: bool


@dataclass(frozen=True)
class Facts:
    """What is known of the live database.

    Attributes:
        version: Of the server, as a number: 150004.
        lock_timeout: Whether the server, the database or the role sets one.
        columns: The type of each column, by table and name.
        volatile: Of the functions in defaults, those that give each row a value of its own.
    """

    version: int
    lock_timeout: bool
    tables: tuple[Table, ...]
    columns: dict[tuple[Name, str], str]
    parts: tuple[Part, ...]
    uses: tuple[Use, ...]
    volatile: frozenset[str]
    visible: dict[str, Name]

    def full(self, name: Name) -> Name:
        """The name with the schema that the search path finds it in."""
        return name if name.schema is not None else self.visible.get(name.name, name)

    def table(self, name: Name) -> Table | None:
        """The table of that name, or None."""
        wanted = self.full(name)
        return next((table for table in self.tables if table.name == wanted), None)

    def parts_of(self, name: Name) -> list[Part]:
        """The indexes and constraints of a table."""
        wanted = self.full(name)
        return [part for part in self.parts if part.table == wanted]

    def column_type(self, table: Name, column: str) -> str | None:
        """The type of a column as the server writes it, or None."""
        return self.columns.get((self.full(table), column))

    def uses_of(self, name: Name) -> list[Use]:
        """What uses a type or a routine."""
        return [
            use
            for use in self.uses
            if use.of.name == name.name and name.schema in {None, use.of.schema}
        ]


_SHORTEST: Final = 60.0  # seconds: counters just reset tell no rate
_TYPES: Final = {"drop type", "drop domain", "rename type"}
_ROUTINES: Final = {"drop function", "drop procedure"}


def look(connection: Connection, found: Sequence[Change]) -> Facts:
    """Look at what some changes name.

    Args:
        connection: Of the database, in autocommit.
        found: The changes of all pending migrations.

    Raises:
        DatabaseError: The server refused a query.
    """
    tables = list({change.object.name for change in found} | _referenced(found))
    named: dict[str, object] = {"tables": tables}
    (server,) = _rows(connection, "lint_server", {})
    there = _rows(connection, "lint_tables", named)
    columns = _rows(connection, "lint_columns", named)
    parts = _rows(connection, "lint_parts", named)
    seconds = max(server["seconds"], _SHORTEST)
    return Facts(
        version=server["version"],
        lock_timeout=server["lock_timeout"],
        tables=tuple(
            Table(
                Name(row["schema"], row["name"]),
                row["bytes"],
                row["rows"],
                (row["reads"] + row["writes"]) / seconds,
                row["heap_bytes"] == 0,
            )
            for row in there
        ),
        columns={(Name(r["schema"], r["table"]), r["name"]): r["type"] for r in columns},
        parts=tuple(part for row in parts for part in _part(row)),
        uses=_uses(connection, found),
        volatile=_volatile(connection, found),
        visible={r["name"]: Name(r["schema"], r["name"]) for r in there if r["visible"]},
    )


def _rows(connection: Connection, name: str, named: dict[str, object]) -> list[dict[str, Any]]:
    with translated():
        return connection.execute(query(name), named or None).fetchall()


def _referenced(found: Sequence[Change]) -> set[str]:
    constraints = [c.constraint for c in found if c.constraint]
    constraints += [k for c in found if c.column for k in c.column.constraints]
    return {k.references.name for k in constraints if k.references is not None}


def _part(row: dict[str, Any]) -> tuple[Part, ...]:
    """The row's index or constraint, read as the statement that would make it."""
    table, name = Name(str(row["schema"]), str(row["table"])), str(row["name"])
    definition = str(row["definition"])
    if not row["is_index"]:
        definition = f"alter table x add {definition}"
    (statement,) = split(definition).statements
    return tuple(Part(table, name, change) for change in changes(statement))


def _uses(connection: Connection, found: Sequence[Change]) -> tuple[Use, ...]:
    types = [change.object.name for change in found if change.kind in _TYPES]
    routines = [change.object.name for change in found if change.kind in _ROUTINES]
    if not types and not routines:
        return ()
    used = _rows(connection, "lint_used", {"types": types, "routines": routines})
    return tuple(
        Use(
            Name(row["schema"], row["name"]),
            row["by"],
            tuple(row["user_names"] or ()),
            row["in_body"],
        )
        for row in used
    )


def _volatile(connection: Connection, found: Sequence[Change]) -> frozenset[str]:
    called = {name for change in found for name in functions_called(change)}
    if not called:
        return frozenset()
    found_there = _rows(connection, "lint_volatile", {"functions": sorted(called)})
    return frozenset(row["name"] for row in found_there)


def functions_called(change: Change) -> Collection[str]:
    """The functions that a new column's default calls."""
    default = change.column.default if change.column else None
    pairs = zip(default or (), (default or ())[1:], strict=False)
    return {word for word, after in pairs if after == "(" and (word[0].isalpha() or word[0] == "_")}
