"""How a run waits for locks: in slices, named, bounded; beside real readers on a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from negspace import migrate
from negspace.database import attempt, connect, only, rows
from negspace.migrate import Blocker, Options
from negspace.migrate.lexer import split
from negspace.migrate.manners import Manner, manner_of, new_table
from negspace.migrate.watch import Watch

SLICE = 0.2
OUTSIDE = "-- negspace: no-transaction\n"


@pytest.fixture
def address(empty_database):
    with connect(empty_database.owner) as connection:
        connection.execute("create table hot (id int); create table cold (id int)")
        connection.execute("insert into hot values (1)")
    return empty_database.owner


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@contextmanager
def reading(address: str, table: str = "hot") -> Iterator[Callable[[], None]]:
    """A session that has read a table and stays in its transaction; gives what ends it."""
    with connect(address, application_name="a long report") as reader:
        reader.execute(f"select * from {table}".encode())
        yield reader.rollback


class Run(threading.Thread):
    """A run beside the test."""

    def __init__(self, address: str, folder: Path, **options: object) -> None:
        super().__init__()
        self.told: list[tuple[Blocker, ...]] = []
        self.blocked = threading.Event()
        self._given = (address, folder)
        self._options = Options(on_blocked=self._tell, **options)  # type: ignore[arg-type]
        self.result: migrate.RunResult | None = None
        self.start()

    def _tell(self, blockers: tuple[Blocker, ...]) -> None:
        self.told.append(blockers)
        self.blocked.set()

    def run(self) -> None:
        self.result = migrate.up(*self._given, options=self._options)

    def ended(self) -> migrate.RunResult:
        self.join(60)
        assert self.result
        return self.result


def waits_for_lock(address: str) -> bool:
    with connect(address) as connection:
        return bool(
            rows(
                connection, "select from pg_locks where not granted and relation = 'hot'::regclass"
            )
        )


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_a_blocked_alter_waits_in_slices_and_then_works(address, tmp_path):
    write(tmp_path, {"1_a.up.sql": "alter table hot add column name text"})
    with reading(address) as end:
        run = Run(address, tmp_path, lock_timeout=SLICE)
        assert run.blocked.wait(60)
        for _ in range(2):  # it comes, makes way, and comes again
            until(lambda: waits_for_lock(address))
            until(lambda: not waits_for_lock(address))
        end()
    result = run.ended()
    assert result.ok, result.failure
    (detail,) = result.steps[0].details
    assert detail.tries > 2
    assert detail.lock_wait_ms >= 2 * SLICE * 1000 * 0.5


def test_readers_come_through_while_it_waits(address, tmp_path):
    """Without slices this reader would wait as long as the report lasts."""
    write(tmp_path, {"1_a.up.sql": "alter table hot add column name text"})
    with reading(address) as end, connect(address, autocommit=True) as hammer:
        run = Run(address, tmp_path, lock_timeout=SLICE)
        until(lambda: waits_for_lock(address))
        for _ in range(50):
            assert only(hammer, "select id from hot") == {"id": 1}
        assert run.is_alive()
        end()
    assert run.ended().ok


def test_without_slices_a_reader_waits_behind(address, tmp_path):
    """What the slices are for: the same, and the reader does not come through."""
    write(tmp_path, {"1_a.up.sql": "alter table hot add column name text"})
    with reading(address) as end, connect(address, autocommit=True) as hammer:
        run = Run(address, tmp_path, lock_timeout=None, lock_wait=None)
        until(lambda: waits_for_lock(address))
        hammer.execute("set statement_timeout = '1s'")
        said = attempt(hammer, b"select id from hot")
        assert said
        assert said.sqlstate == "57014"
        end()
    assert run.ended().ok


def test_what_the_run_did_before_is_kept(address, tmp_path):
    """Rolled back is the statement that waits, not the run: cold is changed once."""
    files = {
        "1_a.up.sql": "create table made as select pg_backend_pid() as pid",
        "2_b.up.sql": "insert into cold values (1); alter table hot add column name text",
    }
    with reading(address) as end:
        run = Run(address, write(tmp_path, files), lock_timeout=SLICE)
        assert run.blocked.wait(60)
        until(lambda: waits_for_lock(address))
        until(lambda: not waits_for_lock(address))
        end()
    result = run.ended()
    assert [step.status for step in result.steps] == ["success"] * 2
    with connect(address) as connection:
        assert only(connection, "select count(*) as n from cold") == {"n": 1}
    assert [len(step.details) for step in result.steps] == [1, 2]


def test_the_blocker_is_named_to_the_caller_in_the_result_and_in_the_ledger(address, tmp_path):
    write(tmp_path, {"1_a.up.sql": "alter table hot add column name text"})
    with reading(address) as end:
        run = Run(address, tmp_path, lock_timeout=SLICE)
        assert run.blocked.wait(60)
        with connect(address) as connection:
            told = run.told[0][0]
            report = only(
                connection,
                "select pid from pg_stat_activity where application_name = 'a long report'"
                " and datname = current_database()",
            )
        end()
    assert report == {"pid": told.pid}
    assert (told.application, told.user) == ("a long report", "negspace_owner")
    assert (told.state, told.query) == ("idle in transaction", "select * from hot")
    assert told.age_seconds is not None
    assert told.wants == "AccessExclusiveLock on public.hot"
    (detail,) = run.ended().steps[0].details
    assert [blocker.pid for blocker in detail.blockers] == [told.pid]
    (entry,) = migrate.history(address)
    assert entry.metadata["blockers"][0]["query"] == "select * from hot"
    assert entry.metadata["lock_wait_ms"] > 0
    assert len(run.told) == 1  # once, not at each look


def test_the_total_is_bounded_and_the_failure_is_in_the_ledger(address, tmp_path):
    files = {
        "1_a.up.sql": "create table a ()",
        "2_b.up.sql": "select 1;\nalter table hot rename to x",
    }
    with reading(address):
        run = Run(address, write(tmp_path, files), lock_timeout=SLICE, lock_wait=0.7)
        result = run.ended()
    assert result.failure
    assert (result.failure.sqlstate, result.failure.line) == ("55P03", 2)
    assert result.failure.hint
    assert "a long report" in result.failure.hint
    assert [step.status for step in result.steps] == ["undone", "failed"]
    (entry,) = migrate.history(address)
    assert (entry.status, entry.sqlstate) == ("failed", "55P03")
    assert entry.metadata["blockers"][0]["application"] == "a long report"
    assert entry.metadata["line"] == 2
    with connect(address) as connection:
        assert only(connection, "select to_regclass('a') as a") == {"a": None}


def test_rows_that_are_locked_are_waited_for_without_slices(address, tmp_path):
    """A row lock holds up no reader, and to begin again would cost the rows already changed."""
    write(tmp_path, {"1_a.up.sql": "update hot set id = id + 1"})
    with connect(address) as other:
        other.execute("update hot set id = 5")
        run = Run(address, tmp_path, lock_timeout=0.05)
        assert run.blocked.wait(60)
        time.sleep(0.3)
        other.commit()
    result = run.ended()
    assert result.ok
    assert result.steps[0].details[0].tries == 1
    with connect(address) as connection:
        assert only(connection, "select id from hot") == {"id": 6}


def test_concurrently_is_exempt(address, tmp_path):
    """A lock timeout in the middle of it would leave an invalid index."""
    index = "-- negspace: no-transaction\ncreate index concurrently hot_id on hot (id)"
    with connect(address) as other:
        other.execute("insert into hot values (2)")
        run = Run(address, write(tmp_path, {"1_a.up.sql": index}), lock_timeout=0.05, lock_wait=0.1)
        assert run.blocked.wait(60)
        time.sleep(0.5)
        assert run.is_alive()
        other.commit()
    assert run.ended().ok
    with connect(address) as connection:
        valid = only(
            connection, "select indisvalid from pg_index where indexrelid = 'hot_id'::regclass"
        )
        assert valid == {"indisvalid": True}


def test_a_concurrent_build_does_not_wait_for_who_watches_it(address, tmp_path, monkeypatch):
    """It waits for transactions that have a snapshot, as a look is; made long here, to be met."""
    look, looks = Watch._look, threading.Semaphore(0)

    def long_look(watch, looker):
        found = look(watch, looker)
        looks.release()
        looker.execute("select pg_sleep(0.5)")
        return found

    monkeypatch.setattr(Watch, "_look", long_look)
    with connect(address) as other:
        other.execute("insert into hot values (2)")
        index = OUTSIDE + "create index concurrently hot_id on hot (id)"
        run = Run(address, write(tmp_path, {"1_a.up.sql": index}), lock_timeout=0.05)
        for _ in range(2):
            assert looks.acquire(timeout=60)
        other.commit()  # in the middle of a look
    assert run.ended().ok


def test_outside_a_transaction_a_statement_is_tried_again_by_itself(address, tmp_path):
    files = {"1_a.up.sql": "-- negspace: no-transaction\nalter table hot add column name text"}
    with reading(address) as end:
        run = Run(address, write(tmp_path, files), lock_timeout=SLICE)
        until(lambda: waits_for_lock(address))
        until(lambda: not waits_for_lock(address))
        end()
    assert run.ended().ok


def test_outside_a_transaction_each_part_waits_in_slices_and_is_recorded(address, tmp_path):
    text = (
        "alter table cold add column a int;\n"
        "alter table hot add column name text;\n"
        "create index concurrently hot_name on hot (name)"
    )
    with reading(address) as end:
        run = Run(address, write(tmp_path, {"1_a.up.sql": OUTSIDE + text}), lock_timeout=SLICE)
        assert run.blocked.wait(60)
        for _ in range(2):
            until(lambda: waits_for_lock(address))
            until(lambda: not waits_for_lock(address))
        end()
    result = run.ended()
    assert result.ok, result.failure
    cold, hot, index = result.steps[0].details
    assert (cold.line, hot.line, index.line) == (2, 3, 4)
    assert (cold.tries, index.tries) == (1, 1)
    assert hot.tries > 2
    assert [blocker.application for blocker in hot.blockers] == ["a long report"]
    entry = migrate.history(address)[0]
    assert [one["line"] for one in entry.metadata["statement_times"]] == [2, 3, 4]
    assert entry.metadata["blockers"][0]["application"] == "a long report"


def test_a_files_own_transaction_keeps_what_it_did_before_it_waits(address, tmp_path):
    text = (
        OUTSIDE + "begin;\ninsert into cold values (1);\nalter table hot add column a int;\ncommit"
    )
    with reading(address) as end:
        run = Run(address, write(tmp_path, {"1_a.up.sql": text}), lock_timeout=SLICE)
        until(lambda: waits_for_lock(address))
        until(lambda: not waits_for_lock(address))
        end()
    result = run.ended()
    assert result.ok, result.failure
    assert [detail.line for detail in result.steps[0].details] == [2, 3, 4, 5]
    with connect(address) as connection:
        assert only(connection, "select count(*) as n from cold") == {"n": 1}


def test_the_total_is_bounded_outside_a_transaction_too(address, tmp_path):
    files = {"1_a.up.sql": OUTSIDE + "select 1;\nalter table hot rename to x"}
    with reading(address):
        run = Run(address, write(tmp_path, files), lock_timeout=SLICE, lock_wait=0.7)
        failure = run.ended().failure
    assert failure
    assert (failure.sqlstate, failure.line) == ("55P03", 3)
    assert failure.hint
    assert "a long report" in failure.hint


def test_a_leftover_is_dropped_however_long_that_waits(address, tmp_path):
    """The lock timeout of the part before is none of the clearing's."""
    with connect(address, autocommit=True) as connection:
        connection.execute("insert into hot values (1)")
        said = attempt(connection, b"create unique index concurrently hot_id on hot (id)")
        assert said is not None  # and leaves an invalid index
    text = "do $$ begin commit; end $$;\ncreate index concurrently if not exists hot_id on hot (id)"
    with reading(address) as end:
        run = Run(address, write(tmp_path, {"1_a.up.sql": OUTSIDE + text}), lock_wait=0.1)
        until(lambda: drops(address) or not run.is_alive())
        time.sleep(0.5)
        assert run.is_alive()
        end()
    result = run.ended()
    assert result.ok, result.failure
    with connect(address) as connection:
        valid = "select indisvalid from pg_index where indexrelid = 'hot_id'::regclass"
        assert only(connection, valid) == {"indisvalid": True}


