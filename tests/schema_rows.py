"""Rows for tests of the schema: what each table takes with no more said than must be."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from typing import Any

from negspace.database import Connection, Jsonb, Row, sql

BCRYPT = "$2b$12$" + "a" * 53
_numbers = itertools.count(1)


def digest(number: int | None = None) -> str:
    """A SHA-256 as the schema writes it; another one each time where no number is given."""
    return f"{next(_numbers) if number is None else number:064x}"


def add(connection: Connection, table: str, **given: Any) -> Row:
    """Insert one row and return it; what isn't given is filled in, parents too."""
    return insert(connection, table, complete(connection, table, **given))


def complete(connection: Connection, table: str, **given: Any) -> Row:
    """The columns of a row that the table takes, the given ones among them."""
    return _COMPLETE[table](connection, given) | given


def insert(connection: Connection, table: str, row: Row) -> Row:
    """Insert exactly these columns and return the row; an id may be among them."""
    query = sql.SQL("insert into {} ({}) overriding system value values ({}) returning *").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(sql.Placeholder() * len(row)),
    )
    values = [Jsonb(v) if isinstance(v, dict | list) else v for v in row.values()]
    made = connection.execute(query, values).fetchone()
    assert made is not None
    return made


def _user(connection: Connection, given: Row) -> Row:
    return {"email": f"user{next(_numbers)}@example.org", "password_hash": BCRYPT}


def _owned(connection: Connection, given: Row) -> Row:
    return {} if "user_id" in given else {"user_id": add(connection, "users")["id"]}


def _of_image(connection: Connection, given: Row) -> Row:
    row = _owned(connection, given)
    if "image_id" not in given:
        owner = given.get("user_id") or row["user_id"]
        row["image_id"] = add(connection, "images", user_id=owner)["id"]
    return row


def _image(connection: Connection, given: Row) -> Row:
    content = given.get("file_hash") or digest()
    return _owned(connection, given) | {
        "file_name": f"{content}.png",
        "original_filename": "void.png",
        "file_path": f"{content[:2]}/{content}.png",
        "file_size": 1234,
        "mime_type": "image/png",
        "file_hash": content,
    }


def _result(connection: Connection, given: Row) -> Row:
    return _of_image(connection, given) | {
        "algorithm_version": "1.0.0",
        "negative_space_data": {"schema": "voids-1"},
        "confidence_score": 0.5,
        "processing_time_ms": 120,
    }


def _job(connection: Connection, given: Row) -> Row:
    row = _of_image(connection, given)
    status = given.get("status", "queued")
    if status not in ("queued", "retrying"):
        row |= {"worker_id": "worker-1", "started_at": "2026-01-01 00:00:00+00"}
    if status in ("completed", "failed", "cancelled"):
        row |= {"completed_at": "2026-01-01 00:00:01+00"}
    return row


def _key(connection: Connection, given: Row) -> Row:
    owner = (
        {} if "user_id" in given else {"user_id": add(connection, "users", role="analyst")["id"]}
    )
    return owner | {"key_hash": digest(), "name": "a key"}


def _key_limit(connection: Connection, given: Row) -> Row:
    if "api_key_id" in given:
        key = {"id": given["api_key_id"], "user_id": -1, "key_hash": digest()}
    else:
        key = add(connection, "api_keys")
    return {
        "api_key_id": key["id"],
        "user_id": key["user_id"],
        "key_hash": key["key_hash"],
        "is_active": True,
        "scopes": "{read:images}",
        "owner_is_active": True,
        "owner_scopes": "{read:images}",
        "step": "600 milliseconds",
        "slack": "59.4 seconds",
    }


def _try(connection: Connection, given: Row) -> Row:
    return {"account_hash": digest(), "network": "192.0.2.7"}


def _session(connection: Connection, given: Row) -> Row:
    return _owned(connection, given) | {"token_hash": digest(), "expires_at": "2100-01-01 00:00+00"}


def _token(connection: Connection, given: Row) -> Row:
    return _session(connection, given) | {"purpose": "verify_email", "email": "a@b.org"}


def _event(connection: Connection, given: Row) -> Row:
    return {"action": "config_change", "resource_type": "setting"}


