-- Many ends of jobs in one call: what is fenced off is told, the rest is applied set by set.
--
-- An end is a JSON object: "job", "attempt" and "token" as claim_jobs() gave them, and what
-- belongs to the kind of end. Locks as everywhere: images by id, jobs by id, cache entries by
-- key, workers by id.
--
-- The ends are kept as one JSON object by job, and looked up in it: a join with the queue
-- would be planned on statistics that may come from a time when the queue was empty.


-- ── What all ends share ─────────────────────────────────────────────────────────────────

create function ends_by_job(ends jsonb) returns jsonb
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
    return (select coalesce(jsonb_object_agg(e.value ->> 'job', e.value), '{}') from jsonb_array_elements(ends) e);
end
$$;
comment on function ends_by_job(jsonb) is 'The ends of jobs as one object by job; an error where one has no job, attempt or token.';

create function hold_jobs(ends jsonb) returns setof processing_queue
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    jobs constant bigint[] := array(select k.job::bigint from jsonb_object_keys(ends) k (job));
begin
    perform 1 from public.images i
    where i.id = any (array(select q.image_id from public.processing_queue_hot q where q.id = any (jobs)))
    order by i.id for no key update;
    return query
        select q.* from public.processing_queue_hot q
        where q.id = any (jobs)
          and (ends -> q.id::text ->> 'attempt')::integer = q.attempt
          and (ends -> q.id::text ->> 'token')::uuid = q.lease_token
        order by q.id
        for update;
end
$$;
comment on function hold_jobs(jsonb) is 'Locks the images of jobs and then those jobs that are still held with the attempt and token given, and returns these.';
revoke execute on function hold_jobs(jsonb) from public;

create function record_batch_metrics(held processing_queue[], outcome queue_status, ended_at timestamptz) returns void
    language sql
    set search_path = pg_catalog, public, pg_temp
as $$
    insert into public.performance_metrics (metric_name, value, unit, labels, context)
    select m.name, round(greatest(m.ms, 0), 4), 'ms',
           jsonb_build_object('algorithm', h.algorithm_name, 'outcome', record_batch_metrics.outcome),
           jsonb_build_object('job_id', h.id)
    from unnest(record_batch_metrics.held) h
    cross join lateral (values
        ('job_wait_ms', extract(epoch from h.started_at - greatest(h.created_at, h.scheduled_at)) * 1000),
        ('job_run_ms',  extract(epoch from record_batch_metrics.ended_at - h.started_at) * 1000)
    ) as m (name, ms)
    where m.ms is not null
$$;
comment on function record_batch_metrics(processing_queue[], queue_status, timestamptz) is
    'How long the tries of a batch waited (job_wait_ms) and ran (job_run_ms): two metrics per job.';
revoke execute on function record_batch_metrics(processing_queue[], queue_status, timestamptz) from public;

create function end_held_jobs(held processing_queue[], outcome queue_status, ended_at timestamptz, reasons jsonb default '{}') returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    workers constant text[] := array(select distinct h.worker_id from unnest(held) h);
begin
    -- The three live statuses prune to the hot partition, yet imply none of its partial
    -- indexes, whose dead entries a drain would walk again and again.
    update public.processing_queue q
    set status        = end_held_jobs.outcome,
        completed_at  = end_held_jobs.ended_at,
        lease_token   = null,
        error_message = case when end_held_jobs.outcome = 'completed' then null else coalesce(reasons ->> q.id::text, q.error_message) end,
        last_error_at = case when end_held_jobs.outcome = 'failed' then end_held_jobs.ended_at else q.last_error_at end
    where q.id = any (array(select h.id from unnest(held) h))
      and q.status in ('queued', 'processing', 'retrying');
    perform public.record_batch_metrics(held, end_held_jobs.outcome, end_held_jobs.ended_at);
    perform 1 from public.workers w where w.id = any (workers) order by w.id for no key update;
    update public.workers w
    set jobs_completed = w.jobs_completed + case when end_held_jobs.outcome = 'completed' then c.jobs else 0 end,
        jobs_failed    = w.jobs_failed + case when end_held_jobs.outcome = 'failed' then c.jobs else 0 end
    from (select h.worker_id, count(*) as jobs from unnest(held) h group by h.worker_id) c
    where w.id = c.worker_id;
end
$$;
comment on function end_held_jobs(processing_queue[], queue_status, timestamptz, jsonb) is
    'Moves running jobs that the caller has locked to their end, counts them on their workers, and keeps their metrics. reasons: by job.';
revoke execute on function end_held_jobs(processing_queue[], queue_status, timestamptz, jsonb) from public;

create function record_job_events(held processing_queue[], outcome audit_status, ended_at timestamptz, changes jsonb, reasons jsonb default '{}') returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    -- drawn before the rows are written, so that details find their event without a join
    events constant bigint[] := array(select nextval('public.security_audit_id_seq') from unnest(held));