def drops(address: str) -> bool:
    query = (
        "select from pg_stat_activity where datname = current_database() and state = 'active'"
        " and query ilike '%drop index concurrently%' and wait_event_type = 'Lock'"
    )
    with connect(address) as connection:
        return bool(rows(connection, query))


def test_a_mark_moves_no_position(address, tmp_path):
    text = OUTSIDE + "select 1;\ncreate index concurrently x on hot ((nowhere + 1))"
    failure = migrate.up(address, write(tmp_path, {"1_a.up.sql": text})).failure
    assert failure
    assert (failure.line, failure.column) == (3, text.splitlines()[2].index("nowhere") + 1)


def test_a_python_migration_is_tried_again_as_a_whole(address, tmp_path):
    python = """
def up(connection):
    connection.execute("insert into cold values (1)")
    connection.execute("alter table hot add column name text")
"""
    with reading(address) as end:
        run = Run(address, write(tmp_path, {"1_a.py": python}), lock_timeout=SLICE)
        until(lambda: waits_for_lock(address))
        until(lambda: not waits_for_lock(address))
        end()
    assert run.ended().ok
    with connect(address) as connection:
        assert only(connection, "select count(*) as n from cold") == {"n": 1}


def test_a_files_own_lock_timeout_stays_its_own(address, tmp_path):
    files = {
        "1_a.up.sql": "set lock_timeout = '77ms'; alter table cold add column a int;"
        "create table seen as select current_setting('lock_timeout') as value"
    }
    assert migrate.up(address, write(tmp_path, files)).ok
    with connect(address) as connection:
        assert only(connection, "select value from seen") == {"value": "77ms"}


