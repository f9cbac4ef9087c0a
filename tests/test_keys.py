"""API keys: made, shown once, checked, revoked; networks and scopes."""

from __future__ import annotations

import ipaddress
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from negspace import audit, keys, users
from negspace import database as db
from negspace.errors import InvalidInputError, NotFoundError, UnavailableError
from schema_waiting import DEADLINE, Other

HERE = db.Actor(ip_address="192.0.2.7", user_agent="a program")


@pytest.fixture
def ada(services):
    return users.add(services, "ada@example.org", "correct horse", role="analyst", cost=4)


@pytest.fixture
def here(services):
    return services.acting_as(HERE)


def test_a_key_is_shown_once_and_stored_as_its_hash(services, ada):
    made = keys.create(services, ada.email, "notebook", description="for tests")
    text = made.text.reveal()
    assert re.fullmatch(rf"nsk_{made.key.id}_[0-9A-Za-z]{{38}}", text)
    assert text not in repr(made)
    assert made.key.scopes == ["read:images", "read:results"]
    assert (made.key.ip_whitelist, made.key.expires_at) == (None, None)
    with services.transaction() as connection:
        row = db.only(connection, "select k.*, k::text as whole from api_keys k")
        trail = db.rows(connection, "select a::text as text from security_audit a")
    assert row is not None
    assert row["key_hash"] == keys.key_hash(text)
    secret = text.split("_")[2]
    assert secret not in row["whole"]
    assert not any(secret in e["text"] or row["key_hash"] in e["text"] for e in trail)
    assert keys.list_keys(services, owner=ada.id) == [made.key]


def test_a_key_is_accepted_and_audited(services, here, ada):
    made = keys.create(services, ada.id, "notebook")
    answer = keys.check(here, made.text.reveal(), scope="read:images")
    assert answer == keys.Answer(True, None, made.key.id, ada.id, remaining=99)
    event = audit.events(services, action="api_call").events[0]
    assert (event.user_id, event.resource_id) == (ada.id, str(made.key.id))
    assert (event.status, event.ip_address) == ("success", "192.0.2.7")
    assert event.changes_after == {"scope": "read:images"}


def test_a_key_is_refused_with_its_reason(services, here, ada):
    made = keys.create(services, ada.id, "notebook", networks=["192.0.2.0/24"])
    text = made.text.reveal()
    elsewhere = services.acting_as(db.Actor(ip_address="198.51.100.7"))
    assert keys.check(here, text, scope="write:images").reason == "scope not granted"
    assert keys.check(elsewhere, text).reason == "address not allowed"
    assert keys.check(services.acting_as(db.Actor()), text).reason == "address not allowed"
    assert keys.check(here, text).accepted
    mapped = services.acting_as(db.Actor(ip_address="::ffff:192.0.2.7"))
    assert keys.check(mapped, text).accepted
    users.set_active(services, ada.id, active=False)
    assert keys.check(here, text).reason == "inactive account"
    users.set_active(services, ada.id, active=True)
    assert not keys.revoke(services, made.key.id).is_active
    assert keys.check(here, text).reason == "revoked key"
    assert not keys.revoke(services, made.key.id).is_active
    assert keys.list_keys(services, active=True) == []
    reasons = [e.error_message for e in audit.events(services, action="api_call").events]
    assert reasons == [
        *("revoked key", "inactive account", None, None),
        *("address not allowed", "address not allowed", "scope not granted"),
    ]


def test_a_key_that_has_expired_is_refused(services, here, ada):
    soon = datetime.now(UTC) + timedelta(days=1)
    made = keys.create(services, ada.id, "notebook", expires_at=soon)
    assert made.key.expires_at == soon
    assert keys.check(here, made.text.reveal()).accepted
    with services.transaction() as connection:
        connection.execute(
            "update api_keys set created_at = now() - interval '2 days',"
            " expires_at = now() - interval '1 day'"
        )
    assert keys.check(here, made.text.reveal()).reason == "expired key"
    with pytest.raises(InvalidInputError, match="is past"):
        keys.create(services, ada.id, "old", expires_at=datetime.now(UTC) - timedelta(days=1))


def test_an_unknown_key_with_a_right_checksum_is_refused(services, here, ada):
    made = keys.create(services, ada.id, "notebook")
    with services.transaction() as connection:
        connection.execute("update api_keys set key_hash = %s", ["0" * 64])
    for _ in range(2):
        assert keys.verify(here, made.text.reveal()) == keys.Answer(False, "unknown key")
    assert keys.check(here, made.text.reveal()) == keys.Answer(False, "unknown key")
    assert audit.events(services, action="api_call").events[0].error_message == "unknown key"