begin
    insert into public.security_audit (
        id, user_id, api_key_id, action, resource_type, resource_id, status, ip_address,
        user_agent, request_id, error_message, changes_after
    )
    overriding system value
    select events[h.ordinality], coalesce(c.user_id, h.user_id), c.api_key_id, 'run_analysis', 'image',
           h.image_id::text, record_job_events.outcome, c.ip_address, c.user_agent, c.request_id,
           reasons ->> h.id::text, changes -> h.id::text
    from public.audit_context() c
    cross join unnest(held) with ordinality h;
    insert into public.audit_log_details (audit_id, event_name, event_data, duration_ms, success_count, failure_count)
    select events[h.ordinality],
           case when record_job_events.outcome = 'success' then 'job_completed' else 'job_failed' end,
           jsonb_build_object('job_id', h.id, 'algorithm', h.algorithm_name, 'version', h.algorithm_version,
                              'attempt', h.attempt, 'worker_id', h.worker_id),
           greatest(extract(epoch from record_job_events.ended_at - h.started_at) * 1000, 0),
           (record_job_events.outcome = 'success')::integer, (record_job_events.outcome <> 'success')::integer
    from unnest(held) with ordinality h;
end
$$;
comment on function record_job_events(processing_queue[], audit_status, timestamptz, jsonb, jsonb) is
    'One run_analysis event with its details per job that ended. changes and reasons: by job.';
revoke execute on function record_job_events(processing_queue[], audit_status, timestamptz, jsonb, jsonb) from public;

create function settle_images(images bigint[], outcome analysis_status, reasons jsonb default '{}', hashes jsonb default '{}') returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    -- The caller holds the images' row locks, so that of two jobs that end at once the second
    -- sees the first. While another job of it lives, an image is not done.
    busy constant bigint[] := array(select q.image_id from public.processing_queue_hot q where q.image_id = any (images));
begin
    update public.images i
    set analysis_status           = case when d.done then settle_images.outcome else i.analysis_status end,
        processed_at              = case when d.done then clock_timestamp() else i.processed_at end,
        failure_reason            = case when d.done then reasons ->> i.id::text else i.failure_reason end,
        pixel_hash                = case when d.hashed then h.pixel_hash else i.pixel_hash end,
        perceptual_hash           = case when d.hashed then h.perceptual_hash else i.perceptual_hash end,
        perceptual_hash_algorithm = case when d.hashed then h.perceptual_hash_algorithm else i.perceptual_hash_algorithm end
    from unnest(images) as w (id)
    cross join lateral jsonb_to_record(coalesce(nullif(hashes -> w.id::text, 'null'), '{}'))
        as h (pixel_hash text, perceptual_hash bigint, perceptual_hash_algorithm text)
    cross join lateral (select not w.id = any (busy) as done, h.pixel_hash is not null as hashed) d
    where i.id = w.id
      and i.id = any (images)
      and (d.done and i.analysis_status = 'processing'
           or d.hashed and (i.pixel_hash, i.perceptual_hash, i.perceptual_hash_algorithm)
              is distinct from (h.pixel_hash, h.perceptual_hash, h.perceptual_hash_algorithm));
end
$$;
comment on function settle_images(bigint[], analysis_status, jsonb, jsonb) is
    'Gives images their status when the last of their jobs ended, and keeps the hashes of their pixels. Each image once; the caller holds the locks. reasons and hashes: by image.';
revoke execute on function settle_images(bigint[], analysis_status, jsonb, jsonb) from public;


-- ── Complete ────────────────────────────────────────────────────────────────────────────

create function store_results(held processing_queue[], ends jsonb) returns jsonb
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
    ), prints as (
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
               p.print, encode(sha256(convert_to(i.file_hash || ':' || p.print, 'UTF8')), 'hex') as key
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
comment on function store_results(processing_queue[], jsonb) is
    'Stores the results of held jobs and puts them into the cache; returns the results'' numbers by job.';
revoke execute on function store_results(processing_queue[], jsonb) from public;

create function complete_jobs(ends jsonb) returns table (job_id bigint, outcome text, result_id bigint)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    by_job   constant jsonb := public.ends_by_job(complete_jobs.ends);
    held     constant public.processing_queue[] := array(select h from public.hold_jobs(by_job) h);
    ended_at constant timestamptz := clock_timestamp();
    results  jsonb;
begin
    if held <> '{}' then
        results := public.store_results(held, by_job);
        perform public.end_held_jobs(held, 'completed', ended_at);
        perform public.record_job_events(
            held, 'success', ended_at,
            (select jsonb_object_agg(r.key, jsonb_build_object('result_id', r.value)) from jsonb_each(results) r));
        perform public.settle_images(
            array(select distinct h.image_id from unnest(held) h), 'completed', '{}',
            (select jsonb_object_agg(h.image_id, by_job -> h.id::text) from unnest(held) h));
    end if;
    return query
        select k.job::bigint, case when results ? k.job then 'completed' else 'lost' end, (results ->> k.job)::bigint
        from jsonb_object_keys(by_job) k (job)
        order by 1;
end
$$;
comment on function complete_jobs(jsonb) is
    'Ends many jobs with their results, in one transaction and set by set: results, cache entries, statuses, images with their hashes, metrics and audit events. ends: an array of objects with job, attempt, token, negative_space_data, confidence_score, processing_time_ms and, where there are such, anomalies, quality_metrics, provenance, visualization_path, performance_stats, optimization_suggestions, cache_ttl_seconds, pixel_hash, perceptual_hash, perceptual_hash_algorithm. Outcome per job: completed, or lost (no longer held with that attempt and token; nothing of it was applied). Where one result breaks a rule of the schema, none is applied: end them one by one then.';
revoke execute on function complete_jobs(jsonb) from public;
grant execute on function complete_jobs(jsonb) to app_user;

create function answer_jobs(ends jsonb) returns table (job_id bigint, outcome text, result_id bigint)
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
                h.algorithm_name, h.algorithm_version, h.algorithm_parameters)) as key) c
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
comment on function answer_jobs(jsonb) is
    'Ends those of many jobs whose result is there already, or in the cache for the same bytes. ends: an array of objects with job, attempt and token. Outcome per job: completed, held (to be computed), or lost.';
