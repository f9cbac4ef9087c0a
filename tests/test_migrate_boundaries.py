"""Where a run commits: statements that take no transaction, and new enum values."""

from __future__ import annotations

from pathlib import Path

import pytest

from negspace import migrate
from negspace.database import attempt, connect, only, rows
from negspace.migrate import Options
from negspace.migrate.autocommit import command, controls_transactions
from negspace.migrate.files import read_folder
from negspace.migrate.ledger import Standing
from negspace.migrate.lexer import split
from negspace.migrate.plan import plan_up


def write(folder: Path, *texts: str) -> Path:
    for number, text in enumerate(texts, 1):
        name = f"{number}_m.py" if text.startswith("def ") else f"{number}_m.up.sql"
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def groups(folder: Path, *texts: str, server_version: int = 180_000) -> list[str]:
    """The plan: a text for each transaction, ``1 2``; a file that is cut has its cuts."""
    standing = Standing(server_version=server_version)
    plan = plan_up(read_folder(write(folder, *texts)), standing)
    return [
        " ".join(step.version + "".join(f"/{cut}" for cut in step.cuts) for step in group)
        for group in plan.groups()
    ]


# ── statements that take no transaction ──────────────────────────────────────────────────

ALONE = [
    "create index concurrently a_id on a (id)",
    "CREATE UNIQUE INDEX /* slowly */ CONCURRENTLY IF NOT EXISTS a_id ON a (id)",
    "drop index concurrently if exists a_id",
    "reindex index concurrently a_pkey",
    "reindex (verbose, concurrently) table a",
    "reindex (concurrently on) table a",
    "reindex database postgres",
    "reindex system postgres",
    "reindex schema public",
    "vacuum",
    "vacuum (analyze) a",
    "cluster",
    "cluster verbose",
    "alter system set work_mem = '1MB'",
    "create database made_by_a_test",
    "drop database if exists not_there",
    "alter database postgres set tablespace pg_default",
    "create tablespace made location '/nowhere'",
    "drop tablespace not_there",
    "alter table p detach partition p1 concurrently",
    "create subscription s connection '' publication p",
    "alter subscription s refresh publication",
    "alter subscription s set publication p",
    "discard all",
    "commit prepared 'x'",
    "rollback prepared 'x'",
]
TOGETHER = [
    "create index concurrently_a on a (id)",
    "reindex table a",
    "reindex (concurrently false) table a",
    "cluster a using a_pkey",
    "refresh materialized view concurrently v",
    "alter table p detach partition p1",
    "analyze",
    "create subscription s connection '' publication p with (connect = false)",
    "alter subscription s disable",
    "alter database postgres set work_mem = '1MB'",
    "comment on table a is 'create index concurrently'",
]
THINGS = (
    "create table if not exists a (id int primary key);"
    "create table if not exists p (id int) partition by range (id);"
    "create table if not exists p1 partition of p default;"
    "create materialized view if not exists v as select id from a;"
    "create unique index if not exists v_id on v (id)"
)


@pytest.mark.parametrize("text", [*ALONE, *TOGETHER])
def test_the_words_tell_what_the_server_refuses_in_a_transaction(empty_database, text):
    """Held against the server: it says 25001 for those, and for no others."""
    subscription = text.startswith("alter subscription")
    made = "create subscription s connection '' publication p with (connect = false, %s)"
    with connect(empty_database.superuser, autocommit=True) as connection:
        connection.execute(THINGS.encode())
        connection.execute((made % "slot_name = none").encode() if subscription else "select 1")
        with connection.transaction(force_rollback=True):
            said = attempt(connection, text.encode())
        connection.execute("drop subscription s" if subscription else "select 1")
    (statement,) = split(text).statements
    if said is not None and said.sqlstate == "55000":  # a disabled subscription is told first
        assert text.startswith("alter subscription")
    else:
        assert (said is not None and said.sqlstate == "25001") == (text in ALONE), said
    assert (command(statement) is not None) == (text in ALONE)


def test_a_body_that_commits_is_known_by_its_words():
    texts = "call a()", "do $$ begin commit; end $$", "do $$ begin perform 1; end $$"
    found = [controls_transactions(split(text).statements[0]) for text in texts]
    assert found == [True, True, False]


def test_a_file_that_says_nothing_runs_outside_and_the_plan_says_why(empty_database, tmp_path, cli):
    write(tmp_path, "create table a (id int)", "\ncreate index concurrently a_id on a (id)")
    for options, word in ((["--dry-run"], "not rehearsed"), ([], "success")):
        done = cli(
            "migrate", "up", "--dir", str(tmp_path), *options, env=empty_database.environment
        )
        assert f"2_m  {word}" in done.err
        reason = "outside a transaction: CREATE INDEX CONCURRENTLY in line 2 runs outside"
        assert reason in done.err
        assert done.status == 0


# ── enum values ──────────────────────────────────────────────────────────────────────────

OLD = "create type mood as enum ('ok'); create table t (m mood)"
ADD = "alter type mood add value 'sad'"
FUNCTION = "create function f() returns mood language"
USE = "insert into t values ('sad')"


