-- Roll-ups of the metrics by minute, hour and day, each with a histogram of its values, and
-- aggregate_performance_metrics() from them.
--
-- An hour is closed, and rolled up, once nobody can add to it unseen. Whoever writes a sample
-- later than five minutes after its time marks its hour (a trigger, whose WHEN costs the others
-- nothing); whoever wrote earlier had a transaction number by then, so the hour is safe when all
-- transactions that were numbered by then have ended. What is marked or not yet closed is read
-- from the samples, so that an answer is never out of date.
--
-- Histograms have logarithmic buckets, so that a percentile is off by 1 % at most and histograms
-- add up (DDSketch: Masson, Rim and Lee, PVLDB 12(12), 2019). Bucket 0 holds zero; bucket
-- 500 + i holds 1.02^i to 1.02^(i + 1), bucket -500 - i the same below zero. Values have four
-- decimals and eleven digits before them, so i lies between -466 and 1280.

-- negspace: allow prefer-bigint-over-int in this file because they are counts within one bucket of a day at most
-- negspace: allow prefer-bigint-over-smallint in this file because buckets lie within 1800 either way


-- ── Series ──────────────────────────────────────────────────────────────────────────────

create table metric_series (
    id          bigint      not null generated always as identity,
    metric_name text        not null,
    metric_type text        not null,
    unit        text        not null,
    labels      jsonb       not null,
    labels_hash text        not null generated always as (sha256_hex(labels::text)) stored,
    created_at  timestamptz not null default now(),

    constraint metric_series_pkey         primary key (id),
    constraint metric_series_identity_key unique (metric_name, metric_type, unit, labels_hash)
);

comment on table  metric_series             is 'What roll-ups are told apart by: one row per metric, type, unit and labels.';
comment on column metric_series.id          is 'Number of the series.';
comment on column metric_series.metric_name is 'As performance_metrics has it.';
comment on column metric_series.metric_type is 'As performance_metrics has it.';
comment on column metric_series.unit        is 'As performance_metrics has it.';
comment on column metric_series.labels      is 'As performance_metrics has it.';
comment on column metric_series.labels_hash is 'SHA-256 of the labels'' text: they may be longer than an index takes.';
comment on column metric_series.created_at  is 'When it was first rolled up.';

comment on index metric_series_pkey is 'One series; what foreign keys lead to.';
comment on index metric_series_identity_key is 'The series of a metric, by name; each once.';

grant select on metric_series to app_user;


-- ── Roll-ups ────────────────────────────────────────────────────────────────────────────

create table metric_minutes (
    series_id    bigint        not null,
    started_at   timestamptz   not null,
    sample_count bigint        not null,
    total        numeric       not null,
    minimum      numeric(15,4) not null,
    maximum      numeric(15,4) not null,
    buckets      smallint[]    not null,
    counts       integer[]     not null,

    constraint metric_minutes_pkey                    primary key (series_id, started_at),
    constraint metric_minutes_series_id_fkey          foreign key (series_id) references metric_series (id) on delete cascade,
    constraint metric_minutes_sample_count_positive   check (sample_count > 0),
    constraint metric_minutes_counts_match_buckets    check (cardinality(counts) = cardinality(buckets) and cardinality(buckets) > 0),
    constraint metric_minutes_minimum_not_above       check (minimum <= maximum)
);

comment on table  metric_minutes              is 'Metrics by minute (UTC), of the last weeks.';
comment on column metric_minutes.series_id    is 'The series.';
comment on column metric_minutes.started_at   is 'When the minute began.';
comment on column metric_minutes.sample_count is 'How many samples.';
comment on column metric_minutes.total        is 'Their sum.';
comment on column metric_minutes.minimum      is 'The smallest value of a row.';
comment on column metric_minutes.maximum      is 'The largest value of a row.';
comment on column metric_minutes.buckets      is 'Buckets of the histogram that hold a row, ascending.';
comment on column metric_minutes.counts       is 'How many rows each of them holds.';

comment on index metric_minutes_pkey is 'A series over time, by minute; the foreign key.';

grant select on metric_minutes to app_user;

