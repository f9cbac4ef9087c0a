"""Runs of migrations on a real server: all or nothing, and what failed."""

from __future__ import annotations

import pytest

from migrating import FIVE, catalog, ledger, states, tables, write
from negspace import migrate
from negspace.database import connect, only, rows
from negspace.errors import (
    MigrationError,
    RefusedError,
)
from negspace.migrate import Options
from negspace.migrate.catalog import compare


@pytest.fixture
def address(empty_database):
    return empty_database.owner


# ── all or nothing ───────────────────────────────────────────────────────────────────────


def test_up_applies_everything_once(address, tmp_path):
    seen = []
    result = migrate.up(address, write(tmp_path, FIVE), options=Options(progress=seen.append))
    assert result.ok
    assert result.batch == 1
    assert [step.status for step in result.steps] == ["success"] * 5
    assert tuple(seen) == result.steps
    assert all(step.statements == 1 and step.duration_ms for step in result.steps)
    assert tables(address) == ["t1", "t2", "t3", "t4", "t5"]
    assert migrate.up(address, tmp_path).steps == ()
    assert ledger(address) == [(f"{n}_t{n}", "up", "success", 1) for n in range(1, 6)]


def test_a_failure_in_the_third_of_five_leaves_nothing_and_is_in_the_ledger(address, tmp_path):
    before = catalog(address)
    broken = "create table t3 (id int);\ninsert into t3 values (1);\n\nselect nothing from t3;"
    result = migrate.up(address, write(tmp_path, FIVE | {"3_t3.up.sql": broken}))
    assert not result.ok
    assert [step.status for step in result.steps] == [
        "undone",
        "undone",
        "failed",
        "not run",
        "not run",
    ]
    assert compare(before, catalog(address)) == ()
    (entry,) = migrate.history(address)
    assert (entry.name, entry.status, entry.sqlstate) == ("3_t3", "failed", "42703")
    assert entry.error_message == 'column "nothing" does not exist'
    assert entry.metadata["line"] == 4
    assert entry.metadata["undone_with_it"] == ["1_t1", "2_t2"]
    assert states(address, tmp_path)["3_t3"] == "failed"
    assert states(address, tmp_path)["1_t1"] == "pending"
    write(tmp_path, FIVE)
    assert migrate.up(address, tmp_path).ok
    assert [row[2] for row in ledger(address)] == ["failed"] + ["success"] * 5


def test_down_undoes_and_history_survives(address, tmp_path):
    before = catalog(address)
    migrate.up(address, write(tmp_path, FIVE), to="2")
    migrate.up(address, tmp_path)
    assert [row.batch for row in migrate.status(address, tmp_path)] == [1, 1, 2, 2, 2]
    one = migrate.down(address, tmp_path)
    assert [(s.name, s.status) for s in one.steps] == [("5_t5", "rolled_back")]
    batch = migrate.down(address, tmp_path, batch=True)
    assert [s.name for s in batch.steps] == ["4_t4", "3_t3"]
    assert tables(address) == ["t1", "t2"]
    assert migrate.down(address, tmp_path, to="1").ok
    assert tables(address) == ["t1"]
    assert migrate.down(address, tmp_path, to="0").ok
    assert compare(before, catalog(address)) == ()
    assert migrate.down(address, tmp_path).steps == ()
    assert migrate.up(address, tmp_path).batch == 3
    found = migrate.history(address)
    assert len(found) == 15
    undone = [e for e in found if e.status == "rolled_back"]
    assert [e.name for e in undone] == ["1_t1", "2_t2", "3_t3", "4_t4", "5_t5"]
    assert all(e.rolled_back_at and e.direction == "down" for e in undone)
    assert [e.batch for e in undone] == [1, 1, 2, 2, 2]
    assert len(migrate.history(address, 3)) == 3


