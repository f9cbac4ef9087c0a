-- The same ends of jobs for less, wake-ups that are spaced in time, and estimates that know of
-- priorities.


-- ── What every row paid for ─────────────────────────────────────────────────────────────

-- Each job has six hashes made; in this language a call costs half.
create or replace function sha256_hex(content text) returns text
    language plpgsql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    return encode(sha256(convert_to(content, 'UTF8')), 'hex');
end
$$;

-- Who writes an event and its details together knows the time, which the foreign key holds;
-- only who doesn't say has it looked for.
-- negspace: allow ban-drop-default because a trigger fills what nobody states
alter table audit_log_details alter column audit_timestamp drop default;
create or replace function find_audit_timestamp() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    -- Nearly always the event was written in this transaction, and now() is its time; where
    -- it was not, its number tells.
    select a."timestamp" into new.audit_timestamp
    from public.security_audit a where a.id = new.audit_id and a."timestamp" = now();
    if not found then
        select a."timestamp" into new.audit_timestamp
        from public.security_audit a where a.id = new.audit_id;
        if not found then
            raise exception 'there is no audit event %', new.audit_id
                using errcode = 'foreign_key_violation', constraint = 'audit_log_details_audit_id_fkey',
                      hint = 'details belong to the event whose number record_event() returned';
        end if;
    end if;
    return new;
end
$$;
drop trigger audit_log_details_find_timestamp on audit_log_details;
create trigger audit_log_details_find_timestamp
    before insert on audit_log_details
    for each row
    when (new.audit_timestamp is null)
    execute function find_audit_timestamp();
comment on trigger audit_log_details_find_timestamp on audit_log_details is 'Fills audit_timestamp where it wasn''t given.';

create or replace function record_job_events(held processing_queue[], outcome audit_status, ended_at timestamptz, changes jsonb, reasons jsonb default '{}') returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
    set plan_cache_mode = force_generic_plan
as $$
declare
    -- drawn before the rows are written, so that details find their event without a join
    events constant bigint[] := array(select nextval('public.security_audit_id_seq') from unnest(held));
    moment constant timestamptz := now();  -- of both, so that nobody has to look for it
begin
    insert into public.security_audit (
        id, user_id, api_key_id, action, resource_type, resource_id, status, ip_address,
        user_agent, request_id, error_message, changes_after, "timestamp"
    )
    overriding system value
    select events[h.ordinality], coalesce(c.user_id, h.user_id), c.api_key_id, 'run_analysis', 'image',
           h.image_id::text, record_job_events.outcome, c.ip_address, c.user_agent, c.request_id,
           reasons ->> h.id::text, changes -> h.id::text, moment
    from public.audit_context() c
    cross join unnest(held) with ordinality h;
    insert into public.audit_log_details (audit_id, audit_timestamp, event_name, event_data, duration_ms, success_count, failure_count)
    select events[h.ordinality], moment,
           case when record_job_events.outcome = 'success' then 'job_completed' else 'job_failed' end,
           jsonb_build_object('job_id', h.id, 'algorithm', h.algorithm_name, 'version', h.algorithm_version,
                              'attempt', h.attempt, 'worker_id', h.worker_id),
           greatest(extract(epoch from record_job_events.ended_at - h.started_at) * 1000, 0),
           (record_job_events.outcome = 'success')::integer, (record_job_events.outcome <> 'success')::integer
    from unnest(held) with ordinality h;
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

-- Plans that depend on nothing but keys are kept: the check of a foreign key to a partitioned
-- table would be planned anew for each row, and these for each call.
alter function settle_images(bigint[], analysis_status, jsonb, jsonb) set plan_cache_mode = force_generic_plan;
alter function claim_jobs(text, integer, text[], numeric) set plan_cache_mode = force_generic_plan;


-- ── Wake-ups ────────────────────────────────────────────────────────────────────────────

create sequence queue_next_wakeup;
create sequence queue_untold;
comment on sequence queue_next_wakeup is 'When sleeping workers may be told of jobs again, in microseconds since 1970.';
comment on sequence queue_untold      is 'One more than the jobs that came since and that nobody was told of.';

