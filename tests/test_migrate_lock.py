"""Several runners at once, and runners that are killed: real processes on a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import clean_environment
from migrating import write
from negspace import migrate
from negspace.database import Connection, connect, only, rows
from negspace.errors import UnavailableError
from negspace.migrate.ledger import Holder, RunLock
from negspace.migrate.session import open_session

FILES = {
    "1_a.up.sql": "create table a (id int); insert into a values (1)",
    "2_b.up.sql": "select pg_sleep(0.2); insert into a values (2)",
    "3_c.up.sql": "-- negspace: no-transaction\ncreate index concurrently a_id on a (id)",
    "4_d.up.sql": "insert into a values (4)",
}
SLEEP = "create table slow (id int);\nselect pg_sleep(600)"


def start(empty_database, folder: Path, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "negspace", "migrate", "up", "--dir", str(folder)],
        env=clean_environment(home) | empty_database.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job is started with SIGINT ignored, and so would this one be.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def until(connection: Connection, condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        connection.rollback()
        time.sleep(0.02)


def sessions(connection: Connection, like: str) -> list[dict[str, object]]:
    return rows(
        connection,
        "select pid, application_name, state, backend_xmin from pg_stat_activity"
        " where datname = current_database() and application_name like %s"
        " and pid <> pg_backend_pid()",
        [like],
    )


def sleeping(connection: Connection) -> bool:
    found = only(
        connection,
        "select count(*) = 1 as yes from pg_stat_activity"
        " where datname = current_database() and wait_event = 'PgSleep'",
    )
    return bool(found and found["yes"])


def test_twenty_runners_at_once_apply_once_and_all_succeed(empty_database, tmp_path, home):
    folder = write(tmp_path, FILES)
    with connect(empty_database.owner) as connection, RunLock(empty_database.owner):
        started = [start(empty_database, folder, home) for _ in range(20)]
        # Held until all are there: on a busy machine each was done before the next one came.
        until(connection, lambda: len(sessions(connection, "negspace migrate: lock")) == 1 + 20)
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * 20, outputs
    with connect(empty_database.owner) as connection:
        assert [row["id"] for row in rows(connection, "select id from a order by 1")] == [1, 2, 4]
    history = migrate.history(empty_database.owner)
    assert [entry.name for entry in history] == ["4_d", "3_c", "2_b", "1_a"]
    assert len({entry.run_id for entry in history}) == 1
    assert sum(out.startswith("applied 4") for out, _ in outputs) == 1
    assert sum(out == "nothing to do\n" for out, _ in outputs) == 19
    assert any("waiting for another run: pid" in err for _, err in outputs)


def test_a_waiter_is_told_for_whom_and_goes_on(empty_database, tmp_path):
    waiting = threading.Event()
    told: list[Holder] = []

    def tell(holder: Holder) -> None:
        told.append(holder)
        waiting.set()

    address = empty_database.owner
    write(tmp_path, FILES)
    with connect(address) as connection, RunLock(address) as lock:
        lock.see_alive()
        (holder,) = sessions(connection, "negspace migrate: lock")
        results: list[migrate.RunResult] = []
        waiter = threading.Thread(
            target=lambda: results.append(migrate.up(address, tmp_path, on_wait=tell))
        )
        waiter.start()
        assert waiting.wait(60)
        assert results == []
    waiter.join(60)
    (said,) = told
    assert (said.pid, said.application) == (holder["pid"], "negspace migrate: lock")
    assert said.user == "negspace_owner"
    assert said.since
    assert results[0].ok
    assert results[0].lock_wait_ms > 0


def test_the_lock_holds_up_neither_vacuum_nor_concurrent_indexes(empty_database):
    """An idle transaction with a snapshot would: CREATE INDEX CONCURRENTLY waits for it."""
    with connect(empty_database.owner) as connection, RunLock(empty_database.owner):
        (holder,) = sessions(connection, "negspace migrate: lock")
        assert holder["state"] == "idle in transaction"
        assert holder["backend_xmin"] is None


def test_a_run_and_what_its_predecessor_left_do_not_wait_for_each_other(
    empty_database, monkeypatch
):
    """A killed run's index build waits for whoever has a snapshot, as a look for it is."""
    address = empty_database.owner
    build = "/* negspace migrate, run 1 */ create index concurrently t_i on t (i)"
    ask, looks = RunLock._ask, threading.Semaphore(0)

    def long_ask(lock, connection, who):
        found = ask(lock, connection, who)
        looks.release()
        connection.execute("select pg_sleep(0.5)")
        return found

    def run_next():
        with RunLock(address, told.append) as lock:
            lock.see_alive()

    monkeypatch.setattr(RunLock, "_ask", long_ask)
    told: list[Holder] = []
    with (
        connect(address) as other,
        connect(address, autocommit=True, application_name="a killed run") as left,
    ):
        other.execute("create table t (i int)")
        other.commit()
        other.execute("insert into t values (1)")
        builder = threading.Thread(target=left.execute, args=(build,))
        builder.start()
        following = threading.Thread(target=run_next)
        following.start()
        for _ in range(2):
            assert looks.acquire(timeout=60)
        other.commit()  # in the middle of a look
        following.join(60)
        builder.join(60)
        assert (following.is_alive(), builder.is_alive()) == (False, False)
    assert [holder.application for holder in told] == ["a killed run"]