revoke execute on function answer_jobs(jsonb) from public;
grant execute on function answer_jobs(jsonb) to app_user;


-- ── Fail and give back ──────────────────────────────────────────────────────────────────

create function end_tries(held processing_queue[], ends jsonb, counts boolean) returns table (job_id bigint, outcome text)
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_column
declare
    ended_at constant timestamptz := clock_timestamp();
    reasons  constant jsonb := (
        select coalesce(jsonb_object_agg(h.id, coalesce(nullif(left(ends -> h.id::text ->> 'reason', 10000), ''), 'no reason given')), '{}')
        from unnest(held) h);
    again    constant public.processing_queue[] := array(
        select h from unnest(held) h
        where not counts
           or h.retry_count < h.max_retries and coalesce((ends -> h.id::text ->> 'again')::boolean, true));
    over     constant public.processing_queue[] := array(
        select h from unnest(held) h where h.id <> all (array(select a.id from unnest(again) a)));
begin
    if held = '{}' then
        return;
    end if;
    if counts then
        perform public.end_held_jobs(held, 'failed', ended_at, reasons);
    else
        -- given back: no try, no metric, nobody's failure
        update public.processing_queue q
        set status = 'failed', completed_at = ended_at, lease_token = null,
            error_message = reasons ->> q.id::text, last_error_at = ended_at
        where q.id = any (array(select h.id from unnest(held) h)) and q.status in ('queued', 'processing', 'retrying');
    end if;
    update public.processing_queue q
    set status       = 'retrying',
        retry_count  = q.retry_count + counts::integer,
        scheduled_at = case when counts then ended_at + public.retry_delay(q.retry_count + 1) else least(q.scheduled_at, ended_at) end,
        completed_at = null
    where q.id = any (array(select a.id from unnest(again) a)) and q.status = 'failed'
      and q.created_at = any (array(select a.created_at from unnest(again) a));
    update public.images i
    set analysis_retry_count = i.analysis_retry_count + 1, last_retry_at = ended_at
    where i.id = any (array(select a.image_id from unnest(again) a)) and counts;
    if over <> '{}' then
        perform public.record_job_events(over, 'failure', ended_at, '{}', reasons);
        perform public.settle_images(
            array(select distinct o.image_id from unnest(over) o), 'failed',
            (select jsonb_object_agg(o.image_id, reasons -> o.id::text) from unnest(over) o));
    end if;
    return query
        select h.id, case when h.id = any (array(select a.id from unnest(again) a)) then 'retrying' else 'failed' end
        from unnest(held) h;
end
$$;
comment on function end_tries(processing_queue[], jsonb, boolean) is
    'Ends the tries of jobs that the caller has locked: tried again after a delay, or failed for good with an audit event. ends: by job, with reason and again. counts false: the tries were given back and cost nothing.';
revoke execute on function end_tries(processing_queue[], jsonb, boolean) from public;

create function fail_jobs(ends jsonb, counts boolean default true) returns table (job_id bigint, outcome text)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    by_job constant jsonb := public.ends_by_job(fail_jobs.ends);
    held   constant public.processing_queue[] := array(select h from public.hold_jobs(by_job) h);
begin
    return query
        select k.job::bigint, coalesce(t.outcome, 'lost')
        from jsonb_object_keys(by_job) k (job)
        left join public.end_tries(held, by_job, fail_jobs.counts) t on t.job_id = k.job::bigint
        order by 1;
end
$$;
comment on function fail_jobs(jsonb, boolean) is
    'Tries of many jobs failed. ends: an array of objects with job, attempt, token, reason and, where no try can help, "again": false. Outcome per job: retrying, failed (for good), or lost (no longer held with that attempt and token). counts false: a worker that stops gives them back; they wait again at once and no try is counted.';
revoke execute on function fail_jobs(jsonb, boolean) from public;
grant execute on function fail_jobs(jsonb, boolean) to app_user;