create table metric_hours (
    series_id    bigint        not null,
    started_at   timestamptz   not null,
    sample_count bigint        not null,
    total        numeric       not null,
    minimum      numeric(15,4) not null,
    maximum      numeric(15,4) not null,
    buckets      smallint[]    not null,
    counts       integer[]     not null,

    constraint metric_hours_pkey                    primary key (series_id, started_at),
    constraint metric_hours_series_id_fkey          foreign key (series_id) references metric_series (id) on delete cascade,
    constraint metric_hours_sample_count_positive   check (sample_count > 0),
    constraint metric_hours_counts_match_buckets    check (cardinality(counts) = cardinality(buckets) and cardinality(buckets) > 0),
    constraint metric_hours_minimum_not_above       check (minimum <= maximum)
);

comment on table  metric_hours              is 'Metrics by hour (UTC); they stay when the samples go.';
comment on column metric_hours.series_id    is 'The series.';
comment on column metric_hours.started_at   is 'When the hour began.';
comment on column metric_hours.sample_count is 'How many samples.';
comment on column metric_hours.total        is 'Their sum.';
comment on column metric_hours.minimum      is 'The smallest value of a row.';
comment on column metric_hours.maximum      is 'The largest value of a row.';
comment on column metric_hours.buckets      is 'Buckets of the histogram that hold a row, ascending.';
comment on column metric_hours.counts       is 'How many rows each of them holds.';

comment on index metric_hours_pkey is 'A series over time, by hour; the foreign key.';

grant select on metric_hours to app_user;

create table metric_days (
    series_id    bigint        not null,
    started_at   timestamptz   not null,
    sample_count bigint        not null,
    total        numeric       not null,
    minimum      numeric(15,4) not null,
    maximum      numeric(15,4) not null,
    buckets      smallint[]    not null,
    counts       integer[]     not null,

    constraint metric_days_pkey                    primary key (series_id, started_at),
    constraint metric_days_series_id_fkey          foreign key (series_id) references metric_series (id) on delete cascade,
    constraint metric_days_sample_count_positive   check (sample_count > 0),
    constraint metric_days_counts_match_buckets    check (cardinality(counts) = cardinality(buckets) and cardinality(buckets) > 0),
    constraint metric_days_minimum_not_above       check (minimum <= maximum)
);

comment on table  metric_days              is 'Metrics by day (UTC); they stay when the samples go.';
comment on column metric_days.series_id    is 'The series.';
comment on column metric_days.started_at   is 'When the day began.';
comment on column metric_days.sample_count is 'How many samples.';
comment on column metric_days.total        is 'Their sum.';
comment on column metric_days.minimum      is 'The smallest value of a row.';
comment on column metric_days.maximum      is 'The largest value of a row.';
comment on column metric_days.buckets      is 'Buckets of the histogram that hold a row, ascending.';
comment on column metric_days.counts       is 'How many rows each of them holds.';

comment on index metric_days_pkey is 'A series over time, by day; the foreign key.';

grant select on metric_days to app_user;


-- ── How far ─────────────────────────────────────────────────────────────────────────────

create table rollup_progress (
    table_name     text        not null,
    closed_through timestamptz null,
    closing_at     timestamptz null,
    closing_xid    bigint      null,
    minutes_since  timestamptz null,
    rows_since     timestamptz null,

    constraint rollup_progress_pkey             primary key (table_name),
    constraint rollup_progress_table_name_known check (table_name in ('performance_metrics', 'security_audit')),
    constraint rollup_progress_closing_whole    check ((closing_at is null) = (closing_xid is null))
);

comment on table  rollup_progress                is 'How far each table is rolled up.';
comment on column rollup_progress.table_name     is 'The table.';
comment on column rollup_progress.closed_through is 'Everything before it is rolled up; null: nothing yet.';
comment on column rollup_progress.closing_at     is 'Where what is rolled up next ends, once every transaction below closing_xid has ended.';
comment on column rollup_progress.closing_xid    is 'Above the number of every transaction that might still write before closing_at unseen.';
comment on column rollup_progress.minutes_since  is 'Roll-ups by minute are kept from then on.';
comment on column rollup_progress.rows_since     is 'The rows themselves are kept from then on; null: all are there.';

comment on index rollup_progress_pkey is 'One table.';

grant select on rollup_progress to app_user;

create table metric_changes (
    id   bigint      not null generated always as identity,
    hour timestamptz not null,

    constraint metric_changes_pkey primary key (id)
);

