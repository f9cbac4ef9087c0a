-- Percentiles of ended jobs' waits read one bucket's months, in an index that begins with the bucket:
-- before PostgreSQL 18 the one that began with the month was read from end to end for each. And an
-- array of a bucket's waits is made once.

-- In front of queue_status_summary and the roll-up for the time that some ten thousand rows take.
-- negspace: allow ban-drop-constraint because the one that follows says the same in another order
alter table ended_job_waits
    drop constraint ended_job_waits_pkey,
    -- negspace: allow constraint-missing-not-valid because the table is a roll-up, and small
    -- negspace: allow adding-serial-primary-key-field because the table is a roll-up, and small
    add constraint ended_job_waits_pkey primary key (status, bucket, month);
comment on index ended_job_waits_pkey is 'A bucket''s months; queue_status_summary.';

create or replace function ended_job_percentiles(fresh ended_job_days[], gone ended_job_days[])
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
    ), waits as materialized (  -- an array is made once, and not for each that asks it
        select i.status, i.before,
               array(
                   select u.wait from public.ended_job_waits w cross join unnest(w.waits) as u (wait)
                   where w.status = i.status and w.bucket = i.bucket and cardinality(ended_job_percentiles.gone) = 0
                   union all
                   (select u.wait from public.ended_job_waits w cross join unnest(w.waits) as u (wait)
                    where w.status = i.status and w.bucket = i.bucket and cardinality(ended_job_percentiles.gone) > 0
                    except all
                    select u.wait
                    from unnest(ended_job_percentiles.gone) g cross join public.split_waits(g.waits) s cross join unnest(s.bucket_waits) as u (wait)
                    where g.status = i.status and s.bucket = i.bucket)
                   union all
                   select u.wait
                   from unnest(ended_job_percentiles.fresh) f cross join public.split_waits(f.waits) s cross join unnest(s.bucket_waits) as u (wait)
                   where f.status = i.status and s.bucket = i.bucket
                   order by 1) as waits
        from found_buckets i
    ), places as (
        select k.status, k.fraction, k.beyond, w.waits[k.rank - w.before + 1] as wait
        from wanted k join waits w on w.status = k.status and k.rank >= w.before and k.rank < w.before + cardinality(w.waits)
    )
    select p.status, p.fraction, (min(p.wait) + (max(p.wait) - min(p.wait)) * p.beyond) / 1000000
    from places p
    group by p.status, p.fraction, p.beyond
$$;
