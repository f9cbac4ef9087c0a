-- Workers, their leases, and the functions of the queue: enqueue, claim, heartbeat, complete,
-- fail, give back, rescue, cancel, retry. Services and workers call these; usable from any
-- language.
--
-- Locks are taken in one order everywhere: images by id, then jobs by id, then a cache entry,
-- then a worker. Claims and rescues take what images and jobs are free and skip the rest.

-- negspace: allow prefer-bigint-over-int in this file because they are process ids and counts of jobs, none is an id
-- negspace: allow constraint-missing-not-valid in this file because it comes with 001, on tables that are empty


-- ── workers ─────────────────────────────────────────────────────────────────────────────
-- A job's lease is its worker's heartbeat: one update however many jobs it holds.

create table workers (
    id             text        not null,
    hostname       text        not null,
    process_id     integer     not null,
    algorithms     text[]      not null default '{}',
    started_at     timestamptz not null default now(),
    heartbeat_at   timestamptz not null default now(),
    stopped_at     timestamptz null,
    jobs_completed bigint      not null default 0,
    jobs_failed    bigint      not null default 0,
    last_words     text        null,

    constraint workers_pkey                        primary key (id),
    constraint workers_id_given                    check (id <> ''),
    constraint workers_process_id_positive         check (process_id > 0),
    constraint workers_jobs_completed_not_negative check (jobs_completed >= 0),
    constraint workers_jobs_failed_not_negative    check (jobs_failed >= 0)
) with (fillfactor = 50);

comment on table  workers                is 'Worker processes, those that have stopped too. No index on heartbeat_at: heartbeats stay on their page.';
comment on column workers.id             is 'Name of the worker, as processing_queue.worker_id has it.';
comment on column workers.hostname       is 'The machine it runs on.';
comment on column workers.process_id     is 'Its process there.';
comment on column workers.algorithms     is 'The analysers it has, as name@version: what it asks claim_jobs() for.';
comment on column workers.started_at     is 'When it began.';
comment on column workers.heartbeat_at   is 'When it was last heard of; its jobs are taken over when that is too long ago.';
comment on column workers.stopped_at     is 'When it said goodbye; null: it runs, or died.';
comment on column workers.jobs_completed is 'Jobs it completed.';
comment on column workers.jobs_failed    is 'Tries of jobs that failed on it.';
comment on column workers.last_words     is 'Why it stopped, as it said.';

comment on index workers_pkey is 'One worker; its heartbeat.';
create index workers_started_at_idx on workers (started_at desc);
comment on index workers_started_at_idx is 'Newest workers first.';

grant select on workers to app_user;


-- ── processing_queue: leases ────────────────────────────────────────────────────────────

alter table processing_queue
    add column attempt     integer not null default 0,
    add column lease_token uuid    null,
    add constraint processing_queue_attempt_not_negative check (attempt >= 0);

comment on column processing_queue.processing_metadata is 'What was asked of the worker ({"use_cache": false}: compute, whatever the cache says), and what a worker says of its tries, as a JSON object.';
comment on column processing_queue.attempt     is 'How often it was claimed; with lease_token it fences off a worker that lost the job.';
comment on column processing_queue.lease_token is 'Known to the worker that holds it; null while nobody does.';


-- ── Where an image stands, after a job of it ended ──────────────────────────────────────

create function settle_image(image bigint, outcome analysis_status, reason text default null) returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    -- The caller holds the image's row lock, so that of two jobs that end at once the second
    -- sees the first. While another job of it lives, the image is not done.
    if exists (select from public.processing_queue_hot q where q.image_id = settle_image.image) then
        return;
    end if;
    -- Asked for again, taken back before it ran: what it had is what it has.
    update public.images i
    set analysis_status = 'processing'
    where i.id = settle_image.image
      and i.analysis_status = 'pending'
      and settle_image.outcome = 'completed';
    update public.images i
    set analysis_status = settle_image.outcome,
        processed_at    = clock_timestamp(),
        failure_reason  = settle_image.reason
    where i.id = settle_image.image
      and i.analysis_status = 'processing';
