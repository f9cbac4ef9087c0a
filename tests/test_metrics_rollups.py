"""Roll-ups of metrics: whatever was written, when and by whom, they answer as the samples do."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest

import negspace.database
from negspace import database as db
from negspace import metrics
from negspace.errors import InvalidInputError
from negspace.generate import Plan, generate
from negspace.metrics import Recorder, Sample

HOUR = timedelta(hours=1)
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
START = NOW - timedelta(days=40)
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def connection(database):
    """The owner's, in autocommit: what is rolled up must have been committed."""
    with negspace.database.connect(database.owner, autocommit=True) as made:
        db.only(made, "select ensure_partitions(oldest => %s)", [START])
        yield made


def some(rng, count, *, since=START, until=NOW - 2 * HOUR):
    """Rows of one metric over a span: values of all sizes, and labels."""
    width = (until - since).total_seconds()
    return [
        {
            "at": since + timedelta(seconds=rng.uniform(0, width)),
            "value": round(rng.choice([1, 1, 1, 0, -1]) * rng.lognormvariate(3, 3), 4),
            "label": rng.choice("ab"),
            "count": rng.choice([1, 1, 7]),
        }
        for _ in range(count)
    ]


def write(connection, samples, name="load"):
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into performance_metrics"
            " (metric_name, value, recorded_at, sample_count, labels)"
            f" values ('{name}', %(value)s, %(at)s, %(count)s,"
            "         jsonb_build_object('host', %(label)s::text))",
            samples,
        )


def roll_up(connection, most=24 * 366):
    return db.only(connection, "select roll_up_metrics(%s) as hours", [most])["hours"]


def roll_up_all(connection, most=24 * 366):
    """Until nothing is left; other tests' transactions are waited for, as they must be."""
    total, until = 0, time.monotonic() + 60
    left = """select not exists (select from rollup_progress where closed_through = %s)
        or exists (select from metric_changes where hour < %s) as yes"""
    closes = datetime.now(UTC) - timedelta(minutes=5)
    closes = closes.replace(minute=0, second=0, microsecond=0)
    while db.only(connection, left, [closes, closes])["yes"]:
        assert time.monotonic() < until
        total += roll_up(connection, most)
    return total


def stored(connection, since, until, labels="{}"):
    query = """select recorded_at as at, value::float as value, sample_count as count
        from performance_metrics where metric_name = 'load' and labels @> %s
          and recorded_at >= %s and recorded_at < %s"""
    return db.rows(connection, query, [labels, since, until])


