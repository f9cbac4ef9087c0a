-- A claim and a purge pass by jobs that move to another partition while they look, and the ends of
-- jobs do the same for less.


-- ── Jobs that move meanwhile ────────────────────────────────────────────────────────────

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
    with waiting as materialized (  -- looked at once, not once for each priority
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
    for tries_left in reverse 4..0 loop
        begin
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
        exception
            when serialization_failure then
                -- One of them has ended since this look began: it lies in another partition now, and
                -- PostgreSQL refuses it there instead of passing it by. Another look doesn't see it.
                if tries_left = 0 then
                    raise;
                end if;
        end;
    end loop;
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
    for tries_left in reverse 4..0 loop
        begin
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
            exit;
        exception
            when serialization_failure then  -- one of them is tried again, as in next_jobs()
                if tries_left = 0 then
                    raise;
                end if;
        end;
    end loop;
    return purged;
end
$$;


-- ── Results of a batch ──────────────────────────────────────────────────────────────────

create or replace function store_results(held processing_queue[], ends jsonb) returns jsonb
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
    set plan_cache_mode = force_generic_plan
as $$
declare
    -- Drawn before the rows are written, so that nothing has to be joined with what was written:
    -- the planner knows nothing of the length of a batch, and compared each with each.
    results bigint[] := array(select nextval('public.analysis_results_id_seq') from unnest(held));
    prints  constant jsonb := (
        select jsonb_object_agg(
            u.algorithm_name || '@' || u.algorithm_version || ':' || u.parameters_hash,
            public.algorithm_fingerprint(u.algorithm_name, u.algorithm_version, u.parameters::jsonb))
        from (select h.algorithm_name, h.algorithm_version, h.parameters_hash, min(h.algorithm_parameters::text) as parameters
              from unnest(held) h group by 1, 2, 3) u);
    stored  integer;
begin
    insert into public.analysis_results (
        id, image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters,
        negative_space_data, anomalies, confidence_score, processing_time_ms, quality_metrics,
        provenance, visualization_path, cached_at, cache_ttl_seconds, performance_stats,
        optimization_suggestions
    )
    overriding system value
    select results[h.ordinality], h.image_id, h.user_id, h.algorithm_name, h.algorithm_version, h.algorithm_parameters,
           e.negative_space_data, coalesce(e.anomalies, '[]'), e.confidence_score, e.processing_time_ms, coalesce(e.quality_metrics, '{}'),
           coalesce(e.provenance, '{}'), e.visualization_path, now(), coalesce(e.cache_ttl_seconds, 86400), coalesce(e.performance_stats, '{}'),
           coalesce(e.optimization_suggestions, '[]')
    from unnest(held) with ordinality h
    cross join lateral jsonb_to_record(ends -> h.id::text) as e (
        negative_space_data jsonb, anomalies jsonb, confidence_score numeric, processing_time_ms integer,
        quality_metrics jsonb, provenance jsonb, visualization_path text, performance_stats jsonb,
        optimization_suggestions jsonb, cache_ttl_seconds integer)
    order by h.ordinality
    on conflict on constraint analysis_results_identity_key do nothing;
    get diagnostics stored = row_count;
    if stored < cardinality(held) then  -- analysed again on purpose: the same in, the same out
        results := array(
            select (select r.id from public.analysis_results r
                    where r.image_id = h.image_id and r.algorithm_name = h.algorithm_name
                      and r.algorithm_version = h.algorithm_version and r.parameters_hash = h.parameters_hash)
            from unnest(held) with ordinality h
            order by h.ordinality);
    end if;
    -- the key as cache_key() makes it, whose call would cost as much as the row
    insert into public.analysis_cache (cache_key, image_id, analysis_id, algorithm_fingerprint, cached_result, expires_at)
    select distinct on (k.key) k.key, h.image_id, results[h.ordinality], p.print,
           jsonb_build_object(
               'negative_space_data', e.given -> 'negative_space_data', 'anomalies', coalesce(nullif(e.given -> 'anomalies', 'null'), '[]'),
               'confidence_score', (e.given ->> 'confidence_score')::numeric, 'processing_time_ms', (e.given ->> 'processing_time_ms')::integer,
               'quality_metrics', coalesce(nullif(e.given -> 'quality_metrics', 'null'), '{}'),
               'provenance', coalesce(nullif(e.given -> 'provenance', 'null'), '{}'), 'visualization_path', e.given ->> 'visualization_path'),
           now() + make_interval(secs => coalesce((e.given ->> 'cache_ttl_seconds')::integer, 86400))
    from unnest(held) with ordinality h
    cross join lateral (select ends -> h.id::text as given offset 0) e
    cross join lateral (
        select prints ->> (h.algorithm_name || '@' || h.algorithm_version || ':' || h.parameters_hash) as print offset 0) p
    cross join lateral (
        select encode(sha256(convert_to(i.file_hash || ':' || p.print || ':' || i.user_id, 'UTF8')), 'hex') as key
        from public.images i where i.id = h.image_id) k
    order by k.key
    on conflict (cache_key) do update
        set analysis_id = excluded.analysis_id, image_id = excluded.image_id,
            cached_result = excluded.cached_result, created_at = excluded.created_at, expires_at = excluded.expires_at;
    return (
        select coalesce(jsonb_object_agg(h.id, results[h.ordinality]), '{}')
        from unnest(held) with ordinality h);
end
$$;
