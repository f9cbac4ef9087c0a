"""Rows into tables: COPY, with indexes and guards off meanwhile and back after it.

An index that is built once, sorted, costs a fraction of one that grows row by row, and a
foreign key that is checked once by a join a fraction of a million look-ups. All of it
happens in the transaction of the rows: whoever fails leaves everything as it was, and
nobody else ever sees a table without its guards.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, TypeAlias

from negspace.database import Connection, Row, sql
from negspace.generate.plan import Plan
from negspace.generate.text import Piece, lines

Block: TypeAlias = dict[str, Piece]  # column → its texts, for some rows
Maker: TypeAlias = Callable[[Plan, Mapping[str, int]], Iterator[Block]]
Say: TypeAlias = Callable[[str], object]

_EVERY: Final = 5.0  # seconds between two lines of progress


@dataclass(frozen=True)
class Loaded:
    """What came into one table.

    Attributes:
        table: Its name.
        rows: How many rows.
        copy_seconds: For making and copying them.
        index_seconds: For its indexes and foreign keys afterwards.
    """

    table: str
    rows: int
    copy_seconds: float
    index_seconds: float


def query(name: str) -> bytes:
    """One of the generator's SQL files."""
    return (files("negspace") / "sql" / "generate" / f"{name}.sql").read_bytes()


def load(
    connection: Connection,
    makers: Mapping[str, Maker],
    plan: Plan,
    first: Mapping[str, int],
    say: Say,
) -> list[Loaded]:
    """Fill tables in that order, in the connection's transaction, which the caller ends.

    Args:
        connection: The owner's.
        makers: Table → what makes its rows.
        plan: What is made.
        first: Table → the number of its first row.
        say: Called with a line of progress at a time.
    """
    connection.execute("set local maintenance_work_mem = '512MB'")
    connection.execute("set local synchronous_commit = off")
    stripped = _strip(connection, list(makers))
    copied = {
        table: _copy(connection, table, make(plan, first), say) for table, make in makers.items()
    }
    index = _restore(connection, stripped, say)
    return [
        Loaded(table, rows, seconds, index.get(table, 0.0))
        for table, (rows, seconds) in copied.items()
    ]


def _strip(connection: Connection, tables: Sequence[str]) -> list[Row]:
    found = connection.execute(query("stripped"), {"tables": tables}).fetchall()
    for item in reversed(found):  # foreign keys first
        connection.execute(_trusted(item["off"]))
    return found


def _restore(connection: Connection, stripped: Sequence[Row], say: Say) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for table, items in itertools.groupby(stripped, key=lambda item: str(item["table"])):
        began = time.perf_counter()
        for item in items:
            connection.execute(_trusted(item["back"]))
            if item["said"]:
                connection.execute(_trusted(item["said"]))
        took = time.perf_counter() - began
        seconds[table] = seconds.get(table, 0.0) + took
        if took > 1:
            say(f"{table}: indexes and keys back in {took:.1f} s")
    return seconds


def _trusted(statement: str) -> bytes:
    """A statement that the catalog's own functions wrote; psycopg takes bytes as they are."""
    return statement.encode()


def _copy(
    connection: Connection, table: str, blocks: Iterator[Block], say: Say
) -> tuple[int, float]:
    began = said = time.perf_counter()
    block = next(blocks, None)
    if block is None:
        return 0, 0.0
    statement = sql.SQL("copy {} ({}) from stdin").format(
        sql.Identifier("public", table), sql.SQL(", ").join(map(sql.Identifier, block))
    )
    rows = 0
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        while block is not None:
            columns: list[Any] = list(block.values())
            copy.write(lines(columns))
            rows += next(c.shape[1] for c in columns if not isinstance(c, str))
            if time.perf_counter() - said > _EVERY:
                said = time.perf_counter()
                say(f"{table}: {rows:,} rows, {rows / (said - began):,.0f}/s")
            block = next(blocks, None)
    return rows, time.perf_counter() - began