comment on table  metric_changes      is 'Hours (UTC) whose samples changed late: read from the samples until they are rolled up anew. Each writer adds rows of its own, so that nobody waits.';
comment on column metric_changes.id   is 'Number of the row.';
comment on column metric_changes.hour is 'When the hour began.';

comment on index metric_changes_pkey is 'One change.';
create index metric_changes_hour_idx on metric_changes (hour);
comment on index metric_changes_hour_idx is 'Whether an hour changed, and which did.';

grant select on metric_changes to app_user;


-- ── Late samples ────────────────────────────────────────────────────────────────────────

create function mark_metric_hour(at timestamptz) returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    hour_of constant timestamptz := date_trunc('hour', at, 'UTC');
begin
    if hour_of < (select p.rows_since from public.rollup_progress p where p.table_name = 'performance_metrics') then
        raise exception 'samples of % are kept no more, only their roll-ups', at
            using errcode = 'NS004', hint = 'record samples before their retention ends; rollup_progress says since when they are kept';
    end if;
    -- once per transaction is enough
    insert into public.metric_changes (hour)
    select hour_of
    where not exists (select from public.metric_changes c
                      where c.hour = hour_of and c.xmin = pg_current_xact_id()::xid);
end
$$;
comment on function mark_metric_hour(timestamptz) is 'Notes that the samples of an hour changed after it may have been rolled up.';
revoke execute on function mark_metric_hour(timestamptz) from public;

create function mark_metric_change() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    if tg_op <> 'INSERT' then
        perform public.mark_metric_hour(old.recorded_at);
    end if;
    if tg_op <> 'DELETE' then
        perform public.mark_metric_hour(new.recorded_at);
    end if;
    return null;
end
$$;
comment on function mark_metric_change() is 'Marks the hour of a sample that came late, changed or went.';
revoke execute on function mark_metric_change() from public;

create trigger performance_metrics_mark_late
    after insert on performance_metrics
    for each row
    when (new.recorded_at < clock_timestamp() - interval '5 minutes')
    execute function mark_metric_change();
comment on trigger performance_metrics_mark_late on performance_metrics is 'A late sample marks its hour.';

create trigger performance_metrics_mark_change
    after update or delete on performance_metrics
    for each row
    execute function mark_metric_change();
comment on trigger performance_metrics_mark_change on performance_metrics is 'A sample that changes or goes marks its hour.';


-- ── Samples of jobs: their percentiles too, which of one sample are its value ────────────

create or replace function record_job_metrics(job processing_queue, outcome text, ended_at timestamptz) returns void
    language sql
    set search_path = pg_catalog, public, pg_temp
as $$
    insert into public.performance_metrics (metric_name, value, unit, labels, context, percentile_p50, percentile_p95, percentile_p99)
    select m.name, v.ms, 'ms',
           jsonb_build_object('algorithm', (record_job_metrics.job).algorithm_name, 'outcome', record_job_metrics.outcome),
           jsonb_build_object('job_id', (record_job_metrics.job).id), v.ms, v.ms, v.ms
    from (values
        ('job_wait_ms', extract(epoch from (record_job_metrics.job).started_at
                                - greatest((record_job_metrics.job).created_at, (record_job_metrics.job).scheduled_at)) * 1000),
        ('job_run_ms',  extract(epoch from record_job_metrics.ended_at - (record_job_metrics.job).started_at) * 1000)
    ) as m (name, ms)
    cross join lateral (select round(greatest(m.ms, 0), 4) as ms) v
    where m.ms is not null
$$;

create or replace function record_batch_metrics(held processing_queue[], outcome queue_status, ended_at timestamptz) returns void
    language sql
    set search_path = pg_catalog, public, pg_temp
as $$
    insert into public.performance_metrics (metric_name, value, unit, labels, context, percentile_p50, percentile_p95, percentile_p99)
    select m.name, v.ms, 'ms',
           jsonb_build_object('algorithm', h.algorithm_name, 'outcome', record_batch_metrics.outcome),
           jsonb_build_object('job_id', h.id), v.ms, v.ms, v.ms
    from unnest(record_batch_metrics.held) h
    cross join lateral (values
        ('job_wait_ms', extract(epoch from h.started_at - greatest(h.created_at, h.scheduled_at)) * 1000),
        ('job_run_ms',  extract(epoch from record_batch_metrics.ended_at - h.started_at) * 1000)
    ) as m (name, ms)
    cross join lateral (select round(greatest(m.ms, 0), 4) as ms) v
    where m.ms is not null
