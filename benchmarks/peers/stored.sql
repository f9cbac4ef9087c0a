-- What a drain has stored, without what differs from row to row: each kind of row and how many
-- there are. It reads the columns that our tables and by_hand.sql both have.
with stored (kind, holds) as (
    select 'job', jsonb_build_object(
        'status', status, 'algorithm', algorithm_name, 'version', algorithm_version,
        'parameters', algorithm_parameters, 'priority', priority, 'max_retries', max_retries,
        'complexity', complexity_score, 'metadata', processing_metadata, 'worker', worker_id is not null,
        'begun', started_at is not null, 'ended', completed_at is not null,
        'estimated', estimated_completion_at is not null)
    from processing_queue
    union all
    select 'image', jsonb_build_object(
        'status', analysis_status, 'processed', processed_at is not null, 'failure', failure_reason,
        'history', jsonb_path_query_array(processing_history, '$[*].to'))
    from images
    where analysis_status <> 'pending'
    union all
    select 'result', jsonb_build_object(
        'algorithm', algorithm_name, 'version', algorithm_version, 'parameters', algorithm_parameters,
        'data', negative_space_data, 'anomalies', anomalies, 'confidence', confidence_score,
        'ms', processing_time_ms, 'quality', quality_metrics, 'stats', performance_stats,
        'cached', cached_at is not null, 'ttl', cache_ttl_seconds)
    from analysis_results
    union all
    select 'cache entry', jsonb_build_object(
        'fingerprint', c.algorithm_fingerprint, 'key', length(c.cache_key),
        'result', c.cached_result - 'provenance',  -- a column of ours alone
        'ttl', c.expires_at - c.created_at, 'of', r.image_id = c.image_id)
    from analysis_cache c left join analysis_results r on r.id = c.analysis_id
    union all
    select 'event', jsonb_build_object(
        'user', a.user_id, 'type', a.resource_type, 'status', a.status, 'of', r.image_id::text = a.resource_id)
    from security_audit a left join analysis_results r on r.id = (a.changes_after ->> 'result_id')::bigint
    where a.action = 'run_analysis'
    union all
    select 'event''s details', jsonb_build_object(
        'name', d.event_name, 'data', d.event_data - array['job_id', 'worker_id'],
        'duration', d.duration_ms is not null, 'successes', d.success_count, 'failures', d.failure_count,
        'of', q.image_id::text = a.resource_id and q.worker_id = d.event_data ->> 'worker_id')
    from audit_log_details d
    left join security_audit a on a.id = d.audit_id
    left join processing_queue q on q.id = (d.event_data ->> 'job_id')::bigint
    union all
    select 'metric', jsonb_build_object(
        'name', m.metric_name, 'type', m.metric_type, 'unit', m.unit, 'labels', m.labels,
        'percentiles', m.value = all (array[m.percentile_p50, m.percentile_p95, m.percentile_p99]), 'of', q.id is not null)
    from performance_metrics m
    left join processing_queue q on q.id = (m.context ->> 'job_id')::bigint
)
select kind, holds::text as holds, count(*) as rows from stored group by 1, 2 order by 1, 2
