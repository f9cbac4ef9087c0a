"""What is audited: every decided change, failed acts, exports; nothing secret, nothing lost."""

from __future__ import annotations

import csv
import io
import json

import psycopg
import pytest

import images_on_disk as disk
from negspace import audit, images, intake, results, users
from negspace import database as db
from negspace.database import Jsonb
from negspace.errors import InvalidInputError, NotFoundError
from negspace.storage import Storage
from schema_rows import add

TRAIL = ("security_audit", "audit_log_details", "audit_seals", "audit_retirements", "audit_holds")


@pytest.fixture
def ada(services):
    return users.add(services, "ada@example.org", "correct horse", role="analyst", cost=4)


@pytest.fixture
def image(services, ada, tmp_path):
    return intake.add(
        services,
        Storage(tmp_path / "storage"),
        disk.png(tmp_path / "a.png"),
        user_id=ada.id,
        max_pixels=10**7,
    )


def newest(services, **filters) -> audit.Event:
    return audit.events(services, **filters).events[0]


# ── changes ──────────────────────────────────────────────────────────────────────────────


def test_a_decided_change_of_an_image_is_an_event_and_a_jobs_is_none(services, image):
    images.set_metadata(services, image.id, {"filter": "F814W"})
    event = newest(services, resource_type="image")
    assert (event.changes_before, event.changes_after) == (
        {"metadata": {"filter": None}},
        {"metadata": {"filter": "F814W"}},
    )
    before = len(audit.events(services, resource_type="image").events)
    images.set_metadata(services, image.id, {"filter": "F814W"})  # nothing changes
    with services.transaction() as connection:
        for status in ("processing", "completed"):
            connection.execute("update images set analysis_status = %s::analysis_status", [status])
    assert len(audit.events(services, resource_type="image").events) == before
    images.archive(services, image.id)
    event = newest(services, resource_type="image")
    assert (event.changes_before, event.changes_after) == (
        {"analysis_status": "completed"},
        {"analysis_status": "archived"},
    )


def test_changed_and_removed_results_are_events(services, database, image):
    with db.connect(database.owner) as owner:
        result = add(owner, "analysis_results", image_id=image.id, user_id=image.user_id)["id"]
    with services.transaction() as connection:
        connection.execute("update analysis_results set notes = 'odd' where id = %s", [result])
    event = newest(services, resource_type="result")
    assert (event.changes_before, event.changes_after) == ({"notes": None}, {"notes": "odd"})
    with db.connect(database.owner) as owner:
        owner.execute("delete from analysis_results")
    event = newest(services, resource_type="result")
    assert event.resource_id == str(result)
    assert event.changes_after is None
    assert event.changes_before["notes"] == "odd"


# ── failed acts ──────────────────────────────────────────────────────────────────────────


def test_a_failed_act_stays_though_its_transaction_rolled_back(services, ada, tmp_path):
    storage = Storage(tmp_path / "storage")
    acting = services.acting_as(db.Actor(ada.id, None, "192.0.2.7", "a browser", "request 5"))
    acts = {
        ("delete_image", "image"): lambda: images.delete(acting, storage, 999),
        ("export_data", "image"): lambda: images.export(acting, storage, 999, tmp_path, "x"),
        ("config_change", "image"): lambda: images.archive(acting, 999),
        ("view_results", "image"): lambda: results.read(acting, 999, "review"),
        ("permission_change", "user"): lambda: users.set_role(acting, 999, "admin"),
    }
    for (action, kind), act in acts.items():
        with pytest.raises(NotFoundError):
            act()
        event = newest(services, action=action, status="failure")
        assert (event.resource_type, event.resource_id, event.user_id) == (kind, "999", ada.id)
        assert (event.ip_address, event.request_id) == ("192.0.2.7", "request 5")
        assert event.error_message
        assert "there is no" in event.error_message


def test_the_act_alone_would_leave_nothing(services, ada):
    """The twin: the same in one transaction, as it was before."""

    def fail() -> None:
        with services.transaction() as connection:
            audit.record(connection, "delete_image", "image", 999, status="failure")
            connection.execute("select delete_image(999)")

    with pytest.raises(NotFoundError):
        fail()
    assert audit.events(services, status="failure").events == ()


# ── reads ────────────────────────────────────────────────────────────────────────────────


