"""For each constraint: rows that it alone refuses, and their nearest neighbours that it takes.

A value may be a function of the connection and of the row as it would be otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

from negspace.database import Connection, Row
from schema_rows import add


@dataclass(frozen=True)
class Case:
    """Rows of one table, each named by the columns in which it differs from a plain one."""

    table: str
    refused: list[dict[str, Any]]
    accepted: list[dict[str, Any]]
    before: LiteralString = "select"


def sibling(connection: Connection, row: Row) -> int:
    """Another image of the same owner."""
    return add(connection, "images", user_id=row["user_id"])["id"]


OLD = "2026-01-01 00:00:00+00"


def nobody(connection: Connection, row: Row) -> int:
    """No number of anything; the rest of the row is as it was."""
    return -1


def rollup(table: str) -> dict[str, Case]:
    """What holds for roll-ups of metrics, whatever their span."""
    return {
        f"{table}_counts_match_buckets": Case(
            table,
            [{"counts": "{1,2}"}, {"buckets": "{}", "counts": "{}"}],
            [{"buckets": "{-5,600}", "counts": "{1,2}"}],
        ),
        f"{table}_minimum_not_above": Case(
            table, [{"minimum": 2, "maximum": 1}], [{"minimum": 2, "maximum": 2}]
        ),
    } | number(table, "sample_count", 1)


def number(table: str, column: str, least: int) -> dict[str, Case]:
    """A column that takes no less than that number."""
    name = f"{table}_{column}_{'positive' if least == 1 else 'not_negative'}"
    return {name: Case(table, [{column: least - 1}, {column: -7}], [{column: least}])}


def json_object(table: str, column: str) -> dict[str, Case]:
    return {f"{table}_{column}_object": Case(table, [{column: []}], [{column: {"a": 1}}])}


def given(table: str, column: str) -> dict[str, Case]:
    return {f"{table}_{column}_given": Case(table, [{column: ""}], [{column: "x"}])}


def gone(table: str, column: str) -> dict[str, Case]:
    """A foreign key that names nobody."""
    return {f"{table}_{column}_fkey": Case(table, [{column: nobody}], [{}])}


def sha256(table: str, column: str, name: str | None = None) -> dict[str, Case]:
    wrong = ["a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n"]
    case = Case(table, [{column: w} for w in wrong], [{column: "a" * 64}])
    return {name or f"{table}_{column}_sha256": case}


def semver(table: str) -> dict[str, Case]:
    wrong = ["1", "1.0", "01.0.0", "1.0.0.0", "v1.0.0", "1.0.0-", "1.0.0+", "1.0.0-a..b", "1.0.0\n"]
    right = ["0.0.0", "1.2.3", "10.20.30-rc.1", "1.0.0-alpha+build.7", "2.0.0+a-b"]
    column = "algorithm_version"
    return {
        f"{table}_{column}_semver": Case(
            table, [{column: w} for w in wrong], [{column: r} for r in right]
        )
    }


def algorithm_name(table: str) -> dict[str, Case]:
    column = "algorithm_name"
    return {
        f"{table}_{column}_valid": Case(
            table,
            [{column: w} for w in ["", "A", "1x", "a b", "a" * 64]],
            [{column: r} for r in ["a", "negative_space", "lab.void-finder_2", "a" * 63]],
        )
    }


RUNNING = {"status": "processing", "worker_id": "w", "started_at": "2026-01-01 00:00:00+00"}
PIXELS = {"width": 10, "height": 20, "channels": 3}
NO_PIXELS = [
    {},
    [],
    [PIXELS],
    PIXELS | {"width": 0},
    PIXELS | {"width": 2**32},
    PIXELS | {"width": [10]},
    PIXELS | {"height": 1.5},
    PIXELS | {"height": None},
    PIXELS | {"channels": "3"},
    PIXELS | {"channels": 0},
]
NO_EMAILS = ["", "a", "@b.c", "a@b", "a@.b", "a@b.", "a@b..c", "a b@c.d", "a@b@c.d", "a@b.c\n"]
NO_EMAILS.append("a@" + "b" * 250 + ".cd")

CHECKS: dict[str, Case] = (
    {
        "users_email_valid": Case(
            "users",
            [{"email": w} for w in NO_EMAILS],
            [{"email": r} for r in ["a@b.c", "a.b+c@sub.example.org", "ü@exämple.org"]],
        ),
        "users_password_hash_bcrypt": Case(
            "users",
            [{"password_hash": w} for w in ["", "secret", "$2b$12$" + "a" * 52, "$1$" + "a" * 57]],
            [{"password_hash": f"$2{v}$12$" + "./aA9" + "a" * 48} for v in "aby"],
        ),
    }
    | json_object("users", "metadata")
    | json_object("users", "security_settings")
    | number("users", "audit_event_count", 0)
    | number("users", "api_request_count", 0)
    | number("users", "failed_login_attempts", 0)
    | given("images", "file_name")
    | given("images", "original_filename")
    | {
        "images_file_path_relative": Case(
            "images",
            [{"file_path": w} for w in ["", "/a", "..", "../a", "a/../b", "a/.."]],
            [{"file_path": r} for r in ["a", "a/b", "..a", "a../b", "a..b"]],
        ),
        "images_mime_type_valid": Case(
            "images",
            [
                {"mime_type": w}
                for w in ["", "image", "image/", "/png", "image/png; q=1", "Image/PNG"]
            ],
            [{"mime_type": r} for r in ["image/png", "image/svg+xml", "image/vnd.x_y-z"]],
        ),
        "images_image_dimensions_valid": Case(
            "images",
            [{"image_dimensions": w} for w in NO_PIXELS],
            [{"image_dimensions": r} for r in [PIXELS, None, PIXELS | {"width": 2**32 - 1}]],
        ),
        "images_processing_history_array": Case(
            "images", [{"processing_history": {}}], [{"processing_history": []}]
        ),
        "images_duplicate_names_its_original": Case(
            "images",
            [{"is_duplicate": True}, {"duplicate_of": sibling}],
            [{"is_duplicate": True, "duplicate_of": sibling}],
        ),
        "images_duplicate_of_another": Case(
            "images", [{"id": 1 << 40, "is_duplicate": True, "duplicate_of": 1 << 40}], [{}]
        ),
        "images_perceptual_hash_has_algorithm": Case(
            "images",
            [{"perceptual_hash": -1}, {"perceptual_hash_algorithm": "dct-64"}],
            [{"perceptual_hash": -1, "perceptual_hash_algorithm": "dct-64"}],
        ),
    }
    | number("images", "file_size", 1)
    | number("images", "analysis_retry_count", 0)
    | sha256("images", "file_hash")
    | sha256("images", "pixel_hash")
    | json_object("images", "metadata")
    | algorithm_name("analysis_results")
    | semver("analysis_results")
    | {
        "analysis_results_anomalies_array": Case(
            "analysis_results", [{"anomalies": {}}], [{"anomalies": [{"type": "size"}]}]
        ),
        "analysis_results_optimization_suggestions_array": Case(
            "analysis_results",
            [{"optimization_suggestions": {}}],
            [{"optimization_suggestions": ["use a smaller image"]}],
        ),
        "analysis_results_confidence_score_range": Case(
            "analysis_results",
            [{"confidence_score": w} for w in ["-0.000001", "1.000001", "NaN"]],
            [{"confidence_score": r} for r in [0, 1, "0.999999"]],
        ),
        "analysis_results_cache_hit_has_time": Case(
            "analysis_results",
            [{"cache_hit": True}],
            [{"cache_hit": True, "cached_at": "2026-01-01 00:00:00+00"}],
        ),
    }
    | number("analysis_results", "processing_time_ms", 0)
    | number("analysis_results", "cache_ttl_seconds", 1)
    | json_object("analysis_results", "algorithm_parameters")
    | json_object("analysis_results", "negative_space_data")
    | json_object("analysis_results", "quality_metrics")
    | json_object("analysis_results", "provenance")
    | json_object("analysis_results", "performance_stats")
    | algorithm_name("processing_queue")
    | semver("processing_queue")
    | {
        "processing_queue_priority_range": Case(
            "processing_queue",
            [{"priority": 0}, {"priority": 11}],
            [{"priority": 1}, {"priority": 10}],
        ),
        "processing_queue_estimated_priority_range": Case(
            "processing_queue",
            [{"estimated_priority": 0}, {"estimated_priority": 11}],
            [{"estimated_priority": 1}, {"estimated_priority": 10}],
        ),
        "processing_queue_retry_count_range": Case(
            "processing_queue",
            [{"retry_count": -1}, {"retry_count": 4}],
            [{"retry_count": 3}, {"retry_count": 0, "max_retries": 0}],
        ),
        "processing_queue_max_retries_range": Case(
            "processing_queue", [{"max_retries": 101}], [{"max_retries": 100}]
        ),
        "processing_queue_running_has_worker": Case(
            "processing_queue",
            [RUNNING | {"worker_id": None}, RUNNING | {"started_at": None}],
            [RUNNING],
        ),
        "processing_queue_ended_has_time": Case(
            "processing_queue",
            [{"status": s, "completed_at": None} for s in ("completed", "failed", "cancelled")],
            [{"status": "completed"}, {"status": "queued", "completed_at": None}],
        ),
        "processing_queue_complexity_score_not_negative": Case(
            "processing_queue",
            [{"complexity_score": -1}, {"complexity_score": "NaN"}],
            [{"complexity_score": 0}],
        ),
    }
    | number("processing_queue", "attempt", 0)
    | json_object("processing_queue", "algorithm_parameters")
    | json_object("processing_queue", "processing_metadata")
    | {
        "api_keys_expires_after_creation": Case(
            "api_keys",
            [{"expires_at": "2000-01-01 00:00:00+00"}],
            [{"expires_at": "2100-01-01 00:00:00+00"}],
        ),
        "api_keys_scopes_texts": Case(
            "api_keys",
            [{"scopes": w} for w in [{}, [1], ["a", None], [["a"]]]],
            [{"scopes": r} for r in [[], ["read:images"]]],
        ),
        "api_keys_ip_whitelist_texts": Case(
            "api_keys",
            [{"ip_whitelist": w} for w in [{}, [1], ["10.0.0.0/8", None]]],
            [{"ip_whitelist": r} for r in [None, [], ["10.0.0.0/8"]]],
        ),
    }
    | sha256("api_keys", "key_hash")
    | given("api_keys", "name")
    | number("api_keys", "rate_limit_per_minute", 1)
    | number("api_keys", "request_count_current_window", 0)
    | number("api_keys", "total_requests", 0)
    | json_object("api_keys", "usage_stats")
    | {
        "security_audit_resource_type_valid": Case(
            "security_audit",
            [{"resource_type": w} for w in ["", "Image", "a b", "a" * 64]],
            [{"resource_type": r} for r in ["image", "api_key"]],
        )
    }
    | json_object("security_audit", "changes_before")
    | json_object("security_audit", "changes_after")
    | {
        "audit_log_details_duration_ms_not_negative": Case(
            "audit_log_details",
            [{"duration_ms": -1}, {"duration_ms": "NaN"}],
            [{"duration_ms": 0}, {"duration_ms": None}],
        )
    }
    | given("audit_log_details", "event_name")
    | number("audit_log_details", "success_count", 0)
    | number("audit_log_details", "failure_count", 0)
    | json_object("audit_log_details", "event_data")
    | json_object("audit_log_details", "system_state")
    | given("audit_holds", "reason")
    | {
        "audit_holds_until_after_since": Case(
            "audit_holds",
            [{"since": "2026-01-02", "until": "2026-01-02"}],
            [{"since": "2026-01-02", "until": "2026-01-03"}, {"until": "2026-01-01"}],
        ),
        "audit_holds_released_after": Case(
            "audit_holds",
            [{"placed_at": "2026-01-02", "released_at": "2026-01-01"}],
            [{"placed_at": "2026-01-02", "released_at": "2026-01-02"}],
        ),
        "audit_retirements_anchored": Case(
            "audit_retirements", [{"last_seal": 2, "anchored_seal": 1}], [{"last_seal": 0}]
        ),
    }
    | number("audit_retirements", "event_count", 0)
    | number("audit_retirements", "detail_count", 0)
    | sha256("audit_retirements", "export_sha256")
    | number("audit_seals", "number", 1)
    | number("audit_seals", "lineage", 0)
    | number("audit_seals", "leaf_count", 1)
    | {
        "audit_seals_relation_known": Case(
            "audit_seals",
            [{"relation": w} for w in ["", "users"]],
            [{"relation": r} for r in ["security_audit", "audit_log_details"]],
        )
    }
    | {
        f"audit_seals_{column}_sha256": Case(
            "audit_seals",
            [{column: bytes(n)} for n in (0, 31, 33)],
            [{column: b"\xff" * 32}],
        )
        for column in ("merkle_root", "previous_hash", "seal_hash")
    }
    | {
        "analysis_cache_cache_key_given": Case(
            "analysis_cache",
            [{"cache_key": ""}, {"cache_key": "k" * 513}],
            [{"cache_key": "k" * 512}],
        ),
        "analysis_cache_expires_after_creation": Case(
            "analysis_cache",
            [{"expires_at": "2000-01-01 00:00:00+00"}],
            [{"expires_at": "2100-01-01 00:00:00+00"}],
        ),
    }
    | sha256("analysis_cache", "algorithm_fingerprint")
    | number("analysis_cache", "hit_count", 0)
    | {
        "performance_metrics_metric_name_valid": Case(
            "performance_metrics",
            [{"metric_name": w} for w in ["", "1a", "Job", "a b", "a" * 128]],
            [{"metric_name": r} for r in ["job_run_ms", "a.b:c", "a" * 127]],
        ),
        "performance_metrics_metric_type_known": Case(
            "performance_metrics",
            [{"metric_type": "summary"}],
            [{"metric_type": r} for r in ["histogram", "gauge", "counter"]],
        ),
        "performance_metrics_value_is_number": Case(
            "performance_metrics", [{"value": "NaN"}], [{"value": "-99999999999.9999"}]
        ),
        "performance_metrics_labels_object": Case(
            "performance_metrics",
            [{"labels": []}, {"labels": {"a": "x" * 8192}}],
            [{"labels": {"a": "x" * 8000}}],
        ),
        "performance_metrics_context_object": Case(
            "performance_metrics",
            [{"context": []}, {"context": {"a": "x" * 65536}}],
            [{"context": {"a": "x" * 65000}}],
        ),
        "performance_metrics_percentiles_ordered": Case(
            "performance_metrics",
            [
                {"percentile_p50": 2, "percentile_p95": 1, "percentile_p99": 3},
                {"percentile_p50": 1, "percentile_p95": 3, "percentile_p99": 2},
                {"percentile_p50": 2, "percentile_p99": 1},
            ],
            [{"percentile_p50": 1, "percentile_p95": 1, "percentile_p99": 2}],
        ),
        "performance_metrics_percentiles_are_numbers": Case(
            "performance_metrics",
            [{f"percentile_p{n}": "NaN"} for n in (50, 95, 99)],
            [{f"percentile_p{n}": 1} for n in (50, 95, 99)],
        ),
    }
    | number("performance_metrics", "sample_count", 1)
    | {
        name: case
        for table in ("metric_minutes", "metric_hours", "metric_days")
        for name, case in rollup(table).items()
    }
    | {
        "rollup_progress_table_name_known": Case(
            "rollup_progress",
            [{"table_name": "images"}],
            [{"table_name": "security_audit"}, {"table_name": "processing_queue"}],
        ),
        "rollup_progress_closing_whole": Case(
            "rollup_progress",
            [{"closing_xid": 7}, {"closing_at": "now"}],
            [{"closing_xid": 7, "closing_at": "now"}],
        ),
    }
    | {
        "audit_user_months_events_add_up": Case(
            "audit_user_months", [{"event_count": 4}], [{"event_count": 4, "partial_count": 2}]
        ),
        "audit_summary_progress_relation_known": Case(
            "audit_summary_progress",
            [{"relation": "images"}],
            [{"relation": "audit_log_details"}],
        ),
        "audit_summary_progress_lineage_below": Case(
            "audit_summary_progress",
            [{"lineage": -1}, {"lineage": 2, "highest_id": 1}],
            [{"lineage": 1, "highest_id": 1}],
        ),
        "ended_job_days_waited_count_range": Case(
            "ended_job_days",
            [{"waited_count": -1}, {"waited_count": 4}],
            [{"waited_count": 0}],
        ),
        "ended_job_days_oldest_not_after": Case(
            "ended_job_days",
            [{"oldest_at": "2026-01-03 00:00:00+00"}],
            [{"oldest_at": "2026-01-02 00:00:00+00"}],
        ),
        "ended_job_days_counts_match_buckets": Case(
            "ended_job_days", [{"counts": "{1}"}], [{"buckets": "{}", "counts": "{}"}]
        ),
    }
    | number("audit_user_months", "duration_count", 0)
    | {
        "ended_job_days_job_count_positive": Case(
            "ended_job_days",
            [{"job_count": 0, "waited_count": 0}],
            [{"job_count": 1, "waited_count": 0}],
        )
    }
    | number("ended_job_waits", "wait_count", 1)
    | number("ended_job_spans", "wait_count", 1)
    | given("workers", "id")
    | number("workers", "process_id", 1)
    | number("workers", "jobs_completed", 0)
    | number("workers", "jobs_failed", 0)
    | sha256("login_attempts", "account_hash")
    | given("login_attempts", "network")
    | number("login_attempts", "failures", 0)
    | sha256("sessions", "token_hash")
    | sha256("account_tokens", "token_hash")
    | given("account_tokens", "email")
    | {
        f"{table}_expires_after_creation": Case(
            table,
            [{"created_at": OLD, "expires_at": OLD}],
            [{"created_at": OLD, "expires_at": "2026-01-01 00:00:01+00"}],
        )
        for table in ("sessions", "account_tokens")
    }
    | {
        **{
            f"context_secret_{column}_block": Case(
                "context_secret", [{column: b"a" * 63}, {column: b""}], [{column: b"c" * 64}]
            )
            for column in ("inner_pad", "outer_pad")
        },
        "account_tokens_purpose_known": Case(
            "account_tokens", [{"purpose": "login"}], [{"purpose": "reset_password"}]
        ),
    }
    | number("job_logs", "attempt", 1)
    | number("job_logs", "left_out", 0)
    | {
        "job_logs_lines_array": Case("job_logs", [{"lines": {}}], [{"lines": []}]),
        "job_logs_lines_bounded": Case(
            "job_logs",
            [{"lines": [1] * 1001}, {"lines": ["x" * 2_000_000]}],
            [{"lines": [1] * 1000}, {"lines": ["x" * 1_900_000]}],
        ),
    }
    | given("processing_queue", "job_group")
    | {
        "queue_limits_of_user_or_group": Case(
            "queue_limits",
            [{"user_id": None}, {"job_group": "lab"}],
            [{}, {"user_id": None, "job_group": "lab"}],
        ),
        "job_failures_error_class_valid": Case(
            "job_failures",
            [{"error_class": e} for e in ["", "1", "a b", "é", "E" * 64]],
            [{"error_class": e} for e in ["E", "os.E_1", "E" * 63]],
        ),
        "job_failures_tries_counted": Case(
            "job_failures",
            [{"tries": 1, "jobs": 2}, {"jobs": -1}],
            [{"tries": 0, "jobs": 0}, {"tries": 2, "jobs": 2}],
        ),
        "queue_limits_job_group_given": Case(
            "queue_limits",
            [{"user_id": None, "job_group": w} for w in ["", "g" * 201]],
            [{"user_id": None, "job_group": "g" * 200}],
        ),
    }
    | number("queue_limits", "max_running", 0)
    | number("queue_limits", "running", 0)
    | number("algorithm_speeds", "ms_per_job", 0)
    | number("algorithm_speeds", "ms_per_megapixel", 0)
    | number("algorithm_speeds", "jobs_ahead", 0)
    | number("algorithm_speeds", "live_workers", 0)
    | {
        "cached_values_key_given": Case(
            "cached_values", [{"key": ""}, {"key": "k" * 513}], [{"key": "k" * 512}]
        ),
        "cached_values_size_bytes_bounded": Case(
            "cached_values", [{"value": ["x" * (1 << 26)]}], [{"value": ["x" * 1000]}]
        ),
        "cached_values_expires_after_computed": Case(
            "cached_values", [{"expires_at": OLD}], [{"expires_at": "2026-01-01 00:00:01+00"}]
        ),
        "cached_values_kept_until_expired": Case(
            "cached_values",
            [{"kept_until": "2026-01-01 23:59:59+00"}],
            [{"kept_until": "2026-01-02 00:00:00+00"}],
        ),
    }
    | number("cached_values", "hit_count", 0)
    | number("cached_value_uses", "hits", 0)
    | number("cached_value_uses", "stale_hits", 0)
    | number("cached_value_uses", "misses", 0)
    | number("analysis_cache_misses", "misses", 1)
    | number("analysis_cache_days", "hits", 0)
    | number("analysis_cache_days", "misses", 0)
    | given("upkeep_steps", "step")
    | {
        "upkeep_steps_lease_whole": Case(
            "upkeep_steps",
            [{"leased_until": OLD}],
            [{"leased_until": OLD, "lease_token": "00000000-0000-0000-0000-000000000000"}],
        ),
        "duplicate_pairs_in_order": Case(
            "duplicate_pairs",
            [{"first_id": lambda _, row: row["second_id"]}],
            [{}],
        ),
        "duplicate_pairs_bits_range": Case(
            "duplicate_pairs", [{"bits": -1}, {"bits": 65}], [{"bits": 0}, {"bits": 64}]
        ),
        "duplicate_pairs_decided_by_person": Case(
            "duplicate_pairs",
            [
                {"decision": "same"},
                {"decision": "same", "decided_by": 1},
                {"decision": "same", "decided_at": OLD},
                {"decided_by": 1, "decided_at": OLD},
            ],
            [{"decision": "different", "decided_by": 1, "decided_at": OLD}],
        ),
    }
)

FOREIGN_KEYS: dict[str, Case] = (
    gone("images", "user_id")
    | {
        "images_duplicate_of_fkey": Case(
            "images",
            [{"is_duplicate": True, "duplicate_of": -1}],
            [{"is_duplicate": True, "duplicate_of": sibling}],
        )
    }
    | gone("image_fingerprints", "image_id")
    | gone("unscanned_images", "image_id")
    | gone("shared_pixels", "image_id")
    | gone("duplicate_pairs", "first_id")
    | {"duplicate_pairs_second_id_fkey": Case("duplicate_pairs", [{"second_id": 1 << 50}], [{}])}
    | gone("analysis_results", "image_id")
    | gone("analysis_results", "user_id")
    | gone("processing_queue", "image_id")
    | gone("processing_queue", "user_id")
    | gone("api_keys", "user_id")
    | gone("sessions", "user_id")
    | gone("account_tokens", "user_id")
    | gone("queue_limits", "user_id")
    | gone("analysis_cache", "image_id")
    | gone("analysis_cache", "analysis_id")
    | gone("metric_minutes", "series_id")
    | gone("metric_hours", "series_id")
    | gone("metric_days", "series_id")
    | {
        "audit_log_details_audit_id_fkey": Case(
            "audit_log_details",
            [{"audit_id": -1, "audit_timestamp": "now"}],
            [{}],
            # it says the same before the key is asked
            before="drop trigger audit_log_details_find_timestamp on audit_log_details",
        )
    }
)
