"""The schema's functions for duplicates, the cache, metrics and counters."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from random import Random

import numpy
import psycopg
import pytest

from negspace import database as db
from schema_rows import add, digest
from schema_waiting import DEADLINE, Other


def call(connection, query, *values):
    return next(iter(db.only(connection, query, values).values()))


def image(connection, number):
    return db.only(connection, "select * from images where id = %s", [number])


def register(connection, user, content):
    path = f"{content[:2]}/{content}.png"
    return db.only(
        connection,
        "select * from register_image(%s, 'void.png', %s, %s, 1234, 'image/png', %s)",
        [user, f"{content}.png", path, content],
    )


def delete(connection, number):
    return call(connection, "select delete_image(%s)", number)


def mark(connection):
    return call(connection, "select mark_duplicate_images()")


def originals(connection, user):
    """What each of the user's images is a duplicate of, in the order they came."""
    query = "select id, is_duplicate, duplicate_of from images where user_id = %s order by id"
    found = db.rows(connection, query, [user])
    assert all(row["is_duplicate"] == (row["duplicate_of"] is not None) for row in found)
    return {row["id"]: row["duplicate_of"] for row in found}


# ── duplicates ───────────────────────────────────────────────────────────────────────────


def test_marks_what_its_owner_has_already(app):
    mine, yours = add(app, "users")["id"], add(app, "users")["id"]
    pixels = digest()
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
    later = add(app, "images", user_id=mine, pixel_hash=pixels, uploaded_at=late)["id"]
    first = add(app, "images", user_id=mine, pixel_hash=pixels, uploaded_at=early)["id"]
    alone = add(app, "images", user_id=mine)["id"]
    other = add(app, "images", user_id=yours, pixel_hash=pixels, uploaded_at=early)["id"]
    assert mark(app) == 1
    assert originals(app, mine) == {later: first, first: None, alone: None}
    assert originals(app, yours) == {other: None}
    assert mark(app) == 0


def test_what_repeats_a_duplicated_image_follows_it_to_the_older_one(app):
    user = add(app, "users")["id"]
    pixels = digest()
    first = add(app, "images", user_id=user, pixel_hash=pixels)["id"]
    content = digest()
    second = register(app, user, content)["id"]
    copy = register(app, user, content)["id"]
    app.execute("update images set pixel_hash = %s where id = %s", [pixels, second])
    assert mark(app) == 1
    assert originals(app, user) == {first: None, second: first, copy: first}
    # The file of the second is there, so taken in again it is a duplicate too …
    again = register(app, user, content)["id"]
    assert originals(app, user)[again] == first
    # … and when the original goes, one of them takes its place and the rest follow.
    assert delete(app, first) is not None
    assert originals(app, user) == {second: None, copy: second, again: second}


@pytest.mark.parametrize("count", [0, 3])
def test_the_oldest_duplicate_takes_a_removed_originals_place(app, count):
    user = add(app, "users")["id"]
    content = digest()
    numbers = [register(app, user, content)["id"] for _ in range(count + 1)]
    path = image(app, numbers[0])["file_path"]
    while numbers:
        gone, *numbers = numbers
        assert delete(app, gone) == (None if numbers else path)
        heir = numbers[0] if numbers else None
        assert originals(app, user) == {n: None if n == heir else heir for n in numbers}


def test_a_stored_file_stays_while_somebody_uses_it(app):
    mine, yours = add(app, "users")["id"], add(app, "users")["id"]
    content = digest()
    first, second = register(app, mine, content), register(app, yours, content)
    assert not second["is_duplicate"]  # nobody learns that somebody else has the file
    assert delete(app, first["id"]) is None
    assert delete(app, second["id"]) == second["file_path"]


def test_removing_what_is_not_there(app):
    with pytest.raises(psycopg.Error, match="there is no image -1") as caught:
        delete(app, -1)
    assert caught.value.sqlstate == "NS003"


