"""The proof of the downs: a small folder for each grade, each kind of loss, each look-alike."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import MIGRATIONS, clean_environment
from negspace import migrate
from negspace.database import connect, only, rows
from negspace.errors import MigrationError, MigrationFileError, RefusedError
from negspace.migrate import Ground, prove, proven
from negspace.migrate.shadow import shadow

BASE = "create table t (id bigint generated always as identity primary key, name text, n int);"


def write(folder: Path, *migrations: tuple[str, str | None]) -> Path:
    """``1_m``, ``2_m`` … from pairs of up and down."""
    for number, (up, down) in enumerate(migrations, 1):
        (folder / f"{number}_m.up.sql").write_text(up, encoding="utf-8")
        if down is not None:
            (folder / f"{number}_m.down.sql").write_text(down, encoding="utf-8")
    return folder


@pytest.fixture
def place(empty_database):
    return Ground(empty_database.owner, empty_database.superuser)


@pytest.fixture
def second(place, tmp_path):
    """The proof of a migration that follows BASE."""

    def call(up: str, down: str | None, base: str = BASE):
        folder = write(tmp_path, (base, "-- nothing"), (up, down))
        proof = prove(place, folder, only={"2_m"})
        assert len(proof.migrations) == 1
        return proof.migrations[0]

    return call


def losses(proof) -> set[tuple[str, str, int]]:
    return {(loss.kind, loss.name, loss.count) for loss in proof.losses}


def shadows(address: str) -> list[str]:
    with connect(address) as connection:
        return [
            row["datname"]
            for row in rows(
                connection, "select datname from pg_database where datname like 'negspace_shadow%'"
            )
            if row["datname"].split("_")[2] == str(own_oid(address))
        ]


def own_oid(address: str) -> int:
    with connect(address) as connection:
        row = only(connection, "select oid from pg_database where datname = current_database()")
        return row["oid"]


# ── exact ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("up", "down"),
    [
        ("create index t_name_idx on t (name)", "drop index t_name_idx"),
        ("create view v as select id from t", "drop view v"),
        ("create view v as select 'now'::timestamp as made", "drop view v"),
        (
            "alter table t alter n set default date_part('year', 'now'::timestamptz)",
            "alter table t alter n drop default",
        ),
        (
            "create function f() returns int language sql return 1; comment on table t is 'x'",
            "drop function f; comment on table t is null",
        ),
        ("alter table t rename column name to title", "alter table t rename column title to name"),
        ("alter table t rename to u", "alter table u rename to t"),
        ("alter table t alter n type bigint", "alter table t alter n type int"),
        ("insert into t (name) values ('seed')", "delete from t where name = 'seed'"),
        (
            "create schema s; alter table t set schema s",
            "alter table s.t set schema public; drop schema s",
        ),
    ],
)
def test_what_restores_everything_is_exact(second, up, down):
    proof = second(up, down)
    assert (proof.grade, proof.losses, proof.after_down) == ("exact", (), ())
    assert proof.ok


def test_what_only_looks_like_a_difference_is_none(second):
    base = """
        create table t (id serial primary key, first text, second text);
        create function f() returns int language plpgsql as $$ begin return 1; end $$;
        create view v as select id from t;
    """
    up = """
        alter table t drop column first, drop column id cascade;
        create sequence t_id_seq;
        drop function f;
    """
    down = """
        alter table t add column first text, add column id serial primary key;
        create function f() returns int language plpgsql as
            $$ begin -- one
                   return 1; end $$;
        create view v with (security_barrier = false) as select id from t;
        drop sequence t_id_seq;
    """
    proof = second(up, down, base)
    assert proof.after_down == ()
    assert proof.grade == "loses data"


# ── loses data ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("up", "down", "lost"),
    [
        ("create table u (a int)", "drop table u", {("table", "public.u", 3)}),
        (
            "alter table t add flag bool",
            "alter table t drop flag",
            {("column", "public.t.flag", 2)},
        ),
        ("select 1", "delete from t where id <= 2", {("rows", "public.t", 5)}),
        ("select 1", "update t set n = 0", {("values", "public.t.n", 2)}),
        (
            "alter table t drop column name",
            "alter table t add column name text",
            {("values", "public.t.name", 2)},
        ),
        (
            "alter table t alter n type text using null",
            "alter table t alter n type int using null",
            {("values", "public.t.n", 2)},
        ),
    ],
)
def test_data_that_is_lost_is_named(second, up, down, lost):
    proof = second(up, down)
    assert proof.grade == "loses data"
    assert {(kind, name) for kind, name, _ in losses(proof)} == {(k, n) for k, n, _ in lost}
    assert proof.ok


def test_how_much_is_lost_is_counted(second):
    proof = second(
        "alter table t add flag bool; create table u (a int)",
        "drop table u; alter table t drop flag",
    )
    assert losses(proof) == {("table", "public.u", 3), ("column", "public.t.flag", 2)}


def test_a_column_that_postgresql_computes_is_no_loss(second):
    proof = second(
        "alter table t add twice int generated always as (n * 2) stored",
        "alter table t drop twice",
    )
    assert proof.grade == "exact"


# ── lies ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("up", "down", "identity", "left_over"),
    [
        ("create table u (a int); create table w (a int)", "drop table u", "table public.w", True),
        ("drop table t", "create table u (a int)", "table public.t", False),
        ("alter table t alter n set default 1", "select 1", "table public.t", None),
        ("create index i on t (n)", "select 1", "index public.i", True),
        ("create type e as enum ('a')", "select 1", "type public.e", True),
        ("grant select on t to public", "select 1", "table public.t", None),
    ],
)
def test_a_down_that_does_not_restore_lies(second, up, down, identity, left_over):
    proof = second(up, down)
    assert proof.grade == "lies"
    assert not proof.ok
    found = {d.identity: d for d in proof.after_down}[identity]
    assert (found.left is None, found.right is None) == {
        True: (True, False),
        False: (False, True),
        None: (False, False),
    }[left_over]


def test_a_second_up_that_makes_something_else_lies(second):
    up = """
        do $$ begin
            if to_regclass('marked') is null then create table made (a int);
            else create table made (b int); end if;
        end $$;
    """
    base = f"{BASE} create table mark (a int);"
    proof = second(up, "drop table made; alter table mark rename to marked", base)
    assert proof.grade == "lies"
    assert "table public.made" in {d.identity for d in proof.after_second_up}


def test_a_down_that_leaves_what_the_up_stumbles_over_lies(second):
    proof = second("create table u (a int); create type e as enum ('a')", "drop table u")
    assert (proof.grade, proof.failed_at) == ("lies", "second up")
    assert [d.identity for d in proof.after_down] == ["type public.e"]
    assert proof.failure.sqlstate == "42710"


# ── broken, irreversible ─────────────────────────────────────────────────────────────────


def test_a_down_with_a_syntax_error_is_broken_with_its_place(second):
    proof = second("create table u (a int)", "select 1;\n  drop tabel u;")
    assert (proof.grade, proof.failed_at) == ("broken", "down")
    assert (proof.failure.file.name, proof.failure.line, proof.failure.column) == (
        "2_m.down.sql",
        2,
        8,
    )


def test_a_down_that_fails_on_rows_alone_is_broken(second):
    proof = second("alter table t drop column name", "alter table t add column name text not null")
    assert (proof.grade, proof.failure.sqlstate) == ("broken", "23502")


def test_a_down_that_refuses_what_came_after_the_up_says_so(second):
    base = f"{BASE} alter table t add constraint named check (name is not null or n is null);"
    proof = second(
        "alter table t drop constraint named; alter table t add state text default 'new';"
        " alter table t add constraint named check (state in ('old', 'new') and n > 0)",
        "alter table t drop constraint named; alter table t drop state;"
        " alter table t add constraint named check (name is not null or n is null);"
        " alter table t add constraint few check (id < 4); alter table t drop constraint few",
        base,
    )
    assert proof.grade == "loses data"
    assert proof.down_refuses.sqlstate == "23514"


def test_made_up_content_breaks_no_down(second):
    proof = second("select 1", "alter table t alter name type int using name::int", BASE)
    assert (proof.grade, proof.down_refuses.sqlstate) == ("lies", "22P02")


def test_an_up_that_needs_empty_tables_says_so(second):
    proof = second("alter table t add must text not null", "alter table t drop must")
    assert proof.up_refuses.sqlstate == "23502"
    assert losses(proof) == {("column", "public.t.must", 0)}


def test_a_broken_up_ends_the_proof(place, tmp_path):
    folder = write(tmp_path, (BASE, "drop table t"), ("selec 1", None), ("select 1", None))
    proof = prove(place, folder)
    assert [p.grade for p in proof.migrations] == ["loses data", "broken"]
    assert proof.migrations[1].failed_at == "up"
    assert proof.unproven == ("3_m",)
    assert not proof.ok
    with pytest.raises(MigrationError, match=r"2_m.up.sql:1:1"):
        prove(place, folder, only={"3_m"})


def test_no_down_and_a_declared_one_are_irreversible(place, tmp_path):
    declared = "-- negspace: irreversible the old names are gone\nselect 1"
    proof = prove(place, write(tmp_path, (BASE, None), (declared, None), ("select 1", "select 1")))
    assert [p.grade for p in proof.migrations] == ["irreversible", "irreversible", "exact"]
    assert proof.migrations[1].irreversible == "the old names are gone"
    assert proof.ok


def test_a_folder_with_a_fault_is_refused_before_anything_runs(place, tmp_path):
    with pytest.raises(MigrationFileError, match=r"2_m.down.sql:1:1"):
        prove(place, write(tmp_path, (BASE, None), ("select 1", "commit")))
    assert shadows(place.creator) == []


# ── all kinds of migrations ──────────────────────────────────────────────────────────────


def test_each_is_proven_on_what_the_ones_before_it_left(place, tmp_path):
    folder = write(
        tmp_path,
        (BASE, "drop table t"),
        ("create table u (t bigint not null references t)", "-- it stays"),
        ("alter table u add v int", "alter table u drop column w"),
        ("create index concurrently t_n on t (n)", "drop index concurrently t_n"),
    )
    (tmp_path / "5_py.py").write_text(
        "def up(connection):\n    connection.execute('create table p (a int)')\n"
        "def down(connection):\n    connection.execute('drop table p')\n",
        encoding="utf-8",
    )
    seen = []
    proof = prove(place, folder, progress=seen.append)
    grades = [p.grade for p in proof.migrations]
    assert grades == ["loses data", "lies", "broken", "exact", "loses data"]
    assert tuple(seen) == proof.migrations
    assert (proof.left_aside, proof.not_compared, proof.note) == ((), (), None)


def test_tables_and_columns_are_filled_again_after_their_own_proof(place, tmp_path):
    folder = write(
        tmp_path,
        (BASE, "drop table t"),
        ("alter table t add a text", "alter table t drop a"),
        ("alter table t drop a, drop name", "alter table t add a text, add name text"),
    )
    proof = prove(place, folder).migrations[2]
    assert {(kind, name) for kind, name, count in losses(proof) if count} == {
        ("values", "public.t.a"),
        ("values", "public.t.name"),
    }


def test_transactions_of_their_own_are_left_out_on_request(place, tmp_path):
    folder = write(
        tmp_path, ("begin; create table u (a int); commit;", "begin; drop table u; end;")
    )
    with pytest.raises(MigrationFileError, match=r"BEGIN in a file"):
        prove(place, folder)
    assert [p.grade for p in prove(place, folder, strip_transaction=True).migrations] == [
        "loses data"
    ]


def test_names_of_any_kind(place, tmp_path):
    name = '"Tab;le -- $$ %s ""quoted"" é"'
    column = '"rank 0"'
    base = f"""
        create schema "s.x";
        create table "s.x".{name} ({column} int primary key check ({column} > 10), "%(n)s" text);
        create table child ("a, b" int references "s.x".{name});
    """
    folder = write(
        tmp_path,
        (base, f'drop table child; drop table "s.x".{name}; drop schema "s.x"'),
        (
            f'alter table "s.x".{name} add "x\'y" text',
            f'alter table "s.x".{name} drop "x\'y"',
        ),
    )
    proof = prove(place, folder)
    assert [p.grade for p in proof.migrations] == ["loses data", "loses data"]
    assert losses(proof.migrations[1]) == {("column", f'"s.x".{name}.x\'y', 2)}
    assert all(p.unfilled == () for p in proof.migrations)


def test_roles_are_left_as_they_are(place, tmp_path):
    folder = write(
        tmp_path,
        (
            f"create role proof_made; create role negspace_owner; {BASE}"
            " grant select on t to proof_made; alter role negspace_owner connection limit 1;",
            "drop table t; drop role proof_made; drop role negspace_owner;",
        ),
    )
    proof = prove(place, folder)
    assert proof.migrations[0].grade == "loses data"
    assert {(one.file, one.statement) for one in proof.left_aside} == {
        ("1_m.up.sql", "create role negspace_owner"),
        ("1_m.up.sql", "alter role negspace_owner connection"),
        ("1_m.down.sql", "drop role proof_made"),
        ("1_m.down.sql", "drop role negspace_owner"),
    }
    with connect(place.creator) as connection:
        made = only(connection, "select from pg_roles where rolname = 'proof_made'")
        limit = only(
            connection, "select rolconnlimit from pg_roles where rolname = 'negspace_owner'"
        )
    assert made is None
    assert limit["rolconnlimit"] == -1


def test_a_role_that_went_with_its_up_is_made_again(place, tmp_path):
    up = (
        "create role proof_again; alter table t add must int not null;"
        " grant select on t to proof_again"
    )
    down = "alter table t drop must; revoke select on t from proof_again"
    proof = prove(place, write(tmp_path, (BASE, "drop table t"), (up, down)))
    assert proof.migrations[1].grade == "loses data"
    assert proof.migrations[1].up_refuses.sqlstate == "23502"
    with connect(place.creator) as connection:
        assert only(connection, "select from pg_roles where rolname = 'proof_again'") is None


def test_the_own_migrations_lose_data_at_most(place):
    proof = prove(place, MIGRATIONS)
    assert {
        p.name: p.grade for p in proof.migrations if p.grade not in {"exact", "loses data"}
    } == {}
    assert [p.unfilled for p in proof.migrations if p.unfilled] == []
    assert [p.name for p in proof.migrations if p.up_refuses or p.down_refuses] == []
    assert proof.not_compared == ()


# ── shadows ──────────────────────────────────────────────────────────────────────────────


def test_a_shadow_goes_with_its_block(place):
    with shadow(place) as address:
        (name,) = shadows(place.creator)
        assert name in address
    with pytest.raises(KeyboardInterrupt), shadow(place) as address, connect(address):
        raise KeyboardInterrupt
    assert shadows(place.creator) == []


def test_a_shadow_s_lock_holds_up_neither_vacuum_nor_concurrent_indexes(place):
    """Its transaction idles in the database that the shadow stands for, and has no snapshot."""
    with shadow(place), connect(place.creator) as connection:
        found = only(
            connection,
            "select state, backend_xmin from pg_stat_activity"
            " where application_name = 'negspace shadow: lock' and datname = current_database()",
        )
        assert found == {"state": "idle in transaction", "backend_xmin": None}


def test_a_killed_maker_s_shadow_is_swept_and_a_living_one_s_is_not(place, tmp_path):
    code = (
        "import sys, time\n"
        "from negspace.migrate.shadow import Ground, shadow\n"
        "with shadow(Ground(sys.argv[1], sys.argv[2])):\n"
        "    print('made', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, place.address, place.creator],
        stdout=subprocess.PIPE,
        env=clean_environment(tmp_path),
    ) as maker:
        try:
            assert maker.stdout.readline() == b"made\n"
            (left,) = shadows(place.creator)
            with shadow(place):
                assert len(shadows(place.creator)) == 2
        finally:
            maker.send_signal(signal.SIGKILL)
    wait_until_nobody_holds(place.creator, left)
    with shadow(place):
        assert left not in shadows(place.creator)
    assert shadows(place.creator) == []


def wait_until_nobody_holds(address: str, name: str) -> None:
    """The server notices at once that the maker's connections are gone; it is asked till then."""
    with connect(address, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(hashtextextended(%s, 0))", [name])


def test_a_server_that_lets_nobody_make_one_is_told(empty_database):
    with (
        pytest.raises(RefusedError, match="permission denied to create database"),
        shadow(Ground(empty_database.owner, empty_database.owner)),
    ):
        pass


# ── before a down ────────────────────────────────────────────────────────────────────────


def guarded(place, folder: Path, *accepted: str):
    guard = proven(lambda: place, folder, accept_loss=accepted)
    return migrate.down(place.address, folder, guard=guard)


def test_down_wants_every_loss_named(place, tmp_path):
    folder = write(
        tmp_path,
        (BASE, "drop table t"),
        ("alter table t add a int, add b int", "alter table t drop a, drop b"),
    )
    assert migrate.up(place.address, folder).ok
    with pytest.raises(RefusedError) as refused:
        guarded(place, folder, "public.t.a")
    assert refused.value.details["losses"] == ["public.t.b"]
    assert "--accept-loss public.t.b" in refused.value.hint
    assert [row.state for row in migrate.status(place.address, folder)] == ["applied", "applied"]
    assert guarded(place, folder, "public.t.a", "public.t.b").ok
    assert [row.state for row in migrate.status(place.address, folder)] == ["applied", "pending"]


@pytest.mark.parametrize(
    ("down", "said"),
    [
        ("-- nothing", "lies: it does not restore table public.u"),
        ("drop table nothing", r"broken: down fails at .*1_m.down.sql:1:1: table \"nothing\""),
    ],
)
def test_down_refuses_what_lies_or_is_broken(place, tmp_path, down, said):
    folder = write(tmp_path, ("create table u (a int)", down))
    assert migrate.up(place.address, folder).ok
    with pytest.raises(RefusedError, match=said):
        guarded(place, folder, "public.u")
    assert [row.state for row in migrate.status(place.address, folder)] == ["applied"]


def test_down_of_nothing_proves_nothing(place, tmp_path):
    def never() -> Ground:
        raise AssertionError

    guard = proven(never, write(tmp_path, (BASE, "-- lies")))
    assert migrate.down(place.address, tmp_path, guard=guard).steps == ()


# ── redo ─────────────────────────────────────────────────────────────────────────────────


def test_redo_takes_the_file_as_it_is_now(place, tmp_path):
    folder = write(tmp_path, (BASE, "drop table t"), ("create table u (a int)", "drop table u"))
    assert migrate.up(place.address, folder).ok
    write(tmp_path, (BASE, "drop table t"), ("create table u (b int)", "drop table u"))
    result = migrate.redo(place.address, folder)
    assert result.ok
    assert [(s.name, s.direction, s.status) for s in result.steps] == [
        ("2_m", "down", "rolled_back"),
        ("2_m", "up", "success"),
    ]
    with connect(place.address) as connection:
        assert only(connection, "select b from u") is None
    assert [row.state for row in migrate.status(place.address, folder)] == ["applied", "applied"]


def test_a_redo_that_fails_leaves_what_was(place, tmp_path):
    folder = write(tmp_path, ("create table u (a int)", "drop table u"))
    assert migrate.up(place.address, folder).ok
    write(tmp_path, ("create table u (b itn)", "drop table u"))
    result = migrate.redo(place.address, folder)
    assert [s.status for s in result.steps] == ["undone", "failed"]
    with connect(place.address) as connection:
        assert only(connection, "select a from u") is None
    last = migrate.history(place.address)[0]
    assert (last.direction, last.status) == ("up", "failed")


# ── the command line ─────────────────────────────────────────────────────────────────────


@pytest.fixture
def environment(empty_database):
    return {"DATABASE_URL": empty_database.superuser}


def test_prove_prints_a_table_and_exits_3_for_a_lie(cli, environment, tmp_path):
    folder = write(
        tmp_path,
        (BASE, "drop table t"),
        ("alter table t add a int", "alter table t alter a set default 1"),
        ("-- negspace: irreversible why not\nselect 1", None),
    )
    ran = cli("migrate", "prove", "--dir", str(folder), env=environment)
    assert ran.status == 3
    assert ran.out.splitlines()[:6] == [
        "version  grade         what",
        "1        loses data    m",
        "                       loses table public.t (3)",
        "2        lies          m",
        "                       after the down, table public.t differs: + a integer default 1",
        '                       second up fails: 2_m.up.sql:1:1: column "a" of relation "t"'
        " already exists",
    ]
    assert "1 irreversible, 1 lies, 1 loses data" in ran.out
    assert "proved 1_m  loses data" in ran.err


def test_prove_as_json(cli, environment, tmp_path):
    folder = write(tmp_path, (BASE, "drop table t"), ("select 1", "select 1"))
    ran = cli("migrate", "prove", "--json", "--last", "1", "--dir", str(folder), env=environment)
    assert ran.status == 0
    assert ran.json["ok"] is True
    assert [(p["name"], p["grade"]) for p in ran.json["migrations"]] == [("2_m", "exact")]
    ran = cli("migrate", "prove", "--json", "--only", "1", "--dir", str(folder), env=environment)
    assert ran.json["migrations"][0]["losses"] == [
        {"kind": "table", "name": "public.t", "count": 3}
    ]


def test_prove_goes_to_the_embedded_server_where_the_role_may_not(cli, empty_database, tmp_path):
    folder = write(tmp_path, (BASE, "drop table t"))
    environment = {"DATABASE_URL": empty_database.owner}
    ran = cli("migrate", "prove", "--json", "--dir", str(folder), env=environment)
    assert ran.status == 0
    assert "negspace_owner may not create databases" in ran.json["note"]


def test_down_on_a_named_server_is_proven_first(cli, environment, tmp_path):
    def run(verb: str, *more: str):
        return cli("migrate", verb, "--dir", str(tmp_path), *more, env=environment)

    write(tmp_path, (BASE, "drop table t"), ("create table u (a int)", "drop table t"))
    assert run("up").status == 0
    refused = run("down", "--yes", "--accept-loss", "public.u")
    assert refused.status == 4
    assert "the down of 2_m lies" in refused.err
    write(tmp_path, (BASE, "drop table t"), ("create table u (a int)", "drop table u"))
    refused = run("down", "--yes")
    assert refused.status == 4
    assert "--accept-loss public.u" in refused.err
    assert run("redo", "--yes").status == 4
    assert run("redo", "--yes", "--accept-loss", "public.u").status == 0
    assert run("down", "--dry-run").status == 0
    assert run("down", "--yes", "--accept-loss", "public.u").status == 0
    assert run("down", "--yes", "--development").status == 0


def test_down_on_the_embedded_server_needs_a_yes_alone(cli, tmp_path):
    write(tmp_path, ("create table u (a int)", "-- lies"))
    assert cli("migrate", "up", "--dir", str(tmp_path)).status == 0
    assert cli("migrate", "down", "--dir", str(tmp_path)).status == 4
    assert cli("migrate", "down", "--yes", "--dir", str(tmp_path)).status == 0
