"""Metrics that can't be: refused with what is wrong, by Python and by SQL, and nothing is lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from negspace import database as db
from negspace import metrics
from negspace.errors import InvalidInputError
from negspace.metrics import Recorder, Sample

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
CENTURY = timedelta(seconds=3_155_760_000)
MEGABYTE = {"host": "h" * 2**20}
BAD = {
    "NaN": {"value": float("nan")},
    "infinity": {"value": float("inf")},
    "minus infinity": {"value": float("-inf")},
    "beyond numeric(15,4)": {"value": 100_000_000_000.0},
    "labels of 1 MB": {"labels": MEGABYTE},
    "a context of 1 MB": {"context": MEGABYTE},
    "a time far in the future": {"recorded_at": NOW + timedelta(days=36_500)},
    "the last time there is": {"recorded_at": datetime.max.replace(tzinfo=UTC)},
    "the first time there is": {"recorded_at": datetime.min.replace(tzinfo=UTC)},
}
VALUES = {
    "NaN": "'NaN', '{}', now()",
    "infinity": "'Infinity', '{}', now()",
    "beyond numeric(15,4)": "100000000000, '{}', now()",
    "labels of 1 MB": "1, jsonb_build_object('host', repeat('h', 1048576)), now()",
    "a time far in the future": "1, '{}', now() + interval '100 years'",
    "infinite time": "1, '{}', 'infinity'",
}


def recorded(database) -> list[float]:
    with database.transaction() as connection:
        found = db.rows(connection, "select value::float as v from performance_metrics order by 1")
    return [row["v"] for row in found]


@pytest.mark.parametrize("what", BAD)
def test_a_sample_is_refused_with_what_is_wrong_and_what_to_do(services, what):
    metrics.record(services, Sample("load", 1))
    with pytest.raises(InvalidInputError) as raised:
        Sample(**{"name": "load", "value": 2.0} | BAD[what])  # type: ignore[arg-type]
    assert "load" in raised.value.message
    assert raised.value.hint
    assert len(raised.value.message) < 500  # a megabyte is not said again
    assert recorded(services) == [1]


@pytest.mark.parametrize("what", VALUES)
def test_sql_refuses_it_too_and_keeps_what_was_there(services, database, what):
    metrics.record(services, Sample("load", 1))
    with (
        db.connect(database.app) as app,
        pytest.raises(psycopg.Error) as caught,
    ):
        app.execute(
            "insert into performance_metrics (metric_name, value, labels, recorded_at) values"
            f" ('load', {VALUES[what]})".encode()
        )
    assert caught.value.sqlstate in ("23514", "22003")  # a check, a partition, a range
    assert recorded(services) == [1]


def test_a_recorder_goes_on_after_what_it_refused(services):
    with Recorder(services) as recorder:
        for value in (1.0, float("nan"), 2.0, float("inf"), 1e12, 3.0):
            try:
                recorder.add(Sample("load", value))
            except InvalidInputError:
                continue
    assert recorded(services) == [1, 2, 3]


@pytest.mark.parametrize(
    "window", [timedelta(0), -HOUR, CENTURY + HOUR, timedelta.max], ids=str
)  # fmt: skip
def test_a_window_of_nothing_or_beyond_a_century_is_refused(services, window):
    metrics.record(services, Sample("load", 1))
    with pytest.raises(InvalidInputError, match="longer than nothing and at most a century") as no:
        metrics.aggregate(services, "load", window)
    assert no.value.hint


@pytest.mark.parametrize("window", [timedelta(microseconds=1), CENTURY], ids=str)
def test_the_smallest_and_the_largest_window_answer(services, window):
    metrics.record(services, Sample("load", 1), Sample("load", 3))
    found = metrics.aggregate(services, "load", window)
    assert sum(one.sample_count for one in found) == 2
    assert (found[0].minimum, found[-1].maximum) == (1, 3)


def test_a_span_of_millennia_and_one_that_ends_before_it_begins(services):
    metrics.record(services, Sample("load", 1))
    first, last = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
    assert len(metrics.aggregate(services, "load", HOUR, since=first, until=last)) == 1
    assert metrics.aggregate(services, "load", HOUR, since=last, until=first) == []
    assert metrics.aggregate(services, "load", HOUR, since=last) == []


@pytest.mark.parametrize(
    "words",
    [
        ("record", "load", "nan"),
        ("record", "load", "1e11"),
        ("record", "load", "infinity"),
        ("show", "load", "--window", "0s"),
        ("show", "load", "--window", "40000d"),
        ("show", "load", "--since", "99999999d"),
    ],
    ids=" ".join,
)
def test_the_command_line_says_it_without_a_traceback(cli, database, words):
    found = cli("metrics", *words, env=database.environment)
    assert found.status == 2
    assert "Traceback" not in found.err
    assert "hint" in found.err or "Try" in found.err or "one of" in found.err
