"""What a plan refuses, before anything is touched."""

from __future__ import annotations

import pytest

from migrating import FIVE, states, tables, write
from negspace import migrate
from negspace.errors import (
    InvalidInputError,
    MigrationFileError,
    RefusedError,
    UnavailableError,
)


@pytest.fixture
def address(empty_database):
    return empty_database.owner


def test_an_edited_file_is_refused_and_a_new_comment_is_not(address, tmp_path):
    migrate.up(address, write(tmp_path, FIVE), to="4")
    write(tmp_path, {"2_t2.up.sql": "/* why */ CREATE TABLE t2\r\n (id int);\r\n"})
    assert states(address, tmp_path)["2_t2"] == "applied"
    write(tmp_path, {"2_t2.up.sql": "create table t2 (id bigint)"})
    assert states(address, tmp_path)["2_t2"] == "edited"
    with pytest.raises(MigrationFileError, match=r"2_t2.up.sql: changed since it was applied"):
        migrate.up(address, tmp_path)
    assert len(tables(address)) == 4
    assert [p.file.name for p in migrate.validate(tmp_path, address)] == ["2_t2.up.sql"]
    assert migrate.validate(tmp_path) == ()


def test_a_missing_file_is_refused(address, tmp_path):
    migrate.up(address, write(tmp_path, FIVE), to="4")
    (tmp_path / "2_t2.up.sql").unlink()
    (tmp_path / "2_t2.down.sql").unlink()
    with pytest.raises(MigrationFileError, match=r"2_t2: applied .batch 1., and its file is gone"):
        migrate.up(address, tmp_path)
    assert states(address, tmp_path)["2_t2"] == "gone"
    assert migrate.down(address, tmp_path, steps=2).ok
    with pytest.raises(MigrationFileError, match="its file is gone"):
        migrate.down(address, tmp_path)


def test_a_late_migration_is_refused(address, tmp_path):
    migrate.up(address, write(tmp_path, FIVE), to="4")
    write(tmp_path, {"3_late.up.sql": "create table late ()"})
    with pytest.raises(MigrationFileError, match=r"3_late.up.sql: comes before 4_t4"):
        migrate.up(address, tmp_path)
    assert states(address, tmp_path)["3_late"] == "late"


def test_a_renumbered_file_is_the_same_migration(address, tmp_path):
    migrate.up(address, write(tmp_path, FIVE))
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / f"00{path.name}")
    assert set(states(address, tmp_path).values()) == {"applied"}
    assert migrate.up(address, tmp_path).steps == ()
    assert migrate.down(address, tmp_path, to="0").ok


def test_a_file_that_would_end_the_transaction_is_refused_with_its_line(address, tmp_path):
    write(tmp_path, FIVE | {"4_t4.up.sql": "begin;\ncreate table t4 ();\ncommit;"})
    with pytest.raises(MigrationFileError, match=r"4_t4.up.sql:1:1: BEGIN .*; and 1 more") as said:
        migrate.up(address, tmp_path)
    assert "no-transaction" in (said.value.hint or "")
    assert tables(address) == []


def test_what_has_no_way_down_is_refused(address, tmp_path):
    files = FIVE | {"4_t4.up.sql": "-- negspace: irreversible the old keys are gone\nselect 1"}
    write(tmp_path, files)
    (tmp_path / "4_t4.down.sql").unlink()
    (tmp_path / "3_t3.down.sql").unlink()
    migrate.up(address, tmp_path)
    with pytest.raises(RefusedError, match="4_t4 is declared irreversible: the old keys are gone"):
        migrate.down(address, tmp_path, steps=2)
    assert len(tables(address)) == 4
    with pytest.raises(RefusedError, match="4_t4"):
        migrate.down(address, tmp_path, to="0")


def test_versions_are_numbers_or_names(address, tmp_path):
    migrate.up(address, write(tmp_path, FIVE), to="0002")
    migrate.up(address, tmp_path, to="3_t3")
    assert tables(address) == ["t1", "t2", "t3"]
    for call in (migrate.up, migrate.down):
        with pytest.raises(InvalidInputError, match="no version 9"):
            call(address, tmp_path, to="9")
    with pytest.raises(InvalidInputError, match="exclude each other"):
        migrate.down(address, tmp_path, to="1", batch=True)


def test_no_database_is_unavailable(address, tmp_path):
    with pytest.raises(UnavailableError):
        migrate.status(address + "_not_there", write(tmp_path, FIVE))
