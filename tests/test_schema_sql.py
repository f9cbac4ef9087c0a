"""schema.sql: what the migrations build, in one file that plain psql loads."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from conftest import Postgres, TestDatabase, programs
from negspace import database, migrate
from negspace.migrate import catalog
from negspace.server import binaries

SQL = Path(migrate.__file__).parent.parent / "sql"


def load(target: TestDatabase, script: Path) -> None:
    psql = (programs() or next(binaries.installed())).program("psql")
    subprocess.run(
        [psql, target.owner, "-qX", "-v", "ON_ERROR_STOP=1", "-f", script],
        check=True,
        capture_output=True,
    )


def read(target: TestDatabase) -> catalog.Catalog:
    with database.connect(target.owner) as connection:
        return catalog.read(connection)


def test_it_is_what_dump_makes_of_the_migrations(
    database: TestDatabase, postgres: Postgres
) -> None:
    if postgres.major < 16:
        pytest.skip("14 and 15 write the same views in other words; below, their meaning is equal")
    after = (SQL / "after_schema.sql").read_text(encoding="utf-8")
    assert (SQL / "schema.sql").read_text(encoding="utf-8") == migrate.dump(database.owner) + after


def test_loaded_by_psql_it_equals_the_migrations_object_by_object(
    database: TestDatabase, empty_database: TestDatabase
) -> None:
    load(empty_database, SQL / "schema.sql")
    built = read(database)
    assert catalog.compare(built, read(empty_database)) == ()
    assert len(built.objects) > 100


def test_a_database_made_from_it_takes_rows(empty_database: TestDatabase) -> None:
    load(empty_database, SQL / "schema.sql")
    with database.connect(empty_database.app) as connection:
        user = database.only(
            connection,
            "insert into users (email, password_hash) values ('a@b.example', %s) returning id",
            ["$2b$12$" + "a" * 53],
        )
        assert user is not None
        found = database.only(connection, "select count(*) as events from security_audit")
    assert found == {"events": 1}
