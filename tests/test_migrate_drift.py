"""Drift: what differs is found and said, by statements that explain it."""

from __future__ import annotations

from uuid import uuid4

import pytest

from migrating import catalog, write
from negspace import migrate
from negspace.database import connect
from negspace.errors import MigrationFileError
from negspace.migrate.drifting import drift
from negspace.migrate.journal import Journal
from negspace.migrate.meaning import differences
from negspace.migrate.session import open_session
from negspace.migrate.shadow import Ground, shadow

FILES = {
    "1_a.up.sql": """
        create type mood as enum ('sad', 'glad');
        create table a (
            id serial primary key, n int default 1, t varchar(10) not null, gone text,
            m mood, constraint positive check (n > 0)
        );
        comment on table a is 'first';
        create index a_n on a (n);
        create function one() returns int language sql as 'select 1';
        create view v as select id, n from a;
    """,
    "2_b.up.sql": """
        create table b (a_id int references a (id));
        alter table b enable row level security;
        create policy p on b using (true);
        create table whole (id serial primary key, x int unique);
        create index whole_x on whole (x);
        grant select on a to public;
    """,
    "3_c.up.sql": "create index concurrently b_a on b (a_id)",
}


def place(database) -> Ground:
    return Ground(database.owner, database.superuser)


def changed(database, text: str) -> None:
    with connect(database.owner) as connection:
        connection.execute(text.encode())


@pytest.fixture
def migrated(empty_database, tmp_path):
    assert migrate.up(empty_database.owner, write(tmp_path, FILES)).ok
    return empty_database


def found(database, folder) -> dict[str, tuple[str, tuple[str, ...]]]:
    said = drift(place(database), database.owner, folder)
    return {one.identity: (one.state, one.statements) for one in said.objects}


def test_the_journal_is_no_drift(empty_database, tmp_path):
    """A run that was killed may have made it, and its migration been taken back since."""
    address = empty_database.owner
    assert migrate.up(address, write(tmp_path, {"1_a.up.sql": "create table a ()"})).ok
    with open_session(address) as connection:
        Journal(connection, uuid4()).create()
    assert found(empty_database, tmp_path) == {}


def test_a_database_that_only_migrations_touched_has_none(migrated, tmp_path):
    write(tmp_path, {"4_d.up.sql": "create table pending ()"})
    said = drift(place(migrated), migrated.owner, tmp_path)
    assert said.ok
    assert said.objects == ()
    assert said.applied == ("1_a", "2_b", "3_c")


