"""Migration files: what a folder holds, what is wrong with it, directives, checksums."""

from __future__ import annotations

from pathlib import Path

import pytest

from negspace.errors import FileError, InvalidInputError, MigrationFileError
from negspace.migrate import new, validate
from negspace.migrate.files import read_folder
from negspace.migrate.script import MigrationFile


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
    return folder


def names(folder: Path) -> list[str]:
    return [migration.name for migration in read_folder(folder).migrations]


def problems(folder: Path) -> list[tuple[str, str]]:
    """Where, below the folder, and what."""
    return [(p.where.removeprefix(f"{folder}/"), p.message) for p in validate(folder)]


def sql(text: str | bytes) -> MigrationFile:
    return MigrationFile(Path("1_a.up.sql"), text if isinstance(text, bytes) else text.encode())


def python(text: str) -> MigrationFile:
    return MigrationFile(Path("1_a.py"), text.encode())


def test_order_is_that_of_the_numbers_then_of_the_names(tmp_path):
    given = ["10_j", "9_i", "002_b", "0003_c", "3_a", "20240102030405_t", "2024-01-02_d", "1-1_x"]
    write(tmp_path, {f"{name}.up.sql": "select 1" for name in given})
    found = ["002_b", "3_a", "0003_c", "9_i", "10_j", "1-1_x", "2024-01-02_d", "20240102030405_t"]
    assert names(tmp_path) == found


def test_a_migration_has_its_up_its_down_or_both_in_python(tmp_path):
    write(
        tmp_path,
        {
            "1_a.up.sql": "",
            "1_a.down.sql": "",
            "2_b.up.sql": "",
            "3_c.py": "def up(connection): pass",
            "README.md": "none of ours",
            "helpers.py": "none of ours",
            ".4_d.up.sql": "hidden",
        },
    )
    found = read_folder(tmp_path)
    a, b, c = found.migrations
    assert (a.version, a.up.path.name, a.down and a.down.path.name) == (
        "1",
        "1_a.up.sql",
        "1_a.down.sql",
    )
    assert b.down is None
    assert c.up is c.down
    assert found.checked() == ()


