"""Monthly partitions: there before anybody needs one, whatever the clock, zone or crowd."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from negspace import database
from negspace.database import sql
from schema_rows import add
from schema_waiting import DEADLINE, Other

PARENTS = {
    "security_audit": "timestamp",
    "audit_log_details": "created_at",
    "performance_metrics": "recorded_at",
    "processing_queue_ended": "created_at",
}
ZONES = ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kolkata", "America/St_Johns")

PARTITIONS = """
    select i.inhparent::regclass::text as parent, c.oid::regclass::text as name,
           pg_get_expr(c.relpartbound, c.oid) as bounds, obj_description(c.oid) as comment
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent::regclass::text = any (%s)"""


def partitions(connection):
    connection.execute("set timezone to 'UTC'")
    found = database.rows(connection, PARTITIONS, [list(PARENTS)])
    return {row["name"]: row for row in found}


def ensure(connection, *arguments):
    query = "select ensure_partitions(" + ", ".join(["%s"] * len(arguments)) + ") as made"
    return database.only(connection, sql.SQL(query), arguments)["made"]


def month(at: datetime, later: int = 0) -> datetime:
    at = at.astimezone(UTC)
    years, index = divmod(at.year * 12 + at.month - 1 + later, 12)
    return datetime(years, index + 1, 1, tzinfo=UTC)


def now(connection) -> datetime:
    return database.only(connection, "select now()")["now"]


@pytest.fixture
def two(database) -> Iterator[tuple[object, Other]]:
    """The owner's connection, and another beside it."""
    import negspace.database

    with negspace.database.connect(database.owner) as one, Other(database.owner) as other:
        yield one, other
        one.rollback()


def test_migrations_make_this_month_and_three_more(owner):
    today = now(owner)
    found = partitions(owner)
    expected = {f"{parent}_{month(today, n):%Y%m}" for parent in PARENTS for n in range(4)}
    assert set(found) == expected
    assert {row["comment"] for row in found.values()} == {"Made ahead by ensure_partitions()."}


def test_again_makes_nothing_and_further_makes_the_rest(owner):
    today = now(owner)
    assert ensure(owner) == 0
    assert ensure(owner, 5) == 2 * len(PARENTS)
    assert ensure(owner, 0, month(today, -2)) == 2 * len(PARENTS)
    assert ensure(owner, 5, month(today, -2)) == 0
    assert ensure(owner, 3, "infinity") == 0


def test_the_services_may_make_them(app):
    assert ensure(app, 4) == len(PARENTS)


@pytest.mark.parametrize("months", [-1, 13, 2**31 - 1, None])
def test_months_out_of_bounds_are_refused(app, months):
    with pytest.raises(psycopg.Error, match="months_ahead must be from 0 to 12") as caught:
        ensure(app, months)
    assert caught.value.sqlstate == "NS004"
    assert caught.value.diag.message_hint


@pytest.mark.parametrize("oldest", ["-infinity", "1970-01-01", "0001-01-01 BC"])
def test_far_dates_are_refused(app, oldest):
    with pytest.raises(psycopg.Error, match="within the last 2 years") as caught:
        ensure(app, 3, oldest)
    assert caught.value.sqlstate == "NS004"
    assert caught.value.diag.message_hint


def test_the_widest_span_fits_the_lock_table(app):
    oldest = month(now(app), -23)
    assert ensure(app, 12, oldest) == (23 + 12 - 3) * len(PARENTS)


@pytest.mark.parametrize("zone", ZONES[1:3])
def test_months_are_those_of_utc(owner, zone):
    owner.execute(sql.SQL("set timezone to {}").format(sql.Literal(zone)))
    owner.execute("set datestyle to 'German, DMY'")
    ensure(owner, 12)
    owner.execute("set datestyle to 'ISO'")
    for name, row in partitions(owner).items():
        first = datetime.strptime(name[-6:], "%Y%m").replace(tzinfo=UTC)
        begin, end = f"{first:%Y-%m-%d} 00:00:00+00", f"{month(first, 1):%Y-%m-%d} 00:00:00+00"
        assert row["bounds"] == f"FOR VALUES FROM ('{begin}') TO ('{end}')"


