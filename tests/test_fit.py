"""A program refuses, at its start, a schema that it isn't for, and says what to do."""

from __future__ import annotations

import shutil

import pytest

from conftest import MIGRATIONS
from negspace import database as db
from negspace import fit, migrate, server, settings
from negspace.errors import RefusedError
from test_schema_sql import SQL, load

NAMES = [file.name.removesuffix(".up.sql") for file in sorted(MIGRATIONS.glob("*.up.sql"))]


def refusal(target) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        server.open_database(target.settings)
    return caught.value


@pytest.fixture
def folder(tmp_path):
    """The migrations, for a test to add to."""
    return shutil.copytree(MIGRATIONS, tmp_path / "migrations")


def write(folder, name, up="select 1;", down="select 1;"):
    (folder / f"{name}.up.sql").write_text(up)
    (folder / f"{name}.down.sql").write_text(down)


def test_the_schema_it_is_for(database):
    with server.open_database(database.settings) as opened, opened.transaction() as connection:
        assert db.only(connection, "select applied_migrations() as names") == {"names": NAMES}


def test_a_newer_schema(database, folder, cli):
    write(folder, "999_later")
    assert migrate.up(database.owner, folder).ok
    assert "it has 999_later" in refusal(database).message
    ran = cli("users", "list", "--json", env=database.environment)
    assert (ran.status, ran.error["code"]) == (4, "refused")
    assert "a newer negspace" in ran.error["hint"]
    assert "is newer" in cli("worker", "run", "--drain", env=database.environment).err


def test_an_older_schema(database, cli):
    assert migrate.down(database.owner, MIGRATIONS, to=NAMES[-2]).ok
    ran = cli("users", "list", "--json", env=database.environment)
    assert (ran.status, ran.error["hint"]) == (4, "negspace migrate up")
    assert "is older" in ran.error["message"]
    assert cli("migrate", "up", env=database.environment).status == 0
    assert cli("users", "list", env=database.environment).status == 0


def test_a_schema_from_before_it_could_be_asked(empty_database):
    assert migrate.up(empty_database.owner, MIGRATIONS, to="005").ok
    refused = refusal(empty_database)
    assert "is older" in refused.message
    assert refused.hint == "negspace migrate up"


def test_a_migration_in_between_is_missed():
    assert fit.lacking([*NAMES[:2], *NAMES[3:]]) == [NAMES[2]]
    assert fit.unknown(NAMES) == []


def test_what_was_undone_is_not_applied(database):
    assert migrate.redo(database.owner, MIGRATIONS).ok
    server.open_database(database.settings).close()


def test_a_squash_stands_for_what_it_replaces(folder):
    write(folder, "900_squash", "".join(f"-- negspace: replaces {name}\n" for name in NAMES))
    assert fit.lacking(NAMES, folder) == []
    assert fit.lacking(NAMES[1:], folder) == [NAMES[0], "900_squash"]


def test_no_schema_at_all(empty_database):
    refused = refusal(empty_database)
    assert "no schema of negspace" in refused.message
    assert refused.hint == "negspace migrate up"


def test_a_schema_without_a_ledger_is_recorded_and_then_taken(empty_database, cli):
    load(empty_database, SQL / "schema.sql")
    refused = refusal(empty_database)
    assert "no ledger" in refused.message
    assert "negspace migrate baseline" in (refused.hint or "")
    version = NAMES[-1].partition("_")[0]
    ran = cli("migrate", "baseline", version, "--unchecked", env=empty_database.environment)
    assert ran.status == 0, ran.err
    assert cli("users", "list", env=empty_database.environment).status == 0


def test_another_programs_ledger_is_no_schema_of_ours(empty_database, tmp_path):
    write(tmp_path, "001_something_else", "create table t (id bigint);", "drop table t;")
    assert migrate.up(empty_database.owner, tmp_path).ok
    assert "no schema of negspace" in refusal(empty_database).message


@pytest.mark.parametrize("verb", [("images", "list"), ("worker", "run", "--drain")], ids=" ".join)
def test_a_login_that_would_be_shown_nothing_is_refused(cli, database, verb):
    refused = cli(*verb, env={"DATABASE_URL": database.web})
    assert refused.status == 4
    assert "sees only the rows of whom it proves to act for" in refused.err
    assert "operator_role" in refused.err
    with server.open_database(settings.load({"DATABASE_URL": database.web})) as opened:
        assert opened.ask("select count(*) as n from images") == {"n": 0}
