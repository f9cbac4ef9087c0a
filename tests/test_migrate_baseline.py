"""Baseline: the version of a database recognised, and other tools' histories adopted."""

from __future__ import annotations

import pytest

from migrating import ledger, states, tables, write
from negspace import migrate
from negspace.database import connect, rows
from negspace.errors import FileError, InvalidInputError, RefusedError
from negspace.migrate.baselining import Baseline, baseline
from negspace.migrate.shadow import Ground

FILES = {
    "1_a.up.sql": "create table a (id int)",
    "2_b.up.sql": "create table b (id int)",
    "3_c.up.sql": "create table c (id int)",
}


def changed(database, text: str) -> None:
    with connect(database.owner) as connection:
        connection.execute(text.encode())


def based(database, folder, **options) -> Baseline:
    ground = Ground(database.owner, database.superuser)
    return baseline(lambda: ground, database.owner, folder, **options)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path, FILES)


@pytest.fixture
def two(empty_database):
    """A database that somebody else brought to the second version."""
    changed(empty_database, "create table a (id int); create table b (id int)")
    return empty_database


def test_the_version_is_recognised_and_up_goes_on_from_there(two, folder):
    assert based(two, folder).migrations == ("1_a", "2_b")
    assert [row[:3] for row in ledger(two.owner)] == [
        ("1_a", "up", "success"),
        ("2_b", "up", "success"),
    ]
    assert [step.name for step in migrate.up(two.owner, folder).steps] == ["3_c"]
    assert set(states(two.owner, folder).values()) == {"applied"}
    assert tables(two.owner) == ["a", "b", "c"]


def test_the_ledger_says_that_nothing_ran(two, folder):
    based(two, folder)
    entry = migrate.history(two.owner)[0]
    assert entry.metadata["baseline"] == "catalog"
    assert entry.duration_ms == 0


def test_an_empty_database_is_at_none(empty_database, folder):
    assert based(empty_database, folder).migrations == ()
    assert migrate.history(empty_database.owner) == ()


def test_a_dry_run_writes_nothing(two, folder):
    assert based(two, folder, dry_run=True).migrations == ("1_a", "2_b")
    assert migrate.history(two.owner) == ()


def test_versions_that_differ_in_data_alone_are_asked_for(two, folder):
    write(folder, {"2_z.up.sql": "insert into b values (1)"})
    with pytest.raises(RefusedError, match="the same at 2_b, 2_z"):
        based(two, folder)
    assert migrate.history(two.owner) == ()
    assert based(two, folder, version="2_b").migrations == ("1_a", "2_b")


def test_a_database_at_no_version_is_refused_with_what_differs(two, folder):
    changed(two, "alter table a add x int")
    with pytest.raises(RefusedError, match=r"nearest is 2_b, which differs in table public\.a"):
        based(two, folder)
    with pytest.raises(RefusedError, match=r"not what these migrations make: table public.a diff"):
        based(two, folder, version="2")
    assert migrate.history(two.owner) == ()
    assert based(two, folder, version="2", unchecked=True).migrations == ("1_a", "2_b")


def test_a_database_with_a_ledger_is_refused(empty_database, folder):
    assert migrate.up(empty_database.owner, folder).ok
    with pytest.raises(RefusedError, match="has 3 migrations as applied already"):
        based(empty_database, folder)


def test_what_contradicts_itself_is_refused(two, folder):
    with pytest.raises(InvalidInputError, match="exclude each other"):
        based(two, folder, version="1", adopt=True)
    with pytest.raises(InvalidInputError, match="nothing to go by"):
        based(two, folder, unchecked=True)
    with pytest.raises(InvalidInputError, match="unknown tool"):
        based(two, folder, adopt=True, tool="make")


# ── other tools' histories ───────────────────────────────────────────────────────────────

GOLANG = "create table schema_migrations (version bigint primary key, dirty boolean not null);"
DBMATE = "create table schema_migrations (version varchar(128) primary key);"
ALEMBIC = "create table alembic_version (version_num varchar(32) primary key);"
FLYWAY = (
    "create table flyway_schema_history (installed_rank int primary key, version varchar(50),"
    " description varchar(200) not null, type varchar(20) not null, script varchar(1000) not null,"
    " checksum int, installed_by varchar(100) not null, installed_on timestamp default now(),"
    " execution_time int not null, success boolean not null);"
)
KNEX = (
    "create table knex_migrations (id serial primary key, name varchar(255), batch int,"
    " migration_time timestamptz); create table knex_migrations_lock (index serial primary key,"
    " is_locked int);"
)


def flown(rank: int, version: str | None, *, kind: str = "SQL", success: bool = True) -> str:
    said = "null" if version is None else f"'{version}'"
    return (
        f"insert into flyway_schema_history values ({rank}, {said}, 'd', '{kind}', 'V{version}',"
        f" 1, 'me', now(), 1, {success});"
    )


HISTORIES = {
    "golang-migrate": GOLANG + "insert into schema_migrations values (2, false)",
    "dbmate": DBMATE + "insert into schema_migrations values ('1'), ('2')",
    "flyway": FLYWAY
    + flown(1, "1", kind="BASELINE")
    + flown(2, "2")
    + flown(3, "3")
    + flown(4, None)
    + flown(5, "3", kind="UNDO_SQL"),
    "knex": KNEX
    + "insert into knex_migrations (name) values ('1_a.js'), ('2_b.ts');"
    + "insert into knex_migrations_lock (is_locked) values (0)",
}