$$;


-- ── Rolling up ──────────────────────────────────────────────────────────────────────────

create function roll_up_metric_hours(first timestamptz, last timestamptz, minutes_since timestamptz) returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    delete from public.metric_changes c where c.hour >= first and c.hour < last;
    insert into public.metric_series (metric_name, metric_type, unit, labels)
    select distinct m.metric_name, m.metric_type, m.unit, m.labels
    from public.performance_metrics m
    where m.recorded_at >= first and m.recorded_at < last
    on conflict do nothing;
    delete from public.metric_minutes r
    using public.metric_series s where r.series_id = s.id and r.started_at >= first and r.started_at < last;
    delete from public.metric_hours r
    using public.metric_series s where r.series_id = s.id and r.started_at >= first and r.started_at < last;

    -- the histogram of each minute, a row per bucket; aggregate_performance_metrics() has the same arithmetic
    with cells as materialized (
        select s.id as series_id, date_trunc('minute', m.recorded_at, 'UTC') as started_at,
               case when m.value = 0 then 0
                    else sign(m.value) * (500 + floor(ln(abs(m.value::double precision)) / ln(1.02::double precision)))
               end::smallint as bucket,
               count(*) as rows, sum(m.sample_count) as samples, sum(m.value * m.sample_count) as total,
               min(m.value) as minimum, max(m.value) as maximum
        from public.performance_metrics m
        join public.metric_series s on s.metric_name = m.metric_name and s.metric_type = m.metric_type
                                   and s.unit = m.unit and s.labels = m.labels
        where m.recorded_at >= first and m.recorded_at < last
        group by 1, 2, 3
    ), by_minute as (
        insert into public.metric_minutes
        select c.series_id, c.started_at, sum(c.samples), sum(c.total), min(c.minimum), max(c.maximum),
               array_agg(c.bucket order by c.bucket), array_agg(c.rows::integer order by c.bucket)
        from cells c
        where c.started_at >= roll_up_metric_hours.minutes_since
        group by 1, 2
    )
    insert into public.metric_hours
    select h.series_id, h.started_at, sum(h.samples), sum(h.total), min(h.minimum), max(h.maximum),
           array_agg(h.bucket order by h.bucket), array_agg(h.rows::integer order by h.bucket)
    from (
        select c.series_id, date_trunc('hour', c.started_at, 'UTC') as started_at, c.bucket, sum(c.rows) as rows,
               sum(c.samples) as samples, sum(c.total) as total, min(c.minimum) as minimum, max(c.maximum) as maximum
        from cells c
        group by 1, 2, 3
    ) h
    group by 1, 2;
end
$$;
comment on function roll_up_metric_hours(timestamptz, timestamptz, timestamptz) is
    'Makes the roll-ups of the hours from first to last (UTC, last not included) anew from the samples; by minute from minutes_since on.';
revoke execute on function roll_up_metric_hours(timestamptz, timestamptz, timestamptz) from public;

create function roll_up_metric_days(first timestamptz, last timestamptz) returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    delete from public.metric_days r
    using public.metric_series s where r.series_id = s.id and r.started_at >= first and r.started_at < last;
    insert into public.metric_days
    select m.series_id, m.started_at, m.samples, m.total, m.minimum, m.maximum, b.buckets, b.counts
    from (
        select h.series_id, date_trunc('day', h.started_at, 'UTC') as started_at, sum(h.sample_count) as samples,
               sum(h.total) as total, min(h.minimum) as minimum, max(h.maximum) as maximum
        from public.metric_series s
        join public.metric_hours h on h.series_id = s.id and h.started_at >= first and h.started_at < last
        group by 1, 2
    ) m
    cross join lateral (
        select array_agg(c.bucket order by c.bucket) as buckets, array_agg(c.rows order by c.bucket) as counts
        from (
            select u.bucket, sum(u.rows)::integer as rows
            from public.metric_hours h
            cross join unnest(h.buckets, h.counts) as u (bucket, rows)
            where h.series_id = m.series_id and h.started_at >= m.started_at and h.started_at < m.started_at + interval '24 hours'
            group by 1
        ) c
    ) b;
