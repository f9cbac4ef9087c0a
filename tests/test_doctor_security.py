"""The doctor's checks of access: each control taken away, and seen to be."""

from __future__ import annotations

import pytest

from doctoring import change, faults, look, well
from negspace import audit, keys, recovery, users
from negspace import database as db
from negspace.database import Database
from negspace.probes import PROBES
from negspace.settings import DEFAULT_PASSWORD
from tampering import master, seal_all


@pytest.fixture
def env(database, tmp_path):
    return database.environment | {"NEGSPACE_STORAGE": str(tmp_path / "storage")}


def test_a_role_that_may_too_much(database, env):
    # a role of this test's own: the suite shares app_user
    role = f"services_of_{database.name}"
    address = database.superuser.replace("postgres:", f"{role}:", 1)
    password = database.superuser.split(":")[2].split("@")[0]
    change(
        database.superuser,
        f"create role {role} login createdb bypassrls password '{password}'",
        f"grant pg_read_all_data to {role}",
        f"create table owned (); alter table owned owner to {role}",
    )
    try:
        found = look("role", env | {"DATABASE_URL": address})
        assert [one.found for one in found] == [
            f"{role} has bypassrls, createdb",
            f"{role} owns owned",
            f"{role} is a member of pg_read_all_data",
        ]
        change(database.superuser, found[0].remedy or "", found[2].remedy or "")
        change(database.superuser, "drop table owned")
        assert well("role", env | {"DATABASE_URL": address})
    finally:
        change(database.superuser, f"drop owned by {role}", f"drop role {role}")


def test_policies_that_hold_for_some(database, env):
    change(
        database.owner,
        "create policy p on queue_limits using (true)",
        "alter table workers enable row level security",
        "create policy p on workers using (true)",
    )
    assert faults("row security", env) == [
        "row security of queue_limits is off, in spite of its policies",
        "row security of workers is not forced",
    ]
    for finding in look("row security", env):
        change(database.owner, finding.remedy or "")
    assert well("row security", env)


def test_functions_of_the_owner_that_can_be_bent(database, env):
    change(
        database.owner,
        "create function bent() returns int language sql security definer"
        " set search_path = pg_catalog, public as 'select 1'",
    )
    said = faults("functions", env)
    assert len(said) == 2
    assert "bent() runs as its owner and searches" in said[0]
    assert "everybody may call it" in said[1]
    for finding in look("functions", env):
        change(database.owner, finding.remedy or "")
    assert well("functions", env)


def test_a_guard_that_is_switched_off(database, env):
    with db.connect(database.owner) as connection:
        row = db.only(
            connection,
            "select tgname as name from pg_trigger"
            " where tgrelid = 'security_audit'::regclass and tgfoid = 'refuse_change'::regproc",
        )
        assert row
    change(database.owner, f"alter table security_audit disable trigger {row['name']}")
    assert f"trigger {row['name']} of security_audit is switched off" in faults("guards", env)[0]
    change(database.owner, look("guards", env)[0].remedy or "")


@pytest.mark.parametrize(
    ("grant", "what"),
    [
        ("grant update on security_audit to app_user", "change audit events"),
        ("grant delete, select on security_audit to app_user", "remove audit events"),
        ("grant update on processing_queue to app_user", "change jobs"),
        ("grant create on schema public to app_user", "make objects"),
    ],
)
def test_what_must_be_refused_and_is_not(database, env, grant, what):
    change(
        database.superuser,
        "alter table security_audit disable trigger user",
        grant,
    )
    assert any(what in one for one in faults("attempts", env))


def test_a_view_that_shows_every_row(database, env):
    change(database.owner, "create view all_images as select * from images")
    change(database.owner, "grant select on all_images to app_user")
    (said,) = faults("views", env)
    assert "all_images shows app_user" in said
    change(database.owner, "revoke select on all_images from app_user")
    assert well("views", env)


def test_a_partition_that_is_reached_by_itself(database, env):
    with db.connect(database.owner) as connection:
        row = db.only(
            connection,
            "select min(inhrelid::regclass::text) as name from pg_inherits"
            " where inhparent = 'security_audit'::regclass",
        )
        assert row
    name = row["name"]
    change(database.owner, f"grant select (id) on {name} to app_user")
    assert faults("partition rights", env) == [
        f"app_user has rights on the partition {name} itself"
    ]
    change(database.owner, look("partition rights", env)[0].remedy or "")
    assert well("partition rights", env)


@pytest.mark.parametrize(
    ("grant", "said"),
    [
        ("grant delete on audit_log_details to public", "delete audit_log_details"),
        ("grant update (status) on security_audit to app_user", "update security_audit"),
        ("grant truncate on audit_seals to app_user", "truncate audit_seals"),
        ("grant trigger on negspace_migrations to app_user", "trigger negspace_migrations"),
    ],
)
def test_a_right_to_change_the_trail(database, env, grant, said):
    change(database.owner, grant)
    assert f"app_user has the right to {said}" in faults("trail rights", env)


def test_a_row_that_is_not_as_it_was_sealed(database, env):
    with Database(database.app) as services:
        with services.transaction() as connection:
            event = audit.record(connection, "config_change", "setting", "retention")
        seal_all(services)
    assert well("seal check", env)
    with master(database.superuser) as connection:
        connection.execute("update security_audit set resource_id = 'x' where id = %s", [event])
    assert f"security_audit {event} was changed" in faults("seal check", env)[0]


@pytest.mark.parametrize(
    "given",
    [
        {"note": "nsk_7_" + "a" * 38},
        {"was": "$2b$12$" + "a" * 53},
        {"token_hash": "0" * 64},
    ],
)
def test_a_secret_in_the_trail(database, env, given):
    with Database(database.app) as services, services.transaction() as connection:
        event = audit.record(connection, "config_change", "setting", "x", changes_after=given)
    assert faults("secrets", env) == [f"event {event} of the audit trail holds a secret"]


def test_a_secret_in_a_detail(database, env):
    with Database(database.app) as services, services.transaction() as connection:
        event = audit.record(connection, "config_change", "setting", "x")
        detail = db.only(
            connection,
            "select record_event_details(%s, 'x', event_data => %s) as id",
            [event, db.Jsonb({"key": "nsk_7_" + "a" * 38})],
        )
    assert "of the audit trail holds a secret" in faults("secrets", env)[0], detail


def test_what_accounts_and_keys_do_leaves_no_secret(database, env):
    with Database(database.app) as services:
        users.add(services, "ada@example.org", "correct horse", role="admin", cost=4)
        made = keys.create(services, "ada@example.org", "a key")
        keys.rotate(services, made.key.id)
        users.set_password(services, "ada@example.org", "another horse", cost=4)
        recovery.issue(services, "ada@example.org", "reset_password")
    assert well("secrets", env)


def test_the_default_password_lets_somebody_in(database, env):
    # a role of this test's own: the suite shares app_user
    role = f"default_of_{database.name}"
    address = database.superuser.replace("postgres:", f"{role}:", 1)
    change(database.superuser, f"create role {role} login password '{DEFAULT_PASSWORD}'")
    try:
        found = faults("default password", env | {"DATABASE_URL": address})
        assert found == [f"{role} logs in with the default password"]
    finally:
        change(database.superuser, f"drop role {role}")


def test_every_probe_says_what_holds_why_and_what_to_do():
    assert len({probe.name for probe in PROBES}) == len(PROBES)
    for probe in PROBES:
        assert probe.title.endswith("."), probe.name
        assert probe.why
        assert probe.mends
