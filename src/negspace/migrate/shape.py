"""The tables of a database as whoever fills them sees them: what a row needs and must meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from negspace.database import Connection, sql
from negspace.migrate.candidates import Type
from negspace.migrate.printed import Printed
from negspace.migrate.queries import query

__all__ = ["Column", "Constraint", "Shape"]

LEAVES: Final = 5  # partitions that get rows, of one table


@dataclass(frozen=True)
class Column:
    """A column that can be given a value; ``numbered`` ones number themselves.

    ``is_text``: any text is a value of its type.

    Attributes:
        relation: The oid of its table.
        name: Quoted where need be, as all names here.
        length: In characters, of a text that has a limit.
    """

    relation: int
    name: str
    type_id: int
    type: str
    length: int | None
    not_null: bool
    is_text: bool
    has_default: bool
    numbered: bool

    @property
    def printed(self) -> Printed:
        """Its name, for composing a statement."""
        return Printed(self.name)

    def cast(self, text: str | None) -> sql.Composed:
        """A value of the column's type, as an expression."""
        return sql.SQL("cast({} as {})").format(sql.Literal(text), Printed(self.type))


@dataclass(frozen=True)
class Constraint:
    """A check (``kind`` c, with its ``expression``) or a foreign key (f, with its target)."""

    relation: int
    name: str
    kind: str
    columns: list[str]
    expression: str | None
    target: int
    target_name: str | None
    target_columns: list[str] | None


class Shape:
    """What the catalog says of tables: read once for a filling."""

    def __init__(self, connection: Connection) -> None:
        def all_rows(name: str) -> list[dict[str, Any]]:
            return connection.execute(query(name)).fetchall()

        self._tables = all_rows("rows_tables")
        self.types = {row["oid"]: Type(**row) for row in all_rows("fill_types")}
        self._columns: dict[int, list[Column]] = {}
        for row in all_rows("fill_columns"):
            self._columns.setdefault(row["relation"], []).append(Column(**row))
        self._constraints: dict[int, list[Constraint]] = {}
        for row in all_rows("fill_constraints"):
            self._constraints.setdefault(row["relation"], []).append(Constraint(**row))
        self._leaves: dict[int, list[str]] = {}
        for row in all_rows("fill_partitions"):
            self._leaves.setdefault(row["relation"], []).append(row["expression"])

    def columns(self, table: int) -> list[Column]:
        """A table's columns, those that PostgreSQL computes left out."""
        return self._columns.get(table, [])

    def constraints(self, table: int, kind: str) -> list[Constraint]:
        """A table's checks (c) or foreign keys (f), those of most columns first."""
        return [k for k in self._constraints.get(table, []) if k.kind == kind]

    def leaves(self, table: int) -> list[str]:
        """The condition of each partition that gets rows."""
        return self._leaves.get(table, [])[:LEAVES]

    def in_order(self) -> list[dict[str, Any]]:
        """The tables, each after those that its required foreign keys name, where that can be."""
        left = {row["oid"]: row for row in self._tables}
        order: list[dict[str, Any]] = []
        while left:
            ready = [oid for oid in left if not (self._needs(oid) & left.keys() - {oid})]
            order += [left.pop(oid) for oid in ready or list(left)[:1]]
        return order

    def _needs(self, table: int) -> set[int]:
        required = {c.name for c in self.columns(table) if c.not_null}
        return {k.target for k in self.constraints(table, "f") if required & set(k.columns)}
