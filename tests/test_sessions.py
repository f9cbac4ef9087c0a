"""Sessions, lock-out, e-mail verification and password reset: real bcrypt at a low cost."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock

import psycopg
import pytest

from negspace import audit, passwords, recovery, sessions, users
from negspace import database as db
from negspace.database import Database, PoolSize
from negspace.errors import AccessError, InvalidInputError, NotFoundError
from schema_waiting import DEADLINE, Other

ROOT = Path(__file__).parent.parent
COST = 4  # the lowest that bcrypt takes
PASSWORD, WRONG = "correct horse", "wrong horse"
FREE, FREE_EVERYWHERE = 5, 50
HOME, ELSEWHERE = "192.0.2.7", "203.0.113.9"


@pytest.fixture
def ada(services):
    return users.add(services, "ada@example.org", PASSWORD, cost=COST)


@pytest.fixture
def come(services):
    """A try to log in from an address: the session, or None where it was refused."""

    def call(address=HOME, password=PASSWORD, email="ada@example.org"):
        there = services.acting_as(db.Actor(ip_address=address, user_agent="a browser"))
        try:
            return sessions.login(there, email, password, cost=COST)
        except AccessError:
            return None

    return call


def tries(database, network, email="ada@example.org"):
    with db.connect(database.superuser) as connection:
        return db.only(
            connection,
            "select failures, failed_at, locked_until, trusted_until,"
            " extract(epoch from locked_until - failed_at)::float8 as seconds"
            " from login_attempts where network = %s and account_hash = sha256_hex(%s)",
            [network, email],
        )


def let_pass(database, time):
    """As if so much time had gone by since the last try."""
    with db.connect(database.superuser) as connection:
        connection.execute(
            "update login_attempts set failed_at = failed_at - %(t)s,"
            " locked_until = locked_until - %(t)s, trusted_until = trusted_until - %(t)s,"
            " tried_at = tried_at - %(t)s",
            {"t": time},
        )


# ── sessions ─────────────────────────────────────────────────────────────────────────────


def test_a_session_begins_is_checked_and_ends(services, ada, come):
    made = come()
    token = made.token.reveal()
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert token not in repr(made)
    holder = sessions.check(services, token)
    assert (holder.session_id, holder.user_id, holder.role) == (made.session_id, ada.id, "viewer")
    listed = sessions.list_sessions(services, ada.email)
    assert [(s.id, s.ip_address, s.user_agent) for s in listed] == [
        (made.session_id, HOME, "a browser")
    ]
    sessions.logout(services, token)
    sessions.logout(services, token)
    with pytest.raises(AccessError, match="no such session"):
        sessions.check(services, token)
    assert sessions.list_sessions(services, ada.id) == []
    assert sessions.list_sessions(services, ada.id, ended=True)[0].ended_at is not None
    logouts = audit.events(services, action="logout").events
    assert [(e.user_id, e.resource_type, e.resource_id) for e in logouts] == [
        (ada.id, "session", str(made.session_id))
    ]


def test_no_token_is_stored(database, services, ada, come):
    token = come().token.reveal()
    mail = recovery.issue(services, ada.id, "verify_email")
    with db.connect(database.superuser) as connection:
        stored = db.rows(
            connection,
            "select s::text as row from sessions s union all"
            " select t::text from account_tokens t union all select a::text from security_audit a"
            " union all select l::text from login_attempts l",
        )
    secret = (token, mail.token.reveal(), "ada@", PASSWORD)
    found = {s for s in secret for row in stored if s in row["row"]}
    assert found <= {"ada@"}  # the trail names the account, and the token its address


@pytest.mark.parametrize("token", ["", "x", "\ud800", "\0", "' or true --"])
def test_what_is_no_token_is_refused(services, token):
    with pytest.raises(AccessError):
        sessions.check(services, token)


def test_a_session_ends_with_its_time_its_account_and_its_password(database, services, ada, come):
    def ends_by(change):
        token = come().token.reveal()
        sessions.check(services, token)
        change()
        with pytest.raises(AccessError):
            sessions.check(services, token)

    def expire():
        with db.connect(database.superuser) as connection:
            connection.execute(
                "update sessions set created_at = now() - interval '2 days',"
                " expires_at = now() - interval '1 day'"
            )

    ends_by(expire)
    ends_by(lambda: users.set_active(services, ada.id, active=False))
    users.set_active(services, ada.id, active=True)
    ends_by(lambda: users.set_password(services, ada.id, PASSWORD, cost=COST))
    ends_by(lambda: sessions.end_all(services, ada.id))
    with pytest.raises(InvalidInputError, match="30 days"):
        sessions.login(services, ada.email, PASSWORD, lifetime=timedelta(days=31), cost=COST)


def test_a_role_counts_as_it_is_now(services, ada, come):
    token = come().token.reveal()
    users.set_role(services, ada.id, "analyst")
    assert sessions.check(services, token).role == "analyst"


# ── lock-out ─────────────────────────────────────────────────────────────────────────────


def test_a_lock_out_grows_and_is_never_longer_than_an_hour(database, ada, come):
    for _ in range(FREE - 1):
        assert come(password=WRONG) is None
    assert tries(database, HOME)["locked_until"] is None
    lengths = []
    for _ in range(10):
        come(password=WRONG)
        lengths.append(tries(database, HOME)["seconds"])
        let_pass(database, timedelta(seconds=lengths[-1]))
    assert lengths == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert come() is not None
    assert tries(database, HOME)["failures"] == 0


def test_a_try_while_it_is_locked_counts_as_none(database, ada, come):
    for _ in range(FREE):
        come(password=WRONG)
    before = tries(database, HOME)
    assert before["locked_until"] is not None
    everywhere = tries(database, "*")
    for password in (WRONG, PASSWORD, WRONG):
        assert come(password=password) is None
    assert tries(database, HOME) == before
    assert tries(database, "*") == everywhere
    let_pass(database, timedelta(seconds=before["seconds"]))
    assert come() is not None


def test_who_guesses_elsewhere_locks_out_nobody_else(ada, come):
    for _ in range(FREE + 3):
        come(ELSEWHERE, WRONG)
    assert come(ELSEWHERE) is None
    assert come(HOME) is not None
    assert come("198.51.100.1") is not None  # nor a network that was never seen before


def test_guesses_from_many_networks_lock_all_but_those_that_are_trusted(database, ada, come):
    assert come(HOME) is not None
    for number in range(FREE_EVERYWHERE):
        assert come(f"10.0.0.{number}", WRONG) is None
    assert tries(database, "*")["locked_until"] is not None
    assert come("198.51.100.1") is None
    before = tries(database, "*")
    assert come(HOME) is not None
    assert tries(database, "*")["locked_until"] == before["locked_until"]
    let_pass(database, timedelta(days=91))  # the lock is over, and the trust too
    assert tries(database, HOME)["trusted_until"] < datetime.now(UTC)
    assert come("198.51.100.1") is not None


def test_without_trust_the_account_itself_would_be_locked_out(database, ada, come):
    assert come(HOME) is not None
    for number in range(FREE_EVERYWHERE):
        come(f"10.0.0.{number}", WRONG)
    with db.connect(database.superuser) as connection:
        connection.execute("update login_attempts set trusted_until = null")
    assert come(HOME) is None


def test_failures_fade_after_a_day(database, ada, come):
    for _ in range(FREE - 1):
        come(password=WRONG)
    let_pass(database, timedelta(days=1, seconds=1))
    come(password=WRONG)
    assert tries(database, HOME)["failures"] == 1


def test_tries_that_begin_together_are_counted_before_the_next_is_let_in(database, services, ada):
    with Database(database.app, pool=PoolSize(0, 12)) as pool, ThreadPoolExecutor(12) as threads:
        here = pool.acting_as(db.Actor(ip_address=HOME))

        def guess(_):
            with pytest.raises(AccessError):
                users.authenticate(here, ada.email, WRONG, cost=COST)

        list(threads.map(guess, range(40)))
    reasons = [e.error_message for e in audit.events(services, action="login", limit=100).events]
    assert sorted(reasons) == ["locked account"] * (40 - FREE) + ["wrong password"] * FREE


def test_who_tries_beside_the_failure_that_locks_is_locked_out(database, services, ada, come):
    for _ in range(FREE - 1):
        come(None, WRONG)
    with services.transaction() as connection:
        row = db.only(connection, "select password_hash from users")
    ask = "select accepted, reason from finish_login('ada@example.org', %s)"
    with db.connect(database.app) as one, Other(database.app) as other:
        assert db.only(one, ask, [None]) == {"accepted": False, "reason": "wrong password"}
        later = other.start(lambda connection: db.only(connection, ask, [row["password_hash"]]))
        assert other.is_waiting(one, later)
        one.commit()
        assert later.result(DEADLINE) == {"accepted": False, "reason": "locked account"}


def test_a_password_that_changes_while_it_is_compared_fits_no_more(database, services, ada):
    old = "select accepted, reason from finish_login('ada@example.org', %s)"
    with services.transaction() as connection:
        row = db.only(connection, "select password_hash from users")
    with db.connect(database.app) as one, Other(database.app) as other:
        one.execute("select change_password(%s, %s)", [ada.id, passwords.hashed(WRONG, cost=COST)])
        one.commit()
        later = other.start(lambda connection: db.only(connection, old, [row["password_hash"]]))
        assert later.result(DEADLINE) == {"accepted": False, "reason": "wrong password"}


def test_an_unlocked_account_is_let_in(services, ada, come):
    for _ in range(FREE):
        come(password=WRONG)
    assert come() is None
    assert users.unlock(services, ada.email).failed_login_attempts == 0
    assert come() is not None
    with pytest.raises(NotFoundError):
        users.unlock(services, "eve@example.org")


def test_the_accounts_counters_follow_in_batches(database, services, ada, come):
    for number in range(FREE_EVERYWHERE):
        come(f"10.0.0.{number}", WRONG)
    assert users.find(services, ada.id).failed_login_attempts == 0
    users.refresh_login_counters(services)
    found = users.find(services, ada.id)
    assert found.failed_login_attempts == FREE_EVERYWHERE
    assert found.account_locked_until == tries(database, "*")["locked_until"]
    let_pass(database, timedelta(days=100))
    users.refresh_login_counters(services)
    assert tries(database, "10.0.0.1") is None


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        (None, "unknown"),
    ],
)
def test_what_counts_as_one_network(owner, address, network):
    row = db.only(owner, "select login_network(%s) as network", [address])
    assert row == {"network": network}


# ── unknown, locked and wrong alike ──────────────────────────────────────────────────────

WRITES = """
    select relname as name, n_tup_ins as inserted, n_tup_upd as updated, n_tup_del as deleted
    from pg_stat_xact_user_tables where n_tup_ins + n_tup_upd + n_tup_del > 0 order by 1"""


def writes(connection, email, fitting_hash=None):
    """What one refused login writes, by table; undone."""
    with connection.transaction(force_rollback=True):
        before = {row["name"]: row for row in db.rows(connection, WRITES)}
        row = db.only(
            connection, "select accepted from finish_login(%s, %s)", [email, fitting_hash]
        )
        assert row == {"accepted": False}
        after = db.rows(connection, WRITES)
    return {
        row["name"]: tuple(
            row[kind] - (before[row["name"]][kind] if row["name"] in before else 0)
            for kind in ("inserted", "updated", "deleted")
        )
        for row in after
        if row != before.get(row["name"])
    }


def test_every_refusal_writes_the_same(database, services, come, ada):
    users.add(services, "off@example.org", PASSWORD, cost=COST)
    users.set_active(services, "off@example.org", active=False)
    users.add(services, "locked@example.org", PASSWORD, cost=COST)
    for email in ("ada@example.org", "eve@example.org", "off@example.org", "locked@example.org"):
        come(password=WRONG, email=email)
    for _ in range(FREE):
        come(password=WRONG, email="locked@example.org")
    with db.connect(database.superuser) as connection:
        connection.execute("select set_config('negspace.ip_address', %s, false)", [HOME])
        hashes = {
            row["email"]: row["password_hash"]
            for row in db.rows(connection, "select email, password_hash from users")
        }
        found = [
            writes(connection, "eve@example.org"),
            writes(connection, "ada@example.org"),
            writes(connection, "off@example.org", hashes["off@example.org"]),
            writes(connection, "locked@example.org", hashes["locked@example.org"]),
        ]
        never = [writes(connection, f"{name}@example.org") for name in ("nobody", "nobody2")]
    assert all(one == found[0] for one in found), found
    assert found[0]["login_attempts"] == (0, 2, 0)
    assert never[0]["login_attempts"] == (2, 2, 0)


def test_an_older_hash_costs_no_less_and_is_replaced(services, ada, monkeypatch):
    import bcrypt

    rounds: list[int] = []
    real = bcrypt.checkpw

    def counted(password, kept):
        rounds.append(2 ** int(kept[4:6]))
        return real(password, kept)

    monkeypatch.setattr(bcrypt, "checkpw", counted)  # the real one runs, and is counted
    work = {}
    for name, email in {"unknown": "eve@example.org", "older": "ada@example.org"}.items():
        rounds.clear()
        with pytest.raises(AccessError):
            users.authenticate(services, email, WRONG, cost=COST + 2)
        work[name] = sum(rounds)
    assert work == {"unknown": 2 ** (COST + 2), "older": 2 ** (COST + 2)}
    users.authenticate(services, ada.email, PASSWORD, cost=COST + 2)
    with services.transaction() as connection:
        row = db.only(connection, "select password_hash from users")
    assert row["password_hash"].startswith(f"$2b${COST + 2:02}$")
    users.authenticate(services, ada.email, PASSWORD, cost=COST + 2)


def test_a_new_hash_ends_no_session(services, ada, come):
    token = come().token.reveal()
    users.authenticate(services, ada.email, PASSWORD, cost=COST + 1)
    sessions.check(services, token)


def test_no_more_passwords_are_compared_at_once_than_there_are_slots(monkeypatch):
    import bcrypt

    lock, running, most = Lock(), 0, 0
    real = bcrypt.checkpw

    def watched(password, kept):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        try:
            return real(password, kept)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(bcrypt, "checkpw", watched)  # the real one runs, and is watched
    kept = passwords.hashed(PASSWORD, cost=8)
    with ThreadPoolExecutor(passwords.SLOTS + 6) as threads:
        same = list(threads.map(lambda _: passwords.fits(PASSWORD, kept, cost=8), range(24)))
    assert all(same)
    assert most == passwords.SLOTS


# ── tokens by e-mail ─────────────────────────────────────────────────────────────────────


def test_an_address_is_verified_once(services, ada):
    mail = recovery.issue(services, ada.id, "verify_email")
    assert (mail.email, mail.purpose) == (ada.email, "verify_email")
    assert recovery.verify_email(services, mail.token.reveal()).is_email_verified
    with pytest.raises(AccessError, match="unknown, used or expired"):
        recovery.verify_email(services, mail.token.reveal())


def test_a_password_is_set_anew_and_all_that_was_before_ends(services, ada, come):
    token = come().token.reveal()
    for _ in range(FREE):
        come(password=WRONG)
    mail = recovery.issue(services, ada.id, "reset_password")
    with pytest.raises(InvalidInputError, match="too short"):
        recovery.reset_password(services, mail.token.reveal(), "short")
    found = recovery.reset_password(services, mail.token.reveal(), "another horse", cost=COST)
    assert found.is_email_verified
    with pytest.raises(AccessError):
        sessions.check(services, token)
    with pytest.raises(AccessError):
        recovery.reset_password(services, mail.token.reveal(), "third horse", cost=COST)
    assert come(password="another horse") is not None
    assert come(password=PASSWORD) is None


def test_two_who_bring_a_token_at_once(database, services, ada):
    mail = recovery.issue(services, ada.id, "verify_email")
    query = "select redeem_account_token(%s, 'verify_email')"
    given = [sessions.token_hash(mail.token.reveal())]
    with db.connect(database.app) as one, Other(database.app) as other:
        one.execute(query, given)
        later = other.start(lambda connection: connection.execute(query, given))
        assert other.is_waiting(one, later)
        one.commit()
        with pytest.raises(psycopg.Error, match="unknown, used or expired"):
            later.result(DEADLINE)


def test_a_token_is_void_for_another_purpose_later_or_with_another_address(database, services, ada):
    def issued(purpose="reset_password"):
        return recovery.issue(services, ada.id, purpose).token.reveal()

    def is_void(token):
        with pytest.raises(AccessError):
            recovery.reset_password(services, token, "another horse", cost=COST)
        return True

    assert is_void("x" * 43)
    assert is_void(issued("verify_email"))
    first, second = issued(), issued()
    assert is_void(first)
    with db.connect(database.superuser) as connection:
        connection.execute("update users set email = 'other@example.org'")
    assert is_void(second)
    third = issued()
    users.set_active(services, ada.id, active=False)
    assert is_void(third)
    with pytest.raises(NotFoundError, match="no active user"):
        issued()
    users.set_active(services, ada.id, active=True)
    with db.connect(database.superuser) as connection:
        connection.execute(
            "update account_tokens set created_at = now() - interval '2 days',"
            " expires_at = now() - interval '1 day'"
        )
    assert is_void(third)


def test_a_new_password_makes_tokens_for_one_void(services, ada):
    mail = recovery.issue(services, ada.id, "reset_password")
    users.set_password(services, ada.id, "another horse", cost=COST)
    with pytest.raises(AccessError):
        recovery.reset_password(services, mail.token.reveal(), "third horse", cost=COST)


# ── the command line ─────────────────────────────────────────────────────────────────────


def test_the_commands_unlock_list_end_and_send(cli, database, services, ada, come):
    env = database.environment
    made = come()
    listed = cli("users", "sessions", ada.email, "--json", env=env)
    assert [row["id"] for row in listed.json] == [made.session_id]
    assert "hash" not in listed.out
    assert cli("users", "logout", ada.email, "--json", env=env).json == {"ended": 1}
    assert cli("users", "sessions", ada.email, env=env).out == "no sessions\n"
    for _ in range(FREE):
        come(password=WRONG)
    assert cli("users", "unlock", ada.email, env=env).status == 0
    assert come() is not None
    mail = cli("users", "token", ada.email, "reset_password", "--json", env=env).json
    assert mail["email"] == ada.email
    recovery.reset_password(services, mail["token"], "another horse", cost=COST)
    text = cli("users", "token", ada.email, "verify_email", env=env)
    assert recovery.verify_email(services, text.out.strip()).is_email_verified


def test_the_page_s_example_runs(services):
    page = (ROOT / "docs/users.md").read_text(encoding="utf-8")
    users.add(services, "ada@example.org", "correct horse battery", cost=COST)
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(example, "docs/users.md", "exec"), {"database": services})
    assert len(audit.events(services, action="logout").events) == 1
