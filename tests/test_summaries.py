"""The sums behind views: whatever happens to events and jobs, when and by whom, views tell it."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

import negspace.database
from negspace import database as db
from negspace import summaries
from negspace.database import Database
from negspace.generate import Plan, generate
from schema_rows import add
from tampering import seal_all, settle

NOW = datetime.now(UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
FIRST = NOW - timedelta(days=70)
STATUSES = ("success", "success", "failure", "partial")

AUDIT_TRUTH = """
    select u.id as user_id, u.email, e.events as event_count, e.successes as success_count,
           e.failures as failure_count, e.partials as partial_count, e.last as last_event_at,
           d.mean as mean_duration_ms
    from users u
    cross join lateral (
        select count(*) as events, count(*) filter (where status = 'success') as successes,
               count(*) filter (where status = 'failure') as failures,
               count(*) filter (where status = 'partial') as partials, max("timestamp") as last
        from security_audit a where a.user_id = u.id) e
    cross join lateral (
        select avg(l.duration_ms) as mean from audit_log_details l
        join security_audit a on a.id = l.audit_id where a.user_id = u.id) d
    order by u.id"""

# Waits as the docs define them, percentile_cont over all of them.
QUEUE_TRUTH = """
    select q.status, count(*) as job_count, avg(w.s) as mean, max(w.s) as longest,
           percentile_cont(array[0.5, 0.95]) within group (order by w.s) as exact,
           min(q.created_at) as oldest, max(q.created_at) as newest
    from processing_queue q
    left join lateral (
        select extract(epoch from greatest(
            case when q.status in ('queued', 'retrying') then now() else q.started_at end
            - greatest(q.created_at, q.scheduled_at), interval '0'))::float as s
        where q.status in ('queued', 'retrying') or q.started_at is not null) w on true
    group by q.status"""


@pytest.fixture
def owner(database):
    with Database(database.owner) as opened:
        with opened.transaction() as connection:
            connection.execute("select ensure_partitions(oldest => %s)", [FIRST])
        yield opened


@pytest.fixture
def connection(database, owner):
    """The owner's, in autocommit: what is summed up must have been committed."""
    with negspace.database.connect(database.owner, autocommit=True) as made:
        yield made


@pytest.fixture
def app(database):
    with negspace.database.connect(database.app, autocommit=True) as made:
        yield made


# ── audit_summary_by_user ────────────────────────────────────────────────────────────────


def events(connection, users, count, *, since=FIRST, until=NOW, seed=1):
    """Events of some users, some with details, some of which say how long it took."""
    rng = random.Random(seed)
    for _ in range(count):
        at = since + (until - since) * rng.random()
        event = add(
            connection,
            "security_audit",
            user_id=rng.choice([*users, None]),
            status=rng.choice(STATUSES),
            timestamp=at,
        )
        for _ in range(rng.choice([0, 0, 1, 2])):
            add(
                connection,
                "audit_log_details",
                audit_id=event["id"],
                audit_timestamp=at,
                created_at=min(at + timedelta(hours=rng.choice([0, 40])), NOW),
                duration_ms=rng.choice([None, rng.uniform(1, 5000)]),
            )


def told(connection):
    """What the view tells is what the rows tell."""
    found = db.rows(connection, "select * from audit_summary_by_user order by user_id")
    truth = db.rows(connection, AUDIT_TRUTH)
    for row in [*found, *truth]:
        mean = row["mean_duration_ms"]
        row["mean_duration_ms"] = None if mean is None else round(mean, 9)
    assert found == truth
    return sum(row["event_count"] for row in found)


def unsummed(connection):
    query = "select coalesce(sum(event_count + duration_count), 0) as n from recent_audit_sums()"
    return db.only(connection, query)["n"]


def people(connection, count=4):
    return [add(connection, "users")["id"] for _ in range(count)]


def test_events_before_and_after_the_sums(owner, connection, app):
    users = people(connection)
    assert told(connection) == told(app)
    events(connection, users, 120)
    assert told(connection) > 50
    settle(owner)
    assert summaries.roll_up(owner) > 120
    assert unsummed(connection) == 0
    assert told(connection) == told(app)
    events(connection, users, 60, seed=2)  # of all days, long past ones too
    assert unsummed(connection) > 40
    told(connection)
    settle(owner)
    assert summaries.roll_up(owner) > 60
    assert unsummed(connection) == 0
    told(app)
    assert summaries.roll_up(owner) == 0


def test_batches_of_any_size_take_in_everything_once(owner, connection):
    users = people(connection)
    events(connection, users, 40)
    with owner.transaction() as together:
        events(together, users, 40, seed=2)  # forty in one transaction
    settle(owner)
    calls = 0
    while db.only(connection, "select roll_up_audit(7) as n")["n"]:
        told(connection)
        calls += 1
    assert calls > 5
    assert unsummed(connection) == 0