@pytest.mark.parametrize(
    ("files", "where", "message"),
    [
        ({"1_a.down.sql": ""}, "1_a.down.sql", "a down without an up: 1_a.up.sql is missing"),
        ({"a.up.sql": ""}, "a.up.sql", "not a migration's name"),
        ({"1_a.sql": ""}, "1_a.sql", "not a migration's name"),
        (
            {"1_a.up.sql": "", "01_a.up.sql": ""},
            "1_a.up.sql",
            "the same version and name as 01_a.up.sql",
        ),
        ({"1_a.up.sql": "", "1_a.py": ""}, "1_a.up.sql", "the same version and name as 1_a.py"),
        ({"1_a.up.sql": b"select 1;\nselect '\xff'"}, "1_a.up.sql:2", "byte 0xff is not UTF-8"),
        ({"1_a.up.sql": "select 1".encode("utf-16")}, "1_a.up.sql:1", "UTF-16, not UTF-8"),
        ({"1_a.up.sql": "select 1;\n  select 'x"}, "1_a.up.sql:2:10", "string is never closed"),
        ({"1_a.up.sql": "\n\\i other.sql"}, "1_a.up.sql:2:1", "psql command \\i"),
        ({"1_a.up.sql": "-- x\n-- negspace: fast"}, "1_a.up.sql:2", "unknown directive 'fast'"),
        (
            {"1_a.up.sql": "-- negspace: no-transaction now"},
            "1_a.up.sql:1",
            "unknown directive 'no-transaction now'",
        ),
        (
            {"1_a.up.sql": "--negspace:irreversible"},
            "1_a.up.sql:1",
            "irreversible without a reason",
        ),
        (
            {"1_a.up.sql": "-- negspace: irreversible data", "1_a.down.sql": ""},
            "1_a.up.sql",
            "declared irreversible, and it has a down",
        ),
        ({"1_a.py": "def up(:"}, "1_a.py:1:8", "no Python: invalid syntax"),
        ({"1_a.py": "def down(c): pass"}, "1_a.py", "no function up(connection)"),
        ({"1_a.py": "# negspace: x\ndef up(c): pass"}, "1_a.py:1", "unknown directive 'x'"),
        (
            {"1_a.up.sql": "select 1;\nbegin;\nselect 2; COMMIT"},
            "1_a.up.sql:2:1",
            "BEGIN in a file that runs inside the run's transaction",
        ),
        (
            {"1_a.up.sql": "copy t from stdin;"},
            "1_a.up.sql:1:1",
            "COPY with the client's standard input or output",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, files, where, message):
    found = problems(write(tmp_path, files))
    assert found[0] == (where, message)
    assert all(problem.hint for problem in validate(tmp_path))


def test_everything_wrong_is_said_at_once(tmp_path):
    write(tmp_path, {"1_a.up.sql": "begin; rollback", "2_b.up.sql": "select '", "3_c.down.sql": ""})
    assert [where for where, _ in problems(tmp_path)] == [
        "3_c.down.sql",
        "2_b.up.sql:1:8",
        "1_a.up.sql:1:1",
        "1_a.up.sql:1:8",
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "savepoint a; rollback to a; release a",
        "rollback to savepoint a",
        "do $$ begin end $$",
        "create function f() returns int begin atomic select 1; end",
        "copy t from '/x'",
        "select 'commit;'",
        "create table begin ()",
        "set transaction read only",
    ],
)
def test_what_only_looks_like_the_end_of_a_transaction_is_let_through(tmp_path, statement):
    assert problems(write(tmp_path, {"1_a.up.sql": statement})) == []


def test_a_file_outside_the_transaction_may_have_its_own(tmp_path):
    own = "-- negspace: no-transaction\nbegin; select 1; commit;"
    assert problems(write(tmp_path, {"1_a.up.sql": own})) == []


def test_directives_are_comments_and_nothing_else():
    assert not sql("/* x */ select 1; --negspace:no-transaction").directives.transaction
    assert sql("select '\n-- negspace: no-transaction\n'").directives.transaction
    assert sql("-- we use negspace: no-transaction").directives.transaction
    assert (
        sql("-- negspace: irreversible it drops the keys \n").directives.irreversible
        == "it drops the keys"
    )
    assert not python("# negspace: no-transaction\ndef up(c): pass").directives.transaction


def test_a_checksum_sees_what_runs_and_nothing_else():
    one = sql("-- licence\r\nCREATE TABLE a (\r\n  id int -- key\r\n);").checksum
    assert sql("create table a(id int)").checksum == one
    assert sql(b"\xef\xbb\xbfcreate table a(id int)").checksum == one  # a byte-order mark
    assert sql("create table a(id bigint)").checksum != one
    assert sql("create table a(id int); select 1").checksum != one
    assert sql("select 'ab', 'c'").checksum != sql("select 'a', 'bc'").checksum
    assert sql("").algorithm == "negspace-tokens-1"


def test_the_algorithm_called_tokens_1_stays_as_it_is():
    text = "Create Table a (b text default E'x\\n' 'y'); -- c\nselect $$\r\n$$, \"D\""
    assert sql(text).checksum == "0a884f1c848af05731ba455a0983c434ddb4bf18648b6084741383b0846b86ab"


def test_a_python_checksum_sees_what_runs_and_nothing_else():
    text = "def up(c):\n    c.execute(f'''a {1 + 1}\n  # b''')  # why\n"
    one = python(text).checksum
    spaced = text.replace("  # why", "").replace("def", "# licence\n\ndef").replace("\n", "\r\n")
    assert python(spaced).checksum == one
    assert python(text.replace("\n    c", "\n        c")).checksum == one
    assert python(text.replace("# b", "# c")).checksum != one
    assert python(text.replace("{1 + 1}", "{1 + 2}")).checksum != one
    assert one == "6228435fdbc9b2d2c516261240b5ec3d22f500beb127ef6b86e4563948decc23"


def test_a_folder_that_is_none_is_an_error(tmp_path):
    for path in (tmp_path / "missing", write(tmp_path, {"file": ""}) / "file"):
        with pytest.raises(FileError, match=path.name) as said:
            read_folder(path)
        assert said.value.hint
    (tmp_path / "1_a.up.sql").mkdir()
    with pytest.raises(FileError, match="1_a"):
        read_folder(tmp_path)


def test_new_goes_on_as_the_folder_numbers(tmp_path):
    up, down = new(tmp_path / "deep" / "folder", "Add: users!")
    assert (up.name, down.name) == ("001_add_users.up.sql", "001_add_users.down.sql")
    assert new(up.parent, "more")[0].name == "002_more.up.sql"
    assert validate(up.parent) == ()
    write(tmp_path, {"0099_x.up.sql": ""})
    assert new(tmp_path, "y")[0].name == "0100_y.up.sql"
    write(tmp_path, {"20240101000000_t.up.sql": ""})
    stamped = new(tmp_path, "z")[0].name
    assert len(stamped.split("_")[0]) == 14
    assert names(tmp_path)[-1] == stamped.removesuffix(".up.sql")
    with pytest.raises(InvalidInputError, match="no letter"):
        new(tmp_path, "!!")


def test_a_file_of_the_folder_is_an_error_to_raise_too():
    with pytest.raises(MigrationFileError) as said:
        _ = sql("select '").script
    assert said.value.as_dict() == {
        "code": "migration_file",
        "message": "1_a.up.sql:1:8: string is never closed",
        "hint": "close it with '",
        "file": "1_a.up.sql",
        "line": 1,
        "column": 8,
    }