def test_no_chains_and_no_other_owners(app):
    first = add(app, "images")
    user = first["user_id"]
    same = {"user_id": user, "is_duplicate": True}
    second = add(app, "images", **same, duplicate_of=first["id"])
    third = add(app, "images", user_id=user)
    change = "update images set is_duplicate = true, duplicate_of = %s where id = %s"
    with pytest.raises(psycopg.Error, match="which is one itself") as caught, app.transaction():
        app.execute(change, [second["id"], third["id"]])
    assert caught.value.sqlstate == "NS004"
    with pytest.raises(psycopg.Error, match="has duplicates of its own"), app.transaction():
        app.execute(change, [third["id"], first["id"]])
    with pytest.raises(psycopg.Error, match="has another owner"), app.transaction():
        add(app, "images", is_duplicate=True, duplicate_of=first["id"])


@pytest.mark.parametrize("copy_first", [False, True])
def test_no_chain_by_two_at_once(database, copy_first):
    change = "update images set is_duplicate = true, duplicate_of = %s where id = %s"

    def becomes_one(connection):
        connection.execute(change, [top["id"], middle["id"]])

    def is_copied(connection):
        same = {"user_id": top["user_id"], "is_duplicate": True}
        add(connection, "images", **same, duplicate_of=middle["id"])

    with db.connect(database.app) as one, Other(database.app) as other:
        top = add(one, "images")
        middle = add(one, "images", user_id=top["user_id"])
        one.commit()
        first, second = (is_copied, becomes_one) if copy_first else (becomes_one, is_copied)
        first(one)
        later = other.start(second)
        assert other.is_waiting(one, later)
        one.commit()
        with pytest.raises(psycopg.Error, match=r"which is one itself|duplicates of its own"):
            later.result(DEADLINE)


def test_the_same_file_by_two_at_once_is_one_original(database):
    content = digest()
    with db.connect(database.app) as one, Other(database.app) as other:
        user = add(one, "users")["id"]
        one.commit()
        first = register(one, user, content)
        later = other.start(lambda connection: register(connection, user, content))
        assert other.is_waiting(one, later)
        one.commit()
        assert later.result(DEADLINE)["duplicate_of"] == first["id"]


# ── the cache ────────────────────────────────────────────────────────────────────────────


def clean(connection, *arguments):
    query = "select cleanup_expired_cache(%s)" if arguments else "select cleanup_expired_cache()"
    return call(connection, query, *arguments)


def expired(connection, hours):
    past = datetime(2026, 1, 1, tzinfo=UTC)
    times = {"created_at": past, "expires_at": past + timedelta(hours=hours)}
    return add(connection, "analysis_cache", **times)["id"]


def test_cleaning_takes_what_is_expired_in_batches(app):
    for hours in range(1, 26):
        expired(app, hours)
    live = {add(app, "analysis_cache")["id"] for _ in range(5)}
    assert [clean(app, 10), clean(app, 10), clean(app, 10), clean(app, 10)] == [10, 10, 5, 0]
    assert {row["id"] for row in db.rows(app, "select id from analysis_cache")} == live


def test_cleaning_begins_with_what_expired_first(app):
    numbers = [expired(app, hours) for hours in (3, 1, 2)]
    assert clean(app, 2) == 2
    assert [row["id"] for row in db.rows(app, "select id from analysis_cache")] == numbers[:1]


@pytest.mark.parametrize("size", [0, -1, None])
def test_cleaning_nothing(app, size):
    expired(app, 1)
    assert clean(app, size) == 0


def test_cleaning_passes_by_what_somebody_holds(database):
    with db.connect(database.app) as one, db.connect(database.app) as other:
        held, _ = expired(one, 1), expired(one, 2)
        one.commit()
        one.execute("select from analysis_cache where id = %s for update", [held])
        assert clean(other) == 1
        other.commit()
        one.commit()
        assert clean(one) == 1


# ── metrics ──────────────────────────────────────────────────────────────────────────────

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def samples(owner):
    """Two thousand samples of one metric over three days, and others beside them."""
    random = Random(11)
    start = call(owner, "select date_trunc('month', now() at time zone 'UTC') at time zone 'UTC'")
    made = [
        {
            "value": round(random.lognormvariate(5, 1), 4),
            "recorded_at": start + timedelta(seconds=random.randrange(3 * 86400)),
            "sample_count": random.choice([1, 1, 1, 10]),
            "labels": random.choice(["a", "b"]),
        }
        for _ in range(2000)
    ]
    with owner.cursor() as cursor:
        cursor.executemany(
            """
            insert into performance_metrics (metric_name, value, recorded_at, sample_count, labels)
            values ('job_run_ms', %(value)s, %(recorded_at)s, %(sample_count)s,
                    jsonb_build_object('algorithm', %(labels)s::text, 'more', 1))""",
            made,
        )
    add(owner, "performance_metrics", metric_name="job_wait_ms", value=10**9, recorded_at=start)
    return start, made


