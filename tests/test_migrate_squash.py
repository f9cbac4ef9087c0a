"""A squash makes the same database, and databases of any age get along with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import MIGRATIONS
from negspace import migrate
from negspace.database import connect, only
from negspace.errors import InvalidInputError, MigrationError, MigrationFileError
from negspace.migrate import Ground, squash
from negspace.migrate.catalog import compare, read

FILES = {
    "1_kinds.up.sql": """
        create table kinds (id int generated always as identity primary key, name text not null);
        insert into kinds (name) values ('one'), (E'it''s \\\\ two'), ('three');
        create function stop() returns trigger language plpgsql as
            $$ begin raise exception 'no more kinds'; end $$;
        create trigger kinds_closed before insert on kinds for each row execute function stop();
        create materialized view names as select name from kinds;
        create procedure save() language plpgsql as $$ begin
            commit;
        end $$;
    """,
    "2_things.up.sql": "create table things (id int primary key, kind int references kinds);"
    " insert into things values (7, 2)",
    "2_things.down.sql": "drop table things",
    "3_more.up.sql": "alter table things add note text default 'x'",
    "3_more.down.sql": "alter table things drop note",
}


@pytest.fixture
def place(empty_database):
    return Ground(empty_database.owner, empty_database.superuser)


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def states(place: Ground, folder: Path) -> dict[str, str]:
    return {row.name: row.state for row in migrate.status(place.address, folder)}


def test_a_new_database_runs_the_squash_and_is_the_same(place, postgres, folder):
    assert migrate.up(place.address, folder).ok
    made = squash(place, folder, to="2")
    assert made.replaces == ("1_kinds", "2_things")
    assert made.rows == 4
    assert names(folder) == ["2_baseline.up.sql", "3_more.down.sql", "3_more.up.sql", "squashed"]
    assert names(folder / "squashed") == ["1_kinds.up.sql", "2_things.down.sql", "2_things.up.sql"]
    other = postgres.create()
    try:
        assert [s.name for s in migrate.up(other.owner, folder).steps] == ["2_baseline", "3_more"]
        with connect(place.address) as old, connect(other.owner) as new:
            assert compare(read(old), read(new)) == ()
            for query in (
                "select array_agg(name order by id) as found from kinds",
                "select array_agg(t) as found from things as t",
                "select array_agg(name) as found from names",
                "select nextval('kinds_id_seq') as found",
            ):
                assert only(old, query) == only(new, query)
        assert migrate.validate(folder, other.owner) == ()
    finally:
        postgres.drop(other.name)


def test_a_database_that_has_them_needs_nothing(place, folder):
    assert migrate.up(place.address, folder).ok
    squash(place, folder, to="2")
    assert migrate.up(place.address, folder).steps == ()
    assert migrate.validate(folder, place.address) == ()
    assert states(place, folder) == {
        "2_baseline": "squashed",
        "3_more": "applied",
        "1_kinds": "squashed",
        "2_things": "squashed",
    }


def test_a_database_that_has_some_needs_the_rest(place, folder):
    assert migrate.up(place.address, folder, to="1").ok
    squash(place, folder, to="2")
    with pytest.raises(MigrationFileError, match="2_things is missing, and has no file"):
        migrate.up(place.address, folder)
    for name in ("1_kinds.up.sql", "2_things.up.sql"):
        (folder / "squashed" / name).rename(folder / name)
    assert [step.name for step in migrate.up(place.address, folder).steps] == ["2_things", "3_more"]
    assert migrate.up(place.address, folder).steps == ()


def test_files_that_are_kept_are_left_aside(place, folder):
    made = squash(place, folder, to="2", keep=True)
    assert made.moved_to is None
    assert [s.name for s in migrate.up(place.address, folder).steps] == ["2_baseline", "3_more"]
    assert migrate.up(place.address, folder).steps == ()
    assert migrate.validate(folder, place.address) == ()
    assert states(place, folder)["1_kinds"] == "squashed"


def test_a_squash_of_a_squash_stands_for_all(place, folder):
    assert migrate.up(place.address, folder).ok
    squash(place, folder, to="2")
    made = squash(place, folder, to="3", name="all")
    assert made.replaces == ("2_baseline", "3_more")
    assert migrate.up(place.address, folder).steps == ()
    assert migrate.validate(folder, place.address) == ()


def test_what_would_differ_is_not_written(place, folder):
    (folder / "1_kinds.up.sql").write_text(
        "create table kinds (id int); insert into kinds values (1);"
        "create function stop() returns trigger language plpgsql as $$ begin return null; end $$;"
        "create trigger closed before insert on kinds for each row execute function stop();"
        "alter table kinds enable always trigger closed",
        encoding="utf-8",
    )
    (folder / "2_things.up.sql").write_text("select 1", encoding="utf-8")
    before = names(folder)
    with pytest.raises(MigrationError, match="would differ in trigger closed on"):
        squash(place, folder, to="2")
    assert names(folder) == before


def test_one_is_nothing_to_squash(place, folder):
    with pytest.raises(InvalidInputError, match="the only one up to 1"):
        squash(place, folder, to="1")


def test_the_command(cli, empty_database, folder):
    environment = {"DATABASE_URL": empty_database.superuser}
    arguments = ("migrate", "squash", "--dir", str(folder), "--to", "2", "--name", "begin")
    ran = cli(*arguments, env=environment)
    assert ran.status == 0
    assert "2 migrations, 4 rows in one" in ran.out
    assert cli("migrate", "up", "--dir", str(folder), env=environment).status == 0
    ran = cli("migrate", "status", "--check", "--dir", str(folder), env=environment)
    assert ran.status == 0


def test_the_own_migrations_can_be_squashed(place, tmp_path):
    for path in MIGRATIONS.glob("*.sql"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    made = squash(place, tmp_path, to="3")
    assert len(made.replaces) == 3
