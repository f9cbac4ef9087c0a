"""Accounts: real bcrypt at a low cost, real rows, real events."""

from __future__ import annotations

import pytest

from negspace import audit, users
from negspace import database as db
from negspace.errors import (
    AccessError,
    AlreadyExistsError,
    InvalidInputError,
    NegspaceError,
    NotFoundError,
)

COST = 4  # the lowest that bcrypt takes
PASSWORD = "correct horse"


@pytest.fixture
def add(services):
    def call(email: str = "ada@example.org", **more):
        return users.add(services, email, PASSWORD, cost=COST, **more)

    return call


def hash_of(services, user_id: int) -> str:
    with services.transaction() as connection:
        row = db.only(connection, "select password_hash from users where id = %s", [user_id])
    assert row is not None
    return row["password_hash"]


def test_an_account_is_made_found_and_listed(services, add):
    ada = add(role="admin", full_name="Ada Lovelace")
    assert (ada.email, ada.role, ada.full_name, ada.is_active) == (
        *("ada@example.org", "admin", "Ada Lovelace", True),
    )
    bob = add("bob@example.org")
    assert bob.role == "viewer"
    for who in ("ada@example.org", "ADA@Example.ORG", ada.id, str(ada.id)):
        assert users.find(services, who) == ada
    assert users.list_users(services) == [ada, bob]
    assert users.list_users(services, role="viewer") == [bob]
    assert users.list_users(services, after=ada.id) == [bob]
    users.set_active(services, bob.id, active=False)
    assert users.list_users(services, active=True) == [ada]
    for nobody in ("eve@example.org", 99, "99999999999999999999"):
        with pytest.raises(NotFoundError):
            users.find(services, nobody)


def test_an_address_has_one_account_whatever_its_case(add):
    add()
    with pytest.raises(AlreadyExistsError, match="has an account already"):
        add("ADA@example.org")


@pytest.mark.parametrize("email", ["ada", "a@b", "a b@c.de", "a@b@c.de", "a@b.c\n", "", "@c.de"])
def test_what_is_no_address_is_refused_here_and_by_the_database(services, add, email):
    with pytest.raises(InvalidInputError, match="no e-mail address"):
        add(email)
    with pytest.raises(NegspaceError) as caught, services.transaction() as connection:
        connection.execute(
            "insert into users (email, password_hash) values (%s, %s)",
            [email, users.hash_password(PASSWORD, cost=COST)],
        )
    assert "$2b$" not in repr(caught.value.as_dict())  # no refusal quotes the row


@pytest.mark.parametrize("password", ["short", "x" * 73, "é" * 37, "nul\0nul\0nul", "\ud800" * 8])
def test_a_password_that_bcrypt_would_cut_or_anybody_guess_is_refused(services, password):
    with pytest.raises(InvalidInputError, match="the password is too"):
        users.add(services, "ada@example.org", password, cost=COST)


def test_changes_are_audited_before_and_after_and_never_with_a_hash(services, add):
    admin = add("admin@example.org", role="admin")
    ada = add()
    acting = services.acting_as(db.Actor(admin.id, None, "192.0.2.7", "a browser"))
    users.set_role(acting, ada.id, "analyst")
    users.set_active(acting, ada.id, active=False)
    users.set_password(acting, ada.id, "another horse", cost=COST)
    trail = audit.events(services, resource_type="user", resource_id=ada.id).events
    assert {e.action for e in trail} == {"permission_change"}
    assert [(e.changes_before, e.changes_after) for e in trail[:3]] == [
        ({}, {}),
        ({"is_active": True}, {"is_active": False}),
        ({"role": "viewer"}, {"role": "analyst"}),
    ]
    assert {(e.user_id, e.ip_address, e.user_agent) for e in trail[:3]} == {
        (admin.id, "192.0.2.7", "a browser")
    }
    assert trail[3].changes_after is not None
    assert trail[3].changes_after["email"] == ada.email
    with services.transaction() as connection:
        whole = db.rows(connection, "select a::text as text from security_audit a")
    assert not any("$2b$" in row["text"] or "horse" in row["text"] for row in whole)


def test_a_role_that_is_none_is_refused_by_name(services, add):
    with pytest.raises(InvalidInputError, match="no role 'root'"):
        add(role="root")
    ada = add()
    with pytest.raises(InvalidInputError, match="no role 'root'"):
        users.set_role(services, ada.id, "root")


def test_a_change_of_nobody_is_refused(services):
    for change in (
        lambda: users.set_role(services, 99, "admin"),
        lambda: users.set_active(services, "eve@example.org", active=True),
        lambda: users.set_password(services, 99, PASSWORD, cost=COST),
    ):
        with pytest.raises(NotFoundError, match="there is no user"):
            change()


