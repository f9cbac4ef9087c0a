-- Jobs whose result is there already are answered batch by batch, and results are looked for by
-- their image, whatever the planner believes.


-- ── What both need ──────────────────────────────────────────────────────────────────────

create function result_of(image bigint, algorithm_name text, algorithm_version text, parameters_hash text) returns bigint
    language plpgsql
    stable strict
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    -- Put together, the name and the version suit no index: with statistics of an empty table the
    -- one by name and version looks as good as any, and every look-up would read all its results.
    return (
        select r.id from public.analysis_results r
        where r.image_id = result_of.image and r.parameters_hash = result_of.parameters_hash
          and r.algorithm_name || '@' || r.algorithm_version = result_of.algorithm_name || '@' || result_of.algorithm_version);
end
$$;
comment on function result_of(bigint, text, text, text) is
    'The result that an image has of an analyser, its version and parameters (their hash), or null.';
revoke execute on function result_of(bigint, text, text, text) from public;

create function cache_keys(jobs processing_queue[]) returns text[]
    language plpgsql
    stable strict
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    -- once for each analyser and its parameters, not once for each job
    prints constant jsonb := (
        select jsonb_object_agg(
            u.algorithm_name || '@' || u.algorithm_version || ':' || u.parameters_hash,
            public.algorithm_fingerprint(u.algorithm_name, u.algorithm_version, u.parameters::jsonb))
        from (select j.algorithm_name, j.algorithm_version, j.parameters_hash, min(j.algorithm_parameters::text) as parameters
              from unnest(jobs) j group by 1, 2, 3) u);
begin
    -- the key as cache_key() makes it, whose call would cost as much as the rest
    return array(
        select (select encode(sha256(convert_to(
                    i.file_hash || ':' || (prints ->> (j.algorithm_name || '@' || j.algorithm_version || ':' || j.parameters_hash)),
                    'UTF8')), 'hex')
                from public.images i where i.id = j.image_id)
        from unnest(jobs) with ordinality j
        order by j.ordinality);
end
$$;
comment on function cache_keys(processing_queue[]) is 'The keys of jobs'' results in the cache, in the order of the jobs.';
revoke execute on function cache_keys(processing_queue[]) from public;


-- ── Answers ─────────────────────────────────────────────────────────────────────────────

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
      and c.cache_key = public.cache_key(i.file_hash, print)
      and c.expires_at > clock_timestamp()
    returning c.* into entry;

    known := public.result_of(image, algorithm_name, algorithm_version, public.sha256_hex(algorithm_parameters::text));
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
        cross join lateral (select encode(sha256(convert_to(i.file_hash || ':' || print, 'UTF8')), 'hex') as key) c
        where i.id = any (answer_images.images)
          and (exists (select from public.analysis_cache a where a.cache_key = c.key and a.expires_at > clock_timestamp())
               or public.result_of(i.id, answer_images.algorithm_name, answer_images.algorithm_version, hashed) is not null)
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
    asked   constant public.processing_queue[] := array(
        select h from unnest(held) h where h.processing_metadata -> 'use_cache' is distinct from 'false');
    keys    constant text[] := public.cache_keys(asked);
    known   constant bigint[] := array(
        select public.result_of(a.image_id, a.algorithm_name, a.algorithm_version, a.parameters_hash)
        from unnest(asked) with ordinality a order by a.ordinality);
    cached  text[];
    hits    jsonb;  -- by key
    results jsonb;
    ended   public.processing_queue[];
begin
    cached := array(
        select c.cache_key from public.analysis_cache c
        where c.cache_key = any (keys) and c.expires_at > clock_timestamp()
        order by c.cache_key for no key update);  -- the order in which all lock the entries
    hits := (
        select jsonb_object_agg(k.key, k.times)
        from (select a.key, count(*) as times
              from unnest(keys, known) as a (key, result) where a.result is not null and a.key = any (cached) group by a.key) k);
    if hits is not null then
        update public.analysis_cache c
        set hit_count = c.hit_count + (hits ->> c.cache_key)::bigint, last_accessed_at = clock_timestamp()
        where c.cache_key = any (array(select h.key from jsonb_object_keys(hits) h (key)));
    end if;
    -- what another image with the same bytes had found becomes this one's result, one by one
    select coalesce(jsonb_object_agg(s.id, s.result) filter (where s.result is not null), '{}') into results
    from (select a.id, coalesce(known[a.ordinality], case when keys[a.ordinality] = any (cached) then public.store_cached_result(
              a.image_id, a.user_id, a.algorithm_name, a.algorithm_version, a.algorithm_parameters) end) as result
          from unnest(asked) with ordinality a order by a.ordinality) s;
    ended := array(select a from unnest(asked) a where results ? a.id::text);
    if ended <> '{}' then
        perform public.end_held_jobs(ended, 'completed', clock_timestamp());
        perform public.settle_images(array(select distinct e.image_id from unnest(ended) e), 'completed');
    end if;
    return query
        select k.job::bigint,
               case when results ? k.job then 'completed' when k.job::bigint = any (array(select h.id from unnest(held) h)) then 'held' else 'lost' end,
               (results ->> k.job)::bigint
        from jsonb_object_keys(by_job) k (job)
        order by 1;
end
$$;