def test_a_failing_down_leaves_everything(address, tmp_path):
    migrate.up(address, write(tmp_path, FIVE))
    write(tmp_path, {"4_t4.down.sql": "drop table t4; drop table nowhere"})
    result = migrate.down(address, tmp_path, steps=3)
    assert [s.status for s in result.steps] == ["undone", "failed", "not run"]
    assert len(tables(address)) == 5
    assert ledger(address)[-1] == ("4_t4", "down", "failed", 1)
    assert set(states(address, tmp_path).values()) == {"applied"}


def test_a_dry_run_executes_everything_and_changes_nothing(address, tmp_path):
    before = catalog(address)
    rehearsed = migrate.up(address, write(tmp_path, FIVE), options=Options(dry_run=True))
    assert rehearsed.ok
    assert [s.status for s in rehearsed.steps] == ["rehearsed"] * 5
    assert compare(before, catalog(address)) == ()
    with connect(address) as connection:
        assert only(connection, "select to_regclass('negspace_migrations') as t") == {"t": None}
    write(tmp_path, {"5_t5.up.sql": "select 1 / 0"})
    failed = migrate.up(address, tmp_path, options=Options(dry_run=True))
    assert failed.failure
    assert failed.failure.sqlstate == "22012"
    assert migrate.history(address) == ()
    write(tmp_path, FIVE)
    migrate.up(address, tmp_path)
    assert migrate.down(address, tmp_path, to="0", options=Options(dry_run=True)).ok
    assert len(tables(address)) == 5
    assert len(migrate.history(address)) == 5


def test_a_deferred_check_fails_in_the_migration_that_breaks_it(address, tmp_path):
    files = {
        "1_a.up.sql": "create table a (id int primary key);"
        "create table b (a int references a deferrable initially deferred)",
        "2_b.up.sql": "insert into b values (1)",
        "3_c.up.sql": "create table c ()",
    }
    result = migrate.up(address, write(tmp_path, files))
    assert result.failure
    assert (result.failure.name, result.failure.sqlstate) == ("2_b", "23503")
    write(tmp_path, {"2_b.up.sql": "insert into b values (1); insert into a values (1)"})
    # Pending events of 2 would stop 3; and the constraint is deferred again in 3.
    write(tmp_path, {"3_c.up.sql": "alter table b add c int; insert into b values (2);"
                                   "insert into a values (2)"})  # fmt: skip
    assert migrate.up(address, tmp_path).ok


def test_what_one_migration_sets_is_not_set_in_the_next(address, tmp_path):
    files = {
        "1_a.up.sql": "create schema s; set search_path = s; set lock_timeout = 5;"
        "create table here (id int)",
        "2_b.up.sql": "create table there (id int);"
        "do $$ begin if current_setting('lock_timeout') = '5ms' then raise 'set'; end if; end $$",
    }
    assert migrate.up(address, write(tmp_path, files)).ok
    assert tables(address) == ["there"]


def test_timeouts_hold_for_every_migration(address, tmp_path):
    files = {"1_a.up.sql": "create table a ()", "2_b.up.sql": "select pg_sleep(30)"}
    options = Options(statement_timeout=0.05)
    result = migrate.up(address, write(tmp_path, files), options=options)
    assert result.failure
    assert result.failure.sqlstate == "57014"
    write(tmp_path, {"2_b.up.sql": "alter table c add d int"})
    with connect(address) as other:
        other.execute("create table c ()")
        other.commit()
        other.execute("lock table c")
        result = migrate.up(address, tmp_path, options=Options(lock_timeout=0.05, lock_wait=0.2))
    assert result.failure
    assert result.failure.sqlstate == "55P03"


# ── what failed, and where ───────────────────────────────────────────────────────────────


def test_a_failure_says_file_line_column_and_points(address, tmp_path):
    text = "select 1;\n\n  -- why\n\tselect 'é', 1 + nowhere\nfrom t;\nselect 2;\n"
    failure = migrate.up(address, write(tmp_path, {"1_a.up.sql": text})).failure
    assert failure
    folder = str(tmp_path)
    assert "\n".join(failure.lines()).replace(folder, "DIR") == (
        'DIR/1_a.up.sql:5:6: relation "t" does not exist\n'
        "  5 | from t;\n"
        "    |      ^\n"
        "  SQLSTATE: 42P01"
    )
    assert failure.statement == "select 'é', 1 + nowhere\nfrom t"
    failure = migrate.up(
        address, write(tmp_path, {"1_a.up.sql": text.replace("\nfrom t", "")})
    ).failure
    assert failure
    assert failure.excerpt == "4 | \tselect 'é', 1 + nowhere;\n  | \t                ^"
    assert (failure.line, failure.column) == (4, 18)
    error = failure.error()
    assert isinstance(error, MigrationError)
    assert error.details["sqlstate"] == "42703"


