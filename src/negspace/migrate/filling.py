"""Rows made from the catalog, so that what a migration does to data shows.

For each table a few rows: every column has a value that its type, its checks, its foreign
keys and its partitions allow, as far as trying finds one. Candidates come from
``candidates``; which of them go together the server says: columns that one check speaks of
are tried as a cross product, in one query. Unique constraints and triggers are met by trying
again. What could not be filled is returned with the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

from negspace.database import Connection, sql, translated
from negspace.errors import NegspaceError
from negspace.migrate.candidates import Hints, harvest, names_in, values
from negspace.migrate.printed import Printed
from negspace.migrate.queries import query
from negspace.migrate.shape import Column, Constraint, Shape

__all__ = ["Filler", "Unfilled"]

ROWS: Final = 3  # per table and filling; the last one has required columns alone
TRIES: Final = 6  # for one row, where something was in the way
_COMBINATIONS: Final = 200, 20_000  # of candidates that one query tries; more if need be
_UNCHECKED: Final = 4  # candidates of a column that no check speaks of
_PARENTS: Final = 24  # rows that a foreign key chooses from
_TIMEOUT: Final = "10s"

_AGAIN: Final = {"23505", "23503", "23514", "23P01"}  # another value may do

_COMMA: Final = sql.SQL(", ")

Combination: TypeAlias = tuple[str | None, ...]


@dataclass(frozen=True)
class Unfilled:
    """A table that no row could be made for, and why."""

    table: str
    reason: str


@dataclass(frozen=True)
class _Source:
    """Columns whose values come together, and the combinations to choose from."""

    columns: tuple[Column, ...]
    combinations: tuple[Combination, ...]

    def as_table(self, rank_name: sql.Identifier, most: int) -> sql.Composed:
        """The best combinations as a table of the columns, each with its rank."""
        lines = [
            sql.SQL("({}, {})").format(
                sql.Literal(rank),
                _COMMA.join(c.cast(v) for c, v in zip(self.columns, values, strict=True)),
            )
            for rank, values in enumerate(self.combinations[:most])
        ]
        return sql.SQL("(values {}) as {} ({}, {})").format(
            _COMMA.join(lines),
            rank_name,
            rank_name,
            _COMMA.join(column.printed for column in self.columns),
        )


class Filler:
    """Fills the tables of one database.

    Args:
        connection: In autocommit; its role owns the tables.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._readable: dict[tuple[str, str], bool] = {}

    def fill(self, only: Collection[str] | None = None) -> tuple[Unfilled, ...]:
        """Make rows.

        Args:
            only: The tables that get some, by name; tables without any row always do.

        Returns:
            What could not be filled.
        """
        with translated(), self._connection.transaction():
            self._connection.execute(query("catalog_settings"))
            self._connection.execute("set constraints all immediate")
            self._connection.execute("select set_config('statement_timeout', %s, true)", [_TIMEOUT])
            shape = Shape(self._connection)
            # Triggers find what they name as in any session; names read above have a schema.
            self._connection.execute("set local search_path to default")
            wanted = [
                table
                for table in shape.in_order()
                if only is None or table["name"] in only or self._is_empty(table["name"])
            ]
            reasons: dict[str, str] = {}
            for n in range(ROWS):
                for table in wanted:
                    said = self._table(shape, table, n)
                    if said is not None:
                        reasons.setdefault(table["name"], said)
            return tuple(
                Unfilled(name, reason) for name, reason in reasons.items() if self._is_empty(name)
            )

    def _is_empty(self, table: str) -> bool:
        return self._count(table) == 0

    def _select(self, text: sql.Composed) -> list[dict[str, Any]]:
        return self._connection.execute(text).fetchall()

    # ── one row ──────────────────────────────────────────────────────────────────────────

    def _table(self, shape: Shape, table: dict[str, Any], n: int) -> str | None:
        """Insert one row, or one into each partition; why not, or None."""
        if not table["partitioned"]:
            return self._row(shape, table, n, None)
        leaves = shape.leaves(table["oid"])
        if not leaves:
            return "it has no partition"
        said = [self._row(shape, table, n, leaf) for leaf in leaves]
        return next((reason for reason in said if reason is not None), None)

    def _row(self, shape: Shape, table: dict[str, Any], n: int, leaf: str | None) -> str | None:
        start = self._count(table["name"])
        first: str | None = None
        for columns in _variants(shape.columns(table["oid"]), minimal=n == ROWS - 1):
            choices = _Choices(self, shape, table["oid"], columns, leaf)
            for again in range(TRIES):
                said = self._insert(table["name"], choices.row(start + again))
                if said is None:
                    return None
                sqlstate = said.details.get("sqlstate")
                first = first or f"{said.message} ({sqlstate})"
                if sqlstate not in _AGAIN:
                    break
        return first

    def _count(self, table: str) -> int:
        count = sql.SQL("select count(*) as n from {}").format(Printed(table))
        return self._select(count)[0]["n"]

    def _insert(self, table: str, row: Sequence[tuple[Column, str | None]]) -> NegspaceError | None:
        if not row:
            return self._try(sql.SQL("insert into {} default values").format(Printed(table)))
        return self._try(
            sql.SQL("insert into {} ({}) values ({})").format(
                Printed(table),
                _COMMA.join(column.printed for column, _ in row),
                _COMMA.join(column.cast(text) for column, text in row),
            )
        )

    def _try(self, statement: sql.Composed) -> NegspaceError | None:
        """Execute in a savepoint, where what failed leaves nothing; what was said against it."""
        try:
            with translated(), self._connection.transaction():
                self._connection.execute(statement)
        except NegspaceError as error:
            return error
        return None

    # ── values ───────────────────────────────────────────────────────────────────────────

    def readable(self, column: Column, texts: Sequence[str]) -> list[str]:
        """Those of the texts that are values of the column's type; domains check them too."""

        def said(tried: Sequence[str]) -> NegspaceError | None:
            casts = _COMMA.join(column.cast(text) for text in tried)
            return self._try(sql.SQL("select {}").format(casts))

        if column.is_text:
            return list(texts)
        new = [text for text in texts if (column.type, text) not in self._readable]
        if new:
            all_are = said(new) is None
            for text in new:
                self._readable[column.type, text] = all_are or said([text]) is None
        return [text for text in texts if self._readable[column.type, text]]

    def parents(self, key: Constraint) -> list[Combination]:
        """Rows that a foreign key may refer to."""
        text = sql.SQL("select array[{}] as found from {} limit {}").format(
            _COMMA.join(sql.SQL("{}::text").format(Printed(c)) for c in key.target_columns or []),
            Printed(key.target_name or ""),
            sql.Literal(_PARENTS),
        )
        return [tuple(row["found"]) for row in self._select(text)]

    def satisfying(
        self, sources: Sequence[_Source], conditions: Sequence[sql.Composable]
    ) -> Combination | None:
        """The best combination of the sources that meets all conditions.

        None where there is none, or the server can't tell: then the best of each is tried.
        """
        for combinations in _COMBINATIONS:
            most = max(2, int(combinations ** (1 / len(sources))))
            try:
                with translated(), self._connection.transaction():
                    found = self._select(_search(sources, conditions, most))
            except NegspaceError:  # some candidate is none for a function in the check
                continue
            if found:
                return tuple(found[0]["found"])
        return None


