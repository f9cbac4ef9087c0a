-- Buckets of waits alone, as they were, and percentiles within 1 % of the truth.

select pg_advisory_xact_lock(hashtextextended('negspace.roll_up_ended_jobs', 0));
delete from ended_job_waits;
delete from ended_job_days;
update rollup_progress set closed_through = null, rows_since = null where table_name = 'processing_queue';

drop table ended_job_spans;

alter table ended_job_waits drop column waits;
comment on table  ended_job_waits            is 'The histograms of ended_job_days, added up by month: a twentieth of them to read.';
comment on column ended_job_waits.bucket     is 'Bucket of the histogram.';
comment on index ended_job_waits_pkey is 'A month''s histogram; queue_status_summary.';

alter table ended_job_days drop column waits;
comment on column ended_job_days.buckets      is 'Buckets of the histogram of waits that hold one, ascending, as the metrics have them.';

create or replace function ended_job_summary()
    returns table (status queue_status, job_count bigint, mean_wait double precision, p50_wait double precision,
                   p95_wait double precision, max_wait double precision, oldest timestamptz, newest timestamptz)
    language plpgsql
    stable
    set search_path = pg_catalog, public, pg_temp
    set jit = off
    set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
    closed  constant timestamptz := coalesce(
        (select r.closed_through from public.rollup_progress r where r.table_name = 'processing_queue'), '-infinity');
    changed constant timestamptz[] := array(
        select distinct c.day from public.ended_job_changes c where c.day < closed);
begin
    return query
        with fresh as materialized (
            select f.* from unnest(changed) as c (day) cross join lateral public.sum_ended_jobs(c.day, c.day + interval '24 hours') f
            union all
            select f.* from public.sum_ended_jobs(closed, 'infinity') f
        ), moments as (
            select p.status, sum(p.job_count)::bigint as jobs, sum(p.waited_count)::bigint as waited, sum(p.wait_total) as total,
                   min(p.wait_minimum) as minimum, max(p.wait_maximum) as maximum,
                   min(p.oldest_at) as oldest, max(p.newest_at) as newest
            from (select d.* from public.ended_job_days d where d.day <> all (changed) union all select * from fresh) p
            group by p.status
        ), histogram as (
            select p.status, p.bucket, sum(p.waits) as waits
            from (
                select w.status, w.bucket, w.wait_count as waits from public.ended_job_waits w
                union all
                select d.status, u.bucket, -u.waits
                from public.ended_job_days d cross join unnest(d.buckets, d.counts) as u (bucket, waits)
                where d.day = any (changed)
                union all
                select f.status, u.bucket, u.waits
                from fresh f cross join unnest(f.buckets, f.counts) as u (bucket, waits)
            ) p
            group by p.status, p.bucket
            having sum(p.waits) > 0
        ), ranked as (
            select h.status, h.bucket, sum(h.waits) over (partition by h.status order by h.bucket) as through
            from histogram h
        ), places as (
            -- waits are counted from 0, as percentile_cont counts them
            select m.status,
                   min(r.bucket) filter (where r.through > floor(0.50 * (m.waited - 1)))   as low50,
                   min(r.bucket) filter (where r.through > ceiling(0.50 * (m.waited - 1))) as high50,
                   min(r.bucket) filter (where r.through > floor(0.95 * (m.waited - 1)))   as low95,
                   min(r.bucket) filter (where r.through > ceiling(0.95 * (m.waited - 1))) as high95
            from ranked r
            join moments m on m.status = r.status
            group by m.status
        )
        select m.status, m.jobs, m.total / nullif(m.waited, 0) / 1000,
               public.estimated_percentile(0.50, m.waited, l.low50, l.high50, m.minimum::numeric, m.maximum::numeric) / 1000,
               public.estimated_percentile(0.95, m.waited, l.low95, l.high95, m.minimum::numeric, m.maximum::numeric) / 1000,
               m.maximum / 1000, m.oldest, m.newest
        from moments m
        left join places l on l.status = m.status;
end
$$;
comment on function ended_job_summary() is
    'Ended jobs by status: how many, and how long they waited, in seconds. From the sums of closed days, and the jobs for the rest: always up to date; percentiles are within 1 %, everything else is exact.';
