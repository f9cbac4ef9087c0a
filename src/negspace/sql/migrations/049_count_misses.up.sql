-- What the cache of analyses could not answer is counted, by day, beside what it did; and views that
-- were the operator's on PostgreSQL 14 are everybody's again on a newer one.


-- ── Misses of the cache ─────────────────────────────────────────────────────────────────

create table analysis_cache_misses (
    id        bigint      not null generated always as identity,
    misses    bigint      not null,
    missed_at timestamptz not null,

    constraint analysis_cache_misses_pkey            primary key (id),
    constraint analysis_cache_misses_misses_positive check (misses > 0)
);

comment on table  analysis_cache_misses           is 'Misses of analysis_cache that are not in analysis_cache_days yet: a row for each batch of jobs that stored their results.';
comment on column analysis_cache_misses.id        is 'Number of the row.';
comment on column analysis_cache_misses.misses    is 'How many jobs of the batch were computed because nothing answered them; those that asked for no answer are none.';
comment on column analysis_cache_misses.missed_at is 'When their results were stored.';
comment on index  analysis_cache_misses_pkey      is 'What count_cache_uses() takes next.';

create table analysis_cache_days (
    day    timestamptz not null,
    hits   bigint      not null default 0,
    misses bigint      not null default 0,

    constraint analysis_cache_days_pkey                primary key (day),
    constraint analysis_cache_days_hits_not_negative   check (hits >= 0),
    constraint analysis_cache_days_misses_not_negative check (misses >= 0)
);

comment on table  analysis_cache_days        is 'How often analysis_cache answered, and how often it couldn''t, by day; counted in batches.';
comment on column analysis_cache_days.day    is 'The day (UTC).';
comment on column analysis_cache_days.hits   is 'How often an entry answered, whether it is still there or not.';
comment on column analysis_cache_days.misses is 'Jobs that were computed because nothing answered them.';
comment on index  analysis_cache_days_pkey   is 'A day''s hits and misses.';

grant select on analysis_cache_misses, analysis_cache_days to operator_role;

do $$
declare
    change record;
    source text;
begin
    -- Two functions of the queue end jobs that were computed; the rest of them, which is long, stays as it is.
    for change in
        select c.name, c.anchor as was, c.noted || c.anchor as becomes from (values
            ('complete_job',  $note$    if held.processing_metadata -> 'use_cache' is distinct from 'false' then
        insert into public.analysis_cache_misses (misses, missed_at) values (1, ended_at);
    end if;
$note$, $anchor$    perform public.end_job(held, 'completed', ended_at, null);
$anchor$),
            ('complete_jobs', $note$        insert into public.analysis_cache_misses (misses, missed_at)
        select count(*), ended_at from unnest(held) h
        where h.processing_metadata -> 'use_cache' is distinct from 'false'
        having count(*) > 0;
$note$, $anchor$        perform public.end_held_jobs(held, 'completed', ended_at);
$anchor$)
        ) as c (name, noted, anchor)
    loop
        source := pg_get_functiondef(('public.' || change.name)::regproc);
        if (length(source) - length(replace(source, change.was, ''))) <> length(change.was) then
            raise exception 'the function % is not as the migrations made it', change.name
                using errcode = 'NS006', hint = 'negspace migrate drift shows how it differs';
        end if;
        execute replace(source, change.was, change.becomes);
    end loop;
end
$$;

create or replace function count_cache_uses(most integer default 10000) returns bigint
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
    ), missed as (
        delete from public.analysis_cache_misses m
        where m.id = any (array(select n.id from public.analysis_cache_misses n order by n.id limit most))
        returning m.misses, m.missed_at
    ), days as (
        insert into public.analysis_cache_days as d (day, hits, misses)
        select date_trunc('day', u.at, 'UTC'), sum(u.hits), sum(u.misses)
        from (select t.used_at, 1, 0 from taken t union all select m.missed_at, 0, m.misses from missed m) as u (at, hits, misses)
        group by 1
        on conflict on constraint analysis_cache_days_pkey do update
        set hits = d.hits + excluded.hits, misses = d.misses + excluded.misses
    ), sums as (
        select t.entry_id, count(*) as hits, max(t.used_at) as latest from taken t group by t.entry_id
    )
    select array_agg(s.entry_id), array_agg(s.hits), array_agg(s.latest), coalesce(sum(s.hits), 0) + (select count(*) from missed)
    into entries, hits, latest, counted from sums s;
    perform 1 from public.analysis_cache c where c.id = any (entries) order by c.cache_key for no key update;
    update public.analysis_cache c
    set hit_count = c.hit_count + s.hits, last_accessed_at = greatest(c.last_accessed_at, s.latest)
    from unnest(entries, hits, latest) as s (entry_id, hits, latest)
    where c.id = s.entry_id;
    return counted;
end
$$;
comment on function count_cache_uses(integer) is
    'Carries hits of the cache to their entries, and hits and misses to their days, most rows of each at a time, and returns how many rows. Safe to call often and by many; call it until it returns 0, in a transaction of its own.';


-- ── Views ───────────────────────────────────────────────────────────────────────────────

create or replace function guard_views() returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    name text;
begin
    foreach name in array array[
        'user_activity_summary', 'image_analysis_status', 'recent_audit_events', 'analysis_performance_summary',
        'audit_summary_by_user', 'duplicate_images_report']
    loop
        if current_setting('server_version_num')::integer >= 150000 then
            execute format('alter view public.%I set (security_invoker = true)', name);
            -- in a dump of PostgreSQL 14 they are the operator's
            execute format('revoke select on public.%I from operator_role', name);
            execute format('grant select on public.%I to app_user', name);
        else
            -- PostgreSQL 14 reads a view as its owner, who sees all rows: there it is the operator's.
            execute format('revoke select on public.%I from app_user', name);
            execute format('grant select on public.%I to operator_role', name);
        end if;
    end loop;
end
$$;
comment on function guard_views() is
    'Makes views show the rows that their reader may see, and readable by app_user; on PostgreSQL 14, which can''t, they are the operator''s alone. It is called again after a view is made anew (create or replace forgets what it did), and after a dump of another major version is loaded.';

select guard_views();
