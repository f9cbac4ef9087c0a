"""For each unique key: what no two rows share, and what it is enough to differ in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schema_rows import add


@dataclass(frozen=True)
class Unique:
    """Columns that no two rows share, and one in which it is enough to differ."""

    table: str
    shared: dict[str, Any]
    differs: dict[str, Any]  # a value may be a function of the connection
    own: frozenset[str] = frozenset()  # further columns that the second row takes from the first


UNIQUE: dict[str, Unique] = {
    "cached_values_pkey": Unique("cached_values", {"key": "a"}, {"key": "A"}),
    "cached_value_leases_pkey": Unique("cached_value_leases", {"key": "a"}, {"key": "A"}),
    "cached_value_uses_pkey": Unique(
        "cached_value_uses", {"day": "2026-01-01 00:00+00"}, {"day": "2026-01-02 00:00+00"}
    ),
    **{
        f"{table}_pkey": Unique(
            table,
            {},
            {"image_id": lambda connection: add(connection, "images")["id"]},
            frozenset({"image_id"}),
        )
        for table in ("image_fingerprints", "unscanned_images", "shared_pixels")
    },
    "duplicate_pairs_pkey": Unique(
        "duplicate_pairs",
        {},
        {"second_id": lambda connection: add(connection, "images")["id"]},
        frozenset({"first_id", "second_id"}),
    ),
    "upkeep_steps_pkey": Unique("upkeep_steps", {"step": "a"}, {"step": "b"}),
    "users_pkey": Unique("users", {"id": 1 << 40}, {"id": 1 << 41}),
    "users_email_key": Unique("users", {"email": "A@b.org"}, {"email": "a@b.com"}),
    "images_pkey": Unique("images", {"id": 1 << 40}, {"id": 1 << 41}),
    "images_original_key": Unique(
        "images", {"file_hash": "a" * 64}, {"file_hash": "b" * 64}, frozenset({"user_id"})
    ),
    "analysis_results_pkey": Unique("analysis_results", {"id": 1 << 40}, {"id": 1 << 41}),
    "analysis_results_identity_key": Unique(
        "analysis_results",
        {"algorithm_version": "1.0.0", "algorithm_parameters": {"a": 1}},
        {"algorithm_parameters": {"a": 2}},
        frozenset({"image_id", "user_id"}),
    ),
    "processing_queue_pkey": Unique(
        "processing_queue",
        {"id": 1 << 40, "status": "completed", "created_at": "now"},
        {"id": 1 << 41},
    ),
    "processing_queue_hot_live_key": Unique(
        "processing_queue",
        {"algorithm_parameters": {"a": 1}},
        {"algorithm_version": "1.0.1"},
        frozenset({"image_id", "user_id"}),
    ),
    "api_keys_pkey": Unique("api_keys", {"id": 1 << 40}, {"id": 1 << 41}),
    "api_keys_key_hash_key": Unique("api_keys", {"key_hash": "a" * 64}, {"key_hash": "b" * 64}),
    "api_key_limits_pkey": Unique(
        "api_key_limits",
        {},
        {"api_key_id": lambda connection: add(connection, "api_keys")["id"]},
        frozenset({"api_key_id"}),
    ),
    "security_audit_pkey": Unique("security_audit", {"id": 1 << 40}, {"id": 1 << 41}),
    "audit_log_details_pkey": Unique("audit_log_details", {"id": 1 << 40}, {"id": 1 << 41}),
    "audit_seals_pkey": Unique("audit_seals", {"number": 1 << 40}, {"number": 1 << 41}),
    "audit_holds_pkey": Unique("audit_holds", {"id": 1 << 40}, {"id": 1 << 41}),
    "audit_retirements_pkey": Unique(
        "audit_retirements", {"month": "2026-01-01"}, {"month": "2026-02-01"}
    ),
    "analysis_cache_pkey": Unique("analysis_cache", {"id": 1 << 40}, {"id": 1 << 41}),
    "analysis_cache_cache_key_key": Unique(
        "analysis_cache", {"cache_key": "k"}, {"cache_key": "l"}
    ),
    "performance_metrics_pkey": Unique("performance_metrics", {"id": 1 << 40}, {"id": 1 << 41}),
    "login_attempts_pkey": Unique(
        "login_attempts", {"account_hash": "a" * 64}, {"network": "192.0.2.8"}
    ),
    "sessions_pkey": Unique("sessions", {"id": 1 << 40}, {"id": 1 << 41}),
    "sessions_token_hash_key": Unique(
        "sessions", {"token_hash": "a" * 64}, {"token_hash": "b" * 64}
    ),
    "context_secret_pkey": Unique("context_secret", {"id": 1 << 40}, {"id": 1 << 41}),
    "account_tokens_pkey": Unique("account_tokens", {"id": 1 << 40}, {"id": 1 << 41}),
    "account_tokens_token_hash_key": Unique(
        "account_tokens", {"token_hash": "a" * 64}, {"token_hash": "b" * 64}
    ),
    "metric_series_pkey": Unique("metric_series", {"id": 1 << 40}, {"id": 1 << 41}),
    "metric_series_identity_key": Unique(
        "metric_series", {"metric_name": "a", "labels": {"b": 1}}, {"labels": {"b": 2}}
    ),
    **{
        f"{table}_pkey": Unique(
            table, {"started_at": "today"}, {"started_at": "tomorrow"}, frozenset({"series_id"})
        )
        for table in ("metric_minutes", "metric_hours", "metric_days")
    },
    "metric_changes_pkey": Unique("metric_changes", {"id": 1 << 40}, {"id": 1 << 41}),
    "rollup_progress_pkey": Unique(
        "rollup_progress", {"table_name": "security_audit"}, {"table_name": "performance_metrics"}
    ),
    "audit_user_months_pkey": Unique("audit_user_months", {"user_id": 1}, {"user_id": 2}),
    "audit_summary_progress_pkey": Unique(
        "audit_summary_progress",
        {"relation": "security_audit"},
        {"relation": "audit_log_details"},
    ),
    "ended_job_days_pkey": Unique("ended_job_days", {"day": "today"}, {"day": "tomorrow"}),
    "ended_job_waits_pkey": Unique("ended_job_waits", {"month": "today"}, {"month": "tomorrow"}),
    "analysis_cache_uses_pkey": Unique("analysis_cache_uses", {"id": 1 << 40}, {"id": 1 << 41}),
    "analysis_cache_misses_pkey": Unique("analysis_cache_misses", {"id": 1 << 40}, {"id": 1 << 41}),
    "analysis_cache_days_pkey": Unique(
        "analysis_cache_days", {"day": "today"}, {"day": "tomorrow"}
    ),
    "ended_job_spans_pkey": Unique("ended_job_spans", {"month": "today"}, {"month": "tomorrow"}),
    "ended_job_changes_pkey": Unique("ended_job_changes", {"id": 1 << 40}, {"id": 1 << 41}),
    "job_logs_pkey": Unique("job_logs", {"job_id": 1, "attempt": 1}, {"attempt": 2}),
    "job_failures_pkey": Unique("job_failures", {"id": 1 << 40}, {"id": 1 << 41}),
    "job_failures_folded_key": Unique("job_failures", {"is_folded": True}, {"error_class": "B"}),
    "workers_pkey": Unique("workers", {"id": "w"}, {"id": "v"}),
    "queue_limits_pkey": Unique("queue_limits", {"id": 1 << 40}, {"id": 1 << 41}),
    "queue_limits_user_id_key": Unique(
        "queue_limits", {}, {"user_id": None, "job_group": "b"}, frozenset({"user_id"})
    ),
    "queue_limits_job_group_key": Unique(
        "queue_limits", {"user_id": None, "job_group": "a"}, {"job_group": "b"}
    ),
    "queue_counts_pkey": Unique("queue_counts", {"id": 1 << 40}, {"id": 1 << 41}),
    "algorithm_speeds_pkey": Unique(
        "algorithm_speeds", {"algorithm_name": "a"}, {"algorithm_name": "b"}
    ),
}