end
$$;
comment on function roll_up_metric_days(timestamptz, timestamptz) is
    'Makes the roll-ups of the days from first to last (UTC, last not included) anew from those of their hours.';
revoke execute on function roll_up_metric_days(timestamptz, timestamptz) from public;

create function roll_up_metrics(most_hours integer default 24) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    numbered constant boolean := pg_current_xact_id_if_assigned() is not null;
    settled  constant timestamptz := date_trunc('hour', clock_timestamp() - interval '5 minutes', 'UTC');
    mine     bigint;
    p        public.rollup_progress%rowtype;
    first    timestamptz;
    late     timestamptz;
    done     integer := 0;
begin
    if most_hours is null or most_hours not between 1 and 8784 then
        raise exception 'most_hours must be from 1 to 8784, not %', coalesce(most_hours::text, 'null')
            using errcode = 'NS004', hint = 'call it again until it returns 0';
    end if;
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.roll_up_metrics', 0)) then
        return 0;  -- somebody is at it, for all
    end if;
    select * into p from public.rollup_progress r where r.table_name = 'performance_metrics';
    -- A number drawn now is above all that were drawn before; one that is above it is from
    -- another server, before a restore.
    mine := pg_current_xact_id()::text::bigint;
    if p.closing_at is null or p.closing_xid > mine or p.closing_at <= p.closed_through then
        if numbered then
            return 0;  -- long ago, perhaps
        end if;
        p.closing_at := settled;
        p.closing_xid := mine;
    end if;
    p.minutes_since := coalesce(p.minutes_since, p.closing_at - interval '720 hours');
    if pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= p.closing_xid then
        first := coalesce(p.closed_through, (select date_trunc('hour', min(m.recorded_at), 'UTC') from public.performance_metrics m));
        p.closed_through := least(first + make_interval(hours => most_hours), p.closing_at);
        if first < p.closed_through then
            perform public.roll_up_metric_hours(first, p.closed_through, p.minutes_since);
            perform public.roll_up_metric_days(date_trunc('day', first, 'UTC'), date_trunc('day', p.closed_through, 'UTC'));
            done := extract(epoch from p.closed_through - first) / 3600;
        end if;
    end if;
    insert into public.rollup_progress as r (table_name, closed_through, closing_at, closing_xid, minutes_since)
    values ('performance_metrics', p.closed_through, p.closing_at, p.closing_xid, p.minutes_since)
    on conflict (table_name) do update
    set closed_through = excluded.closed_through, closing_at = excluded.closing_at,
        closing_xid = excluded.closing_xid, minutes_since = excluded.minutes_since;
    for late in
        select distinct c.hour from public.metric_changes c
        where c.hour < p.closed_through
        order by c.hour limit greatest(most_hours - done, 1)
    loop
        perform public.roll_up_metric_hours(late, late + interval '1 hour', p.minutes_since);
        if date_trunc('day', late, 'UTC') + interval '24 hours' <= p.closed_through then
            perform public.roll_up_metric_days(date_trunc('day', late, 'UTC'), date_trunc('day', late, 'UTC') + interval '24 hours');
        end if;
        done := done + 1;
    end loop;
    return done;
end
$$;
comment on function roll_up_metrics(integer) is
    'Rolls up the hours that are closed, oldest first, then those that changed late, some most_hours of them, and returns how many. Safe to call often and by many; call it until it returns 0, in a transaction of its own, which nobody waits for. Hours are closed when every transaction that might still add to them has ended.';
revoke execute on function roll_up_metrics(integer) from public;
grant execute on function roll_up_metrics(integer) to app_user;

create function purge_metrics(keep_samples interval default '400 days', keep_minutes interval default '30 days') returns text[]
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    p        public.rollup_progress%rowtype;
    part     record;
    patience constant text := current_setting('lock_timeout');
    gone     text[] := '{}';
