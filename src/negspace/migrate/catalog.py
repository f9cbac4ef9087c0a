"""The live catalog as text: an object, its definition, what it needs. And two compared.

PostgreSQL itself prints expressions, views, functions, indexes and constraints (the
``pg_get_…def`` functions), so that equal meaning gives equal text on one version of the
server; PostgreSQL 16 and newer leave out needless table names in views, which older ones
print. Left out: what extensions own, the runner's own ledger, and partitions whose comment
begins with ``Made ahead by``: those are made at run time by a function. Owners are not read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from negspace.database import Connection, translated
from negspace.migrate.catalog_grants import granted
from negspace.migrate.catalog_tables import TableParts, comment_on, render_table
from negspace.migrate.queries import query

__all__ = ["Catalog", "Difference", "Object", "Role", "compare", "read"]

Row: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[int, int]  # pg_class or the like, and the object in it

MADE_AHEAD: Final = "Made ahead by "
_LEDGER: Final = {
    "public.negspace_migrations",
    "public.negspace_migrations_append_only()",
    "public.negspace_migrations_journal",
}


@dataclass(frozen=True)
class Object:
    """One object of a database.

    Attributes:
        kind: ``table``, ``index``, ``function`` … as ``CREATE`` names it.
        name: With its schema; a part of a table says which: ``t on public.images``.
        definition: The statements that make it, with comments and grants.
        canonical: The same for comparing: what has no meaning, such as the order of columns,
            is no difference.
        needs: The identities of what must be there before.
        parent: The table it hangs on, or is a partition of; else None.
        populated: A materialized view that holds rows.
    """

    kind: str
    name: str
    definition: str
    canonical: str
    needs: frozenset[str] = frozenset()
    parent: str | None = None
    populated: bool = False

    @property
    def identity(self) -> str:
        """Kind and name: unique in a database."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Role:
    """A role that the schema names; ``quoted`` is its name as SQL takes it."""

    name: str
    quoted: str
    login: bool


@dataclass(frozen=True)
class Catalog:
    """What a database consists of.

    Attributes:
        objects: In order of their identity.
        roles: Those that grants and policies name.
        not_covered: ``kind name`` of what is there and not rendered.
    """

    objects: tuple[Object, ...]
    roles: tuple[Role, ...]
    not_covered: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """An object that two catalogs don't have alike; None on the side that lacks it."""

    identity: str
    left: str | None
    right: str | None


def compare(left: Catalog, right: Catalog) -> tuple[Difference, ...]:
    """The objects in which two catalogs differ, in order of their identity."""
    a = {thing.identity: thing.canonical for thing in left.objects}
    b = {thing.identity: thing.canonical for thing in right.objects}
    return tuple(
        Difference(identity, a.get(identity), b.get(identity))
        for identity in sorted(a.keys() | b.keys())
        if a.get(identity) != b.get(identity)
    )


def read(connection: Connection) -> Catalog:
    """Read the catalog, changing nothing.

    Args:
        connection: Outside a transaction, or in one whose effects are to be seen too.

    Raises:
        NegspaceError: What PostgreSQL refused.
    """
    alone = connection.info.transaction_status.name == "IDLE"
    with translated(), connection.transaction(force_rollback=True):
        if alone:
            connection.execute("set transaction isolation level repeatable read, read only")
        connection.execute(query("catalog_settings"))
        return _Reader(connection).catalog()


