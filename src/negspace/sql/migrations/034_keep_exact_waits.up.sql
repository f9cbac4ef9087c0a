-- Waits of ended jobs are kept to the microsecond, so that queue_status_summary's percentiles
-- are exact. Days keep all of theirs. Months keep them bucket by bucket, and how many there are
-- in spans of ten buckets: a percentile is looked for in spans, then in one span's buckets, then
-- among one bucket's waits, so that a hundred times the jobs take hardly longer to ask.

-- negspace: allow prefer-bigint-over-smallint in this file because buckets and spans lie below 3600


-- ── What is kept ────────────────────────────────────────────────────────────────────────
-- What is there has other buckets: it goes, and the next roll_up_ended_jobs(), which workers call
-- every minute, sums up anew. Until then the view reads the jobs.

select pg_advisory_xact_lock(hashtextextended('negspace.roll_up_ended_jobs', 0));
delete from ended_job_waits;
delete from ended_job_days;
update rollup_progress set closed_through = null where table_name = 'processing_queue';

alter table ended_job_days add column waits bigint[] not null default '{}';
comment on column ended_job_days.waits   is 'The waits themselves in microseconds, ascending.';
comment on column ended_job_days.buckets is 'Buckets that hold a wait, ascending: split_waits().';

alter table ended_job_waits add column waits bigint[] not null default '{}';
comment on table  ended_job_waits        is 'The waits of ended_job_days by month and bucket.';
comment on column ended_job_waits.bucket is 'Bucket: split_waits().';
comment on column ended_job_waits.waits  is 'The waits themselves in microseconds, ascending.';
comment on index  ended_job_waits_pkey   is 'A month''s buckets; queue_status_summary.';

create table ended_job_spans (
    month      timestamptz  not null,
    status     queue_status not null,
    span       smallint     not null,
    wait_count bigint       not null,

    constraint ended_job_spans_pkey                primary key (month, status, span),
    constraint ended_job_spans_wait_count_positive check (wait_count > 0)
);

comment on table  ended_job_spans            is 'How many waits ended_job_waits has in each ten buckets: a tenth of them to read.';
comment on column ended_job_spans.month      is 'As ended_job_days has it.';
comment on column ended_job_spans.status     is 'As ended_job_days has it.';
comment on column ended_job_spans.span       is 'A tenth of the bucket, without its rest.';
comment on column ended_job_spans.wait_count is 'How many waits they hold.';

comment on index ended_job_spans_pkey is 'A month''s spans; queue_status_summary.';

grant select on ended_job_spans to operator_role;


-- ── Summing up ──────────────────────────────────────────────────────────────────────────

create function split_waits(waits bigint[]) returns table (bucket smallint, bucket_waits bigint[])
    language sql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select case when u.wait = 0 then 0
                else 1000 + floor(ln(u.wait / 1000::double precision) / ln(1.01::double precision)) end::smallint,
           array_agg(u.wait order by u.wait)
    from unnest(split_waits.waits) as u (wait)
    group by 1
$$;
comment on function split_waits(bigint[]) is
    'Waits in microseconds by bucket, each of which is 1 % wider than the one before: none, and from there on the logarithm of milliseconds.';
revoke execute on function split_waits(bigint[]) from public;
grant execute on function split_waits(bigint[]) to operator_role;

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
                   (1000000 * extract(epoch from greatest(q.started_at - greatest(q.created_at, q.scheduled_at), interval '0')))::bigint
               end as wait
        from public.processing_queue q
        where q.status in ('completed', 'failed', 'cancelled')
          and q.completed_at >= sum_ended_jobs.first and q.completed_at < sum_ended_jobs.last
    ), days as (
        select j.day, j.month, j.status, count(*) as jobs, min(j.created_at) as oldest, max(j.created_at) as newest,
               coalesce(array_agg(j.wait order by j.wait) filter (where j.wait is not null), '{}') as waits
        from jobs j
        group by 1, 2, 3
    )
    select d.day, d.month, d.status, d.jobs, d.oldest, d.newest, cardinality(d.waits),
           coalesce(w.total, 0), d.waits[1] / 1000::double precision, d.waits[cardinality(d.waits)] / 1000::double precision,
           coalesce(w.buckets, '{}'), coalesce(w.counts, '{}'), d.waits
    from days d
    cross join lateral (
        select array_agg(s.bucket order by s.bucket) as buckets, array_agg(cardinality(s.bucket_waits) order by s.bucket) as counts,
               (select sum(u.wait) from unnest(d.waits) as u (wait)) / 1000::double precision as total
        from public.split_waits(d.waits) s
    ) w