@pytest.mark.parametrize(
    ("by_hand", "identity", "state", "statements"),
    [
        ("create table x (i int)", "table public.x", "added", ["create table public.x"]),
        ("drop index b_a", "index public.b_a", "missing", ["drop index public.b_a;"]),
        (
            "alter table a alter t type text, alter t set default 'x', alter t drop not null",
            "table public.a",
            "changed",
            [
                "alter table public.a alter column t type text;",
                "alter table public.a alter column t set default 'x'::text;",
                "alter table public.a alter column t drop not null;",
            ],
        ),
        (
            "alter table a drop gone, add come text default 'x, y'",
            "table public.a",
            "changed",
            [
                "alter table public.a drop column gone;",
                "alter table public.a add column come text default 'x, y'::text;",
            ],
        ),
        (
            "alter table a drop constraint positive, add constraint positive check (n > 1)",
            "table public.a",
            "changed",
            [
                "alter table public.a drop constraint positive;",
                "alter table public.a add constraint positive CHECK (n > 1);",
            ],
        ),
        (
            "comment on table a is null",
            "table public.a",
            "changed",
            ["comment on table public.a is n"],
        ),
        (
            "revoke select on a from public; grant insert on a to public",
            "table public.a",
            "changed",
            ["revoke select on public.a from public;", "grant insert on public.a to public;"],
        ),
        (
            "alter table b disable row level security",
            "table public.b",
            "changed",
            ["alter table public.b disable row level security;"],
        ),
        ("drop policy p on b", "policy p on public.b", "missing", ["drop policy p on public.b;"]),
        (
            "alter table b drop constraint b_a_id_fkey",
            "foreign key b_a_id_fkey on public.b",
            "missing",
            ["alter table public.b drop constraint b_a_id_fkey;"],
        ),
        (
            "create or replace function one() returns int language sql as 'select 2'",
            "function public.one()",
            "changed",
            ["CREATE OR REPLACE FUNCTION public.one()"],
        ),
        (
            "create or replace view v as select id, n from a where n > 1",
            "view public.v",
            "changed",
            ["drop view public.v;", "create view public.v"],
        ),
        (
            "drop index a_n; create index a_n on a (n desc)",
            "index public.a_n",
            "changed",
            ["drop index public.a_n;", "CREATE INDEX a_n ON"],
        ),
        (
            "alter type mood add value 'so so' after 'sad'",
            "type public.mood",
            "changed",
            ["alter type public.mood add value 'so so' after 'sad';"],
        ),
    ],
)
def test_each_difference_is_explained(migrated, tmp_path, by_hand, identity, state, statements):
    changed(migrated, by_hand)
    said = found(migrated, tmp_path)
    assert set(said) == {identity}
    assert said[identity][0] == state
    assert len(said[identity][1]) == len(statements)
    for one, start in zip(said[identity][1], statements, strict=True):
        assert " ".join(one.split()).startswith(start)


def test_what_went_with_its_table_needs_no_statement(migrated, tmp_path):
    changed(migrated, "drop table whole")
    said = found(migrated, tmp_path)
    assert set(said) == {
        "table public.whole",
        "index public.whole_x",
        "sequence public.whole_id_seq",
        "sequence owner public.whole_id_seq",
    }
    assert [s for _, statements in said.values() for s in statements] == [
        "drop table public.whole;"
    ]


def test_the_statements_in_their_order_make_the_one_into_the_other(migrated, tmp_path):
    changed(
        migrated,
        """
        drop view v; drop table whole; drop policy p on b;
        alter table a drop gone, add w text collate "C" not null default 'x', alter t drop not null;
        create schema s;
        create table s.parts (id int generated always as identity, d date) partition by range (d);
        create table s.one partition of s.parts for values from ('2024-01-01') to ('2025-01-01');
        create function s.two(i int) returns int language plpgsql as $$ begin return i; end $$;
        create table uses (z int default s.two(1) primary key);
        create view s.seen as select z from uses;
        create trigger t before update on uses for each row
            execute function suppress_redundant_updates_trigger();
        alter type mood add value 'mad';
        """,
    )
    said = drift(place(migrated), migrated.owner, tmp_path)
    with shadow(place(migrated)) as address:
        assert migrate.up(address, tmp_path).ok
        with connect(address) as connection:
            for one in said.objects:
                for statement in one.statements:
                    connection.execute(statement.encode())
        assert differences(catalog(migrated.owner), catalog(address)) == ()


def test_migrations_run_in_the_order_in_which_they_were_applied(empty_database, tmp_path):
    """In the order of the files these would make another database."""
    write(tmp_path, {"2_b.up.sql": "create table if not exists t (i bigint)"})
    assert migrate.up(empty_database.owner, tmp_path).ok
    write(tmp_path, {"1_a.up.sql": "create table if not exists t (i int)"})
    assert migrate.up(empty_database.owner, tmp_path, late=lambda _: None).ok
    assert found(empty_database, tmp_path) == {}