def everything(database, text: str) -> list[object]:
    with connect(database.owner) as connection:
        return list(rows(connection, text))


@pytest.mark.parametrize("tool", HISTORIES)
@pytest.mark.parametrize("named", [True, False])
def test_a_history_is_adopted_and_left_as_it_is(two, folder, tool, named):
    changed(two, HISTORIES[tool])
    table = "schema_migrations" if tool in {"golang-migrate", "dbmate"} else None
    table = table or {"flyway": "flyway_schema_history", "knex": "knex_migrations"}[tool]
    query = "select row_to_json(t)::text as said from " + table + " t order by 1"
    before = everything(two, query)
    found = based(two, folder, adopt=True, tool=tool if named else None)
    assert (found.tool, found.migrations) == (tool, ("1_a", "2_b"))
    assert everything(two, query) == before
    assert migrate.history(two.owner)[0].metadata["baseline"] == tool
    assert [step.name for step in migrate.up(two.owner, folder).steps] == ["3_c"]


REVISIONS = {
    "aa11_a.py": "revision = 'aa11'\ndown_revision = None\ndef upgrade(): raise SystemExit(1)\n",
    "bb22_b.py": "revision: str = 'bb22'\ndown_revision: str | None = 'aa11'\n",
    "cc33_c.py": "revision = 'cc33'\ndown_revision = ('bb22',)\n",
    "env_like.py": "import os\n",
}


def test_alembic_s_history_is_adopted_by_its_revision_files(two, tmp_path):
    folder, revisions = tmp_path / "folder", tmp_path / "versions"
    folder.mkdir()
    revisions.mkdir()
    write(revisions, REVISIONS)
    named = {"1_aa11_a.up.sql": FILES["1_a.up.sql"], "2_bb22_b.up.sql": FILES["2_b.up.sql"]}
    write(folder, named | {"3_cc33_c.up.sql": FILES["3_c.up.sql"]})
    changed(two, ALEMBIC + "insert into alembic_version values ('bb22')")
    with pytest.raises(InvalidInputError, match="needs its revision files"):
        based(two, folder, adopt=True)
    with pytest.raises(RefusedError, match="has revision bb22"):
        based(two, folder, adopt=True, revisions=folder)
    found = based(two, folder, adopt=True, revisions=revisions)
    assert (found.tool, found.migrations) == ("alembic", ("1_aa11_a", "2_bb22_b"))
    write(revisions, {"dd44_d.py": "revision = "})
    changed(two, "select 1")
    with pytest.raises(RefusedError, match="already"):
        based(two, folder, adopt=True, revisions=revisions)


def test_revision_files_that_are_no_python_are_said(two, folder, tmp_path):
    revisions = tmp_path / "versions"
    revisions.mkdir()
    write(revisions, {"dd44_d.py": "revision = "})
    changed(two, ALEMBIC + "insert into alembic_version values ('bb22')")
    with pytest.raises(FileError, match="no Python"):
        based(two, folder, adopt=True, revisions=revisions)


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (GOLANG + "insert into schema_migrations values (2, true)", "version 2 failed halfway"),
        (GOLANG + "insert into schema_migrations values (9, false)", "has 9 as applied, and"),
        (DBMATE + "insert into schema_migrations values ('1'), ('7')", "has 7 as applied, and"),
        (FLYWAY + flown(1, "1") + flown(2, "2", success=False), "a failed migration: V2"),
        (FLYWAY + flown(1, "1.1"), "has 1.1 as applied, and"),
        (KNEX + "insert into knex_migrations (name) values ('1_x.js')", "has 1_x.js as applied"),
        (KNEX + "insert into knex_migrations_lock (is_locked) values (1)", "history is locked"),
        ("select 1", "there is no history of another tool"),
        (DBMATE + KNEX, "histories of several tools: knex, dbmate"),
        (GOLANG + "insert into schema_migrations values (1, false)", "not what these migrations"),
    ],
)
def test_a_history_that_can_t_be_adopted_is_refused_and_nothing_written(two, folder, history, said):
    changed(two, history)
    with pytest.raises(RefusedError, match=said) as refused:
        based(two, folder, adopt=True)
    assert refused.value.hint
    assert migrate.history(two.owner) == ()


def test_a_named_tool_without_a_history_is_refused(two, folder):
    changed(two, DBMATE)
    with pytest.raises(RefusedError, match="no history of golang-migrate"):
        based(two, folder, adopt=True, tool="golang-migrate")


def test_the_command_line_recognises_and_adopts(cli, two, folder):
    environment = {"DATABASE_URL": two.superuser}
    arguments = ("migrate", "baseline", "--dir", str(folder))
    tried = cli(*arguments, "--dry-run", env=environment)
    assert (tried.status, tried.out) == (0, "would record 2 migrations as applied, to 2_b\n")
    refused = cli(*arguments, "1", env=environment)
    assert refused.status == 4
    assert "table public.b differ" in refused.err
    changed(two, HISTORIES["dbmate"])
    done = cli(*arguments, "--adopt", env=environment)
    assert done.out == "recorded 2 migrations as applied from the history of dbmate, to 2_b\n"
    again = cli(*arguments, "--json", env=environment)
    assert again.status == 4


def test_the_rows_keep_what_the_catalog_was(two, folder):
    based(two, folder)
    last, first = (entry.metadata for entry in migrate.history(two.owner))
    assert first["catalog_before"] == last["catalog_after"] is not None
    assert migrate.up(two.owner, folder).ok
