-- Failures counted by error; jobs of workers that are gone, set by set; a new deadline for a job
-- that is tried again.

-- negspace: allow ban-drop-function in this file because retry_jobs() comes back with one argument more, which has a default


-- ── Failures by error ───────────────────────────────────────────────────────────────────

create table job_failures (
    id             bigint      not null generated always as identity,
    failed_at      timestamptz not null,
    algorithm_name text        not null,
    error_class    text        not null,
    tries          bigint      not null default 0,
    jobs           bigint      not null default 0,
    is_folded      boolean     not null default false,

    constraint job_failures_pkey              primary key (id),
    constraint job_failures_error_class_valid check (error_class ~ '^[A-Za-z][A-Za-z0-9_.]*$' and length(error_class) <= 63),
    constraint job_failures_tries_counted     check (tries >= jobs and jobs >= 0)
) with (fillfactor = 50);

comment on table  job_failures                is 'Tries of jobs that failed, counted by hour, analyser and error; read it through failures_by_error(). Counted as they fail, and kept when the jobs are purged.';
comment on column job_failures.id             is 'Number of the count.';
comment on column job_failures.failed_at      is 'The hour in which they failed, of UTC.';
comment on column job_failures.algorithm_name is 'The analyser.';
comment on column job_failures.error_class    is 'The kind of error, as its worker named it: the name of an exception, or ProcessDied, TimeLimit, MemoryLimit, DeadlinePassed, WorkerLost, Unknown.';
comment on column job_failures.tries          is 'How many tries failed so.';
comment on column job_failures.jobs           is 'How many of them were the last: the job failed for good.';
comment on column job_failures.is_folded      is 'Whether it is the sum of its hour; else what one transaction adds to it.';
comment on index job_failures_pkey is 'One count.';
create index job_failures_new_idx on job_failures (id) where not is_folded;
comment on index job_failures_new_idx is 'What fold_job_failures() is to add up, oldest first.';
create unique index job_failures_folded_key on job_failures (failed_at, algorithm_name, error_class) where is_folded;
comment on index job_failures_folded_key is 'The sum of an hour; the newest hours.';
grant select on job_failures to app_user;

create function count_failures(held processing_queue[], ends jsonb, over bigint[]) returns void
    language sql
    set search_path = pg_catalog, public, pg_temp
as $$
    -- Rows of its own, so that nobody waits for a counter.
    insert into public.job_failures (failed_at, algorithm_name, error_class, tries, jobs)
    select date_trunc('hour', clock_timestamp(), 'UTC'), c.algorithm_name, c.error_class,
           count(*), count(*) filter (where c.id = any (count_failures.over))
    from (select h.id, h.algorithm_name,
                 case when count_failures.ends -> h.id::text ->> 'error' ~ '^[A-Za-z][A-Za-z0-9_.]{0,62}$'
                      then count_failures.ends -> h.id::text ->> 'error' else 'Unknown' end as error_class
          from unnest(count_failures.held) h) c
    group by c.algorithm_name, c.error_class
$$;
comment on function count_failures(processing_queue[], jsonb, bigint[]) is
    'Counts tries that failed. ends: by job, with "error", the kind of error; over: the jobs that failed for good.';
revoke execute on function count_failures(processing_queue[], jsonb, bigint[]) from public;

create function fold_job_failures() returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
as $$
declare
    folded integer;
begin
    -- One at a time, and no queue behind it.
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.fold_job_failures', 0)) then
        return 0;
    end if;
    with gone as (
        delete from public.job_failures f
        where f.id = any (array(select n.id from public.job_failures n where not n.is_folded order by n.id limit 10000))
        returning f.failed_at, f.algorithm_name, f.error_class, f.tries, f.jobs
    ), kept as (
        insert into public.job_failures as f (failed_at, algorithm_name, error_class, tries, jobs, is_folded)
        select g.failed_at, g.algorithm_name, g.error_class, sum(g.tries), sum(g.jobs), true
        from gone g group by g.failed_at, g.algorithm_name, g.error_class
        on conflict (failed_at, algorithm_name, error_class) where is_folded do update
            set tries = f.tries + excluded.tries, jobs = f.jobs + excluded.jobs
    )
    select count(*) into folded from gone;
    return folded;
end
$$;
comment on function fold_job_failures() is 'Adds what failed since to the sums of its hours, and returns how many rows it took. claim_jobs() calls it now and then.';
revoke execute on function fold_job_failures() from public;
grant execute on function fold_job_failures() to app_user;

create function failures_by_error(since timestamptz default '-infinity')
    returns table (algorithm_name text, error_class text, tries bigint, jobs bigint, last_failed_at timestamptz)
    language sql
    stable
    set search_path = pg_catalog, public, pg_temp
