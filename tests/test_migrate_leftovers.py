"""Runners killed while the server is at work on a statement that no transaction takes.

Each statement is held up by another session, so that its real leftovers are in the catalog;
then its runner is killed, and the next one has to find out.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import clean_environment
from negspace import migrate
from negspace.database import Connection, connect, only, rows
from negspace.errors import InvalidInputError, RefusedError
from negspace.migrate import Options

TABLE = (
    "create table t (id int, n int); insert into t values (1, 1);"
    "create index t_old on t (id); create table p (id int) partition by range (id);"
    "create table p1 partition of p for values from (0) to (10); insert into p values (1)"
)
WRITER = "insert into t values (2, 2)"  # what CREATE INDEX CONCURRENTLY waits for
READER = "select from t limit 0"  # what the end of REINDEX and DROP INDEX CONCURRENTLY wait for


def write(folder: Path, text: str) -> Path:
    (folder / "1_a.up.sql").write_text(TABLE, encoding="utf-8")
    (folder / "2_b.up.sql").write_text(text, encoding="utf-8")
    return folder


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def at_work(address: str, *, waits: bool = True) -> bool:
    """Whether a marked statement of a run is under way, and waits for somebody."""
    with connect(address, autocommit=True) as connection:
        query = (
            "select from pg_stat_activity where query like '/* negspace migrate, run %'"
            " and state = 'active' and datname = current_database()"
            " and (not %s or wait_event is not null)"
        )
        return bool(rows(connection, query.replace("run %", "run %%"), [waits]))


def start(database, folder: Path, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "negspace", "migrate", "up", "--dir", str(folder)],
        env=clean_environment(home) | database.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_in_flight(database, folder: Path, home: Path, blocker: str | None) -> None:
    """Kill the runner of the folder in its blocked statement; nothing of it is under way then."""
    assert migrate.up(database.owner, folder, to="1").ok
    with connect(database.owner) as other:
        if blocker is not None:
            other.execute(blocker.encode())
        process = start(database, folder, home)
        until(lambda: at_work(database.owner))
        time.sleep(0.05)  # a wait for a lock, not one that has just ended
        process.send_signal(signal.SIGKILL)
        process.communicate()
        until(lambda: not at_work(database.owner, waits=False))


def indexes(connection: Connection) -> dict[str, bool]:
    found = rows(
        connection,
        "select c.relname, i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid"
        " where i.indrelid = 't'::regclass order by 1",
    )
    return {row["relname"]: row["indisvalid"] for row in found}


def recovered(database, folder: Path, *, as_superuser: bool = False, **options) -> str:
    """Run again: what it says that it found."""
    address = database.superuser if as_superuser else database.owner
    result = migrate.up(address, folder, options=Options(**options))
    assert result.ok, result.failure
    return "\n".join(result.steps[-1].recovered)


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("create index concurrently t_n on t (n)", "t_n"),
        ('create unique index concurrently "T n" on only public.t (n)', "T n"),
        ("create index concurrently if not exists t_n on t (n)", "t_n"),
        ("create index concurrently on t (n)", "t_n_idx"),
    ],
)
def test_an_invalid_index_is_dropped_and_built_again(
    empty_database, tmp_path, home, statement, name
):
    kill_in_flight(empty_database, write(tmp_path, statement), home, WRITER)
    with connect(empty_database.owner) as connection:
        assert indexes(connection) == {name: False, "t_old": True}
    said = recovered(empty_database, tmp_path)
    assert f"dropped the invalid index {name}: redo" in said
    with connect(empty_database.owner) as connection:
        assert indexes(connection) == {name: True, "t_old": True}


@pytest.mark.parametrize(
    ("blocker", "left", "said"),
    [
        (WRITER, "t_old_ccnew", "REINDEX may run twice: redo"),
        (READER, "t_old_ccold", "every index has been rebuilt: done"),
    ],
)
@pytest.mark.parametrize("what", ["index concurrently t_old", "table concurrently public.t"])
def test_what_reindex_left_is_dropped(empty_database, tmp_path, home, what, blocker, left, said):
    kill_in_flight(empty_database, write(tmp_path, f"reindex {what}"), home, blocker)
    with connect(empty_database.owner) as connection:
        assert indexes(connection) == {"t_old": True, left: False}
    assert f"dropped what REINDEX left: {left}; {said}" in recovered(empty_database, tmp_path)
    with connect(empty_database.owner) as connection:
        assert indexes(connection) == {"t_old": True}


def test_a_half_dropped_index_is_dropped(empty_database, tmp_path, home):
    kill_in_flight(empty_database, write(tmp_path, "drop index concurrently t_old"), home, READER)
    with connect(empty_database.owner) as connection:
        assert indexes(connection) == {"t_old": False}
    assert "the index is still there: redo" in recovered(empty_database, tmp_path)
    with connect(empty_database.owner) as connection:
        assert indexes(connection) == {}


def test_a_pending_detach_is_finalized(empty_database, tmp_path, home):
    statement = "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY"
    kill_in_flight(empty_database, write(tmp_path, statement), home, "select from p limit 0")
    query = "select inhdetachpending as pending from pg_inherits"
    with connect(empty_database.owner) as connection:
        assert rows(connection, query) == [{"pending": True}]
    assert "finalized: done" in recovered(empty_database, tmp_path)
    with connect(empty_database.owner) as connection:
        assert rows(connection, query) == []


SLOW = (
    "-- negspace: no-transaction\n"
    "create procedure slow() language plpgsql as $$ begin insert into t values (3, 3);"
    " commit; perform pg_sleep(case when (select count(*) from t) < 3 then 600 else 0 end);"
    " end $$;\ncall slow();\ninsert into t values (4, 4)"
)
PYTHON = "# negspace: no-transaction\ndef up(c):\n    c.execute('{}')\n"


@pytest.mark.parametrize(("answer", "count"), [("done", 3), ("redo", 4)])
def test_what_the_catalog_cannot_tell_is_asked(empty_database, tmp_path, home, answer, count):
    kill_in_flight(empty_database, write(tmp_path, SLOW), home, None)
    result = migrate.up(empty_database.owner, tmp_path)
    assert result.failure
    assert (result.failure.line, result.failure.statement) == (3, "call slow()")
    assert "was running when its run ended" in result.failure.message
    assert result.failure.hint == ("look whether it was done, and say --done 2_b or --redo 2_b")
    assert result.steps[-1].status == "failed"
    assert "so said the operator" in recovered(empty_database, tmp_path, answers={"2_b": answer})
    with connect(empty_database.owner) as connection:
        assert only(connection, "select count(*) from t") == {"count": count}
        decided = rows(
            connection, "select decided_by from negspace_migrations_journal where event = 'done'"
        )
    assert ("operator" in {row["decided_by"] for row in decided}) == (answer == "done")


def test_python_outside_a_transaction_is_asked_at_the_command_line(
    empty_database, tmp_path, home, cli
):
    write(tmp_path, "")
    (tmp_path / "3_c.py").write_text(
        "# negspace: no-transaction\ndef up(c):\n"
        " if c.execute('select count(*) as n from t').fetchone()['n'] == 1:\n"
        "  c.execute('insert into t values (2, 2)')\n"
        "  c.execute('/* negspace migrate, run by hand */ select pg_sleep(600)')\n"
    )
    assert migrate.up(empty_database.owner, tmp_path, to="2").ok
    kill_in_flight(empty_database, tmp_path, home, None)
    up = ("migrate", "up", "--dir", str(tmp_path))
    asked = cli(*up, env=empty_database.environment)
    assert asked.status == 1
    assert "hint: look whether it was done, and say --done 3_c or --redo 3_c" in asked.err
    both = cli(*up, "--done", "3_c", "--redo", "3_c", env=empty_database.environment)
    assert (both.status, "exclude each other" in both.err) == (2, True)
    told = cli(*up, "--redo", "3_c", "--json", env=empty_database.environment)
    assert told.status == 0
    assert "so said the operator" in told.json["steps"][-1]["recovered"][-1]
    late = cli(*up, "--redo", "3_c", env=empty_database.environment)
    assert (late.status, "no run left 3_c unfinished" in late.err) == (2, True)


def test_the_next_run_waits_for_what_a_dead_one_has_under_way(empty_database, tmp_path, home):
    """A statement that goes on after its runner's death is let end, and is then found done."""
    address = empty_database.owner
    text = "set client_connection_check_interval = 0; create index concurrently t_n on t (n)"
    write(tmp_path, text)
    assert migrate.up(address, tmp_path, to="1").ok
    told = threading.Event()
    results: list[migrate.RunResult] = []
    with connect(address) as other:
        other.execute(WRITER)
        process = start(empty_database, tmp_path, home)
        until(lambda: at_work(address))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        waiter = threading.Thread(
            target=lambda: results.append(
                migrate.up(address, tmp_path, on_wait=lambda _: told.set())
            )
        )
        waiter.start()
        assert told.wait(60)
        assert results == []
        other.commit()
    waiter.join(60)
    assert results[0].ok
    assert "index t_n is there and valid: done" in results[0].steps[-1].recovered[-1]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("create database made_by_a_test", "it is there, other than before: done"),
        ("drop database made_by_a_test", "it isn't there, other than before: done"),
        ("drop database if exists made_by_a_test", "it isn't there, as before: redo"),
        ("alter system reset work_mem", "ALTER SYSTEM may run twice: redo"),
        ("vacuum t", "VACUUM may run twice: redo"),
        ("cluster", "CLUSTER may run twice: redo"),
        ("reindex schema public", "REINDEX SCHEMA may run twice: redo"),
        ("drop index concurrently public.t_old", "the index is gone: done"),
        ("create index concurrently t_n on t (n)", "index t_n is there and valid: done"),
        ("create index concurrently on t (n)", "index t_n_idx is there and valid: done"),
        ("reindex index concurrently t_old", "every index has been rebuilt: done"),
        ("reindex (concurrently) table t", "every index has been rebuilt: done"),
        ("reindex schema concurrently public", "REINDEX may run twice: redo"),
        ("alter table p detach partition p1 concurrently", "the partition is detached: done"),
    ],
)
def test_a_runner_killed_just_after_a_statement(
    postgres, empty_database, tmp_path, drivers, statement, said
):
    """The server has done it, and the journal does not say so yet."""
    name = f"made_{empty_database.name}"
    address = empty_database.superuser
    write(tmp_path, statement.replace("made_by_a_test", name))
    assert migrate.up(address, tmp_path, to="1").ok
    if statement.startswith("drop database made"):
        with connect(address, autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
    told = drivers.run(address, tmp_path, kill_first="after statement")
    assert told["status"] == -9
    assert f"line 1: {said}" in recovered(empty_database, tmp_path, as_superuser=True)
    postgres.drop(name)


# ── without a crash ──────────────────────────────────────────────────────────────────────


def test_a_failed_concurrent_index_leaves_nothing_in_the_way(empty_database, tmp_path):
    write(tmp_path, "insert into t values (1, 1); create unique index concurrently t_n on t (n)")
    address = empty_database.owner
    result = migrate.up(address, tmp_path)
    assert result.failure
    assert result.failure.sqlstate == "23505"
    assert (result.failure.line, result.failure.column) == (1, 30)
    with connect(address, autocommit=True) as connection:
        assert indexes(connection) == {"t_n": False, "t_old": True}
        connection.execute("delete from t where ctid = (select max(ctid) from t)")
    assert "dropped the invalid index t_n: redo" in recovered(empty_database, tmp_path)
    with connect(address) as connection:
        assert indexes(connection) == {"t_n": True, "t_old": True}
        assert only(connection, "select count(*) from t") == {"count": 1}


def test_if_not_exists_does_not_take_somebodys_invalid_index_for_made(empty_database, tmp_path):
    write(tmp_path, "create unique index concurrently if not exists t_n on t (n)")
    address = empty_database.owner
    assert migrate.up(address, tmp_path, to="1").ok
    with connect(address, autocommit=True) as connection:
        connection.execute("insert into t values (1, 1)")
        with pytest.raises(Exception, match="could not create unique index"):
            connection.execute("create unique index concurrently t_n on t (n)")
        connection.execute("delete from t where ctid = (select max(ctid) from t)")
    assert "which IF NOT EXISTS took for made" in recovered(empty_database, tmp_path)
    with connect(address) as connection:
        assert indexes(connection) == {"t_n": True, "t_old": True}


def test_a_part_that_was_done_must_not_change(empty_database, tmp_path):
    address = empty_database.owner
    text = "-- negspace: no-transaction\ncreate table one ();\nselect 1 / 0"
    assert not migrate.up(address, write(tmp_path, text)).ok
    write(tmp_path, text.replace("one", "two").replace("/ 0", "/ 1"))
    failure = migrate.up(address, tmp_path).failure
    assert failure
    assert failure.line == 2
    assert "part 1 of the file changed after an earlier run had done it" in failure.message
    write(tmp_path, text.replace("/ 0", "/ 1"))
    assert "goes on with run" in recovered(empty_database, tmp_path)


def test_restart_forgets_what_was_done(empty_database, tmp_path):
    address = empty_database.owner
    text = "-- negspace: no-transaction\ncreate table one ();\nselect 1 / 0"
    assert not migrate.up(address, write(tmp_path, text)).ok
    with connect(address) as connection:
        connection.execute("drop table one")
    write(tmp_path, text.replace("/ 0", "/ 1"))
    assert recovered(empty_database, tmp_path, answers={"02_b": "restart"}) == ""
    with connect(address) as connection:
        assert only(connection, "select from one") is None
    with pytest.raises(InvalidInputError, match="no run left 2_b unfinished"):
        migrate.up(address, tmp_path, options=Options(answers={"2_b": "redo"}))


def test_one_way_is_refused_while_a_migration_is_half_gone_the_other(empty_database, tmp_path):
    address = empty_database.owner
    (tmp_path / "1_a.down.sql").write_text("drop table t, p")
    down = "-- negspace: no-transaction\ndrop table one;\nselect 1 / 0"
    (tmp_path / "2_b.down.sql").write_text(down)
    text = "-- negspace: no-transaction\ncreate table one ();\nselect 1 / 0"
    assert not migrate.up(address, write(tmp_path, text)).ok
    with pytest.raises(RefusedError, match="2_b is half applied"):
        migrate.down(address, tmp_path)
    write(tmp_path, text.replace("/ 0", "/ 1"))
    assert migrate.up(address, tmp_path).ok
    assert not migrate.down(address, tmp_path).ok
    with pytest.raises(RefusedError, match="2_b is half undone"):
        migrate.up(address, tmp_path)
    (tmp_path / "2_b.down.sql").write_text(down.replace("/ 0", "/ 1"))
    assert migrate.down(address, tmp_path, steps=2).ok
    assert migrate.up(address, tmp_path).ok


def test_the_journal_is_append_only(empty_database, tmp_path):
    assert migrate.up(empty_database.owner, write(tmp_path, "vacuum t")).ok
    with (
        connect(empty_database.superuser) as connection,
        pytest.raises(Exception, match="append-only"),
    ):
        connection.execute("delete from negspace_migrations_journal")


def test_a_marked_statement_fails_at_its_own_place(empty_database, tmp_path):
    text = "vacuum t;\nreindex table concurrently t;\ncluster verbose nowhere;\nvacuum (nothing) t"
    failure = migrate.up(empty_database.owner, write(tmp_path, text.replace("cluster", "--")))
    assert failure.failure
    assert (failure.failure.line, failure.failure.column) == (4, 9)
