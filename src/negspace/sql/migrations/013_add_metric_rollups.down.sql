-- Removes the roll-ups, with what they alone keep of months whose samples are gone.

drop trigger performance_metrics_mark_change on performance_metrics;
drop trigger performance_metrics_mark_late on performance_metrics;

create or replace function record_job_metrics(job processing_queue, outcome text, ended_at timestamptz) returns void
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

create or replace function record_batch_metrics(held processing_queue[], outcome queue_status, ended_at timestamptz) returns void
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
as $$
#variable_conflict use_column
declare
    seconds constant double precision := extract(epoch from window_size);
    stride  interval;
begin
    if window_size is null or seconds <= 0 or seconds > 3155760000 then
        raise exception 'the window must be longer than nothing and at most a century, not %', coalesce(window_size::text, 'null')
            using errcode = 'NS004', hint = 'such as interval ''1 hour''';
    end if;
    stride := make_interval(secs => seconds);
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
        cross join lateral (select date_bin(stride, m.recorded_at, timestamptz '2000-01-01 00:00:00+00') as start) b
        where m.metric_name = aggregate_performance_metrics.metric
          and (aggregate_performance_metrics.since is null or m.recorded_at >= aggregate_performance_metrics.since)
          and (aggregate_performance_metrics.until is null or m.recorded_at < aggregate_performance_metrics.until)
          and m.labels @> aggregate_performance_metrics.having_labels
        group by b.start
        order by b.start;
end
$$;
comment on function aggregate_performance_metrics(text, interval, timestamptz, timestamptz, jsonb) is
    'One metric in windows of time: number of samples, mean (weighted by samples), minimum, maximum and p50, p95, p99 of the rows. Windows are counted from 2000-01-01 00:00 UTC; since is included, until is not.';

drop function estimated_percentile(double precision, bigint, smallint, smallint, numeric, numeric);
drop function metric_bucket_value(smallint);
drop function whole_units(text, timestamptz, timestamptz);
drop function purge_metrics(interval, interval);
drop function roll_up_metrics(integer);
drop function roll_up_metric_days(timestamptz, timestamptz);
drop function roll_up_metric_hours(timestamptz, timestamptz, timestamptz);
drop function mark_metric_change();
drop function mark_metric_hour(timestamptz);

drop table metric_changes;
drop table rollup_progress;
drop table metric_days;
drop table metric_hours;
drop table metric_minutes;
drop table metric_series;
