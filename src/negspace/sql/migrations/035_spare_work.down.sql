-- As it was: hits are written into their entries, and months are made whatever left.

create or replace view recent_audit_events as
select a.id, a."timestamp", a.user_id, u.email, a.action, a.resource_type, a.resource_id,
       a.status, a.ip_address, a.user_agent, a.error_message, a.changes_before, a.changes_after
from (
    select id, user_id, api_key_id, action, resource_type, resource_id, status, ip_address, user_agent,
           request_id, error_message, changes_before, changes_after, "timestamp"
    from security_audit
    order by "timestamp" desc, id desc
    limit 1000
) a
left join users u on u.id = a.user_id
order by a."timestamp" desc, a.id desc;

select guard_views();

-- negspace: allow require-concurrent-index-creation because a down is no time of service
create index images_perceptual_hash_idx on images (user_id, perceptual_hash) where perceptual_hash is not null;
comment on index images_perceptual_hash_idx is 'A user''s perceptual hashes, read without the table when near duplicates are looked for.';

create or replace function missing_partitions(first timestamp, last timestamp)
    returns table (parent text, month timestamp, name text)
    language sql
    stable
    set search_path = pg_catalog, public, pg_temp
as $$
    -- Those that a later migration adds are simply not there yet.
    select p.parent, m.month, format('%s_%s', p.parent, to_char(m.month, 'YYYYMM'))
    from unnest(array['security_audit', 'audit_log_details', 'performance_metrics', 'processing_queue_ended']) as p (parent)
    cross join generate_series(missing_partitions.first, missing_partitions.last, interval '1 month') as m (month)
    where to_regclass('public.' || p.parent) is not null
      and to_regclass(format('public.%s_%s', p.parent, to_char(m.month, 'YYYYMM'))) is null
    order by 2, 1
$$;
comment on function missing_partitions(timestamp, timestamp) is
    'The monthly partitions that are not there, of the months (UTC) from first to last, oldest first.';

drop function month_was_let_go(text, timestamp);

create or replace function store_cached_result(
    image                bigint,
    requested_by         bigint,
    algorithm_name       text,
    algorithm_version    text,
    algorithm_parameters jsonb
) returns bigint
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_variable
declare
    known  bigint;
    entry  public.analysis_cache%rowtype;
    print  constant text := public.algorithm_fingerprint(algorithm_name, algorithm_version, algorithm_parameters);
begin
    update public.analysis_cache c
    set hit_count = c.hit_count + 1, last_accessed_at = clock_timestamp()
    from public.images i
    where i.id = image
      and c.cache_key = public.cache_key(i.file_hash, print, i.user_id)
      and c.expires_at > clock_timestamp()
    returning c.* into entry;

    select r.id into known
    from public.analysis_results r
    where r.image_id = image
      and r.algorithm_name = store_cached_result.algorithm_name
      and r.algorithm_version = store_cached_result.algorithm_version
      and r.parameters_hash = public.sha256_hex(store_cached_result.algorithm_parameters::text);
    if known is not null or entry.id is null then
        return known;
    end if;

    insert into public.analysis_results (
        image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters,
        negative_space_data, anomalies, confidence_score, processing_time_ms,
        quality_metrics, provenance, visualization_path, cache_hit, cached_at, performance_stats
    )
    values (
        image, requested_by, algorithm_name, algorithm_version, algorithm_parameters,
        entry.cached_result -> 'negative_space_data',
        entry.cached_result -> 'anomalies',
        (entry.cached_result ->> 'confidence_score')::numeric,
        (entry.cached_result ->> 'processing_time_ms')::integer,
        entry.cached_result -> 'quality_metrics',
        entry.cached_result -> 'provenance',
        entry.cached_result ->> 'visualization_path',
        true, now(), '{}'
    )
    returning id into known;
    perform public.record_event(
        'run_analysis', 'image', image::text,
        changes_after => jsonb_build_object('result_id', known, 'cache_hit', true),
        user_id => requested_by);
    return known;
end
$$;

-- what is not counted yet
update analysis_cache c
set hit_count = c.hit_count + u.hits, last_accessed_at = greatest(c.last_accessed_at, u.latest)
from (select entry_id, count(*) as hits, max(used_at) as latest from analysis_cache_uses group by entry_id) u
where c.id = u.entry_id;

drop function count_cache_uses(integer);
drop table analysis_cache_uses;

comment on column analysis_cache.hit_count             is 'How often it answered.';
comment on column analysis_cache.last_accessed_at      is 'When it answered last.';
