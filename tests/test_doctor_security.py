"""The doctor's checks of access: each control taken away, and seen to be."""

from __future__ import annotations

import pytest

from doctoring import change, faults, look, well
from negspace import database as db


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