def see(connection, window, since=START, until=NOW + HOUR, labels="{}"):
    """Compare every window with the samples; returns how many there were."""
    query = "select * from aggregate_performance_metrics('load', %s, %s, %s, %s)"
    found = db.rows(connection, query, [window, since, until, labels])
    groups = {}
    for sample in stored(connection, since, until, labels):
        at = sample["at"].astimezone(UTC)
        groups.setdefault(EPOCH + (at - EPOCH) // window * window, []).append(sample)
    assert [row["window_start"].astimezone(UTC) for row in found] == sorted(groups)
    for row in found:
        start, end = (row[c].astimezone(UTC) for c in ("window_start", "window_end"))
        assert end - start == window
        group = groups[start]
        values = [sample["value"] for sample in group]
        weights = [sample["count"] for sample in group]
        assert row["sample_count"] == sum(weights)
        assert row["mean"] == pytest.approx(np.average(values, weights=weights), rel=1e-9, abs=1e-9)
        assert (float(row["minimum"]), float(row["maximum"])) == (min(values), max(values))
        for column, percent in (("p50", 50), ("p95", 95), ("p99", 99)):
            near = [np.percentile(values, percent, method=m) for m in ("lower", "higher")]
            off = abs(row[column] - np.percentile(values, percent))
            assert off <= 0.01 * max(map(abs, near)) + 1e-12, (column, row, near)
            assert min(values) <= row[column] <= max(values)
    return len(found)


WINDOWS = [timedelta(minutes=5), HOUR, 7 * HOUR, timedelta(days=1), timedelta(days=7), 90 * HOUR]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_any_window_is_answered_as_the_samples_do(connection, window):
    rng = random.Random(4)
    write(connection, some(rng, 4000))
    write(connection, some(rng, 300, since=NOW - 2 * HOUR, until=NOW + HOUR))
    connection.execute("set timezone to 'America/St_Johns'")  # hours and days are those of UTC
    assert roll_up_all(connection) > 900
    assert see(connection, window)
    odd = START + timedelta(days=2, hours=3, minutes=4, seconds=5.6)
    assert see(connection, window, odd, NOW - timedelta(hours=9, seconds=1))
    assert see(connection, window, odd, odd + timedelta(minutes=50))
    assert see(connection, window, odd, NOW, '{"host": "a"}')
    assert see(connection, window, odd, NOW, '{"host": "c"}') == 0


def test_roll_ups_answer_and_not_the_samples(connection):
    write(connection, some(random.Random(5), 2000))
    roll_up_all(connection)
    query = "select sum(sample_count) as n from aggregate_performance_metrics('load', '1 day', %s)"
    before = db.only(connection, query, [START])["n"]
    connection.execute("alter table performance_metrics disable trigger user")
    connection.execute("delete from performance_metrics")  # behind its back
    assert db.only(connection, query, [START])["n"] == before > 2000


@pytest.mark.parametrize("seed", range(3))
def test_random_writes_changes_and_deletions_are_never_missed(connection, seed):
    rng = random.Random(seed)
    for _ in range(12):
        step = rng.choice(["write", "write late", "change", "delete", "roll up", "roll up all"])
        if step.startswith("write"):
            since = NOW - 3 * HOUR if step == "write" else START
            write(connection, some(rng, 150, since=since, until=NOW + HOUR))
        elif step == "change":
            query = """update performance_metrics set value = value / 2,
                recorded_at = recorded_at + interval '3 hours' where id %% 17 = %s"""
            connection.execute(query, [rng.randrange(17)])
        elif step == "delete":
            connection.execute(
                "delete from performance_metrics where id %% 13 = %s", [rng.randrange(13)]
            )
        else:
            roll_up(connection, 100) if step == "roll up" else roll_up_all(connection)
        for window in rng.sample(WINDOWS, 2):
            see(connection, window, rng.choice([START, NOW - 30 * HOUR]))
    roll_up_all(connection)
    for window in WINDOWS:
        see(connection, window)


def test_what_commits_after_its_hour_would_have_been_closed_is_not_missed(connection, database):
    write(connection, some(random.Random(1), 100))
    with negspace.database.connect(database.app) as slow:
        # numbered before its hour can be closed, and too early to be called late
        slow.execute("select pg_current_xact_id()")
        assert roll_up(connection) == 0
        assert roll_up(connection) == 0
        write(slow, some(random.Random(2), 5))
        slow.commit()
    see(connection, HOUR)
    assert roll_up_all(connection) > 0
    see(connection, HOUR)


def test_many_at_once_roll_up_each_hour_once(connection, database):
    write(connection, some(random.Random(6), 1000))
    barrier = threading.Barrier(4)

    def work(_):
        with negspace.database.connect(database.app, autocommit=True) as mine:
            barrier.wait(30)
            return roll_up_all(mine, 50)

    with ThreadPoolExecutor(4) as threads:
        done = sum(threads.map(work, range(4)))
    assert done in range(40 * 24 - 4, 40 * 24)
    see(connection, HOUR)
    see(connection, timedelta(days=1))


def test_again_rolls_up_nothing(connection):
    write(connection, some(random.Random(7), 100))
    assert roll_up_all(connection) > 0
    before = db.rows(connection, "select * from metric_hours order by 1, 2")
    assert roll_up(connection) == 0
    assert db.rows(connection, "select * from metric_hours order by 1, 2") == before
    late = some(random.Random(8), 1)
    write(connection, late)
    write(connection, late)
    assert roll_up(connection) == 1


def test_an_empty_table_is_closed_and_what_comes_late_is_counted(connection):
    assert roll_up_all(connection) == 0
    write(connection, some(random.Random(9), 50))
    see(connection, HOUR)
    assert roll_up_all(connection) > 0
    see(connection, HOUR)


def test_a_number_of_another_server_does_not_stop_it(connection):
    write(connection, some(random.Random(10), 10))
    connection.execute(
        "insert into rollup_progress (table_name, closing_at, closing_xid)"
        " values ('performance_metrics', now(), 1::bigint << 50)"
    )
    assert roll_up_all(connection) > 0
    see(connection, HOUR)


@pytest.mark.parametrize("most", [0, -1, None, 10_000])
def test_bounds_of_one_call(connection, most):
    with pytest.raises(psycopg.Error, match="most_hours") as caught:
        roll_up(connection, most)
    assert caught.value.sqlstate == "NS004"


# ── retention ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def old(connection):
    """Samples of four months, rolled up."""
    db.only(connection, "select ensure_partitions(oldest => %s)", [NOW - timedelta(days=120)])
    write(connection, some(random.Random(11), 3000, since=NOW - timedelta(days=120)))
    roll_up_all(connection)
    return connection


def purge(connection, samples="31 days", minutes="30 days"):
    query = "select purge_metrics(%s, %s) as gone"
    return db.only(connection, query, [samples, minutes])["gone"]


def test_samples_go_by_month_and_roll_ups_stay(old):
    query = "select * from aggregate_performance_metrics('load', %s)"
    before = {window: db.rows(old, query, [window]) for window in ("1 hour", "1 day", "36500 days")}
    gone = purge(old)
    assert len(gone) in (2, 3)
    for window, rows in before.items():
        assert db.rows(old, query, [window]) == rows
    assert purge(old) == []
    kept = db.only(old, "select min(recorded_at) as at from performance_metrics")["at"]
    assert kept > NOW - timedelta(days=75)


def test_what_only_the_samples_could_answer_is_refused_by_what_to_ask(old):
    purge(old)
    long_ago = NOW - timedelta(days=110)
    for window, since in (
        ("5 minutes", long_ago),
        ("1 hour", long_ago + timedelta(minutes=1)),
        ("7 seconds", None),
    ):
        with pytest.raises(psycopg.Error, match="kept by the hour alone") as caught:
            db.rows(
                old, "select * from aggregate_performance_metrics('load', %s, %s)", [window, since]
            )
        assert caught.value.sqlstate == "NS004"
        assert "whole hour" in str(caught.value.diag.message_hint)


def test_a_sample_of_a_month_that_went_is_refused(old, services):
    purge(old)
    late = Sample("late", 1, recorded_at=NOW - timedelta(days=110))
    with pytest.raises(InvalidInputError, match="kept no more"):
        metrics.record(services, late)
    with Recorder(services) as recorder:
        recorder.add(late)
        recorder.add(Sample("now", 1))
    assert recorder.dropped == 1


def test_a_month_that_went_is_not_made_again(old):
    gone = purge(old)
    db.only(old, "select ensure_partitions(oldest => %s)", [NOW - timedelta(days=110)])
    assert db.rows(old, "select where to_regclass(%s) is not null", [gone[0]]) == []
    # nor does it help to make it by hand
    since = NOW - timedelta(days=110)
    old.execute(
        "create table by_hand partition of performance_metrics for values from ('2020-01-01') to"
        f" ('{since + timedelta(days=10):%Y-%m-%d}')"
    )
    with pytest.raises(psycopg.Error, match="kept no more") as caught:
        write(
            old,
            some(
                random.Random(1),
                1,
                since=NOW - timedelta(days=110),
                until=NOW - timedelta(days=109),
            ),
        )
    assert caught.value.sqlstate == "NS004"


def test_what_is_not_rolled_up_stays(connection):
    db.only(connection, "select ensure_partitions(oldest => %s)", [NOW - timedelta(days=120)])
    write(connection, some(random.Random(11), 300, since=NOW - timedelta(days=120)))
    assert purge(connection) == []
    roll_up_all(connection)
    write(
        connection,
        some(
            random.Random(11), 1, since=NOW - timedelta(days=119), until=NOW - timedelta(days=118)
        ),
    )
    assert purge(connection) == []
    roll_up_all(connection)
    assert purge(connection) != []


def test_a_month_that_is_in_use_stays(old, database):
    with negspace.database.connect(database.app) as reader:
        reader.execute("select count(*) from performance_metrics")
        assert purge(old) == []
    assert purge(old) != []


@pytest.mark.parametrize(
    ("samples", "minutes"),
    [
        ("30 days", "30 days"),
        ("0", "1 day"),
        ("1 year", "1 hour"),
        (None, "1 day"),
        ("1 year", None),
    ],
)
def test_too_short_a_retention_is_refused(connection, samples, minutes):
    with pytest.raises(psycopg.Error, match="samples are kept for 31 days") as caught:
        purge(connection, samples, minutes)
    assert caught.value.sqlstate == "NS004"


def test_the_services_may_roll_up_and_not_purge(app):
    app.execute("select roll_up_metrics()")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute("select purge_metrics()")


# ── histograms ───────────────────────────────────────────────────────────────────────────

EDGES = ["0.0001", "0.0002", "1", "1.02", "1.0404", "99999999999.9999", "0", "50", "51", "0.9804"]


@pytest.mark.parametrize("value", [*EDGES, *(f"-{edge}" for edge in EDGES)])
def test_one_value_alone_comes_back_as_it_is(connection, value):
    write(connection, [{"at": START, "value": value, "label": "a", "count": 1}])
    assert roll_up_all(connection) > 0
    query = "select * from aggregate_performance_metrics('load', '1 hour')"
    row = db.only(connection, query)
    assert row["p50"] == row["p95"] == row["p99"] == pytest.approx(float(value), rel=1e-15)


def test_every_bucket_stands_for_its_values_within_one_percent(connection):
    rng = random.Random(12)
    values = [round(rng.choice([-1, 1]) * 10 ** rng.uniform(-4, 11), 4) for _ in range(3000)]
    values = [v or 0.0001 for v in values if abs(v) < 99_999_999_999]
    write(connection, [{"at": START, "value": v, "label": "a", "count": 1} for v in values])
    roll_up_all(connection)
    query = """select u.rows, metric_bucket_value(u.bucket) as value
        from metric_hours, unnest(buckets, counts) as u (bucket, rows) order by u.bucket"""
    told = [row["value"] for row in db.rows(connection, query) for _ in range(row["rows"])]
    for value, near in zip(sorted(values), told, strict=True):
        assert near == pytest.approx(value, rel=0.01)


def test_generated_samples_are_counted_into_what_is_rolled_up(connection, database):
    roll_up_all(connection)
    with negspace.database.Database(database.owner) as owner:
        generate(owner, Plan(100, 300, 2000), into_existing=True)
    marked = db.only(connection, "select count(*) as n from metric_changes")["n"]
    assert marked > 1000
    query = """select sum(a.sample_count) as n from (select distinct metric_name as name
        from performance_metrics) m, aggregate_performance_metrics(m.name, '1 day') a"""
    before = db.only(connection, query)["n"]
    assert (
        before == db.only(connection, "select sum(sample_count) as n from performance_metrics")["n"]
    )
    roll_up_all(connection)
    assert db.only(connection, query)["n"] == before
