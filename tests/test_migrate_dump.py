"""The catalog as text: the dump loads into an empty database and gives an equal catalog."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from conftest import programs
from negspace import migrate
from negspace.database import attempt, connect
from negspace.migrate.catalog import Catalog, compare, read
from negspace.migrate.schema_file import render
from negspace.migrate.session import open_session
from negspace.server import binaries

EVERY_KIND = Path(__file__).parent / "migrations/every_kind.sql"
ROLES = ("dump_reader", '"Dump Writer"')


def catalog(address: str) -> Catalog:
    with open_session(address) as connection:
        return read(connection)


def load(address: str, script: Path) -> None:
    """As a user loads it: with psql, stopping at the first error."""
    program = (programs() or next(binaries.installed())).program("psql")
    done = subprocess.run(
        [program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", address, "-f", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def roles(postgres):
    """Roles are the cluster's: two workers of the suite at once would meet in them."""
    with connect(postgres.superuser(), autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(2)")
        yield
        for role in ROLES:
            attempt(connection, f"drop role if exists {role}".encode())


@pytest.fixture(scope="module")
def pattern(roles, postgres):
    """The name of a database that has an object of every kind."""
    made = postgres.create()
    load(made.superuser, EVERY_KIND)
    yield made.name
    postgres.drop(made.name)


@pytest.fixture
def everything(pattern, postgres):
    """The address of a copy of it."""
    made = postgres.create(pattern)
    yield made.superuser
    postgres.drop(made.name)


@pytest.fixture
def other(postgres):
    made = postgres.create()
    yield made.superuser
    postgres.drop(made.name)


def test_a_dump_loads_with_psql_and_gives_an_equal_catalog(everything, other, tmp_path):
    text = migrate.dump(everything)
    script = tmp_path / "schema.sql"
    script.write_text(text, encoding="utf-8")
    load(other, script)
    assert compare(catalog(everything), catalog(other)) == ()
    assert migrate.dump(other) == text


def test_a_dump_is_the_same_whatever_the_session_is_set_to(everything):
    text = migrate.dump(everything)
    with connect(everything, autocommit=True) as connection:
        for setting in (
            "timezone = 'Asia/Tokyo'",
            "datestyle = 'SQL, DMY'",
            "search_path = lab, public",
            "intervalstyle = 'sql_standard'",
            "quote_all_identifiers = on",
            "standard_conforming_strings = off",
        ):
            name = everything.rsplit("/", 1)[1]
            connection.execute(f"alter database {name} set {setting}".encode())
    assert migrate.dump(everything) == text


def test_every_kind_is_in_the_dump(everything):
    found = catalog(everything)
    assert {thing.kind for thing in found.objects} == {
        "schema", "type", "domain", "sequence", "sequence owner", "function", "procedure",
        "aggregate", "operator", "cast", "table", "constraint", "index", "statistics", "trigger",
        "rule", "policy", "view", "materialized view", "foreign key", "event trigger",
        "publication", "default privileges",
    }  # fmt: skip
    assert found.not_covered == ()


def test_what_is_left_out(everything, tmp_path):
    """Partitions made ahead, the runner's ledger, what an extension owns."""
    before = migrate.dump(everything)
    assert "events_2031" not in before
    assert "events_2024" in before
    (tmp_path / "1_a.up.sql").write_text("select 1")
    assert migrate.up(everything, tmp_path).ok
    assert migrate.dump(everything) == before
    with connect(everything, autocommit=True) as connection:
        connection.execute("comment on table lab.events_2024 is 'Made ahead by us'")
    assert "events_2024_a" not in migrate.dump(everything)


def test_an_extension_is_one_line(empty_database):
    with connect(empty_database.superuser, autocommit=True) as connection:
        if attempt(connection, b"create extension btree_gist") is not None:
            connection.execute("create extension plpgsql")  # this server brings no others
            return
    text = migrate.dump(empty_database.superuser)
    assert "create extension if not exists btree_gist with schema public;" in text
    assert "function" not in text.lower().replace("check_function_bodies", "")


def test_an_empty_database_gives_a_dump_that_loads(empty_database, other, tmp_path):
    script = tmp_path / "schema.sql"
    script.write_text(migrate.dump(empty_database.superuser), encoding="utf-8")
    load(other, script)
    assert compare(catalog(empty_database.superuser), catalog(other)) == ()


@pytest.mark.parametrize(
    ("statement", "identity"),
    [
        ("alter table lab.base alter column b type varchar(30)", "table lab.base"),
        ("alter table lab.serials alter column v set default 'x'", "table lab.serials"),
        ("alter table lab.base alter column a drop not null", "table lab.base"),
        ("comment on column lab.serials.v is 'x'", "table lab.serials"),
        ("alter table lab.quick set logged", "table lab.quick"),
        ("alter table lab.quick set (fillfactor = 50)", "table lab.quick"),
        ('alter table lab."Odd Name" no force row level security', 'table lab."Odd Name"'),
        ('alter table lab."Odd Name" enable trigger asleep', 'trigger asleep on lab."Odd Name"'),
        ('drop policy everybody on lab."Odd Name"', 'policy everybody on lab."Odd Name"'),
        ('alter policy own on lab."Odd Name" to dump_reader', 'policy own on lab."Odd Name"'),
        ("drop index lab.odd_tags_idx", "index lab.odd_tags_idx"),
        ("alter index lab.odd_tags_idx set (fastupdate = on)", "index lab.odd_tags_idx"),
        ("comment on index lab.odd_tags_idx is 'x'", "index lab.odd_tags_idx"),
        ("revoke select on lab.a_view from dump_reader", "view lab.a_view"),
        ("grant update (v) on lab.serials to dump_reader", "table lab.serials"),
        ("grant usage on type lab.mood to public", "type lab.mood"),
        ("alter type lab.mood add value 'new'", "type lab.mood"),
        ("alter domain lab.email drop not null", "domain lab.email"),
        ("alter function lab.touch() reset search_path", "function lab.touch()"),
        ("alter function lab.touch() security invoker", "function lab.touch()"),
        ("alter sequence lab.numbers cache 9", "sequence lab.numbers"),
        ("alter sequence lab.serials_id_seq owned by none", "sequence owner lab.serials_id_seq"),
        ("alter view lab.a_view set (security_barrier = false)", "view lab.a_view"),
        ("alter event trigger watch enable", "event trigger watch"),
        ("drop cast (integer as lab.mood)", "cast (integer as lab.mood)"),
        ("alter publication everything set (publish = 'delete')", "publication everything"),
        ("alter table lab.events detach partition lab.events_rest", "table lab.events_rest"),
        (
            "alter table lab.serials drop constraint serials_event_fkey",
            "foreign key serials_event_fkey on lab.serials",
        ),
        (
            'alter table lab."Odd Name" validate constraint odd_later',
            'constraint odd_later on lab."Odd Name"',
        ),
        (
            "alter default privileges in schema lab revoke select on tables from dump_reader",
            "default privileges of this database",
        ),
    ],
)
def test_a_change_is_a_difference(pattern, postgres, statement, identity):
    with (
        open_session(postgres.superuser(pattern)) as connection,
        connection.transaction(force_rollback=True),
    ):
        before = read(connection)
        connection.execute(statement.encode())
        found = compare(before, read(connection))
    assert identity in [difference.identity for difference in found]
    assert all(difference.left != difference.right for difference in found)


def test_the_order_of_columns_is_no_difference(postgres, empty_database, other):
    columns = ("a integer not null", "b text default 'x'", "c point")
    for address, order in ((empty_database.superuser, columns), (other, columns[::-1])):
        with connect(address) as connection:
            connection.execute(f"create table t ({', '.join(order)})".encode())
    assert compare(catalog(empty_database.superuser), catalog(other)) == ()


def test_an_open_transaction_sees_its_own_changes(empty_database):
    with open_session(empty_database.owner) as connection:
        before = read(connection)
        with connection.transaction(force_rollback=True):
            connection.execute("create table t ()")
            assert [d.identity for d in compare(before, read(connection))] == ["table public.t"]
            connection.execute("set local search_path = public")
            read(connection)
            row = connection.execute("select current_setting('search_path') as s").fetchone()
            assert row == {"s": "public"}
        assert compare(before, read(connection)) == ()


def test_what_is_not_covered_is_said(empty_database):
    with connect(empty_database.superuser) as connection:
        connection.execute('create collation plain from "C"')
    found = catalog(empty_database.superuser)
    assert found.not_covered == ("collation public.plain",)
    assert render(found).endswith("commit;\n\n-- not covered: collation public.plain\n")


def test_views_come_after_the_views_they_read(empty_database):
    with connect(empty_database.owner) as connection:
        connection.execute("create view z as select 1 as n")
        connection.execute("create view m as select n from z")
        connection.execute("create view a as select n from m")
    text = migrate.dump(empty_database.owner)
    places = [text.index(f"create view public.{name} ") for name in ("z", "m", "a")]
    assert places == sorted(places)


def test_a_dump_makes_the_roles_that_it_names_where_they_are_missing(postgres, other, tmp_path):
    made = postgres.create()
    names = ('"The Reader"', "the_app")
    with connect(made.superuser) as connection:
        connection.execute('create role "The Reader"')
        connection.execute("create role the_app login password 'secret'")
        connection.execute("create table t (a int)")
        connection.execute('create policy p on t to "The Reader"')
        connection.execute("alter default privileges grant select on tables to the_app")
    script = tmp_path / "schema.sql"
    script.write_text(migrate.dump(made.superuser), encoding="utf-8")
    postgres.drop(made.name)
    with connect(postgres.superuser(), autocommit=True) as connection:
        for name in names:
            connection.execute(f"drop role {name}".encode())
    load(other, script)
    load_again = postgres.create()
    load(load_again.superuser, script)  # where they are there, too
    postgres.drop(load_again.name)
    with connect(other) as connection:
        found = connection.execute(
            "select rolname, rolcanlogin as login, rolpassword is not null as password"
            " from pg_authid where rolname in ('The Reader', 'the_app') order by 1"
        ).fetchall()
        connection.execute("drop owned by the_app")
        connection.execute('drop owned by "The Reader"')
        for name in names:
            connection.execute(f"drop role {name}".encode())
    assert [tuple(row.values()) for row in found] == [
        ("The Reader", False, False),
        ("the_app", True, False),
    ]
