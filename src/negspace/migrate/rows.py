"""What rows a database holds, and what of them is gone afterwards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from negspace.database import Connection, sql, translated
from negspace.migrate.printed import Printed
from negspace.migrate.queries import query

__all__ = ["Loss", "Snapshot", "lost", "read_rows", "without"]


@dataclass(frozen=True)
class Loss:
    """Data that is gone.

    Attributes:
        kind: ``table`` or ``column`` (it is gone with what it held), ``rows`` (of a table that
            stays) or ``values`` (of a column that stays: they are others now).
        name: The table, or the table and column: ``public.images.is_duplicate``.
        count: How many rows or values were there; 0 where none could be made.
    """

    kind: Literal["table", "column", "rows", "values"]
    name: str
    count: int


@dataclass(frozen=True)
class Rows:
    """The rows of one table: a text for each column, or None for null.

    Attributes:
        types: Each column's type.
        generated: Columns that PostgreSQL computes: nothing is lost with them.
    """

    types: Mapping[str, str]
    generated: frozenset[str]
    rows: Sequence[Mapping[str, str | None]]

    def column(self, name: str) -> Counter[str]:
        """The values of a column that aren't null, with how often each is there."""
        return Counter(v for row in self.rows if (v := row.get(name)) is not None)

    def projected(self, columns: Sequence[str]) -> Counter[tuple[str | None, ...]]:
        """The rows as tuples of some columns, with how often each is there."""
        return Counter(tuple(row.get(c) for c in columns) for row in self.rows)


Snapshot = Mapping[str, Rows]


def read_rows(connection: Connection) -> Snapshot:
    """All rows of all tables, partitions by the table they are of.

    Args:
        connection: Of a role that may read them.

    Raises:
        NegspaceError: What PostgreSQL refused.
    """
    with translated(), connection.transaction(force_rollback=True):
        connection.execute(query("catalog_settings"))
        tables = connection.execute(query("rows_tables")).fetchall()
        found: dict[str, list[Mapping[str, str | None]]] = {row["name"]: [] for row in tables}
        selects = [
            sql.SQL("(select {} as name, to_jsonb(t.*) as row from {} {} as t)").format(
                sql.Literal(row["name"]),
                sql.SQL("" if row["partitioned"] else "only"),
                Printed(row["name"]),
            )
            for row in tables
        ]
        if selects:
            for row in connection.execute(sql.SQL(" union all ").join(selects)):
                values = {name: _text(value) for name, value in row["row"].items()}
                found[row["name"]].append(values)
    return {
        row["name"]: Rows(
            dict(zip(row["columns"] or [], row["types"] or [], strict=True)),
            frozenset(row["generated"]),
            found[row["name"]],
        )
        for row in tables
    }


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, default=str)


def without(rows: Snapshot, before: Snapshot, after: Snapshot) -> Snapshot:
    """The rows, less those that are in ``after`` and were not in ``before``.

    What a migration itself puts into a table that was there is not its users' data.
    """
    out = dict(rows)
    for name in rows.keys() & before.keys() & after.keys():
        common = [c for c in before[name].types if c in after[name].types]
        made = after[name].projected(common) - before[name].projected(common)
        kept: list[Mapping[str, str | None]] = []
        for row in rows[name].rows:
            key = tuple(row.get(c) for c in common)
            if made[key] > 0:
                made[key] -= 1
            else:
                kept.append(row)
        out[name] = replace(rows[name], rows=kept)
    return out


def lost(before: Snapshot, after: Snapshot) -> tuple[Loss, ...]:
    """What was there before and isn't after; a table or column that was renamed is.

    Args:
        before: The rows that should stay.
        after: Rows that came since are no matter.
    """
    found: list[Loss] = []
    for name, rows in before.items():
        there = after.get(name) or _renamed_table(rows, before, after)
        if there is None:
            found.append(Loss("table", name, len(rows.rows)))
        else:
            found += _in_table(name, rows, there)
    return tuple(found)


def _renamed_table(rows: Rows, before: Snapshot, after: Snapshot) -> Rows | None:
    columns = sorted(rows.types)
    wanted = rows.projected(columns)
    for name, other in after.items():
        if name in before or sorted(other.types) != columns or not rows.rows:
            continue
        if not wanted - other.projected(columns):
            return other
    return None


def _in_table(name: str, before: Rows, after: Rows) -> list[Loss]:
    appeared = [column for column in after.types if column not in before.types]
    found: list[Loss] = []
    for column in before.types:
        if column in after.types or column in before.generated:
            continue
        values = before.column(column)
        if not (values and any(not values - after.column(other) for other in appeared)):
            found.append(Loss("column", f"{name}.{column}", values.total()))
    same = [c for c, kind in before.types.items() if after.types.get(c) == kind]
    missing = (before.projected(same) - after.projected(same)).total()
    gone = min(missing, max(0, len(before.rows) - len(after.rows)))
    if gone:
        return [*found, Loss("rows", name, gone)]
    if missing:
        changed = {c: (before.column(c) - after.column(c)).total() for c in same}
        found += [Loss("values", f"{name}.{c}", count) for c, count in changed.items() if count]
    return found