as $$
    select f.algorithm_name, f.error_class, sum(f.tries)::bigint, sum(f.jobs)::bigint, max(f.failed_at)
    from public.job_failures f
    where f.failed_at > failures_by_error.since - interval '1 hour'
    group by f.algorithm_name, f.error_class
    order by sum(f.tries) desc, f.algorithm_name, f.error_class
$$;
comment on function failures_by_error(timestamptz) is
    'How many tries failed (tries), how many of them for good (jobs), by analyser and error, most first: of the hours since then, the one it lies in included. last_failed_at is the newest hour. From kept counters, never a count of the queue.';
revoke execute on function failures_by_error(timestamptz) from public;
grant execute on function failures_by_error(timestamptz) to app_user;


-- ── Tries that end ──────────────────────────────────────────────────────────────────────

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
    if counts then
        perform public.count_failures(held, ends, array(select o.id from unnest(over) o));
    end if;
    return query
        select h.id, case when h.id = any (array(select a.id from unnest(again) a)) then 'retrying' else 'failed' end
        from unnest(held) h;
end
$$;
comment on function end_tries(processing_queue[], jsonb, boolean) is
    'Ends the tries of jobs that the caller has locked: tried again after a delay, or failed for good with an audit event. ends: by job, with reason, error and again. counts false: the tries were given back and cost nothing.';
comment on function fail_jobs(jsonb, boolean) is
    'Tries of many jobs failed. ends: an array of objects with job, attempt, token, reason and, where they are known, "error": the kind of error, for failures_by_error(), and where no try can help, "again": false. Outcome per job: retrying, failed (for good), or lost (no longer held with that attempt and token). counts false: a worker that stops gives them back; they wait again at once and no try is counted.';

-- The same for one job.
create or replace function end_try(held processing_queue, reason text, again boolean, counts boolean) returns queue_status
    language sql
    set search_path = pg_catalog, public, pg_temp
as $$
    select t.outcome::public.queue_status
    from public.end_tries(
        array[held], jsonb_build_object(held.id, jsonb_build_object('reason', reason, 'again', again)), counts) t
$$;


-- ── Jobs of workers that are gone ───────────────────────────────────────────────────────

alter table workers add column computing bigint[] null;
comment on column workers.computing is 'The jobs that it computes, as it last said; those it holds besides have not begun. Null: it doesn''t say.';

create function say_computing(worker text, jobs bigint[]) returns void
    language sql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
    update public.workers w set computing = say_computing.jobs where w.id = say_computing.worker
$$;
comment on function say_computing(text, bigint[]) is
    'A worker says which of its jobs it computes: should it be gone, the others have cost no try.';
revoke execute on function say_computing(text, bigint[]) from public;
grant execute on function say_computing(text, bigint[]) to app_user;

create or replace function rescue_jobs(lease interval default interval '10 seconds', how_many integer default 100) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
as $$
declare
    moment constant timestamptz := clock_timestamp();
    gone   bigint[];
    tries  integer[];
    free   bigint[];
    held   public.processing_queue[];
    begun  bigint[];
    ends   jsonb;
begin
    if rescue_jobs.lease <= interval '0' then
        raise exception 'the lease must be longer than nothing, not %', rescue_jobs.lease
            using errcode = 'NS004', hint = 'such as 10 seconds';
    end if;
    -- The clock was set back: workers are heard of from now on, and taken as gone a lease later.
    update public.workers w set heartbeat_at = moment
    where w.id = any (array(
        select a.id from public.workers a
        where a.stopped_at is null and a.heartbeat_at > moment + interval '1 second'
        order by a.id for no key update skip locked));
    if found then
        return 0;
    end if;
    select array_agg(g.id), array_agg(g.attempt) into gone, tries
    from (select q.id, q.attempt
          from public.processing_queue_hot q
          left join public.workers w on w.id = q.worker_id
          where q.status = 'processing'
            and coalesce(greatest(w.heartbeat_at, case when q.started_at <= moment then q.started_at end), '-infinity')
                < moment - rescue_jobs.lease
          order by q.worker_id, q.id  -- workers are counted on, by all who rescue in one order
          limit greatest(rescue_jobs.how_many, 0)) g;
    if gone is null then
        return 0;
    end if;
    -- Images before jobs, and none that anybody holds: many may rescue at once.
    free := array(
        select i.id from public.images i
        where i.id = any (array(select q.image_id from public.processing_queue_hot q where q.id = any (gone)))
        order by i.id for no key update skip locked);
    held := array(
        select q::public.processing_queue from public.processing_queue_hot q
        where q.id = any (gone) and q.image_id = any (free) and q.status = 'processing'
          and q.attempt = tries[array_position(gone, q.id)]  -- not claimed anew
        order by q.id for update skip locked);
    -- What a worker held and had not begun is not its doing. It says so now and then only, so
    -- the third claim of a job that was never said to be computed counts all the same.
    begun := array(
        select h.id from unnest(held) h
        left join public.workers w on w.id = h.worker_id
        where w.computing is null or h.id = any (w.computing) or h.attempt - h.retry_count > 2);
    ends := (
        select coalesce(jsonb_object_agg(h.id, jsonb_build_object(
            'reason', format('worker %s was not heard of for %s', h.worker_id, rescue_jobs.lease), 'error', 'WorkerLost')), '{}')
        from unnest(held) h);
    perform public.end_tries(array(select h from unnest(held) h where h.id = any (begun) order by h.id), ends, true);
    perform public.end_tries(array(select h from unnest(held) h where h.id <> all (begun) order by h.id), ends, false);
    return cardinality(held);