end
$$;
comment on function settle_image(bigint, analysis_status, text) is
    'Gives an image its status when the last of its jobs ended: completed, or failed with a reason. The caller holds the lock on the image.';
revoke execute on function settle_image(bigint, analysis_status, text) from public;


-- ── Answers from the cache ──────────────────────────────────────────────────────────────

create function store_cached_result(
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
comment on function store_cached_result(bigint, bigint, text, text, jsonb) is
    'The result that an image has already, or one made from the cache for it, or null. Counts the hit.';
revoke execute on function store_cached_result(bigint, bigint, text, text, jsonb) from public;


-- ── Enqueue ─────────────────────────────────────────────────────────────────────────────

create function enqueue_jobs(
    images               bigint[],
    requested_by         bigint      default null,
    algorithm_name       text        default 'negative_space',
    algorithm_version    text        default '1.0.0',
    algorithm_parameters jsonb       default '{}',
    priority             integer     default 5,
    max_retries          integer     default 3,
    scheduled_at         timestamptz default null,
    use_cache            boolean     default true
) returns table (image_id bigint, job_id bigint, result_id bigint, outcome text)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_column
declare
    print   constant text := public.sha256_hex(enqueue_jobs.algorithm_parameters::text);
    wrong   bigint;
    image   record;
begin
    perform 1 from public.images i where i.id = any (enqueue_jobs.images) order by i.id for no key update;
    select w.id into wrong from unnest(enqueue_jobs.images) as w (id)
    where not exists (select from public.images i where i.id = w.id) limit 1;
    if found then
        raise exception 'there is no image %', coalesce(wrong::text, 'null') using errcode = 'NS003', hint = 'negspace images list shows those there are';
    end if;
    select i.id into wrong from public.images i
    where i.id = any (enqueue_jobs.images) and i.analysis_status = 'archived' limit 1;
    if found then
        raise exception 'image % is archived and is not analysed again', wrong using errcode = 'NS006', hint = 'take the file in again to analyse it';
    end if;

    -- The entries that will answer, locked in one order by all: equal contents may come to two
    -- callers crosswise.
    if enqueue_jobs.use_cache then
        perform 1 from public.analysis_cache c
        where c.cache_key = any (array(
            select public.cache_key(i.file_hash, public.algorithm_fingerprint(
                enqueue_jobs.algorithm_name, enqueue_jobs.algorithm_version, enqueue_jobs.algorithm_parameters))
            from public.images i where i.id = any (enqueue_jobs.images)))
        order by c.cache_key for no key update;
    end if;

    for image in
        select i.id, i.user_id, i.image_dimensions, i.analysis_status
        from (select u.id, min(u.n) as n from unnest(enqueue_jobs.images) with ordinality as u (id, n) group by u.id) w
        join public.images i on i.id = w.id
        order by w.n
    loop
        image_id := image.id;
        job_id := null;
        result_id := null;
        if enqueue_jobs.use_cache then
            result_id := public.store_cached_result(
                image.id, coalesce(enqueue_jobs.requested_by, image.user_id), enqueue_jobs.algorithm_name,
                enqueue_jobs.algorithm_version, enqueue_jobs.algorithm_parameters);
        end if;
        if result_id is not null then
            outcome := 'cached';
            if image.analysis_status in ('pending', 'failed')
               and not exists (select from public.processing_queue_hot q where q.image_id = image.id) then
                update public.images i set analysis_status = 'pending' where i.id = image.id and i.analysis_status = 'failed';
                update public.images i set analysis_status = 'processing' where i.id = image.id;
                perform public.settle_image(image.id, 'completed');
            end if;
            return next;
            continue;
        end if;

        -- Whoever enqueues the same holds the image, so nobody can come between look and insert.
        select q.id into job_id from public.processing_queue_hot q
        where q.image_id = image.id and q.algorithm_name = enqueue_jobs.algorithm_name
          and q.algorithm_version = enqueue_jobs.algorithm_version and q.parameters_hash = print;
        outcome := 'waiting';
        if job_id is null then
            insert into public.processing_queue (
                image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters,
                priority, max_retries, scheduled_at, complexity_score, processing_metadata
            )
            values (
                image.id, coalesce(enqueue_jobs.requested_by, image.user_id), enqueue_jobs.algorithm_name,
                enqueue_jobs.algorithm_version, enqueue_jobs.algorithm_parameters,
                enqueue_jobs.priority, enqueue_jobs.max_retries, coalesce(enqueue_jobs.scheduled_at, now()),
                (image.image_dimensions ->> 'width')::numeric * (image.image_dimensions ->> 'height')::numeric / 1000000,
                case when enqueue_jobs.use_cache then '{}' else '{"use_cache": false}' end::jsonb
            )
            returning id into job_id;
            outcome := 'queued';
            update public.images i set analysis_status = 'pending'
            where i.id = image.id and i.analysis_status in ('completed', 'failed');
        end if;
        return next;
    end loop;
end
$$;
comment on function enqueue_jobs(bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, boolean) is
    'Asks for an analysis of each image, in the order given and in the caller''s transaction. Outcome per image: queued (a new job), waiting (the same analysis waits or runs already), cached (the result is there, nothing waits). requested_by null: the image''s owner. use_cache false: computed again, by the worker too.';
revoke execute on function enqueue_jobs(bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, boolean) from public;
grant execute on function enqueue_jobs(bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, boolean) to app_user;


-- ── Workers come, live and go ───────────────────────────────────────────────────────────

create function register_worker(worker text, hostname text, process_id integer, algorithms text[]) returns void
    language sql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
    insert into public.workers (id, hostname, process_id, algorithms)
    values (register_worker.worker, register_worker.hostname, register_worker.process_id, register_worker.algorithms)
$$;
comment on function register_worker(text, text, integer, text[]) is 'A worker begins.';
revoke execute on function register_worker(text, text, integer, text[]) from public;
grant execute on function register_worker(text, text, integer, text[]) to app_user;

create function heartbeat(worker text) returns bigint[]
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    update public.workers w set heartbeat_at = clock_timestamp() where w.id = heartbeat.worker;
    if not found then
        raise exception 'there is no worker %', heartbeat.worker using errcode = 'NS003', hint = 'register_worker() first';
    end if;
    return array(
        select q.id from public.processing_queue_hot q
        where q.worker_id = heartbeat.worker and q.status = 'processing');
end
$$;
comment on function heartbeat(text) is
    'A worker lives. Returns the jobs it still holds: one that it runs and that is not among them was cancelled or given to another, and is to be dropped.';
revoke execute on function heartbeat(text) from public;
grant execute on function heartbeat(text) to app_user;

create function stop_worker(worker text, last_words text default null) returns void
    language sql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
    update public.workers w
    set stopped_at = clock_timestamp(), last_words = stop_worker.last_words
    where w.id = stop_worker.worker
$$;
comment on function stop_worker(text, text) is 'A worker says goodbye.';
revoke execute on function stop_worker(text, text) from public;
grant execute on function stop_worker(text, text) to app_user;


-- ── Claim ───────────────────────────────────────────────────────────────────────────────

create function claim_jobs(worker text, how_many integer default 1, algorithms text[] default null)
    returns setof processing_queue
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_column
declare
    candidates bigint[];
    free       bigint[];
    seen       bigint[] := '{}';
    taken      bigint[] := '{}';
begin
    -- Again only where an image of a candidate is held by somebody who enqueues, finishes or
    -- removes it: this claim holds jobs, so it doesn't wait for images, and what comes after
    -- in the queue doesn't wait either.
    loop
        -- An array, not a join: a planner with statistics of an empty queue would nest the
        -- join and claim without regard to the limit.
        candidates := array(
            select q.id from public.processing_queue_hot q
            where q.status in ('queued', 'retrying')
              and q.scheduled_at <= clock_timestamp()
              and (claim_jobs.algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (claim_jobs.algorithms))
              and q.id <> all (seen)
            order by q.priority desc, q.scheduled_at, q.id
            limit greatest(claim_jobs.how_many - cardinality(taken), 0)
            for update skip locked);
        exit when candidates = '{}';
        free := array(
            select i.id from public.images i
            where i.id = any (array(select q.image_id from public.processing_queue_hot q where q.id = any (candidates)))
              and i.analysis_status <> 'archived'
            order by i.id
            for no key update skip locked);
        update public.images i set analysis_status = 'processing'
        where i.id = any (free) and i.analysis_status = 'pending';
        taken := taken || array(
            select q.id from public.processing_queue_hot q where q.id = any (candidates) and q.image_id = any (free));
        seen := seen || candidates;
        exit when cardinality(seen) >= 1000 + claim_jobs.how_many;
    end loop;
    if taken = '{}' then
        return;
    end if;
    return query
    with claimed as (
        update public.processing_queue_hot q
        set status                  = 'processing',
            worker_id               = claim_jobs.worker,
            attempt                 = q.attempt + 1,
            lease_token             = gen_random_uuid(),
            started_at              = clock_timestamp(),
            estimated_completion_at = clock_timestamp() + make_interval(secs => coalesce((
                select avg(r.processing_time_ms) / 1000.0
                from (select a.processing_time_ms from public.analysis_results a
                      where a.algorithm_name = q.algorithm_name and a.algorithm_version = q.algorithm_version
                        and not a.cache_hit
                      order by a.created_at desc limit 50) r), 1)::double precision)
        where q.id = any (taken)
        returning q.*
    )
    select c.* from claimed c order by c.priority desc, c.scheduled_at, c.id;
end
$$;
comment on function claim_jobs(text, integer, text[]) is
    'Gives a worker up to how_many waiting jobs of the analysers it has (name@version; null: any), most urgent first, then who waits longest, each with a lease token. Their images become processing. Nobody waits and nothing is given twice.';
revoke execute on function claim_jobs(text, integer, text[]) from public;
grant execute on function claim_jobs(text, integer, text[]) to app_user;


-- ── The ends of a job ───────────────────────────────────────────────────────────────────

create function hold_job(job bigint, token uuid) returns processing_queue
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    held public.processing_queue%rowtype;
begin
    perform 1 from public.images i
    where i.id = (select q.image_id from public.processing_queue_hot q where q.id = hold_job.job)
    for no key update;
    select q.* into held from public.processing_queue_hot q
    where q.id = hold_job.job and q.lease_token = hold_job.token
    for update;
    if not found then
        raise exception 'job % is no longer held with this lease', hold_job.job
            using errcode = 'NS005', hint = 'it was cancelled, or given to another worker; drop the work';
    end if;
    return held;
end
$$;
comment on function hold_job(bigint, uuid) is 'Locks a job''s image and the job itself for whoever has its lease; an error for anybody else.';
revoke execute on function hold_job(bigint, uuid) from public;

create function record_job_metrics(job processing_queue, outcome text, ended_at timestamptz) returns void
    language sql
    set search_path = pg_catalog, public, pg_temp
as $$
    insert into public.performance_metrics (metric_name, value, unit, labels, context)
    select m.name, round(greatest(m.ms, 0), 4), 'ms',
           jsonb_build_object('algorithm', (record_job_metrics.job).algorithm_name, 'outcome', record_job_metrics.outcome),
           jsonb_build_object('job_id', (record_job_metrics.job).id)
    from (values
        ('job_wait_ms', extract(epoch from (record_job_metrics.job).started_at
                                - greatest((record_job_metrics.job).created_at, (record_job_metrics.job).scheduled_at)) * 1000),
        ('job_run_ms',  extract(epoch from record_job_metrics.ended_at - (record_job_metrics.job).started_at) * 1000)
    ) as m (name, ms)
    where m.ms is not null
$$;
comment on function record_job_metrics(processing_queue, text, timestamptz) is
    'Two metrics of a job''s try: how long it waited (job_wait_ms) and ran (job_run_ms).';
revoke execute on function record_job_metrics(processing_queue, text, timestamptz) from public;

create function complete_job(
    job                      bigint,
    token                    uuid,
    negative_space_data      jsonb,
    anomalies                jsonb,
    confidence_score         numeric,
    processing_time_ms       integer,
    quality_metrics          jsonb   default '{}',
    provenance               jsonb   default '{}',
    visualization_path       text    default null,
    performance_stats        jsonb   default '{}',
    optimization_suggestions jsonb   default '[]',
    cache_ttl_seconds        integer default 86400
) returns bigint
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_column
declare
    held     constant public.processing_queue := public.hold_job(complete_job.job, complete_job.token);
    ended_at constant timestamptz := clock_timestamp();
    print    constant text := public.algorithm_fingerprint(held.algorithm_name, held.algorithm_version, held.algorithm_parameters);
    result   bigint;
    event    bigint;
begin
    insert into public.analysis_results (
        image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters,
        negative_space_data, anomalies, confidence_score, processing_time_ms, quality_metrics,
        provenance, visualization_path, cached_at, cache_ttl_seconds, performance_stats,
        optimization_suggestions
    )
    values (
        held.image_id, held.user_id, held.algorithm_name, held.algorithm_version, held.algorithm_parameters,
        complete_job.negative_space_data, complete_job.anomalies, complete_job.confidence_score,
        complete_job.processing_time_ms, complete_job.quality_metrics, complete_job.provenance,
        complete_job.visualization_path, now(), complete_job.cache_ttl_seconds,
        complete_job.performance_stats, complete_job.optimization_suggestions
    )
    on conflict on constraint analysis_results_identity_key do nothing
    returning id into result;
    if result is null then  -- analysed again on purpose: the same in, the same out
        select r.id into result from public.analysis_results r
        where r.image_id = held.image_id and r.algorithm_name = held.algorithm_name
          and r.algorithm_version = held.algorithm_version and r.parameters_hash = held.parameters_hash;
    end if;

    insert into public.analysis_cache (cache_key, image_id, analysis_id, algorithm_fingerprint, cached_result, expires_at)
    select public.cache_key(i.file_hash, print), held.image_id, result, print,
           jsonb_build_object(
               'negative_space_data', complete_job.negative_space_data, 'anomalies', complete_job.anomalies,
               'confidence_score', complete_job.confidence_score, 'processing_time_ms', complete_job.processing_time_ms,
               'quality_metrics', complete_job.quality_metrics, 'provenance', complete_job.provenance,
               'visualization_path', complete_job.visualization_path),
           now() + make_interval(secs => complete_job.cache_ttl_seconds)
    from public.images i where i.id = held.image_id
    on conflict (cache_key) do update
        set analysis_id = excluded.analysis_id, image_id = excluded.image_id,
            cached_result = excluded.cached_result, created_at = excluded.created_at, expires_at = excluded.expires_at;

    perform public.end_job(held, 'completed', ended_at, null);
    event := public.record_event(
        'run_analysis', 'image', held.image_id::text,
        changes_after => jsonb_build_object('result_id', result), user_id => held.user_id);
    perform public.record_event_details(
        event, 'job_completed', null,
        jsonb_build_object('job_id', held.id, 'algorithm', held.algorithm_name, 'version', held.algorithm_version,
                           'attempt', held.attempt, 'worker_id', held.worker_id),
        '{}', (extract(epoch from ended_at - held.started_at) * 1000)::numeric, 1, 0);
    perform public.settle_image(held.image_id, 'completed');
    return result;
end
$$;
comment on function complete_job(bigint, uuid, jsonb, jsonb, numeric, integer, jsonb, jsonb, text, jsonb, jsonb, integer) is
    'Ends a job with its result: result, status, image, audit event, metrics and cache entry in one transaction, or, without the lease, none of them. Returns the result''s number.';

create function end_job(job processing_queue, outcome queue_status, ended_at timestamptz, reason text, counts boolean default true) returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    -- The three live statuses prune to the hot partition, yet imply none of its partial
    -- indexes, whose dead entries a drain would walk again and again.
    update public.processing_queue q
    set status        = end_job.outcome,
        completed_at  = end_job.ended_at,
        lease_token   = null,
        error_message = case when end_job.outcome = 'completed' then null else coalesce(end_job.reason, q.error_message) end,
        last_error_at = case when end_job.outcome = 'failed' then end_job.ended_at else q.last_error_at end
    where q.id = (end_job.job).id
      and q.status in ('queued', 'processing', 'retrying');
    if (end_job.job).status <> 'processing' or not end_job.counts then
        return;
    end if;
    -- A cancelled job is nobody's doing: whoever cancels many locks no worker.
    if end_job.outcome <> 'cancelled' then
        update public.workers w
        set jobs_completed = w.jobs_completed + (end_job.outcome = 'completed')::integer,
            jobs_failed    = w.jobs_failed + (end_job.outcome = 'failed')::integer
        where w.id = (end_job.job).worker_id;
    end if;
    perform public.record_job_metrics(end_job.job, end_job.outcome::text, end_job.ended_at);
end
$$;
comment on function end_job(processing_queue, queue_status, timestamptz, text, boolean) is
    'Moves a job that the caller has locked to its end, and counts it unless counts is false.';
revoke execute on function end_job(processing_queue, queue_status, timestamptz, text, boolean) from public;
revoke execute on function complete_job(bigint, uuid, jsonb, jsonb, numeric, integer, jsonb, jsonb, text, jsonb, jsonb, integer) from public;
grant execute on function complete_job(bigint, uuid, jsonb, jsonb, numeric, integer, jsonb, jsonb, text, jsonb, jsonb, integer) to app_user;

create function complete_job_from_cache(job bigint, token uuid) returns bigint
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    held   constant public.processing_queue := public.hold_job(complete_job_from_cache.job, complete_job_from_cache.token);
    result bigint;
begin
    if held.processing_metadata -> 'use_cache' = 'false' then
        return null;
    end if;
    result := public.store_cached_result(
        held.image_id, held.user_id, held.algorithm_name, held.algorithm_version, held.algorithm_parameters);
    if result is not null then
        perform public.end_job(held, 'completed', clock_timestamp(), null);
        perform public.settle_image(held.image_id, 'completed');
    end if;
    return result;
end
$$;
comment on function complete_job_from_cache(bigint, uuid) is
    'Ends a job with the result that its image has, or that the cache has for the same bytes, and returns its number; null where there is none, or none is wanted, and the job goes on.';
revoke execute on function complete_job_from_cache(bigint, uuid) from public;
grant execute on function complete_job_from_cache(bigint, uuid) to app_user;

create function retry_delay(retry integer) returns interval
    language sql
    volatile parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select make_interval(secs => random() * least(3600, 2 ^ least(retry, 20)))
$$;
comment on function retry_delay(integer) is
    'How long a job waits before its try number retry: exponential, at most an hour, full jitter, so that many that failed together don''t come back together.';

create function end_try(held processing_queue, reason text, again boolean, counts boolean) returns queue_status
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    ended_at constant timestamptz := clock_timestamp();
    retried  constant boolean := again and (held.retry_count < held.max_retries or not counts);
    event    bigint;
begin
    perform public.end_job(held, 'failed', ended_at, reason, counts);
    if retried then
        update public.processing_queue q
        set status       = 'retrying',
            retry_count  = q.retry_count + counts::integer,
            scheduled_at = case when counts then ended_at + public.retry_delay(q.retry_count + 1) else ended_at end,
            completed_at = null
        where q.id = held.id and q.status = 'failed' and q.created_at = held.created_at;
        update public.images i
        set analysis_retry_count = i.analysis_retry_count + 1, last_retry_at = ended_at
        where i.id = held.image_id and counts;
        return 'retrying';
    end if;
    event := public.record_event(
        'run_analysis', 'image', held.image_id::text, 'failure', error_message => reason, user_id => held.user_id);
    perform public.record_event_details(
        event, 'job_failed', null,
        jsonb_build_object('job_id', held.id, 'algorithm', held.algorithm_name, 'version', held.algorithm_version,
                           'attempt', held.attempt, 'worker_id', held.worker_id),
        '{}', (extract(epoch from ended_at - held.started_at) * 1000)::numeric, 0, 1);
    perform public.settle_image(held.image_id, 'failed', reason);
    return 'failed';
end
$$;
comment on function end_try(processing_queue, text, boolean, boolean) is
    'Ends a try of a job that the caller has locked: tried again after a delay, or failed for good with an audit event. counts false: the try was given back and costs nothing.';
revoke execute on function end_try(processing_queue, text, boolean, boolean) from public;

create function fail_job(job bigint, token uuid, reason text, again boolean default true) returns queue_status
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    return public.end_try(
        public.hold_job(fail_job.job, fail_job.token),
        coalesce(nullif(left(fail_job.reason, 10000), ''), 'no reason given'), fail_job.again, true);
end
$$;
comment on function fail_job(bigint, uuid, text, boolean) is
    'A try failed. Returns retrying, or failed where again is false or the tries are used up.';
revoke execute on function fail_job(bigint, uuid, text, boolean) from public;
grant execute on function fail_job(bigint, uuid, text, boolean) to app_user;

create function give_back_job(job bigint, token uuid, reason text default 'given back by its worker') returns void
    language sql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
    select public.end_try(public.hold_job(give_back_job.job, give_back_job.token), give_back_job.reason, true, false)
$$;
comment on function give_back_job(bigint, uuid, text) is 'A worker that stops gives a job back: it waits again at once, and no try is counted.';
revoke execute on function give_back_job(bigint, uuid, text) from public;
grant execute on function give_back_job(bigint, uuid, text) to app_user;

create function rescue_jobs(lease interval default interval '10 seconds', how_many integer default 100) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    held    public.processing_queue%rowtype;
    rescued integer := 0;
begin
    if rescue_jobs.lease <= interval '0' then
        raise exception 'the lease must be longer than nothing, not %', rescue_jobs.lease using errcode = 'NS004';
    end if;
    for held in
        select q.*
        from public.processing_queue_hot q
        left join public.workers w on w.id = q.worker_id
        where q.status = 'processing'
          and greatest(w.heartbeat_at, q.started_at) < clock_timestamp() - rescue_jobs.lease
        order by q.worker_id, q.image_id, q.id  -- workers are counted on, by all who rescue in one order
        limit greatest(rescue_jobs.how_many, 0)
    loop
        -- Images before jobs, and none that anybody holds: many may rescue at once.
        perform 1 from public.images i where i.id = held.image_id for no key update skip locked;
        continue when not found;
        perform 1 from public.processing_queue_hot q
        where q.id = held.id and q.lease_token is not distinct from held.lease_token and q.attempt = held.attempt
          and q.status = 'processing'
        for update skip locked;
        continue when not found;
        perform public.end_try(held, format('worker %s was not heard of for %s', held.worker_id, rescue_jobs.lease), true, true);
        rescued := rescued + 1;
    end loop;
    return rescued;
end
$$;
comment on function rescue_jobs(interval, integer) is
    'Takes jobs from workers that were not heard of for the lease: tried again, or failed for good when their tries are used up, as a job is that kills its workers. Returns how many. Safe to call by many at once.';
revoke execute on function rescue_jobs(interval, integer) from public;
grant execute on function rescue_jobs(interval, integer) to app_user;


-- ── What people do to jobs ──────────────────────────────────────────────────────────────

create function cancel_jobs(jobs bigint[], reason text default 'cancelled') returns bigint[]
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    job       public.processing_queue%rowtype;
    cancelled bigint[] := '{}';
begin
    perform 1 from public.images i
    where i.id in (select q.image_id from public.processing_queue q where q.id = any (cancel_jobs.jobs))
    order by i.id for no key update;
    for job in
        select q.* from public.processing_queue q
        where q.id = any (cancel_jobs.jobs) and q.status in ('queued', 'processing', 'retrying', 'failed')
        order by q.id for update
    loop
        if job.status = 'failed' then
            update public.processing_queue q set status = 'cancelled'
            where q.id = job.id and q.status = 'failed' and q.created_at = job.created_at;
        else
            perform public.end_job(job, 'cancelled', clock_timestamp(), cancel_jobs.reason);
            perform public.settle_image(
                job.image_id,
                case when exists (select from public.analysis_results r where r.image_id = job.image_id)
                     then 'completed' else 'failed' end::public.analysis_status,
                cancel_jobs.reason);
        end if;
        perform public.record_event(
            'config_change', 'job', job.id::text,
            changes_before => jsonb_build_object('status', job.status),
            changes_after => jsonb_build_object('status', 'cancelled', 'reason', cancel_jobs.reason));
        cancelled := cancelled || job.id;
    end loop;
    return cancelled;
end
$$;
comment on function cancel_jobs(bigint[], text) is
    'Takes jobs back, running ones too (their workers learn it with the next heartbeat), and returns those it took back; ended ones stay as they are.';
revoke execute on function cancel_jobs(bigint[], text) from public;
grant execute on function cancel_jobs(bigint[], text) to app_user;

create function cancel_jobs_of_image() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    perform public.cancel_jobs(
        array(select q.id from public.processing_queue_hot q where q.image_id = new.id), 'its image is archived');
    return null;
end
$$;
comment on function cancel_jobs_of_image() is 'Cancels the jobs that wait or run for the image of the row.';
revoke execute on function cancel_jobs_of_image() from public;

create trigger images_archived_cancels_jobs
    after update on images
    for each row
    when (old.analysis_status <> new.analysis_status and new.analysis_status = 'archived')
    execute function cancel_jobs_of_image();
comment on trigger images_archived_cancels_jobs on images is 'No job waits for an image that is archived: it would never be claimed.';

create function retry_jobs(jobs bigint[]) returns bigint[]
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    job     public.processing_queue%rowtype;
    retried bigint[] := '{}';
begin
    perform 1 from public.images i
    where i.id in (select q.image_id from public.processing_queue q where q.id = any (retry_jobs.jobs))
    order by i.id for no key update;
    for job in
        select q.* from public.processing_queue q
        where q.id = any (retry_jobs.jobs) and q.status = 'failed'
        order by q.id for update
    loop
        continue when exists (
            select from public.images i where i.id = job.image_id and i.analysis_status = 'archived');
        -- the same analysis may have been asked for again since: once is enough
        continue when exists (
            select from public.processing_queue_hot q
            where q.image_id = job.image_id and q.algorithm_name = job.algorithm_name
              and q.algorithm_version = job.algorithm_version and q.parameters_hash = job.parameters_hash);
        update public.processing_queue q
        set status = 'retrying', retry_count = 0, scheduled_at = now(), completed_at = null
        where q.id = job.id and q.status = 'failed' and q.created_at = job.created_at;
        update public.images i set analysis_status = 'pending'
        where i.id = job.image_id and i.analysis_status in ('failed', 'completed');
        perform public.record_event(
            'config_change', 'job', job.id::text,
            changes_before => jsonb_build_object('status', job.status),
            changes_after => jsonb_build_object('status', 'retrying'));
        retried := retried || job.id;
    end loop;
    return retried;
end
$$;
comment on function retry_jobs(bigint[]) is
    'Lets failed jobs be tried again, with all their tries, and returns those; a job whose analysis waits or runs anew, or whose image is archived, stays failed.';
revoke execute on function retry_jobs(bigint[]) from public;
grant execute on function retry_jobs(bigint[]) to app_user;

create function purge_jobs(older_than interval, how_many integer default 10000) returns integer
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
comment on function purge_jobs(interval, integer) is
    'Removes up to how_many jobs that ended longer ago, and returns how many. Their results and audit events stay.';
revoke execute on function purge_jobs(interval, integer) from public;
grant execute on function purge_jobs(interval, integer) to app_user;