create or replace function rest_worker(worker text, resting boolean) returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    update public.workers w
    set sleeping_since = case when rest_worker.resting then clock_timestamp() end
    where w.id = rest_worker.worker;
    -- Who falls asleep has heard nothing yet; who wakes tells the others what came meanwhile.
    perform setval('public.queue_next_wakeup', 1);
    if not rest_worker.resting then
        perform public.wake_workers(0);
    end if;
end
$$;

create or replace function wake_workers(jobs bigint) returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    now_us constant bigint := public.as_microseconds(clock_timestamp());
    due    constant bigint := (select last_value from public.queue_next_wakeup);
    untold constant bigint := (select last_value from public.queue_untold) - 1;
begin
    -- NOTIFY makes transactions commit one after the other. So it is sent only when somebody
    -- sleeps, once in 5 ms, and by one transaction at a time: the others' jobs are found by whom
    -- it wakes, and counted in the next one. A clock that was set back leaves a time too far ahead.
    if jobs + untold > 0
       and exists (select from public.workers w
                   where w.sleeping_since is not null and w.stopped_at is null
                     and w.heartbeat_at > clock_timestamp() - interval '1 minute') then
        if (due <= now_us or due > now_us + 1000000)
           and pg_try_advisory_xact_lock(hashtextextended('negspace.wake_workers', 0)) then
            perform setval('public.queue_next_wakeup', now_us + 5000), setval('public.queue_untold', 1);
            perform pg_notify('negspace_jobs', (jobs + untold)::text);
            return true;
        end if;
        perform setval('public.queue_untold', least(untold + jobs, 1000000) + 1) where jobs > 0;
    end if;
    return false;
end
$$;
comment on function wake_workers(bigint) is
    'Tells sleeping workers, on channel negspace_jobs, how many jobs came, when this transaction commits; at most once in 5 ms, or until one that was told says so. Returns whether it does. A worker polls as well: a wake-up may be lost, a job never.';


-- ── Estimates ───────────────────────────────────────────────────────────────────────────

alter table algorithm_speeds add column jobs_before bigint[] null;
comment on column algorithm_speeds.jobs_before is 'How many jobs of it are before a new one, for each priority from 1 to 10: those that run, and those that wait and are as urgent or more.';
comment on column algorithm_speeds.jobs_ahead  is 'How many jobs of it wait or run, of all priorities.';

create or replace function measure_algorithms() returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    measured integer;
begin
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.measure_algorithms', 0)) then
        return 0;
    end if;
    insert into public.algorithm_speeds as s (algorithm_name, algorithm_version, ms_per_job, ms_per_megapixel, jobs_ahead, jobs_before, live_workers)
    select a.algorithm_name, a.algorithm_version, m.ms_per_job, m.ms_per_megapixel,
           coalesce((select sum(d.job_count) from public.queue_depth d
                     where d.algorithm_name = a.algorithm_name and d.status in ('queued', 'processing', 'retrying')), 0),
           array(select coalesce((select sum(d.job_count)::bigint from public.queue_depth d
                                  where d.algorithm_name = a.algorithm_name
                                    and (d.status = 'processing' or d.status in ('queued', 'retrying') and d.priority >= p.priority)), 0)
                 from generate_series(1, 10) as p (priority) order by p.priority),
           k.workers
    from (select v.algorithm, count(*) as workers
          from public.workers w cross join lateral unnest(w.algorithms) as v (algorithm)
          where w.stopped_at is null and w.heartbeat_at > now() - interval '1 minute'
          group by v.algorithm) k
    cross join lateral (select split_part(k.algorithm, '@', 1) as algorithm_name, split_part(k.algorithm, '@', 2) as algorithm_version) a
    cross join lateral (
        select avg(r.processing_time_ms)::double precision as ms_per_job,
               (sum(r.processing_time_ms) filter (where d.megapixels > 0)
                / nullif(sum(d.megapixels) filter (where d.megapixels > 0), 0))::double precision as ms_per_megapixel
        from (select n.image_id, n.processing_time_ms from public.analysis_results n
              where n.algorithm_name = a.algorithm_name and n.algorithm_version = a.algorithm_version and not n.cache_hit
              order by n.created_at desc limit 200) r
        join public.images i on i.id = r.image_id
        cross join lateral (
            select (i.image_dimensions ->> 'width')::numeric * (i.image_dimensions ->> 'height')::numeric / 1000000 as megapixels) d
    ) m
    where m.ms_per_job is not null
    on conflict (algorithm_name, algorithm_version) do update
        set ms_per_job = excluded.ms_per_job, ms_per_megapixel = excluded.ms_per_megapixel,
            jobs_ahead = excluded.jobs_ahead, jobs_before = excluded.jobs_before, live_workers = excluded.live_workers, measured_at = now()
        where abs(excluded.ms_per_job - s.ms_per_job) > s.ms_per_job / 20
           or abs(excluded.ms_per_megapixel - s.ms_per_megapixel) > s.ms_per_megapixel / 20
           or (excluded.ms_per_megapixel is null) <> (s.ms_per_megapixel is null)
           or abs(excluded.jobs_ahead - s.jobs_ahead) > s.jobs_ahead / 20
           or exists (select from unnest(excluded.jobs_before, s.jobs_before) as b (now, before)
                      where abs(b.now - coalesce(b.before, 0)) > coalesce(b.before, 0) / 20)
           or excluded.live_workers <> s.live_workers;
    get diagnostics measured = row_count;
    return measured;