class _Reader:
    """Puts the rows of the catalog's queries together."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._classes = {
            row["name"]: row["oid"]
            for row in connection.execute(
                "select oid, relname as name from pg_class where oid < 16384"
            )
        }
        self._objects: dict[Key, Object] = {}
        self._parents: dict[Key, Key] = {}
        self._dependencies = self._rows("catalog_dependencies")
        self._excluded = {
            (row["classid"], row["objid"])
            for row in self._dependencies
            if row["sort"] == "made with"
        }

    def _rows(self, name: str) -> list[Row]:
        return self._connection.execute(query(name)).fetchall()

    def _key(self, row: Mapping[str, Any]) -> Key:
        return row["classid"], row["objid"]

    def catalog(self) -> Catalog:
        rows = [
            row
            for name in ("catalog_types", "catalog_routines", "catalog_relations")
            for row in self._rows(name)
        ]
        self._excluded |= {self._key(row) for row in rows if row["name"] in _LEDGER}
        tables = self._tables()
        for row in rows:
            self._whole(row)
        parts = [row for row in self._rows("catalog_table_parts") if not self._is_out(row)]
        self._add_tables(tables, parts)
        for row in parts:
            if not row["inline"]:
                self._part(row)
        self._comment_columns()
        self._grant()
        self._default_privileges()
        self._link()
        return Catalog(
            tuple(sorted(self._objects.values(), key=lambda thing: thing.identity)),
            self._roles(),
            tuple(f"{row['kind']} {row['name']}" for row in self._rows("catalog_uncovered")),
        )

    # ── which objects ────────────────────────────────────────────────────────────────────

    def _tables(self) -> list[Row]:
        """The tables that count: neither the ledger nor partitions made ahead."""
        tables = self._rows("catalog_tables")
        names: set[str] = set()
        pg_class = self._classes["pg_class"]
        for row in sorted(tables, key=lambda row: len(row["parents"] or ())):
            made_ahead = row["is_partition"] and (row["comment"] or "").startswith(MADE_AHEAD)
            if row["name"] in _LEDGER or made_ahead:
                self._excluded.add((pg_class, row["oid"]))
                names.add(row["name"])
        grown = True
        while grown:  # partitions of partitions
            grown = False
            for row in tables:
                key = (pg_class, row["oid"])
                if key not in self._excluded and names & set(row["parents"] or ()):
                    self._excluded.add(key)
                    names.add(row["name"])
                    grown = True
        return [row for row in tables if (pg_class, row["oid"]) not in self._excluded]

    def _is_out(self, row: Row) -> bool:
        return (self._classes["pg_class"], row["relation"]) in self._excluded or (
            self._key(row) in self._excluded
        )

    # ── one object each ──────────────────────────────────────────────────────────────────

    def _add(self, key: Key, thing: Object) -> None:
        if key not in self._excluded:
            self._objects[key] = thing

    def _whole(self, row: Row) -> None:
        """An object that stands by itself: one row of a query."""
        kind, name = row["kind"], row["name"]
        text = row["definition"] + comment_on(f"{kind} {name}", row)
        thing = Object(kind, name, text.lstrip("\n"), text, populated=row.get("populated", False))
        self._add(self._key(row), thing)

    def _add_tables(self, tables: Sequence[Row], parts: Sequence[Row]) -> None:
        columns: dict[int, list[Row]] = defaultdict(list)
        for row in self._rows("catalog_columns"):
            columns[row["relation"]].append(row)
        inline: dict[int, list[Row]] = defaultdict(list)
        for row in parts:
            if row["inline"]:
                inline[row["relation"]].append(row)
        for row in tables:
            found = TableParts(row, columns.get(row["oid"], []), inline.get(row["oid"], []))
            text = render_table(found)
            of = f"table {row['parents'][0]}" if row["is_partition"] else None
            thing = Object("table", row["name"], text, _without_order(text), parent=of)
            self._add((self._classes["pg_class"], row["oid"]), thing)
        self._columns = columns

    def _part(self, row: Row) -> None:
        key, table = self._key(row), (self._classes["pg_class"], row["relation"])
        parent = self._objects.get(table)
        if parent is None:
            return
        own = row["kind"] in {"index", "statistics", "sequence owner"}
        name = row["name"] if own else f"{row['name']} on {parent.name}"
        text = row["definition"] + comment_on(row["target"], row)
        self._parents[key] = table
        self._add(key, Object(row["kind"], name, text, text, parent=parent.identity))

    def _comment_columns(self) -> None:
        """Comments on the columns of views and composite types; tables have theirs."""
        aliases = self._aliases()
        for relation, columns in self._columns.items():
            key = aliases.get((self._classes["pg_class"], relation)) or (
                self._classes["pg_class"],
                relation,
            )
            thing = self._objects.get(key)
            if thing is not None and columns[0]["relkind"] in {"v", "m", "c"}:
                lines = [comment_on(f"column {thing.name}.{c['name']}", c) for c in columns]
                self._extend(key, "".join(lines))

    def _extend(self, key: Key, text: str) -> None:
        thing = self._objects.get(key)
        if thing is not None and text:
            self._objects[key] = replace(
                thing,
                definition=(thing.definition + text).lstrip("\n"),
                canonical=thing.canonical + text,
            )

    def _grant(self) -> None:
        rows: dict[Key, list[Row]] = defaultdict(list)
        for row in self._rows("catalog_grants"):
            rows[self._key(row)].append(row)
        for key, found in rows.items():
            lines = granted(found, self._connection.info.server_version)
            self._extend(key, "".join(f"\n{line}" for line in lines))

    def _default_privileges(self) -> None:
        rows = self._rows("catalog_default_privileges")
        text = "\n".join(sorted(row["definition"] for row in rows))
        if text:
            thing = Object("default privileges", "of this database", text, text)
            self._objects[self._classes["pg_default_acl"], 0] = thing

    def _roles(self) -> tuple[Role, ...]:
        pg_default_acl = self._classes["pg_default_acl"]
        found = {
            Role(row["name"], row["quoted"], row["login"])
            for row in self._rows("catalog_roles")
            if self._key(row) in self._objects or row["classid"] == pg_default_acl
        }
        return tuple(sorted(found, key=lambda role: role.name))

    # ── what needs what ──────────────────────────────────────────────────────────────────

    def _aliases(self) -> dict[Key, Key]:
        return {
            self._key(row): (row["refclassid"], row["refobjid"])
            for row in self._dependencies
            if row["sort"] == "alias"
        }

    def _link(self) -> None:
        aliases = self._aliases()
        needs: dict[Key, set[str]] = defaultdict(set)
        for row in self._dependencies:
            if row["sort"] == "needs":
                one = self._resolved(aliases, self._key(row))
                other = self._resolved(aliases, (row["refclassid"], row["refobjid"]))
                if one != other and one in self._objects and other in self._objects:
                    needs[one].add(self._objects[other].identity)
        for key, thing in self._objects.items():
            if thing.kind == "sequence owner":
                needs[key].add(f"sequence {thing.name}")
            if thing.parent is not None:
                needs[key].add(thing.parent)
        for key, found in needs.items():
            self._objects[key] = replace(self._objects[key], needs=frozenset(found))

    def _resolved(self, aliases: Mapping[Key, Key], key: Key) -> Key:
        for _ in range(5):  # an array of a row type of a table takes three steps
            if key in self._objects or key not in aliases:
                break
            key = aliases[key]
        return key


def _without_order(text: str) -> str:
    """A table's text with its columns and constraints in one order, evenly spaced."""
    return "\n".join(sorted(_even(text.splitlines())))


def _even(lines: Iterable[str]) -> Iterable[str]:
    return (" ".join(line.split()).rstrip(",") for line in lines)
