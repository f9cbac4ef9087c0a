-- What wakes a worker and starts a job is one call, which is planned once in a session; a claim that
-- has all it wanted looks no further.


create function claim_work(worker text, how_many integer default 1, algorithms text[] default null, capacity numeric default null)
    returns table (
        id bigint, token uuid, attempt integer, image_id bigint, owner bigint, file_path text, file_hash text, original_filename text,
        algorithm_name text, algorithm_version text, algorithm_parameters jsonb, answered boolean, seconds_left double precision)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
    set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    held constant public.processing_queue[] := array(
        select j from public.claim_jobs(claim_work.worker, claim_work.how_many, claim_work.algorithms, claim_work.capacity) j);
begin
    if held = '{}' then
        return;
    end if;
    return query
        select h.id, h.lease_token, h.attempt, h.image_id, i.user_id, i.file_path, i.file_hash, i.original_filename,
               h.algorithm_name, h.algorithm_version, h.algorithm_parameters,
               h.processing_metadata -> 'use_cache' is distinct from 'false' and (
                   exists (select from public.analysis_results r
                           where r.image_id = h.image_id and r.parameters_hash = h.parameters_hash  -- as result_of()
                             and r.algorithm_name || '@' || r.algorithm_version = h.algorithm_name || '@' || h.algorithm_version)
                   or exists (select from public.analysis_cache a
                              where a.cache_key = public.cache_key(
                                        i.file_hash,
                                        public.algorithm_fingerprint(h.algorithm_name, h.algorithm_version, h.algorithm_parameters),
                                        i.user_id)
                                and a.expires_at > clock_timestamp())),
               extract(epoch from h.deadline_at - clock_timestamp())::double precision
        from unnest(held) with ordinality h
        join public.images i on i.id = h.image_id
        order by h.ordinality;
end
$$;
comment on function claim_work(text, integer, text[], numeric) is
    'claim_jobs() with what a worker needs to begin: the image''s owner, file and hash, whether the result is there already (answered: ask answer_jobs() for it), and the seconds that are left until the deadline. In the order of the queue.';
revoke execute on function claim_work(text, integer, text[], numeric) from public;
grant execute on function claim_work(text, integer, text[], numeric) to operator_role;

do $$
declare
    was     constant text := 'exit when cardinality(seen) >= 1000 + claim_jobs.how_many;';
    becomes constant text := 'exit when cardinality(held) >= claim_jobs.how_many or cardinality(seen) >= 1000 + claim_jobs.how_many;';
    source  constant text := pg_get_functiondef('public.claim_jobs'::regproc);
begin
    -- One line of a long function changes.
    if length(source) - length(replace(source, was, '')) <> length(was) then
        raise exception 'the function claim_jobs is not as the migrations made it'
            using errcode = 'NS006', hint = 'negspace migrate drift shows how it differs';
    end if;
    execute replace(source, was, becomes);
end
$$;
