"""The doctor: each check sees its fault, and sees nothing where all is well."""

from __future__ import annotations

import os
import shutil
import time
from datetime import UTC, datetime, timedelta

import pytest

from conftest import MIGRATIONS
from doctoring import CHECKS, change, faults, look, well
from negspace import database as db
from negspace import migrate
from negspace.doctor import connecting
from schema_rows import add

NOW = timedelta(0)


@pytest.fixture
def env(database, tmp_path):
    return database.environment | {"NEGSPACE_STORAGE": str(tmp_path / "storage")}


def wait_for(condition):
    """Statistics come a moment after what they count."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


# ── all is well ──────────────────────────────────────────────────────────────────────────

ELSEWHERE = {"durability", "drift"}  # below, on a server of its own


@pytest.mark.parametrize("name", sorted(set(CHECKS) - ELSEWHERE))
def test_all_is_well(env, name):
    assert well(name, env)


def test_all_is_well_on_a_fresh_server_and_the_exit_status_says_so(cli):
    assert cli("migrate", "up").status == 0
    ran = cli("doctor", "--deep", "--security", "--json")
    unwell = [one for one in ran.json["findings"] if one["status"] != "well"]
    assert unwell == []
    assert (ran.status, ran.json["healthy"]) == (0, True)
    assert {one["check"] for one in ran.json["findings"]} == set(CHECKS)
    shown = cli("doctor")
    assert shown.out.splitlines()[-1].endswith("checks: all is well")


# ── the way to the server ────────────────────────────────────────────────────────────────


def test_no_server_is_a_finding_and_stops_no_other_check(cli, tmp_path):
    env = {"DB_PORT": "1", "DB_PASSWORD": "x", "NEGSPACE_STORAGE": str(tmp_path)}
    ran = cli("doctor", "--json", env=env)
    assert ran.status == 3
    by_name = {one["check"]: one for one in ran.json["findings"]}
    assert by_name["connection"]["status"] == "found"
    assert "is the server up?" in by_name["connection"]["remedy"]
    assert by_name["migrations"]["status"] == by_name["backlog"]["status"] == "unknown"
    assert by_name["disk space"]["status"] == "well"
    shown = cli("doctor", env=env)
    assert shown.status == 3
    assert "couldn't be looked at" in shown.out


def test_services_that_are_not_let_in(database, env):
    wrong = env | {"DATABASE_URL": database.app.replace("operator_role:", "operator_role:wrong")}
    assert "password authentication failed" in faults("connection", wrong)[0]


def test_a_version_that_was_never_tested(env, monkeypatch):
    monkeypatch.setattr(connecting, "SUPPORTED", range(30, 32))
    assert "30 to 31" in faults("versions", env)[0]


def test_texts_that_sort_otherwise_than_their_indexes(database, env):
    with db.connect(database.superuser) as connection:
        if connection.info.server_version < 150_000:
            pytest.skip("PostgreSQL 14 does not keep a database's collation version")
        connection.execute(
            "update pg_database set datcollversion = '0' where datname = current_database()"
        )
    assert "refresh collation version" in (look("versions", env)[0].remedy or "")


def test_a_clock_that_is_ahead_or_behind(env):
    assert "ahead of" in faults("clock", env, ahead=60)[0]
    assert "behind" in faults("clock", env, ahead=-60)[0]


# ── the server's settings ────────────────────────────────────────────────────────────────


def test_settings_that_lose_what_was_committed(env):
    # the suite's server runs so: nothing on it has to survive
    names = [said.split()[0] for said in faults("durability", env)]
    assert names == ["fsync", "full_page_writes", "synchronous_commit"]


def test_a_role_that_does_not_wait_for_its_commits(database, env):
    name = database.name
    change(database.superuser, f'alter database "{name}" set synchronous_commit = off')
    assert "synchronous_commit is off for every role" in faults("durability", env)[-1]


def test_a_table_that_is_never_vacuumed(database, env):
    change(database.owner, "alter table images set (autovacuum_enabled = false)")
    assert faults("autovacuum", env) == ["autovacuum is off for images"]


# ── the schema ───────────────────────────────────────────────────────────────────────────


def test_migrations_that_are_not_applied(database, env, cli):
    assert migrate.down(database.owner, MIGRATIONS, steps=1).ok
    assert "not applied yet: 0" in faults("migrations", env)[0]
    ran = cli("doctor", "--json", env=env)
    assert (ran.status, ran.json["healthy"]) == (3, False)


def test_migrations_that_failed_or_are_not_known(database, env, tmp_path):
    folder = shutil.copytree(MIGRATIONS, tmp_path / "migrations")
    (folder / "998_known.up.sql").write_text("select 1;")
    (folder / "998_known.down.sql").write_text("select 1;")
    assert migrate.up(database.owner, folder).ok
    assert "not known to this negspace: 998_known" in faults("migrations", env)[0]


def test_a_migration_that_failed(database, env):
    since = [file for file in MIGRATIONS.glob("*.up.sql") if file.name >= "031_guard_views"]
    done = migrate.down(database.owner, MIGRATIONS, steps=len(since))
    assert done.ok
    taken = "create function guard_views() returns int language sql as 'select 1'"
    change(database.owner, taken)
    assert not migrate.up(database.owner, MIGRATIONS).ok
    change(database.owner, "drop function guard_views()")
    assert any("failed when last tried" in said for said in faults("migrations", env))


def test_a_schema_without_a_ledger(postgres, template, env):
    made = postgres.create(template)
    assert "no ledger" in faults("migrations", env | made.environment)[0]
    postgres.drop(made.name)


def test_a_column_that_no_migration_made(home):
    from conftest import at
    from servers import start

    here = start(home)
    env = {"NEGSPACE_HOME": str(home)}
    assert migrate.up(here.socket_address("owner"), MIGRATIONS).ok
    assert well("drift", env)
    change(here.socket_address("owner"), "alter table users add column nick text")
    assert "table users (changed)" in faults("drift", env)[0].replace("public.", "")
    assert at(home).embedded


def test_months_without_partitions(database, env):
    change(
        database.superuser,
        "do $$ declare p regclass; begin"
        " for p in select inhrelid from pg_inherits"
        "  where inhparent = 'performance_metrics'::regclass loop"
        "  execute format('drop table %s', p); end loop; end $$",
    )
    assert "performance_metrics_" in faults("partitions", env)[0]
    assert "negspace maintain" in (look("partitions", env)[0].remedy or "")


def test_an_index_that_is_not_whole(database, env):
    change(
        database.superuser,
        "update pg_index set indisvalid = false"
        " where indexrelid = 'images_file_hash_idx'::regclass",
    )
    assert faults("invalid indexes", env) == ["images_file_hash_idx is not valid"]
    remedy = look("invalid indexes", env)[0].remedy
    assert remedy == "reindex index concurrently images_file_hash_idx"
    change(database.owner, remedy)
    assert well("invalid indexes", env)


def test_an_index_that_nobody_reads(database, env):
    said = faults("unused indexes", env, unused_index=0, unused_for=NOW)
    assert any("users_metadata_idx" in one for one in said)
    assert not any("users_pkey" in one for one in said)


# ── vacuum ───────────────────────────────────────────────────────────────────────────────


def test_a_snapshot_that_is_held(database, env):
    operator = env | {"NEGSPACE_OWNER_URL": database.superuser}
    with db.connect(database.app, application_name="a report") as held:
        held.execute("set transaction isolation level repeatable read")
        held.execute("select 1")
        said = faults("vacuum horizon", operator, snapshot=NOW)
        assert "of operator_role (a report, pid " in said[0]
        assert well("vacuum horizon", operator)
        # the owner isn't shown since when, but how many transactions began since
        said = faults("vacuum horizon", env, held_transactions=0)
        assert any("of operator_role" in one for one in said)
    assert well("vacuum horizon", operator, snapshot=NOW)


def test_dead_rows(database, env):
    change(
        database.owner,
        "alter table users set (autovacuum_enabled = false)",
        "insert into users (email, password_hash) select n || '@b.example', '$2b$12$'"
        " || repeat('a', 53) from generate_series(1, 200) n",
        "update users set full_name = 'somebody'",
    )
    wait_for(lambda: look("dead rows", env, dead_rows=100)[0].status == "found")
    assert "users holds 200 dead rows" in faults("dead rows", env, dead_rows=100)[0]
    assert well("dead rows", env, dead_rows=1000)
    change(database.owner, "vacuum users")
    wait_for(lambda: well("dead rows", env, dead_rows=100))


def test_a_queue_index_that_has_grown(env):
    said = faults("queue indexes", env, claim_index=0)
    assert any("processing_queue_hot_claim_idx" in one for one in said)


# ── the queue ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def owner_adds(database):
    """Insert rows as the owner."""

    def call(table, **given):
        with db.connect(database.owner) as connection:
            return add(connection, table, **given)

    return call


def test_jobs_that_wait_too_long_and_nobody_works(env, owner_adds):
    owner_adds("processing_queue")
    assert "has waited for" in faults("backlog", env, waiting=NOW)[0]
    assert well("backlog", env)
    assert faults("workers", env) == ["1 jobs wait and no worker runs"]
    owner_adds("workers", algorithms="{negative_space@1.0.0}")
    assert well("workers", env)


def test_a_queue_that_grows(database, env, owner_adds):
    for _ in range(3):
        owner_adds("processing_queue")
    assert "grew by 3 jobs" in faults("backlog", env, backlog_growth=3)[0]
    change(database.app, "select ensure_partitions(oldest => now() - interval '1 day')")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    owner_adds("processing_queue", status="completed", completed_at="now", created_at=yesterday)
    assert well("backlog", env, backlog_growth=3)


def test_jobs_whose_worker_is_gone(env, owner_adds):
    job = owner_adds("processing_queue", status="processing", worker_id="w")
    assert f"gone: {job['id']}" in faults("stuck jobs", env, running=timedelta(days=9999))[0]
    owner_adds("workers", id="w", algorithms="{negative_space@1.0.0}")
    assert well("stuck jobs", env, running=timedelta(days=9999))
    assert "running for more than" in faults("stuck jobs", env)[0]


def test_jobs_that_no_worker_can_do(env, owner_adds):
    owner_adds("processing_queue", algorithm_name="absent")
    assert well("stuck jobs", env)  # no worker at all is another finding
    owner_adds("workers", algorithms="{negative_space@1.0.0}")
    assert "wait for absent@1.0.0, which no worker has" in faults("stuck jobs", env)[0]


def test_workers_that_fell_silent(database, env, owner_adds):
    owner_adds("workers", id="mute", heartbeat_at="2026-01-01 00:00:00+00")
    assert "mute (for" in faults("workers", env)[0]
    remedy = look("workers", env)[0].remedy or ""
    change(database.app, remedy.partition(": ")[2])
    assert well("workers", env)


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────


def test_audit_rows_that_nobody_seals(env, owner_adds, services):
    from negspace import audit

    owner_adds("audit_log_details")
    assert "2 rows of the audit trail" in faults("audit seals", env, unsealed=NOW)[0]
    assert well("audit seals", env)

    def sealed():  # which waits for what runs on the server, other tests' transactions too
        audit.seal(services)
        return well("audit seals", env, unsealed=NOW)

    wait_for(sealed)


def test_a_cache_that_grew_and_is_not_cleared(database, env, owner_adds):
    assert "takes" in faults("cache", env, cache=0)[0]
    entry = owner_adds("analysis_cache")
    assert well("cache", env)
    change(
        database.owner,
        "update analysis_cache set created_at = now() - interval '9 days',"
        f" expires_at = now() - interval '2 days' where id = {entry['id']}",
    )
    assert "1 answers expired" in faults("cache", env)[0]


def test_a_disk_that_is_full(env):
    assert "are free below" in faults("disk space", env, free_share=1.1)[0]


def test_a_row_without_its_file_and_a_file_without_a_row(database, env, tmp_path):
    from negspace.storage import Storage

    storage = Storage(tmp_path / "storage")
    path = storage.put(b"whatever", "png")
    assert well("files", env)  # its row may be on its way
    os.utime(storage.path(path), (0, 0))
    assert faults("files", env) == [f"files that no row names: {path}"]
    with db.connect(database.owner) as connection:
        name = path.rpartition("/")[2]
        add(
            connection,
            "images",
            file_hash=name.partition(".")[0],
            file_name=name,
            file_path=path,
        )
    assert well("files", env)
    storage.remove(path)
    assert faults("files", env) == [f"rows without their file: {path}"]
    assert look("files", env, files=0)[0].status == "unknown"
    assert look("files", env, files=0, deep=True)[0].status == "found"


# ── what it can't look at ────────────────────────────────────────────────────────────────


def test_without_the_owner_it_says_what_it_may_not_see(database, tmp_path):
    env = {"DATABASE_URL": database.app, "NEGSPACE_STORAGE": str(tmp_path)}
    (finding,) = look("migrations", env)
    assert finding.status == "unknown"
    assert "NEGSPACE_OWNER_URL" in (finding.remedy or "")


def test_where_rows_are_hidden_from_it_it_does_not_say_that_all_is_well(database, env):
    change(
        database.owner,
        "alter table workers enable row level security, force row level security",
    )
    assert "sees only the rows" in faults("connection", env)[0]
    (finding,) = look("workers", env)
    assert finding.status == "unknown"


def test_it_waits_for_nobody(database, env):
    with db.connect(database.owner) as connection:
        connection.execute("lock table processing_queue in access exclusive mode")
        assert look("backlog", env)[0].status == "unknown"


def test_it_changes_nothing(env):
    from negspace import doctor, settings
    from negspace.errors import ReadOnlyServerError

    with (
        doctor.reached(settings.load(env), doctor.Limits()) as patient,
        pytest.raises(ReadOnlyServerError, match="read-only"),
        db.translated(),
    ):
        patient.rows("delete from users returning id")
