-- As it was: nobody counts misses, and what is the operator's after an upgrade stays his.

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
        else
            -- PostgreSQL 14 reads a view as its owner, who sees all rows: there it is the operator's.
            execute format('revoke select on public.%I from app_user', name);
            execute format('grant select on public.%I to operator_role', name);
        end if;
    end loop;
end
$$;
comment on function guard_views() is
    'Makes views show the rows that their reader may see; on PostgreSQL 14, which can''t, they are the operator''s alone. After a view is made anew it is called again: create or replace forgets what it did.';

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

do $$
declare
    change record;
    source text;
begin
    -- The two functions as they were.
    for change in
        select c.name, c.noted || c.anchor as was, c.anchor as becomes from (values
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

drop table analysis_cache_days;
drop table analysis_cache_misses;
