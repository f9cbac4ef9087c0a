-- The cache keeps each result for as long as the result says: those of the last days are
-- there, the older of them expired and not yet cleaned up.
insert into analysis_cache (
    cache_key, image_id, analysis_id, algorithm_fingerprint, cached_result, hit_count,
    last_accessed_at, created_at, expires_at
)
select cache_key(i.file_hash, f.print, i.user_id), i.id, r.id, f.print,
       jsonb_build_object(
           'negative_space_data', r.negative_space_data, 'anomalies', r.anomalies,
           'confidence_score', r.confidence_score, 'processing_time_ms', r.processing_time_ms,
           'quality_metrics', r.quality_metrics, 'provenance', r.provenance,
           'visualization_path', r.visualization_path),
       r.id %% 7 * (r.id %% 3), r.created_at + r.id %% 600 * interval '1 second', r.created_at,
       r.created_at + make_interval(secs => r.cache_ttl_seconds)
from (
    select * from analysis_results
    where id >= %(first)s and not cache_hit
    order by created_at desc, id desc
    limit %(entries)s
) r
join images i on i.id = r.image_id
cross join lateral (
    select algorithm_fingerprint(r.algorithm_name, r.algorithm_version, r.algorithm_parameters) as print
) f
order by r.id
on conflict (cache_key) do nothing
