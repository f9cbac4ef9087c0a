"""The ledger: append-only, its owner's alone, and true."""

from __future__ import annotations

import pytest

from migrating import FIVE, write
from negspace import migrate
from negspace.database import attempt, connect


@pytest.fixture
def address(empty_database):
    return empty_database.owner


@pytest.mark.parametrize(
    "statement",
    [
        "update public.negspace_migrations set status = 'success'",
        "delete from public.negspace_migrations",
        "truncate public.negspace_migrations",
    ],
)
def test_the_ledger_is_append_only_for_its_owner_too(empty_database, tmp_path, statement):
    migrate.up(empty_database.owner, write(tmp_path, FIVE))
    for address in (empty_database.owner, empty_database.superuser):
        with connect(address, autocommit=True) as connection:
            for mode in ("set session_replication_role = replica", "select 1"):
                if address == empty_database.superuser:
                    connection.execute(mode.encode())
                found = attempt(connection, statement.encode())
                assert found
                assert found.sqlstate == "NS006"
    assert len(migrate.history(empty_database.owner)) == 5


def test_application_roles_cannot_write_the_ledger_even_with_every_grant(empty_database, tmp_path):
    grant = "grant all on all tables in schema public to app_user"
    migrate.up(empty_database.owner, write(tmp_path, FIVE | {"6_g.up.sql": grant}))
    migrate.up(empty_database.owner, write(tmp_path, {"7_g.up.sql": grant}))
    with connect(empty_database.app, autocommit=True) as connection:
        found = attempt(
            connection,
            b"insert into negspace_migrations (run_id, batch, version, name, direction, status,"
            b" started_at, host, tool_version) values (gen_random_uuid(), 1, '1', 'x', 'up',"
            b" 'success', now(), 'h', '1')",
        )
    assert found
    assert found.sqlstate == "NS006"


def test_the_ledger_says_who_when_and_with_what(address, tmp_path):
    migrate.up(address, write(tmp_path, {"1_a.up.sql": "select pg_sleep(0.02)"}))
    (entry,) = migrate.history(address)
    assert entry.executed_by == "negspace_owner"
    assert "@" in entry.host
    assert entry.tool_version
    assert entry.checksum_algorithm == "negspace-tokens-1"
    assert entry.completed_at
    assert entry.completed_at > entry.started_at
    spent = (entry.completed_at - entry.started_at).total_seconds() * 1000
    assert entry.duration_ms == pytest.approx(spent, abs=0.01)
    assert entry.metadata == {"file": "1_a.up.sql", "statements": 1, "transaction": True}