begin
    if keep_samples is null or keep_samples < interval '31 days' or keep_minutes is null or keep_minutes < interval '1 day' then
        raise exception 'samples are kept for 31 days at least and minutes for a day, not for % and %',
            coalesce(keep_samples::text, 'null'), coalesce(keep_minutes::text, 'null')
            using errcode = 'NS004', hint = 'such as interval ''400 days'' and interval ''30 days''';
    end if;
    -- the lock of roll_up_metrics(): what it works on must not go
    perform pg_advisory_xact_lock(hashtextextended('negspace.roll_up_metrics', 0));
    select * into p from public.rollup_progress r where r.table_name = 'performance_metrics';
    update public.rollup_progress
    set minutes_since = greatest(minutes_since, date_trunc('hour', least(now() - keep_minutes, closed_through), 'UTC'))
    where table_name = 'performance_metrics';
    delete from public.metric_minutes r
    using public.metric_series s, public.rollup_progress q
    where q.table_name = 'performance_metrics' and r.series_id = s.id and r.started_at < q.minutes_since;

    perform set_config('lock_timeout', '250ms', true);
    for part in
        select c.relname as name,
               (make_timestamp(substr(c.relname, 21, 4)::integer, right(c.relname, 2)::integer, 1, 0, 0, 0)
                + interval '1 month') at time zone 'UTC' as until
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'public.performance_metrics'::regclass and c.relname ~ '^performance_metrics_[0-9]{6}$'
        order by until
    loop
        exit when (part.until <= least(now() - keep_samples, p.closed_through)) is not true
               or p.closed_through is null
               or exists (select from public.metric_changes m where m.hour < part.until);
        begin
            execute format('drop table public.%I', part.name);
        exception
            when lock_not_available then
                exit;
        end;
        update public.rollup_progress set rows_since = part.until where table_name = 'performance_metrics';
        gone := gone || part.name::text;
    end loop;
    perform set_config('lock_timeout', patience, true);
    return gone;
end
$$;
comment on function purge_metrics(interval, interval) is
    'Drops the monthly partitions whose samples are all older than keep_samples and rolled up, and returns their names; removes minutes older than keep_minutes. Hours and days stay. Gives up where a partition is in use for a quarter of a second.';
revoke execute on function purge_metrics(interval, interval) from public;


-- ── Answers ─────────────────────────────────────────────────────────────────────────────

create function metric_bucket_value(bucket smallint) returns double precision
    language sql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    -- as far from both ends, relatively: 2 x 1.02^(i + 1) / (1.02 + 1)
    select case when bucket = 0 then 0
                else sign(bucket) * 2 / 2.02::double precision * power(1.02::double precision, abs(bucket) - 499)
           end
$$;
comment on function metric_bucket_value(smallint) is 'The value that stands for a bucket: within 1 % of every value in it.';

create function estimated_percentile(
    fraction double precision, rows bigint, low smallint, high smallint, minimum numeric, maximum numeric
) returns double precision
    language sql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select greatest(minimum::double precision, least(maximum::double precision,
        v.low + (v.high - v.low) * (fraction * (rows - 1) - floor(fraction * (rows - 1)))))
    from (select public.metric_bucket_value(estimated_percentile.low) as low,
                 public.metric_bucket_value(estimated_percentile.high) as high) v
$$;
comment on function estimated_percentile(double precision, bigint, smallint, smallint, numeric, numeric) is
    'A percentile as percentile_cont has it, from the buckets of the two rows around it; never outside minimum and maximum.';

create function whole_units(unit text, begins timestamptz, ends timestamptz) returns tstzmultirange
    language sql
    stable parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select tstzmultirange(tstzrange(b.first, greatest(b.first, date_trunc(whole_units.unit, whole_units.ends, 'UTC'))))
    from (select case when date_trunc(whole_units.unit, whole_units.begins, 'UTC') = whole_units.begins then whole_units.begins
                      else date_trunc(whole_units.unit, whole_units.begins, 'UTC')
                           -- 24 hours: a day of the session's time zone may be longer
                           + case whole_units.unit when 'day' then interval '24 hours' else ('1 ' || whole_units.unit)::interval end
                 end as first) b
$$;
comment on function whole_units(text, timestamptz, timestamptz) is
    'From the first whole minute, hour or day (UTC) of a span to the end of its last; empty where there is none.';

create or replace function aggregate_performance_metrics(
    metric       text,
    window_size  interval,
    since        timestamptz default null,
    until        timestamptz default null,
    having_labels jsonb      default '{}'
) returns table (
    window_start timestamptz,
    window_end   timestamptz,
    sample_count bigint,
    mean         double precision,
    minimum      numeric,
    maximum      numeric,
    p50          double precision,
    p95          double precision,
    p99          double precision
)
    language plpgsql
    stable
    set search_path = pg_catalog, public, pg_temp
    set jit = off  -- it takes longer to compile the query than the query takes
    set plan_cache_mode = force_custom_plan  -- what a span holds differs by orders of magnitude