def test_a_failure_carries_detail_hint_and_context(address, tmp_path):
    text = (
        "create table a (id int);\ninsert into a values (1), (1);\ncreate unique index on a (id);"
    )
    failure = migrate.up(address, write(tmp_path, {"1_a.up.sql": text})).failure
    assert failure
    assert (failure.line, failure.column) == (3, 1)
    assert failure.detail == "Key (id)=(1) is duplicated."
    text = "do $$\nbegin\n  raise 'no' using hint = 'try later', errcode = 'ZZ001';\nend $$"
    failure = migrate.up(address, write(tmp_path, {"1_a.up.sql": text})).failure
    assert failure
    assert (failure.message, failure.hint, failure.sqlstate) == ("no", "try later", "ZZ001")
    assert "line 3 at RAISE" in (failure.context or "")


def test_a_long_line_is_cut_around_the_place(address, tmp_path):
    text = "select " + "1, " * 100 + "nowhere, " + "2, " * 100 + "3"
    failure = migrate.up(address, write(tmp_path, {"1_a.up.sql": text})).failure
    assert failure
    line, caret = failure.excerpt.splitlines()
    assert len(line) < 110
    assert line[caret.index("^") :].startswith("nowhere")


def test_hints_where_postgresql_gives_none(address, tmp_path):
    # That this needs a session without a transaction can't be told from the text.
    text = "create table a (id int) partition by list (id); reindex table a"
    failure = migrate.up(address, write(tmp_path, {"1_a.up.sql": text})).failure
    assert failure
    assert "no-transaction" in (failure.hint or "")


# ── outside a transaction ────────────────────────────────────────────────────────────────

CONCURRENT = {
    "1_a.up.sql": "create table a (id int); insert into a values (1)",
    "2_b.up.sql": "-- negspace: no-transaction\ncreate index concurrently a_id on a (id);\n"
    "create table b ()",
    "2_b.down.sql": "-- negspace: no-transaction\ndrop table b; drop index concurrently a_id",
    "3_c.up.sql": "create table c ()",
}


def test_a_no_transaction_file_splits_the_run(address, tmp_path):
    result = migrate.up(address, write(tmp_path, CONCURRENT))
    assert result.ok
    assert [s.transaction for s in result.steps] == [True, False, True]
    assert [e.status for e in migrate.history(address)] == ["success"] * 3
    with connect(address) as connection:
        kept = rows(connection, "select status from negspace_migrations order by id")
    assert [row["status"] for row in kept] == ["success", "running", "success", "success"]


def test_a_failure_outside_a_transaction_keeps_what_was_done(address, tmp_path):
    twice = CONCURRENT["2_b.up.sql"] + "; create table b ()"
    result = migrate.up(address, write(tmp_path, CONCURRENT | {"2_b.up.sql": twice}))
    assert [(s.status, s.statements) for s in result.steps] == [
        ("success", 1 + 1),
        ("failed", 2),
        ("not run", 0),
    ]
    assert tables(address) == ["a", "b"]
    assert [e.status for e in migrate.history(address)] == ["failed", "success"]
    assert states(address, tmp_path) == {"1_a": "applied", "2_b": "failed", "3_c": "pending"}


