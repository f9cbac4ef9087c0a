"""The rehearsal: what it sees, what it leaves, and the gates, on a real server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from negspace import migrate
from negspace.database import connect, only
from negspace.errors import InvalidInputError
from negspace.migrate import Options, Rehearsal, catalog, gates, rows

BEFORE = """
create table parts (id int primary key, name text, size int);
insert into parts select n, 'part ' || n, n from generate_series(1, 1000) as n;
create table notes (id int);
create table log (what text);
create function say() returns trigger language plpgsql as
    $$ begin insert into log values ('changed'); return null; end $$;
create trigger say after update on notes for each row execute function say();
insert into notes values (1), (2), (3);
"""
WORK = """select count(*) from parts;
alter table parts add column weight int;
alter table parts alter column size type bigint;
update notes set id = id + 10;
create table fresh (id int);
create index fresh_id on fresh (id);
create index notes_id on notes (id);
"""


@pytest.fixture
def address(empty_database, tmp_path):
    with connect(empty_database.owner) as connection:
        connection.execute(BEFORE.encode())
    write(tmp_path, {"1_work.up.sql": WORK})
    return empty_database.owner


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def rehearse(address: str, folder: Path) -> Rehearsal:
    result = migrate.up(address, folder, options=Options(dry_run=True))
    assert result.ok, result.failure
    assert result.rehearsal
    return result.rehearsal


def lines(rehearsal: Rehearsal) -> dict[int | None, migrate.StatementRehearsal]:
    return {one.line: one for one in rehearsal.statements}


def test_each_statement_tells_what_it_took(address, tmp_path):
    seen = lines(rehearse(address, tmp_path))
    assert list(seen) == [1, 2, 3, 4, 5, 6, 7]
    locks = {n: {(lock.table, lock.mode) for lock in one.locks} for n, one in seen.items()}
    assert ("public.parts", "access_share") in locks[1]
    assert ("public.parts", "access_exclusive") in locks[2]
    assert ("public.notes", "row_exclusive") in locks[4]
    assert ("public.notes", "share") in locks[7]
    # It was held already.
    assert ("public.parts", "access_exclusive") not in locks[3]
    assert all(one.duration_ms > 0 for one in seen.values())
    assert seen[2].statement == "alter table parts add column weight int"


def test_rewrites_are_seen_where_the_file_is_replaced(address, tmp_path):
    rehearsal = rehearse(address, tmp_path)
    seen = lines(rehearsal)
    assert seen[2].rewrites == ()
    assert "public.parts" in seen[3].rewrites
    assert rehearsal.rewrites == seen[3].rewrites


def test_rows_of_triggers_count_and_reads_do_not(address, tmp_path):
    rehearsal = rehearse(address, tmp_path)
    seen = lines(rehearsal)
    assert seen[4].rows == 6  # three of notes, and three that the trigger wrote
    assert seen[1].rows == 0
    assert rehearsal.rows == 6


def test_wal_is_told_by_the_owner_alone(address, tmp_path):
    # The whole server's: autovacuum may write beside one of the reads, hardly beside each.
    rehearsals = [rehearse(address, tmp_path) for _ in range(4)]
    rehearsal = rehearsals[0]
    rewritten = lines(rehearsal)[3].wal_bytes
    reads = [lines(one)[1].wal_bytes for one in rehearsals]
    assert rewritten is not None
    assert rewritten > 8192 > min(read for read in reads if read is not None)
    assert rehearsal.wal_bytes
    assert "the whole server's" in rehearsal.notes[0]


def test_a_role_that_may_not_see_wal_is_told_so(address, empty_database, tmp_path):
    with connect(empty_database.superuser) as connection:
        connection.execute("revoke execute on function pg_current_wal_insert_lsn() from public")
    rehearsal = rehearse(address, tmp_path)
    assert rehearsal.wal_bytes is None
    assert lines(rehearsal)[3].wal_bytes is None
    assert "may not call pg_current_wal_insert_lsn" in rehearsal.notes[0]
    (found,) = gates.exceeded(rehearsal, [gates.parse("wal>1GB")])
    assert found.value is None  # what can't be told is not passed


def test_locks_are_held_to_the_end_of_the_run(address, tmp_path):
    write(tmp_path, {"2_later.up.sql": "select pg_sleep(0.2)"})
    rehearsal = rehearse(address, tmp_path)
    slept = next(one for one in rehearsal.statements if one.migration == "2_later")
    held = {(lock.table, lock.mode): lock for lock in rehearsal.locks}
    exclusive = held["public.parts", "access_exclusive"]
    assert exclusive.held_ms > slept.duration_ms
    assert (exclusive.migration, exclusive.line) == ("1_work", 2)
    assert exclusive.blocks == "reads and writes"
    assert held["public.parts", "access_share"].held_ms > exclusive.held_ms
    old = [lock.held_ms for lock in rehearsal.locks if not lock.new]
    assert old == sorted(old, reverse=True)


def test_what_the_run_made_is_new_and_no_gates_business(address, tmp_path):
    rehearsal = rehearse(address, tmp_path)
    new = {lock.table for lock in rehearsal.locks if lock.new}
    assert "public.fresh" in new
    assert "public.parts" not in new
    only_new = replace(rehearsal, locks=tuple(lock for lock in rehearsal.locks if lock.new))
    assert gates.exceeded(only_new, [gates.parse("access_share>0ms")]) == ()


def state(address: str):
    with connect(address) as connection:
        return catalog.read(connection), rows.read_rows(connection)


def test_nothing_remains(address, tmp_path):
    before = state(address)
    rehearse(address, tmp_path)
    assert state(address) == before
    with connect(address) as connection:
        found = only(connection, "select to_regclass('public.negspace_migrations') as ledger")
        assert found == {"ledger": None}
    assert migrate.up(address, tmp_path).ok
    assert state(address) != before  # these fingerprints do see a run


def test_a_down_is_rehearsed_too(address, tmp_path):
    write(tmp_path, {"1_work.down.sql": "drop table fresh; alter table parts drop column weight"})
    assert migrate.up(address, tmp_path).ok
    before = state(address)
    result = migrate.down(address, tmp_path, options=Options(dry_run=True))
    assert result.rehearsal
    held = {(lock.table, lock.mode, lock.new) for lock in result.rehearsal.locks}
    assert ("public.fresh", "access_exclusive", False) in held  # though it is gone
    assert state(address) == before


def test_what_runs_outside_a_transaction_is_not_rehearsed(address, tmp_path):
    outside = "-- negspace: no-transaction\ncreate index concurrently c on notes (id)"
    write(tmp_path, {"2_outside.up.sql": outside, "3_after.up.sql": "select 1"})
    result = migrate.up(address, tmp_path, options=Options(dry_run=True))
    assert [step.status for step in result.steps] == ["rehearsed", *["not rehearsed"] * 2]
    assert result.rehearsal
    assert {one.migration for one in result.rehearsal.statements} == {"1_work"}


def test_a_failure_leaves_what_was_seen_before_it(address, tmp_path):
    write(tmp_path, {"1_work.up.sql": "lock table parts;\nselect nowhere"})
    result = migrate.up(address, tmp_path, options=Options(dry_run=True))
    assert result.failure
    assert result.rehearsal
    assert [one.line for one in result.rehearsal.statements] == [1]
    assert result.rehearsal.locks[0].mode == "access_exclusive"


def test_python_migrations_are_one_statement(address, tmp_path):
    python = "def up(connection):\n    connection.execute('lock table notes')\n"
    (tmp_path / "1_work.up.sql").unlink()
    rehearsal = rehearse(address, write(tmp_path, {"1_work.py": python}))
    (one,) = rehearsal.statements
    assert (one.line, one.statement) == (None, "1_work.py")
    assert [(lock.table, lock.mode) for lock in one.locks] == [("public.notes", "access_exclusive")]


# ── gates ────────────────────────────────────────────────────────────────────────────────


def test_gates_are_read():
    assert gates.parse("access_exclusive>2s").limit == 2000
    assert gates.parse(" wal > 1.5 MB ").limit == 1.5 * 1024**2
    assert gates.parse("rewrites>0").limit == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("access_exclusive", "MEASURE>LIMIT"),
        ("exclusively>2s", "access_exclusive"),
        ("rows>2s", "leave the unit out"),
        ("run>3", "ms, s, min"),
        ("wal>-1MB", "MEASURE>LIMIT"),
    ],
)
def test_a_gate_that_cant_be_read_says_what_can(text, said):
    with pytest.raises(InvalidInputError) as caught:
        gates.parse(text)
    assert said in str(caught.value.hint)


def test_gates_name_the_worst(address, tmp_path):
    rehearsal = rehearse(address, tmp_path)
    given = ["access_exclusive>0ms", "share>0ms", "rewrites>0", "rows>5", "rows>6", "wal>10GB"]
    found = gates.exceeded(rehearsal, map(gates.parse, given))
    assert [one.gate for one in found] == given[:4]
    assert "access_exclusive on public.parts, 1_work" in found[0].what
    assert found[1].what == found[0].what  # a stronger lock counts
    assert "public.parts" in found[2].what
    assert found[3].value == 6


# ── the command line ─────────────────────────────────────────────────────────────────────


def test_the_command_shows_the_longest_held_first(empty_database, address, tmp_path, cli):
    ran = cli("migrate", "up", "--dry-run", "--dir", str(tmp_path), env=empty_database.environment)
    assert ran.status == 0, ran.err
    said = ran.out.splitlines()
    assert said[0].split() == ["held", "lock", "on", "blocks", "taken", "by"]
    assert "access_exclusive" in said[1]
    assert "public.parts" in said[1]
    assert "1_work:2" in said[1]
    assert "rewritten: public.parts" in said
    assert said[-1].startswith("dry run: 1 of 1 migration would work")
    assert "fresh" not in ran.out.split("took")[0]


def test_a_gate_makes_the_command_exit_3(empty_database, address, tmp_path, cli):
    command = ("migrate", "up", "--dir", str(tmp_path), "--json", "--fail-on", "rewrites>0")
    ran = cli(*command, "--dry-run", env=empty_database.environment)
    assert ran.status == 3
    assert "fails on rewrites>0" in ran.err
    (exceeded,) = ran.json["exceeded"]
    assert exceeded["gate"] == "rewrites>0"
    assert ran.json["rehearsal"]["statements"][2]["rewrites"]
    ran = cli(*command, env=empty_database.environment)
    assert (ran.status, ran.error["hint"]) == (2, "add --dry-run")
    command = (*command[:-1], "rewrites>9", "--dry-run")
    assert cli(*command, env=empty_database.environment).status == 0