def test_a_mistyped_key_is_refused_without_a_query(services, ada):
    text = keys.create(services, ada.id, "notebook").text.reveal()
    nowhere = db.Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(UnavailableError):  # a whole key does ask
        keys.check(nowhere, text)
    for wrong in (text[:-1], text + "0", "", "nsk__", text.upper(), text + "\n",
                  text[:10] + ("A" if text[10] != "A" else "B") + text[11:]):  # fmt: skip
        assert keys.check(nowhere, wrong) == keys.Answer(False, "malformed key")


def test_every_single_mistake_in_a_key_is_seen(services, ada):
    text = keys.create(services, ada.id, "notebook").text.reveal()
    assert keys.well_formed(text)
    for place in range(len(text)):
        for letter in "0aZ_":
            changed = text[:place] + letter + text[place + 1 :]
            assert changed == text or not keys.well_formed(changed)


@pytest.mark.parametrize(
    ("role", "scope", "allowed"),
    [
        ("viewer", "read:results", True),
        ("viewer", "write:images", False),
        ("api_user", "run:analyses", True),
        ("api_user", "read:metrics", False),
        ("analyst", "read:metrics", True),
        ("analyst", "manage:accounts", False),
        ("admin", "manage:accounts", True),
        ("admin", "read:everything", False),
    ],
)
def test_scopes_stay_within_the_owner_s_role(services, role, scope, allowed):
    user = users.add(services, "user@example.org", "correct horse", role=role, cost=4)
    if allowed:
        assert keys.create(services, user.id, "k", scopes=[scope, scope]).key.scopes == [scope]
        return
    with pytest.raises(InvalidInputError, match=f"role {role} may not have the scope {scope}"):
        keys.create(services, user.id, "k", scopes=["read:images", scope])
    assert keys.list_keys(services) == []


WIDE = (
    "insert into api_keys (user_id, key_hash, name, scopes)"
    " values (%s, repeat('a', 64), 'wide', '[\"write:images\"]')"
)
LESSEN = "update users set role = 'viewer' where id = %s"


def test_a_key_waits_for_whoever_changes_the_role(database, services, ada):
    with db.connect(database.app) as boss, ThreadPoolExecutor(1) as thread:
        boss.execute(LESSEN, [ada.id])
        making = thread.submit(keys.create, services, ada.id, "k", scopes=["write:images"])
        assert is_waited_for(boss, making)
        boss.commit()
        with pytest.raises(InvalidInputError, match="may not have the scope write:images"):
            making.result(DEADLINE)
    assert keys.list_keys(services) == []


def test_a_role_waits_for_a_key_that_is_being_made(database, services, ada):
    with db.connect(database.app) as maker, Other(database.app) as boss:
        maker.execute(WIDE, [ada.id])
        later = boss.start(lambda connection: connection.execute(LESSEN, [ada.id]).rowcount)
        assert boss.is_waiting(maker, later)
        maker.commit()
        assert later.result(DEADLINE) == 1


def test_a_role_that_changed_after_the_snapshot_is_not_gone_by(database, services, ada):
    with db.connect(database.app) as maker:
        maker.execute("set transaction isolation level repeatable read")
        maker.execute("select")
        users.set_role(services, ada.id, "viewer")
        with pytest.raises(psycopg.errors.SerializationFailure):
            maker.execute(WIDE, [ada.id])


def test_without_the_lock_a_key_may_exceed_the_role(database, services, ada):
    """The twin."""
    with db.connect(database.owner) as owner:
        row = db.only(
            owner, "select pg_get_functiondef('refuse_scopes_beyond_role'::regproc) as source"
        )
        assert row is not None
        owner.execute(row["source"].replace(" for share;", ";").encode())
    with db.connect(database.app) as maker:
        maker.execute("set transaction isolation level repeatable read")
        maker.execute("select")
        users.set_role(services, ada.id, "viewer")
        maker.execute(WIDE, [ada.id])
        maker.commit()
    assert [key.scopes for key in keys.list_keys(services)] == [["write:images"]]