$$;

create function sum_up_ended_months(months timestamptz[]) returns void
    language sql
    set search_path = pg_catalog, public, pg_temp
as $$
    delete from public.ended_job_waits w where w.month = any (sum_up_ended_months.months);
    delete from public.ended_job_spans s where s.month = any (sum_up_ended_months.months);
    insert into public.ended_job_waits (month, status, bucket, wait_count, waits)
    select d.month, d.status, s.bucket, count(*), array_agg(u.wait order by u.wait)
    from public.ended_job_days d cross join public.split_waits(d.waits) s cross join unnest(s.bucket_waits) as u (wait)
    where d.month = any (sum_up_ended_months.months)
    group by 1, 2, 3;
    insert into public.ended_job_spans (month, status, span, wait_count)
    select w.month, w.status, w.bucket / 10, sum(w.wait_count)
    from public.ended_job_waits w
    where w.month = any (sum_up_ended_months.months)
    group by 1, 2, 3;
$$;
comment on function sum_up_ended_months(timestamptz[]) is 'Adds up the days of some months anew, by bucket and by span.';
revoke execute on function sum_up_ended_months(timestamptz[]) from public;

create function forget_ended_month(month timestamptz) returns void
    language sql
    set search_path = pg_catalog, public, pg_temp
as $$
    delete from public.ended_job_days d where d.month = forget_ended_month.month;
    delete from public.ended_job_waits w where w.month = forget_ended_month.month;
    delete from public.ended_job_spans s where s.month = forget_ended_month.month;
    insert into public.rollup_progress as r (table_name, rows_since)
    values ('processing_queue', forget_ended_month.month + interval '1 month')
    on conflict (table_name) do update set rows_since = greatest(r.rows_since, excluded.rows_since);
$$;
comment on function forget_ended_month(timestamptz) is 'Removes the sums of a month whose ended jobs left, and notes that it left.';
revoke execute on function forget_ended_month(timestamptz) from public;

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
    perform public.sum_up_ended_months(months);
    return cardinality(months);
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
        -- … and those of that month that still wait will end in it.
        continue when exists (
            select from public.processing_queue_hot q
            where date_trunc('month', q.created_at, 'UTC') = to_date(right(month.name, 6), 'YYYYMM')::timestamp at time zone 'UTC');
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
        perform public.forget_ended_month(to_date(right(month.name, 6), 'YYYYMM')::timestamp at time zone 'UTC');
        execute format('drop table public.%I', month.name);
        dropped := dropped || month.name::text;
    end loop;
    return dropped;
end
$$;


-- ── Asking ──────────────────────────────────────────────────────────────────────────────

create function ended_job_percentiles(fresh ended_job_days[], gone ended_job_days[])
    returns table (status queue_status, fraction double precision, wait double precision)
    language sql
    stable
    set search_path = pg_catalog, public, pg_temp
    set jit = off
