"""What commands share: the database opened and ready, and somebody who acts."""

from __future__ import annotations

import pytest

from negspace import database as db
from negspace import server, users
from negspace.errors import RefusedError


def partitions(target) -> set[str]:
    with db.connect(target.superuser) as connection:
        return {
            row["name"]
            for row in db.rows(
                connection,
                "select inhrelid::regclass::text as name from pg_inherits"
                " where inhparent = 'security_audit'::regclass",
            )
        }


def test_opening_makes_the_partitions_that_are_missing(database):
    before = partitions(database)
    with db.connect(database.superuser) as connection:
        for name in before:
            connection.execute(db.sql.SQL("drop table {} cascade").format(db.sql.Identifier(name)))
    assert partitions(database) == set()
    with server.open_database(database.settings) as opened:
        assert partitions(database) == before
        users.add(opened, "ada@example.org", "correct horse", cost=4)  # writes an audit row


def test_a_database_without_the_schema_says_how_to_get_it(empty_database, cli):
    with pytest.raises(RefusedError) as caught:
        server.open_database(empty_database.settings)
    assert caught.value.hint == "negspace migrate up"
    ran = cli("users", "list", "--json", env=empty_database.environment)
    assert (ran.status, ran.error["hint"]) == (4, "negspace migrate up")


def test_who_acts_enters_the_audit_trail(database, services, cli):
    ada = users.add(services, "ada@example.org", "correct horse", role="admin", cost=4)
    users.add(services, "bob@example.org", "correct horse", cost=4)
    ran = cli(
        *("--as", "ADA@example.org", "users", "role", "bob@example.org", "analyst", "--json"),
        env=database.environment | {"SSH_CONNECTION": "192.0.2.7 50000 192.0.2.1 22"},
    )
    assert ran.status == 0, ran.err
    with services.transaction() as connection:
        event = db.only(
            connection,
            "select user_id, host(ip_address) as address, user_agent, changes_before,"
            " changes_after from security_audit order by id desc limit 1",
        )
    assert event is not None
    assert (event["user_id"], event["address"]) == (ada.id, "192.0.2.7")
    assert event["user_agent"].startswith("negspace (")
    assert (event["changes_before"], event["changes_after"]) == (
        {"role": "viewer"},
        {"role": "analyst"},
    )


def test_nobody_and_a_switched_off_account_can_not_act(database, services, cli):
    users.add(services, "ada@example.org", "correct horse", cost=4)
    users.set_active(services, "ada@example.org", active=False)
    env = database.environment
    refused = cli("users", "list", "--json", env=env | {"NEGSPACE_USER": "ada@example.org"})
    assert (refused.status, refused.error["code"]) == (4, "access")
    unknown = cli("--as", "eve@example.org", "users", "list", "--json", env=env)
    assert (unknown.status, unknown.error["code"]) == (1, "not_found")
