"""The kill matrix: a runner killed at every point, and the next one that goes on.

A run comes by a point before and after every statement, every write of the ledger and of the
journal, and every commit. For each of them, on a database of its own: a real process is ended
by SIGKILL there, the ledger is asked for the truth, another process runs ``up``, and then
catalog, data and ledger are those of a run that nobody killed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from conftest import Postgres
from killing import Drivers
from negspace import migrate
from negspace.database import connect, only, rows
from negspace.migrate.catalog import compare, read
from pgbouncer import PROGRAM, pgbouncer, through

MIXED = {
    "1_base.up.sql": "create type mood as enum ('ok'); create schema aside;"
    "create table notes (id int, text text, mood mood); insert into notes values (1, 'a', 'ok')",
    "2_index.up.sql": "create index concurrently notes_text on notes (text);"
    "create unique index concurrently if not exists notes_id on notes (id);"
    "create index concurrently on notes (mood)",
    "3_sad.up.sql": "alter type mood add value 'sad'; set local work_mem = '1MB';"
    "insert into notes values (2, 'b', 'sad'); insert into notes values (3, 'c', 'sad')",
    "4_glad.up.sql": "create table glad (); alter type mood add value 'glad'",
    "5_use.up.sql": "insert into notes values (4, 'd', 'glad')",
    "6_code.py": "def up(c):\n c.execute('create table code (id int)')\n"
    " c.execute('insert into code values (7)')\n",
    "7_own.up.sql": "-- negspace: no-transaction\n"
    "{set}begin; create table one (id int); insert into one values (1); commit;"
    "insert into one values (2); drop index concurrently public.notes_text;"
    "reindex index concurrently public.notes_id; vacuum public.notes",
    "8_last.up.sql": "create table last (); insert into notes values (5, 'e', 'ok')",
}
WRITES = {
    "1_base": "select count(*) from notes where id = 1",
    "4_glad": "select count(*) from pg_class where relname = 'glad'",
    "5_use": "select count(*) from notes where id = 4",
    "6_code": "select count(*) from code",
    "8_last": "select count(*) from notes where id = 5",
}
DATA = (
    "select id, text, mood::text, 0 as n from notes"
    " union all select id, 'one', null, 1 from aside.one union all select id, 'code', null, 2"
    " from code order by 4, 1"
)


def mixed(folder: Path, *, aside: bool) -> Path:
    """The set; behind a pooler a SET reaches only its own transaction, so none is in it."""
    set_path = "set search_path = aside; " if aside else ""
    for name, text in MIXED.items():
        (folder / name).write_text(text.replace("{set}", set_path), encoding="utf-8")
    if not aside:
        own = folder / "7_own.up.sql"
        own.write_text(own.read_text().replace(" one ", " aside.one "), encoding="utf-8")
    return folder


def picture(address: str):
    with connect(address, autocommit=True) as connection:
        leftovers = rows(connection, "select from pg_index where not indisvalid")
        return read(connection), rows(connection, DATA), len(leftovers)


def tells_the_truth(address: str) -> None:
    """What the ledger calls applied is there, and of a transaction that it doesn't, nothing."""
    applied = {e.name for e in migrate.history(address) if e.status == "success"}
    with connect(address) as connection:
        for name, question in WRITES.items():
            there = only(connection, "select to_regclass('notes') is not null as there")
            code = only(connection, "select to_regclass('code') is not null as there")
            exists = there["there"] and (name != "6_code" or code["there"])
            found = bool(exists and only(connection, question.encode())["count"])
            assert found == (name in applied), name


def ended(address: str, folder: Path) -> None:
    """The ledger of a set that is applied whole: each once, in order, in one transaction each."""
    assert {row.state for row in migrate.status(address, folder)} == {"applied"}
    entries = migrate.history(address)[::-1]
    done = [entry.name for entry in entries if entry.status == "success"]
    assert done == [Path(name).name.split(".")[0] for name in MIXED]
    assert {entry.status for entry in entries} <= {"success", "running"}
    with connect(address) as connection:
        twice = rows(
            connection,
            "select migration, unit from negspace_migrations_journal where event = 'done'"
            " group by 1, 2 having count(*) > 1",
        )
    assert twice == []


Through = Callable[[str], str]


def matrix(
    postgres: Postgres, drivers: Drivers, folder: Path, via: Through, *, every: bool
) -> None:
    """Kill at each point; and for every sixth one, the next run too, while it goes on.

    Those keep the catalog's fingerprint as well, which takes three quarters of a run's time and
    only reads.

    Args:
        every: At both of two points with nothing sent between them, such as after one
            statement and before the next; else at the second of the two.
    """
    whole = postgres.create()
    told = drivers.run(via(whole.owner), folder)
    assert told["status"] == 0, told
    ended(whole.owner, folder)
    expected, points = picture(whole.owner), told["points"]
    assert expected[2] == 0
    postgres.drop(whole.name)
    seen = set(points)
    assert {"before ledger", "before commit", "before begun in the journal"} <= seen
    assert points.count("before statement") == points.count("after statement") > 20

    def one(point: int) -> None:
        made = postgres.create()
        sixth = point % 6 == 0
        run = partial(drivers.run, via(made.owner), folder, fingerprint=sixth)
        try:
            for n in range(2 if sixth else 1):
                told = run(kill=point if n == 0 else point % 7 + 1)
                assert told["status"] in {-9, 0} if n else told["status"] == -9, told
                tells_the_truth(made.owner)
            told = run()
            assert told["status"] == 0, (point, points[point - 1], told)
            found = picture(made.owner)
            assert compare(found[0], expected[0]) == (), points[point - 1]
            assert found[1:] == expected[1:], (point, points[point - 1])
            ended(made.owner, folder)
        finally:
            postgres.drop(made.name)

    pairs = enumerate(zip(points, [*points[1:], ""], strict=True), 1)
    chosen = [n for n, (a, b) in pairs if every or not (a[:5] == "after" and b[:6] == "before")]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, chosen))


def test_a_runner_killed_at_any_point_is_gone_on_with(postgres, drivers, tmp_path):
    matrix(postgres, drivers, mixed(tmp_path, aside=True), lambda address: address, every=True)


@pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")
def test_the_same_through_pgbouncer_in_transaction_mode(postgres, drivers, tmp_path):
    folder = mixed(tmp_path, aside=False)
    with (
        tempfile.TemporaryDirectory() as place,
        pgbouncer(postgres.server.url("owner"), Path(place)) as port,
    ):
        matrix(postgres, drivers, folder, lambda address: through(address, port), every=False)