as $$
    with spans as (
        select p.status, p.span, sum(p.waits)::bigint as waits,
               (sum(sum(p.waits)) over (partition by p.status order by p.span) - sum(p.waits))::bigint as before,
               (sum(sum(p.waits)) over (partition by p.status))::bigint as waited
        from (
            select s.status, s.span, s.wait_count as waits from public.ended_job_spans s
            union all
            select g.status, u.bucket / 10::smallint, -u.waits
            from unnest(ended_job_percentiles.gone) g cross join unnest(g.buckets, g.counts) as u (bucket, waits)
            union all
            select f.status, u.bucket / 10::smallint, u.waits
            from unnest(ended_job_percentiles.fresh) f cross join unnest(f.buckets, f.counts) as u (bucket, waits)
        ) p
        group by p.status, p.span
        having sum(p.waits) > 0
    ), wanted as (
        -- the two waits around each percentile, counted from 0, as percentile_cont takes them
        select t.status, q.fraction, r.rank, q.fraction * (t.waited - 1) - floor(q.fraction * (t.waited - 1)) as beyond
        from (select distinct s.status, s.waited from spans s) t
        cross join (values (0.5::double precision), (0.95::double precision)) as q (fraction)
        cross join lateral (values (floor(q.fraction * (t.waited - 1))::bigint),
                                   (ceiling(q.fraction * (t.waited - 1))::bigint)) as r (rank)
    ), found_spans as (
        select distinct s.status, s.span, s.before
        from wanted k join spans s on s.status = k.status and k.rank >= s.before and k.rank < s.before + s.waits
    ), buckets as (
        select i.status, b.bucket, sum(b.waits)::bigint as waits,
               (i.before + sum(sum(b.waits)) over (partition by i.status, i.span order by b.bucket) - sum(b.waits))::bigint as before
        from found_spans i
        cross join lateral (
            select w.bucket, w.wait_count as waits from public.ended_job_waits w
            where w.status = i.status and w.bucket between 10 * i.span and 10 * i.span + 9
            union all
            select u.bucket, -u.waits
            from unnest(ended_job_percentiles.gone) g cross join unnest(g.buckets, g.counts) as u (bucket, waits)
            where g.status = i.status and u.bucket between 10 * i.span and 10 * i.span + 9
            union all
            select u.bucket, u.waits
            from unnest(ended_job_percentiles.fresh) f cross join unnest(f.buckets, f.counts) as u (bucket, waits)
            where f.status = i.status and u.bucket between 10 * i.span and 10 * i.span + 9
        ) b
        group by i.status, i.span, i.before, b.bucket
        having sum(b.waits) > 0
    ), found_buckets as (
        select distinct b.status, b.bucket, b.before
        from wanted k join buckets b on b.status = k.status and k.rank >= b.before and k.rank < b.before + b.waits
    ), waits as (
        select i.status, i.before + row_number() over (partition by i.status, i.bucket order by v.wait) - 1 as rank, v.wait
        from found_buckets i
        cross join lateral (
            select u.wait from public.ended_job_waits w cross join unnest(w.waits) as u (wait)
            where w.status = i.status and w.bucket = i.bucket
            except all
            select u.wait
            from unnest(ended_job_percentiles.gone) g cross join public.split_waits(g.waits) s cross join unnest(s.bucket_waits) as u (wait)
            where g.status = i.status and s.bucket = i.bucket
            union all
            select u.wait
            from unnest(ended_job_percentiles.fresh) f cross join public.split_waits(f.waits) s cross join unnest(s.bucket_waits) as u (wait)
            where f.status = i.status and s.bucket = i.bucket
        ) v
    )
    select k.status, k.fraction, (min(w.wait) + (max(w.wait) - min(w.wait)) * k.beyond) / 1000000
    from wanted k
    join waits w on w.status = k.status and w.rank = k.rank
    group by k.status, k.fraction, k.beyond
$$;
comment on function ended_job_percentiles(ended_job_days[], ended_job_days[]) is
    'The median and the 95th percentile of ended jobs'' waits by status, in seconds, exactly as percentile_cont has them: of what is added up, without the days gone and with those of fresh.';
revoke execute on function ended_job_percentiles(ended_job_days[], ended_job_days[]) from public;
grant execute on function ended_job_percentiles(ended_job_days[], ended_job_days[]) to operator_role;

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
    -- days that are read from the jobs, and what they were when they were summed up
    fresh   constant public.ended_job_days[] := array(
        select f from unnest(changed) as c (day) cross join lateral public.sum_ended_jobs(c.day, c.day + interval '24 hours') f
        union all
        select f from public.sum_ended_jobs(closed, 'infinity') f);
    gone    constant public.ended_job_days[] := array(select d from public.ended_job_days d where d.day = any (changed));
begin
    return query
        with moments as (
            select p.status, sum(p.job_count)::bigint as jobs, sum(p.waited_count)::bigint as waited, sum(p.wait_total) as total,
                   max(p.wait_maximum) as maximum, min(p.oldest_at) as oldest, max(p.newest_at) as newest
            from (select d.status, d.job_count, d.waited_count, d.wait_total, d.wait_maximum, d.oldest_at, d.newest_at
                  from public.ended_job_days d where d.day <> all (changed)
                  union all
                  select f.status, f.job_count, f.waited_count, f.wait_total, f.wait_maximum, f.oldest_at, f.newest_at
                  from unnest(fresh) f) p
            group by p.status
        ), percentiles as (
            select e.status, max(e.wait) filter (where e.fraction = 0.5) as p50, max(e.wait) filter (where e.fraction = 0.95) as p95
            from public.ended_job_percentiles(fresh, gone) e
            group by e.status
        )
        select m.status, m.jobs, m.total / nullif(m.waited, 0) / 1000, e.p50, e.p95, m.maximum / 1000, m.oldest, m.newest
        from moments m
        left join percentiles e on e.status = m.status;
end
$$;
comment on function ended_job_summary() is
    'Ended jobs by status: how many, and how long they waited, in seconds. From the sums of closed days, and the jobs for the rest: always up to date, and exact.';

comment on view queue_status_summary is
    'Per status, those without jobs too: how many jobs, how long they waited before their newest try began (or have waited for it), the oldest and the newest. Ended ones from sums by day: exact at any moment.';
