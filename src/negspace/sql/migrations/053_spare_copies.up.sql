-- The end of many jobs doesn't copy their results together again and again: each is found by its
-- place in what was given.

-- negspace: allow ban-drop-function in this file because only complete_jobs() calls store_results()


-- ── What was given ──────────────────────────────────────────────────────────────────────

create function check_ends(ends jsonb) returns void
    language plpgsql
    immutable
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    if jsonb_typeof(ends) is distinct from 'array'
       or exists (select from jsonb_array_elements(ends) e
                  where (e.value ?& array['job', 'attempt', 'token'] and e.value ->> 'job' is not null) is not true) then
        raise exception 'the ends of jobs are an array of objects, each with "job", "attempt" and "token"'
            using errcode = 'NS004', hint = 'pass id, attempt and lease_token as claim_jobs() gave them';
    end if;
end
$$;
comment on function check_ends(jsonb) is 'An error where one of the ends has no job, attempt or token, or they are no array of objects.';
revoke execute on function check_ends(jsonb) from public;

create or replace function ends_by_job(ends jsonb) returns jsonb
    language plpgsql
    immutable
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    perform public.check_ends(ends);
    return (select coalesce(jsonb_object_agg(e.value ->> 'job', e.value), '{}') from jsonb_array_elements(ends) e);
end
$$;

create function places_by_job(ends jsonb) returns jsonb
    language plpgsql
    immutable
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    perform public.check_ends(ends);
    return (
        select coalesce(
                   jsonb_object_agg(
                       e.value ->> 'job',
                       jsonb_build_object('attempt', e.value -> 'attempt', 'token', e.value -> 'token', 'place', e.ordinality - 1)),
                   '{}')
        from jsonb_array_elements(ends) with ordinality e);
end
$$;
comment on function places_by_job(jsonb) is
    'Attempt, token and place in the array (from 0) of the ends of jobs, as one object by job: ends_by_job() where they hold results, which are long. An error as there.';
revoke execute on function places_by_job(jsonb) from public;


-- ── Ends ────────────────────────────────────────────────────────────────────────────────

do $$
declare
    change record;
    source text := pg_get_functiondef('public.store_results(public.processing_queue[], jsonb)'::regprocedure);
begin
    -- What is stored of an end is taken from its place; the rest stays as it is.
    for change in
        select c.* from (values
            ('ends jsonb)', 'ends jsonb[])'),
            ('jsonb_to_record(ends -> h.id::text)', 'jsonb_to_record(ends[h.ordinality])'),
            ('select ends -> h.id::text as given', 'select ends[h.ordinality] as given')
        ) as c (was, becomes)
    loop
        if length(source) - length(replace(source, change.was, '')) <> length(change.was) then
            raise exception 'the function store_results is not as the migrations made it'
                using errcode = 'NS006', hint = 'negspace migrate drift shows how it differs';
        end if;
        source := replace(source, change.was, change.becomes);
    end loop;
    execute source;
end
$$;
comment on function store_results(processing_queue[], jsonb[]) is
    'Stores the results of held jobs, whose ends are given in the same order, and puts them into the cache; returns the results'' numbers by job.';
revoke execute on function store_results(processing_queue[], jsonb[]) from public;

create or replace function complete_jobs(ends jsonb) returns table (job_id bigint, outcome text, result_id bigint)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
    set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    by_job   constant jsonb := public.places_by_job(complete_jobs.ends);
    held     constant public.processing_queue[] := array(select h from public.hold_jobs(by_job) h);
    given    constant jsonb[] := array(
        select complete_jobs.ends -> (by_job -> h.id::text ->> 'place')::integer
        from unnest(held) with ordinality h order by h.ordinality);
    ended_at constant timestamptz := clock_timestamp();
    results  jsonb;
begin
    if held <> '{}' then
        results := public.store_results(held, given);
        insert into public.analysis_cache_misses (misses, missed_at)
        select count(*), ended_at from unnest(held) h
        where h.processing_metadata -> 'use_cache' is distinct from 'false'
        having count(*) > 0;
        perform public.end_held_jobs(held, 'completed', ended_at);
        perform public.record_job_events(
            held, 'success', ended_at,
            (select jsonb_object_agg(r.key, jsonb_build_object('result_id', r.value)) from jsonb_each(results) r));
        perform public.settle_images(
            array(select distinct h.image_id from unnest(held) h), 'completed', '{}',
            (select jsonb_object_agg(h.image_id, jsonb_build_object(
                        'pixel_hash', given[h.ordinality] -> 'pixel_hash',
                        'perceptual_hash', given[h.ordinality] -> 'perceptual_hash',
                        'perceptual_hash_algorithm', given[h.ordinality] -> 'perceptual_hash_algorithm'))
             from unnest(held) with ordinality h
             where given[h.ordinality] ? 'pixel_hash'));
    end if;
    return query
        select k.job::bigint, case when results ? k.job then 'completed' else 'lost' end, (results ->> k.job)::bigint
        from jsonb_object_keys(by_job) k (job)
        order by 1;
end
$$;

drop function store_results(processing_queue[], jsonb);