def test_a_transaction_that_commits_late_is_counted_then(database, owner, connection):
    users = people(connection)
    with negspace.database.connect(database.owner) as late:
        events(late, users, 15, seed=3)  # its number is older than those that follow
        events(connection, users, 30, seed=4)
        summaries.roll_up(owner)
        before = told(connection)
        late.commit()
    assert told(connection) > before
    settle(owner)
    summaries.roll_up(owner)
    assert unsummed(connection) == 0
    told(connection)


def test_who_sees_an_older_state_is_told_of_that_state(database, owner, connection):
    users = people(connection)
    events(connection, users, 30)
    with negspace.database.connect(database.owner) as reader:
        reader.execute("set transaction isolation level repeatable read")
        seen = told(reader)
        events(connection, users, 30, seed=2)
        summaries.roll_up(owner)
        assert told(reader) == seen


def test_months_that_leave_are_in_no_sum(owner, connection):
    users = people(connection)
    month = (TODAY.replace(day=1) - timedelta(days=1)).replace(day=1)
    for n, user in enumerate(users):
        at = month + timedelta(days=n)
        event = add(connection, "security_audit", user_id=user, timestamp=at)["id"]
        add(connection, "audit_log_details", audit_id=event, audit_timestamp=at, created_at=at,
            duration_ms=7)  # fmt: skip
    events(connection, users, 20, since=TODAY)
    seal_all(owner)
    summaries.roll_up(owner)
    before = told(connection)
    seal = db.only(connection, "select number, seal_hash from audit_seals order by 1 desc limit 1")
    connection.execute(
        "select retire_audit_month(%s, %s, %s, %s)",
        [month, seal["number"], seal["seal_hash"], "a" * 64],
    )
    assert told(connection) == before - len(users)
    connection.execute("select ensure_partitions(oldest => %s)", [month])
    there = "select to_regclass('security_audit_' || to_char(%s at time zone 'UTC', 'YYYYMM')) as t"
    assert db.only(connection, there, [month])["t"] is None  # it left for good


def test_a_trail_from_a_server_whose_transactions_count_higher(owner, connection):
    users = people(connection)
    events(connection, users, 40)
    settle(owner)
    summaries.roll_up(owner)
    # As after a dump is loaded into a new server: what is here was written, and summed up, by
    # transactions with numbers that are still to come here; some of it was not summed up.
    for table in ("security_audit", "audit_log_details"):
        connection.execute(f"alter table {table} disable trigger {table}_hash")
        connection.execute(f"alter table {table} alter column recorded_in set default '99999999'")
    events(connection, users, 10, seed=5)
    for table in ("security_audit", "audit_log_details"):
        connection.execute(f"alter table {table} alter column recorded_in set default '0'")
        connection.execute(f"alter table {table} enable always trigger {table}_hash")
    connection.execute("update audit_summary_progress set through_xid = '88888888'")
    told(connection)
    events(connection, users, 10, seed=6)
    told(connection)
    settle(owner)
    assert summaries.roll_up(owner) > 20
    assert unsummed(connection) == 0
    told(connection)
    events(connection, users, 10, seed=7)
    told(connection)
    settle(owner)
    assert summaries.roll_up(owner) > 10
    assert unsummed(connection) == 0
    told(connection)


def test_the_accounts_counters_are_the_views(owner, connection):
    users = people(connection)
    events(connection, users, 30)
    settle(owner)
    summaries.roll_up(owner)
    events(connection, users, 10, seed=2)
    connection.execute("select refresh_user_counters()")
    query = """select u.audit_event_count as kept,
                      (select count(*) from security_audit a where a.user_id = u.id) as truth
               from users u"""
    found = db.rows(connection, query)
    assert [row["kept"] for row in found] == [row["truth"] for row in found]
    assert sum(row["kept"] for row in found) > 30


@pytest.mark.parametrize("most", [0, -1, None])
def test_bounds_of_one_call(connection, most):
    with pytest.raises(psycopg.Error) as caught:
        connection.execute("select roll_up_summaries(%s)", [most])
    assert caught.value.sqlstate == "NS004"


# ── queue_status_summary ─────────────────────────────────────────────────────────────────


def ended(connection, count, *, since=FIRST, until=TODAY, seed=1):
    """Ended jobs of many days, and some that wait or run."""
    rng = random.Random(seed)
    for n in range(count):
        asked = since + (until - since) * rng.random()
        begun = asked + timedelta(seconds=rng.lognormvariate(1, 2))
        done = begun + timedelta(seconds=rng.lognormvariate(5, 3))
        status = rng.choice(["completed", "completed", "failed", "cancelled"])
        never = status == "cancelled" and rng.random() < 0.5
        add(
            connection,
            "processing_queue",
            algorithm_version=f"{seed}.0.{n}",
            status=status,
            created_at=asked,
            # those that were planned for later than they began have not waited
            scheduled_at=asked + timedelta(seconds=rng.choice([0, 0, 2])),
            started_at=None if never else begun,
            completed_at=done,
            worker_id=None if never else "w",
        )