def test_a_failed_concurrent_index_is_told_and_comes_again_when_mended(address, tmp_path):
    unique = "-- negspace: no-transaction\ncreate unique index concurrently a_id on a (id)"
    files = {
        "1_a.up.sql": "create table a (id int); insert into a values (1), (1)",
        "2_b.up.sql": unique,
    }
    result = migrate.up(address, write(tmp_path, files))
    assert result.failure
    assert result.failure.sqlstate == "23505"
    with connect(address) as connection:
        connection.execute("truncate a")
        connection.execute("drop index a_id")
    assert migrate.up(address, tmp_path).ok
    assert states(address, tmp_path) == {"1_a": "applied", "2_b": "applied"}


def test_a_file_with_transactions_of_its_own(address, tmp_path):
    own = "-- negspace: no-transaction\nbegin; create table a (); commit; create table b ();"
    assert migrate.up(address, write(tmp_path, {"1_a.up.sql": own})).ok
    write(tmp_path, {"2_b.up.sql": "-- negspace: no-transaction\nbegin; create table c ();"})
    failure = migrate.up(address, tmp_path).failure
    assert failure
    assert "ends inside a transaction" in failure.message
    assert tables(address) == ["a", "b"]


def test_a_dry_run_says_what_it_cannot_rehearse(address, tmp_path):
    result = migrate.up(address, write(tmp_path, CONCURRENT), options=Options(dry_run=True))
    assert [s.status for s in result.steps] == ["rehearsed", "not rehearsed", "not rehearsed"]
    assert tables(address) == []


# ── migrations in Python ─────────────────────────────────────────────────────────────────

PYTHON = """
def up(connection):
    connection.execute("create table p (id int)")
    with connection.cursor() as cursor, cursor.copy("copy p from stdin") as copy:
        copy.write_row([7])

def down(connection):
    connection.execute("drop table p")
"""


def test_a_python_migration_goes_up_and_down(address, tmp_path):
    write(tmp_path, FIVE | {"6_p.py": PYTHON})
    assert migrate.up(address, tmp_path).ok
    with connect(address) as connection:
        assert only(connection, "select id from p") == {"id": 7}
    assert [s.name for s in migrate.down(address, tmp_path).steps] == ["6_p"]
    write(tmp_path, {"6_p.py": PYTHON.replace('id int)")', 'id int)")  # a table')})
    assert migrate.up(address, tmp_path).ok
    write(tmp_path, {"6_p.py": PYTHON.replace("[7]", "[8]")})
    assert states(address, tmp_path)["6_p"] == "edited"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("raise ValueError('no')", "ValueError: no"),
        ("connection.execute('select 1 / 0')", "division by zero"),
        ("connection.commit()", "Explicit commit"),
        ("connection.execute('commit')", "ended the run's transaction itself"),
        ("connection.execute('rollback; begin')", "ended the run's transaction itself"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_a_failure_in_python_is_a_failure_of_the_migration(address, tmp_path, line, message):
    code = f"def up(connection):\n    connection.execute('create table q ()')\n    {line}\n"
    result = migrate.up(address, write(tmp_path, {"1_a.up.sql": "", "2_b.py": code}))
    assert result.failure
    assert message in result.failure.message
    assert [s.status for s in result.steps] == ["undone", "failed"]
    if "itself" not in message:
        assert result.failure.line == 3
        assert tables(address) == []
    assert ledger(address)[-1][:3] == ("2_b", "up", "failed")


def test_a_python_migration_outside_a_transaction(address, tmp_path):
    code = "# negspace: no-transaction\ndef up(c):\n    c.execute('vacuum')\n"
    assert migrate.up(address, write(tmp_path, {"1_a.py": code})).ok
    assert not migrate.status(address, tmp_path)[0].reversible
    with pytest.raises(RefusedError, match="1_a has no way down"):
        migrate.down(address, tmp_path)


def test_a_value_is_used_in_the_run_that_makes_its_enum(empty_database, tmp_path):
    """A savepoint around either statement would make PostgreSQL refuse the value."""
    statements = (
        "create type mood as enum ('glad')",
        "alter type mood add value 'sad'",
        "create table days (m mood not null default 'sad')",
        "insert into days default values",
    )
    folder = write(tmp_path, {"1_mood.up.sql": ";\n".join(statements)})
    assert migrate.up(empty_database.owner, folder).ok