def test_a_files_own_savepoints_still_work(address, tmp_path):
    files = {
        "1_a.up.sql": "savepoint mine; alter table hot add column a int; rollback to mine;"
        "alter table hot add column b int; release mine; alter table hot add column c int"
    }
    assert migrate.up(address, write(tmp_path, files)).ok
    with connect(address) as connection:
        found = rows(
            connection,
            "select attname::text as name from pg_attribute"
            " where attrelid = 'hot'::regclass and attnum > 0 and not attisdropped order by 1",
        )
    assert [row["name"] for row in found] == ["b", "c", "id"]


def test_an_error_still_points_at_its_place(address, tmp_path):
    """What is sent in front of a statement moves no position."""
    write(tmp_path, {"1_a.up.sql": "select 1;\nalter table hot add column x nowhere"})
    failure = migrate.up(address, tmp_path).failure
    assert failure
    assert (failure.line, failure.column, failure.sqlstate) == (2, 30, "42704")


# ── which statements wait how ────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sql", "inside", "manner"),
    [
        ("alter table a add b int", True, Manner.SLICED),
        ("drop table a", True, Manner.SLICED),
        ("create index on a (b)", True, Manner.SLICED),
        ("create index on made (b)", True, Manner.NEW),
        ("create unique index u on s.made (b)", True, Manner.NEW),
        ("create table a (b int)", True, Manner.NEW),
        ("create table a (b int generated always as identity)", True, Manner.NEW),
        ("create table a (b) as select 1", True, Manner.SLICED),
        ("create table a (b int references c)", True, Manner.SLICED),
        ("create table a partition of b default", True, Manner.SLICED),
        ("update a set b = 1", True, Manner.BOUND),
        ("with x as (select 1) delete from a", True, Manner.BOUND),
        ("create type m as enum ('a')", True, Manner.BOUND),
        ("alter type m add value 'b'", True, Manner.BOUND),
        ("alter type m rename to n", True, Manner.SLICED),
        ("do $$ begin end $$", True, Manner.SLICED),
        ("do $$ begin end $$", False, Manner.BOUND),
        ("vacuum a", False, Manner.EXEMPT),
        ("create index concurrently on a (b)", False, Manner.EXEMPT),
        ("savepoint a", True, Manner.FREE),
        ("commit", False, Manner.FREE),
        ("lock table a", True, Manner.SLICED),
        ("lock table a nowait", True, Manner.FREE),
    ],
)
def test_the_manner_of_a_statement(sql, inside, manner):
    (statement,) = split(sql).statements
    assert manner_of(statement, inside=inside, fresh=frozenset({"made", "s.made"})) is manner


def test_new_tables_are_known_by_name():
    (one, two, three) = split(
        'create table if not exists s.a (b int); create table "A b"(); create table c as select 1'
    ).statements
    assert [new_table(each) for each in (one, two, three)] == ["s.a", '"A b"', None]
