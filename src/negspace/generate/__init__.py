"""Plausible data of any size, the same for the same seed: for benchmarks, tests and demonstrations.

A year of an institute's work: users of whom few do most, days and weeks with a rhythm,
images with results, jobs, duplicates and failures, the audit trail of it all, metrics. No
image files are made.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from negspace.database import Connection, Database, only, sql, translated
from negspace.errors import AccessError, InvalidInputError, NotFoundError, RefusedError
from negspace.generate import images, people, results, samples, trail
from negspace.generate.load import Loaded, Maker, Say, load, query
from negspace.generate.plan import Plan

if TYPE_CHECKING:
    from datetime import date

__all__ = ["Generated", "Loaded", "Plan", "generate"]

# What belongs together by foreign keys, in the order of these. The three share no lock, so
# they fill at the same time.
_PICTURES: Final[Mapping[str, Maker]] = {
    "users": people.users,
    "api_keys": people.api_keys,
    "workers": people.workers,
    "images": images.images,
    "image_fingerprints": images.image_fingerprints,
    "analysis_results": results.analysis_results,
    "processing_queue": results.processing_queue,
}
_TRAIL: Final[Mapping[str, Maker]] = {
    "security_audit": trail.security_audit,
    "audit_log_details": trail.audit_log_details,
}
_SAMPLES: Final[Mapping[str, Maker]] = {"performance_metrics": samples.performance_metrics}
_LANES: Final = {
    1: ({**_PICTURES, **_TRAIL, **_SAMPLES},),
    2: (_PICTURES, {**_TRAIL, **_SAMPLES}),
    3: (_PICTURES, _TRAIL, _SAMPLES),
}
_FILLED: Final = (*_PICTURES, *_TRAIL, *_SAMPLES)
_TABLES: Final = (*_FILLED, "analysis_cache")
_UNNUMBERED: Final = ("workers", "image_fingerprints")
_NUMBERED: Final = tuple(table for table in _FILLED if table not in _UNNUMBERED)


@dataclass(frozen=True)
class Generated:
    """What was made.

    Attributes:
        rows: In all tables together.
        seconds: For everything, from the first look to the last vacuum.
        rows_per_second: Rows over seconds.
        seed: The plan's.
        until: The day before which the year ends.
        tables: Table by table.
        vacuum_seconds: For visibility maps and users' counters, part of ``seconds``.
    """

    rows: int
    seconds: float
    rows_per_second: float
    seed: int
    until: date
    vacuum_seconds: float
    tables: Sequence[Loaded] = field(repr=False)


def generate(
    database: Database,
    plan: Plan,
    *,
    into_existing: bool = False,
    jobs: int = 3,
    say: Say | None = None,
) -> Generated:
    """Fill a migrated database.

    The tables are locked until all rows are in, and either all of them are or none. Numbers
    of rows that come later continue after these.

    Args:
        database: As its owner: services may not do this.
        plan: What to make.
        into_existing: Add to the rows that are there.
        jobs: Connections to fill with, 1 to 3.
        say: Called with a line of progress at a time.

    Raises:
        InvalidInputError: ``jobs`` is another number.
        NotFoundError: The schema isn't there.
        RefusedError: There are rows and ``into_existing`` is false; or months of that year have
            left by retention, or are far ahead.
        AccessError: The connection is not the owner's.
    """
    if jobs not in _LANES:
        raise InvalidInputError(f"rows go in over 1 to 3 connections, not {jobs}", hint="jobs=3")
    began = time.perf_counter()
    _prepare(database, plan, into_existing)
    loaded = _fill(database, plan, jobs, say or _silent)
    filled = time.perf_counter()
    _refresh(database, jobs, say or _silent)
    ended, made = time.perf_counter(), sum(table.rows for table in loaded)
    return Generated(
        rows=made,
        seconds=ended - began,
        rows_per_second=made / (ended - began),
        seed=plan.seed,
        until=plan.until,
        vacuum_seconds=ended - filled,
        tables=loaded,
    )


def _silent(_: str) -> None:
    """No progress wanted."""


def _prepare(database: Database, plan: Plan, into_existing: bool) -> None:
    with database.transaction() as connection:
        _look(connection, into_existing)
        year = {"since": _at(plan.start), "until": _at(plan.end - 1)}
        connection.execute("select ensure_partitions(oldest => %(since)s)", year)
        missing = connection.execute(query("missing_months"), year).fetchall()
    if missing:
        raise RefusedError(
            f"the tables have no room for {', '.join(row['name'] for row in missing)}",
            hint="retention has let those months go, or they lie more than three months ahead:"
            " another database, or another --until",
        )


def _at(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _look(connection: Connection, into_existing: bool) -> None:
    there = only(connection, "select to_regclass('public.performance_metrics') is not null as yes")
    if there is None or not there["yes"]:
        raise NotFoundError(
            "the schema of negspace isn't in this database", hint="negspace migrate up makes it"
        )
    _own(connection)
    for table in () if into_existing else _TABLES:
        found = sql.SQL("select exists (select from {}) as rows").format(_name(table))
        row = only(connection, found)
        if row is not None and row["rows"]:
            raise RefusedError(
                f"there are rows in {table} already, and nothing was touched",
                hint="generate into an empty database, or add to this one with --into-existing",
            )


def _name(table: str) -> sql.Identifier:
    return sql.Identifier("public", table)


def _fill(database: Database, plan: Plan, jobs: int, say: Say) -> list[Loaded]:
    """All tables, in one transaction per connection, committed one right after the other."""
    lanes = _LANES[jobs]
    with translated(), ExitStack() as stack:
        connections = [stack.enter_context(closing(database.connect())) for _ in lanes]
        for connection, lane in zip(connections, lanes, strict=True):
            _lock(connection, [*lane, *(["analysis_cache"] if "images" in lane else [])])
        first = {table: _next_number(connections[0], table) for table in _NUMBERED}
        pool = stack.enter_context(ThreadPoolExecutor(len(lanes)))
        stack.callback(_cancel, connections)  # before the pool waits for its threads
        tasks = [
            pool.submit(load, connection, lane, plan, first, say)
            for connection, lane in zip(connections, lanes, strict=True)
        ]
        for task in as_completed(tasks):
            task.result()  # the first that fails ends the others
        loaded = [table for task in tasks for table in task.result()]
        loaded.append(_cache(connections[0], first, entries=max(100, plan.images // 50)))
        _continue_numbers(connections[0], first, loaded)
        # the triggers that would say so are off while rows are copied
        connections[-1].execute(query("changed_hours"), {"first": first["performance_metrics"]})
        connections[0].execute(query("changed_days"), {"first": first["processing_queue"]})
        connections[0].execute("select reconcile_queue_counts()")
        for connection in connections:
            connection.commit()
    return loaded


def _own(connection: Connection) -> None:
    for table in _TABLES:
        mine = "select pg_has_role(relowner, 'usage') as yes from pg_class where oid = %s::regclass"
        row = only(connection, mine, [f"public.{table}"])
        if row is None or not row["yes"]:
            raise AccessError(
                f"only the owner of {table} can fill it",
                hint="name the owner's connection in NEGSPACE_OWNER_URL",
            )


def _lock(connection: Connection, tables: Sequence[str]) -> None:
    connection.execute("set local lock_timeout = '30s'")
    names = sql.SQL(", ").join(map(_name, tables))
    connection.execute(sql.SQL("lock table {} in access exclusive mode").format(names))


def _cancel(connections: Sequence[Connection]) -> None:
    for connection in connections:
        connection.cancel()


def _next_number(connection: Connection, table: str) -> int:
    row = connection.execute(query("next_number"), {"table": table}).fetchone()
    return int(row["next"]) if row else 1


def _cache(connection: Connection, first: Mapping[str, int], *, entries: int) -> Loaded:
    began = time.perf_counter()
    given = {"first": first["analysis_results"], "entries": entries}
    made = connection.execute(query("cache"), given).rowcount
    connection.execute("analyze analysis_cache")
    return Loaded("analysis_cache", made, time.perf_counter() - began, 0.0)


def _continue_numbers(
    connection: Connection, first: Mapping[str, int], loaded: Sequence[Loaded]
) -> None:
    """The next row of each table gets the number after those that were copied."""
    for table in loaded:
        if table.rows and table.table in first:
            connection.execute(
                "select setval(pg_get_serial_sequence(%s, 'id'), %s)",
                [f"public.{table.table}", first[table.table] + table.rows - 1],
            )


def _refresh(database: Database, jobs: int, say: Say) -> None:
    """What housekeeping would do in time: visibility maps, and the counters of users."""
    say("visibility maps …")
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(partial(_vacuum, database), _TABLES))
    with database.transaction() as connection:
        # without it, or users would say that they changed today
        connection.execute("alter table users disable trigger users_set_updated_at")
        connection.execute("select refresh_user_counters()")
        connection.execute("alter table users enable trigger users_set_updated_at")
    _vacuum(database, "users")


def _vacuum(database: Database, table: str) -> None:
    with translated(), closing(database.connect(autocommit=True)) as connection:
        # of its few own buffers each is flushed, with the log before it, to take the next page
        how = "(buffer_usage_limit 0) " if connection.info.server_version >= 160000 else ""
        connection.execute(sql.SQL("vacuum {}{}").format(sql.SQL(how), _name(table)))
