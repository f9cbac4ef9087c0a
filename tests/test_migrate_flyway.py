"""Flyway's folders: versions in parts, undo files, and what of Flyway is refused."""

from __future__ import annotations

import pytest

from migrating import states, tables
from negspace import migrate
from negspace.database import connect
from negspace.errors import MigrationFileError, RefusedError
from negspace.migrate import Ground, validate
from negspace.migrate.baselining import baseline
from negspace.migrate.files import read_folder
from negspace.migrate.names import key_of, number_of, version_of
from test_migrate_baseline import FLYWAY, flown
from test_migrate_forms import problems, write


def made(*versions: str, undo: bool = True) -> dict[str, str]:
    """A table ``t`` and the version's digits for each."""
    names = {v: "t" + "".join(c for c in v if c.isdecimal()) for v in versions}
    files = {f"V{v}__{t}.sql": f"create table {t} (id int);" for v, t in names.items()}
    return files | {f"U{v}__{t}.sql": f"drop table {t};" for v, t in names.items() if undo}


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("1", (1,)),
        ("001", (1,)),
        ("1.0", (1,)),
        ("1.10", (1, 10)),
        ("1_10", (1, 10)),
        ("2024.01.02", (2024, 1, 2)),
        ("0", (0,)),
        ("0.0", (0,)),
        ("20240102", (20240102,)),
        ("2024-01-02", (20240102,)),
        ("2024-01-02-030405", (20240102030405,)),
        ("2024-01-02-030405-0000", (20240102030405,)),
        ("2024-01-02-030405-0001", (20240102030405, 1)),
    ],
)
def test_a_number_s_value_goes_part_by_part(number, value):
    assert number_of(number) == value


def test_a_name_of_flyway_s_and_one_of_ours_are_the_same_migration():
    """So that a folder may be renamed from the one form to the other."""
    assert key_of("V1.1__add_users") == ((1, 1), "add_users")
    assert key_of("V1__add_users") == key_of("001_add_users")
    assert version_of("V1_1__x__y") == "1.1"


def test_versions_are_in_order_of_their_value(tmp_path):
    versions = ("1", "1.1", "1.2", "1.10", "2", "10", "2024.01.02", "2024.1.10")
    write(tmp_path, made(*reversed(versions), undo=False))
    assert problems(tmp_path) == []
    assert [m.version for m in read_folder(tmp_path).migrations] == list(versions)


def test_diesel_s_two_kinds_of_names_are_in_order_of_time(tmp_path):
    names = ["2024-01-01-000000", "2024-01-02-000000-0000", "2024-01-03-000000"]
    write(tmp_path, {f"{name}_{at}/up.sql": "select 1" for at, name in enumerate(names)})
    assert [m.key[1] for m in read_folder(tmp_path).migrations] == ["0", "1", "2"]


def test_up_and_down_go_to_a_version(empty_database, tmp_path):
    write(tmp_path, made("1", "1.1", "1.10", "2"))
    assert migrate.up(empty_database.owner, tmp_path, to="1.1").ok
    assert tables(empty_database.owner) == ["t1", "t11"]
    assert migrate.up(empty_database.owner, tmp_path).ok
    assert migrate.down(empty_database.owner, tmp_path, to="1.1").ok
    assert tables(empty_database.owner) == ["t1", "t11"]
    assert migrate.down(empty_database.owner, tmp_path, to="V1__t1").ok
    assert tables(empty_database.owner) == ["t1"]
    assert list(states(empty_database.owner, tmp_path).values()) == [
        "applied",
        *["pending"] * 3,
    ]


