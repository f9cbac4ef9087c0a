-- Answers and results of a batch as they were.

alter function complete_jobs(jsonb) reset plan_cache_mode;
alter function answer_jobs(jsonb) reset plan_cache_mode;
alter function fail_jobs(jsonb, boolean) reset plan_cache_mode;
alter function enqueue_jobs(bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, boolean, timestamptz, numeric, text) reset plan_cache_mode;

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

create or replace function answer_images(
    images bigint[], requested_by bigint, algorithm_name text, algorithm_version text, algorithm_parameters jsonb,
    out answered bigint[], out results bigint[]
)
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_column
declare
    print  constant text := public.algorithm_fingerprint(
        answer_images.algorithm_name, answer_images.algorithm_version, answer_images.algorithm_parameters);
    hashed constant text := public.sha256_hex(answer_images.algorithm_parameters::text);
    image  record;
    result bigint;
begin
    answered := '{}';
    results := '{}';
    for image in
        -- the key as cache_key() makes it, whose call for each image would cost as much as its job
        select i.id, i.user_id, i.analysis_status
        from public.images i
        cross join lateral (select encode(sha256(convert_to(i.file_hash || ':' || print || ':' || i.user_id, 'UTF8')), 'hex') as key) c
        where i.id = any (answer_images.images)
          and (exists (select from public.analysis_cache a where a.cache_key = c.key and a.expires_at > clock_timestamp())
               or exists (select from public.analysis_results r
                          where r.image_id = i.id and r.algorithm_name = answer_images.algorithm_name
                            and r.algorithm_version = answer_images.algorithm_version and r.parameters_hash = hashed))
        order by c.key  -- in which all lock the entries: equal contents may come to two callers crosswise
    loop
        result := public.store_cached_result(
            image.id, coalesce(answer_images.requested_by, image.user_id), answer_images.algorithm_name,
            answer_images.algorithm_version, answer_images.algorithm_parameters);
        continue when result is null;
        answered := answered || image.id;
        results := results || result;
        if image.analysis_status in ('pending', 'failed')
           and not exists (select from public.processing_queue_hot q where q.image_id = image.id) then
            update public.images i set analysis_status = 'pending' where i.id = image.id and i.analysis_status = 'failed';
            update public.images i set analysis_status = 'processing' where i.id = image.id;
            perform public.settle_image(image.id, 'completed');
        end if;
    end loop;
end
$$;

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
    select c.* into entry
    from public.analysis_cache c
    join public.images i on i.id = image
    where c.cache_key = public.cache_key(i.file_hash, print, i.user_id)
      and c.expires_at > clock_timestamp();
    if found then
        insert into public.analysis_cache_uses (entry_id, used_at) values (entry.id, clock_timestamp());
    end if;

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

create or replace function answer_jobs(ends jsonb) returns table (job_id bigint, outcome text, result_id bigint)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    by_job  constant jsonb := public.ends_by_job(answer_jobs.ends);
    held    constant public.processing_queue[] := array(select h from public.hold_jobs(by_job) h);
    known   public.processing_queue[];
    results jsonb := '{}';
begin
    known := array(
        select h
        from unnest(held) h
        join public.images i on i.id = h.image_id
        cross join lateral (
            select public.cache_key(i.file_hash, public.algorithm_fingerprint(
                h.algorithm_name, h.algorithm_version, h.algorithm_parameters), i.user_id) as key) c
        where h.processing_metadata -> 'use_cache' is distinct from 'false'
          and (exists (select from public.analysis_results r
                       where r.image_id = h.image_id and r.algorithm_name = h.algorithm_name
                         and r.algorithm_version = h.algorithm_version and r.parameters_hash = h.parameters_hash)
               or exists (select from public.analysis_cache a
                          where a.cache_key = c.key and a.expires_at > clock_timestamp()))
        order by c.key);  -- the order in which all lock the entries
    if known <> '{}' then
        select coalesce(jsonb_object_agg(s.id, s.result) filter (where s.result is not null), '{}') into results
        from (select k.id, public.store_cached_result(
                  k.image_id, k.user_id, k.algorithm_name, k.algorithm_version, k.algorithm_parameters) as result
              from unnest(known) with ordinality k order by k.ordinality) s;
        known := array(select h from unnest(held) h where results ? h.id::text);
        perform public.end_held_jobs(known, 'completed', clock_timestamp());
        perform public.settle_images(array(select distinct k.image_id from unnest(known) k), 'completed');
    end if;
    return query
        select k.job::bigint,
               case when results ? k.job then 'completed' when h.id is not null then 'held' else 'lost' end,
               (results ->> k.job)::bigint
        from jsonb_object_keys(by_job) k (job)
        left join unnest(held) h on h.id = k.job::bigint
        order by 1;
end
$$;

drop function cache_keys(processing_queue[]);

drop function result_of(bigint, text, text, text);
