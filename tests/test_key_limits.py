"""The rate limit of API keys, what is counted of them, and their rotation."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from conftest import MIGRATIONS, at, programs
from negspace import audit, keys, migrate, server, users
from negspace import database as db
from negspace.database import Database, PoolSize
from negspace.errors import InvalidInputError, NotFoundError, RefusedError
from negspace.refusals import LASTING, Refusals
from schema_waiting import DEADLINE, Other

HERE = db.Actor(ip_address="192.0.2.7")
SLOW = 3  # a minute: the next request after the burst comes after 20 s


@pytest.fixture
def ada(services):
    return users.add(services, "ada@example.org", "correct horse", role="analyst", cost=4)


@pytest.fixture
def here(services):
    return services.acting_as(HERE)


@pytest.fixture
def slow(services, ada):
    return keys.create(services, ada.id, "slow", rate_limit_per_minute=SLOW)


def limit(database, key_id):
    with db.connect(database.superuser) as connection:
        return db.only(
            connection,
            "select uncounted, busy_requests, busy_since, last_accepted_at"
            " from api_key_limits where api_key_id = %s",
            [key_id],
        )


def let_pass(database, seconds):
    """As if so many seconds had gone by since the last request."""
    with db.connect(database.superuser) as connection:
        connection.execute(
            "update api_key_limits set unused_at = unused_at - make_interval(secs => %s)",
            [seconds],
        )
    forget_refusals()


def forget_refusals():
    """A refusal is remembered for a moment."""
    time.sleep(LASTING)


# ── the limit ────────────────────────────────────────────────────────────────────────────


def test_a_burst_of_the_whole_limit_and_then_one_each_step(database, here, slow):
    text = slow.text.reveal()
    assert [keys.verify(here, text).remaining for _ in range(SLOW)] == [2, 1, 0]
    refused = keys.verify(here, text)
    assert (refused.accepted, refused.reason, refused.remaining) == (
        *(False, keys.RATE_LIMIT_REACHED, 0),
    )
    assert refused.retry_after is not None
    assert 0 < refused.retry_after <= 60 / SLOW
    let_pass(database, refused.retry_after)
    assert [keys.verify(here, text).accepted for _ in range(2)] == [True, False]
    let_pass(database, 60)
    assert [keys.verify(here, text).accepted for _ in range(SLOW + 1)] == [True] * SLOW + [False]


@pytest.mark.parametrize("per_minute", [1, 7, 100, 59_999_999])
def test_the_burst_is_the_limit_exactly(owner, per_minute):
    # step and slack as the table has them: so many steps fit, and not one more
    row = db.only(
        owner,
        "select rate_limit_step(%(n)s) * (%(n)s - 1) <= interval '1 minute' as fits,"
        " rate_limit_step(%(n)s) * %(n)s > interval '1 minute' as more,"
        " rate_limit_step(%(n)s) > interval '0' as steps",
        {"n": per_minute},
    )
    assert row == {"fits": True, "more": False, "steps": True}


def test_sixty_four_threads_get_exactly_what_the_limit_allows(database, services, ada):
    allowed = 20
    made = keys.create(services, ada.id, "busy", rate_limit_per_minute=allowed)
    gate = Barrier(64)

    def ask(pool):
        gate.wait()
        return keys.verify(pool.acting_as(HERE), made.text.reveal()).accepted

    with Database(database.app, pool=PoolSize(0, 64)) as pool, ThreadPoolExecutor(64) as threads:
        first = datetime.now(UTC)
        accepted = sum(threads.map(ask, [pool] * 64))
        seconds = (datetime.now(UTC) - first).total_seconds()
    assert allowed <= accepted <= allowed + int(seconds * allowed / 60)
    found = limit(database, made.key.id)
    assert found["uncounted"] == found["busy_requests"] == accepted


def test_who_waited_for_the_last_request_of_a_limit_is_refused(database, here, slow):
    for _ in range(SLOW - 1):
        assert keys.verify(here, slow.text.reveal()).accepted
    ask = "select accepted, reason from verify_api_key(%s, %s)"
    given = [slow.key.id, keys.key_hash(slow.text.reveal())]
    with db.connect(database.app) as one, Other(database.app) as other:
        assert db.only(one, ask, given) == {"accepted": True, "reason": None}
        later = other.start(lambda connection: db.only(connection, ask, given))
        assert other.is_waiting(one, later)
        one.commit()
        assert later.result(DEADLINE) == {"accepted": False, "reason": keys.RATE_LIMIT_REACHED}


def test_the_first_request_of_two_at_once_makes_one_row(database, slow):
    ask = "select accepted, remaining from verify_api_key(%s, %s)"
    given = [slow.key.id, keys.key_hash(slow.text.reveal())]
    with db.connect(database.app) as one, Other(database.app) as other:
        assert db.only(one, ask, given) == {"accepted": True, "remaining": 2}
        later = other.start(lambda connection: db.only(connection, ask, given))
        assert other.is_waiting(one, later)
        one.commit()
        assert later.result(DEADLINE) == {"accepted": True, "remaining": 1}


def test_a_refusal_writes_nothing_and_waits_for_nobody(database, here, slow):
    text = slow.text.reveal()
    for _ in range(SLOW):
        assert keys.verify(here, text).accepted
    ask = "select reason from verify_api_key(%s, %s)"
    given = [slow.key.id, keys.key_hash(text)]
    with db.connect(database.superuser) as holder, db.connect(database.app) as asker:
        holder.execute("select from api_key_limits for update")
        asker.execute("set local lock_timeout = '1ms'")
        assert db.only(asker, ask, given) == {"reason": keys.RATE_LIMIT_REACHED}
        given[1] = "0" * 64
        assert db.only(asker, ask, given) == {"reason": "unknown key"}
        written = db.only(asker, "select pg_current_xact_id_if_assigned() as xid")
    assert written == {"xid": None}


def test_a_flood_is_refused_without_asking(monkeypatch, database, slow):
    monkeypatch.setattr(keys, "_REFUSED", Refusals[keys.Answer](lasting=60))
    text = slow.text.reveal()
    address = make_conninfo(database.app, options="-c lock_timeout=2s")
    with Database(address, actor=HERE) as here:
        flood(database, here, text)


def flood(database, here, text):
    refused = [keys.verify(here, text) for _ in range(SLOW + 1)][-1]
    with db.connect(database.owner) as holder:
        holder.execute("lock table api_key_limits in access exclusive mode")
        again = keys.verify(here, text)  # would wait for the lock, and fail
    assert replace(again, retry_after=None) == replace(refused, retry_after=None)
    assert 0 < (again.retry_after or 0) < (refused.retry_after or 0)
    let_pass(database, 60)
    assert keys.verify(here, text, scope="read:images").accepted  # another question


def test_a_refusal_is_remembered_until_the_limit_is_free_again_at_most():
    kept = Refusals[str](lasting=60)
    kept.keep("a", "refused", 60)
    kept.keep("b", "refused", 0)
    answer, seconds = kept.find("a") or ("none", 0)
    assert answer == "refused"
    assert 0 < seconds <= 60
    assert [kept.find("b"), kept.find("c")] == [None, None]
    for number in range(1000):
        kept.keep(number, "refused", 60)
    assert kept.find("a") is None  # a thousand questions at most
    assert kept.find(999) is not None
    brief = Refusals[str](lasting=0)
    brief.keep("a", "refused", 60)
    assert brief.find("a") is None


LOSSES = {
    "revoked key": "update api_keys set is_active = false",
    "inactive account": "update users set is_active = false",
    "expired key": "update api_keys set expires_at = clock_timestamp()",
    "scope not granted": "update api_keys set scopes = '[\"read:results\"]'",
    "scope beyond the owner's role": "update users set role = 'viewer'",
    "address not allowed": "update api_keys set ip_whitelist = '[\"198.51.100.0/24\"]'",
}


@pytest.mark.parametrize("used_up", [False, True])
@pytest.mark.parametrize("reason", LOSSES)
def test_each_reason_is_told_whatever_is_left_of_the_limit_and_writes_nothing(
    database, services, here, ada, reason, used_up
):
    made = keys.create(services, ada.id, "k", scopes=["write:images"], rate_limit_per_minute=SLOW)
    text = made.text.reveal()
    for _ in range(SLOW if used_up else 1):
        assert keys.verify(here, text, scope="write:images").accepted
    with db.connect(database.superuser) as connection:
        connection.execute(LOSSES[reason].encode())
    given = [made.key.id, keys.key_hash(text), "write:images", HERE.ip_address]
    with db.connect(database.app) as asker:
        row = db.only(asker, "select * from verify_api_key(%s, %s, %s, %s)", given)
        written = db.only(asker, "select pg_current_xact_id_if_assigned() as xid")
    whose = {"api_key_id": made.key.id, "user_id": ada.id}
    assert row == whose | {
        "accepted": False, "reason": reason, "remaining": None, "retry_after": None,
    }  # fmt: skip
    assert written == {"xid": None}
    assert keys.verify(here, text, scope="write:images") == keys.Answer(
        accepted=False, reason=reason, **whose
    )


@pytest.mark.parametrize("style", ["postgres", "postgres_verbose", "sql_standard", "iso_8601"])
@pytest.mark.parametrize("later", [timedelta(), timedelta(days=1)])
def test_the_wait_is_told_in_seconds_however_the_server_writes_it(database, slow, style, later):
    """The clock was a day ahead when the limit was used up, say."""
    text = slow.text.reveal()
    address = make_conninfo(database.app, options=f"-c intervalstyle={style}")
    with Database(address, actor=HERE) as opened:
        assert opened.ask_value("show intervalstyle") == style
        for _ in range(SLOW):
            assert keys.verify(opened, text).accepted
        let_pass(database, -later.total_seconds())
        wait = keys.verify(opened, text).retry_after
    assert wait is not None
    assert 0 < wait - later.total_seconds() <= 60 / SLOW


def test_after_a_crash_there_is_one_burst_anew_and_no_more(home):
    given = at(home)
    migrate.up(server.ensure(given, binaries=programs()).url("owner"), MIGRATIONS)
    with server.open_database(given, actor=HERE) as opened:
        ada = users.add(opened, "ada@example.org", "correct horse", role="analyst", cost=4)
        made = keys.create(opened, ada.id, "slow", rate_limit_per_minute=SLOW)
        text = made.text.reveal()
        assert sum(keys.verify(opened, text).accepted for _ in range(SLOW + 2)) == SLOW
    server.stop(given, mode="immediate")  # no checkpoint: recovery empties unlogged tables
    server.ensure(given, binaries=programs())
    with server.open_database(given, actor=HERE) as opened:
        assert sum(keys.verify(opened, text).accepted for _ in range(SLOW + 2)) == SLOW


def test_requests_beyond_the_limit_are_no_events(services, here, slow):
    for _ in range(SLOW + 2):
        keys.check(here, slow.text.reveal())
    assert len(audit.events(services, action="api_call").events) == SLOW


# ── changes count at once ────────────────────────────────────────────────────────────────


def test_what_a_key_or_its_owner_loses_is_refused_at_once(services, here, ada):
    made = keys.create(services, ada.id, "k", scopes=["read:images", "write:images"])
    text, number = made.text.reveal(), made.key.id

    def reason(scope="write:images", who=here):
        return keys.verify(who, text, scope=scope).reason

    def change(query):
        with services.transaction() as connection:
            connection.execute(query, [number])

    assert reason() is None
    users.set_role(services, ada.id, "viewer")
    assert reason() == "scope beyond the owner's role"
    users.set_role(services, ada.id, "analyst")
    users.set_active(services, ada.id, active=False)
    assert reason() == "inactive account"
    users.set_active(services, ada.id, active=True)
    change("update api_keys set scopes = '[\"read:images\"]' where id = %s")
    assert (reason(), reason("read:images")) == ("scope not granted", None)
    change("update api_keys set ip_whitelist = '[\"198.51.100.0/24\"]' where id = %s")
    assert reason(None) == "address not allowed"
    change("update api_keys set ip_whitelist = null, rate_limit_per_minute = 1 where id = %s")
    assert reason(None) == keys.RATE_LIMIT_REACHED
    change("update api_keys set rate_limit_per_minute = 1000 where id = %s")
    forget_refusals()
    assert reason(None) is None
    change("update api_keys set expires_at = clock_timestamp() where id = %s")
    assert reason(None) == "expired key"
    change("update api_keys set expires_at = null where id = %s")
    keys.revoke(services, number)
    assert reason(None) == "revoked key"


def test_without_its_trigger_a_revoked_key_goes_on(database, services, here, slow):
    with db.connect(database.owner) as connection:
        connection.execute("alter table api_keys disable trigger api_keys_keep_limit")
    assert keys.verify(here, slow.text.reveal()).accepted
    keys.revoke(services, slow.key.id)
    assert keys.verify(here, slow.text.reveal()).accepted


@pytest.mark.parametrize("change", ["update api_keys set is_active = false",
                                    "update users set is_active = false"])  # fmt: skip
def test_a_first_request_waits_for_whoever_revokes(database, slow, change):
    ask = "select reason from verify_api_key(%s, %s)"
    given = [slow.key.id, keys.key_hash(slow.text.reveal())]
    with db.connect(database.app) as one, Other(database.app) as other:
        one.execute(change)
        later = other.start(lambda connection: db.only(connection, ask, given))
        assert other.is_waiting(one, later)
        one.commit()
        assert later.result(DEADLINE)["reason"] in ("revoked key", "inactive account")


def test_a_key_that_changes_hands_has_what_its_new_owner_has(services, here, ada):
    bob = users.add(services, "bob@example.org", "correct horse", role="viewer", cost=4)
    made = keys.create(services, ada.id, "k")
    assert keys.verify(here, made.text.reveal()).user_id == ada.id
    with services.transaction() as connection:
        connection.execute("update api_keys set user_id = %s", [bob.id])
    assert keys.verify(here, made.text.reveal()).user_id == bob.id


@pytest.mark.parametrize(
    ("networks", "address", "accepted"),
    [
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["10.0.0.0/8"], "::ffff:a01:203", True),
        (["10.0.0.0/8"], "::10.1.2.3", False),
        (["10.0.0.0/8"], "11.0.0.0", False),
        (["10.0.0.0/8"], None, False),
        (["0.0.0.0/0"], "2001:db8::1", False),
        (["0.0.0.0/0"], "::ffff:203.0.113.9", True),
        (["::/0"], "::ffff:203.0.113.9", False),
        (["::/0"], "2001:db8::1", True),
        (["2001:db8::/32", "192.0.2.7/32"], "192.0.2.7", True),
        (["10.0.0.0/24"], "10.0.0.5/8", False),
        (None, None, True),
    ],
)
def test_addresses_are_folded_by_the_database_too(
    database, services, ada, networks, address, accepted
):
    made = keys.create(services, ada.id, "k", networks=networks)
    with db.connect(database.app) as connection:
        row = db.only(
            connection,
            "select accepted, reason from verify_api_key(%s, %s, null, %s)",
            [made.key.id, keys.key_hash(made.text.reveal()), address],
        )
    reason = None if accepted else "address not allowed"
    assert row == {"accepted": accepted, "reason": reason}


@pytest.mark.parametrize(
    "network",
    ["192.0.2.7/24", "192.0.2.7", "10/8", "2001:DB8::/32", "::ffff:10.0.0.5/128", "::ffff:0:0/90",
     "::/64", "10.0.0.0/33", "010.0.0.1/32", "fe80::1%eth0/128", "localhost", ""],
)  # fmt: skip
def test_networks_that_mislead_are_refused_by_the_database(services, ada, network):
    made = keys.create(services, ada.id, "k", networks=["192.0.2.0/24"])
    with (
        pytest.raises(InvalidInputError, match="no canonical network") as caught,
        services.transaction() as connection,
    ):
        connection.execute(
            "update api_keys set ip_whitelist = jsonb_build_array(%s::text) where id = %s",
            [network, made.key.id],
        )
    assert caught.value.hint


# ── counted in batches ───────────────────────────────────────────────────────────────────


def test_uses_are_counted_in_batches(database, services, here, ada, slow):
    fast = keys.create(services, ada.id, "fast")
    never = keys.create(services, ada.id, "never")
    for _ in range(4):
        keys.check(here, slow.text.reveal())  # three of them accepted
        keys.check(here, fast.text.reveal())
    keys.check(here, fast.text.reveal(), scope="write:images")
    assert [k.total_requests for k in keys.list_keys(services)] == [0, 0, 0]
    assert keys.count_uses(services) == 2
    found = {k.id: k for k in keys.list_keys(services)}
    today = datetime.now(UTC).date().isoformat()
    assert found[slow.key.id].usage_stats == {today: {"accepted": 3}}
    assert found[fast.key.id].usage_stats == {today: {"accepted": 4, "refused": 1}}
    assert (found[never.key.id].usage_stats, found[never.key.id].last_used_at) == ({}, None)
    assert found[fast.key.id].last_used_at == limit(database, fast.key.id)["last_accepted_at"]
    assert keys.count_uses(services) == 0
    keys.check(here, fast.text.reveal())
    assert keys.count_uses(services) == 1
    with services.transaction() as connection:
        row = db.only(
            connection,
            "select total_requests, request_count_current_window, last_rate_limit_reset,"
            " usage_stats from api_keys where id = %s",
            [fast.key.id],
        )
    busy = limit(database, fast.key.id)["busy_since"]
    assert row == {
        "total_requests": 5,
        "request_count_current_window": 5,
        "last_rate_limit_reset": busy,
        "usage_stats": {today: {"accepted": 5, "refused": 1}},
    }
    let_pass(database, 60)  # wholly unused again: the next request begins another window
    keys.check(here, fast.text.reveal())
    assert limit(database, fast.key.id)["busy_requests"] == 1


def test_no_use_is_lost_or_counted_twice_while_keys_are_in_use(database, services, ada):
    made = keys.create(services, ada.id, "busy", rate_limit_per_minute=1_000_000)
    text, each = made.text.reveal(), 50
    with Database(database.app, pool=PoolSize(0, 6)) as pool, ThreadPoolExecutor(6) as threads:
        uses = [
            threads.submit(lambda: [keys.verify(pool, text).accepted for _ in range(each)])
            for _ in range(4)
        ]
        counts = [
            threads.submit(lambda: [keys.count_uses(pool) for _ in range(20)]) for _ in range(2)
        ]
        assert all(all(use.result()) for use in uses)
        assert all(count.result() for count in counts)
    keys.count_uses(services)
    assert keys.list_keys(services)[0].total_requests == 4 * each


def test_counting_a_few_at_a_time(database, services, here, ada):
    made = [keys.create(services, ada.id, f"k{n}") for n in range(3)]
    for key in made:
        keys.verify(here, key.text.reveal())
    with db.connect(database.app) as connection:
        batches = [db.only(connection, "select count_api_key_uses(2) as n")["n"] for _ in range(3)]
    assert batches == [2, 1, 0]


# ── rotation ─────────────────────────────────────────────────────────────────────────────


def test_a_successor_has_what_the_key_had_and_both_are_accepted_for_a_while(services, here, ada):
    ends = datetime.now(UTC) + timedelta(days=90)
    old = keys.create(
        *(services, ada.id, "notebook"), scopes=["read:images"], networks=["192.0.2.0/24"],
        expires_at=ends, rate_limit_per_minute=7, description="for tests",
    )  # fmt: skip
    new = keys.rotate(services, old.key.id, overlap=timedelta(hours=1))
    for part in ("user_id", "name", "scopes", "ip_whitelist", "rate_limit_per_minute"):
        assert getattr(new.key, part) == getattr(old.key, part)
    assert new.key.expires_at is not None
    assert new.key.expires_at - new.key.created_at == ends - old.key.created_at
    assert new.text != old.text
    for made in (old, new):
        assert keys.verify(here, made.text.reveal()).accepted
    before = keys.list_keys(services)[0]
    assert before.expires_at is not None
    assert before.expires_at - new.key.created_at == timedelta(hours=1)
    event = audit.events(services, action="permission_change", resource_id=new.key.id,
                         resource_type="api_key").events[0]  # fmt: skip
    assert event.changes_after == {"replaces": old.key.id}


def test_without_an_overlap_the_key_ends_at_once(services, here, ada):
    old = keys.create(services, ada.id, "notebook")
    assert keys.verify(here, old.text.reveal()).accepted
    new = keys.rotate(services, old.key.id, overlap=timedelta())
    assert keys.verify(here, old.text.reveal()).reason == "revoked key"
    assert keys.verify(here, new.text.reveal()).accepted
    assert new.key.expires_at is None


def test_what_can_not_be_rotated(services, ada):
    made = keys.create(services, ada.id, "notebook")
    with pytest.raises(InvalidInputError, match="0 to 90 days"):
        keys.rotate(services, made.key.id, overlap=timedelta(days=91))
    keys.revoke(services, made.key.id)
    with pytest.raises(RefusedError, match="has ended"):
        keys.rotate(services, made.key.id)
    with pytest.raises(NotFoundError):
        keys.rotate(services, 99)
    assert len(keys.list_keys(services)) == 1


def test_a_key_whose_owner_lost_a_scope_is_not_rotated_with_it(services, ada):
    made = keys.create(services, ada.id, "k", scopes=["write:images"])
    users.set_role(services, ada.id, "viewer")
    with pytest.raises(InvalidInputError, match="may not have the scope write:images"):
        keys.rotate(services, made.key.id)


def test_the_command_rotates(cli, database, services, ada):
    made = keys.create(services, ada.id, "notebook")
    ran = cli("keys", "rotate", str(made.key.id), "--overlap", "12h", env=database.environment)
    assert ran.status == 0, ran.err
    assert keys.verify(services, ran.out.strip()).accepted
    assert keys.verify(services, made.text.reveal()).accepted


# ── who may touch it ─────────────────────────────────────────────────────────────────────


def test_the_services_reach_the_limits_by_the_function_alone(database):
    with db.connect(database.app) as connection:
        for statement in ("select from api_key_limits", "delete from api_key_limits",
                          "update api_key_limits set unused_at = '-infinity'",
                          "select make_api_key_limit(1, 'x')"):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(statement)


def test_the_function_that_was_replaced_comes_back_with_the_down(database):
    name = "add_key_limits.down"
    found = sorted(file.name for file in MIGRATIONS.glob("*_add_key_limits.*"))
    with db.connect(database.owner) as connection:
        for file in found[:1]:
            connection.execute((MIGRATIONS / file).read_bytes())
        row = db.only(connection, "select to_regprocedure('check_api_key(text,text,inet)') as f")
        connection.rollback()
    assert name in found[0]
    assert row["f"]


# ── what decides goes with its key ───────────────────────────────────────────────────────


def kept(database) -> int:
    with db.connect(database.owner) as owner:
        row = db.only(owner, "select count(*) as rows from api_key_limits")
    return row["rows"]


def test_a_removed_key_is_refused_and_leaves_nothing(database, here, slow):
    assert keys.verify(here, slow.text.reveal()).accepted
    with db.connect(database.owner) as owner:
        owner.execute("delete from api_keys")
    assert keys.verify(here, slow.text.reveal()).reason == "unknown key"
    assert kept(database) == 0


def test_without_the_trigger_a_removed_key_is_still_accepted(database, here, slow):
    """The twin."""
    assert keys.verify(here, slow.text.reveal()).accepted
    with db.connect(database.owner) as owner:
        owner.execute("alter table api_keys disable trigger api_keys_remove_limit")
        owner.execute("delete from api_keys")
    assert keys.verify(here, slow.text.reveal()).accepted
    assert kept(database) == 1


@pytest.mark.parametrize(
    "change", ["delete from api_keys", "update api_keys set is_active = false"]
)
def test_an_older_snapshot_leaves_no_right_behind(database, here, slow, change):
    """The row of a first request, which that transaction can't see, would outlive the key."""
    with db.connect(database.owner) as owner:
        owner.execute("set transaction isolation level repeatable read")
        owner.execute("select 1 from api_keys")
        assert keys.verify(here, slow.text.reveal()).accepted
        with pytest.raises(psycopg.errors.SerializationFailure):
            owner.execute(change.encode())
        owner.rollback()
