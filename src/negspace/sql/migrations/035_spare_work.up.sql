-- What was done again and again for nothing: an entry of the cache written anew at each hit, months
-- made that retention had dropped, an index of images that no query reads, all accounts read for
-- the few that a view names.


-- ── Hits of the cache ───────────────────────────────────────────────────────────────────
-- A hit adds a row of three numbers, in front of which nobody waits. It rewrote the entry, which
-- holds a whole result, with its five indexes, and those who were answered alike queued up for it.

create table analysis_cache_uses (
    id       bigint      not null generated always as identity,
    entry_id bigint      not null,
    used_at  timestamptz not null,

    constraint analysis_cache_uses_pkey primary key (id)
);

comment on table  analysis_cache_uses          is 'Hits of analysis_cache that are not in its hit_count yet. No foreign key: they go with the next count where the entry has gone.';
comment on column analysis_cache_uses.id       is 'Number of the row.';
comment on column analysis_cache_uses.entry_id is 'The entry that answered.';
comment on column analysis_cache_uses.used_at  is 'When it did.';
comment on index  analysis_cache_uses_pkey     is 'What count_cache_uses() takes next.';

comment on column analysis_cache.hit_count        is 'How often it answered; brought up to date in batches.';
comment on column analysis_cache.last_accessed_at is 'When it answered last, or was put in; brought up to date in batches.';

grant select on analysis_cache_uses to operator_role;

create or replace function store_cached_result(
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
    select c.* into entry
    from public.analysis_cache c
    join public.images i on i.id = image
    where c.cache_key = public.cache_key(i.file_hash, print, i.user_id)
      and c.expires_at > clock_timestamp();
    if found then
        insert into public.analysis_cache_uses (entry_id, used_at) values (entry.id, clock_timestamp());
    end if;

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

create function count_cache_uses(most integer default 10000) returns bigint
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    entries bigint[];
    hits    bigint[];
    latest  timestamptz[];
    counted bigint;
begin
    if most is null or most < 1 then
        raise exception 'one hit or more is counted, not %', coalesce(most::text, 'null')
            using errcode = 'NS004', hint = 'ten thousand is a good number';
    end if;
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.count_cache_uses', 0)) then
        return 0;  -- somebody is at it, for all
    end if;
    with taken as (
        delete from public.analysis_cache_uses u
        where u.id = any (array(select n.id from public.analysis_cache_uses n order by n.id limit most))
        returning u.entry_id, u.used_at
    ), sums as (
        select t.entry_id, count(*) as hits, max(t.used_at) as latest from taken t group by t.entry_id
    )
    select array_agg(s.entry_id), array_agg(s.hits), array_agg(s.latest), sum(s.hits) into entries, hits, latest, counted from sums s;
    perform 1 from public.analysis_cache c where c.id = any (entries) order by c.cache_key for no key update;
    update public.analysis_cache c
    set hit_count = c.hit_count + s.hits, last_accessed_at = greatest(c.last_accessed_at, s.latest)
    from unnest(entries, hits, latest) as s (entry_id, hits, latest)
    where c.id = s.entry_id;
    return coalesce(counted, 0);
end
$$;
comment on function count_cache_uses(integer) is
    'Carries hits of the cache to their entries, most of them at a time, and returns how many. Safe to call often and by many; call it until it returns 0, in a transaction of its own.';
revoke execute on function count_cache_uses(integer) from public;
grant execute on function count_cache_uses(integer) to operator_role;


-- ── Months that were let go ─────────────────────────────────────────────────────────────
-- ensure_partitions(oldest) makes what is missing since then. What retention dropped is missing on
-- purpose: made again it would stand empty until it is dropped again, a day later, under locks.

create function month_was_let_go(parent text, month timestamp) returns boolean
    language sql
    stable
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
    select case
        when month_was_let_go.parent in ('security_audit', 'audit_log_details') then
            exists (select from public.audit_retirements r where r.month = month_was_let_go.month at time zone 'UTC')
        when month_was_let_go.parent = 'performance_metrics' then
            exists (select from public.rollup_progress r
                    where r.table_name = 'performance_metrics' and r.rows_since > month_was_let_go.month at time zone 'UTC')
        when month_was_let_go.parent = 'processing_queue_ended' then
            exists (select from public.rollup_progress r
                    where r.table_name = 'processing_queue' and r.rows_since > month_was_let_go.month at time zone 'UTC')
            -- a job that still waits ends in its month
            and not exists (select from public.processing_queue_hot q
                            where q.created_at >= month_was_let_go.month at time zone 'UTC'
                              and q.created_at < (month_was_let_go.month + interval '1 month') at time zone 'UTC')
        else false
    end
$$;
comment on function month_was_let_go(text, timestamp) is
    'Whether retention dropped a month (UTC) of a partitioned table and nothing needs it.';
revoke execute on function month_was_let_go(text, timestamp) from public;

create or replace function missing_partitions(first timestamp, last timestamp)
    returns table (parent text, month timestamp, name text)
    language sql
    stable
    set search_path = pg_catalog, public, pg_temp
as $$
    -- Those that a later migration adds are simply not there yet.
    select p.parent, m.month, format('%s_%s', p.parent, to_char(m.month, 'YYYYMM'))
    from unnest(array['security_audit', 'audit_log_details', 'performance_metrics', 'processing_queue_ended']) as p (parent)
    cross join generate_series(missing_partitions.first, missing_partitions.last, interval '1 month') as m (month)
    where to_regclass('public.' || p.parent) is not null
      and to_regclass(format('public.%s_%s', p.parent, to_char(m.month, 'YYYYMM'))) is null
      and not public.month_was_let_go(p.parent, m.month)
    order by 2, 1
$$;
comment on function missing_partitions(timestamp, timestamp) is
    'The monthly partitions that are not there, of the months (UTC) from first to last, oldest first; without those that were let go.';


-- ── An index that nothing reads ─────────────────────────────────────────────────────────
-- Near duplicates are looked for by the bands of image_fingerprints. Each job writes all indexes
-- of its image twice.

-- negspace: allow require-concurrent-index-deletion because dropping takes a moment, whatever its size
drop index images_perceptual_hash_idx;


-- ── recent_audit_events ─────────────────────────────────────────────────────────────────
-- offset 0: each account that occurs is looked up once. With many accounts the planner would
-- rather read and sort all of them.

create or replace view recent_audit_events as
select a.id, a."timestamp", a.user_id, u.email, a.action, a.resource_type, a.resource_id,
       a.status, a.ip_address, a.user_agent, a.error_message, a.changes_before, a.changes_after
from (
    select id, "timestamp", user_id, action, resource_type, resource_id, status, ip_address, user_agent,
           error_message, changes_before, changes_after
    from security_audit
    order by "timestamp" desc, id desc
    limit 1000
) a
left join lateral (select p.email from users p where p.id = a.user_id offset 0) u on true
order by a."timestamp" desc, a.id desc;

select guard_views();
