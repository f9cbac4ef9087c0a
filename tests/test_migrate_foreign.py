"""Folders that other tools wrote: their names, their own transactions, what needs autocommit."""

from __future__ import annotations

from pathlib import Path

import pytest

from negspace import migrate
from negspace.database import attempt, connect, only
from negspace.errors import MigrationFileError
from negspace.migrate import Options
from negspace.migrate.files import read_folder
from negspace.migrate.lexer import split
from negspace.migrate.script import MigrationFile
from negspace.migrate.statements import is_cluster_wide, is_frame, needs_autocommit

STRIP = Options(strip_transaction=True)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def one(text: str):
    (statement,) = split(text).statements
    return statement


@pytest.mark.parametrize(
    "text",
    [
        "create index concurrently i on t (a)",
        "create unique index concurrently if not exists i on t (a)",
        "drop index concurrently if exists i",
        "reindex (verbose) table concurrently t",
        "reindex database d",
        "alter table t detach partition p concurrently",
        "vacuum (analyze) t",
        "alter system set work_mem = '1MB'",
        "create database d",
        "drop tablespace s",
        "cluster",
        "discard all",
    ],
)
def test_what_needs_autocommit_is_recognised_as_the_server_does(text, empty_database):
    assert needs_autocommit(one(text))
    with connect(empty_database.superuser) as connection:
        said = attempt(connection, f"create table t (a int); {text}".encode())
    assert said is not None
    assert said.sqlstate == "25001"


@pytest.mark.parametrize(
    "text",
    [
        "create index concurrently_built on t (a)",
        "create table t (concurrently int)",
        "refresh materialized view concurrently v",
        "reindex table t",
        "analyze t",
        "cluster t",
        "alter table t add detached int, add concurrently int",
    ],
)
def test_the_rest_does_not(text):
    assert not needs_autocommit(one(text))


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ("begin", True),
        ("start transaction isolation level serializable", True),
        ("commit work", True),
        ("end", True),
        ("rollback", False),
        ("rollback to savepoint s", False),
        ("commit prepared 'x'", False),
        ("prepare transaction 'x'", False),
        ("savepoint s", False),
    ],
)
def test_a_frame_is_a_begin_or_a_commit(text, frame):
    assert is_frame(one(text)) is frame


@pytest.mark.parametrize(
    ("text", "wide"),
    [
        ("create role r", True),
        ("alter user u password 'x'", True),
        ("drop group g", True),
        ("alter system reset all", True),
        ("create database d", True),
        ("grant a to b", True),
        ("revoke a from b", True),
        ("grant select on t to b", False),
        ("create user mapping for u server s", False),
        ("create table role (user int)", False),
    ],
)
def test_what_belongs_to_the_whole_server(text, wide):
    assert is_cluster_wide(one(text)) is wide


def test_own_transactions_run_on_request_all_in_one(empty_database, tmp_path):
    address = empty_database.owner
    folder = write(
        tmp_path,
        {
            "1_a.up.sql": "BEGIN;\ncreate table a (x int);\nCOMMIT;",
            "2_b.up.sql": "-- negspace: strip-transaction\nbegin; create table b (x itn); end;",
        },
    )
    with pytest.raises(MigrationFileError, match=r"1_a.up.sql:1:1: BEGIN") as refused:
        migrate.up(address, folder)
    assert "--strip-transaction" in refused.value.hint
    assert [p.file.name for p in migrate.validate(folder)] == ["1_a.up.sql", "1_a.up.sql"]
    assert migrate.validate(folder, strip_transaction=True) == ()
    result = migrate.up(address, folder, options=STRIP)
    assert [step.status for step in result.steps] == ["undone", "failed"]
    assert (result.failure.line, result.failure.column) == (2, 26)
    write(
        tmp_path, {"2_b.up.sql": "-- negspace: strip-transaction\nbegin; create table b (); end;"}
    )
    assert migrate.up(address, folder, options=STRIP).ok
    assert migrate.validate(folder, address, strip_transaction=True) == ()


def test_the_checksum_is_of_the_whole_file():
    text = b"begin; select 1; commit;"
    plain, stripped = (
        MigrationFile(Path("1_a.up.sql"), text),
        MigrationFile(Path("1_a.up.sql"), text, strip_transaction=True),
    )
    assert plain.checksum == stripped.checksum
    assert (len(plain.statements), len(stripped.statements)) == (3, 1)


def test_a_file_that_needs_autocommit_runs_so_without_a_word(empty_database, tmp_path):
    folder = write(
        tmp_path,
        {
            "1_a.up.sql": "create table a (x int)",
            "2_i.up.sql": "begin; insert into a values (1); commit;"
            " create index concurrently a_x on a (x);",
        },
    )
    result = migrate.up(empty_database.owner, folder, options=STRIP)
    assert result.ok
    assert [step.transaction for step in result.steps] == [True, False]
    with connect(empty_database.owner) as connection:
        found = only(
            connection, "select indisvalid from pg_index where indexrelid = 'a_x'::regclass"
        )
    assert found == {"indisvalid": True}


def test_names_of_other_tools(tmp_path):
    folder = read_folder(
        write(
            tmp_path,
            {
                "0001_create_a.up.sql": "",
                "0001_create_b.up.sql": "",
                "0001_drop_b.down.sql": "",
                "0002_both_up.sql": "",
                "0002_both_down.sql": "",
                "0003_one_word.up.sql": "",
                "0003_other_word.down.sql": "",
            },
        )
    )
    assert [(m.name, m.down and m.down.path.name) for m in folder.migrations] == [
        ("0001_create_a", None),
        ("0001_create_b", None),
        ("0002_both", "0002_both_down.sql"),
        ("0003_one_word", "0003_other_word.down.sql"),
    ]
    assert [p.file.name for p in folder.problems] == ["0001_drop_b.down.sql"]