def aggregated(connection, window, since=None, until=None, labels="{}"):
    query = "select * from aggregate_performance_metrics('job_run_ms', %s, %s, %s, %s)"
    return db.rows(connection, query, [window, since, until, labels])


def see_aggregated(found, samples, window):
    grouped = {}
    for sample in samples:
        start = EPOCH + (sample["recorded_at"] - EPOCH) // window * window
        grouped.setdefault(start, []).append(sample)
    assert [row["window_start"] for row in found] == sorted(grouped)
    for row in found:
        group = grouped[row["window_start"]]
        values = [sample["value"] for sample in group]
        counts = [sample["sample_count"] for sample in group]
        assert row["window_end"] == row["window_start"] + window
        assert row["sample_count"] == sum(counts)
        assert row["mean"] == pytest.approx(numpy.average(values, weights=counts))
        assert float(row["minimum"]) == min(values)
        assert float(row["maximum"]) == max(values)
        for name, rank in (("p50", 50), ("p95", 95), ("p99", 99)):
            assert row[name] == pytest.approx(numpy.percentile(values, rank))


@pytest.mark.parametrize("minutes", [7, 60, 24 * 60, 7 * 24 * 60])
def test_metrics_in_windows(owner, samples, minutes):
    window = timedelta(minutes=minutes)
    owner.execute("set timezone to 'Asia/Kolkata'")  # windows are counted in UTC all the same
    see_aggregated(aggregated(owner, window), samples[1], window)


def test_metrics_of_a_span_and_of_labels(owner, samples):
    start, made = samples
    since, until = start + timedelta(hours=5), start + timedelta(hours=40, seconds=1)
    add(owner, "performance_metrics", recorded_at=since, value=1)
    add(owner, "performance_metrics", recorded_at=until, value=1)
    window = timedelta(hours=1)
    inside = [s for s in made if since <= s["recorded_at"] < until]
    at_since = {"value": 1.0, "recorded_at": since, "sample_count": 1}
    see_aggregated(aggregated(owner, window, since, until), [*inside, at_since], window)
    found = aggregated(owner, window, labels='{"algorithm": "a"}')
    see_aggregated(found, [s for s in made if s["labels"] == "a"], window)
    assert aggregated(owner, window, labels='{"algorithm": "c"}') == []


@pytest.mark.parametrize("window", [None, "0", "-1 hour", "101 years"])
def test_a_window_that_is_none(app, window):
    with pytest.raises(psycopg.Error, match="the window must be longer than nothing") as caught:
        aggregated(app, window)
    assert caught.value.sqlstate == "NS004"
    assert caught.value.diag.message_hint


def test_a_number_that_no_column_holds(app):
    for value in (math.inf, 10**11):
        with pytest.raises(psycopg.errors.NumericValueOutOfRange), app.transaction():
            add(app, "performance_metrics", value=value)


# ── counters ─────────────────────────────────────────────────────────────────────────────


def refresh(connection):
    return call(connection, "select refresh_user_counters()")


def test_counters_are_brought_up_to_date(app, owner):
    users = [add(owner, "users")["id"] for _ in range(4)]
    for number, user in enumerate(users):
        for _ in range(number):
            add(owner, "security_audit", user_id=user)
            add(owner, "api_keys", user_id=user, total_requests=10 * number)
    assert refresh(owner) == 3
    found = db.rows(
        owner,
        "select audit_event_count as events, api_request_count as requests from users order by id",
    )
    assert [(row["events"], row["requests"]) for row in found] == [
        (0, 0),
        (1, 10),
        (2, 40),
        (3, 90),
    ]
    assert refresh(owner) == 0
    assert refresh(app) == 0  # the other transaction is at it: one counts for all