def test_the_lock_outlives_the_servers_idle_timeouts(empty_database, tmp_path):
    with connect(empty_database.superuser, autocommit=True) as connection:
        for name in ("idle_in_transaction_session_timeout", "transaction_timeout"):
            known = only(connection, "select from pg_settings where name = %s", [name])
            if known is not None:
                connection.execute(f"alter role negspace_owner in database {empty_database.name}"
                                   f" set {name} = 100".encode())  # fmt: skip
    with RunLock(empty_database.owner) as lock:
        time.sleep(0.4)
        lock.see_alive()


def test_a_run_whose_lock_is_gone_commits_nothing(empty_database, tmp_path):
    write(tmp_path, {"1_a.up.sql": "create table a ()", "2_k.py": KILL_THE_LOCK})
    result = migrate.up(empty_database.owner, tmp_path)
    assert result.failure
    assert [step.status for step in result.steps] == ["undone", "failed"]
    with connect(empty_database.owner) as connection:
        assert only(connection, "select to_regclass('a') as a") == {"a": None}
    assert [entry.status for entry in migrate.history(empty_database.owner)] == ["failed"]


KILL_THE_LOCK = """
def up(connection):
    connection.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where datname = current_database() and application_name = 'negspace migrate: lock'"
    )
"""


def test_a_runner_killed_in_its_transaction_leaves_nothing_in_the_way(
    empty_database, tmp_path, home
):
    folder = write(tmp_path, {"1_a.up.sql": "create table a (id int)", "2_s.up.sql": SLEEP})
    process = start(empty_database, folder, home)
    with connect(empty_database.owner) as connection:
        until(connection, lambda: sleeping(connection))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        write(folder, {"2_s.up.sql": "create table slow (id int)"})
        assert migrate.up(empty_database.owner, folder).ok
        until(connection, lambda: not sessions(connection, "negspace migrate%"))
    assert [entry.status for entry in migrate.history(empty_database.owner)] == ["success"] * 2


def test_a_runner_killed_outside_a_transaction_is_seen_in_the_ledger(
    empty_database, tmp_path, home
):
    outside = "-- negspace: no-transaction\ncreate table a ();\nselect pg_sleep(600)"
    folder = write(tmp_path, {"1_a.up.sql": outside})
    process = start(empty_database, folder, home)
    with connect(empty_database.owner) as connection:
        until(connection, lambda: sleeping(connection))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        until(connection, lambda: not sessions(connection, "negspace migrate%"))
    (row,) = migrate.status(empty_database.owner, folder)
    assert row.state == "interrupted"
    assert [entry.status for entry in migrate.history(empty_database.owner)] == ["running"]
    write(folder, {"1_a.up.sql": outside.replace("600", "0")})
    assert migrate.up(empty_database.owner, folder).ok
    ended = [entry.status for entry in migrate.history(empty_database.owner)]
    assert ended == ["success", "running"]


def test_an_interrupted_runner_rolls_back_and_says_so(empty_database, tmp_path, home):
    folder = write(tmp_path, {"1_s.up.sql": SLEEP})
    process = start(empty_database, folder, home)
    with connect(empty_database.owner) as connection:
        until(connection, lambda: sleeping(connection))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    (entry,) = migrate.history(empty_database.owner)
    assert (entry.status, entry.error_message) == ("failed", "interrupted")


def test_a_server_that_goes_away_in_a_run_is_a_failure(empty_database, tmp_path):
    suicide = "create table a ();\nselect pg_terminate_backend(pg_backend_pid())"
    result = migrate.up(empty_database.owner, write(tmp_path, {"1_a.up.sql": suicide}))
    assert result.failure
    assert result.failure.line == 2
    assert [entry.sqlstate for entry in migrate.history(empty_database.owner)] == ["57P01"]


def test_a_lock_on_no_server_is_unavailable(empty_database):
    with pytest.raises(UnavailableError), RunLock(empty_database.owner + "_gone"):
        pass


def test_a_session_is_as_a_migration_finds_it(empty_database, tmp_path):
    """The server is asked to notice, within a second, that a runner has died."""
    look = "create table seen as select current_setting('client_connection_check_interval') as s"
    write(tmp_path, {"1_a.up.sql": "reset all", "2_b.up.sql": look})
    assert migrate.up(empty_database.owner, tmp_path).ok
    with open_session(empty_database.owner) as connection:
        assert only(connection, "select s from seen") == {"s": "1s"}
