"""Every view's numbers against a plain computation over the tables' rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy
import psycopg
import pytest

from negspace import database
from negspace.database import sql
from schema_data import fill
from schema_rows import TABLES, add
from schema_specification import ENUMS, VIEWS


class Filled:
    """A database with generated data, each table read once, and its views."""

    def __init__(self, connection: database.Connection) -> None:
        self.connection = connection
        for table in TABLES:
            setattr(self, table, self.select(table))

    def select(self, relation):
        query = sql.SQL("select * from {}").format(sql.Identifier(relation))
        return database.rows(self.connection, query)


@pytest.fixture(scope="module")
def filled(postgres, template) -> Iterator[Filled]:
    made = postgres.create(template)
    with database.connect(made.owner) as connection:
        fill(connection, seed=7)
        connection.commit()
        yield Filled(connection)
    postgres.drop(made.name)


def of(rows, column, value):
    return [row for row in rows if row[column] == value]


def newest(rows, *columns):
    return max(rows, key=lambda row: [row[column] for column in columns], default=None)


def latest(rows, column):
    return max((row[column] for row in rows), default=None)


def test_the_data_has_every_state(filled):
    for rows, column, enum in [
        (filled.images, "analysis_status", "analysis_status"),
        (filled.processing_queue, "status", "queue_status"),
        (filled.security_audit, "status", "audit_status"),
        (filled.security_audit, "action", "audit_action"),
    ]:
        assert {row[column] for row in rows} == set(ENUMS[enum])
    assert len(filled.security_audit) > 1000
    assert any(image["is_duplicate"] for image in filled.images)


def test_user_activity_summary(filled):
    expected = [
        {
            "user_id": user["id"],
            "email": user["email"],
            "full_name": user["full_name"],
            "role": user["role"],
            "is_active": user["is_active"],
            "image_count": len(of(filled.images, "user_id", user["id"])),
            "analysis_count": len(of(filled.analysis_results, "user_id", user["id"])),
            "last_upload_at": latest(of(filled.images, "user_id", user["id"]), "uploaded_at"),
            "last_analysis_at": latest(
                of(filled.analysis_results, "user_id", user["id"]), "created_at"
            ),
            "last_login_at": user["last_login_at"],
        }
        for user in filled.users
    ]
    found = sorted(filled.select("user_activity_summary"), key=lambda row: row["user_id"])
    assert found == expected
    assert expected[0]["image_count"] == expected[0]["analysis_count"] == 0


def test_user_activity_summary_of_thousands(owner):
    user = add(owner, "users")["id"]
    owner.execute(
        """
        insert into images (user_id, file_name, original_filename, file_path, file_size,
                            mime_type, file_hash, uploaded_at)
        select %s, n || '.png', 'void.png', n || '.png', n, 'image/png', sha256_hex(n::text),
               timestamptz '2026-01-01 00:00:00+00' + n * interval '1 second'
        from generate_series(1, 3000) n""",
        [user],
    )
    owner.execute(
        """
        insert into analysis_results (image_id, user_id, algorithm_version, negative_space_data,
                                      confidence_score, processing_time_ms, created_at)
        select i.id, i.user_id, '1.0.' || v, '{}', 0.5, 1, i.uploaded_at + v * interval '1 day'
        from images i, generate_series(0, 1) v where i.user_id = %s""",
        [user],
    )
    row = database.only(owner, "select * from user_activity_summary where user_id = %s", [user])
    assert (row["image_count"], row["analysis_count"]) == (3000, 6000)
    assert row["last_upload_at"] == datetime(2026, 1, 1, 0, 50, tzinfo=UTC)
    assert row["last_analysis_at"] == datetime(2026, 1, 2, 0, 50, tzinfo=UTC)


def seconds_waited(job, now):
    """From when the newest try could have begun until it did, or until now."""
    ready = max(job["created_at"], job["scheduled_at"])
    if job["status"] in ("queued", "retrying"):
        return max((now - ready).total_seconds(), 0)
    return max((job["started_at"] - ready).total_seconds(), 0) if job["started_at"] else None


def test_queue_status_summary(filled):
    now = database.only(filled.connection, "select now()")["now"]
    found = {row["status"]: row for row in filled.select("queue_status_summary")}
    assert set(found) == set(ENUMS["queue_status"])
    for status, row in found.items():
        jobs = of(filled.processing_queue, "status", status)
        waited = [w for job in jobs if (w := seconds_waited(job, now)) is not None]
        assert row["job_count"] == len(jobs)
        assert row["oldest_created_at"] == min(job["created_at"] for job in jobs)
        assert row["newest_created_at"] == max(job["created_at"] for job in jobs)
        assert float(row["mean_wait_seconds"]) == pytest.approx(numpy.mean(waited))
        # of ended jobs estimated, as docs/schema.md says
        near = 1e-6 if status in ("queued", "processing", "retrying") else 0.0101
        for column, percent in (("p50_wait_seconds", 50), ("p95_wait_seconds", 95)):
            assert row[column] == pytest.approx(numpy.percentile(waited, percent), rel=near)
        assert row["max_wait_seconds"] == pytest.approx(max(waited))


def test_queue_status_summary_of_an_empty_queue(owner):
    found = database.rows(owner, "select * from queue_status_summary")
    assert {row["status"] for row in found} == set(ENUMS["queue_status"])
    for row in found:
        assert row.pop("status")
        assert row.pop("job_count") == 0
        assert set(row.values()) == {None}


def test_image_analysis_status(filled):
    found = {row["image_id"]: row for row in filled.select("image_analysis_status")}
    assert set(found) == {image["id"] for image in filled.images}
    for image in filled.images:
        job = newest(of(filled.processing_queue, "image_id", image["id"]), "created_at", "id") or {}
        result = newest(of(filled.analysis_results, "image_id", image["id"]), "created_at", "id")
        result = result or {}
        assert found[image["id"]] == {
            "image_id": image["id"],
            "user_id": image["user_id"],
            "original_filename": image["original_filename"],
            "analysis_status": image["analysis_status"],
            "uploaded_at": image["uploaded_at"],
            "processed_at": image["processed_at"],
            "job_id": job.get("id"),
            "job_status": job.get("status"),
            "priority": job.get("priority"),
            "retry_count": job.get("retry_count"),
            "worker_id": job.get("worker_id"),
            "job_started_at": job.get("started_at"),
            "job_completed_at": job.get("completed_at"),
            "error_message": job.get("error_message"),
            "result_id": result.get("id"),
            "algorithm_name": result.get("algorithm_name"),
            "algorithm_version": result.get("algorithm_version"),
            "confidence_score": result.get("confidence_score"),
            "processing_time_ms": result.get("processing_time_ms"),
            "analysed_at": result.get("created_at"),
        }


def test_recent_audit_events(filled):
    emails = {user["id"]: user["email"] for user in filled.users}
    events = sorted(filled.security_audit, key=lambda e: (e["timestamp"], e["id"]), reverse=True)
    found = filled.select("recent_audit_events")
    assert [row["id"] for row in found] == [event["id"] for event in events[:1000]]
    for row, event in zip(found, events[:1000], strict=True):
        assert row.pop("email") == emails.get(event["user_id"])
        assert row == {column: event[column] for column in row}


def test_analysis_performance_summary(filled):
    def category(result):
        if result["cache_hit"]:
            return "cached"
        limits = [("fast", 1000), ("normal", 5000)]
        return next((n for n, least in limits if result["processing_time_ms"] < least), "slow")

    names = {image["id"]: image["original_filename"] for image in filled.images}
    found = {row["result_id"]: row for row in filled.select("analysis_performance_summary")}
    assert set(found) == {result["id"] for result in filled.analysis_results}
    for result in filled.analysis_results:
        row = found[result["id"]]
        assert row.pop("result_id") == result["id"]
        assert row.pop("performance_category") == category(result)
        assert row.pop("original_filename") == names[result["image_id"]]
        assert row == {column: result[column] for column in row}
    assert {category(r) for r in filled.analysis_results} == {"cached", "fast", "normal", "slow"}


def test_audit_summary_by_user(filled):
    found = {row["user_id"]: row for row in filled.select("audit_summary_by_user")}
    assert set(found) == {user["id"] for user in filled.users}
    for user in filled.users:
        row = found[user["id"]]
        events = of(filled.security_audit, "user_id", user["id"])
        ids = {event["id"] for event in events}
        durations = [
            float(detail["duration_ms"])
            for detail in filled.audit_log_details
            if detail["audit_id"] in ids and detail["duration_ms"] is not None
        ]
        assert row["event_count"] == len(events)
        assert row["success_count"] == len(of(events, "status", "success"))
        assert row["failure_count"] == len(of(events, "status", "failure"))
        assert row["partial_count"] == len(of(events, "status", "partial"))
        assert row["last_event_at"] == latest(events, "timestamp")
        mean = numpy.mean(durations) if durations else None
        assert (row["mean_duration_ms"] and float(row["mean_duration_ms"])) == (
            mean and pytest.approx(mean)
        )


def test_duplicate_images_report(filled):
    found = {row["original_id"]: row for row in filled.select("duplicate_images_report")}
    copies = [image for image in filled.images if image["is_duplicate"]]
    assert set(found) == {image["duplicate_of"] for image in copies}
    for original in (image for image in filled.images if image["id"] in found):
        row = found[original["id"]]
        mine = sorted(of(copies, "duplicate_of", original["id"]), key=lambda image: image["id"])
        assert row["user_id"] == original["user_id"]
        assert row["file_hash"] == original["file_hash"]
        assert row["duplicate_count"] == len(mine)
        assert row["duplicate_ids"] == [image["id"] for image in mine]
        assert row["duplicate_filenames"] == [image["original_filename"] for image in mine]
        assert row["duplicate_bytes"] == sum(image["file_size"] for image in mine)
        assert row["last_duplicate_at"] == latest(mine, "uploaded_at")


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_the_services_read_it(app, view):
    app.execute(sql.SQL("select * from {}").format(sql.Identifier(view)))


def test_an_original_with_duplicates_keeps_its_owner(owner):
    original = add(owner, "images")
    user = original["user_id"]
    copy = add(owner, "images", user_id=user, is_duplicate=True, duplicate_of=original["id"])
    alone, other = add(owner, "images", user_id=user), add(owner, "users")["id"]
    change = "update images set user_id = %s where id = %s"
    with (
        pytest.raises(psycopg.Error, match="can't get another owner") as caught,
        owner.transaction(),
    ):
        owner.execute(change, [other, original["id"]])
    assert caught.value.sqlstate == "NS004"
    assert caught.value.diag.message_hint
    owner.execute(change, [other, alone["id"]])
    owner.execute("delete from images where id = %s", [copy["id"]])
    owner.execute(change, [other, original["id"]])


def test_the_top_of_duplicate_images_report_looks_up_no_more_originals_than_it_shows(owner):
    user = add(owner, "users")["id"]
    owner.execute(
        """insert into images (user_id, file_name, original_filename, file_path, file_size,
                               mime_type, file_hash)
           select %s, 'a', 'a', 'a', 1, 'image/png', sha256_hex(n::text)
           from generate_series(1, 20000) n""",
        [user],
    )
    owner.execute(
        """insert into images (user_id, file_name, original_filename, file_path, file_size,
                               mime_type, file_hash, is_duplicate, duplicate_of)
           select user_id, 'b', 'b', 'b', 1, 'image/png', file_hash, true, id
           from images where user_id = %s and id %% 10 = 0""",
        [user],
    )
    owner.execute("analyze images")
    query = """explain (analyze, format json) select * from duplicate_images_report
        order by duplicate_count desc, original_id limit 20"""
    plan = str(database.rows(owner, query))
    assert plan.count("'Actual Loops': 20") >= 3  # what is said of the originals, of 20 alone
