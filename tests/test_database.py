"""Connections, transactions, the pool, who acts; all on a real server."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest

from negspace import database, settings
from negspace.database import Actor, Answer, Database, PoolSize, Proof
from negspace.errors import (
    AccessError,
    DatabaseError,
    InvalidInputError,
    NegspaceError,
    SettingsError,
    UnavailableError,
)

ONE = PoolSize(minimum=0, maximum=1, acquire_timeout=0.2)
ACTOR = """
    select current_setting('negspace.user_id', true) as user_id,
           current_setting('negspace.api_key_id', true) as api_key_id,
           current_setting('negspace.ip_address', true) as ip_address,
           current_setting('negspace.user_agent', true) as user_agent,
           current_setting('negspace.request_id', true) as request_id
"""


def fields(address: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in address.split())


# ── addresses ────────────────────────────────────────────────────────────────────────────


def test_address_from_the_parts():
    given = settings.load({"DB_HOST": "h", "DB_PORT": "6", "DB_PASSWORD": "p"})
    assert fields(database.conninfo(given)) == {
        "host": "h",
        "port": "6",
        "dbname": "negative_space",
        "user": "app_user",
        "password": "p",
        "sslmode": "disable",
    }


def test_the_owners_address_is_for_the_owner_alone():
    given = settings.load(
        {"DATABASE_URL": "postgresql://a@h/d", "NEGSPACE_OWNER_URL": "postgresql://o@h/d"}
    )
    assert fields(database.conninfo(given))["user"] == "a"
    assert fields(database.conninfo(given, owner=True))["user"] == "o"


def test_tls_is_verified_or_off():
    on = {"DB_HOST": "h", "DB_SSL": "true"}
    assert fields(database.conninfo(settings.load(on)))["sslmode"] == "verify-full"
    assert fields(database.conninfo(settings.load(on)))["sslrootcert"] == "system"
    own = settings.load(on | {"DB_SSL_ROOT_CERT": "/ca.pem"})
    assert fields(database.conninfo(own))["sslrootcert"] == "/ca.pem"
    for weak in ("require", "verify-ca", "prefer", "disable"):
        at_odds = {"DATABASE_URL": f"postgresql://h/d?sslmode={weak}", "DB_SSL": "true"}
        with pytest.raises(SettingsError, match=f"sslmode={weak}"):
            database.conninfo(settings.load(at_odds))


def test_an_address_that_cannot_be_read_is_refused_by_name_without_showing_it():
    given = settings.load({"DATABASE_URL": "postgresql://u:hush@h:port/d?x=y"})
    with pytest.raises(SettingsError, match="DATABASE_URL can't be read") as caught:
        database.conninfo(given)
    assert "hush" not in str(caught.value.as_dict())


def test_libpq_environment_gives_the_same_connection():
    given = database.libpq_environment("postgresql://u:p%20q@h:6/d?sslmode=disable")
    assert given == {
        "PGHOST": "h",
        "PGPORT": "6",
        "PGUSER": "u",
        "PGPASSWORD": "p q",
        "PGDATABASE": "d",
        "PGSSLMODE": "disable",
    }


# ── no way in ────────────────────────────────────────────────────────────────────────────


def test_a_server_without_tls_is_refused_where_tls_is_asked_for(postgres, cli):
    environment = {
        "DB_HOST": "127.0.0.1",
        "DB_PORT": str(postgres.server.port),
        "DB_PASSWORD": "x",
        "DB_SSL": "true",
    }
    with pytest.raises(UnavailableError, match="does not support SSL"):
        database.connect(database.conninfo(settings.load(environment)))


@pytest.mark.parametrize(
    ("change", "said", "hint"),
    [
        (
            ("operator_role:", "operator_role:wrong"),
            "password authentication failed",
            "DB_PASSWORD",
        ),
        (("operator_role:", "nobody_there:"), "password authentication failed", "DB_PASSWORD"),
        (("/test_", "/absent_"), "does not exist", "DB_NAME"),
    ],
)
def test_who_is_not_let_in_is_told_why(empty_database, cli, change, said, hint):
    address = empty_database.app.replace(*change)
    ran = cli("server", "password", given="x\n", env={"DATABASE_URL": address})
    assert ran.status == 5
    assert said in ran.err
    assert hint in ran.err
    secret = empty_database.app.split(":")[2].split("@")[0]
    assert secret not in ran.err


def test_no_password_at_all(empty_database, cli):
    password = empty_database.app.split(":")[2].split("@")[0]
    address = empty_database.app.replace(f":{password}@", "@")
    ran = cli("server", "password", given="x\n", env={"DATABASE_URL": address})
    assert (ran.status, "no password supplied" in ran.err) == (5, True)
    assert "hint: see DB_PASSWORD" in ran.err


def test_a_server_that_is_not_there(cli):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    ran = cli("server", "password", "--json", given="x\n", env={"DB_PORT": str(port)})
    assert (ran.status, ran.error["code"]) == (5, "unavailable")
    assert f"localhost:{port}" in ran.error["message"]
    assert "is the server up?" in ran.error["hint"]


def test_ping_tells_a_server_from_none(postgres):
    assert postgres.server.port is not None
    assert database.ping(host="127.0.0.1", port=postgres.server.port) is Answer.READY
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert database.ping(host="127.0.0.1", port=port) is Answer.NONE


# ── transactions ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def db(empty_database):
    with Database(empty_database.owner, pool=ONE) as opened:
        with opened.transaction() as connection:
            connection.execute("create table t (a int)")
        yield opened


def count(db: Database) -> int:
    with db.transaction() as connection:
        row = database.only(connection, "select count(*) as n from t")
    assert row is not None
    return row["n"]


def test_a_block_that_ends_commits_and_one_that_raises_rolls_back(db):
    def insert(then: str) -> None:
        with db.transaction() as connection:
            connection.execute("insert into t values (1)")
            connection.execute(then.encode())
            if then == "select 1 as one":
                raise KeyError

    insert("select 1")
    with pytest.raises(KeyError):
        insert("select 1 as one")
    with pytest.raises(DatabaseError):
        insert("select * from nothing")
    assert count(db) == 1


def test_a_read_only_transaction_writes_nothing(db):
    with (
        pytest.raises(NegspaceError, match="read-only"),
        db.transaction(read_only=True) as connection,
    ):
        connection.execute("insert into t values (1)")
    assert count(db) == 0


def test_who_acts_is_known_inside_and_forgotten_on_the_reused_connection(db):
    actor = Actor(7, 8, "203.0.113.9", "test agent", "request-1")
    with db.acting_as(actor).transaction() as connection:
        inside, first = database.only(connection, ACTOR), connection.info.backend_pid
    assert inside == {
        "user_id": "7",
        "api_key_id": "8",
        "ip_address": "203.0.113.9",
        "user_agent": "test agent",
        "request_id": "request-1",
    }
    with (
        db._pool.leased() as connection
    ):  # the pool's one connection, before anybody states who acts
        assert connection.info.backend_pid == first
        after = database.only(connection, ACTOR)
    assert after == dict.fromkeys(inside, "")


def test_a_call_is_a_transaction_of_who_acts(db):
    acting = db.acting_as(Actor(7, 8, "203.0.113.9", "test agent", "request-1"))
    [inside] = acting.call(f"({ACTOR})")
    assert inside == {
        "user_id": "7",
        "api_key_id": "8",
        "ip_address": "203.0.113.9",
        "user_agent": "test agent",
        "request_id": "request-1",
    }
    with db._pool.leased() as connection:
        assert database.only(connection, ACTOR) == dict.fromkeys(inside, "")
    assert acting.call("generate_series(%s::int, %s::int)", [1, 2]) == [{"c": 1}, {"c": 2}]


def test_a_call_commits_or_fails_whole_and_states_first_who_acts(db):
    with db.transaction() as connection:
        connection.execute(
            "create function add(many int) returns setof text language plpgsql as $$ begin"
            " insert into t select 1 / (2 - n) from generate_series(0, many) n;"
            " return next current_setting('negspace.user_agent'); end $$"
        )
    acting = db.acting_as(Actor(user_agent="test agent"))
    assert acting.call("add(%s)", [1]) == [{"c": "test agent"}]
    with pytest.raises(DatabaseError, match="division by zero"):
        acting.call("add(%s)", [2])
    assert count(db) == 2


@pytest.mark.parametrize("proof", [None, Proof("select %s::text", ["proved"])])
def test_a_call_for_many_makes_something_of_each_row(db, proof):
    acting = db.acting_as(Actor(7), proof=proof)
    call = "(select n, current_setting('negspace.user_id') as who from generate_series(1, %s) n)"
    assert acting.call_for(lambda n, who: f"{n} by {who}", call, [2]) == ["1 by 7", "2 by 7"]
    with pytest.raises(DatabaseError, match="division by zero"):
        acting.call_for(Actor, "(select 1 / 0)")


def test_a_call_proves_who_acts_where_there_is_a_proof(db):
    proof = Proof("select set_config('negspace.request_id', %s, true)", ["proved"])
    acting = db.acting_as(Actor(user_agent="test agent"), proof=proof)
    [inside] = acting.call(f"({ACTOR})")
    assert (inside["user_agent"], inside["request_id"]) == ("test agent", "proved")


def test_at_a_command_line_the_agent_is_the_program_and_its_user(db):
    with db.transaction() as connection:
        found = database.only(connection, ACTOR)
    assert found is not None
    assert found["user_id"] == ""
    assert found["user_agent"].startswith("negspace (")
    assert found["user_agent"].endswith(f"@{os.uname().nodename})")


# ── the pool ─────────────────────────────────────────────────────────────────────────────


def test_a_pool_without_a_free_connection_says_so(db):
    with (
        db.transaction(),
        pytest.raises(UnavailableError, match=r"no free connection within 0\.2 s") as caught,
        db.transaction(),
    ):
        pass
    assert "DB_POOL_MAX" in str(caught.value.hint)


def test_a_connection_that_the_server_ended_is_replaced(db, empty_database):
    with db.transaction() as connection:
        lost = connection.info.backend_pid
    with database.connect(empty_database.superuser) as other:
        other.execute("select pg_terminate_backend(%s, 10000)", [lost])
    assert count(db) == 0


def test_a_connection_just_used_is_not_asked_whether_it_lives(empty_database):
    with contextlib.closing(database.connect(empty_database.owner)) as connection:
        assert not connection.answered_within(60)  # nothing was asked yet
        connection.execute("select 1")
        assert connection.answered_within(60)
        assert not connection.answered_within(0)
        pid = connection.info.backend_pid
        with database.connect(empty_database.superuser) as other:
            other.execute("select pg_terminate_backend(%s, 10000)", [pid])
        assert not connection.answered_within(60)  # it hung up, and that can be seen


def test_one_value_is_asked_for(db):
    assert db.ask_value("select %s::int as a, 2 as b", [1]) == 1
    assert db.ask_value("select 1 where false") is None
    with pytest.raises(NegspaceError):
        db.ask_value("select 1 / 0")
    with db.transaction() as connection:  # left as it was: not each statement for itself
        assert not connection.autocommit


def test_views_for_other_actors_share_the_pool(db):
    with db.transaction() as connection:
        first = connection.info.backend_pid
    with db.acting_as(Actor(user_id=1)) as view, view.transaction() as connection:
        assert connection.info.backend_pid == first
    with db.transaction() as connection:  # the view is closed, the pool is not
        assert connection.info.backend_pid == first


def test_threads_share_a_pool(empty_database):
    size = PoolSize(minimum=0, maximum=3)
    with Database(empty_database.owner, pool=size) as opened:
        with opened.transaction() as connection:
            connection.execute("create table t (a int)")

        def insert(value: int) -> None:
            with opened.transaction() as connection:
                connection.execute("insert into t values (%s)", [value])

        threads = [threading.Thread(target=insert, args=[n]) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert count(opened) == 20


def test_a_text_that_postgresql_cannot_hold_is_the_callers_mistake(db):
    with (
        pytest.raises(InvalidInputError, match="NUL"),
        db.transaction() as connection,
    ):
        connection.execute("select %s::text", ["a\0b"])


def test_app_user_is_no_owner(empty_database):
    with (
        Database(empty_database.app, pool=ONE) as opened,
        pytest.raises(AccessError),
        opened.transaction() as connection,
    ):
        connection.execute("create table mine (a int)")


def test_psycopg_is_imported_by_one_package_alone():
    package = Path(database.__file__).parent
    sources = package.parent.rglob("*.py")
    importing = {s.parent for s in sources if "import psycopg\n" in s.read_text()}
    assert importing == {package}