def test_exports_that_an_image_was_among_are_sightings(services, database, image, ada, tmp_path):
    with db.connect(database.owner) as owner:
        add(owner, "analysis_results", image_id=image.id, user_id=ada.id)
    chosen = [
        ("all", results.Selection()),
        ("its own", results.Selection(image=image.id)),
        ("its user's", results.Selection(user=ada.id)),
        ("another's", results.Selection(user=ada.id + 1)),
        ("another image's", results.Selection(image=image.id + 1)),
        ("another algorithm's", results.Selection(algorithm="other")),
    ]
    for purpose, selection in chosen:
        list(results.export(services, purpose, selection))
    (found,) = audit.who_saw(services, image.id)
    assert (found.times, found.purposes) == (3, ("all", "its own", "its user's"))
    images.delete(services, Storage(tmp_path / "storage"), image.id)
    (found,) = audit.who_saw(services, image.id)
    assert "all" in found.purposes


@pytest.mark.parametrize("purpose", ["", "  "])
def test_nothing_is_taken_out_without_a_purpose(services, image, tmp_path, purpose):
    with pytest.raises(InvalidInputError):
        images.export(
            services, Storage(tmp_path / "storage"), image.id, tmp_path / "o.png", purpose
        )
    assert not (tmp_path / "o.png").exists()
    with pytest.raises(InvalidInputError):
        list(results.export(services, purpose))


def test_answers_as_csv(cli, database, services, ada, image):
    list(results.export(services, 'for "the" review, part 2'))
    env = database.environment
    listed = list(csv.DictReader(io.StringIO(cli("audit", "list", "--csv", env=env).out)))
    assert [row["action"] for row in listed] == [
        e.action for e in audit.events(services).events
    ]  # fmt: skip
    assert json.loads(listed[-1]["changes_after"])["email"] == ada.email
    did = cli("audit", "what-did", ada.email, "--csv", env=env).out
    assert did.startswith("id,timestamp,user_id,user_email,")
    assert cli("audit", "who-saw", str(image.id), "--csv", env=env).out.startswith("user_id,")


# ── check 10: no application role touches the trail ──────────────────────────────────────


def touched(address: str) -> list[str]:
    """What the role behind an address may change of the trail."""
    done: list[str] = []
    with db.connect(address) as connection:
        for table in TRAIL:
            for change in ("update {} set {} = {}", "delete from {0}", "truncate {0} cascade"):
                column = db.sql.Identifier("reason" if table == "audit_holds" else "number")
                if table in ("security_audit", "audit_log_details"):
                    column = db.sql.Identifier("id")
                elif table == "audit_retirements":
                    column = db.sql.Identifier("event_count")
                query = db.sql.SQL(change).format(db.sql.Identifier(table), column, column)
                try:
                    with connection.transaction(force_rollback=True):
                        connection.execute(query)
                except psycopg.Error:
                    continue
                done.append(f"{change.split()[0]} {table}")
    return done


def test_the_services_role_touches_no_row_of_the_trail(database, services, ada):
    with db.connect(database.app) as app:
        role = db.only(
            app,
            "select rolsuper or rolbypassrls as special, (select count(*) from pg_class"
            " where relowner = r.oid) as owns from pg_roles r where rolname = current_user",
        )
    assert role == {"special": False, "owns": 0}
    audit.seal(services)
    assert touched(database.app) == []


def test_a_grant_too_many_is_noticed(database, services, ada):
    """The twin."""
    with db.connect(database.owner) as owner:
        owner.execute("grant delete on security_audit to app_user")
        owner.execute("alter table security_audit disable trigger security_audit_append_only")
        partitions = db.rows(
            owner, "select inhrelid::regclass::text as name from pg_inherits"
            " where inhparent = 'security_audit'::regclass")  # fmt: skip
        for row in partitions:
            owner.execute(
                f"alter table {row['name']} disable trigger security_audit_append_only".encode()
            )
    assert "delete security_audit" in touched(database.app)


# ── check 12: replaying the trail rebuilds what it tells of ──────────────────────────────

HIDDEN = (
    "id", "password_hash", "key_hash", "updated_at", "last_login_at", "last_used_at",
    "audit_event_count", "api_request_count", "failed_login_attempts", "last_rate_limit_reset",
    "request_count_current_window", "total_requests", "usage_stats",
)  # fmt: skip


def replayed(services, kind: str) -> dict[str, dict]:
    """What the events say each row is now."""
    rows: dict[str, dict] = {}
    for event in reversed(audit.events(services, resource_type=kind, limit=1000).events):
        if event.status != "success" or event.resource_id is None:
            continue
        if event.changes_after is None and event.changes_before is not None:
            rows.pop(event.resource_id)
        elif event.changes_after is not None:
            rows.setdefault(event.resource_id, {}).update(event.changes_after)
    return rows


def actual(services, table: str) -> dict[str, dict]:
    query = db.sql.SQL("select id::text as id, to_jsonb(t) - %s::text[] as row from {} t")
    with services.transaction(read_only=True) as connection:
        found = db.rows(connection, query.format(db.sql.Identifier(table)), [list(HIDDEN)])
    return {row["id"]: row["row"] for row in found}