def is_waited_for(holder, future) -> bool:
    """Whether somebody came to wait for what a connection holds, rather than to an end."""
    end = time.monotonic() + DEADLINE
    query = "select count(*) as n from pg_stat_activity where %s = any (pg_blocking_pids(pid))"
    while time.monotonic() < end and not future.done():
        if (db.only(holder, query, [holder.info.backend_pid]) or {})["n"]:
            return True
        time.sleep(0.01)
    return False


def test_a_role_that_is_taken_away_takes_the_key_s_scopes_with_it(services, here, ada):
    text = keys.create(services, ada.id, "k", scopes=["write:images", "read:images"]).text.reveal()
    assert keys.check(here, text, scope="write:images").accepted
    users.set_role(services, ada.id, "viewer")
    assert keys.check(here, text, scope="write:images").reason == "scope beyond the owner's role"
    assert keys.check(here, text, scope="read:images").accepted


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::ffff:10.0.0.5", "10.0.0.5/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
    ],
)
def test_networks_are_stored_canonical(text, canonical):
    assert keys.canonical_networks([text, text]) == [canonical]


@pytest.mark.parametrize(
    "text",
    ["192.0.2.7/24", "2001:db8::1/32", "::ffff:0:0/90", "::/64", "::fffe:0:0/95", "010.0.0.1",
     "10.0.0", "fe80::1%eth0", "localhost", "", "10.0.0.0/33"],
)  # fmt: skip
def test_networks_that_mislead_are_refused(text):
    with pytest.raises(InvalidInputError):
        keys.canonical_networks([text])


def test_no_networks_at_all_is_refused_and_host_bits_come_with_a_proposal():
    with pytest.raises(InvalidInputError):
        keys.canonical_networks([])
    with pytest.raises(InvalidInputError) as caught:
        keys.canonical_networks(["192.0.2.7/24"])
    assert caught.value.hint == "did you mean 192.0.2.0/24?"


@given(st.ip_addresses(), st.integers(0, 128))
def test_what_is_canonical_stays_so_and_holds_the_same_addresses(address, length):
    bits = min(length, address.max_prefixlen)
    network = ipaddress.ip_network(f"{address}/{bits}", strict=False)
    try:
        found = keys.canonical_networks([str(network)])
    except InvalidInputError:
        assert network.version == 6
        return
    assert keys.canonical_networks(found) == found
    inside = keys.canonical_address(str(address))
    if found == ["::/0"]:  # holds no IPv4, however that is written
        assert network.version == 6
    else:
        assert inside in ipaddress.ip_network(found[0])


@pytest.mark.parametrize("text", ["fe80::1%eth0", "010.0.0.1", "10.0.0.0/8", "here"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InvalidInputError):
        keys.canonical_address(text)


def test_what_is_not_there_is_said(services):
    with pytest.raises(NotFoundError, match="no user"):
        keys.create(services, "eve@example.org", "k")
    with pytest.raises(NotFoundError, match="no API key 9"):
        keys.revoke(services, 9)


# ── the command line ─────────────────────────────────────────────────────────────────────


def test_the_commands_make_list_check_and_revoke(cli, database, services, ada):
    env = database.environment
    made = cli("keys", "create", ada.email, "--name", "notebook", "--scope", "run:analyses",
               "--network", "192.0.2.0/24", "--expires", "90d", env=env)  # fmt: skip
    assert made.status == 0, made.err
    text = made.out.strip()
    assert keys.well_formed(text)
    listed = cli("keys", "list", "--user", ada.email, "--json", env=env)
    assert text.split("_")[2] not in listed.out
    assert [k["ip_whitelist"] for k in listed.json] == [["192.0.2.0/24"]]
    asked = ("keys", "check", "--scope", "run:analyses", "--address", "192.0.2.9", "--json")
    good = cli(*asked, env=env, given=text + "\n")
    assert (good.status, good.json["accepted"]) == (0, True)
    number = str(listed.json[0]["id"])
    assert cli("keys", "revoke", number, "--json", env=env).json["is_active"] is False
    bad = cli(*asked, env=env, given=text + "\n")
    assert (bad.status, bad.json["reason"]) == (3, "revoked key")
    assert cli("keys", "check", "--json", env=env).status == 2
    refused = cli("keys", "create", ada.email, "--name", "x", "--network", "192.0.2.7/24",
                  "--json", env=env)  # fmt: skip
    assert (refused.status, refused.error["code"]) == (2, "invalid_input")
    late = cli("keys", "create", ada.email, "--name", "x", "--expires", "soon", env=env)
    assert late.status == 2