def queue_told(connection):
    """What the view tells is what the jobs tell."""
    truth = {row["status"]: row for row in db.rows(connection, QUEUE_TRUTH)}
    found = db.rows(connection, "select * from queue_status_summary")
    assert len(found) == 6
    for row in found:
        true = truth.get(row["status"])
        if true is None:
            assert row["job_count"] == 0
            continue
        assert (row["job_count"], row["oldest_created_at"], row["newest_created_at"]) == (
            true["job_count"],
            true["oldest"],
            true["newest"],
        )
        close = 1 if row["status"] in ("queued", "retrying") else 1e-9  # seconds, as time goes on
        assert row["mean_wait_seconds"] == (true["mean"] and pytest.approx(true["mean"], abs=close))
        assert row["max_wait_seconds"] == (
            true["longest"] and pytest.approx(true["longest"], abs=close)
        )
        for column, place in (("p50_wait_seconds", 0), ("p95_wait_seconds", 1)):
            exact = (true["exact"] or [None, None])[place]
            assert row[column] == (exact and pytest.approx(exact, rel=1e-12, abs=close)), row
    return sum(row["job_count"] for row in found)


def summed_up(owner, connection):
    settle(owner)
    connection.execute("select roll_up_ended_jobs()")
    settle(owner)
    connection.execute("select roll_up_ended_jobs()")
    return db.only(connection, "select coalesce(sum(job_count), 0) as n from ended_job_days")["n"]


def test_jobs_before_and_after_the_sums(owner, connection, app):
    ended(connection, 300)
    add(connection, "processing_queue")
    queue_told(connection)
    assert summed_up(owner, connection) > 280
    assert queue_told(app) == 301
    ended(connection, 60, seed=2)  # late, of days that are closed
    assert db.rows(connection, "select from ended_job_changes")
    assert queue_told(app) == 361
    assert summed_up(owner, connection) > 340
    assert not db.rows(connection, "select from ended_job_changes")
    assert queue_told(app) == 361


CHANGES = {
    "purged": "select purge_jobs(interval '20 days', 30)",
    "removed with their images": "delete from images where id in (select image_id"
    " from processing_queue where status in ('completed', 'failed', 'cancelled') limit 20)",
    "tried again": "select retry_jobs(array(select id from processing_queue"
    " where status = 'failed' limit 20))",
    "cancelled after they failed": "select cancel_jobs(array(select id from processing_queue"
    " where status = 'failed' limit 20))",
    "months dropped": "select drop_ended_months(interval '2 days')",
    "changed": "update processing_queue set started_at = started_at + interval '9 hours'"
    " where status = 'completed' and id % 3 = 0",
}


@pytest.mark.parametrize("change", CHANGES)
def test_jobs_that_change_after_they_were_summed_up(owner, connection, change):
    ended(connection, 200)
    summed_up(owner, connection)
    queue_told(connection)
    before = db.rows(connection, "select status, count(*) from processing_queue group by 1")
    waits = db.only(connection, "select sum(started_at - created_at) as s from processing_queue")
    connection.execute(CHANGES[change].encode())
    after = db.rows(connection, "select status, count(*) from processing_queue group by 1")
    now = db.only(connection, "select sum(started_at - created_at) as s from processing_queue")
    assert (sorted(map(str, before)), waits) != (sorted(map(str, after)), now)
    queue_told(connection)
    summed_up(owner, connection)
    queue_told(connection)


def test_a_day_stays_open_while_somebody_may_add_to_it(database, owner, connection):
    settle(owner)
    close = "select closed_through('processing_queue', '2026-01-01 00:00:00+00') as at"
    with negspace.database.connect(database.owner) as late:
        late.execute("select pg_current_xact_id()")
        assert db.only(connection, close)["at"] is None
        assert db.only(connection, close)["at"] is None
    settle(owner)
    assert db.only(connection, close)["at"] == datetime(2026, 1, 1, tzinfo=UTC)


def test_generated_data_on_top_of_what_is_summed_up(database, owner, connection):
    plan = Plan(300, 900, 10, seed=1, until=TODAY.date())
    for seed in (1, 2):
        generate(owner, Plan(300, 900, 10, seed=seed, until=plan.until), into_existing=seed > 1)
        told(connection)
        queue_told(connection)
        settle(owner)
        assert summaries.roll_up(owner) > 900
        summed_up(owner, connection)
        assert unsummed(connection) == 0
        told(connection)
        queue_told(connection)