def test_the_history_of_another_tool_is_no_drift_and_a_table_of_ours_is(migrated, tmp_path):
    changed(
        migrated,
        "create table schema_migrations (version bigint primary key, dirty bool);"
        " create table knex_migrations (id serial primary key, name text);"
        " create table knex_migrations_too (id int)",
    )
    assert set(found(migrated, tmp_path)) == {"table public.knex_migrations_too"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [("2_b.up.sql", "select 1", "changed since it was applied"), ("2_b.up.sql", None, "is gone")],
)
def test_files_that_are_not_what_was_applied_are_refused(migrated, tmp_path, name, text, said):
    if text is None:
        (tmp_path / name).unlink()
    else:
        write(tmp_path, {name: text})
    with pytest.raises(MigrationFileError, match=said):
        drift(place(migrated), migrated.owner, tmp_path)


def test_a_squash_stands_for_files_that_are_gone(empty_database, tmp_path):
    write(tmp_path, {"1_a.up.sql": "create table a ()", "2_b.up.sql": "create table b ()"})
    assert migrate.up(empty_database.owner, tmp_path).ok
    for name in ("1_a.up.sql", "2_b.up.sql"):
        (tmp_path / name).unlink()
    text = (
        "-- negspace: replaces 1_a\n-- negspace: replaces 2_b\ncreate table a (); create table b ()"
    )
    write(tmp_path, {"2_all.up.sql": text})
    said = drift(place(empty_database), empty_database.owner, tmp_path)
    assert (said.ok, said.applied) == (True, ("2_all",))


def test_the_command_line_says_it_and_exits_with_3(cli, migrated, tmp_path):
    environment = {"DATABASE_URL": migrated.superuser}
    arguments = ("migrate", "drift", "--dir", str(tmp_path))
    none = cli(*arguments, env=environment)
    assert (none.status, none.err) == (0, "")
    assert none.out == "no drift: the database is what its 3 applied migrations make\n"
    changed(migrated, "drop index b_a; create table x (i int)")
    done = cli(*arguments, env=environment)
    assert done.status == 3
    assert "- index public.b_a  missing\n    drop index public.b_a;\n" in done.out
    assert "+ table public.x  added\n    create table public.x (\n" in done.out
    assert "2 objects differ" in done.out
    as_json = cli(*arguments, "--json", env=environment)
    assert (as_json.status, as_json.json["ok"]) == (3, False)
    assert [one["state"] for one in as_json.json["objects"]] == ["missing", "added"]


OPEN = "grant create on schema public to public"
CLOSED = "revoke create on schema public from public"


@pytest.mark.parametrize("before", [OPEN, CLOSED])
@pytest.mark.parametrize("owner", ["postgres", "pg_database_owner"])
def test_what_everybody_might_do_in_public_at_first_is_no_drift_where_nobody_knows_it(
    empty_database, tmp_path, before, owner
):
    """initdb of PostgreSQL 14 opened it, and an upgraded database keeps that."""
    with connect(empty_database.superuser) as connection:
        connection.execute(f"{before}; alter schema public owner to {owner}".encode())
        known = owner == "pg_database_owner" and connection.info.server_version >= 150_000
    write(tmp_path, {"1_a.up.sql": "create table a ()"})
    assert migrate.up(empty_database.superuser, tmp_path).ok
    for ground in (place(empty_database), Ground(*[empty_database.superuser] * 2)):
        said = drift(ground, empty_database.superuser, tmp_path)
        assert said.ok is not (known and before == OPEN), said.objects


def test_what_a_migration_rules_in_public_is_held_against_it(empty_database, tmp_path):
    with connect(empty_database.superuser) as connection:
        connection.execute("alter schema public owner to postgres")
    write(tmp_path, {"1_a.up.sql": "revoke usage on schema public from public"})
    superuser = empty_database.superuser
    assert migrate.up(superuser, tmp_path).ok
    ground = Ground(superuser, superuser)
    assert drift(ground, superuser, tmp_path).ok
    with connect(superuser) as connection:
        connection.execute("grant usage on schema public to public")
    (one,) = drift(ground, superuser, tmp_path).objects
    assert one.identity == "schema public"
    assert "grant usage on schema public to public;" in one.statements
    assert not any("drop" in said for said in one.statements)