def _search(
    sources: Sequence[_Source], conditions: Sequence[sql.Composable], most: int
) -> sql.Composed:
    columns = [column for source in sources for column in source.columns]
    prefix = "rank "
    while any(prefix in column.name for column in columns):
        prefix += " "
    ranks = [sql.Identifier(f"{prefix}{i}") for i in range(len(sources))]
    return sql.SQL(
        "select array[{found}] as found from {tables} where {conditions} order by {ranks} limit 1"
    ).format(
        found=_COMMA.join(sql.SQL("{}::text").format(column.printed) for column in columns),
        tables=sql.SQL(" cross join ").join(
            source.as_table(rank, most) for source, rank in zip(sources, ranks, strict=True)
        ),
        conditions=sql.SQL(" and ").join(
            sql.SQL("({}) is not false").format(condition) for condition in conditions
        ),
        ranks=sql.SQL(" + ").join(ranks),
    )


def _variants(columns: list[Column], *, minimal: bool) -> Iterator[list[Column]]:
    """Which columns get a value: all; those without a default; those that must have one."""
    given = [column for column in columns if not column.numbered]
    required = [c for c in given if c.not_null and not c.has_default]
    plain = [c for c in given if not c.has_default]
    yield from ([required, plain, given] if minimal else [given, plain, required])


