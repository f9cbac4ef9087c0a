"""The ledger: append-only, its owner's alone, and true."""

from __future__ import annotations

import pytest

from migrating import FIVE, write
from negspace import migrate
from negspace.database import attempt, connect
from negspace.errors import RefusedError
from negspace.migrate import Options


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
    said = entry.metadata
    assert (said["file"], said["statements"], said["transaction"]) == ("1_a.up.sql", 1, True)


# ── what a row says ──────────────────────────────────────────────────────────────────────


def test_a_row_tells_each_statement_its_rows_and_the_wait(address, tmp_path):
    sql = "create table a (id int);\ninsert into a select generate_series(1, 7);\nselect 1"
    assert migrate.up(address, write(tmp_path, {"1_a.up.sql": sql})).ok
    (entry,) = migrate.history(address)
    times = entry.metadata["statement_times"]
    assert [(one["line"], one["rows"]) for one in times] == [(1, None), (2, 7), (3, None)]
    assert all(one["ms"] > 0 for one in times)
    assert (entry.metadata["rows"], entry.metadata["lock_wait_ms"]) == (7, 0)


def test_the_catalogs_fingerprint_is_kept_before_and_after(address, tmp_path):
    files = {
        f"{n}_{name}.{way}.sql": sql
        for n, name in ((1, "a"), (2, "b"))
        for way, sql in (("up", f"create table {name} ()"), ("down", f"drop table {name}"))
    }
    assert migrate.up(address, write(tmp_path, files)).ok
    assert migrate.down(address, tmp_path, steps=2).ok
    down_a, down_b, up_b, up_a = (entry.metadata for entry in migrate.history(address))
    assert up_a["catalog_before"] == down_a["catalog_after"]
    assert up_b["catalog_after"] == down_b["catalog_before"]
    assert up_a["catalog_before"] != up_b["catalog_after"]
    assert "catalog_after" not in up_a  # the run's first has the one, its last the other
    assert migrate.up(address, tmp_path, options=Options(fingerprint=False)).ok
    assert "catalog_before" not in migrate.history(address)[1].metadata


def test_the_journal_is_no_part_of_the_fingerprint(address, tmp_path):
    """The first migration outside a transaction makes the journal; nobody's migration did."""
    files = {
        "1_a.up.sql": "create table a (id int)",
        "2_b.up.sql": "create index concurrently a_id on a (id)",
    }
    assert migrate.up(address, write(tmp_path, files)).ok
    outside, inside = (entry.metadata for entry in migrate.history(address))
    assert inside["catalog_after"] is not None
    assert outside["catalog_before"] == inside["catalog_after"]
    assert outside["catalog_after"] != outside["catalog_before"]


def test_a_table_that_is_locked_costs_the_fingerprint_not_the_run(address, tmp_path):
    write(tmp_path, {"1_a.up.sql": "create table a ()"})
    with connect(address) as other:
        other.execute("create table busy (id int); create view seen as select id from busy")
        other.commit()
        other.execute("lock table busy")
        assert migrate.up(address, tmp_path).ok
    (entry,) = migrate.history(address)
    assert entry.metadata["catalog_after"] is None


def test_a_ledger_of_a_newer_negspace_is_refused(address, tmp_path):
    assert migrate.up(address, write(tmp_path, {"1_a.up.sql": "create table a ()"})).ok
    with connect(address) as connection:
        connection.execute(
            "comment on table negspace_migrations is 'negspace ledger, format 999: new'"
        )
        connection.execute("alter table negspace_migrations rename column status to state")
    write(tmp_path, {"2_b.up.sql": "create table b ()"})
    for call in (migrate.up, migrate.status, migrate.down):
        with pytest.raises(RefusedError, match=r"format 999.*newer negspace") as caught:
            call(address, tmp_path)
        assert "newer" in (caught.value.hint or "")
    with pytest.raises(RefusedError, match="format 999"):
        migrate.history(address)
