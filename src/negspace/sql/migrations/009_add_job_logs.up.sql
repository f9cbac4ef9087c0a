-- What a job said while it was computed; jobs that a worker has lost; jobs that end their
-- processes.

-- negspace: allow prefer-bigint-over-int in this file because they are counts of tries and lines, none is an id


-- ── job_logs ────────────────────────────────────────────────────────────────────────────

create table job_logs (
    job_id    bigint      not null,
    attempt   integer     not null,
    worker_id text        not null,
    logged_at timestamptz not null default clock_timestamp(),
    lines     jsonb       not null,
    left_out  integer     not null default 0,

    constraint job_logs_pkey                  primary key (job_id, attempt),
    constraint job_logs_attempt_positive      check (attempt > 0),
    constraint job_logs_lines_array           check (jsonb_typeof(lines) = 'array'),
    constraint job_logs_lines_bounded         check (case when jsonb_typeof(lines) = 'array' then jsonb_array_length(lines) <= 1000 end and octet_length(lines::text) <= 2000000),
    constraint job_logs_left_out_not_negative check (left_out >= 0)
);

comment on table  job_logs           is 'What was logged while a try of a job was computed; a try that said nothing has no row. No foreign key: jobs are partitioned by status and month, and their numbers alone are no key.';
comment on column job_logs.job_id    is 'The job.';
comment on column job_logs.attempt   is 'Its try, as processing_queue.attempt counts them.';
comment on column job_logs.worker_id is 'The worker that ran it.';
comment on column job_logs.logged_at is 'When the lines were stored last: at the end of the try, and now and then while it runs.';
comment on column job_logs.lines     is 'The lines, in order: objects with logged_at, level, logger and message.';
comment on column job_logs.left_out  is 'How many lines there were besides, between the first and the last ones.';

comment on index job_logs_pkey is 'A job''s tries, in order.';
create index job_logs_logged_at_idx on job_logs (logged_at);
comment on index job_logs_logged_at_idx is 'The oldest first: purge_job_logs().';

grant select on job_logs to app_user;

create function keep_job_logs(tries jsonb) returns void
    language sql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
    insert into public.job_logs (job_id, attempt, worker_id, lines, left_out)
    select t.job, t.attempt, t.worker, t.lines, coalesce(t.left_out, 0)
    from jsonb_to_recordset(keep_job_logs.tries) as t (job bigint, attempt integer, worker text, lines jsonb, left_out integer)
    order by t.job, t.attempt
    on conflict on constraint job_logs_pkey do update
        set lines = excluded.lines, left_out = excluded.left_out, logged_at = excluded.logged_at
$$;
comment on function keep_job_logs(jsonb) is
    'Keeps what tries of jobs said: an array of objects with job, attempt, worker, lines and left_out. Given again for the same try, it takes the place of what was there.';
revoke execute on function keep_job_logs(jsonb) from public;
grant execute on function keep_job_logs(jsonb) to app_user;

create function purge_job_logs(older_than interval, how_many integer default 10000) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    purged integer;
begin
    if purge_job_logs.older_than < interval '0' then
        raise exception 'the age must not be negative, as % is', purge_job_logs.older_than using errcode = 'NS004';
    end if;
    with old as (
        select l.job_id, l.attempt from public.job_logs l
        where l.logged_at < now() - purge_job_logs.older_than
        order by l.logged_at
        limit greatest(purge_job_logs.how_many, 0)
        for update skip locked
    ), gone as (
        delete from public.job_logs l using old
        where l.job_id = old.job_id and l.attempt = old.attempt
        returning 1
    )
    select count(*) into purged from gone;
    return purged;
end
$$;
comment on function purge_job_logs(interval, integer) is
    'Removes the logs of up to how_many tries that ended longer ago, oldest first, and returns how many.';
revoke execute on function purge_job_logs(interval, integer) from public;
grant execute on function purge_job_logs(interval, integer) to app_user;


-- ── What a worker asks between its heartbeats ───────────────────────────────────────────

create function lost_jobs(jobs bigint[], tokens uuid[]) returns bigint[]
    language sql
    stable
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
    select array(
        select h.job
        from unnest(lost_jobs.jobs, lost_jobs.tokens) as h (job, token)
        where not exists (
            select from public.processing_queue_hot q
            where q.id = h.job and q.lease_token = h.token))
$$;
comment on function lost_jobs(bigint[], uuid[]) is
    'Those of a worker''s jobs that it no longer holds with the token given: cancelled, rescued, or ended. One look for all its jobs.';
revoke execute on function lost_jobs(bigint[], uuid[]) from public;
grant execute on function lost_jobs(bigint[], uuid[]) to app_user;


-- ── Jobs that end their processes ───────────────────────────────────────────────────────

create function count_deaths(ends jsonb, most integer default 3) returns jsonb
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    by_job constant jsonb := public.ends_by_job(count_deaths.ends);
    held   constant bigint[] := array(select h.id from public.hold_jobs(by_job) h);
    deadly bigint[];
begin
    with counted as (
        update public.processing_queue_hot q
        set processing_metadata = q.processing_metadata
            || jsonb_build_object('deaths', coalesce((q.processing_metadata ->> 'deaths')::integer, 0) + 1)
        where q.id = any (held)
        returning q.id, (q.processing_metadata ->> 'deaths')::integer as deaths
    )
    select array_agg(c.id) into deadly from counted c where c.deaths >= count_deaths.most;
    return (
        select coalesce(jsonb_agg(
            case when (e.value ->> 'job')::bigint = any (deadly) then e.value || '{"again": false}' else e.value end), '[]')
        from jsonb_array_elements(count_deaths.ends) e);
end
$$;
comment on function count_deaths(jsonb, integer) is
    'Counts, for held jobs, that a process ended while it computed them. Returns the ends for fail_jobs(), with "again": false where it happened most times: such a job is not tried again, however many tries it has left.';
revoke execute on function count_deaths(jsonb, integer) from public;
grant execute on function count_deaths(jsonb, integer) to app_user;