comment on view queue_status_summary is
    'Per status, those without jobs too: how many jobs, how long they waited before their newest try began (or have waited for it), the oldest and the newest. Ended ones from sums by day: their percentiles are within 1 %, everything else is exact.';

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
        delete from public.ended_job_days d
        where d.month = to_date(right(month.name, 6), 'YYYYMM')::timestamp at time zone 'UTC';
        delete from public.ended_job_waits w
        where w.month = to_date(right(month.name, 6), 'YYYYMM')::timestamp at time zone 'UTC';
        execute format('drop table public.%I', month.name);
        dropped := dropped || month.name::text;
    end loop;
    return dropped;
end
$$;

create or replace function roll_up_ended_jobs() returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    before  timestamptz;
    closed  timestamptz;
    late    timestamptz;
    changed timestamptz[]; -- days, …
    months  timestamptz[]; -- … and the months of what they hold or held
begin
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.roll_up_ended_jobs', 0)) then
        return 0;  -- somebody is at it, for all
    end if;
    closed := public.closed_through('processing_queue', date_trunc('day', clock_timestamp() - interval '5 minutes', 'UTC'));
    select r.closed_through into before from public.rollup_progress r where r.table_name = 'processing_queue';
    -- Those that are taken off the list here are those that are seen: what comes meanwhile stays.
    with gone as (delete from public.ended_job_changes c where c.day < closed returning c.day)
    select array_agg(distinct g.day) into changed from gone g;
    months := array(select distinct d.month from public.ended_job_days d where d.day = any (changed));
    delete from public.ended_job_days d where d.day = any (changed);
    foreach late in array coalesce(changed, '{}') loop
        insert into public.ended_job_days
        select * from public.sum_ended_jobs(late, least(late + interval '24 hours', coalesce(before, '-infinity')));
    end loop;
    if closed > coalesce(before, '-infinity') then
        insert into public.ended_job_days select * from public.sum_ended_jobs(coalesce(before, '-infinity'), closed);
        update public.rollup_progress set closed_through = closed where table_name = 'processing_queue';
    end if;
    months := months || array(
        select distinct d.month from public.ended_job_days d
        where d.day = any (changed) or d.day >= coalesce(before, '-infinity'));
    delete from public.ended_job_waits w where w.month = any (months);
    insert into public.ended_job_waits
    select d.month, d.status, u.bucket, sum(u.waits)
    from public.ended_job_days d cross join unnest(d.buckets, d.counts) as u (bucket, waits)
    where d.month = any (months)
    group by 1, 2, 3;
    return cardinality(months);
end
$$;

create or replace function sum_ended_jobs(first timestamptz, last timestamptz) returns setof ended_job_days
    language sql
    stable
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off  -- days, however many there are
as $$
    with jobs as (
        select date_trunc('day', q.completed_at, 'UTC') as day, date_trunc('month', q.created_at, 'UTC') as month,
               q.status, q.created_at,
               case when q.started_at is not null then
                   1000 * extract(epoch from greatest(q.started_at - greatest(q.created_at, q.scheduled_at), interval '0'))::double precision
               end as wait
        from public.processing_queue q
        where q.status in ('completed', 'failed', 'cancelled')
          and q.completed_at >= sum_ended_jobs.first and q.completed_at < sum_ended_jobs.last
    ), cells as (
        select j.day, j.month, j.status,
               case when j.wait = 0 then 0 else 500 + floor(ln(j.wait) / ln(1.02::double precision)) end::smallint as bucket,
               count(*) as jobs, min(j.created_at) as oldest, max(j.created_at) as newest, count(j.wait) as waited,
               coalesce(sum(j.wait), 0) as total, min(j.wait) as minimum, max(j.wait) as maximum
        from jobs j
        group by 1, 2, 3, 4
    )
    select c.day, c.month, c.status, sum(c.jobs)::bigint, min(c.oldest), max(c.newest), sum(c.waited)::bigint,
           sum(c.total), min(c.minimum), max(c.maximum),
           coalesce(array_agg(c.bucket order by c.bucket) filter (where c.bucket is not null), '{}'),
           coalesce(array_agg(c.waited::integer order by c.bucket) filter (where c.bucket is not null), '{}')
    from cells c
    group by 1, 2, 3
$$;

drop function ended_job_percentiles(ended_job_days[], ended_job_days[]);
drop function forget_ended_month(timestamptz);
drop function sum_up_ended_months(timestamptz[]);
drop function split_waits(bigint[]);
