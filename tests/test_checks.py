"""Checks of keys, secrets and hostile text, each with a twin that breaks the control.

Which of the twenty checks is which test is listed in docs/checks.md.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier

import psycopg
import pytest

from acting import join
from negspace import audit, keys, recovery, sessions, users
from negspace import database as db
from negspace.database import Actor, Database, PoolSize
from negspace.errors import NegspaceError
from negspace.server import binaries
from schema_waiting import DEADLINE

PASSWORD, ANOTHER = "correct horse battery", "another horse battery"
HERE_IS = Path(__file__).parent
HERE = Actor(ip_address="192.0.2.7")


@pytest.fixture
def ada(services):
    return users.add(services, "ada@example.org", PASSWORD, role="viewer", cost=4)


@pytest.fixture(autouse=True)
def nobody_special(database):
    """The role that all of this is tried as."""
    with db.connect(database.app) as app:
        role = db.only(
            app,
            "select rolsuper or rolbypassrls as special, (select count(*) from pg_class"
            " where relowner = r.oid) as owns from pg_roles r where rolname = current_user",
        )
    assert role == {"special": False, "owns": 0}


def redefine(database, name: str, old: str, new: str) -> None:
    """Break a control: a function with a piece of it replaced."""
    with db.connect(database.owner) as owner:
        row = db.only(owner, "select pg_get_functiondef(%s::regproc) as source", [name])
        assert row is not None
        assert old in row["source"]
        owner.execute(row["source"].replace(old, new).encode())


# ── 14: no secret in logs, in what the server shows of sessions, in dumps ────────────────


def logged(database, run) -> str:
    """What the server has written, up to now; its collector writes a moment later."""
    mark = f"written up to here in {database.name}"
    with db.connect(database.superuser, autocommit=True) as connection:
        connection.execute(f"select '{mark}'".encode())
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        with suppress(FileNotFoundError):  # of another test's server, which went meanwhile
            files = [*run.rglob("server.log"), *run.glob("**/log/*")]
            text = "".join(file.read_text("utf-8", "replace") for file in files)
            if mark in text:
                return text
        time.sleep(0.05)
    raise TimeoutError("the server's log doesn't come")


def given_away(database, run, secrets: list[str]) -> dict[str, list[str]]:
    """Where a clear secret stands: the server's log, its sessions, a dump."""
    with db.connect(database.superuser) as connection:
        activity = db.rows(connection, "select query from pg_stat_activity")
    dump = subprocess.run(
        [next(binaries.installed()).program("pg_dump"), "--enable-row-security"],
        env=os.environ | db.libpq_environment(database.owner),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    texts = {
        "log": logged(database, run),
        "activity": "\n".join(row["query"] or "" for row in activity),
        "dump": dump,
    }
    assert "ada@example.org" in texts["dump"]
    return {where: [s for s in secrets if s in text] for where, text in texts.items()}


@pytest.fixture
def talkative(database):
    """The database, whose server writes every statement with its parameters into its log."""
    with db.connect(database.superuser, autocommit=True) as connection:
        for setting in (b"log_statement = 'all'", b"log_min_duration_statement = 0"):
            connection.execute(b"alter database " + database.name.encode() + b" set " + setting)
    return database


def test_no_clear_secret_is_in_logs_sessions_or_dumps(talkative, run):
    with Database(talkative.app, actor=HERE) as services:
        users.add(services, "ada@example.org", PASSWORD, cost=4)
        made = keys.create(services, "ada@example.org", "a key")
        keys.check(services, made.text.reveal())
        session = sessions.login(services, "ada@example.org", PASSWORD, cost=4)
        sessions.check(services, session.token.reveal())
        mail = recovery.issue(services, "ada@example.org", "reset_password")
        recovery.reset_password(services, mail.token.reveal(), ANOTHER, cost=4)
        shown = [made.text, session.token, mail.token]
        secrets = [PASSWORD, ANOTHER, *(secret.reveal() for secret in shown)]
        found = given_away(talkative, run, secrets)
    assert found == {"log": [], "activity": [], "dump": []}


def test_a_secret_that_a_statement_holds_is_found(talkative, run):
    """The twin: a password that a statement holds, as those of crypt() do."""
    own = "a twins own secret"
    with Database(talkative.app) as services, services.transaction() as connection:
        connection.execute(
            "insert into users (email, password_hash, metadata) values"
            " ('ada@example.org', '$2b$12$' || repeat('a', 53),"
            " jsonb_build_object('x', 'a twins own secret'))"
        )
    with Database(talkative.app) as services:
        services.ask("select current_database()")
        found = given_away(talkative, run, [own])
    assert found["log"] == found["dump"] == [own]


# ── 15: a key's look-up tells nothing by time ────────────────────────────────────────────

# Times can't be compared in a test; what takes the time can: how often each table is read and
# written, how often each function is called.
WORK = """
    select relname || ': ' || coalesce(seq_scan, 0) + coalesce(idx_scan, 0) || ' scans, '
           || n_tup_ins + n_tup_upd + n_tup_del || ' writes' as work
    from pg_stat_xact_user_tables
    where relname in ('api_keys', 'api_key_limits', 'users', 'security_audit')
    union all
    select funcname || ': ' || calls || ' calls' from pg_stat_xact_user_functions
    order by 1"""


def work(database, text: str) -> list[str]:
    """What the database does for a key that it doesn't take."""
    with db.connect(database.superuser) as connection:
        connection.execute("set local track_functions = 'all'")
        number, hashed = int(text.split("_")[1]), keys.key_hash(text)
        row = db.only(connection, "select * from verify_api_key(%s, %s)", [number, hashed])
        assert row is not None
        assert (row["reason"], row["api_key_id"], row["user_id"]) == ("unknown key", None, None)
        return [row["work"] for row in db.rows(connection, WORK)]


def test_an_unknown_key_and_a_wrong_secret_are_the_same_work(database, services, ada):
    real = keys.create(services, ada.id, "a key").text.reveal()
    unused = keys.create(services, ada.id, "another").text.reveal()
    assert keys.verify(services, real).accepted
    wrong = [f"nsk_{text.split('_')[1]}_{'a' * 38}" for text in (real, unused, "nsk_999_x")]
    used, never_used, unknown = (work(database, text) for text in wrong)
    assert used == never_used == unknown
    assert "verify_api_key: 1 calls" in used


def work_of_acting(database, text: str) -> list[str]:
    """The same for a key that somebody wants to act by."""
    with db.connect(database.superuser) as connection:
        connection.execute("set local track_functions = 'all'")
        given = [int(text.split("_")[1]), keys.key_hash(text)]
        with pytest.raises(psycopg.Error) as refused, connection.transaction():
            connection.execute("select act_with_key(%s, %s)", given)
        assert refused.value.sqlstate == "NS002"
        return [row["work"] for row in db.rows(connection, WORK)]


def test_to_act_by_an_unknown_key_or_with_a_wrong_secret_is_the_same_work(database, services, ada):
    real = keys.create(services, ada.id, "a key").text.reveal()
    wrong, unknown = (f"nsk_{number}_{'a' * 38}" for number in (real.split("_")[1], 999))
    assert work_of_acting(database, wrong) == work_of_acting(database, unknown)
    assert "api_keys: 1 scans, 0 writes" in work_of_acting(database, wrong)


def test_an_owner_that_is_looked_up_before_the_secret_is_seen(database, services, ada):
    """The twin."""
    redefine(
        database, "act_with_key", "\nbegin\n",
        "\nbegin\n    if exists (select from public.api_keys k where k.id = key) then\n"
        "        perform from public.users;\n    end if;\n",
    )  # fmt: skip
    real = keys.create(services, ada.id, "a key").text.reveal()
    wrong, unknown = (f"nsk_{number}_{'a' * 38}" for number in (real.split("_")[1], 999))
    assert work_of_acting(database, wrong) != work_of_acting(database, unknown)


def test_a_check_that_ends_early_for_unknown_numbers_is_seen(database, services, ada):
    """The twin."""
    redefine(
        database, "verify_api_key", "\nbegin\n",
        "\nbegin\n    if not exists (select from public.api_keys k where k.id = key) then\n"
        "        accepted := false; reason := 'unknown key'; return;\n    end if;\n",
    )  # fmt: skip
    real = keys.create(services, ada.id, "a key").text.reveal()
    wrong = [f"nsk_{number}_{'a' * 38}" for number in (real.split("_")[1], 999)]
    known, unknown = (work(database, text) for text in wrong)
    assert known != unknown


# ── 16: scopes can't escalate ────────────────────────────────────────────────────────────


def escalated(database, services, ada) -> list[str]:
    """By which ways a viewer's key gets a scope that viewers don't have."""
    made = keys.create(services, ada.id, "a key")
    ways = {
        "create": lambda: keys.create(services, ada.id, "b", scopes=["manage:accounts"]),
        "update": lambda: widen(database, made.key.id),
        "owner": lambda: hand_over(database, services, made.key.id),
    }
    done = [name for name, way in ways.items() if _works(way)]
    if keys.verify(services, made.text.reveal(), scope="manage:accounts").accepted:
        done.append("use")
    return done


def _works(way) -> bool:
    try:
        way()
    except (NegspaceError, psycopg.Error):
        return False
    return True


def widen(database, key: int) -> None:
    with db.connect(database.app) as app:
        app.execute("update api_keys set scopes = '[\"manage:accounts\"]' where id = %s", [key])


def hand_over(database, services, key: int) -> None:
    """An administrator's key given to a viewer with what it may do."""
    boss = users.add(services, "boss@example.org", PASSWORD, role="admin", cost=4)
    strong = keys.create(services, boss.id, "strong", scopes=["manage:accounts"])
    with db.connect(database.app) as app:
        app.execute(
            "update api_keys set user_id = (select user_id from api_keys where id = %s)"
            " where id = %s", [key, strong.key.id])  # fmt: skip


def test_no_way_leads_to_more_than_the_owners_role_has(database, services, ada):
    assert escalated(database, services, ada) == []


def test_without_its_trigger_scopes_escalate(database, services, ada):
    """The twin."""
    with db.connect(database.owner) as owner:
        for row in db.rows(
            owner,
            "select tgname as name from pg_trigger where tgrelid = 'api_keys'::regclass"
            " and tgfoid = 'refuse_scopes_beyond_role'::regproc",
        ):
            owner.execute(f"alter table api_keys disable trigger {row['name']}".encode())
    assert escalated(database, services, ada)[:2] == ["create", "update"]
    redefine(database, "verify_api_key", "and scope = any (l.owner_scopes)", "")
    with db.connect(database.owner) as owner:
        owner.execute("delete from api_keys; delete from users where email like 'boss%'")
    assert "use" in escalated(database, services, ada)


# ── 17: no more than the limit ───────────────────────────────────────────────────────────


def let_through(database, text: str) -> int:
    """How many of 64 that ask at once are let through beyond a limit of 20 a minute."""
    gate = Barrier(64)

    def ask(pool):
        gate.wait()
        return keys.verify(pool.acting_as(HERE), text).accepted

    with Database(database.app, pool=PoolSize(0, 64)) as pool, ThreadPoolExecutor(64) as threads:
        first = datetime.now(UTC)
        accepted = sum(threads.map(ask, [pool] * 64))
        seconds = (datetime.now(UTC) - first).total_seconds()
    return accepted - 20 - int(seconds * 20 / 60)


def test_a_limiter_that_looks_before_it_writes_lets_more_through(database, services, ada):
    """The twin of test_sixty_four_threads_get_exactly_what_the_limit_allows."""
    made = keys.create(services, ada.id, "busy", rate_limit_per_minute=20)
    redefine(
        database, "verify_api_key", "\nbegin\n",
        "\nbegin\n    perform from public.api_key_limits l"
        " where l.api_key_id = key and l.key_hash = verify_api_key.key_hash\n"
        "        and l.unused_at <= clock_timestamp() + l.slack;\n"
        "    accepted := found;\n    perform pg_sleep(0.2);\n"
        "    if accepted then update public.api_key_limits l"
        " set unused_at = greatest(l.unused_at, clock_timestamp()) + l.step"
        " where l.api_key_id = key; return; end if;\n",
    )  # fmt: skip
    keys.verify(services, made.text.reveal())
    assert let_through(database, made.text.reveal()) > 0


# ── 18: addresses ────────────────────────────────────────────────────────────────────────


def test_without_folding_an_address_written_as_ipv6_is_another(database, services, ada):
    """The twin of test_addresses_are_folded_by_the_database_too."""
    made = keys.create(services, ada.id, "k", networks=["10.0.0.0/8"])
    given = [made.key.id, keys.key_hash(made.text.reveal())]
    query = "select accepted from verify_api_key(%s, %s, null, '::ffff:10.1.2.3')"
    with db.connect(database.app, autocommit=True) as app:
        assert db.only(app, query, given) == {"accepted": True}
        redefine(database, "verify_api_key", "if family(address) = 6 then", "if false then")
        assert db.only(app, query, given) == {"accepted": False}


# ── 20: hostile text in every text argument ──────────────────────────────────────────────

HOSTILE = {
    "quote": "'",
    "quotes": "'; drop table users; --",
    "dollars": "$$ $a$ $1 %s %I {} \\",
    "identifier": '"x" or 1=1',
    "pattern": "%_.*(a+)+$[",
    "path": '$.** ? (@ like_regex "(a+)+$")',
    "long": "x" * 100_000,
    "unicode": "\u202e\ufeff\U0001d518é",
    "number": "NaN",
    "empty": "",
}
HOSTILE_JSON = {
    "deep": "[" * 9_000 + "]" * 9_000,
    "hostile keys": '{"\'; drop table users; --": {"$$": "%s"}}',
    "wide": "[" + ",".join(["1e308"] * 10_000) + "]",
    "no object": '"x"',
    "null": "null",
}
# What text that is taken for SQL leads to: a syntax error, or a name that isn't there; XX is a
# failure of the server itself.
TAKEN_FOR_SQL = ("42601", "42P01", "42703", "42883", "42P02", "XX")
FUNCTIONS = """
    select p.oid::regproc::text as name, p.proargtypes::regtype[]::text[] as types
    from pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.prorettype <> 'trigger'::regtype
      and has_function_privilege(p.oid, 'execute')
      and p.proargtypes::regtype[]::text[] && '{text,text[],jsonb}'
      and not p.proargtypes::regtype[]::text[] && array['audit_seals', 'security_audit',
                                                        'audit_log_details', 'processing_queue[]']
    order by 1"""
PLAIN = {
    "text": "x", "jsonb": "{}", "bigint": "1", "integer": "1", "smallint": "1", "boolean": "t",
    "inet": "192.0.2.7", "interval": "1 day", "numeric": "1", "double precision": "1",
    "timestamp with time zone": "2026-01-01", "uuid": "00000000-0000-0000-0000-000000000000",
    "bigint[]": "{1}", "text[]": "{x}", "bytea": "x", "audit_action": "login",
    "audit_status": "success", "user_role": "viewer", "analysis_status": "pending",
    "queue_status": "queued", "metric_type": "gauge", "bytea[]": "{}", "uuid[]": "{}",
}  # fmt: skip


def hostile_calls(types: list[str]):
    """Arguments in which one is hostile and the others are plain."""
    plain = [PLAIN.get(kind) for kind in types]
    for place, kind in enumerate(types):
        values = {"text": HOSTILE, "jsonb": HOSTILE_JSON}.get(kind, {})
        if kind == "text[]":
            values = {name: [text] for name, text in HOSTILE.items()}
        for name, value in values.items():
            yield f"{place}: {name}", [*plain[:place], value, *plain[place + 1 :]]


def taken_for_sql(address: str, only: str = "", person=None) -> tuple[list[str], int]:
    """Calls whose text was taken for SQL or broke the server, and how many were made.

    Every function is called that the login may call; while a person acts, where one is given.
    """
    found: list[str] = []
    calls = 0
    with db.connect(address, autocommit=True) as app:
        app.execute("set statement_timeout = '10s'")
        for function in db.rows(app, FUNCTIONS):
            if only not in function["name"]:
                continue
            casts = ", ".join(f"%s::{kind}" for kind in function["types"])
            query = f"select {function['name']}({casts})".encode()
            for what, given in hostile_calls(function["types"]):
                calls += 1
                with app.transaction(force_rollback=True):
                    if person is not None:
                        app.execute(*person.proof)
                    try:
                        with app.transaction():
                            app.execute(query, given)
                    except psycopg.Error as error:
                        if (error.sqlstate or "XX").startswith(TAKEN_FOR_SQL):
                            found.append(f"{function['name']} {what}: {error.sqlstate} {error}")
    return found, calls


def test_hostile_text_is_taken_for_nothing_but_text(database, ada):
    found, calls = taken_for_sql(database.app)
    assert found == []
    assert calls > 900
    with db.connect(database.app) as app:
        assert db.only(app, "select count(*) as n from users") == {"n": 1}


def test_hostile_text_of_a_person_is_taken_for_nothing_but_text(database):
    with db.connect(database.owner) as owner:
        me = join(owner, "analyst")
    found, calls = taken_for_sql(database.web, person=me)
    assert found == []
    assert calls > 300


def test_text_that_is_pasted_into_sql_is_found(database, ada):
    """The twin."""
    with db.connect(database.owner) as owner:
        owner.execute(
            "create function pasted(name text) returns void language plpgsql as"
            " $f$ begin execute 'select ''' || name || ''''; end $f$"
        )
    found, _ = taken_for_sql(database.app, "pasted")
    assert any("0: quote: 42601" in one for one in found)


def test_a_text_with_a_nul_is_refused_with_a_word(services, ada):
    for act in (
        lambda: users.add(services, "a\0@example.org", PASSWORD, cost=4),
        lambda: keys.create(services, ada.id, "a\0b"),
        lambda: users.set_password(services, ada.id, "correct\0horse", cost=4),
        lambda: audit.hold(services, "a\0b"),
        lambda: keys.verify(services, "nsk_1_\0"),
        lambda: sessions.check(services, "\0"),
    ):
        try:
            answer = act()
        except NegspaceError:
            continue
        assert isinstance(answer, keys.Answer)
        assert not answer.accepted


# ── the list ─────────────────────────────────────────────────────────────────────────────


def test_the_page_of_checks_names_tests_that_are_there():
    page = (HERE_IS.parent / "docs/checks.md").read_text("utf-8")
    named = set(re.findall(r"`(test_\w+)(?:\[\w+\])?`", page))
    there = {
        name
        for file in HERE_IS.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
    }
    assert len(named) > 30
    assert named <= there
    numbers = [int(number) for number in re.findall(r"^\| ([0-9]+) ", page, re.MULTILINE)]
    assert sorted(set(numbers)) == list(range(1, 21))
