"""The recorder of metrics, what it never does to who measures, and what batches hold."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

import negspace.database
from negspace import database as db
from negspace import metrics
from negspace.database import Database
from negspace.errors import InvalidInputError
from negspace.metrics import Recorder, Sample


def count(services):
    with services.transaction() as connection:
        return db.only(connection, "select count(*) as n from performance_metrics")["n"]


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_who_measures_never_waits_for_the_database(services, database):
    with negspace.database.connect(database.owner) as holder:
        holder.execute("lock table performance_metrics in access exclusive mode")
        recorder = Recorder(services, size=10, interval=0.05)
        for _ in range(5000):
            recorder.add(Sample("n", 1))
        # all were taken although nothing can be written: add() would hang here otherwise
        holder.rollback()
        assert count(services) < 5000
    recorder.close()
    assert count(services) == 5000
    assert recorder.dropped == 0


def test_what_is_collected_is_recorded_without_being_asked(services):
    recorder = Recorder(services, interval=0.05)
    recorder.add(Sample("n", 1))
    wait_for(lambda: count(services) == 1)
    recorder.close()
    assert count(services) == 1


def test_a_killed_process_loses_what_was_collected_since_the_last_recording(services, database):
    program = """
import os, sys, time
from negspace.database import Database
from negspace.metrics import Recorder, Sample
recorder = Recorder(Database(sys.argv[1]))
for _ in range(7):
    recorder.add(Sample("n", 1))
sys.stdin.readline()
for _ in range(5):
    recorder.add(Sample("n", 2))
print("added", flush=True)
os.kill(os.getpid(), 9)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, database.app], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    wait_for(lambda: count(services) == 7)
    said, _ = process.communicate(b"on\n", timeout=30)
    assert said == b"added\n"
    assert process.returncode == -signal.SIGKILL
    assert count(services) in (7, 12)


def test_the_oldest_go_where_there_is_no_room(database):
    unreachable = Database("postgresql://127.0.0.1:1/none")
    recorder = Recorder(unreachable, size=10**6, interval=3600, room=100)
    for number in range(250):
        recorder.add(Sample("n", number))
    assert recorder.dropped == 150
    with Database(database.app) as services:
        recorder._database = services
        recorder.close()
        with services.transaction() as connection:
            kept = db.rows(
                connection, "select value::int as v from performance_metrics order by id"
            )
    assert [row["v"] for row in kept] == list(range(150, 250))


def test_a_refused_sample_takes_no_other_with_it(services):
    with Recorder(services) as recorder:
        for number in range(20):
            labels = {"name": "nul \0"} if number == 11 else {}
            recorder.add(Sample("n", number, labels=labels))
    assert count(services) == 19
    assert recorder.dropped == 1


def test_percentiles_are_filled(services):
    values = np.random.default_rng(1).lognormal(2, 1, 1000).tolist()
    metrics.record(services, Sample("one", 12.5), metrics.batch("many", values, "ms"))
    query = """select value::float as value, sample_count, percentile_p50::float as p50,
        percentile_p95::float as p95, percentile_p99::float as p99
        from performance_metrics order by metric_name desc"""
    with services.transaction() as connection:
        one, many = db.rows(connection, query)
    assert one == {"value": 12.5, "sample_count": 1, "p50": 12.5, "p95": 12.5, "p99": 12.5}
    assert many["sample_count"] == 1000
    assert many["value"] == pytest.approx(np.mean(values), abs=1e-4)
    told = [many["p50"], many["p95"], many["p99"]]
    assert told == pytest.approx(np.percentile(values, [50, 95, 99]), abs=1e-4)


def test_jobs_fill_them_too(bench):
    bench.enqueue(bench.add_image())
    bench.drain()
    query = "select count(*) from performance_metrics where percentile_p95 is distinct from value"
    assert bench.value("select count(*) from performance_metrics") == 2
    assert bench.value(query) == 0


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(InvalidInputError, match="without a value"):
        metrics.batch("n", [])
    with pytest.raises(InvalidInputError, match="inf"):
        metrics.batch("n", [1, float("inf")])


def test_housekeeping_rolls_up(services):
    from negspace.worker.housekeeping import Housekeeper

    at = datetime.now(UTC) - timedelta(hours=5)
    metrics.record(services, Sample("n", 1, recorded_at=at))
    keeper = Housekeeper(services)
    keeper.start()
    hours = "select count(*) as n from rollup_progress where closed_through is not null"

    def closed():
        with services.transaction() as connection:
            if db.only(connection, hours)["n"]:
                return True
        metrics.roll_up(services)  # others' transactions may have been in its way
        return False

    wait_for(closed)
    keeper.end()
    [whole] = metrics.summary(services)
    assert (whole.sample_count, whole.p50) == (1, 1.0)


def test_purging_is_the_owners(services, database):
    from negspace.errors import AccessError

    with pytest.raises(AccessError):
        metrics.purge(services)
    with Database(database.owner) as owner:
        assert metrics.purge(owner, dry_run=True) == []
        with pytest.raises(InvalidInputError, match="31 days"):
            metrics.purge(owner, keep_samples=timedelta(days=1))