def _details(connection: Connection, given: Row) -> Row:
    row: Row = {"event_name": "job_completed"}
    if "audit_id" not in given:
        row |= {"audit_id": add(connection, "security_audit")["id"], "audit_timestamp": "now"}
    return row


def _entry(connection: Connection, given: Row) -> Row:
    return {"cache_key": digest(), "algorithm_fingerprint": digest(), "cached_result": {}}


def _metric(connection: Connection, given: Row) -> Row:
    return {"metric_name": "job_run_ms", "value": 12.5}


def _series(connection: Connection, given: Row) -> Row:
    name = f"metric_{next(_numbers)}"
    return {"metric_name": name, "metric_type": "gauge", "unit": "", "labels": {}}


def _rollup(connection: Connection, given: Row) -> Row:
    series = {} if "series_id" in given else {"series_id": add(connection, "metric_series")["id"]}
    return series | {
        "started_at": "2026-01-01 00:00:00+00",
        "sample_count": 1,
        "total": 2,
        "minimum": 2,
        "maximum": 2,
        "buckets": "{535}",
        "counts": "{1}",
    }


def _change(connection: Connection, given: Row) -> Row:
    return {"hour": "2026-01-01 00:00:00+00"}


def _progress(connection: Connection, given: Row) -> Row:
    return {"table_name": "security_audit"}


def _worker(connection: Connection, given: Row) -> Row:
    return {"id": f"worker-{next(_numbers)}", "hostname": "here", "process_id": 1}


def _seal(connection: Connection, given: Row) -> Row:
    number = next(_numbers)
    return {
        "number": number,
        "relation": "security_audit",
        "month": "2026-01-01 00:00:00+00",
        "lineage": 0,
        "last_xid": "7",
        "last_id": 7,
        "highest_id": 7,
        "leaf_count": 1,
        "merkle_root": bytes(32),
        "previous_hash": bytes(32),
        "seal_hash": bytes(32),
        "sealed_at": "2026-01-01 00:00:00+00",
    }


def _hold(connection: Connection, given: Row) -> Row:
    return {"reason": "a matter"}


def _retirement(connection: Connection, given: Row) -> Row:
    return {
        "month": f"{next(_numbers) % 8000 + 1000}-01-01 00:00:00+00",
        "event_count": 1,
        "detail_count": 1,
        "last_seal": 1,
        "anchored_seal": 1,
        "export_sha256": "a" * 64,
    }


def _log(connection: Connection, given: Row) -> Row:
    return {"job_id": next(_numbers), "attempt": 1, "worker_id": "w", "lines": []}


def _failures(connection: Connection, given: Row) -> Row:
    return {
        "failed_at": "2026-01-01 00:00:00+00",
        "algorithm_name": "a",
        "error_class": "E",
        "tries": 2,
        "jobs": 1,
    }


def _limit(connection: Connection, given: Row) -> Row:
    return {"max_running": 2} | _owned(connection, given)


def _count(connection: Connection, given: Row) -> Row:
    return {"status": "queued", "priority": 5, "algorithm_name": "rehearsal", "jobs": 1}


def _speed(connection: Connection, given: Row) -> Row:
    return {"algorithm_name": "rehearsal", "algorithm_version": "1.0.0", "ms_per_job": 12.5}


def _audit_sums(connection: Connection, given: Row) -> Row:
    return {
        "user_id": next(_numbers),
        "month": "2026-01-01 00:00:00+00",
        "event_count": 3,
        "success_count": 1,
        "failure_count": 1,
        "partial_count": 1,
        "duration_count": 0,
        "duration_total": 0,
    }


def _audit_progress(connection: Connection, given: Row) -> Row:
    return {"relation": "security_audit"}


def _job_day(connection: Connection, given: Row) -> Row:
    return {
        "day": f"{next(_numbers) % 8000 + 1000}-01-01 00:00:00+00",
        "month": "2026-01-01 00:00:00+00",
        "status": "completed",
        "job_count": 3,
        "oldest_at": "2026-01-01 00:00:00+00",
        "newest_at": "2026-01-02 00:00:00+00",
        "waited_count": 3,
        "wait_total": 6.5,
        "buckets": "{500,501}",
        "counts": "{1,2}",
    }