def test_folders_below_are_read_as_flyway_reads_them(tmp_path):
    write(tmp_path, made("1", undo=False))
    for name in ("2024/V2__b.sql", "2024/deep/V3__c.sql", "squashed/V0__z.sql", "2024/seed.sql"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("select 1")
    assert problems(tmp_path) == []
    assert [m.version for m in read_folder(tmp_path).migrations] == ["1", "2", "3"]
    (tmp_path / "2024" / "R__views.sql").write_text("select 1")
    assert problems(tmp_path)[0][0] == "2024/R__views.sql"


def test_settings_beside_a_file_are_heeded(tmp_path):
    files = made("1", undo=False) | {
        "V1__t1.sql.conf": "# a comment\nexecuteInTransaction=false\n",
        "V2__b.sql": "select '${a}'",
        "V2__b.sql.conf": "flyway.placeholderReplacement = false",
    }
    write(tmp_path, files)
    assert problems(tmp_path) == []
    assert [m.up.transaction for m in read_folder(tmp_path).migrations] == [False, True]


@pytest.mark.parametrize(
    ("files", "where", "message"),
    [
        ({"R__views.sql": "select 1"}, "R__views.sql", "a repeatable migration of Flyway"),
        ({"B3__all.sql": "select 1"}, "B3__all.sql", "a baseline migration of Flyway"),
        ({"beforeMigrate.sql": "select 1"}, "beforeMigrate.sql", "a callback of Flyway"),
        ({"afterEachMigrate__a.sql": "x"}, "afterEachMigrate__a.sql", "a callback of Flyway"),
        ({"V2__b.java": "class V2__b"}, "V2__b.java", "a migration of Flyway that is no SQL"),
        ({"v2__b.sql": "select 1"}, "v2__b.sql", "not a migration's name"),
        ({"V2_b.sql": "select 1"}, "V2_b.sql", "not a migration's name"),
        (
            {"V2__b.sql": "select 1; -- ${a}\ncreate table ${schema}.b (id int);"},
            "V2__b.sql:2:14",
            "Flyway's placeholder ${schema} is not supported",
        ),
        (
            {"V2__b.sql": "select 'é ${flyway:user}'"},
            "V2__b.sql:1:11",
            "Flyway's placeholder ${flyway:user} is not supported",
        ),
        (
            {"V2__b.sql": "select 1", "V2__b.sql.conf": "\nshouldExecute=false"},
            "V2__b.sql.conf:2",
            "'shouldExecute=false' is not supported",
        ),
        (
            {"V1.0__t1.sql": "select 1"},
            "V1__t1.sql",
            "the same version and name as V1.0__t1.sql",
        ),
        ({"U2__b.sql": "select 1"}, "U2__b.sql", "a down without an up: V2__b.sql is missing"),
        (
            {"2_b.up.sql": "select 1"},
            None,
            "migrations of several forms: 2_b.up.sql (pairs), V1__t1.sql (flyway)",
        ),
        (
            {"V2__b.sql": "-- +goose Up\nselect 1"},
            "V2__b.sql:1",
            "a mark of goose in a file of the form V1__name.sql and U1__name.sql",
        ),
    ],
)
def test_what_is_not_run_here_is_said_and_nothing_applied(
    empty_database, tmp_path, files, where, message
):
    write(tmp_path, made("1", undo=False) | files)
    ((found, said),) = problems(tmp_path)
    assert found == (where or str(tmp_path))
    assert said.startswith(message)
    assert all(problem.hint for problem in validate(tmp_path))
    with pytest.raises(MigrationFileError):
        migrate.up(empty_database.owner, tmp_path)
    assert migrate.history(empty_database.owner) == ()


def test_what_only_looks_like_a_placeholder_is_none(tmp_path):
    text = "select $${\"a\": 1}$$, '$', '{a}'; /* ${a} */ -- ${b}"
    write(tmp_path, {"V1__a.sql": text})
    assert problems(tmp_path) == []


@pytest.mark.parametrize(
    ("history", "adopted"),
    [
        (flown(1, "1") + flown(2, "1.1"), ["1", "1.1"]),
        (flown(1, "1", kind="BASELINE") + flown(2, "1.1"), ["1", "1.1"]),
        (flown(1, "1.1", kind="SQL_BASELINE"), ["1", "1.1"]),
        (flown(1, "1") + flown(2, "1.01") + flown(3, None), ["1", "1.1"]),
        (flown(1, "1.5", kind="BASELINE"), ["1", "1.1"]),
    ],
)
def test_flyway_s_history_is_adopted_with_flyway_s_folder(
    empty_database, tmp_path, history, adopted
):
    write(tmp_path, made("1", "1.1", "1.10"))
    with connect(empty_database.owner, autocommit=True) as connection:
        connection.execute(
            f"create table t1 (id int); create table t11 (id int); {FLYWAY} {history}"
        )
    place = Ground(empty_database.owner, empty_database.superuser)
    found = baseline(lambda: place, empty_database.owner, tmp_path, adopt=True)
    assert (found.tool, found.compared) == ("flyway", True)
    there = {m.name: m.version for m in read_folder(tmp_path).migrations}
    assert [there[name] for name in found.migrations] == adopted
    assert [step.name for step in migrate.up(empty_database.owner, tmp_path).steps] == [
        "V1.10__t110"
    ]
    assert migrate.validate(tmp_path, empty_database.owner) == ()


def test_a_version_that_the_folder_lacks_is_refused(empty_database, tmp_path):
    write(tmp_path, made("1"))
    with connect(empty_database.owner, autocommit=True) as connection:
        connection.execute(f"create table t1 (id int); {FLYWAY} {flown(1, '1')} {flown(2, '1.1')}")
    place = Ground(empty_database.owner, empty_database.superuser)
    with pytest.raises(RefusedError, match=r"has 1\.1 as applied"):
        baseline(lambda: place, empty_database.owner, tmp_path, adopt=True)
