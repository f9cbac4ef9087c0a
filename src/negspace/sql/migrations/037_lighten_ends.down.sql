-- Claims, purges and the ends of jobs as they were.

create or replace function next_jobs(how_many integer, algorithms text[], capacity numeric, seen bigint[], full_users bigint[], full_groups text[])
    returns bigint[]
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    marks     constant timestamptz[] := public.queue_marks();
    step      constant interval := public.priority_step();
    moment    constant timestamptz := clock_timestamp();
    shares    integer[];  -- of each priority, how many are among the first how_many
    late      integer[];  -- … and how many of those that had to wait for their time
begin
    with waiting as (
        select p.priority, w.planned, w.scheduled_at - p.priority * step as turn
        from generate_series(1, 10) as p (priority)
        cross join lateral (
            (select false as planned, q.scheduled_at from public.processing_queue_hot q
             where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at <= q.created_at
               and q.scheduled_at >= marks[p.priority]
               and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
               and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
               and (q.deadline_at is null or q.deadline_at > moment)
               and q.id <> all (seen) and q.user_id <> all (full_users)
               and (q.job_group is null or q.job_group <> all (full_groups))
             order by q.scheduled_at, q.id limit how_many)
            union all
            (select true, q.scheduled_at from public.processing_queue_hot q
             where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at > q.created_at
               and q.scheduled_at >= marks[p.priority] and q.scheduled_at <= moment
               and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
               and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
               and (q.deadline_at is null or q.deadline_at > moment)
               and q.id <> all (seen) and q.user_id <> all (full_users)
               and (q.job_group is null or q.job_group <> all (full_groups))
             order by q.scheduled_at, q.id limit how_many)
        ) w
        order by turn limit how_many
    )
    select array_agg(c.ready order by p.priority), array_agg(c.planned order by p.priority) into shares, late
    from generate_series(1, 10) as p (priority)
    cross join lateral (
        select count(*) filter (where not w.planned) as ready, count(*) filter (where w.planned) as planned
        from waiting w where w.priority = p.priority) c;
    -- The same again with locks, of each list no more than its share: who claims at the same
    -- time takes what comes after in the same lists.
    return array(
        select c.id
        from (
            select w.id, w.scheduled_at - p.priority * step as turn
            from generate_series(1, 10) as p (priority)
            cross join lateral (
                select q.id, q.scheduled_at from public.processing_queue_hot q
                where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at <= q.created_at
                  and q.scheduled_at >= marks[p.priority]
                  and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
                  and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
                  and (q.deadline_at is null or q.deadline_at > moment)
                  and q.id <> all (seen) and q.user_id <> all (full_users)
                  and (q.job_group is null or q.job_group <> all (full_groups))
                order by q.scheduled_at, q.id limit shares[p.priority]
                for update skip locked) w
            where shares[p.priority] > 0
            union all
            select w.id, w.scheduled_at - p.priority * step
            from generate_series(1, 10) as p (priority)
            cross join lateral (
                select q.id, q.scheduled_at from public.processing_queue_hot q
                where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at > q.created_at
                  and q.scheduled_at >= marks[p.priority] and q.scheduled_at <= moment
                  and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
                  and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
                  and (q.deadline_at is null or q.deadline_at > moment)
                  and q.id <> all (seen) and q.user_id <> all (full_users)
                  and (q.job_group is null or q.job_group <> all (full_groups))
                order by q.scheduled_at, q.id limit late[p.priority]
                for update skip locked) w
            where late[p.priority] > 0
        ) c
        order by c.turn, c.id);
end
$$;

create or replace function purge_jobs(older_than interval, how_many integer default 10000) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    purged integer;
begin
    if purge_jobs.older_than < interval '0' then
        raise exception 'the age must not be negative, as % is', purge_jobs.older_than using errcode = 'NS004';
    end if;
    with old as (
        select q.id, q.created_at from public.processing_queue_ended q
        where q.completed_at < now() - purge_jobs.older_than
        limit greatest(purge_jobs.how_many, 0)
        for update skip locked
    ), gone as (
        delete from public.processing_queue_ended q using old
        where q.id = old.id and q.created_at = old.created_at
        returning 1
    )
    select count(*) into purged from gone;
    return purged;