as $$
#variable_conflict use_column
declare
    origin  constant timestamptz := '2000-01-01 00:00:00+00';
    seconds constant numeric := extract(epoch from window_size);
    begins  constant timestamptz := coalesce(since, '-infinity');
    ends    constant timestamptz := coalesce(until, 'infinity');
    stride  interval;
    p       public.rollup_progress%rowtype;
    closed  timestamptz;
    changed timestamptz[];          -- hours that changed after they were rolled up,
    late    tstzmultirange;         -- and the same as spans
    days    tstzmultirange := '{}'; -- what is answered by day, the rest …
    hours   tstzmultirange := '{}'; -- … by hour, the rest …
    minutes tstzmultirange := '{}'; -- … by minute, the rest …
    samples tstzmultirange;         -- … by the samples
begin
    if window_size is null or seconds <= 0 or seconds > 3155760000 then
        raise exception 'the window must be longer than nothing and at most a century, not %', coalesce(window_size::text, 'null')
            using errcode = 'NS004', hint = 'such as interval ''1 hour''';
    end if;
    stride := make_interval(secs => seconds::double precision);
    if begins >= ends then
        return;
    end if;
    select * into p from public.rollup_progress r where r.table_name = 'performance_metrics';
    closed := least(ends, coalesce(p.closed_through, '-infinity'));
    if begins < closed then
        changed := array(select distinct c.hour from public.metric_changes c where c.hour < closed and c.hour > begins - interval '24 hours');
        late := coalesce((select range_agg(tstzrange(h.at, h.at + interval '1 hour')) from unnest(changed) as h (at)), '{}');
        if mod(seconds, 86400) = 0 then
            days := public.whole_units('day', begins, closed)
                  - coalesce((select range_agg(tstzrange(d.at, d.at + interval '24 hours'))
                              from unnest(changed) as h (at)
                              cross join lateral (select date_trunc('day', h.at, 'UTC') as at) d), '{}');
        end if;
        if mod(seconds, 3600) = 0 then
            hours := public.whole_units('hour', begins, closed) - late - days;
        end if;
        if mod(seconds, 60) = 0 then
            minutes := public.whole_units('minute', greatest(begins, p.minutes_since), closed) - late - days - hours;
        end if;
    end if;
    samples := tstzmultirange(tstzrange(begins, ends)) - days - hours - minutes;
    if lower(samples) < p.rows_since then
        raise exception 'before % metrics are kept by the hour alone', p.rows_since
            using errcode = 'NS004', hint = 'ask for windows of whole hours (UTC), since a whole hour or since later';
    end if;

    if isempty(days + hours + minutes) then
        return query
            select b.start,
                   b.start + stride,
                   sum(m.sample_count)::bigint,
                   (sum(m.value * m.sample_count) / sum(m.sample_count))::double precision,
                   min(m.value),
                   max(m.value),
                   percentile_cont(0.50) within group (order by m.value::double precision),
                   percentile_cont(0.95) within group (order by m.value::double precision),
                   percentile_cont(0.99) within group (order by m.value::double precision)
            from public.performance_metrics m
            cross join lateral (select date_bin(stride, m.recorded_at, origin) as start) b
            where m.metric_name = aggregate_performance_metrics.metric
              and m.recorded_at >= begins and m.recorded_at < ends
              and m.labels @> aggregate_performance_metrics.having_labels
            group by b.start
            order by b.start;
        return;
    end if;

    return query
        with series as materialized (
            select s.id from public.metric_series s
            where s.metric_name = aggregate_performance_metrics.metric and s.labels @> aggregate_performance_metrics.having_labels
        ), parts as materialized (
            select date_bin(stride, d.started_at, origin) as start, d.sample_count as samples, d.total, d.minimum, d.maximum, d.buckets, d.counts
            from series s
            cross join unnest(days) as u (span)
            cross join lateral (
                select * from public.metric_days f
                where f.series_id = s.id and f.started_at >= lower(u.span) and f.started_at < upper(u.span)
                offset 0
            ) d
            union all
            select date_bin(stride, h.started_at, origin), h.sample_count, h.total, h.minimum, h.maximum, h.buckets, h.counts
            from series s
            cross join unnest(hours) as u (span)
            cross join lateral (
                select * from public.metric_hours f
                where f.series_id = s.id and f.started_at >= lower(u.span) and f.started_at < upper(u.span)
                offset 0
            ) h
            union all
            select date_bin(stride, n.started_at, origin), n.sample_count, n.total, n.minimum, n.maximum, n.buckets, n.counts
            from series s
            cross join unnest(minutes) as u (span)
            cross join lateral (
                select * from public.metric_minutes f
                where f.series_id = s.id and f.started_at >= lower(u.span) and f.started_at < upper(u.span)
                offset 0
            ) n
        ), rest as materialized (
            select date_bin(stride, m.recorded_at, origin) as start,
                   case when m.value = 0 then 0
                        else sign(m.value) * (500 + floor(ln(abs(m.value::double precision)) / ln(1.02::double precision)))
                   end::smallint as bucket,
                   count(*)::integer as rows, sum(m.sample_count) as samples, sum(m.value * m.sample_count) as total,
                   min(m.value) as minimum, max(m.value) as maximum
            from unnest(samples) as u (span)
            cross join lateral (
                select f.recorded_at, f.value, f.sample_count from public.performance_metrics f
                where f.metric_name = aggregate_performance_metrics.metric
                  and f.recorded_at >= lower(u.span) and f.recorded_at < upper(u.span)
                  and f.labels @> aggregate_performance_metrics.having_labels
                offset 0  -- span by span, by the index: the planner knows nothing of their width
            ) m
            group by 1, 2
        ), moments as (
            select a.start, sum(a.samples)::bigint as samples, sum(a.total) as total, min(a.minimum) as minimum, max(a.maximum) as maximum
            from (select start, samples, total, minimum, maximum from parts
                  union all select start, samples, total, minimum, maximum from rest) a
            group by 1
        ), histogram as (
            select a.start, a.bucket, sum(a.rows)::double precision as rows
            from (select q.start, u.bucket, u.rows from parts q cross join unnest(q.buckets, q.counts) as u (bucket, rows)
                  union all select start, bucket, rows from rest) a
            group by 1, 2
        ), ranked as (
            select h.start, h.bucket, sum(h.rows) over (partition by h.start order by h.bucket) as through,
                   sum(h.rows) over (partition by h.start) as rows
            from histogram h
        ), places as (
            -- rows are counted from 0, as percentile_cont counts them
            select r.start, r.rows::bigint as rows,
                   min(r.bucket) filter (where r.through > floor(0.50 * (r.rows - 1)))   as low50,
                   min(r.bucket) filter (where r.through > ceiling(0.50 * (r.rows - 1))) as high50,
                   min(r.bucket) filter (where r.through > floor(0.95 * (r.rows - 1)))   as low95,
                   min(r.bucket) filter (where r.through > ceiling(0.95 * (r.rows - 1))) as high95,
                   min(r.bucket) filter (where r.through > floor(0.99 * (r.rows - 1)))   as low99,
                   min(r.bucket) filter (where r.through > ceiling(0.99 * (r.rows - 1))) as high99
            from ranked r
            group by 1, 2
        )
        select m.start, m.start + stride, m.samples, (m.total / m.samples)::double precision, m.minimum, m.maximum,
               public.estimated_percentile(0.50, l.rows, l.low50, l.high50, m.minimum, m.maximum),
               public.estimated_percentile(0.95, l.rows, l.low95, l.high95, m.minimum, m.maximum),
               public.estimated_percentile(0.99, l.rows, l.low99, l.high99, m.minimum, m.maximum)
        from moments m
        join places l using (start)
        order by m.start;
end
$$;
comment on function aggregate_performance_metrics(text, interval, timestamptz, timestamptz, jsonb) is
    'One metric in windows of time: number of samples, mean (weighted by samples), minimum, maximum and p50, p95, p99 of the rows. Windows are counted from 2000-01-01 00:00 UTC; since is included, until is not. From roll-ups as far as there are any, and the samples for the rest: always up to date; percentiles are within 1 % then, and exact where only samples answer.';
