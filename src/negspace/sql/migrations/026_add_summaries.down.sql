-- The views as they were, and no sums.

create or replace view duplicate_images_report as
select d.original_id,
       d.user_id,
       (select o.original_filename from images o where o.id = d.original_id) as original_filename,
       (select o.file_hash from images o where o.id = d.original_id)         as file_hash,
       (select o.file_size from images o where o.id = d.original_id)         as file_size,
       d.duplicate_count,
       d.duplicate_ids,
       d.duplicate_filenames,
       d.duplicate_bytes,
       d.last_duplicate_at
from (
    select i.user_id,
           i.duplicate_of                                as original_id,
           count(*)                                      as duplicate_count,
           array_agg(i.id order by i.id)                 as duplicate_ids,
           array_agg(i.original_filename order by i.id)  as duplicate_filenames,
           sum(i.file_size)                              as duplicate_bytes,
           max(i.uploaded_at)                            as last_duplicate_at
    from images i
    where i.duplicate_of is not null
    group by i.user_id, i.duplicate_of
) d;


create or replace view queue_status_summary as
select s.status,
       count(q.id)                                     as job_count,
       avg(w.seconds)                                  as mean_wait_seconds,
       percentile_cont(0.5) within group (order by w.seconds)  as p50_wait_seconds,
       percentile_cont(0.95) within group (order by w.seconds) as p95_wait_seconds,
       max(w.seconds)                                  as max_wait_seconds,
       min(q.created_at)                               as oldest_created_at,
       max(q.created_at)                               as newest_created_at
from unnest(enum_range(null::queue_status)) as s (status)
left join processing_queue q on q.status = s.status
left join lateral (
    -- From when its newest try could have begun; a job that is planned for later doesn't wait yet.
    select extract(epoch from greatest(
               case when q.status in ('queued', 'retrying') then now() else q.started_at end
               - greatest(q.created_at, q.scheduled_at), interval '0'))::double precision as seconds
    where q.status in ('queued', 'retrying') or q.started_at is not null
) w on true
group by s.status;
comment on view queue_status_summary is
    'Per status, those without jobs too: how many jobs, how long they waited before their newest try began (or have waited for it), the oldest and the newest.';

create or replace view audit_summary_by_user as
select u.id                         as user_id,
       u.email,
       coalesce(e.events, 0)        as event_count,
       coalesce(e.successes, 0)     as success_count,
       coalesce(e.failures, 0)      as failure_count,
       coalesce(e.partials, 0)      as partial_count,
       e.last_event_at,
       d.mean_duration_ms
from users u
left join lateral (
    select count(*)                                       as events,
           count(*) filter (where a.status = 'success')   as successes,
           count(*) filter (where a.status = 'failure')   as failures,
           count(*) filter (where a.status = 'partial')   as partials,
           max(a."timestamp")                             as last_event_at
    from security_audit a
    where a.user_id = u.id
) e on true
left join lateral (
    select avg(l.duration_ms) as mean_duration_ms
    from security_audit a
    join audit_log_details l on l.audit_id = a.id and l.audit_timestamp = a."timestamp"
    where a.user_id = u.id
) d on true;
comment on view audit_summary_by_user is 'Per user: events, successes, failures, last event, mean duration of what took time.';

create or replace function refresh_user_counters() returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    changed integer;
begin
    -- One at a time, and no queue behind it: the one that counts does it for all.
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.refresh_user_counters', 0)) then
        return 0;
    end if;
    update public.users u
    set audit_event_count = t.events, api_request_count = t.requests
    from (
        select c.id,
               (select count(*) from public.security_audit a where a.user_id = c.id) as events,
               (select coalesce(sum(k.total_requests), 0) from public.api_keys k where k.user_id = c.id) as requests
        from public.users c
    ) t
    where t.id = u.id and (u.audit_event_count, u.api_request_count) <> (t.events, t.requests);
    get diagnostics changed = row_count;
    return changed;
end
$$;

create or replace function drop_ended_months(older_than interval) returns text[]
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    patience constant text := current_setting('lock_timeout');
    month    record;
    young    boolean;
    dropped  text[] := '{}';
begin
    if drop_ended_months.older_than is null or drop_ended_months.older_than < interval '0' then
        raise exception 'the age must not be negative, as % is', coalesce(drop_ended_months.older_than::text, 'null')
            using errcode = 'NS004', hint = 'such as 1 year';
    end if;
    for month in
        select c.oid, c.relname as name
        from pg_inherits h join pg_class c on c.oid = h.inhrelid
        where h.inhparent = 'public.processing_queue_ended'::regclass and c.relname ~ '_[0-9]{6}$'
          and (to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month') at time zone 'UTC' <= now() - drop_ended_months.older_than
        order by c.relname
    loop
        -- Jobs that were asked for in that month may have ended later.
        execute format('select exists (select from public.%I q where q.completed_at >= now() - $1)', month.name)
        into young using drop_ended_months.older_than;
        continue when young;
        -- Dropping takes the foreign keys off their tables as well. A quarter of a second, well
        -- below deadlock_timeout: who is in the way goes on, this one comes again.
        begin
            perform set_config('lock_timeout', '250ms', true);
            lock table only public.users, public.images, public.processing_queue in access exclusive mode;
            lock table only public.processing_queue_ended in access exclusive mode;
            perform set_config('lock_timeout', patience, true);
        exception
            when lock_not_available then
                exit;
        end;
        execute format(
            'insert into public.queue_counts (status, priority, algorithm_name, jobs)'
            ' select q.status, q.priority, q.algorithm_name, -count(*) from public.%I q group by 1, 2, 3', month.name);
        execute format('drop table public.%I', month.name);
        dropped := dropped || month.name::text;
    end loop;
    return dropped;
end
$$;

drop function roll_up_summaries(integer);
drop function ended_job_summary();
drop function roll_up_ended_jobs();
drop function closed_through(text, timestamptz);
drop function sum_ended_jobs(timestamptz, timestamptz);
drop trigger processing_queue_ended_mark_change on processing_queue_ended;
drop trigger processing_queue_ended_mark_gone on processing_queue_ended;
drop trigger processing_queue_ended_mark_late on processing_queue_ended;
drop function mark_ended_job_day();
delete from rollup_progress where table_name = 'processing_queue';
alter table rollup_progress
    drop constraint rollup_progress_table_name_known,
    -- negspace: allow constraint-missing-not-valid because the table has a row or two
    add constraint rollup_progress_table_name_known check (table_name in ('performance_metrics', 'security_audit'));
drop table ended_job_changes;
drop table ended_job_waits;
drop table ended_job_days;

drop trigger audit_retirements_forget_sums on audit_retirements;
drop function forget_audit_month();
drop function roll_up_audit(integer);
drop function foreign_audit_row(audit_summary_progress);
drop function take_in_audit_rows(xid8, xid8, bigint, audit_summary_progress);
drop function next_audit_xid(text, xid8, bigint, xid8, integer);
drop function recent_audit_sums();
drop function audit_sums(text, xid8, xid8, bigint, bigint);
drop table audit_summary_progress;
drop table audit_user_months;