end
$$;

create or replace function store_results(held processing_queue[], ends jsonb) returns jsonb
    language sql
    set search_path = pg_catalog, public, pg_temp
as $$
    with done as materialized (
        select h.id, h.image_id, h.user_id, h.algorithm_name, h.algorithm_version, h.algorithm_parameters,
               h.parameters_hash, e.negative_space_data, coalesce(e.anomalies, '[]') as anomalies,
               e.confidence_score, e.processing_time_ms, coalesce(e.quality_metrics, '{}') as quality_metrics,
               coalesce(e.provenance, '{}') as provenance, e.visualization_path,
               coalesce(e.performance_stats, '{}') as performance_stats,
               coalesce(e.optimization_suggestions, '[]') as optimization_suggestions,
               coalesce(e.cache_ttl_seconds, 86400) as cache_ttl_seconds
        from unnest(store_results.held) h
        cross join lateral jsonb_to_record(store_results.ends -> h.id::text) as e (
            negative_space_data jsonb, anomalies jsonb, confidence_score numeric, processing_time_ms integer,
            quality_metrics jsonb, provenance jsonb, visualization_path text, performance_stats jsonb,
            optimization_suggestions jsonb, cache_ttl_seconds integer)
    ), prints as materialized (  -- once for each analyser and its parameters, not once for each job
        select u.*, public.algorithm_fingerprint(u.algorithm_name, u.algorithm_version, u.algorithm_parameters) as print
        from (select distinct d.algorithm_name, d.algorithm_version, d.algorithm_parameters from done d) u
    ), stored as (
        insert into public.analysis_results (
            image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters,
            negative_space_data, anomalies, confidence_score, processing_time_ms, quality_metrics,
            provenance, visualization_path, cached_at, cache_ttl_seconds, performance_stats,
            optimization_suggestions
        )
        select d.image_id, d.user_id, d.algorithm_name, d.algorithm_version, d.algorithm_parameters,
               d.negative_space_data, d.anomalies, d.confidence_score, d.processing_time_ms, d.quality_metrics,
               d.provenance, d.visualization_path, now(), d.cache_ttl_seconds, d.performance_stats,
               d.optimization_suggestions
        from done d
        order by d.id
        on conflict on constraint analysis_results_identity_key do nothing
        returning id, image_id, algorithm_name, algorithm_version, parameters_hash
    ), known as materialized (
        -- the key as cache_key() makes it, whose call would cost as much as the row
        -- analysed again on purpose: the same in, the same out
        select d.*, coalesce(s.id, (
                   select r.id from public.analysis_results r
                   where s.id is null and r.image_id = d.image_id and r.algorithm_name = d.algorithm_name
                     and r.algorithm_version = d.algorithm_version and r.parameters_hash = d.parameters_hash)) as result,
               p.print, encode(sha256(convert_to(i.file_hash || ':' || p.print || ':' || i.user_id, 'UTF8')), 'hex') as key
        from done d
        join prints p using (algorithm_name, algorithm_version, algorithm_parameters)
        join public.images i on i.id = d.image_id and i.id = any (array(select h.image_id from done h))
        left join stored s using (image_id, algorithm_name, algorithm_version, parameters_hash)
    ), entered as (
        insert into public.analysis_cache (cache_key, image_id, analysis_id, algorithm_fingerprint, cached_result, expires_at)
        select distinct on (k.key) k.key, k.image_id, k.result, k.print,
               jsonb_build_object(
                   'negative_space_data', k.negative_space_data, 'anomalies', k.anomalies,
                   'confidence_score', k.confidence_score, 'processing_time_ms', k.processing_time_ms,
                   'quality_metrics', k.quality_metrics, 'provenance', k.provenance,
                   'visualization_path', k.visualization_path),
               now() + make_interval(secs => k.cache_ttl_seconds)
        from known k
        order by k.key
        on conflict (cache_key) do update
            set analysis_id = excluded.analysis_id, image_id = excluded.image_id,
                cached_result = excluded.cached_result, created_at = excluded.created_at, expires_at = excluded.expires_at
    )
    select coalesce(jsonb_object_agg(k.id, k.result), '{}') from known k
$$;