def _job_waits(connection: Connection, given: Row) -> Row:
    month = f"{next(_numbers) % 8000 + 1000}-01-01 00:00:00+00"
    return {"month": month, "status": "completed", "bucket": 500, "wait_count": 1}


def _job_spans(connection: Connection, given: Row) -> Row:
    month = f"{next(_numbers) % 8000 + 1000}-01-01 00:00:00+00"
    return {"month": month, "status": "completed", "span": 50, "wait_count": 1}


def _job_change(connection: Connection, given: Row) -> Row:
    return {"day": "2026-01-01 00:00:00+00"}


def _value(connection: Connection, given: Row) -> Row:
    return {
        "key": f"key{next(_numbers)}",
        "value": [1],
        "computed_at": "2026-01-01 00:00:00+00",
        "expires_at": "2026-01-02 00:00:00+00",
        "kept_until": "2026-01-03 00:00:00+00",
        "last_used_at": "2026-01-01 00:00:00+00",
    }


def _value_lease(connection: Connection, given: Row) -> Row:
    return {
        "key": f"key{next(_numbers)}",
        "token": str(uuid.uuid4()),
        "leased_until": "2026-01-01 00:00:30+00",
        "held_by": "host:1",
        "taken_at": "2026-01-01 00:00:00+00",
    }


def _value_uses(connection: Connection, given: Row) -> Row:
    return {"day": f"{1000 + next(_numbers)}-01-01 00:00:00+00"}


def _step(connection: Connection, given: Row) -> Row:
    return {"step": f"step{next(_numbers)}"}


def _of_any_image(connection: Connection, given: Row) -> Row:
    return {} if "image_id" in given else {"image_id": add(connection, "images")["id"]}


def _fingerprint(connection: Connection, given: Row) -> Row:
    row = _of_image(connection, given)
    return row | {"perceptual_hash": 1, "algorithm": "dct-phash-64/1"}


def _pair(connection: Connection, given: Row) -> Row:
    row = _owned(connection, given)
    owner = given.get("user_id") or row["user_id"]
    for name in ("first_id", "second_id"):
        if name not in given:
            row[name] = add(connection, "images", user_id=owner)["id"]
    return row | {"bits": 3}


_COMPLETE: dict[str, Callable[[Connection, Row], Row]] = {
    "users": _user,
    "images": _image,
    "analysis_results": _result,
    "processing_queue": _job,
    "api_keys": _key,
    "api_key_limits": _key_limit,
    "security_audit": _event,
    "audit_log_details": _details,
    "analysis_cache": _entry,
    "performance_metrics": _metric,
    "metric_series": _series,
    "metric_minutes": _rollup,
    "metric_hours": _rollup,
    "metric_days": _rollup,
    "metric_changes": _change,
    "rollup_progress": _progress,
    "audit_user_months": _audit_sums,
    "audit_summary_progress": _audit_progress,
    "ended_job_days": _job_day,
    "ended_job_waits": _job_waits,
    "ended_job_spans": _job_spans,
    "ended_job_changes": _job_change,
    "workers": _worker,
    "login_attempts": _try,
    "sessions": _session,
    "account_tokens": _token,
    "context_secret": lambda _connection, _given: {"inner_pad": b"a" * 64, "outer_pad": b"b" * 64},
    "audit_seals": _seal,
    "audit_holds": _hold,
    "audit_retirements": _retirement,
    "job_logs": _log,
    "job_failures": _failures,
    "queue_limits": _limit,
    "algorithm_speeds": _speed,
    "queue_counts": _count,
    "cached_values": _value,
    "cached_value_leases": _value_lease,
    "cached_value_uses": _value_uses,
    "analysis_cache_uses": lambda _connection, _given: {"entry_id": 1, "used_at": "2026-01-01"},
    "analysis_cache_misses": lambda _connection, _given: {"misses": 1, "missed_at": "2026-01-01"},
    "analysis_cache_days": _value_uses,
    "upkeep_steps": _step,
    "image_fingerprints": _fingerprint,
    "unscanned_images": _of_any_image,
    "shared_pixels": _of_any_image,
    "duplicate_pairs": _pair,
}

TABLES = tuple(_COMPLETE)