@pytest.mark.parametrize("zone", ZONES)
def test_no_insert_fails_around_the_end_of_a_month(owner, zone):
    today = now(owner)
    ensure(owner, 4, month(today, -1))
    owner.execute(sql.SQL("set timezone to {}").format(sql.Literal(zone)))
    for later in range(5):
        begins = month(today, later)
        for at in (begins - timedelta(microseconds=1), begins):
            for parent, column in PARENTS.items():
                table, more = parent, {}
                if parent == "processing_queue_ended":
                    table, more = "processing_queue", {"status": "completed"}
                row = add(owner, table, **{column: at, **more})
                query = sql.SQL("select tableoid::regclass::text as name from {} where id = %s")
                query = query.format(sql.Identifier(table))
                found = database.only(owner, query, [row["id"]])["name"]
                assert found == f"{parent}_{at:%Y%m}"


def test_many_at_once_make_each_once(database):
    import negspace.database

    barrier = threading.Barrier(6)

    def make(_):
        with negspace.database.connect(database.app) as connection:
            barrier.wait(DEADLINE)
            return ensure(connection, 12)

    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(make, range(6)))
    assert sum(made) == (12 - 3) * len(PARENTS)
    with negspace.database.connect(database.owner) as connection:
        assert len(partitions(connection)) == 13 * len(PARENTS)


def test_months_ahead_never_hold_a_writer_up(two):
    writer, other = two
    add(writer, "images")
    # The writer's transaction goes on: what isn't needed today is left to the next call.
    assert other.start(lambda connection: ensure(connection, 6)).result(DEADLINE) == 0
    setting = "select current_setting('lock_timeout') as value"
    assert database.only(other.connection, setting)["value"] == "0"
    other.connection.rollback()
    writer.commit()
    made = other.start(lambda connection: ensure(connection, 6)).result(DEADLINE)
    assert made == 3 * len(PARENTS)


def test_this_month_waits_for_a_writer_and_holds_nothing_that_it_needs(two):
    writer, other = two
    missing = sql.Identifier(f"performance_metrics_{month(now(writer)):%Y%m}")
    writer.execute(sql.SQL("drop table {}").format(missing))
    writer.commit()
    add(writer, "images")
    made = other.start(ensure)
    assert other.is_waiting(writer, made)
    event = database.only(writer, "select record_event('export_data', 'image') as id")["id"]
    writer.execute("select record_event_details(%s, 'exported')", [event])
    writer.commit()
    assert made.result(DEADLINE) == 1
    add(writer, "performance_metrics")


# ── the audit trail's guards reach every partition ───────────────────────────────────────


AUDIT = ("security_audit", "audit_log_details")


def audit_relations(connection):
    return [*AUDIT, *(n for n, row in partitions(connection).items() if row["parent"] in AUDIT)]


@pytest.mark.parametrize("replica", [False, True])
def test_the_audit_trail_cant_be_changed(schema, replica):
    with database.connect(schema.superuser) as connection:
        if replica:  # what switches ordinary triggers off
            connection.execute("set session_replication_role = replica")
        for later in range(4):
            at = month(now(connection), later)
            event = add(connection, "security_audit", timestamp=at)["id"]
            add(connection, "audit_log_details", audit_id=event, audit_timestamp=at, created_at=at)
        relations = audit_relations(connection)
        assert len(relations) == 2 + 2 * 4
        for relation in relations:
            for change in ("delete from {}", "update {} set id = default", "truncate {} cascade"):
                with pytest.raises(psycopg.Error) as caught, connection.transaction():
                    connection.execute(sql.SQL(change).format(sql.Identifier(relation)))
                assert caught.value.sqlstate == "NS002", (relation, change)
                assert caught.value.diag.message_hint
        connection.rollback()


def test_the_services_have_no_right_to_change_the_audit_trail(app, owner):
    for relation in audit_relations(owner):
        for change in ("delete from {}", "update {} set id = default", "truncate {}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), app.transaction():
                app.execute(sql.SQL(change).format(sql.Identifier(relation)))


def test_partitions_are_reached_through_their_parent_alone(app, owner):
    for name in partitions(owner):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), app.transaction():
            app.execute(sql.SQL("select from {}").format(sql.Identifier(name)))
