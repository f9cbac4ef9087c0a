-- Removes the counters of failures. Lost: what was counted, and what workers said they compute.

-- negspace: allow ban-drop-function in this file because retry_jobs() comes back as it was

drop function retry_jobs(bigint[], timestamptz);
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

create or replace function fail_overdue_jobs(how_many integer default 1000) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
as $$
declare
    overdue constant bigint[] := array(
        select q.id from public.processing_queue_hot q
        where q.status in ('queued', 'retrying') and q.deadline_at <= clock_timestamp()
        order by q.deadline_at limit greatest(how_many, 0));
    free    bigint[];
    held    public.processing_queue[];
begin
    if overdue = '{}' then
        return 0;
    end if;
    free := array(
        select i.id from public.images i
        where i.id = any (array(select q.image_id from public.processing_queue_hot q where q.id = any (overdue)))
        order by i.id for no key update skip locked);
    update public.images i set analysis_status = 'processing' where i.id = any (free) and i.analysis_status = 'pending';
    perform 1 from public.processing_queue_hot q
    where q.id = any (overdue) and q.image_id = any (free) and q.status in ('queued', 'retrying')
    order by q.id for update skip locked;
    -- Waiting jobs don't fail: on paper it begins, held by nobody, and ends at once.
    with begun as (
        update public.processing_queue q
        set status = 'processing', worker_id = coalesce(q.worker_id, '(none)'), started_at = coalesce(q.started_at, clock_timestamp())
        where q.id = any (overdue) and q.image_id = any (free) and q.status in ('queued', 'retrying')
          and q.deadline_at <= clock_timestamp()
        returning q as job
    )
    select array_agg(b.job order by (b.job).id) into held from begun b;
    if held is null then
        return 0;
    end if;
    update public.processing_queue q
    set status = 'failed', completed_at = clock_timestamp(), last_error_at = clock_timestamp(),
        error_message = format('its deadline, %s, passed before it could begin', q.deadline_at),
        worker_id = nullif(q.worker_id, '(none)'),
        started_at = case when q.worker_id = '(none)' then null else q.started_at end
    where q.id = any (array(select h.id from unnest(held) h)) and q.status in ('queued', 'processing', 'retrying');
    perform public.record_job_events(
        held, 'failure', clock_timestamp(), '{}',
        (select jsonb_object_agg(h.id, format('its deadline, %s, passed before it could begin', h.deadline_at)) from unnest(held) h));
    perform public.settle_images(
        array(select distinct h.image_id from unnest(held) h), 'failed',
        (select jsonb_object_agg(h.image_id, format('the deadline of job %s, %s, passed before it could begin', h.id, h.deadline_at)) from unnest(held) h));
    return cardinality(held);
end
$$;

create or replace function rescue_jobs(lease interval default interval '10 seconds', how_many integer default 100) returns integer
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

create or replace function end_try(held processing_queue, reason text, again boolean, counts boolean) returns queue_status
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

create or replace function end_tries(held processing_queue[], ends jsonb, counts boolean) returns table (job_id bigint, outcome text)
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
comment on function fail_jobs(jsonb, boolean) is
    'Tries of many jobs failed. ends: an array of objects with job, attempt, token, reason and, where no try can help, "again": false. Outcome per job: retrying, failed (for good), or lost (no longer held with that attempt and token). counts false: a worker that stops gives them back; they wait again at once and no try is counted.';

drop function say_computing(text, bigint[]);
alter table workers drop column computing;
drop function failures_by_error(timestamptz);
drop function fold_job_failures();
drop function count_failures(processing_queue[], jsonb, bigint[]);
drop table job_failures;