def live(services, ada) -> None:
    """Accounts and keys that come, change and go."""
    bob = users.add(services, "bob@example.org", "correct horse", cost=4)
    users.set_role(services, bob.id, "analyst")
    users.set_active(services, bob.id, active=False)
    users.set_password(services, bob.id, "another horse", cost=4)
    with services.transaction() as connection:
        connection.execute(
            "update users set metadata = %s, full_name = 'Bob' where id = %s",
            [Jsonb({"a": [1, 2]}), bob.id],
        )
        add(connection, "api_keys", user_id=ada.id)
        connection.execute("update api_keys set rate_limit_per_minute = 7, description = 'x'")


def test_replaying_the_trail_rebuilds_accounts_and_keys(services, database, ada):
    live(services, ada)
    with db.connect(database.owner) as owner:
        gone = add(owner, "users")["id"]
        owner.commit()
        owner.execute("delete from users where id = %s", [gone])
    assert replayed(services, "user") == actual(services, "users")
    assert replayed(services, "api_key") == actual(services, "api_keys")


FACTS = ("original_filename", "file_hash", "file_size", "mime_type", "user_id")


def facts(row: dict) -> dict:
    return {name: row[name] for name in FACTS if name in row}


def images_live(services, ada) -> None:
    """Images that come, change and go, taken in by the owner and for him."""
    bob = users.add(services, "bob@example.org", "correct horse", cost=4)
    for actor in (None, ada.id, bob.id):
        with services.acting_as(db.Actor(user_id=actor)).transaction() as connection:
            kept, gone = (add(connection, "images", user_id=ada.id)["id"] for _ in range(2))
            connection.execute(
                "update images set original_filename = 'b.png', metadata = '{\"a\": 1}'"
                " where id = %s",
                [kept],
            )
            connection.execute("delete from images where id = %s", [gone])


def replayed_images(services) -> dict[str, dict]:
    """Whose an image is that its owner took in: the event's own account says it."""
    rows = {key: facts(row) for key, row in replayed(services, "image").items()}
    for event in audit.events(services, action="create_image", limit=1000).events:
        if event.resource_id in rows:
            rows[event.resource_id].setdefault("user_id", event.user_id)
    return rows


def test_replaying_the_trail_rebuilds_what_images_are(services, ada):
    images_live(services, ada)
    assert len(replayed_images(services)) == 3
    found = {key: facts(row) for key, row in actual(services, "images").items()}
    assert replayed_images(services) == found


def test_replaying_without_the_owner_gives_somebody_else(services, database, ada):
    """The twin: an event that names who acts alone."""
    with db.connect(database.owner) as owner:
        row = db.only(owner, "select pg_get_functiondef('audit_images'::regproc) as source")
        assert row is not None
        broken = row["source"].replace("when c.user_id <> r.user_id", "when false")
        owner.execute(broken.encode())
    images_live(services, ada)
    found = {key: facts(row) for key, row in actual(services, "images").items()}
    assert replayed_images(services) != found


def test_replaying_without_a_trigger_gives_something_else(services, database, ada):
    """The twin."""
    with db.connect(database.owner) as owner:
        owner.execute("alter table users disable trigger users_audit_update")
    live(services, ada)
    assert replayed(services, "user") != actual(services, "users")


# ── check 14: no secret in the trail ─────────────────────────────────────────────────────


def secrets_in_trail(services) -> list[str]:
    """Hashes of passwords and keys that stand anywhere in the trail."""
    query = """
        select s.secret from (
            select password_hash as secret from users union all select key_hash from api_keys) s
        where exists (select from security_audit a where strpos(a::text, s.secret) > 0)
           or exists (select from audit_log_details d where strpos(d::text, s.secret) > 0)"""
    with services.transaction(read_only=True) as connection:
        return [row["secret"] for row in db.rows(connection, query)]


def test_no_hash_of_a_password_or_key_enters_the_trail(services, database, ada):
    live(services, ada)
    users.authenticate(services, "ada@example.org", "correct horse", cost=4)
    with pytest.raises(Exception, match="wrong"):
        users.authenticate(services, "ada@example.org", "a wrong horse", cost=4)
    assert secrets_in_trail(services) == []
    with services.transaction(read_only=True) as connection:
        words = "select count(*) as n from security_audit a where a::text like '%%horse%%'"
        assert db.only(connection, words) == {"n": 0}


def test_a_secret_in_the_trail_is_found(services, ada):
    """The twin."""
    with services.transaction() as connection:
        row = db.only(connection, "select password_hash as hash from users")
        assert row is not None
        audit.record(connection, "config_change", "user", 1, changes_after={"x": row["hash"]})
        assert row["hash"]
    assert secrets_in_trail(services) == [row["hash"]]
