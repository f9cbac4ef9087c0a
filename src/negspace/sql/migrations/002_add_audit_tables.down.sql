-- Removes everything that 002 made, the new columns of 001's tables included. Lost with it:
-- audit details, the cache, metrics, and what the new columns held. No row of 001 is lost:
-- duplicates stay as images of their own.

drop view duplicate_images_report;
drop view audit_summary_by_user;
drop view analysis_performance_summary;

drop function aggregate_performance_metrics(text, interval, timestamptz, timestamptz, jsonb);
drop table performance_metrics;

drop function cleanup_expired_cache(integer);
drop function cache_key(text, text);
drop function algorithm_fingerprint(text, text, jsonb);
drop table analysis_cache;

drop function refresh_user_counters();
drop function record_event_details(bigint, text, text, jsonb, jsonb, numeric, integer, integer);
drop table audit_log_details;
drop function find_audit_timestamp();

alter table api_keys
    drop column usage_stats,
    drop column total_requests,
    drop column request_count_current_window,
    drop column last_rate_limit_reset;

alter table processing_queue
    drop column processing_notes,
    drop column processing_metadata,
    drop column complexity_score,
    drop column estimated_priority;

alter table analysis_results
    drop column optimization_suggestions,
    drop column performance_stats,
    drop column cache_ttl_seconds,
    drop column cached_at,
    drop column cache_hit;

drop trigger images_append_processing_history on images;
drop trigger images_duplicate_names_an_original on images;
drop function append_processing_history();
drop function refuse_duplicate_chain();
drop function mark_duplicate_images();

alter table images
    drop column perceptual_hash_algorithm,
    drop column perceptual_hash,
    drop column pixel_hash,
    drop column duplicate_of,
    drop column is_duplicate,
    drop column processing_history,
    drop column last_retry_at,
    drop column failure_reason,
    drop column analysis_retry_count;

alter table users
    drop column security_settings,
    drop column account_locked_until,
    drop column failed_login_attempts,
    drop column api_request_count,
    drop column audit_event_count;
