"""What happens by itself: times of change, an image's history, and the audit trail."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from negspace import database
from negspace.database import sql
from schema_rows import BCRYPT, add, digest

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
SOMEBODY = 1_000_007  # no owner of an image


def now(connection):
    return database.only(connection, "select now()")["now"]


def events(connection, kind, number):
    query = """
        select * from security_audit
        where resource_type = %s and resource_id = %s order by id"""
    return database.rows(connection, query, [kind, str(number)])


def act_as(connection, **context):
    for name, value in context.items():
        connection.execute("select set_config(%s, %s, true)", [f"negspace.{name}", str(value)])


# ── updated_at ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("table", "column"),
    [("users", "full_name"), ("images", "failure_reason"), ("analysis_results", "notes")],
)
def test_updated_at_is_kept(owner, table, column):
    row = add(owner, table, updated_at=LONG_AGO)
    assert row["updated_at"] == LONG_AGO
    query = sql.SQL("update {} set {} = 'x', updated_at = %s where id = %s returning updated_at")
    query = query.format(sql.Identifier(table), sql.Identifier(column))
    assert database.only(owner, query, [LONG_AGO, row["id"]])["updated_at"] == now(owner)


def test_updated_at_is_kept_where_an_images_status_changes(owner):
    number = add(owner, "images", updated_at=LONG_AGO)["id"]
    query = "update images set analysis_status = 'failed', updated_at = %s where id = %s"
    changed = database.only(owner, query + " returning updated_at", [LONG_AGO, number])
    assert changed["updated_at"] == now(owner)


def test_created_at_stays(owner):
    row = add(owner, "images", created_at=LONG_AGO)
    query = "update images set failure_reason = 'x' where id = %s returning created_at"
    assert database.only(owner, query, [row["id"]])["created_at"] == LONG_AGO


# ── processing_history ───────────────────────────────────────────────────────────────────


def test_an_images_history_keeps_its_newest_fifty_changes(app):
    number = add(app, "images")["id"]
    made = [("pending", "failed"), ("failed", "pending")] * 30 + [("pending", "processing")]
    for _, after in made:
        app.execute("update images set analysis_status = %s where id = %s", [after, number])
    history = database.only(
        app, "select processing_history as h from images where id = %s", [number]
    )
    assert [(step["from"], step["to"]) for step in history["h"]] == made[-50:]
    assert {datetime.fromisoformat(step["at"]) for step in history["h"]} == {now(app)}


def test_an_images_history_is_written_by_changes_alone(app):
    number = add(app, "images")["id"]
    change = "update images set analysis_status = %s, processing_history = '[]' where id = %s"
    app.execute(change, ["failed", number])
    app.execute("update images set failure_reason = 'x' where id = %s", [number])
    found = database.only(app, "select processing_history as h from images where id = %s", [number])
    assert len(found["h"]) == 1


# ── events ───────────────────────────────────────────────────────────────────────────────


def test_an_event_says_who_acted(app):
    act_as(app, user_id=7, api_key_id=8, ip_address="2001:db8::1", user_agent="x/1", request_id="r")
    query = """
        select record_event('export_data', 'image', '9', 'partial', '{"a": 1}', '{"a": 2}', 'half',
                            user_id => 10) as id"""
    number = database.only(app, query)["id"]
    found = database.only(app, "select * from security_audit where id = %s", [number])
    found["ip_address"] = str(found["ip_address"])
    del found["recorded_in"], found["leaf_hash"]  # test_audit_seals.py
    assert found == {
        "id": number,
        "user_id": 7,  # who acts comes before who is named
        "api_key_id": 8,
        "action": "export_data",
        "resource_type": "image",
        "resource_id": "9",
        "status": "partial",
        "ip_address": "2001:db8::1",
        "user_agent": "x/1",
        "request_id": "r",
        "error_message": "half",
        "changes_before": {"a": 1},
        "changes_after": {"a": 2},
        "timestamp": now(app),
    }


def test_an_event_of_nobody_known(app):
    act_as(app, user_id="", ip_address="")
    query = "select record_event('login', 'user', status => 'failure', user_id => 10) as id"
    number = database.only(app, query)["id"]
    found = database.only(app, "select * from security_audit where id = %s", [number])
    assert (found["user_id"], found["ip_address"], found["user_agent"]) == (10, None, None)


def test_who_acts_is_forgotten_with_the_transaction(database):
    import negspace.database

    with negspace.database.connect(database.app) as connection:
        act_as(connection, user_id=7)
        connection.commit()
        found = negspace.database.only(connection, "select context_value('user_id') as who")
        assert found["who"] is None


def test_details_find_their_event(owner):
    earlier = now(owner) + timedelta(days=31)  # any other time than that of the transaction
    event = add(owner, "security_audit", timestamp=earlier)["id"]
    query = """
        select record_event_details(%s, 'exported', 'All of it.', '{"n": 3}', '{"load": 1}',
                                    12.5, 3, 1) as id"""
    number = database.only(owner, query, [event])["id"]
    found = database.only(owner, "select * from audit_log_details where id = %s", [number])
    del found["recorded_in"], found["leaf_hash"]
    assert found == {
        "id": number,
        "audit_id": event,
        "audit_timestamp": earlier,
        "event_name": "exported",
        "event_description": "All of it.",
        "event_data": {"n": 3},
        "system_state": {"load": 1},
        "duration_ms": 12.5,
        "success_count": 3,
        "failure_count": 1,
        "created_at": now(owner),
    }


def test_the_services_write_no_event_but_through_the_functions(app):
    for table in ("security_audit", "audit_log_details"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), app.transaction():
            add(app, table, **({"audit_id": 1} if table == "audit_log_details" else {}))


# ── images ───────────────────────────────────────────────────────────────────────────────


def test_each_image_that_comes_or_goes_is_an_event(app):
    act_as(app, user_id=SOMEBODY)
    first = add(app, "images")
    app.execute(
        """
        insert into images (user_id, file_name, original_filename, file_path, file_size, mime_type,
                            file_hash)
        select user_id, 'b', 'b.png', 'b', n, 'image/png', sha256_hex(n::text)
        from images, generate_series(1, 3) n where id = %s""",
        [first["id"]],
    )
    rows = database.rows(app, "select * from images where user_id = %s", [first["user_id"]])
    assert len(rows) == 4
    app.execute("delete from images where user_id = %s", [first["user_id"]])
    for row in rows:
        facts = ("original_filename", "file_hash", "file_size", "mime_type", "user_id")
        came, went = events(app, "image", row["id"])
        assert (came["action"], went["action"]) == ("create_image", "delete_image")
        assert (came["user_id"], went["user_id"]) == (SOMEBODY, SOMEBODY)
        assert came["changes_before"] is None
        assert came["changes_after"] == {name: row[name] for name in facts}
        facts = (*facts, "analysis_status")
        assert went["changes_before"] == {name: row[name] for name in facts}
        assert went["changes_after"] is None


def test_an_image_that_the_system_takes_in_is_its_owners_doing(app):
    row = add(app, "images")
    assert [event["user_id"] for event in events(app, "image", row["id"])] == [row["user_id"]]


# ── accounts and keys ────────────────────────────────────────────────────────────────────


def change(connection, table, number, **columns):
    """The events that an update leaves."""
    kind = {"users": "user", "api_keys": "api_key"}[table]
    before = len(events(connection, kind, number))
    sets = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(c)) for c in columns)
    query = sql.SQL("update {} set {} where id = %s").format(sql.Identifier(table), sets)
    values = [database.Jsonb(v) if isinstance(v, list | dict) else v for v in columns.values()]
    connection.execute(query, [*values, number])
    return [
        (event["action"], event["changes_before"], event["changes_after"])
        for event in events(connection, kind, number)[before:]
    ]


def test_what_is_decided_about_an_account_is_an_event(app):
    number = add(app, "users", full_name="A")["id"]
    assert change(app, "users", number, role="admin", full_name="B") == [
        (
            "permission_change",
            {"role": "viewer", "full_name": "A"},
            {"role": "admin", "full_name": "B"},
        )
    ]
    assert change(app, "users", number, full_name=None) == [
        ("config_change", {"full_name": "B"}, {"full_name": None})
    ]
    assert change(app, "users", number, is_active=False) == [
        ("permission_change", {"is_active": True}, {"is_active": False})
    ]
    # a new password: that it changed, and nothing else of it
    password = BCRYPT[:-1] + "b"
    assert change(app, "users", number, password_hash=password) == [("permission_change", {}, {})]


def test_what_happens_by_itself_to_an_account_is_none(app):
    number = add(app, "users")["id"]
    assert change(app, "users", number, last_login_at=now(app), failed_login_attempts=3) == []
    assert change(app, "users", number, audit_event_count=9, api_request_count=9) == []
    assert change(app, "users", number, full_name=None) == []


def test_what_is_decided_about_a_key_is_an_event(app):
    number = add(app, "api_keys", scopes=["read:images"])["id"]
    assert change(app, "api_keys", number, scopes=["write:images"]) == [
        ("permission_change", {"scopes": ["read:images"]}, {"scopes": ["write:images"]})
    ]
    assert change(app, "api_keys", number, name="b") == [
        ("config_change", {"name": "a key"}, {"name": "b"})
    ]
    assert change(app, "api_keys", number, key_hash=digest()) == [("permission_change", {}, {})]
    assert change(app, "api_keys", number, last_used_at=now(app), total_requests=1) == []


def test_accounts_and_keys_come_and_go_without_their_secrets(owner):
    user = add(owner, "users", full_name="A")
    key = add(owner, "api_keys", user_id=user["id"])
    change(owner, "users", user["id"], password_hash=BCRYPT[:-1] + "c")
    owner.execute("delete from users where id = %s", [user["id"]])
    came, _, went = events(owner, "user", user["id"])
    assert came["changes_after"]["email"] == went["changes_before"]["email"] == user["email"]
    assert {came["action"], went["action"]} == {"permission_change"}
    came, went = events(owner, "api_key", key["id"])
    assert came["changes_after"]["name"] == went["changes_before"]["name"] == "a key"
    for row in database.rows(owner, "select a::text as text from security_audit a"):
        assert "$2b$" not in row["text"]
        assert key["key_hash"] not in row["text"]


def test_a_thousand_accounts_in_one_statement_are_a_thousand_events(owner):
    insert = """
        insert into users (email, password_hash)
        select 'many' || n || '@example.org', %s from generate_series(1, 1000) n returning id"""
    numbers = {str(row["id"]) for row in database.rows(owner, insert, [BCRYPT])}
    owner.execute("update users set full_name = 'x' where email like 'many%'")
    query = """
        select resource_id as id from security_audit
        where resource_type = 'user' and action = 'config_change'"""
    found = [row["id"] for row in database.rows(owner, query)]
    assert len(found) == 1000
    assert set(found) == numbers
