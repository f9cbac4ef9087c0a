"""Rows into tables: COPY, with indexes and guards off meanwhile and back after it.

An index that is built once, sorted, costs a fraction of one that grows row by row, and a
foreign key that is checked once by a join a fraction of a million look-ups. All of it
happens in the transaction of the rows: whoever fails leaves everything as it was, and
nobody else ever sees a table without its guards. Rows of a month go into its partition
themselves, and frozen where it was empty: nothing has to visit them again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, TypeAlias

import numpy as np

from negspace.database import Connection, Row, only, sql
from negspace.generate.plan import Plan
from negspace.generate.text import Piece, lines

Block: TypeAlias = dict[str, Piece]  # column → its texts, for some rows
Maker: TypeAlias = Callable[[Plan, Mapping[str, int]], Iterator[Block]]
Say: TypeAlias = Callable[[str], object]

_EVERY: Final = 5.0  # seconds between two lines of progress
# Tables with a partition for each month (UTC) → the time by which; their rows come in its order.
_MONTHLY: Final = {
    "security_audit": "timestamp",
    "audit_log_details": "audit_timestamp",
    "performance_metrics": "recorded_at",
}
_MONTH: Final = [0, 1, 2, 3, 5, 6]  # where the digits of 2026-01 stand


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
    rows = 0
    for target, parts in itertools.groupby(_parts(table, blocks), key=lambda part: part[0]):
        first = next(parts)
        statement = _statement(connection, target, first[1])
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for _, block in itertools.chain([first], parts):
                copy.write(lines(list(block.values())))
                rows += _length(block)
                if time.perf_counter() - said > _EVERY:
                    said = time.perf_counter()
                    say(f"{table}: {rows:,} rows, {rows / (said - began):,.0f}/s")
    return rows, time.perf_counter() - began


def _statement(connection: Connection, target: str, block: Block) -> sql.Composed:
    """COPY into a table; where nothing is in it, frozen, so that no vacuum writes it again."""
    name = sql.Identifier("public", target)
    columns = sql.SQL(", ").join(map(sql.Identifier, block))
    statement = sql.SQL("copy {} ({}) from stdin").format(name, columns)
    filled = only(connection, sql.SQL("select exists (select from {}) as yes").format(name))
    renewed = connection.execute(query("renewed"), {"name": f"public.{target}"}).fetchone()
    if renewed is None or (filled and filled["yes"]):
        return statement
    connection.execute(_trusted(renewed["renew"]))
    connection.execute(_trusted(renewed["forget"]))
    return statement + sql.SQL(" (freeze)")


def _parts(table: str, blocks: Iterator[Block]) -> Iterator[tuple[str, Block]]:
    """Blocks with the name of the table they go into: that of their month, if there are such."""
    for block in blocks:
        if table not in _MONTHLY:
            yield table, block
            continue
        month = np.asarray(block[_MONTHLY[table]])[_MONTH]
        changes = np.flatnonzero((month[:, 1:] != month[:, :-1]).any(axis=0)) + 1
        for begin, end in itertools.pairwise([0, *changes.tolist(), month.shape[1]]):
            rows = {
                column: piece if isinstance(piece, str) else piece[:, begin:end]
                for column, piece in block.items()
            }
            yield f"{table}_{month[:, begin].tobytes().decode()}", rows


def _length(block: Block) -> int:
    return next(piece.shape[1] for piece in block.values() if not isinstance(piece, str))