MADE_IN_THE_SAME_TRANSACTION = ["1 2 3"]  # before PostgreSQL 17, that made no difference


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([ADD, USE], ["1", "2"]),
        ([ADD, "create table a ()", USE, USE], ["1 2", "3 4"]),
        ([OLD, ADD, USE], MADE_IN_THE_SAME_TRANSACTION),
        (["create type x as enum ()",  # made in a transaction that is over, since 2 is alone
          f"alter type x add value 'y'; select 'y'::x; {ADD}; {USE}"], ["1", "2/1/3"]),
        ([OLD, "vacuum", ADD, USE], ["1", "2", "3", "4"]),
        ([ADD, "vacuum", USE], ["1", "2", "3"]),
        ([f"{ADD}; {USE}"], ["1/1"]),
        (["create table a ()", f"select 1; {ADD}; {USE}; {USE}", USE], ["1", "2/2", "3"]),
        ([ADD, f"{USE}; alter type mood add value 'x'; select 'x'::mood"], ["1", "2/2"]),
        ([ADD, "alter table t alter m set default $$sad$$"], ["1", "2"]),
        ([ADD, "do $$ begin insert into t values ('sad'); end $$"], ["1", "2"]),
        ([ADD, f"{FUNCTION} sql as 'select ''sad''::mood'"], ["1", "2"]),
        ([ADD, f"{FUNCTION} plpgsql as $$begin return 'sad'; end$$"], ["1 2"]),
        ([ADD, "-- 'sad'\nselect 'sadly', \"sad\" from (select 1 as sad) as s"], ["1 2"]),
        ([ADD, "alter type mood add value 'glad' after 'sad'"], ["1 2"]),
        (["alter type public.\"mood\" add value if not exists E'sad'", USE], ["1", "2"]),
        ([ADD, "def up(c):\n c.execute(\"insert into t values ('sad')\")\n"], ["1", "2"]),
    ],
)  # fmt: skip
def test_a_commit_stands_exactly_where_postgresql_needs_one(
    empty_database, tmp_path, texts, expected
):
    """And the server agrees: what is planned runs, and in one transaction it would not."""
    address = empty_database.superuser
    with connect(address) as connection:
        version = connection.info.server_version
    if expected is MADE_IN_THE_SAME_TRANSACTION and version < 170_000:
        expected = ["1 2", "3"]
    assert groups(tmp_path, *texts, server_version=version) == expected
    if OLD not in texts:
        with connect(address) as connection:
            connection.execute(OLD.encode())
    if not any("vacuum" in text or text.startswith("def ") for text in texts):
        with connect(address) as connection:
            said = attempt(connection, ";".join(texts).encode())
            connection.rollback()
        assert (said is not None and said.sqlstate == "55P04") == (
            len(expected) > 1 or "/" in expected[0]
        )
    assert migrate.up(address, tmp_path).ok


def test_a_file_cut_by_an_enum_value_goes_on_where_it_failed(empty_database, tmp_path):
    address = empty_database.owner
    text = f"set local work_mem = '1MB'; {ADD}; {USE};\ninsert into t values ('bad')"
    assert migrate.up(address, write(tmp_path, OLD, text), to="1").ok
    result = migrate.up(address, tmp_path)
    assert [step.status for step in result.steps] == ["failed"]
    assert result.failure
    assert (result.failure.line, result.failure.sqlstate) == (2, "22P02")
    with connect(address) as connection:
        assert only(connection, "select count(*) from t") == {"count": 0}
        assert only(connection, "select enum_range(null::mood)::text as r") == {"r": "{ok,sad}"}
    write(tmp_path, OLD, text.replace("'bad'", "current_setting('work_mem')::text::mood"))
    failure = migrate.up(address, tmp_path).failure
    assert failure
    assert '"1MB"' in failure.message  # SET LOCAL of the part before holds in this one
    write(tmp_path, OLD, text.replace("bad", "sad"))
    assert migrate.up(address, tmp_path).ok
    with connect(address) as connection:
        assert rows(connection, "select m::text from t") == [{"m": "sad"}] * 2


def test_boundaries_are_shown(empty_database, tmp_path, cli):
    write(tmp_path, OLD, "vacuum t", ADD, USE, f"alter type mood add value 'x';\n{USE[:-5]}x')")
    up = ("migrate", "up", "--dir", str(tmp_path))
    rehearsed = cli(*up, "--dry-run", "--json", env=empty_database.environment)
    reasons = [step["reason"] for step in rehearsed.json["steps"]]
    assert reasons == [
        None,
        "outside a transaction: VACUUM in line 1 runs outside a transaction only",
        None,
        "after a commit: new value 'sad' of mood is used in line 1",
        "commits inside the file: new value 'x' of mood is used in line 2",
    ]
    done = cli(*up, env=empty_database.environment)
    assert done.status == 0
    assert all(reason in done.err for reason in reasons if reason)


def test_a_use_that_no_literal_shows_fails_and_leaves_nothing(empty_database, tmp_path):
    address = empty_database.owner
    with connect(address) as connection:
        connection.execute(OLD.encode())
    hidden = "insert into t select ('s' || 'ad')::mood"
    result = migrate.up(address, write(tmp_path, ADD, hidden), options=Options())
    assert result.failure
    assert result.failure.sqlstate == "55P04"
    assert [step.status for step in result.steps] == ["undone", "failed"]
