"""Metrics: what is refused, and every number against a straightforward computation."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from bench import Bench
from negspace import metrics
from negspace.errors import InvalidInputError, UnavailableError
from negspace.metrics import Recorder, Sample

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"value": float("nan")}, "nan"),
        ({"value": float("-inf")}, "-inf"),
        ({"value": 1e11}, "100,000,000,000"),
        ({"value": 99_999_999_999.99999}, "100,000,000,000"),
        ({"name": "Job Run"}, "no name of a metric"),
        ({"name": "a" * 128}, "no name of a metric"),
        ({"name": "a\0"}, "no name of a metric"),
        ({"kind": "average"}, "average"),
        ({"labels": {"host": "h" * 9000}}, "8,192 at most"),
        ({"context": {"host": "h" * 70_000}}, "65,536 at most"),
        ({"labels": {"x": float("nan")}}, "no JSON"),
        ({"labels": {"x": object()}}, "no JSON"),
        ({"recorded_at": datetime(2026, 1, 1)}, "no time zone"),
        ({"recorded_at": datetime(1999, 1, 1, tzinfo=UTC)}, "five years ago"),
        ({"recorded_at": datetime.now(UTC) + timedelta(days=400)}, "not ahead"),
    ],
)
def test_bad_samples_are_refused_by_what_is_wrong(changes: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        Sample(**{"name": "load", "value": 1.0} | changes)  # type: ignore[arg-type]
    assert says in f"{raised.value.message} {raised.value.hint}"


def test_what_is_refused_late_is_refused_whole(bench: Bench) -> None:
    with pytest.raises(InvalidInputError):
        metrics.record(
            bench.services, Sample("load", 1), Sample("load", 2, labels={"name": "nul \0"})
        )
    assert metrics.summary(bench.services) == []


def test_the_largest_and_smallest_values_are_kept(bench: Bench) -> None:
    for value in (99_999_999_999.9999, -99_999_999_999.9999, 0.00001):
        metrics.record(bench.services, Sample("edge", value))
    [found] = metrics.summary(bench.services)
    assert (found.minimum, found.maximum) == (-99_999_999_999.9999, 99_999_999_999.9999)
    assert found.p50 == 0


def test_percentiles_are_those_of_the_samples(bench: Bench) -> None:
    rng = random.Random(7)
    values = {hour: [rng.expovariate(0.01) for _ in range(200)] for hour in range(3)}
    with Recorder(bench.services, size=150) as recorder:
        for hour, ones in values.items():
            for n, value in enumerate(ones):
                at = NOON + timedelta(hours=hour, seconds=n)
                recorder.add(
                    Sample("step_ms", value, "ms", labels={"even": n % 2 == 0}, recorded_at=at)
                )
    windows = metrics.aggregate(
        bench.services, "step_ms", timedelta(hours=1), since=NOON, until=NOON + timedelta(hours=3)
    )
    assert [w.window_start for w in windows] == [NOON + timedelta(hours=h) for h in range(3)]
    for window, ones in zip(windows, values.values(), strict=True):
        assert window.sample_count == 200
        assert window.mean == pytest.approx(np.mean(ones), abs=1e-3)
        assert (window.minimum, window.maximum) == pytest.approx((min(ones), max(ones)), abs=1e-3)
        expected = np.percentile(ones, [50, 95, 99])
        assert (window.p50, window.p95, window.p99) == pytest.approx(tuple(expected), abs=1e-3)
    [even] = metrics.aggregate(
        bench.services,
        "step_ms",
        timedelta(days=7),
        since=NOON,
        until=NOON + timedelta(hours=1),
        labels={"even": True},
    )
    assert even.sample_count == 100
    [whole] = metrics.summary(bench.services, since=NOON, names=["step_ms"])
    everything = [value for ones in values.values() for value in ones]
    assert whole.sample_count == 600
    assert whole.p99 == pytest.approx(np.percentile(everything, 99), abs=1e-3)
    assert metrics.aggregate(bench.services, "none", timedelta(hours=1)) == []
    with pytest.raises(InvalidInputError, match="window"):
        metrics.aggregate(bench.services, "step_ms", timedelta(0))


def test_samples_of_months_without_a_partition_are_kept(bench: Bench) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=300)
    metrics.record(bench.services, Sample("load", 1, recorded_at=long_ago))
    [found] = metrics.summary(bench.services, since=long_ago - timedelta(days=1))
    assert found.last_recorded_at == long_ago


def test_threads_share_a_recorder_and_lose_nothing(bench: Bench) -> None:
    with Recorder(bench.services, size=50) as recorder:
        threads = [
            threading.Thread(target=lambda: [recorder.add(Sample("n", 1)) for _ in range(130)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert metrics.summary(bench.services)[0].sample_count == 520


def test_what_could_not_be_recorded_stays_collected(bench: Bench) -> None:
    recorder = Recorder(bench.services)
    recorder.add(Sample("n", 1))
    pool = bench.services._pool
    address, pool._address = pool._address, "postgresql://127.0.0.1:1/none"
    pool.close()
    with pytest.raises(UnavailableError):
        recorder.flush()
    pool._address = address
    assert recorder.flush() == 1
    assert recorder.flush() == 0


def test_the_command_line(bench: Bench) -> None:
    for value in ("1.5", "-3"):
        done = bench.cli("metrics", "record", "load", value, "--unit", "x", "--label", "host=a")
        assert done.status == 0
    assert bench.cli("metrics", "record", "load", "nan").status == 2
    [listed] = bench.cli("metrics", "list", "--json").json
    assert (listed["metric_name"], listed["sample_count"], listed["mean"]) == ("load", 2, -0.75)
    shown = bench.cli("metrics", "show", "load", "--since", "7d", "--window", "30d", "--json")
    assert sum(window["sample_count"] for window in shown.json) == 2
    assert bench.cli("metrics", "show", "load", "--label", "host=b", "--json").json == []
    assert bench.cli("metrics", "show", "load", "--window", "0d").status == 2
    assert "load" in bench.cli("metrics", "list", "--since", "7d").out