class _Choices:
    """The combinations of values that rows of one table choose from."""

    def __init__(
        self, filler: Filler, shape: Shape, table: int, columns: list[Column], leaf: str | None
    ) -> None:
        self._filler, self._shape, self._table = filler, shape, table
        self._columns = {column.name: column for column in columns}
        checks = [(k.columns, k.expression or "true") for k in shape.constraints(table, "c")]
        if leaf is not None:
            named = names_in(leaf) & {column.name for column in shape.columns(table)}
            checks.append((sorted(named), leaf))
        # A check on a column that gets no value here is the default's affair.
        self._checks = [(c, e) for c, e in checks if set(c) <= self._columns.keys()]

    def row(self, n: int) -> list[tuple[Column, str | None]]:
        """A row's values; another number gives others."""
        given: list[tuple[Column, str | None]] = []
        for sources, conditions in self._components(n):
            columns = [column for source in sources for column in source.columns]
            best = tuple(value for source in sources for value in source.combinations[0])
            found = self._filler.satisfying(sources, conditions) if conditions else best
            given += zip(columns, found or best, strict=True)
        return given

    def _components(self, n: int) -> list[tuple[list[_Source], list[sql.Composable]]]:
        """Sources that conditions tie together, with these conditions."""
        components = [([source], {c.name for c in source.columns}) for source in self._sources(n)]
        conditions: list[tuple[list[str], sql.Composable]] = [
            *((columns, Printed(expression)) for columns, expression in self._checks),
            *self._further_keys,
        ]
        for columns, _ in conditions:
            tied = [part for part in components if part[1] & set(columns)]
            rest = [part for part in components if not part[1] & set(columns)]
            merged = [source for part in tied for source in part[0]]
            components = [*rest, (merged, set[str]().union(*(part[1] for part in tied)))]
        return [
            (sources, [e for columns, e in conditions if names & set(columns)])
            for sources, names in components
            if sources
        ]

    def _sources(self, n: int) -> Iterator[_Source]:
        taken: set[str] = set()
        for key in self._keys:
            columns = tuple(self._columns[name] for name in key.columns)
            taken |= set(key.columns)
            found = self._parents(key, n)
            if not found or all(not column.not_null for column in columns):
                found.append(tuple(None for _ in columns))
            yield _Source(columns, tuple(found))
        for column in self._columns.values():
            if column.name not in taken:
                yield _Source((column,), tuple(self._values(column, n)))

    @cached_property
    def _known_keys(self) -> list[Constraint]:
        keys = self._shape.constraints(self._table, "f")
        return [key for key in keys if set(key.columns) <= self._columns.keys()]

    @cached_property
    def _keys(self) -> list[Constraint]:
        """Foreign keys that have no column in common: each is a source of its columns."""
        chosen: list[Constraint] = []
        for key in self._known_keys:
            if not any(set(key.columns) & set(other.columns) for other in chosen):
                chosen.append(key)
        return chosen

    @cached_property
    def _further_keys(self) -> list[tuple[list[str], sql.Composable]]:
        """The other foreign keys, as conditions."""
        return [
            (
                key.columns,
                sql.SQL("({}) in (select {} from {})").format(
                    _COMMA.join(map(Printed, key.columns)),
                    _COMMA.join(map(Printed, key.target_columns or [])),
                    Printed(key.target_name or ""),
                ),
            )
            for key in self._known_keys
            if key not in self._keys
        ]

    def _parents(self, key: Constraint, n: int) -> list[Combination]:
        found = self._filler.parents(key)
        at = n % len(found) if found else 0
        return [*found[at:], *found[:at]]

    def _values(self, column: Column, n: int) -> list[Combination]:
        said = [expression for columns, expression in self._checks if column.name in columns]
        hints = Hints()
        for expression in said:
            hints |= harvest(expression)
        texts = values(self._shape.types, column.type_id, n, hints)
        if column.length is not None:  # a cast cuts, and what differs stands at the end
            texts = [text[-column.length :] for text in texts]
        of_type = self._shape.types.get(column.type_id)
        if not (said or (of_type and of_type.kind == "d")):  # the first that can be read will do
            texts = texts[:_UNCHECKED]
        found: list[Combination] = [(text,) for text in self._filler.readable(column, texts)]
        if not column.not_null or not found:
            found.append((None,))
        return found
