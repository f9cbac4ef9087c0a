"""The forms of other tools: which ways a folder has, what is wrong with it, and runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrating import states, tables
from negspace import migrate
from negspace.errors import MigrationFileError
from negspace.migrate import Ground, squash, validate
from negspace.migrate.files import read_folder

DIESEL = {
    "2024-01-02-000000_users/up.sql": "create table users (id int);",
    "2024-01-02-000000_users/down.sql": "drop table users;",
    "2024-01-10-000000_fast/up.sql": "create index concurrently users_id_idx on users (id);",
    "2024-01-10-000000_fast/down.sql": "drop index users_id_idx;",
    "2024-01-10-000000_fast/metadata.toml": "run_in_transaction = false\n",
}
DBMATE = {
    "20240102_users.sql": (
        "-- migrate:up\ncreate table users (id int);\n\n-- migrate:down\ndrop table users;\n"
    ),
    "20240110_fast.sql": (
        "-- why\n-- migrate:up transaction:false\ncreate index concurrently i on users (id);\n"
        "-- migrate:down\ndrop index i;\n"
    ),
}
GOOSE = {
    "1_users.sql": (
        "-- +goose Up\n-- +goose StatementBegin\n"
        "create function two() returns int language plpgsql as $$ begin return 2; end $$;\n"
        "-- +goose StatementEnd\ncreate table users (id int);\n"
        "-- +goose Down\ndrop function two; drop table users;\n"
    ),
    "2_fast.sql": (
        "-- +goose NO TRANSACTION\n-- +goose Up\ncreate index concurrently i on users (id);\n"
        "-- +goose Down\ndrop index concurrently i;\n"
    ),
}
FLYWAY = {
    "V1__users.sql": "create table users (id int);",
    "U1__users.sql": "drop table users;",
    "V1.1__fast.sql": "create index concurrently i on users (id);",
    "U1.1__fast.sql": "drop index i;",
}
GOLANG_MIGRATE = {
    "1_users.up.sql": "create table users (id int);",
    "1_users.down.sql": "drop table users;",
    "10_fast.up.sql": "create index concurrently i on users (id);",
    "10_fast.down.sql": "drop index i;",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8", newline="")
    return folder


def problems(folder: Path) -> list[tuple[str, str]]:
    """Where, below the folder, and what."""
    return [(p.where.removeprefix(f"{folder}/"), p.message) for p in validate(folder)]


@pytest.mark.parametrize(
    "files",
    [DIESEL, DBMATE, GOOSE, GOLANG_MIGRATE, FLYWAY],
    ids=["diesel", "dbmate", "goose", "golang-migrate", "flyway"],
)
def test_a_folder_of_each_form_goes_up_and_down(empty_database, tmp_path, files):
    write(tmp_path, files)
    assert problems(tmp_path) == []
    users, fast = read_folder(tmp_path).migrations
    assert (users.up.transaction, fast.up.transaction) == (True, False)
    assert users.reversible
    assert fast.reversible
    assert migrate.up(empty_database.owner, tmp_path).ok
    assert tables(empty_database.owner) == ["users"]
    assert set(states(empty_database.owner, tmp_path).values()) == {"applied"}
    assert migrate.down(empty_database.owner, tmp_path, to="0").ok
    assert tables(empty_database.owner) == []


def test_the_marks_of_transactions_are_heeded_and_not_only_the_statements(tmp_path):
    """Nothing in these statements asks for it: it is what the marks say."""
    write(
        tmp_path,
        {
            "1_a.sql": "-- migrate:up transaction:false\nselect 1;\n-- migrate:down\nselect 1;\n",
            "2_b.sql": "-- migrate:up\nselect 1;\n-- migrate:down transaction:false\nselect 1;\n",
        },
    )
    a, b = read_folder(tmp_path).migrations
    assert a.down
    assert b.down
    assert [f.transaction for f in (a.up, a.down, b.up, b.down)] == [False, True, True, False]
    goose = tmp_path / "goose"
    goose.mkdir()
    write(goose, {"1_a.sql": "-- +goose NO TRANSACTION\n-- +goose Up\nselect 1;\n"})
    assert not read_folder(goose).migrations[0].up.transaction
    diesel = tmp_path / "diesel"
    diesel.mkdir()
    both = {"1_a/up.sql": "select 1;", "1_a/metadata.toml": "run_in_transaction = false"}
    write(diesel, both)
    assert not read_folder(diesel).migrations[0].up.transaction


@pytest.mark.parametrize(
    ("text", "up_at", "down_at"),
    [
        ("\ufeff-- migrate:up\r\nselect é;\r\n\r\n-- migrate:down\r\n  wrong;\r\n", (2, 8), (5, 3)),
        ("-- +goose Up\nselect é;\n-- +goose Down\n\nwrong;\n", (2, 8), (5, 1)),
    ],
    ids=["dbmate", "goose"],
)
def test_places_stay_those_of_the_file(empty_database, tmp_path, text, up_at, down_at):
    file = write(tmp_path, {"1_a.sql": text}) / "1_a.sql"
    failure = migrate.up(empty_database.owner, tmp_path).failure
    assert failure
    assert (failure.file, failure.line, failure.column) == (file, *up_at)
    file.write_text(text.replace("é", "1"), encoding="utf-8", newline="")
    assert migrate.up(empty_database.owner, tmp_path).ok
    failure = migrate.down(empty_database.owner, tmp_path).failure
    assert failure
    assert (failure.file, failure.line, failure.column) == (file, *down_at)


@pytest.mark.parametrize(
    ("files", "where", "message"),
    [
        (
            {"1_a.up.sql": "select 1", "2_b.sql": "-- migrate:up\nselect 1"},
            None,
            "migrations of several forms: 1_a.up.sql (pairs), 2_b.sql (dbmate)",
        ),
        (
            {"1_a/up.sql": "select 1", "2_b.sql": "-- +goose Up\nselect 1"},
            None,
            "migrations of several forms: 1_a/up.sql (folders), 2_b.sql (goose)",
        ),
        (
            {"1_a.sql": "-- migrate:up\nselect 1;\n-- +goose Down\nselect 1"},
            "1_a.sql:3",
            "marks of dbmate and of goose",
        ),
        (
            {"1_a.up.sql": "select 1;\n-- migrate:down\ndrop table t;"},
            "1_a.up.sql:2",
            "a mark of dbmate in a file of the form NUMBER_name.up.sql and NUMBER_name.down.sql",
        ),
        (
            {"1_a/up.sql": "-- +goose Up\nselect 1"},
            "1_a/up.sql:1",
            "a mark of goose in a file of the form up.sql and down.sql",
        ),
        ({"1_a.sql": "-- migrate:up fast"}, "1_a.sql:1", "unknown directive 'migrate:up fast'"),
        ({"1_a.sql": "\n-- migrate:dawn"}, "1_a.sql:2", "unknown directive 'migrate:dawn'"),
        ({"1_a.sql": "-- +goose Upp"}, "1_a.sql:1", "unknown directive '+goose upp'"),
        (
            {"1_a.sql": "-- migrate:down\nselect 1"},
            "1_a.sql",
            "dbmate's mark migrate:up is missing",
        ),
        (
            {"1_a.sql": "-- +goose Down\nselect 1;\n-- +goose Up\nselect 1"},
            "1_a.sql:1",
            "+goose down is out of place",
        ),
        (
            {"1_a.sql": "-- migrate:up\n-- migrate:down\n-- migrate:up"},
            "1_a.sql:3",
            "migrate:up is out of place",
        ),
        (
            {"1_a.sql": "select 1;\n-- migrate:up\nselect 1"},
            "1_a.sql:2",
            "something before the first mark that is no -- comment",
        ),
        (
            {"1_a.sql": "-- +goose Up\n-- +goose StatementBegin\nselect 1"},
            "1_a.sql:2",
            "StatementBegin without StatementEnd",
        ),
        (
            {"1_a.sql": "-- +goose Up\nselect 1;\n-- +goose StatementEnd"},
            "1_a.sql:3",
            "StatementEnd without StatementBegin",
        ),
        (
            {"1_a.sql": "-- +goose ENVSUB ON\n-- +goose Up"},
            "1_a.sql:1",
            "goose's ENVSUB is not supported",
        ),
        ({"1_a.go": "package migrations"}, "1_a.go", "a migration in Go can't be run"),
        (
            {"1_a/down.sql": "select 1"},
            "1_a/down.sql",
            "a down without an up: up.sql is missing",
        ),
        (
            {"1_a/up.sql": "select 1", "01_a/up.sql": "select 1"},
            "1_a/up.sql",
            "the same version and name as 01_a",
        ),
        (
            {"1_a.sql": "-- migrate:up\nselect 1", "01_a.sql": "-- migrate:up\nselect 1"},
            "1_a.sql",
            "the same version and name as 01_a.sql",
        ),
        ({"1_a.sql": "-- migrate:up\nselect '"}, "1_a.sql:2:8", "string is never closed"),
    ],
)
def test_what_is_wrong_with_a_form_is_said_and_nothing_applied(
    empty_database, tmp_path, files, where, message
):
    found = problems(write(tmp_path, files))
    assert found[0] == (where or str(tmp_path), message)
    assert all(problem.hint for problem in validate(tmp_path))
    with pytest.raises(MigrationFileError):
        migrate.up(empty_database.owner, tmp_path)
    assert migrate.history(empty_database.owner) == ()


def test_metadata_that_is_no_toml_is_said(tmp_path):
    write(tmp_path, {"1_a/up.sql": "select 1", "1_a/metadata.toml": "run_in_transaction"})
    ((where, message),) = problems(tmp_path)
    assert where == "1_a/metadata.toml"
    assert message.startswith("no TOML: ")


@pytest.mark.parametrize(
    ("files", "made"),
    [
        (DIESEL, ["TIME_more/down.sql", "TIME_more/up.sql"]),
        (DBMATE, ["TIME_more.sql"]),
        (GOOSE, ["3_more.sql"]),
        (GOLANG_MIGRATE, ["11_more.down.sql", "11_more.up.sql"]),
        (FLYWAY, ["U2__more.sql", "V2__more.sql"]),
        ({"V2024.01.02__a.sql": "select 1"}, ["UTIME__more.sql", "VTIME__more.sql"]),
    ],
)
def test_new_keeps_the_form_of_the_folder(tmp_path, files, made):
    there = set(write(tmp_path, files).rglob("*.sql"))
    up, down = migrate.new(tmp_path, "more")
    found = sorted(str(p.relative_to(tmp_path)) for p in set(tmp_path.rglob("*.sql")) - there)
    number = read_folder(tmp_path).migrations[-1].version
    assert [name.replace(number, "TIME") if len(number) > 2 else name for name in found] == made
    assert {str(p.relative_to(tmp_path)) for p in (up, down)} == set(found)
    assert problems(tmp_path) == []
    assert read_folder(tmp_path).migrations[-1].key[1] == "more"
    if up == down:
        assert "-- " in up.read_text()


@pytest.mark.parametrize("files", [DIESEL, DBMATE, GOOSE, FLYWAY])
def test_a_squash_keeps_the_form_of_the_folder_and_each_file(empty_database, tmp_path, files):
    write(tmp_path, files)
    third = migrate.new(tmp_path, "more")
    place = Ground(empty_database.owner, empty_database.superuser)
    *first, _ = read_folder(tmp_path).migrations
    made = squash(place, tmp_path, to=first[-1].name)
    assert made.replaces == tuple(migration.name for migration in first)
    assert problems(tmp_path) == []
    assert [m.key[1] for m in read_folder(tmp_path).migrations] == ["baseline", "more"]
    kept = {str(p.relative_to(tmp_path / "squashed")) for p in tmp_path.glob("squashed/**/*.*")}
    assert {name for name in kept if not (tmp_path / "squashed" / name).is_dir()} == set(files)
    assert all(path.exists() for path in third)
    assert migrate.up(empty_database.owner, tmp_path).ok
    assert tables(empty_database.owner) == ["users"]


def test_an_empty_way_down_is_none(empty_database, tmp_path):
    write(
        tmp_path,
        {
            "1_a.sql": "-- migrate:up\ncreate table a ();\n-- migrate:down\n\n",
            "2_b.sql": "-- migrate:up\ncreate table b ();\n",
        },
    )
    assert [m.reversible for m in read_folder(tmp_path).migrations] == [False, False]
    assert migrate.up(empty_database.owner, tmp_path).ok


def test_what_only_looks_like_another_form_is_left_alone(tmp_path):
    write(
        tmp_path,
        {
            "1_a.up.sql": "select '-- no mark: migrate:up'; -- see migrate:up of dbmate",
            "2_b_test.go": "package migrations",
            "main.go": "package migrations",
            "seeds/users.sql": "select 1",
            "3_old/notes.txt": "no migration",
        },
    )
    assert problems(tmp_path) == []
    assert [m.name for m in read_folder(tmp_path).migrations] == ["1_a"]