end
$$;
comment on function rescue_jobs(interval, integer) is
    'Takes jobs from workers that were not heard of for the lease: tried again, or failed for good when their tries are used up, as a job is that kills its workers. What a worker had not begun costs no try. Returns how many. Safe to call by many at once, and after the clock was set back.';


-- ── Deadlines ───────────────────────────────────────────────────────────────────────────

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
    perform public.fold_job_failures();
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
    perform public.count_failures(
        held, (select jsonb_object_agg(h.id, '{"error": "DeadlinePassed"}'::jsonb) from unnest(held) h),
        array(select h.id from unnest(held) h));
    return cardinality(held);
end
$$;

drop function retry_jobs(bigint[]);
create function retry_jobs(jobs bigint[], deadline_at timestamptz default null) returns bigint[]
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
as $$
declare
    moment  constant timestamptz := clock_timestamp();
    late    public.processing_queue%rowtype;
    again   public.processing_queue[];
    retried bigint[];
begin
    if retry_jobs.deadline_at <= moment then
        raise exception 'the deadline, %, is over already', retry_jobs.deadline_at
            using errcode = 'NS004', hint = 'name a later one';
    end if;
    perform 1 from public.images i
    where i.id = any (array(select q.image_id from public.processing_queue q where q.id = any (retry_jobs.jobs)))
    order by i.id for no key update;
    again := array(
        select q from public.processing_queue q
        where q.id = any (retry_jobs.jobs) and q.status = 'failed'
          and not exists (select from public.images i where i.id = q.image_id and i.analysis_status = 'archived')
        order by q.id for update);
    -- The same analysis may have been asked for again since, or fail twice here: once is enough.
    again := array(
        select a
        from (select distinct on (f.image_id, f.algorithm_name, f.algorithm_version, f.parameters_hash) f.*
              from unnest(again) f
              order by f.image_id, f.algorithm_name, f.algorithm_version, f.parameters_hash, f.id) a
        where not exists (
            select from public.processing_queue_hot q
            where q.image_id = a.image_id and q.algorithm_name = a.algorithm_name
              and q.algorithm_version = a.algorithm_version and q.parameters_hash = a.parameters_hash)
        order by a.id);
    select a.* into late from unnest(again) a where a.deadline_at <= moment and retry_jobs.deadline_at is null order by a.id limit 1;
    if found then
        raise exception 'the deadline of job %, %, has passed, so it would fail at once', late.id, late.deadline_at
            using errcode = 'NS006', hint = 'name a new deadline: negspace jobs retry --deadline, or deadline_at';
    end if;
    retried := array(select a.id from unnest(again) a order by a.id);
    update public.processing_queue q
    set status = 'retrying', retry_count = 0, scheduled_at = now(), completed_at = null,
        deadline_at = coalesce(retry_jobs.deadline_at, q.deadline_at)
    where q.id = any (retried) and q.status = 'failed' and q.created_at = any (array(select a.created_at from unnest(again) a));
    update public.images i set analysis_status = 'pending'
    where i.id = any (array(select a.image_id from unnest(again) a)) and i.analysis_status in ('failed', 'completed');
    insert into public.security_audit (
        user_id, api_key_id, action, resource_type, resource_id, ip_address, user_agent, request_id, changes_before, changes_after
    )
    select c.user_id, c.api_key_id, 'config_change', 'job', a.id::text, c.ip_address, c.user_agent, c.request_id,
           '{"status": "failed"}', '{"status": "retrying"}'
    from public.audit_context() c cross join unnest(again) a
    order by a.id;
    return retried;
end
$$;
comment on function retry_jobs(bigint[], timestamptz) is
    'Lets failed jobs be tried again, with all their tries, and returns those; a job whose analysis waits or runs anew, or whose image is archived, stays failed. deadline_at: their new deadline; null: the one they have. An error where that has passed, and none is tried again.';
revoke execute on function retry_jobs(bigint[], timestamptz) from public;
grant execute on function retry_jobs(bigint[], timestamptz) to app_user;
