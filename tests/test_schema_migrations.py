"""Each migration undoes what it did, with data in the tables too."""

from __future__ import annotations

import re

import pytest

from conftest import MIGRATIONS
from negspace import database
from negspace.database import sql
from schema_data import fill
from schema_rows import TABLES, add, digest
from schema_snapshot import snapshot

NAMES = [file.name.removesuffix(".up.sql") for file in sorted(MIGRATIONS.glob("*.up.sql"))]


def run(connection, name, direction):
    """One migration in one transaction, as the runner does it."""
    file = MIGRATIONS / f"{name}.{direction}.sql"
    with connection.transaction():
        connection.execute(file.read_text(encoding="utf-8").encode())


def undo_all(connection):
    for name in reversed(NAMES):
        run(connection, name, "down")


def count(connection, table):
    query = sql.SQL("select count(*) as n from {}").format(sql.Identifier(table))
    return database.only(connection, query)["n"]


@pytest.fixture
def empty(empty_database):
    with database.connect(empty_database.owner, autocommit=True) as connection:
        yield connection


@pytest.fixture
def full(postgres, template):
    made = postgres.create(template)  # without the runner's ledger, which no down removes
    with database.connect(made.owner, autocommit=True) as connection:
        yield connection
    postgres.drop(made.name)


def test_every_file_has_its_twin_and_its_number():
    found = {file.name for file in MIGRATIONS.glob("*.sql")}
    assert found == {f"{name}.{way}.sql" for name in NAMES for way in ("up", "down")}
    for name in NAMES:
        assert re.fullmatch(r"[0-9]{3}_[a-z][a-z0-9_]*", name)
    assert len({name[:3] for name in NAMES}) == len(NAMES)  # gaps are nobody's loss
    assert NAMES[:2] == ["001_initial_schema", "002_add_audit_tables"]


def test_each_step_down_restores_and_up_again_rebuilds(empty):
    states = [snapshot(empty)]
    for name in NAMES:
        run(empty, name, "up")
        states.append(snapshot(empty))
        assert states[-1] != states[-2]
    for number in reversed(range(len(NAMES))):
        run(empty, NAMES[number], "down")
        assert snapshot(empty) == states[number], NAMES[number]
        run(empty, NAMES[number], "up")
        assert snapshot(empty) == states[number + 1], NAMES[number]
        run(empty, NAMES[number], "down")
    for name in NAMES:
        run(empty, name, "up")
    assert snapshot(empty) == states[-1]


def test_all_down_leaves_the_catalog_as_it_was_found_with_data_in_it(empty, full):
    with full.transaction():
        fill(full, seed=3)
        for table in TABLES[4:]:
            add(full, table)
    assert {table: count(full, table) > 0 for table in TABLES} == dict.fromkeys(TABLES, True)
    undo_all(full)
    assert snapshot(full) == snapshot(empty)
    for name in NAMES:
        run(full, name, "up")
    assert {table: count(full, table) for table in TABLES} == dict.fromkeys(TABLES, 0)


def test_undoing_the_second_loses_no_row_of_the_first(full):
    with full.transaction():
        fill(full, seed=5)
    core = [*TABLES[:4], "api_keys", "security_audit"]
    assert core[2:4] == ["analysis_results", "processing_queue"]
    before = {table: count(full, table) for table in core}
    copies = "select id, duplicate_of from images where is_duplicate order by id"
    duplicates = database.rows(full, copies)
    assert duplicates
    for name in reversed(NAMES[1:]):
        run(full, name, "down")
    assert {table: count(full, table) for table in core} == before
    for name in NAMES[1:]:
        run(full, name, "up")
    assert {table: count(full, table) for table in core} == before
    # found again by their content: as many, though the oldest is the original now
    assert len(database.rows(full, copies)) == len(duplicates)


def test_what_was_taken_in_twice_before_there_were_duplicates(empty):
    run(empty, NAMES[0], "up")
    content = digest()
    first = add(empty, "images", file_hash=content)
    again = add(empty, "images", file_hash=content, user_id=first["user_id"])
    other = add(empty, "images", file_hash=content)
    for name in NAMES[1:]:
        run(empty, name, "up")
    found = database.rows(empty, "select id, duplicate_of from images order by id")
    assert [row["duplicate_of"] for row in found] == [None, first["id"], None]
    assert [row["id"] for row in found] == [first["id"], again["id"], other["id"]]


def test_the_snapshot_sees_what_is_left_behind(empty):
    before = snapshot(empty)
    for leave in (
        "create table left_behind (id int)",
        "create function left_behind() returns int language sql as 'select 1'",
        "create type left_behind as enum ('a')",
        "grant create on schema public to app_user",
        "create schema left_behind",
        "create sequence left_behind",
    ):
        with empty.transaction(force_rollback=True):
            empty.execute(leave)
            assert snapshot(empty) != before, leave
    assert snapshot(empty) == before