def test_a_login_is_let_in_counted_and_audited(services, add):
    ada = add()
    with pytest.raises(AccessError):
        users.authenticate(services, ada.email, "wrong horse", cost=COST)
    users.refresh_login_counters(services)
    assert users.find(services, ada.id).failed_login_attempts == 1
    let_in = users.authenticate(services, "Ada@example.org", PASSWORD, cost=COST)
    assert (let_in.id, let_in.failed_login_attempts) == (ada.id, 0)
    assert let_in.last_login_at is not None
    trail = audit.events(services, action="login").events
    assert [(e.status, e.user_id, e.error_message) for e in trail] == [
        ("success", ada.id, None),
        ("failure", ada.id, "wrong password"),
    ]


def test_whoever_is_refused_hears_the_same_and_the_trail_knows_why(services, add):
    for name in ("wrong", "inactive", "locked"):
        add(f"{name}@example.org")
    users.set_active(services, "inactive@example.org", active=False)
    with services.transaction() as connection:
        connection.execute(
            "update users set account_locked_until = now() + interval '1 hour'"
            " where email = 'locked@example.org'"
        )
    said: set[str] = set()
    for who, password in {
        "unknown": PASSWORD,
        "wrong": "wrong horse",
        "inactive": PASSWORD,
        "locked": PASSWORD,
    }.items():
        with pytest.raises(AccessError) as caught:
            users.authenticate(services, f"{who}@example.org", password, cost=COST)
        said.add(repr(caught.value.as_dict()))
    assert len(said) == 1
    reasons = [e.error_message for e in audit.events(services, action="login").events]
    assert reasons == ["locked account", "inactive account", "wrong password", "unknown account"]


def test_every_refusal_costs_one_bcrypt_of_the_same_cost(services, add, monkeypatch):
    import bcrypt

    add()
    compared: list[str] = []
    real = bcrypt.checkpw

    def counted(password: bytes, hashed: bytes) -> bool:
        compared.append(hashed[:7].decode())
        return real(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", counted)  # the real one runs, and is counted
    for who in ("ada@example.org", "eve@example.org"):
        for password in ("wrong horse", "x" * 100, "nul\0"):
            with pytest.raises(AccessError):
                users.authenticate(services, who, password, cost=COST)
    assert compared == ["$2b$04$"] * 6


def test_a_longer_password_than_bcrypt_takes_is_never_the_right_one(services):
    longest = "x" * 72
    users.add(services, "ada@example.org", longest, cost=COST)
    users.authenticate(services, "ada@example.org", longest, cost=COST)
    with pytest.raises(AccessError):
        users.authenticate(services, "ada@example.org", longest + "x", cost=COST)


def test_the_hash_is_bcrypt_of_cost_12_unless_asked_otherwise(services):
    ada = users.add(services, "ada@example.org", PASSWORD)
    assert hash_of(services, ada.id).startswith("$2b$12$")


# ── the command line ─────────────────────────────────────────────────────────────────────


def test_the_commands_take_the_password_from_stdin_and_never_show_it(cli, database, services):
    env = database.environment
    made = cli("users", "add", "ada@example.org", "--role", "analyst", "--name", "Ada", "--json",
               env=env, given=f"{PASSWORD}\n")  # fmt: skip
    assert made.status == 0, made.err
    assert (made.json["email"], made.json["role"], made.json["full_name"]) == (
        *("ada@example.org", "analyst", "Ada"),
    )
    assert PASSWORD not in made.out + made.err
    assert "hash" not in made.out
    users.authenticate(services, "ada@example.org", PASSWORD)
    changed = cli("users", "password", "ada@example.org", env=env, given="another horse\n")
    assert changed.status == 0
    users.authenticate(services, "ada@example.org", "another horse")
    assert cli("users", "role", "ada@example.org", "viewer", "--json", env=env).json["role"] == (
        "viewer"
    )
    off = cli("users", "deactivate", "ada@example.org", "--json", env=env).json
    on = cli("users", "activate", "ada@example.org", "--json", env=env).json
    assert (off["is_active"], on["is_active"]) == (False, True)
    assert "ada@example.org" in cli("users", "list", env=env).out
    assert cli("users", "show", "1", "--json", env=env).json["email"] == "ada@example.org"


def test_no_password_is_a_word_not_a_traceback(cli, database):
    ran = cli("users", "add", "ada@example.org", "--json", env=database.environment)
    assert (ran.status, ran.error["code"]) == (2, "invalid_input")
    assert "--password" not in cli("users", "add", "--help").out