end
$$;

create or replace function insert_jobs(
    images bigint[], answered bigint[], requested_by bigint, algorithm_name text, algorithm_version text, algorithm_parameters jsonb,
    priority integer, max_retries integer, moment timestamptz, scheduled_at timestamptz, use_cache boolean,
    deadline_at timestamptz, weight numeric, job_group text
) returns table (image_id bigint, job_id bigint)
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
    set enable_nestloop = off
as $$
#variable_conflict use_column
declare
    pace public.algorithm_speeds%rowtype;  -- where workers live that have it
begin
    select s.* into pace from public.algorithm_speeds s
    where s.algorithm_name = insert_jobs.algorithm_name and s.algorithm_version = insert_jobs.algorithm_version
      and s.live_workers > 0;
    return query
        insert into public.processing_queue_hot as q (
            id, image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters, priority, max_retries,
            created_at, scheduled_at, complexity_score, processing_metadata, deadline_at, job_group, estimated_completion_at
        )
        overriding system value
        select nextval('public.processing_queue_id_seq'), a.id, a.user_id, insert_jobs.algorithm_name, insert_jobs.algorithm_version,
               insert_jobs.algorithm_parameters, insert_jobs.priority, insert_jobs.max_retries,
               a.at, coalesce(insert_jobs.scheduled_at, a.at), a.weight,
               case when insert_jobs.use_cache then '{}' else '{"use_cache": false}' end::jsonb,
               insert_jobs.deadline_at, insert_jobs.job_group,
               greatest(a.at, insert_jobs.scheduled_at)
                   + (pace.ms_per_job * (coalesce(pace.jobs_before[insert_jobs.priority], pace.jobs_ahead) + a.place - 1) / pace.live_workers
                      + coalesce(pace.ms_per_megapixel * a.weight::double precision, pace.ms_per_job)) * interval '1 millisecond'
        from (
            -- a microsecond apart, so that their order is that of their times
            select i.id, coalesce(insert_jobs.requested_by, i.user_id) as user_id, w.place,
                   insert_jobs.moment + (w.place - 1) * interval '1 microsecond' as at,
                   coalesce(insert_jobs.weight,
                            (i.image_dimensions ->> 'width')::numeric * (i.image_dimensions ->> 'height')::numeric / 1000000) as weight
            from (select u.id, row_number() over (order by min(u.n)) as place
                  from unnest(insert_jobs.images) with ordinality as u (id, n) group by u.id) w
            join public.images i on i.id = w.id
            where i.id = any (insert_jobs.images)
              and i.id not in (select unnest(insert_jobs.answered))
            order by w.place
        ) a
        on conflict (image_id, algorithm_name, algorithm_version, parameters_hash) do nothing
        returning q.image_id, q.id;
end
$$;
