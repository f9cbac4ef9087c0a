-- The whole schema, made by negspace migrate dump; change it by a migration, not here.
-- psql -v ON_ERROR_STOP=1 -f loads it into an empty database of PostgreSQL 14 to 18.

begin;

set local check_function_bodies = off;
set local client_min_messages = warning;
set local search_path = '';

do $roles$
begin
    if to_regrole('app_user') is null then
        create role app_user login;
    end if;
    if to_regrole('operator_role') is null then
        create role operator_role login;
    end if;
end
$roles$;

grant usage on schema public to app_user;
grant usage on schema public to public;
revoke create on schema public from public;

create type public.analysis_status as enum (
    'pending',
    'processing',
    'completed',
    'failed',
    'archived'
);
comment on type public.analysis_status is 'Where an image stands. pending: no analysis has begun. processing: a job runs, or waits for its next try. completed: the last job gave a result. failed: the last job gave up. archived: out of use, never analysed again.';

create type public.audit_action as enum (
    'login',
    'logout',
    'create_image',
    'delete_image',
    'run_analysis',
    'view_results',
    'export_data',
    'api_call',
    'permission_change',
    'config_change'
);
comment on type public.audit_action is 'What was done. login, logout: a session began or ended. create_image, delete_image: an image came or went. run_analysis: a job ended, with a result or without. view_results, export_data: results were read or taken out. api_call: a request with an API key. permission_change: an account, role or key changed. config_change: anything else about an account or the system changed.';

create type public.audit_status as enum (
    'success',
    'failure',
    'partial'
);
comment on type public.audit_status is 'How it ended. success: done. failure: refused or broken, nothing was done. partial: some of it was done.';

create type public.duplicate_decision as enum (
    'undecided',
    'same',
    'different'
);
comment on type public.duplicate_decision is 'What a person says of two images that look alike. undecided: nothing yet. same: they show the same. different: they don''t, although they look alike.';

create type public.queue_status as enum (
    'queued',
    'processing',
    'completed',
    'failed',
    'retrying',
    'cancelled'
);
comment on type public.queue_status is 'Where a job stands. queued: waits for its first try. processing: a worker holds it. completed: done, its result is stored. failed: gave up. retrying: waits for its next try. cancelled: taken back by somebody.';

create type public.user_role as enum (
    'admin',
    'analyst',
    'viewer',
    'api_user'
);
comment on type public.user_role is 'What an account may do. admin: everything, accounts and settings too. analyst: take in images, run analyses, read results. viewer: read only. api_user: a program, through API keys and their scopes.';

create sequence public.audit_seals_seen as bigint minvalue 0;
comment on sequence public.audit_seals_seen is 'The highest number of a seal that was seen committed.';
grant select on sequence public.audit_seals_seen to app_user;

create sequence public.queue_mark_1 as bigint;
comment on sequence public.queue_mark_1 is 'Low-water mark of priority 1, in microseconds since 1970.';

create sequence public.queue_mark_10 as bigint;
comment on sequence public.queue_mark_10 is 'Low-water mark of priority 10.';

create sequence public.queue_mark_2 as bigint;
comment on sequence public.queue_mark_2 is 'Low-water mark of priority 2.';

create sequence public.queue_mark_3 as bigint;
comment on sequence public.queue_mark_3 is 'Low-water mark of priority 3.';

create sequence public.queue_mark_4 as bigint;
comment on sequence public.queue_mark_4 is 'Low-water mark of priority 4.';

create sequence public.queue_mark_5 as bigint;
comment on sequence public.queue_mark_5 is 'Low-water mark of priority 5.';

create sequence public.queue_mark_6 as bigint;
comment on sequence public.queue_mark_6 is 'Low-water mark of priority 6.';

create sequence public.queue_mark_7 as bigint;
comment on sequence public.queue_mark_7 is 'Low-water mark of priority 7.';

create sequence public.queue_mark_8 as bigint;
comment on sequence public.queue_mark_8 is 'Low-water mark of priority 8.';

create sequence public.queue_mark_9 as bigint;
comment on sequence public.queue_mark_9 is 'Low-water mark of priority 9.';

create sequence public.queue_next_sweep as bigint;
comment on sequence public.queue_next_sweep is 'When the marks are to be brought up to date again, in microseconds since 1970.';

create sequence public.queue_next_wakeup as bigint;
comment on sequence public.queue_next_wakeup is 'When sleeping workers may be told of jobs again, in microseconds since 1970.';

create sequence public.queue_next_whole_sweep as bigint;
comment on sequence public.queue_next_whole_sweep is 'When that is to be done from zero, in microseconds since 1970.';

create sequence public.queue_untold as bigint;
comment on sequence public.queue_untold is 'One more than the jobs that came since and that nobody was told of.';

CREATE OR REPLACE FUNCTION public.account_scopes(role public.user_role)
 RETURNS text[]
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select public.role_scopes(role) || case
        when role in ('admin', 'analyst') then array['read:account', 'write:account']
        else array['read:account']
    end
$function$;
comment on function public.account_scopes(role public.user_role) is 'What a session of an account in this role may do: what its keys may, and besides read:account: see the account itself, its keys, sessions and events; write:account: keep its keys.';

CREATE OR REPLACE FUNCTION public.act_with_key(key bigint, key_hash text, scope text DEFAULT NULL::text, address inet DEFAULT NULL::inet, OUT user_id bigint, OUT role public.user_role, OUT api_key_id bigint)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_variable
declare
    origin constant inet := case
        when family(address) = 6 and masklen(address) = 128 and address <<= inet '::ffff:0.0.0.0/96'
        then inet '0.0.0.0' + (address - inet '::ffff:0.0.0.0')
        else address end;
    granted text[];
begin
    select u.id, u.role, k.id,
           array(select g.scope from jsonb_array_elements_text(k.scopes) as g (scope)
                 where g.scope = any (public.role_scopes(u.role)))
    into user_id, role, api_key_id, granted
    from public.api_keys k
    join public.users u on u.id = k.user_id
    where k.id = key and k.key_hash = act_with_key.key_hash
      and k.is_active and u.is_active
      and (k.expires_at is null or k.expires_at > clock_timestamp())
      and (k.ip_whitelist is null or origin <<= any (public.network_array(k.ip_whitelist)));
    if api_key_id is null or scope <> all (granted) then
        raise exception 'the API key may not be used for this'
            using errcode = 'NS002', hint = 'whoever made it sees why: negspace keys check';
    end if;
    perform public.state_acting(user_id, role, null, api_key_id, granted);
end
$function$;
comment on function public.act_with_key(key bigint, key_hash text, scope text, address inet, OUT user_id bigint, OUT role public.user_role, OUT api_key_id bigint) is 'The owner of an API key, named by the number in its text and its SHA-256, acts until this transaction ends, as far as the key''s scopes reach; refused where the key may not be used for the scope from the address. It takes nothing from the rate limit, since that would lock the key''s row until the end: verify_api_key() comes before, in a transaction of its own.';
grant execute on function public.act_with_key(bigint,text,text,inet) to app_user;
revoke execute on function public.act_with_key(bigint,text,text,inet) from public;

CREATE OR REPLACE FUNCTION public.act_with_session(token_hash text, OUT user_id bigint, OUT role public.user_role, OUT session_id bigint)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_variable
begin
    select s.user_id, s.role, s.session_id into user_id, role, session_id
    from public.verify_session(token_hash) s;
    if session_id is null then
        raise exception 'there is no such session, or it has ended' using errcode = 'NS002', hint = 'log in again';
    end if;
    perform public.state_acting(user_id, role, session_id, null, public.account_scopes(role));
end
$function$;
comment on function public.act_with_session(token_hash text, OUT user_id bigint, OUT role public.user_role, OUT session_id bigint) is 'Whoever holds the token, named by its SHA-256, acts until this transaction ends: sees and changes what the account may. Writes nothing, so it serves read-only transactions and standbys too.';
grant execute on function public.act_with_session(text) to app_user;
revoke execute on function public.act_with_session(text) from public;

CREATE OR REPLACE FUNCTION public.acting(OUT user_id bigint, OUT role public.user_role, OUT session_id bigint, OUT api_key_id bigint, OUT scopes text[])
 RETURNS record
 LANGUAGE plpgsql
 STABLE PARALLEL RESTRICTED SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    stated constant text := current_setting('negspace.acting', true);
    said   constant text := left(stated, -65);
    parts  text[];
begin
    -- Hashes are compared, so that the time it takes tells nothing about a forged seal.
    if coalesce(stated, '') = ''
       or sha256(convert_to(right(stated, 64), 'UTF8')) is distinct from sha256(convert_to(public.context_seal(said), 'UTF8')) then
        return;
    end if;
    parts := string_to_array(said, '|', '');
    user_id := parts[1]::bigint;
    role := parts[2]::public.user_role;
    session_id := parts[3]::bigint;
    api_key_id := parts[4]::bigint;
    scopes := string_to_array(coalesce(parts[5], ''), ' ');
end
$function$;
comment on function public.acting(OUT user_id bigint, OUT role public.user_role, OUT session_id bigint, OUT api_key_id bigint, OUT scopes text[]) is 'Who is proven to act in this transaction: account, role, by which session or key, and what it may do; nulls where nobody is.';
grant execute on function public.acting() to app_user;
revoke execute on function public.acting() from public;

CREATE OR REPLACE FUNCTION public.acting_on(scope text)
 RETURNS bigint
 LANGUAGE sql
 STABLE PARALLEL RESTRICTED
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select a.user_id from public.acting() a where scope = any (a.scopes)
$function$;
comment on function public.acting_on(scope text) is 'The account whose own rows this transaction may touch in the way of the scope; null: none. Policies call it as (select acting_on(…)), once a statement.';
grant execute on function public.acting_on(text) to app_user;
revoke execute on function public.acting_on(text) from public;

CREATE OR REPLACE FUNCTION public.acting_on_all(scope text)
 RETURNS boolean
 LANGUAGE sql
 STABLE PARALLEL RESTRICTED
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select exists (select from public.acting() a where a.role = 'admin' and scope = any (a.scopes))
$function$;
comment on function public.acting_on_all(scope text) is 'Whether this transaction may touch everybody''s rows in the way of the scope: an administrator acts. Policies call it as (select acting_on_all(…)), once a statement.';
grant execute on function public.acting_on_all(text) to app_user;
revoke execute on function public.acting_on_all(text) from public;

CREATE OR REPLACE FUNCTION public.aggregate_performance_metrics(metric text, window_size interval, since timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT NULL::timestamp with time zone, having_labels jsonb DEFAULT '{}'::jsonb)
 RETURNS TABLE(window_start timestamp with time zone, window_end timestamp with time zone, sample_count bigint, mean double precision, minimum numeric, maximum numeric, p50 double precision, p95 double precision, p99 double precision)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_custom_plan'
AS $function$
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
$function$;
comment on function public.aggregate_performance_metrics(metric text, window_size interval, since timestamp with time zone, until timestamp with time zone, having_labels jsonb) is 'One metric in windows of time: number of samples, mean (weighted by samples), minimum, maximum and p50, p95, p99 of the rows. Windows are counted from 2000-01-01 00:00 UTC; since is included, until is not. From roll-ups as far as there are any, and the samples for the rest: always up to date; percentiles are within 1 % then, and exact where only samples answer.';
grant execute on function public.aggregate_performance_metrics(text,interval,timestamp with time zone,timestamp with time zone,jsonb) to app_user;
revoke execute on function public.aggregate_performance_metrics(text,interval,timestamp with time zone,timestamp with time zone,jsonb) from public;

CREATE OR REPLACE FUNCTION public.algorithm_fingerprint(algorithm_name text, algorithm_version text, algorithm_parameters jsonb)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select public.sha256_hex(jsonb_build_array(algorithm_name, algorithm_version, algorithm_parameters)::text)
$function$;
comment on function public.algorithm_fingerprint(algorithm_name text, algorithm_version text, algorithm_parameters jsonb) is 'What an analyser would do, as 64 hexadecimal digits: SHA-256 of its name, version and resolved parameters.';

CREATE OR REPLACE FUNCTION public.analyze_parent(name text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    perform 1 from pg_class c
    where c.oid = to_regclass(format('public.%I', analyze_parent.name)) and c.relkind = 'p' and not c.relispartition;
    if not found then
        raise exception 'there is no partitioned table %', coalesce(analyze_parent.name, 'null')
            using errcode = 'NS003', hint = 'such as security_audit';
    end if;
    execute format('analyze public.%I', analyze_parent.name);
end
$function$;
comment on function public.analyze_parent(name text) is 'Keeps the statistics of a partitioned table fresh: autovacuum sees to its partitions alone.';
grant execute on function public.analyze_parent(text) to operator_role;
revoke execute on function public.analyze_parent(text) from public;

CREATE OR REPLACE FUNCTION public.answer_images(images bigint[], requested_by bigint, algorithm_name text, algorithm_version text, algorithm_parameters jsonb, OUT answered bigint[], OUT results bigint[])
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
    print  constant text := public.algorithm_fingerprint(
        answer_images.algorithm_name, answer_images.algorithm_version, answer_images.algorithm_parameters);
    hashed constant text := public.sha256_hex(answer_images.algorithm_parameters::text);
    -- Whether there is any entry. Only one index has the order: one row is read, whatever the planner believes.
    cached   constant boolean := coalesce(print = (
        select c.algorithm_fingerprint from public.analysis_cache c
        where c.algorithm_fingerprint >= print
        order by c.algorithm_fingerprint limit 1), false);
    analysed constant bigint[] := array(
        select r.image_id from public.analysis_results r
        where r.image_id = any (answer_images.images) and r.parameters_hash = hashed  -- as result_of()
          and r.algorithm_name || '@' || r.algorithm_version
              = answer_images.algorithm_name || '@' || answer_images.algorithm_version);
    image  record;
    result bigint;
begin
    answered := '{}';
    results := '{}';
    if not cached and analysed = '{}' then
        return;
    end if;
    for image in
        -- the key as cache_key() makes it, whose call for each image would cost as much as its job
        select i.id, i.user_id, i.analysis_status
        from public.images i
        cross join lateral (select encode(sha256(convert_to(i.file_hash || ':' || print || ':' || i.user_id, 'UTF8')), 'hex') as key) c
        where i.id = any (answer_images.images)
          and (cached and exists (select from public.analysis_cache a where a.cache_key = c.key and a.expires_at > clock_timestamp())
               or i.id in (select unnest(analysed)))
        order by c.key  -- in which all lock the entries: equal contents may come to two callers crosswise
    loop
        result := public.store_cached_result(
            image.id, coalesce(answer_images.requested_by, image.user_id), answer_images.algorithm_name,
            answer_images.algorithm_version, answer_images.algorithm_parameters);
        continue when result is null;
        answered := answered || image.id;
        results := results || result;
        if image.analysis_status in ('pending', 'failed')
           and not exists (select from public.processing_queue_hot q where q.image_id = image.id) then
            update public.images i set analysis_status = 'pending' where i.id = image.id and i.analysis_status = 'failed';
            update public.images i set analysis_status = 'processing' where i.id = image.id;
            perform public.settle_image(image.id, 'completed');
        end if;
    end loop;
end
$function$;
comment on function public.answer_images(images bigint[], requested_by bigint, algorithm_name text, algorithm_version text, algorithm_parameters jsonb, OUT answered bigint[], OUT results bigint[]) is 'Those of the images, which the caller has locked, whose result is there or in the cache, with their results.';
revoke execute on function public.answer_images(bigint[],bigint,text,text,jsonb) from public;

CREATE OR REPLACE FUNCTION public.answer_jobs(ends jsonb)
 RETURNS TABLE(job_id bigint, outcome text, result_id bigint)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
#variable_conflict use_column
declare
    by_job  constant jsonb := public.ends_by_job(answer_jobs.ends);
    held    constant public.processing_queue[] := array(select h from public.hold_jobs(by_job) h);
    asked   constant public.processing_queue[] := array(
        select h from unnest(held) h where h.processing_metadata -> 'use_cache' is distinct from 'false');
    known   constant bigint[] := array(
        select public.result_of(a.image_id, a.algorithm_name, a.algorithm_version, a.parameters_hash)
        from unnest(asked) with ordinality a order by a.ordinality);
    keys    constant text[] := (select k.keys from public.cache_keys(asked) k);
    entries constant jsonb := (
        select coalesce(jsonb_object_agg(c.cache_key, c.id), '{}') from public.analysis_cache c
        where c.cache_key = any (keys) and c.expires_at > clock_timestamp());
    results jsonb;
    ended   public.processing_queue[];
begin
    insert into public.analysis_cache_uses (entry_id, used_at)
    select (entries ->> a.key)::bigint, clock_timestamp()
    from unnest(keys, known) as a (key, result)
    where a.result is not null and entries ? a.key;
    -- what the cache alone has becomes the image's result, one by one
    select coalesce(jsonb_object_agg(s.id, s.result) filter (where s.result is not null), '{}') into results
    from (select a.id, coalesce(known[a.ordinality], case when entries ? keys[a.ordinality] then public.store_cached_result(
              a.image_id, a.user_id, a.algorithm_name, a.algorithm_version, a.algorithm_parameters) end) as result
          from unnest(asked) with ordinality a) s;
    ended := array(select a from unnest(asked) a where results ? a.id::text);
    if ended <> '{}' then
        perform public.end_held_jobs(ended, 'completed', clock_timestamp());
        perform public.settle_images(array(select distinct e.image_id from unnest(ended) e), 'completed');
    end if;
    return query
        select k.job::bigint,
               case when results ? k.job then 'completed'
                    when k.job::bigint = any (array(select h.id from unnest(held) h)) then 'held' else 'lost' end,
               (results ->> k.job)::bigint
        from jsonb_object_keys(by_job) k (job)
        order by 1;
end
$function$;
comment on function public.answer_jobs(ends jsonb) is 'Ends those of many jobs whose result is there already, or in the cache for the same bytes. ends: an array of objects with job, attempt and token. Outcome per job: completed, held (to be computed), or lost.';
grant execute on function public.answer_jobs(jsonb) to operator_role;
revoke execute on function public.answer_jobs(jsonb) from public;

CREATE OR REPLACE FUNCTION public.append_processing_history()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    entry constant jsonb := jsonb_build_object('at', now(), 'from', old.analysis_status, 'to', new.analysis_status);
begin
    new.updated_at := now();
    new.processing_history := case
        when jsonb_array_length(old.processing_history) >= 50 then old.processing_history - 0
        else old.processing_history
    end || jsonb_build_array(entry);
    return new;
end
$function$;
comment on function public.append_processing_history() is 'Keeps processing_history, the newest 50 changes of status, and with it updated_at.';

CREATE OR REPLACE FUNCTION public.applied_migrations()
 RETURNS text[]
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    -- The ledger is the runner's: a schema that psql loaded has none.
    if to_regclass('public.negspace_migrations') is null then
        return null;
    end if;
    return array(
        select s.name
        from (select distinct on (m.name) m.name, m.status
              from public.negspace_migrations m
              where m.status in ('success', 'rolled_back')
              order by m.name, m.id desc) s
        where s.status = 'success'
        order by s.name);
end
$function$;
comment on function public.applied_migrations() is 'The migrations that are applied, by name; null where the database has no ledger of them.';
grant execute on function public.applied_migrations() to app_user;
revoke execute on function public.applied_migrations() from public;

CREATE OR REPLACE FUNCTION public.archive_image(image bigint)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    jobs bigint[];
begin
    perform 1 from public.images i where i.id = archive_image.image for no key update;
    if not found then
        raise exception 'there is no image %', archive_image.image
            using errcode = 'NS003', hint = 'negspace images list shows those there are';
    end if;
    jobs := array(
        select q.id from public.processing_queue q
        where q.image_id = archive_image.image and q.status in ('queued', 'retrying', 'processing'));
    if public.sees_all_rows() then
        perform public.cancel_jobs(jobs, 'its image is archived');
    elsif cardinality(jobs) > 0 then
        perform public.cancel_own_jobs(jobs, 'its image is archived');
    end if;
    update public.images i set analysis_status = 'archived'
    where i.id = archive_image.image and i.analysis_status <> 'archived';
end
$function$;
comment on function public.archive_image(image bigint) is 'Takes an image out of use: its jobs are cancelled, its results stay.';
grant execute on function public.archive_image(bigint) to app_user;
revoke execute on function public.archive_image(bigint) from public;

CREATE OR REPLACE FUNCTION public.as_microseconds(moment timestamp with time zone)
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select greatest((extract(epoch from moment) * 1000000)::bigint, 1)
$function$;
comment on function public.as_microseconds(moment timestamp with time zone) is 'A time as a sequence keeps it: microseconds since 1970, at least 1.';

CREATE OR REPLACE FUNCTION public.audit_accounts()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    what   constant text   := tg_argv[0];
    -- what is secret, and what changes by itself without anybody's decision
    hidden constant text[] := array[
        'id', 'password_hash', 'key_hash', 'updated_at', 'last_login_at', 'last_used_at',
        'audit_event_count', 'api_request_count', 'failed_login_attempts',
        'last_rate_limit_reset', 'request_count_current_window', 'total_requests', 'usage_stats'];
    rights constant text[] := array['role', 'is_active', 'scopes', 'ip_whitelist', 'expires_at', 'rate_limit_per_minute', 'user_id'];
begin
    if tg_op = 'INSERT' then
        perform public.record_event('permission_change', what, r.id::text,
                                    changes_after => to_jsonb(r) - hidden)
        from new_rows r order by r.id;
    elsif tg_op = 'DELETE' then
        perform public.record_event('permission_change', what, r.id::text,
                                    changes_before => to_jsonb(r) - hidden)
        from old_rows r order by r.id;
    else
        perform public.record_event(
            case when d.secret_changed or d.before ?| rights then 'permission_change' else 'config_change' end::public.audit_action,
            what, d.id::text, changes_before => d.before, changes_after => d.after)
        from (
            select n.id,
                   coalesce(to_jsonb(n) ->> 'password_hash', to_jsonb(n) ->> 'key_hash')
                       is distinct from coalesce(to_jsonb(o) ->> 'password_hash', to_jsonb(o) ->> 'key_hash') as secret_changed,
                   coalesce(jsonb_object_agg(k.key, k.value) filter (where k.side = 'before'), '{}') as before,
                   coalesce(jsonb_object_agg(k.key, k.value) filter (where k.side = 'after'), '{}') as after
            from old_rows o
            join new_rows n using (id)
            left join lateral (
                select 'before' as side, b.key, b.value
                from jsonb_each(to_jsonb(o) - hidden) b
                where b.value is distinct from to_jsonb(n) -> b.key
                union all
                select 'after', a.key, a.value
                from jsonb_each(to_jsonb(n) - hidden) a
                where a.value is distinct from to_jsonb(o) -> a.key
            ) k on true
            group by n.id, to_jsonb(n), to_jsonb(o)
        ) d
        where d.secret_changed or d.before <> d.after
        order by d.id;
    end if;
    return null;
end
$function$;
comment on function public.audit_accounts() is 'Writes what changed of accounts and API keys into the audit trail: the changed keys before and after, never a hash. Argument: what the rows are.';
revoke execute on function public.audit_accounts() from public;

CREATE OR REPLACE FUNCTION public.audit_context(OUT user_id bigint, OUT api_key_id bigint, OUT ip_address inet, OUT user_agent text, OUT request_id text)
 RETURNS record
 LANGUAGE sql
 STABLE PARALLEL RESTRICTED
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select case when t.trusted then nullif(current_setting('negspace.user_id', true), '')::bigint else (select a.user_id from public.acting() a) end,
           case when t.trusted then nullif(current_setting('negspace.api_key_id', true), '')::bigint else (select a.api_key_id from public.acting() a) end,
           nullif(current_setting('negspace.ip_address', true), '')::inet,
           nullif(current_setting('negspace.user_agent', true), ''),
           nullif(current_setting('negspace.request_id', true), '')
    -- The operator's work is most of all, and a call of a function costs more than this.
    from (select pg_has_role(session_user, 'operator_role', 'usage') or public.is_trusted_session()) as t (trusted)
$function$;
comment on function public.audit_context(OUT user_id bigint, OUT api_key_id bigint, OUT ip_address inet, OUT user_agent text, OUT request_id text) is 'Who acts in this transaction, as an event of the audit trail keeps it; always one row. What the operator states is taken, of all others only what is proven.';

CREATE OR REPLACE FUNCTION public.audit_image_change()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    if tg_argv[0] = 'archived'
       and (old.user_id, old.original_filename, old.file_path, old.file_size, old.mime_type, old.file_hash,
            old.is_duplicate, old.duplicate_of, old.metadata)
           is distinct from
           (new.user_id, new.original_filename, new.file_path, new.file_size, new.mime_type, new.file_hash,
            new.is_duplicate, new.duplicate_of, new.metadata) then
        return null;  -- the event of those columns says it as well
    end if;
    insert into public.security_audit (
        user_id, api_key_id, action, resource_type, resource_id, ip_address, user_agent,
        request_id, changes_before, changes_after
    )
    select c.user_id, c.api_key_id, 'config_change', 'image', new.id::text, c.ip_address, c.user_agent,
           c.request_id, d.was, d.becomes
    from public.audit_context() c
    cross join public.changed_keys(old.metadata, new.metadata) m
    cross join lateral public.changed_keys(
        jsonb_build_object(
            'user_id', old.user_id, 'original_filename', old.original_filename, 'file_path', old.file_path,
            'file_size', old.file_size, 'mime_type', old.mime_type, 'file_hash', old.file_hash,
            'is_duplicate', old.is_duplicate, 'duplicate_of', old.duplicate_of, 'metadata', m.was)
        || case when new.analysis_status = 'archived' then jsonb_build_object('analysis_status', old.analysis_status) else '{}' end,
        jsonb_build_object(
            'user_id', new.user_id, 'original_filename', new.original_filename, 'file_path', new.file_path,
            'file_size', new.file_size, 'mime_type', new.mime_type, 'file_hash', new.file_hash,
            'is_duplicate', new.is_duplicate, 'duplicate_of', new.duplicate_of, 'metadata', m.becomes)
        || case when new.analysis_status = 'archived' then jsonb_build_object('analysis_status', new.analysis_status) else '{}' end
    ) d;
    return null;
end
$function$;
comment on function public.audit_image_change() is 'Writes what somebody decided about an image into the audit trail: the changed keys before and after. What jobs change of it is told by run_analysis. Argument: which of its two triggers calls.';
revoke execute on function public.audit_image_change() from public;

CREATE OR REPLACE FUNCTION public.audit_images()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    added constant boolean := tg_op = 'INSERT';
begin
    insert into public.security_audit (
        user_id, api_key_id, action, resource_type, resource_id, ip_address, user_agent,
        request_id, changes_before, changes_after
    )
    select coalesce(c.user_id, case when added then r.user_id end), c.api_key_id,
           case when added then 'create_image' else 'delete_image' end::public.audit_action,
           'image', r.id::text, c.ip_address, c.user_agent, c.request_id,
           case when not added then d.facts || jsonb_build_object('user_id', r.user_id, 'analysis_status', r.analysis_status) end,
           case when added then d.facts || case
               when c.user_id <> r.user_id then jsonb_build_object('user_id', r.user_id) else '{}' end
           end
    from public.audit_context() c
    cross join changed r
    cross join lateral (
        select jsonb_build_object(
            'original_filename', r.original_filename, 'file_hash', r.file_hash,
            'file_size', r.file_size, 'mime_type', r.mime_type) as facts
    ) d
    order by r.id;
    return null;
end
$function$;
comment on function public.audit_images() is 'Writes create_image and delete_image into the audit trail, one event per image.';
revoke execute on function public.audit_images() from public;

CREATE OR REPLACE FUNCTION public.audit_queue_limits()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    was     constant jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) - '{id,running}'::text[] end;
    becomes constant jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) - '{id,running}'::text[] end;
begin
    perform public.record_event(
        'config_change', 'queue_limit', coalesce(new.id, old.id)::text,
        changes_before => was, changes_after => becomes);
    return null;
end
$function$;
comment on function public.audit_queue_limits() is 'Writes a config_change event for a limit of running jobs that comes, changes or goes.';
revoke execute on function public.audit_queue_limits() from public;

CREATE OR REPLACE FUNCTION public.audit_result_changes()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    if tg_op = 'DELETE' then
        perform public.record_event(
            'config_change', 'result', o.id::text,
            changes_before => jsonb_build_object(
                'image_id', o.image_id, 'user_id', o.user_id, 'algorithm_name', o.algorithm_name,
                'algorithm_version', o.algorithm_version, 'parameters_hash', o.parameters_hash,
                'confidence_score', o.confidence_score, 'notes', o.notes))
        from old_rows o order by o.id;
    else
        perform public.record_event('config_change', 'result', n.id::text,
                                    changes_before => d.was, changes_after => d.becomes)
        from old_rows o
        join new_rows n using (id)
        cross join lateral public.changed_keys(
            to_jsonb(o) - '{updated_at,cache_hit,cached_at}'::text[],
            to_jsonb(n) - '{updated_at,cache_hit,cached_at}'::text[]) d
        where d.was is not null
        order by n.id;
    end if;
    return null;
end
$function$;
comment on function public.audit_result_changes() is 'Writes changed and removed results into the audit trail. That one came is told by run_analysis.';
revoke execute on function public.audit_result_changes() from public;

CREATE OR REPLACE FUNCTION public.audit_stored_result()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    calls text;
begin
    -- The queue's functions tell of their results themselves, with the job.
    get diagnostics calls = pg_context;
    if calls ~ 'PL/pgSQL function (public\.)?(complete_jobs?|store_cached_result)\(' then
        return null;
    end if;
    perform public.record_event(
        'run_analysis', 'image', new.image_id::text,
        changes_after => jsonb_build_object(
            'result_id', new.id, 'algorithm_name', new.algorithm_name, 'algorithm_version', new.algorithm_version,
            'parameters_hash', new.parameters_hash, 'confidence_score', new.confidence_score),
        user_id => new.user_id);
    return null;
end
$function$;
comment on function public.audit_stored_result() is 'Writes a run_analysis event for a result that was stored by nobody''s job.';
revoke execute on function public.audit_stored_result() from public;

CREATE OR REPLACE FUNCTION public.audit_sums(relation text, first xid8, below xid8, above_id bigint, through_id bigint)
 RETURNS TABLE(user_id bigint, month timestamp with time zone, event_count bigint, success_count bigint, failure_count bigint, partial_count bigint, last_event_at timestamp with time zone, duration_count bigint, duration_total numeric, row_count bigint, highest_id bigint)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET plan_cache_mode TO 'force_custom_plan'
AS $function$
begin
    if relation = 'security_audit' then
        return query
            select a.user_id, date_trunc('month', a."timestamp", 'UTC'), count(*),
                   count(*) filter (where a.status = 'success'), count(*) filter (where a.status = 'failure'),
                   count(*) filter (where a.status = 'partial'), max(a."timestamp"), 0::bigint, 0::numeric, count(*), max(a.id)
            from public.security_audit a
            where a.recorded_in >= audit_sums.first and a.recorded_in < audit_sums.below
              and a.id > audit_sums.above_id and a.id <= audit_sums.through_id
            group by 1, 2;
    else
        return query
            select e.user_id, date_trunc('month', d.created_at, 'UTC'), 0::bigint, 0::bigint, 0::bigint, 0::bigint,
                   null::timestamptz, count(d.duration_ms), coalesce(sum(d.duration_ms), 0), count(*), max(d.id)
            from public.audit_log_details d
            join public.security_audit e on e.id = d.audit_id and e."timestamp" = d.audit_timestamp
            where d.recorded_in >= audit_sums.first and d.recorded_in < audit_sums.below
              and d.id > audit_sums.above_id and d.id <= audit_sums.through_id
            group by 1, 2;
    end if;
end
$function$;
comment on function public.audit_sums(relation text, first xid8, below xid8, above_id bigint, through_id bigint) is 'Sums by user and month of the rows of some transactions, from first on and below another, with numbers above above_id and up to through_id: of events, or of the details'' durations.';
grant execute on function public.audit_sums(text,xid8,xid8,bigint,bigint) to app_user;
revoke execute on function public.audit_sums(text,xid8,xid8,bigint,bigint) from public;

CREATE OR REPLACE FUNCTION public.band_masks()
 RETURNS bigint[]
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select array_agg(distinct m.mask order by m.mask) filter (where m.bits = 0)
        || array_agg(distinct m.mask order by m.mask) filter (where m.bits = 1)
        || array_agg(distinct m.mask order by m.mask) filter (where m.bits = 2)
    from (
        select (1::bigint << a.bit) | (1::bigint << b.bit) as mask, case when a.bit = b.bit then 1 else 2 end as bits
        from generate_series(0, 15) as a (bit), generate_series(0, 15) as b (bit)
        union
        select 0, 0
    ) m
$function$;
comment on function public.band_masks() is 'The differences that two bands of 16 bits can have: none, then the 16 of one bit, then the 120 of two.';

CREATE OR REPLACE FUNCTION public.begin_upkeep(step text, every interval, lease interval, held_by text, OUT token uuid, OUT state text)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_variable
begin
    if every is null or every < interval '0' or lease is null or lease <= interval '0' then
        raise exception 'a step is due again after a time that is not negative, and its lease is longer than nothing'
            using errcode = 'NS004', hint = 'such as interval ''1 hour'' and interval ''15 minutes''';
    end if;
    if not exists (select from public.upkeep_steps u where u.step = begin_upkeep.step) then
        insert into public.upkeep_steps (step) values (step) on conflict do nothing;
    end if;
    update public.upkeep_steps u
    set lease_token = gen_random_uuid(), leased_until = clock_timestamp() + lease,
        held_by = begin_upkeep.held_by, started_at = clock_timestamp()
    where u.step = begin_upkeep.step
      and (u.leased_until is null or u.leased_until <= clock_timestamp())
      and (u.ended_at is null or u.ended_at <= clock_timestamp() - every)
    returning u.lease_token into token;
    state := case when token is not null then 'yours'
                  when exists (select from public.upkeep_steps u where u.step = begin_upkeep.step and u.leased_until > clock_timestamp()) then 'busy'
                  else 'done' end;
end
$function$;
comment on function public.begin_upkeep(step text, every interval, lease interval, held_by text, OUT token uuid, OUT state text) is 'Who may do a step of housekeeping now. state: yours (with a token, until the lease ends), busy (somebody is at it), done (not due: it was done within every).';
grant execute on function public.begin_upkeep(text,interval,interval,text) to operator_role;
revoke execute on function public.begin_upkeep(text,interval,interval,text) from public;

CREATE OR REPLACE FUNCTION public.cache_key(file_hash text, algorithm_fingerprint text, owner bigint)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select public.sha256_hex(file_hash || ':' || algorithm_fingerprint || ':' || owner)
$function$;
comment on function public.cache_key(file_hash text, algorithm_fingerprint text, owner bigint) is 'The key of a cached result: SHA-256 of the file''s hash, what the analyser would do, and whose image it is.';

CREATE OR REPLACE FUNCTION public.cancel_jobs(jobs bigint[], reason text DEFAULT 'cancelled'::text)
 RETURNS bigint[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
AS $function$
declare
    ended_at constant timestamptz := clock_timestamp();
    held     public.processing_queue[];
    known    bigint[];  -- images that have a result
    others   bigint[];
begin
    perform 1 from public.images i
    where i.id = any (array(select q.image_id from public.processing_queue q where q.id = any (cancel_jobs.jobs)))
    order by i.id for no key update;
    held := array(
        select q from public.processing_queue q
        where q.id = any (cancel_jobs.jobs) and q.status in ('queued', 'processing', 'retrying', 'failed')
        order by q.id for update);
    update public.processing_queue q
    set status = 'cancelled', completed_at = ended_at, lease_token = null, error_message = coalesce(cancel_jobs.reason, q.error_message)
    where q.id = any (array(select h.id from unnest(held) h where h.status <> 'failed'))
      and q.status in ('queued', 'processing', 'retrying');
    update public.processing_queue q set status = 'cancelled'
    where q.id = any (array(select h.id from unnest(held) h where h.status = 'failed')) and q.status = 'failed';
    perform public.record_batch_metrics(array(select h from unnest(held) h where h.status = 'processing'), 'cancelled', ended_at);
    -- An image without further jobs has what it had: where it was asked for again and taken
    -- back before it ran, its result; else its analysis has failed.
    known := array(
        select i.id from public.images i
        where i.id = any (array(select h.image_id from unnest(held) h where h.status <> 'failed'))
          and exists (select from public.analysis_results r where r.image_id = i.id));
    update public.images i set analysis_status = 'processing'
    where i.id = any (known) and i.analysis_status = 'pending'
      and i.id <> all (array(select q.image_id from public.processing_queue_hot q where q.image_id = any (known)));
    perform public.settle_images(known, 'completed', (select jsonb_object_agg(i.id, cancel_jobs.reason) from unnest(known) as i (id)));
    others := array(
        select distinct h.image_id from unnest(held) h
        where h.status <> 'failed' and h.image_id not in (select unnest(known)));
    perform public.settle_images(others, 'failed', (select jsonb_object_agg(i.id, cancel_jobs.reason) from unnest(others) as i (id)));
    insert into public.security_audit (
        user_id, api_key_id, action, resource_type, resource_id, ip_address, user_agent, request_id, changes_before, changes_after
    )
    select c.user_id, c.api_key_id, 'config_change', 'job', h.id::text, c.ip_address, c.user_agent, c.request_id,
           jsonb_build_object('status', h.status), jsonb_build_object('status', 'cancelled', 'reason', cancel_jobs.reason)
    from public.audit_context() c cross join unnest(held) h
    order by h.id;
    return array(select h.id from unnest(held) h order by h.id);
end
$function$;
comment on function public.cancel_jobs(jobs bigint[], reason text) is 'Takes jobs back, running ones too (their workers learn it with the next heartbeat), and returns those it took back; ended ones stay as they are.';
grant execute on function public.cancel_jobs(bigint[],text) to operator_role;
revoke execute on function public.cancel_jobs(bigint[],text) from public;

CREATE OR REPLACE FUNCTION public.cancel_jobs_of_image()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    perform public.cancel_jobs(
        array(select q.id from public.processing_queue_hot q where q.image_id = new.id), 'its image is archived');
    return null;
end
$function$;
comment on function public.cancel_jobs_of_image() is 'Cancels the jobs that wait or run for the image of the row.';
revoke execute on function public.cancel_jobs_of_image() from public;

CREATE OR REPLACE FUNCTION public.cancel_own_jobs(jobs bigint[], reason text DEFAULT 'cancelled'::text)
 RETURNS bigint[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    perform public.refuse_others_images(public.images_of_jobs(cancel_own_jobs.jobs), 'job', cancel_own_jobs.jobs);
    return public.cancel_jobs(cancel_own_jobs.jobs, cancel_own_jobs.reason);
end
$function$;
comment on function public.cancel_own_jobs(jobs bigint[], reason text) is 'cancel_jobs() for whoever is proven to act, on jobs of the account''s images; an administrator on all.';
grant execute on function public.cancel_own_jobs(bigint[],text) to app_user;
revoke execute on function public.cancel_own_jobs(bigint[],text) from public;

CREATE OR REPLACE FUNCTION public.change_password(account bigint, password_hash text)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    update public.users u set password_hash = change_password.password_hash where u.id = account;
    if not found then
        raise exception 'there is no user %', account using errcode = 'NS003', hint = 'negspace users list shows the accounts';
    end if;
    update public.account_tokens t set used_at = clock_timestamp()
    where t.user_id = account and t.purpose = 'reset_password' and t.used_at is null;
    perform public.end_sessions(account);
end
$function$;
comment on function public.change_password(account bigint, password_hash text) is 'Gives an account another password, and ends all that the old one began: sessions, and tokens for a new one.';
grant execute on function public.change_password(bigint,text) to operator_role;
revoke execute on function public.change_password(bigint,text) from public;

CREATE OR REPLACE FUNCTION public.changed_keys(before jsonb, after jsonb, OUT was jsonb, OUT becomes jsonb)
 RETURNS record
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select jsonb_object_agg(k.key, before -> k.key), jsonb_object_agg(k.key, after -> k.key)
    from (select jsonb_object_keys(before) union select jsonb_object_keys(after)) as k (key)
    where before -> k.key is distinct from after -> k.key
$function$;
comment on function public.changed_keys(before jsonb, after jsonb, OUT was jsonb, OUT becomes jsonb) is 'The keys of two objects whose values differ, as they were and as they become; a key that isn''t there is null. Null where all are equal.';

CREATE OR REPLACE FUNCTION public.check_ends(ends jsonb)
 RETURNS void
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    if jsonb_typeof(ends) is distinct from 'array'
       or exists (select from jsonb_array_elements(ends) e
                  where (e.value ?& array['job', 'attempt', 'token'] and e.value ->> 'job' is not null) is not true) then
        raise exception 'the ends of jobs are an array of objects, each with "job", "attempt" and "token"'
            using errcode = 'NS004', hint = 'pass id, attempt and lease_token as claim_jobs() gave them';
    end if;
end
$function$;
comment on function public.check_ends(ends jsonb) is 'An error where one of the ends has no job, attempt or token, or they are no array of objects.';
revoke execute on function public.check_ends(jsonb) from public;

CREATE OR REPLACE FUNCTION public.claim_first(worker text, how_many integer, algorithms text[], capacity numeric)
 RETURNS TABLE(id bigint, token uuid, attempt integer, image_id bigint, owner bigint, file_path text, file_hash text, original_filename text, algorithm_name text, algorithm_version text, algorithm_parameters jsonb, answered boolean, seconds_left double precision)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
#variable_conflict use_column
declare
    marks  constant timestamptz[] := public.queue_marks();
    step   constant interval := public.priority_step();
    moment constant timestamptz := clock_timestamp();
    opens  constant uuid := gen_random_uuid();
    most   constant integer := least(greatest(claim_first.how_many, 0), 2);  -- two are told from one
    job    record;
begin
    begin
        with first as materialized (
            select w.id
            from generate_series(1, 10) as p (priority)
            cross join lateral (
                (select q.id, q.scheduled_at from public.processing_queue_hot q
                 where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at <= q.created_at
                   and q.scheduled_at >= marks[p.priority]
                   and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
                   and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
                   and (q.deadline_at is null or q.deadline_at > moment)
                 order by q.scheduled_at, q.id limit most)
                union all
                (select q.id, q.scheduled_at from public.processing_queue_hot q
                 where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at > q.created_at
                   and q.scheduled_at >= marks[p.priority] and q.scheduled_at <= moment
                   and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
                   and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
                   and (q.deadline_at is null or q.deadline_at > moment)
                 order by q.scheduled_at, q.id limit most)) w
            order by w.scheduled_at - p.priority * step, w.id
            limit most
        )
        select l.* into job
        from first f
        cross join lateral (
            select q.id, q.attempt + 1 as attempt, q.image_id, q.algorithm_name, q.algorithm_version, q.algorithm_parameters,
                   q.deadline_at, q.complexity_score, i.analysis_status, i.user_id, i.file_path, i.file_hash, i.original_filename,
                   q.processing_metadata -> 'use_cache' is distinct from 'false' and (
                       (select r.id from public.analysis_results r
                        where r.image_id = q.image_id and r.parameters_hash = q.parameters_hash  -- as result_of()
                          and r.algorithm_name || '@' || r.algorithm_version = q.algorithm_name || '@' || q.algorithm_version) is not null
                       or (select a.id from public.analysis_cache a
                           where a.cache_key = public.cache_key(
                                     i.file_hash,
                                     public.algorithm_fingerprint(q.algorithm_name, q.algorithm_version, q.algorithm_parameters),
                                     i.user_id)
                             and a.expires_at > clock_timestamp()) is not null) as answered
            from public.processing_queue_hot q
            join public.images i on i.id = q.image_id
            where q.id = f.id and q.status in ('queued', 'retrying') and i.analysis_status <> 'archived'
            for update of q skip locked
            for no key update of i skip locked) l
        where (select count(*) from first) = 1
          and not exists (select from public.queue_limits);
    exception
        when serialization_failure then  -- it has ended since this look began, and lies in another partition
            return;
    end;
    if job.id is null then
        return;
    end if;
    if job.analysis_status = 'pending' then
        update public.images i set analysis_status = 'processing' where i.id = job.image_id;
    end if;
    update public.processing_queue_hot q
    set status                  = 'processing',
        worker_id               = claim_first.worker,
        attempt                 = job.attempt,
        lease_token             = opens,
        started_at              = clock_timestamp(),
        estimated_completion_at = clock_timestamp() + coalesce((
            select coalesce(s.ms_per_megapixel * job.complexity_score::double precision, s.ms_per_job)
            from public.algorithm_speeds s
            where s.algorithm_name = job.algorithm_name and s.algorithm_version = job.algorithm_version), 1000) * interval '1 millisecond'
    where q.id = job.id;
    return query
        select job.id, opens, job.attempt, job.image_id, job.user_id, job.file_path, job.file_hash, job.original_filename, job.algorithm_name,
               job.algorithm_version, job.algorithm_parameters, job.answered, extract(epoch from job.deadline_at - moment)::double precision;
end
$function$;
comment on function public.claim_first(worker text, how_many integer, algorithms text[], capacity numeric) is 'claim_work() of a job that waits alone, or of one job, where nothing stands in its way: nobody holds it or its image, and nothing is limited. Otherwise nothing, and claim_jobs() looks further.';
revoke execute on function public.claim_first(text,integer,text[],numeric) from public;

CREATE OR REPLACE FUNCTION public.claim_work(worker text, how_many integer DEFAULT 1, algorithms text[] DEFAULT NULL::text[], capacity numeric DEFAULT NULL::numeric)
 RETURNS TABLE(id bigint, token uuid, attempt integer, image_id bigint, owner bigint, file_path text, file_hash text, original_filename text, algorithm_name text, algorithm_version text, algorithm_parameters jsonb, answered boolean, seconds_left double precision)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
#variable_conflict use_column
declare
    held public.processing_queue[];
    keys text[];  -- of their results in the cache
begin
    if public.sweep_queue() then
        perform public.fold_queue_counts(), public.fail_overdue_jobs(), public.measure_algorithms();
    end if;
    return query
        select * from public.claim_first(claim_work.worker, claim_work.how_many, claim_work.algorithms, claim_work.capacity);
    if found then
        return;
    end if;
    held := array(select j from public.claim_jobs(claim_work.worker, claim_work.how_many, claim_work.algorithms, claim_work.capacity) j);
    if held = '{}' then
        return;
    end if;
    select k.keys into keys from public.cache_keys(held) k;
    return query
        select h.id, h.lease_token, h.attempt, h.image_id, i.user_id, i.file_path, i.file_hash, i.original_filename,
               h.algorithm_name, h.algorithm_version, h.algorithm_parameters,
               h.processing_metadata -> 'use_cache' is distinct from 'false' and (
                   (select r.id from public.analysis_results r  -- as result_of()
                    where r.image_id = h.image_id and r.parameters_hash = h.parameters_hash
                      and r.algorithm_name || '@' || r.algorithm_version = h.algorithm_name || '@' || h.algorithm_version) is not null
                   or (select a.id from public.analysis_cache a
                       where a.cache_key = keys[h.ordinality] and a.expires_at > clock_timestamp()) is not null),
               extract(epoch from h.deadline_at - clock_timestamp())::double precision
        from unnest(held) with ordinality h
        join public.images i on i.id = h.image_id
        order by h.ordinality;
end
$function$;
comment on function public.claim_work(worker text, how_many integer, algorithms text[], capacity numeric) is 'claim_jobs() with what a worker needs to begin: the image''s owner, file and hash, whether the result is there already (answered: ask answer_jobs() for it), and the seconds that are left until the deadline. In the order of the queue.';
grant execute on function public.claim_work(text,integer,text[],numeric) to operator_role;
revoke execute on function public.claim_work(text,integer,text[],numeric) from public;

CREATE OR REPLACE FUNCTION public.cleanup_cached_values(batch_size integer DEFAULT 1000)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    removed integer;
begin
    delete from public.cached_value_leases l where l.key = any (array(
        select d.key from public.cached_value_leases d where d.leased_until <= now() - interval '1 hour' for update skip locked));
    delete from public.cached_values v where v.key = any (array(
        select d.key from public.cached_values d
        where d.kept_until <= now()
        order by d.kept_until
        limit greatest(cleanup_cached_values.batch_size, 0)
        for update skip locked));
    get diagnostics removed = row_count;
    return removed;
end
$function$;
comment on function public.cleanup_cached_values(batch_size integer) is 'Removes up to batch_size values that neither answer nor stand in any more, and returns how many. Skips what somebody else holds; call it until it returns 0.';
grant execute on function public.cleanup_cached_values(integer) to operator_role;
revoke execute on function public.cleanup_cached_values(integer) from public;

CREATE OR REPLACE FUNCTION public.cleanup_expired_cache(batch_size integer DEFAULT 1000)
 RETURNS integer
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    with expired as (
        select id from public.analysis_cache
        where expires_at <= now()
        order by expires_at
        limit greatest(batch_size, 0)
        for update skip locked
    ), removed as (
        delete from public.analysis_cache c
        where c.id = any (array(select id from expired))
        returning 1
    )
    select count(*)::integer from removed
$function$;
comment on function public.cleanup_expired_cache(batch_size integer) is 'Removes up to batch_size expired entries and returns how many. Skips what somebody else holds, so that many may call it at once; call it until it returns 0.';
grant execute on function public.cleanup_expired_cache(integer) to operator_role;
revoke execute on function public.cleanup_expired_cache(integer) from public;

CREATE OR REPLACE FUNCTION public.closed_through(of_table text, settled timestamp with time zone)
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    numbered constant boolean := pg_current_xact_id_if_assigned() is not null;
    mine     constant bigint := pg_current_xact_id()::text::bigint;
    p        public.rollup_progress%rowtype;
begin
    -- A number drawn now is above all that were drawn before, unless it was drawn long ago; one
    -- that is above it is from another server, before a restore.
    select * into p from public.rollup_progress r where r.table_name = of_table;
    if p.closing_at is null or p.closing_xid > mine or p.closing_at <= p.closed_through then
        if numbered then
            return p.closed_through;
        end if;
        p.closing_at := settled;
        p.closing_xid := mine;
        insert into public.rollup_progress as r (table_name, closing_at, closing_xid)
        values (of_table, settled, mine)
        on conflict (table_name) do update set closing_at = excluded.closing_at, closing_xid = excluded.closing_xid;
    end if;
    if pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= p.closing_xid then
        return p.closing_at;
    end if;
    return p.closed_through;
end
$function$;
comment on function public.closed_through(of_table text, settled timestamp with time zone) is 'Until when nobody can add to a table unseen, settled at most: rows marked later than that are not seen by who wrote earlier, and all of those have ended.';
revoke execute on function public.closed_through(text,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION public.complete_job(job bigint, token uuid, negative_space_data jsonb, anomalies jsonb, confidence_score numeric, processing_time_ms integer, quality_metrics jsonb DEFAULT '{}'::jsonb, provenance jsonb DEFAULT '{}'::jsonb, visualization_path text DEFAULT NULL::text, performance_stats jsonb DEFAULT '{}'::jsonb, optimization_suggestions jsonb DEFAULT '[]'::jsonb, cache_ttl_seconds integer DEFAULT 86400)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
    held     constant public.processing_queue := public.hold_job(complete_job.job, complete_job.token);
    ended_at constant timestamptz := clock_timestamp();
    print    constant text := public.algorithm_fingerprint(held.algorithm_name, held.algorithm_version, held.algorithm_parameters);
    result   bigint;
    event    bigint;
begin
    insert into public.analysis_results (
        image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters,
        negative_space_data, anomalies, confidence_score, processing_time_ms, quality_metrics,
        provenance, visualization_path, cached_at, cache_ttl_seconds, performance_stats,
        optimization_suggestions
    )
    values (
        held.image_id, held.user_id, held.algorithm_name, held.algorithm_version, held.algorithm_parameters,
        complete_job.negative_space_data, complete_job.anomalies, complete_job.confidence_score,
        complete_job.processing_time_ms, complete_job.quality_metrics, complete_job.provenance,
        complete_job.visualization_path, now(), complete_job.cache_ttl_seconds,
        complete_job.performance_stats, complete_job.optimization_suggestions
    )
    on conflict on constraint analysis_results_identity_key do nothing
    returning id into result;
    if result is null then  -- analysed again on purpose: the same in, the same out
        select r.id into result from public.analysis_results r
        where r.image_id = held.image_id and r.algorithm_name = held.algorithm_name
          and r.algorithm_version = held.algorithm_version and r.parameters_hash = held.parameters_hash;
    end if;

    insert into public.analysis_cache (cache_key, image_id, analysis_id, algorithm_fingerprint, cached_result, expires_at)
    select public.cache_key(i.file_hash, print, i.user_id), held.image_id, result, print,
           jsonb_build_object(
               'negative_space_data', complete_job.negative_space_data, 'anomalies', complete_job.anomalies,
               'confidence_score', complete_job.confidence_score, 'processing_time_ms', complete_job.processing_time_ms,
               'quality_metrics', complete_job.quality_metrics, 'provenance', complete_job.provenance,
               'visualization_path', complete_job.visualization_path),
           now() + make_interval(secs => complete_job.cache_ttl_seconds)
    from public.images i where i.id = held.image_id
    on conflict (cache_key) do update
        set analysis_id = excluded.analysis_id, image_id = excluded.image_id,
            cached_result = excluded.cached_result, created_at = excluded.created_at, expires_at = excluded.expires_at;

    if held.processing_metadata -> 'use_cache' is distinct from 'false' then
        insert into public.analysis_cache_misses (misses, missed_at) values (1, ended_at);
    end if;
    perform public.end_job(held, 'completed', ended_at, null);
    event := public.record_event(
        'run_analysis', 'image', held.image_id::text,
        changes_after => jsonb_build_object('result_id', result), user_id => held.user_id);
    perform public.record_event_details(
        event, 'job_completed', null,
        jsonb_build_object('job_id', held.id, 'algorithm', held.algorithm_name, 'version', held.algorithm_version,
                           'attempt', held.attempt, 'worker_id', held.worker_id),
        '{}', (extract(epoch from ended_at - held.started_at) * 1000)::numeric, 1, 0);
    perform public.settle_image(held.image_id, 'completed');
    return result;
end
$function$;
comment on function public.complete_job(job bigint, token uuid, negative_space_data jsonb, anomalies jsonb, confidence_score numeric, processing_time_ms integer, quality_metrics jsonb, provenance jsonb, visualization_path text, performance_stats jsonb, optimization_suggestions jsonb, cache_ttl_seconds integer) is 'Ends a job with its result: result, status, image, audit event, metrics and cache entry in one transaction, or, without the lease, none of them. Returns the result''s number.';
grant execute on function public.complete_job(bigint,uuid,jsonb,jsonb,numeric,integer,jsonb,jsonb,text,jsonb,jsonb,integer) to operator_role;
revoke execute on function public.complete_job(bigint,uuid,jsonb,jsonb,numeric,integer,jsonb,jsonb,text,jsonb,jsonb,integer) from public;

CREATE OR REPLACE FUNCTION public.complete_job_from_cache(job bigint, token uuid)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    held   constant public.processing_queue := public.hold_job(complete_job_from_cache.job, complete_job_from_cache.token);
    result bigint;
begin
    if held.processing_metadata -> 'use_cache' = 'false' then
        return null;
    end if;
    result := public.store_cached_result(
        held.image_id, held.user_id, held.algorithm_name, held.algorithm_version, held.algorithm_parameters);
    if result is not null then
        perform public.end_job(held, 'completed', clock_timestamp(), null);
        perform public.settle_image(held.image_id, 'completed');
    end if;
    return result;
end
$function$;
comment on function public.complete_job_from_cache(job bigint, token uuid) is 'Ends a job with the result that its image has, or that the cache has for the same bytes, and returns its number; null where there is none, or none is wanted, and the job goes on.';
grant execute on function public.complete_job_from_cache(bigint,uuid) to operator_role;
revoke execute on function public.complete_job_from_cache(bigint,uuid) from public;

CREATE OR REPLACE FUNCTION public.complete_jobs(ends jsonb)
 RETURNS TABLE(job_id bigint, outcome text, result_id bigint)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
#variable_conflict use_column
declare
    by_job   constant jsonb := public.places_by_job(complete_jobs.ends);
    held     constant public.processing_queue[] := array(select h from public.hold_jobs(by_job) h);
    given    constant jsonb[] := array(
        select complete_jobs.ends -> (by_job -> h.id::text ->> 'place')::integer
        from unnest(held) with ordinality h order by h.ordinality);
    ended_at constant timestamptz := clock_timestamp();
    results  jsonb;
begin
    if held <> '{}' then
        results := public.store_results(held, given);
        insert into public.analysis_cache_misses (misses, missed_at)
        select count(*), ended_at from unnest(held) h
        where h.processing_metadata -> 'use_cache' is distinct from 'false'
        having count(*) > 0;
        perform public.end_held_jobs(held, 'completed', ended_at);
        perform public.record_job_events(
            held, 'success', ended_at,
            (select jsonb_object_agg(r.key, jsonb_build_object('result_id', r.value)) from jsonb_each(results) r));
        perform public.settle_images(
            array(select distinct h.image_id from unnest(held) h), 'completed', '{}',
            (select jsonb_object_agg(h.image_id, jsonb_build_object(
                        'pixel_hash', given[h.ordinality] -> 'pixel_hash',
                        'perceptual_hash', given[h.ordinality] -> 'perceptual_hash',
                        'perceptual_hash_algorithm', given[h.ordinality] -> 'perceptual_hash_algorithm'))
             from unnest(held) with ordinality h
             where given[h.ordinality] ? 'pixel_hash'));
    end if;
    return query
        select k.job::bigint, case when results ? k.job then 'completed' else 'lost' end, (results ->> k.job)::bigint
        from jsonb_object_keys(by_job) k (job)
        order by 1;
end
$function$;
comment on function public.complete_jobs(ends jsonb) is 'Ends many jobs with their results, in one transaction and set by set: results, cache entries, statuses, images with their hashes, metrics and audit events. ends: an array of objects with job, attempt, token, negative_space_data, confidence_score, processing_time_ms and, where there are such, anomalies, quality_metrics, provenance, visualization_path, performance_stats, optimization_suggestions, cache_ttl_seconds, pixel_hash, perceptual_hash, perceptual_hash_algorithm. Outcome per job: completed, or lost (no longer held with that attempt and token; nothing of it was applied). Where one result breaks a rule of the schema, none is applied: end them one by one then.';
grant execute on function public.complete_jobs(jsonb) to operator_role;
revoke execute on function public.complete_jobs(jsonb) from public;

CREATE OR REPLACE FUNCTION public.context_seal(said text)
 RETURNS text
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    -- A server process runs one transaction at a time, and none begins twice at the same
    -- microsecond: what is sealed here is of no use anywhere else. Numbers, since texts of
    -- times depend on settings that anybody may change.
    select encode(sha256(s.outer_pad || sha256(s.inner_pad || convert_to(concat_ws(
               '|', said, pg_backend_pid(), extract(epoch from now()), extract(epoch from pg_postmaster_start_time())),
               'UTF8'))), 'hex')
    from public.context_secret s
    order by s.id desc
    limit 1
$function$;
comment on function public.context_seal(said text) is 'The seal of a statement about who acts in this transaction. For functions of the owner: whoever may call it can forge.';
revoke execute on function public.context_seal(text) from public;

CREATE OR REPLACE FUNCTION public.context_value(name text)
 RETURNS text
 LANGUAGE sql
 STABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select nullif(current_setting('negspace.' || name, true), '')
$function$;
comment on function public.context_value(name text) is 'One part of who acts in this transaction (user_id, api_key_id, ip_address, user_agent, request_id), or null.';

CREATE OR REPLACE FUNCTION public.count_api_key_uses(how_many integer DEFAULT 10000)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    keys    bigint[];
    counted integer;
begin
    -- One at a time, and no queue behind it.
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.count_api_key_uses', 0)) then
        return 0;
    end if;
    keys := array(
        select k.id from public.api_keys k
        where k.id = any (array(
            select l.api_key_id from public.api_key_limits l where l.uncounted > 0
            order by l.uncounted desc limit greatest(how_many, 0)))
        order by k.id
        for no key update);
    with used as (
        select l.* from public.api_key_limits l
        where l.api_key_id = any (keys) order by l.api_key_id for update
    ), reset as (
        update public.api_key_limits l set uncounted = 0
        from used where l.api_key_id = used.api_key_id
    )
    update public.api_keys k
    set total_requests               = k.total_requests + used.uncounted,
        last_used_at                 = greatest(k.last_used_at, used.last_accepted_at),
        last_rate_limit_reset        = used.busy_since,
        request_count_current_window = least(used.busy_requests, 2147483647),
        usage_stats                  = k.usage_stats || jsonb_build_object(d.day, coalesce(k.usage_stats -> d.day, '{}')
            || jsonb_build_object('accepted', coalesce((k.usage_stats -> d.day ->> 'accepted')::bigint, 0) + used.uncounted))
    from used
    cross join lateral (select to_char(used.last_accepted_at at time zone 'UTC', 'YYYY-MM-DD') as day) d
    where k.id = used.api_key_id;
    get diagnostics counted = row_count;

    -- Refusals are events already; of those of a flood against the limit none is kept.
    update public.api_keys k
    set usage_stats = k.usage_stats || r.stats
    from (
        select k2.id, jsonb_object_agg(e.day, coalesce(k2.usage_stats -> e.day, '{}') || jsonb_build_object('refused', e.refused)) as stats
        from (
            select a.resource_id, to_char(a."timestamp" at time zone 'UTC', 'YYYY-MM-DD') as day, count(*) as refused
            from public.security_audit a
            where a.action = 'api_call' and a.resource_type = 'api_key' and a.status = 'failure'
              and a."timestamp" >= date_trunc('day', now() at time zone 'UTC') at time zone 'UTC' - interval '1 day'
            group by 1, 2
        ) e
        join public.api_keys k2 on k2.id::text = e.resource_id
        group by k2.id
    ) r
    where k.id = r.id and not k.usage_stats @> r.stats;
    return counted;
end
$function$;
comment on function public.count_api_key_uses(how_many integer) is 'Carries what up to how_many keys were used for to api_keys (last_used_at, total_requests, the window and usage_stats) and returns how many keys, those with the most uses first. Housekeeping calls it: a write of api_keys by every request would make one row the bottleneck of all. Requests count for the day (UTC) of the last of them.';
grant execute on function public.count_api_key_uses(integer) to operator_role;
revoke execute on function public.count_api_key_uses(integer) from public;

CREATE OR REPLACE FUNCTION public.count_cache_uses(most integer DEFAULT 10000)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
comment on function public.count_cache_uses(most integer) is 'Carries hits of the cache to their entries, and hits and misses to their days, most rows of each at a time, and returns how many rows. Safe to call often and by many; call it until it returns 0, in a transaction of its own.';
grant execute on function public.count_cache_uses(integer) to operator_role;
revoke execute on function public.count_cache_uses(integer) from public;

CREATE OR REPLACE FUNCTION public.count_cached_value_uses(keys text[], hits bigint[], stale_hits bigint, misses bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_variable
begin
    perform 1 from public.cached_values v where v.key = any (keys) order by v.key for no key update;
    update public.cached_values v
    set hit_count = v.hit_count + u.hits, last_used_at = clock_timestamp()
    from unnest(keys, hits) as u (key, hits)
    where v.key = u.key;
    insert into public.cached_value_uses as d (day, hits, stale_hits, misses)
    values (date_trunc('day', now(), 'UTC'), coalesce((select sum(u.hits) from unnest(hits) as u (hits)), 0), stale_hits, misses)
    on conflict on constraint cached_value_uses_pkey do update
    set hits = d.hits + excluded.hits, stale_hits = d.stale_hits + excluded.stale_hits, misses = d.misses + excluded.misses;
end
$function$;
comment on function public.count_cached_value_uses(keys text[], hits bigint[], stale_hits bigint, misses bigint) is 'Counts how often each key answered, and what was stale or missed besides: what a process gathered over some seconds.';
grant execute on function public.count_cached_value_uses(text[],bigint[],bigint,bigint) to operator_role;
revoke execute on function public.count_cached_value_uses(text[],bigint[],bigint,bigint) from public;

CREATE OR REPLACE FUNCTION public.count_deaths(ends jsonb, most integer DEFAULT 3)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
comment on function public.count_deaths(ends jsonb, most integer) is 'Counts, for held jobs, that a process ended while it computed them. Returns the ends for fail_jobs(), with "again": false where it happened most times: such a job is not tried again, however many tries it has left.';
grant execute on function public.count_deaths(jsonb,integer) to operator_role;
revoke execute on function public.count_deaths(jsonb,integer) from public;

CREATE OR REPLACE FUNCTION public.count_jobs()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    if tg_op = 'INSERT' then
        insert into public.queue_counts (status, priority, algorithm_name, jobs)
        select n.status, n.priority, n.algorithm_name, count(*) from new_rows n
        group by n.status, n.priority, n.algorithm_name;
    elsif tg_op = 'DELETE' then
        insert into public.queue_counts (status, priority, algorithm_name, jobs)
        select o.status, o.priority, o.algorithm_name, -count(*) from old_rows o
        group by o.status, o.priority, o.algorithm_name;
    else
        insert into public.queue_counts (status, priority, algorithm_name, jobs)
        select r.status, r.priority, r.algorithm_name, sum(r.jobs)
        from (select n.status, n.priority, n.algorithm_name, 1 as jobs from new_rows n
              union all
              select o.status, o.priority, o.algorithm_name, -1 from old_rows o) r
        group by r.status, r.priority, r.algorithm_name
        having sum(r.jobs) <> 0;
    end if;
    return null;
end
$function$;
comment on function public.count_jobs() is 'Keeps queue_counts: one row per statement and kind of job that it moved.';
revoke execute on function public.count_jobs() from public;

CREATE OR REPLACE FUNCTION public.count_running_jobs()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    changed bigint[];  -- limits …
    more    integer[]; -- … and how many more of their jobs run
begin
    if not exists (select from public.queue_limits) then
        return null;
    end if;
    if tg_op = 'INSERT' then
        select array_agg(r.id), array_agg(r.jobs) into changed, more
        from (select l.id, count(*) as jobs from new_rows n join public.queue_limits l on l.user_id = n.user_id or l.job_group = n.job_group
              where n.status = 'processing' group by l.id) r;
    elsif tg_op = 'DELETE' then
        select array_agg(r.id), array_agg(r.jobs) into changed, more
        from (select l.id, -count(*) as jobs from old_rows o join public.queue_limits l on l.user_id = o.user_id or l.job_group = o.job_group
              where o.status = 'processing' group by l.id) r;
    else
        select array_agg(r.id), array_agg(r.jobs) into changed, more
        from (select l.id, sum(m.jobs) as jobs
              from (select n.user_id, n.job_group, 1 as jobs from new_rows n where n.status = 'processing'
                    union all
                    select o.user_id, o.job_group, -1 from old_rows o where o.status = 'processing') m
              join public.queue_limits l on l.user_id = m.user_id or l.job_group = m.job_group
              group by l.id having sum(m.jobs) <> 0) r;
    end if;
    if changed is not null then
        perform 1 from public.queue_limits l where l.id = any (changed) order by l.id for no key update;
        update public.queue_limits l set running = l.running + c.jobs
        from unnest(changed, more) as c (id, jobs) where l.id = c.id;
    end if;
    return null;
end
$function$;
comment on function public.count_running_jobs() is 'Keeps queue_limits.running, whoever moves a job into processing or out of it.';
revoke execute on function public.count_running_jobs() from public;

CREATE OR REPLACE FUNCTION public.decide_duplicates(firsts bigint[], seconds bigint[], decision public.duplicate_decision, note text DEFAULT NULL::text, decider bigint DEFAULT NULL::bigint)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_variable
declare
    person  constant bigint := coalesce(public.context_value('user_id')::bigint, decider);
    decided integer;
begin
    if person is null or decision is null then
        raise exception 'a person decides on duplicates, and what: nobody, or nothing, is named'
            using errcode = 'NS004', hint = 'negspace --as EMAIL names who acts';
    end if;
    perform 1 from public.duplicate_pairs p
    where (p.first_id, p.second_id) in (select * from unnest(firsts, seconds))
    order by p.first_id, p.second_id for update;
    get diagnostics decided = row_count;
    if decided <> cardinality(firsts) then
        raise exception '% of % pairs are none that were found', cardinality(firsts) - decided, cardinality(firsts)
            using errcode = 'NS003', hint = 'negspace duplicates scan finds pairs; negspace duplicates review shows them';
    end if;
    perform public.record_event(
        'config_change', 'duplicate_pair', p.first_id || '-' || p.second_id,
        changes_before => jsonb_build_object('decision', p.decision, 'decided_by', p.decided_by),
        changes_after => jsonb_build_object('decision', decision, 'note', note),
        user_id => person)
    from public.duplicate_pairs p
    where (p.first_id, p.second_id) in (select * from unnest(firsts, seconds))
    order by p.first_id, p.second_id;
    update public.duplicate_pairs p
    set decision   = decide_duplicates.decision,
        decided_by = case when decide_duplicates.decision <> 'undecided' then person end,
        decided_at = case when decide_duplicates.decision <> 'undecided' then now() end,
        note       = decide_duplicates.note
    where (p.first_id, p.second_id) in (select * from unnest(firsts, seconds));
    return decided;
end
$function$;
comment on function public.decide_duplicates(firsts bigint[], seconds bigint[], decision public.duplicate_decision, note text, decider bigint) is 'Keeps what a person decided on pairs, named by both numbers, and returns how many; an event each. The person is who acts in this transaction; decider stands in where the context names nobody.';
grant execute on function public.decide_duplicates(bigint[],bigint[],public.duplicate_decision,text,bigint) to operator_role;
revoke execute on function public.decide_duplicates(bigint[],bigint[],public.duplicate_decision,text,bigint) from public;

CREATE OR REPLACE FUNCTION public.delete_image(image bigint)
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    gone public.images%rowtype;
    heir bigint;
begin
    perform 1 from public.images i
    where i.id = delete_image.image or i.duplicate_of = delete_image.image
    order by i.id for update;
    -- Nobody adds a duplicate from here on. Who did while this waited for the image is seen, and
    -- locked, only now; unlocked it could be removed just when it becomes the original.
    perform 1 from public.images i where i.duplicate_of = delete_image.image order by i.id for update;
    heir := (select min(i.id) from public.images i where i.duplicate_of = delete_image.image);
    set constraints public.images_duplicate_of_fkey deferred;
    delete from public.images i where i.id = delete_image.image returning i.* into gone;
    if not found then
        raise exception 'there is no image %', delete_image.image
            using errcode = 'NS003', hint = 'negspace images list shows those there are';
    end if;
    update public.images i set is_duplicate = false, duplicate_of = null where i.id = heir;
    update public.images i set duplicate_of = heir where i.duplicate_of = delete_image.image and i.id <> heir;
    set constraints public.images_duplicate_of_fkey immediate;
    return case when public.sees_all_rows() and not exists (
        select from public.images i where i.file_hash = gone.file_hash and i.file_path = gone.file_path) then gone.file_path end;
end
$function$;
comment on function public.delete_image(image bigint) is 'Removes an image with its jobs and results; its oldest duplicate takes its place as the original. Returns the path of the stored file where no image uses it any more, else null; null too for whoever doesn''t see all images: housekeeping removes what nobody names.';
grant execute on function public.delete_image(bigint) to app_user;
revoke execute on function public.delete_image(bigint) from public;

CREATE OR REPLACE FUNCTION public.drop_ended_months(older_than interval)
 RETURNS text[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
comment on function public.drop_ended_months(older_than interval) is 'Drops whole months of jobs that all ended longer ago, at once and without dead rows, and returns their partitions. Where somebody is in the way for long it leaves them to the next call; purge_jobs() removes single jobs. Call it in a transaction of its own.';
grant execute on function public.drop_ended_months(interval) to operator_role;
revoke execute on function public.drop_ended_months(interval) from public;

CREATE OR REPLACE FUNCTION public.end_session(token_hash text)
 RETURNS boolean
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select coalesce((
        select public.end_sessions(s.user_id, s.session_id) > 0
        from public.verify_session(end_session.token_hash) s
        where s.session_id is not null), false)
$function$;
comment on function public.end_session(token_hash text) is 'Ends the session of a token, named by its SHA-256, with a logout event; false where there is none, or it has ended.';
grant execute on function public.end_session(text) to app_user;
revoke execute on function public.end_session(text) from public;

CREATE OR REPLACE FUNCTION public.end_sessions(account bigint, session bigint DEFAULT NULL::bigint)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    ended bigint[];
begin
    with gone as (
        update public.sessions s set ended_at = clock_timestamp()
        where s.user_id = account and (session is null or s.id = session)
          and s.ended_at is null and s.expires_at > clock_timestamp()
        returning s.id
    )
    select array_agg(g.id order by g.id) into ended from gone g;
    perform public.record_event('logout', 'session', e.id::text, user_id => account) from unnest(ended) as e (id);
    return coalesce(cardinality(ended), 0);
end
$function$;
comment on function public.end_sessions(account bigint, session bigint) is 'Ends a session of an account, or all of them, with a logout event each, and returns how many it ended.';
grant execute on function public.end_sessions(bigint,bigint) to operator_role;
revoke execute on function public.end_sessions(bigint,bigint) from public;

CREATE OR REPLACE FUNCTION public.end_upkeep(step text, token uuid, done bigint, failure text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    update public.upkeep_steps u
    set lease_token  = null,
        leased_until = null,
        ended_at     = case when end_upkeep.failure is null then clock_timestamp() else u.ended_at end,
        done         = case when end_upkeep.failure is null then end_upkeep.done else u.done end,
        failed_at    = case when end_upkeep.failure is null then u.failed_at else clock_timestamp() end,
        failure      = end_upkeep.failure
    where u.step = end_upkeep.step and u.lease_token = end_upkeep.token
$function$;
comment on function public.end_upkeep(step text, token uuid, done bigint, failure text) is 'A step of housekeeping was done, or failed; nothing is noted where its lease has gone to another.';
grant execute on function public.end_upkeep(text,uuid,bigint,text) to operator_role;
revoke execute on function public.end_upkeep(text,uuid,bigint,text) from public;

CREATE OR REPLACE FUNCTION public.ended_job_summary()
 RETURNS TABLE(status public.queue_status, job_count bigint, mean_wait double precision, p50_wait double precision, p95_wait double precision, max_wait double precision, oldest timestamp with time zone, newest timestamp with time zone)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_custom_plan'
AS $function$
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
$function$;
comment on function public.ended_job_summary() is 'Ended jobs by status: how many, and how long they waited, in seconds. From the sums of closed days, and the jobs for the rest: always up to date, and exact.';
grant execute on function public.ended_job_summary() to operator_role;
revoke execute on function public.ended_job_summary() from public;

CREATE OR REPLACE FUNCTION public.ends_by_job(ends jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    perform public.check_ends(ends);
    return (select coalesce(jsonb_object_agg(e.value ->> 'job', e.value), '{}') from jsonb_array_elements(ends) e);
end
$function$;
comment on function public.ends_by_job(ends jsonb) is 'The ends of jobs as one object by job; an error where one has no job, attempt or token.';

CREATE OR REPLACE FUNCTION public.enqueue_image(image bigint, requested_by bigint, algorithm_name text, algorithm_version text, algorithm_parameters jsonb, priority integer, max_retries integer, moment timestamp with time zone, scheduled_at timestamp with time zone, use_cache boolean, deadline_at timestamp with time zone, weight numeric, job_group text)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
#variable_conflict use_column
declare
    found_image record;
    job         bigint;
begin
    select i.user_id, i.analysis_status,
           (i.image_dimensions ->> 'width')::numeric * (i.image_dimensions ->> 'height')::numeric / 1000000 as weight,
           enqueue_image.use_cache and (
               (select r.id from public.analysis_results r
                where r.image_id = i.id and r.parameters_hash = public.sha256_hex(enqueue_image.algorithm_parameters::text)  -- as result_of()
                  and r.algorithm_name || '@' || r.algorithm_version
                      = enqueue_image.algorithm_name || '@' || enqueue_image.algorithm_version) is not null
               or (select a.id from public.analysis_cache a
                   where a.cache_key = public.cache_key(
                             i.file_hash,
                             public.algorithm_fingerprint(
                                 enqueue_image.algorithm_name, enqueue_image.algorithm_version, enqueue_image.algorithm_parameters),
                             i.user_id)
                     and a.expires_at > clock_timestamp()) is not null) as answered
    into found_image
    from public.images i where i.id = enqueue_image.image
    for no key update;
    if found_image.analysis_status is null or found_image.analysis_status = 'archived' or found_image.answered then
        return null;
    end if;
    insert into public.processing_queue_hot as q (
        id, image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters, priority, max_retries,
        created_at, scheduled_at, complexity_score, processing_metadata, deadline_at, job_group, estimated_completion_at
    )
    overriding system value
    select nextval('public.processing_queue_id_seq'), enqueue_image.image, coalesce(enqueue_image.requested_by, found_image.user_id),
           enqueue_image.algorithm_name, enqueue_image.algorithm_version, enqueue_image.algorithm_parameters,
           enqueue_image.priority, enqueue_image.max_retries,
           enqueue_image.moment, coalesce(enqueue_image.scheduled_at, enqueue_image.moment), g.weight,
           case when enqueue_image.use_cache then '{}' else '{"use_cache": false}' end::jsonb,
           enqueue_image.deadline_at, enqueue_image.job_group,
           greatest(enqueue_image.moment, enqueue_image.scheduled_at)
               + (s.ms_per_job * coalesce(s.jobs_before[enqueue_image.priority], s.jobs_ahead) / s.live_workers
                  + coalesce(s.ms_per_megapixel * g.weight::double precision, s.ms_per_job)) * interval '1 millisecond'
    from (select coalesce(enqueue_image.weight, found_image.weight) as weight) g
    left join public.algorithm_speeds s on s.algorithm_name = enqueue_image.algorithm_name
        and s.algorithm_version = enqueue_image.algorithm_version and s.live_workers > 0
    on conflict (image_id, algorithm_name, algorithm_version, parameters_hash) do nothing
    returning q.id into job;
    if job is not null and found_image.analysis_status in ('completed', 'failed') then
        update public.images i set analysis_status = 'pending' where i.id = enqueue_image.image;
    end if;
    return job;
end
$function$;
comment on function public.enqueue_image(image bigint, requested_by bigint, algorithm_name text, algorithm_version text, algorithm_parameters jsonb, priority integer, max_retries integer, moment timestamp with time zone, scheduled_at timestamp with time zone, use_cache boolean, deadline_at timestamp with time zone, weight numeric, job_group text) is 'enqueue_jobs() of one image that nothing answers yet: its new job. Otherwise null: it isn''t there, is archived, is answered or waits already.';
revoke execute on function public.enqueue_image(bigint,bigint,text,text,jsonb,integer,integer,timestamp with time zone,timestamp with time zone,boolean,timestamp with time zone,numeric,text) from public;

CREATE OR REPLACE FUNCTION public.enqueue_jobs(images bigint[], requested_by bigint DEFAULT NULL::bigint, algorithm_name text DEFAULT 'negative_space'::text, algorithm_version text DEFAULT '1.0.0'::text, algorithm_parameters jsonb DEFAULT '{}'::jsonb, priority integer DEFAULT 5, max_retries integer DEFAULT 3, scheduled_at timestamp with time zone DEFAULT NULL::timestamp with time zone, use_cache boolean DEFAULT true, deadline_at timestamp with time zone DEFAULT NULL::timestamp with time zone, weight numeric DEFAULT NULL::numeric, job_group text DEFAULT NULL::text)
 RETURNS TABLE(image_id bigint, job_id bigint, result_id bigint, outcome text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
#variable_conflict use_column
declare
    moment   constant timestamptz := clock_timestamp();
    wrong    bigint;
    locked   bigint;
    again    boolean;  -- some have been analysed before
    ids      bigint[];  -- the images by number …
    users    bigint[];
    weights  numeric[];
    answered bigint[] := '{}';
    results  bigint[] := '{}';
    added    bigint[] := '{}';
    jobs     bigint[];
begin
    if enqueue_jobs.deadline_at <= greatest(moment, enqueue_jobs.scheduled_at) then
        raise exception 'the deadline, %, is over before the job may begin', enqueue_jobs.deadline_at
            using errcode = 'NS004', hint = 'name a later one, or none';
    end if;
    if enqueue_jobs.weight < 0 or enqueue_jobs.weight in ('NaN', 'Infinity') then
        raise exception 'the weight is %', enqueue_jobs.weight
            using errcode = 'NS004', hint = 'a number of megapixels, 0 or more';
    end if;
    if cardinality(enqueue_jobs.images) = 1 and enqueue_jobs.images[1] is not null then
        job_id := public.enqueue_image(
            enqueue_jobs.images[1], enqueue_jobs.requested_by, enqueue_jobs.algorithm_name, enqueue_jobs.algorithm_version,
            enqueue_jobs.algorithm_parameters, enqueue_jobs.priority, enqueue_jobs.max_retries, moment, enqueue_jobs.scheduled_at,
            enqueue_jobs.use_cache, enqueue_jobs.deadline_at, enqueue_jobs.weight, enqueue_jobs.job_group);
        if job_id is not null then
            if enqueue_jobs.scheduled_at is null or enqueue_jobs.scheduled_at <= moment then
                perform public.wake_workers(1);
            end if;
            image_id := enqueue_jobs.images[1];
            outcome := 'queued';
            return next;
            return;
        end if;
    end if;
    select count(*), min(l.id) filter (where l.analysis_status = 'archived'), bool_or(l.analysis_status in ('completed', 'failed')),
           array_agg(l.id), array_agg(l.user_id), array_agg(l.weight)
    into locked, wrong, again, ids, users, weights
    from (select i.id, i.analysis_status, coalesce(enqueue_jobs.requested_by, i.user_id) as user_id,
                 coalesce(enqueue_jobs.weight,
                          (i.image_dimensions ->> 'width')::numeric * (i.image_dimensions ->> 'height')::numeric * 0.000001) as weight
          from public.images i
          where i.id = any (enqueue_jobs.images) order by i.id for no key update) l;
    if wrong is not null then
        raise exception 'image % is archived and is not analysed again', wrong
            using errcode = 'NS006', hint = 'take the file in again to analyse it';
    end if;
    if locked < cardinality(enqueue_jobs.images) and locked < (select count(distinct w.id) + count(*) filter (where w.id is null) from unnest(enqueue_jobs.images) as w (id)) then
        select w.id into wrong from unnest(enqueue_jobs.images) as w (id)
        where not exists (select from public.images i where i.id = w.id) limit 1;
        raise exception 'there is no image %', coalesce(wrong::text, 'null')
            using errcode = 'NS003', hint = 'negspace images list shows those there are';
    end if;
    if enqueue_jobs.use_cache then
        select a.answered, a.results into answered, results
        from public.answer_images(
            enqueue_jobs.images, enqueue_jobs.requested_by, enqueue_jobs.algorithm_name,
            enqueue_jobs.algorithm_version, enqueue_jobs.algorithm_parameters) a;
    end if;
    if answered = '{}' then
        select n.added, n.jobs into added, jobs
        from public.insert_new_jobs(
            enqueue_jobs.images, ids, users, weights, enqueue_jobs.algorithm_name, enqueue_jobs.algorithm_version,
            enqueue_jobs.algorithm_parameters, enqueue_jobs.priority, enqueue_jobs.max_retries, moment,
            enqueue_jobs.scheduled_at, enqueue_jobs.use_cache, enqueue_jobs.deadline_at, enqueue_jobs.job_group) n;
    end if;
    if jobs is null then
        select coalesce(array_agg(n.image_id), '{}'), coalesce(array_agg(n.job_id), '{}') into added, jobs
        from public.insert_jobs(
            enqueue_jobs.images, answered, enqueue_jobs.requested_by, enqueue_jobs.algorithm_name, enqueue_jobs.algorithm_version,
            enqueue_jobs.algorithm_parameters, enqueue_jobs.priority, enqueue_jobs.max_retries, moment, enqueue_jobs.scheduled_at,
            enqueue_jobs.use_cache, enqueue_jobs.deadline_at, enqueue_jobs.weight, enqueue_jobs.job_group) n;
    end if;
    if again then
        update public.images i set analysis_status = 'pending'
        where i.id = any (added) and i.analysis_status in ('completed', 'failed');
    end if;
    if enqueue_jobs.scheduled_at is null or enqueue_jobs.scheduled_at <= moment then
        perform public.wake_workers(cardinality(added));
    end if;
    return query
        select * from public.list_outcomes(
            enqueue_jobs.images, answered, results, added, jobs, enqueue_jobs.algorithm_name,
            enqueue_jobs.algorithm_version, public.sha256_hex(enqueue_jobs.algorithm_parameters::text));
end
$function$;
comment on function public.enqueue_jobs(images bigint[], requested_by bigint, algorithm_name text, algorithm_version text, algorithm_parameters jsonb, priority integer, max_retries integer, scheduled_at timestamp with time zone, use_cache boolean, deadline_at timestamp with time zone, weight numeric, job_group text) is 'Asks for an analysis of each image, in the order given and in the caller''s transaction. Outcome per image: queued (a new job), waiting (the same analysis waits or runs already), cached (the result is there, nothing waits). requested_by null: the image''s owner. use_cache false: computed again, by the worker too. deadline_at: it fails where it has not begun by then. weight: in megapixels; null: the image''s. job_group: what limit_running_jobs() limits it with.';
grant execute on function public.enqueue_jobs(bigint[],bigint,text,text,jsonb,integer,integer,timestamp with time zone,boolean,timestamp with time zone,numeric,text) to operator_role;
revoke execute on function public.enqueue_jobs(bigint[],bigint,text,text,jsonb,integer,integer,timestamp with time zone,boolean,timestamp with time zone,numeric,text) from public;

CREATE OR REPLACE FUNCTION public.enqueue_own_jobs(images bigint[], algorithm_name text DEFAULT 'negative_space'::text, algorithm_version text DEFAULT '1.0.0'::text, algorithm_parameters jsonb DEFAULT '{}'::jsonb, priority integer DEFAULT 5, scheduled_at timestamp with time zone DEFAULT NULL::timestamp with time zone, use_cache boolean DEFAULT true, deadline_at timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS TABLE(image_id bigint, job_id bigint, result_id bigint, outcome text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
    me constant bigint := public.refuse_others_images(enqueue_own_jobs.images, 'image', enqueue_own_jobs.images);
begin
    return query
        select e.* from public.enqueue_jobs(
            enqueue_own_jobs.images, me, enqueue_own_jobs.algorithm_name, enqueue_own_jobs.algorithm_version,
            enqueue_own_jobs.algorithm_parameters, enqueue_own_jobs.priority,
            scheduled_at => enqueue_own_jobs.scheduled_at, use_cache => enqueue_own_jobs.use_cache,
            deadline_at => enqueue_own_jobs.deadline_at) e;
end
$function$;
comment on function public.enqueue_own_jobs(images bigint[], algorithm_name text, algorithm_version text, algorithm_parameters jsonb, priority integer, scheduled_at timestamp with time zone, use_cache boolean, deadline_at timestamp with time zone) is 'enqueue_jobs() for whoever is proven to act, on images of the account; an administrator on all.';
grant execute on function public.enqueue_own_jobs(bigint[],text,text,jsonb,integer,timestamp with time zone,boolean,timestamp with time zone) to app_user;
revoke execute on function public.enqueue_own_jobs(bigint[],text,text,jsonb,integer,timestamp with time zone,boolean,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION public.ensure_partitions(months_ahead integer DEFAULT 3, oldest timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    this_month constant timestamp := date_trunc('month', now() at time zone 'UTC');
    first      timestamp;
    last       timestamp;
    part       record;
    made       integer := 0;
begin
    -- Bounds, because each partition takes some fifteen locks until the transaction ends.
    if months_ahead is null or months_ahead not between 0 and 12 then
        raise exception 'months_ahead must be from 0 to 12, not %', coalesce(months_ahead::text, 'null')
            using errcode = 'NS004', hint = 'partitions are made again and again, some months ahead each time';
    end if;
    if oldest < now() - interval '2 years' then
        raise exception 'oldest must lie within the last 2 years, not at %', oldest
            using errcode = 'NS004', hint = 'partitions of older months are made by hand, for an archive that is loaded again';
    end if;
    first := date_trunc('month', least(now(), oldest) at time zone 'UTC');
    last := this_month + make_interval(months => months_ahead);
    if not exists (select from public.missing_partitions(first, last)) then
        return 0;
    end if;
    -- One at a time: whoever waited finds the partitions made. Nobody needs those of coming
    -- months today, so for them nothing else is held up.
    perform pg_advisory_xact_lock(hashtextextended('negspace.ensure_partitions', 0));
    if not public.lock_for_partitions(exists (select from public.missing_partitions(first, this_month))) then
        return 0;
    end if;
    for part in select m.parent, m.month, m.name from public.missing_partitions(first, last) m loop
        execute format(
            'create table public.%I (like public.%I including defaults including constraints including generated including storage)',
            part.name, part.parent);
        execute format('comment on table public.%I is %L', part.name, 'Made ahead by ensure_partitions().');
        execute format(
            'alter table public.%I attach partition public.%I for values from (%L) to (%L)',
            part.parent, part.name,
            to_char(part.month, 'YYYY-MM-DD') || ' 00:00:00+00',
            to_char(part.month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00');
        -- the guard against TRUNCATE belongs to a statement, so partitions don't inherit it
        if exists (select from pg_trigger t where t.tgrelid = ('public.' || part.parent)::regclass
                   and t.tgfoid = 'public.refuse_change'::regproc and t.tgtype & 32 = 32) then
            execute format(
                'create trigger %I before truncate on public.%I for each statement execute function public.refuse_change()',
                part.name || '_no_truncate', part.name);
            execute format('alter table public.%I enable always trigger %I', part.name, part.name || '_no_truncate');
        end if;
        made := made + 1;
    end loop;
    return made;
end
$function$;
comment on function public.ensure_partitions(months_ahead integer, oldest timestamp with time zone) is 'Makes the monthly partitions (UTC) that are missing, from this month, or the month of oldest, to months_ahead after this one, and returns how many. Safe to call often and by many, in a short transaction of its own: migrations, services, workers and housekeeping do. Months that are only ahead are left to the next call where a long transaction is in the way.';
grant execute on function public.ensure_partitions(integer,timestamp with time zone) to app_user;
revoke execute on function public.ensure_partitions(integer,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION public.estimated_percentile(fraction double precision, rows bigint, low smallint, high smallint, minimum numeric, maximum numeric)
 RETURNS double precision
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select greatest(minimum::double precision, least(maximum::double precision,
        v.low + (v.high - v.low) * (fraction * (rows - 1) - floor(fraction * (rows - 1)))))
    from (select public.metric_bucket_value(estimated_percentile.low) as low,
                 public.metric_bucket_value(estimated_percentile.high) as high) v
$function$;
comment on function public.estimated_percentile(fraction double precision, rows bigint, low smallint, high smallint, minimum numeric, maximum numeric) is 'A percentile as percentile_cont has it, from the buckets of the two rows around it; never outside minimum and maximum.';

CREATE OR REPLACE FUNCTION public.fail_job(job bigint, token uuid, reason text, again boolean DEFAULT true)
 RETURNS public.queue_status
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    return public.end_try(
        public.hold_job(fail_job.job, fail_job.token),
        coalesce(nullif(left(fail_job.reason, 10000), ''), 'no reason given'), fail_job.again, true);
end
$function$;
comment on function public.fail_job(job bigint, token uuid, reason text, again boolean) is 'A try failed. Returns retrying, or failed where again is false or the tries are used up.';
grant execute on function public.fail_job(bigint,uuid,text,boolean) to operator_role;
revoke execute on function public.fail_job(bigint,uuid,text,boolean) from public;

CREATE OR REPLACE FUNCTION public.fail_jobs(ends jsonb, counts boolean DEFAULT true)
 RETURNS TABLE(job_id bigint, outcome text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
#variable_conflict use_column
declare
    by_job constant jsonb := public.ends_by_job(fail_jobs.ends);
    held   constant public.processing_queue[] := array(select h from public.hold_jobs(by_job) h);
begin
    return query
        select k.job::bigint, coalesce(t.outcome, 'lost')
        from jsonb_object_keys(by_job) k (job)
        left join public.end_tries(held, by_job, fail_jobs.counts) t on t.job_id = k.job::bigint
        order by 1;
end
$function$;
comment on function public.fail_jobs(ends jsonb, counts boolean) is 'Tries of many jobs failed. ends: an array of objects with job, attempt, token, reason and, where they are known, "error": the kind of error, for failures_by_error(), and where no try can help, "again": false. Outcome per job: retrying, failed (for good), or lost (no longer held with that attempt and token). counts false: a worker that stops gives them back; they wait again at once and no try is counted.';
grant execute on function public.fail_jobs(jsonb,boolean) to operator_role;
revoke execute on function public.fail_jobs(jsonb,boolean) from public;

CREATE OR REPLACE FUNCTION public.fail_overdue_jobs(how_many integer DEFAULT 1000)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
AS $function$
declare
    overdue constant bigint[] := array(
        select q.id from public.processing_queue_hot q
        where q.status in ('queued', 'retrying') and q.deadline_at <= clock_timestamp()
        order by q.deadline_at limit greatest(how_many, 0));
    free    bigint[];
    held    public.processing_queue[];
begin
    perform public.fold_job_failures();
    if overdue = '{}' then
        return 0;
    end if;
    free := array(
        select i.id from public.images i
        where i.id = any (array(select q.image_id from public.processing_queue_hot q where q.id = any (overdue)))
        order by i.id for no key update skip locked);
    update public.images i set analysis_status = 'processing' where i.id = any (free) and i.analysis_status = 'pending';
    perform 1 from public.processing_queue_hot q
    where q.id = any (overdue) and q.image_id = any (free) and q.status in ('queued', 'retrying')
    order by q.id for update skip locked;
    -- Waiting jobs don't fail: on paper it begins, held by nobody, and ends at once.
    with begun as (
        update public.processing_queue q
        set status = 'processing', worker_id = coalesce(q.worker_id, '(none)'), started_at = coalesce(q.started_at, clock_timestamp())
        where q.id = any (overdue) and q.image_id = any (free) and q.status in ('queued', 'retrying')
          and q.deadline_at <= clock_timestamp()
        returning q as job
    )
    select array_agg(b.job order by (b.job).id) into held from begun b;
    if held is null then
        return 0;
    end if;
    update public.processing_queue q
    set status = 'failed', completed_at = clock_timestamp(), last_error_at = clock_timestamp(),
        error_message = format('its deadline, %s, passed before it could begin', q.deadline_at),
        worker_id = nullif(q.worker_id, '(none)'),
        started_at = case when q.worker_id = '(none)' then null else q.started_at end
    where q.id = any (array(select h.id from unnest(held) h)) and q.status in ('queued', 'processing', 'retrying');
    perform public.record_job_events(
        held, 'failure', clock_timestamp(), '{}',
        (select jsonb_object_agg(h.id, format('its deadline, %s, passed before it could begin', h.deadline_at)) from unnest(held) h));
    perform public.settle_images(
        array(select distinct h.image_id from unnest(held) h), 'failed',
        (select jsonb_object_agg(h.image_id, format('the deadline of job %s, %s, passed before it could begin', h.id, h.deadline_at)) from unnest(held) h));
    perform public.count_failures(
        held, (select jsonb_object_agg(h.id, '{"error": "DeadlinePassed"}'::jsonb) from unnest(held) h),
        array(select h.id from unnest(held) h));
    return cardinality(held);
end
$function$;
comment on function public.fail_overdue_jobs(how_many integer) is 'Fails waiting jobs whose deadline has passed, each with that reason, and returns how many. claim_jobs() calls it now and then; no claim gives such a job out meanwhile.';
grant execute on function public.fail_overdue_jobs(integer) to operator_role;
revoke execute on function public.fail_overdue_jobs(integer) from public;

CREATE OR REPLACE FUNCTION public.failures_by_error(since timestamp with time zone DEFAULT '-infinity'::timestamp with time zone)
 RETURNS TABLE(algorithm_name text, error_class text, tries bigint, jobs bigint, last_failed_at timestamp with time zone)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select f.algorithm_name, f.error_class, sum(f.tries)::bigint, sum(f.jobs)::bigint, max(f.failed_at)
    from public.job_failures f
    where f.failed_at > failures_by_error.since - interval '1 hour'
    group by f.algorithm_name, f.error_class
    order by sum(f.tries) desc, f.algorithm_name, f.error_class
$function$;
comment on function public.failures_by_error(since timestamp with time zone) is 'How many tries failed (tries), how many of them for good (jobs), by analyser and error, most first: of the hours since then, the one it lies in included. last_failed_at is the newest hour. From kept counters, never a count of the queue.';
grant execute on function public.failures_by_error(timestamp with time zone) to operator_role;
revoke execute on function public.failures_by_error(timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION public.find_audit_timestamp()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    -- Nearly always the event was written in this transaction, and now() is its time; where
    -- it was not, its number tells. Of services the first is asked for: they would add to what
    -- somebody else did, and learn which events there are.
    select a."timestamp" into new.audit_timestamp
    from public.security_audit a where a.id = new.audit_id and a."timestamp" = now();
    if not found then
        select a."timestamp" into new.audit_timestamp
        from public.security_audit a where a.id = new.audit_id and public.is_trusted_session();
        if not found then
            raise exception 'there is no audit event %', new.audit_id
                using errcode = 'foreign_key_violation', constraint = 'audit_log_details_audit_id_fkey',
                      hint = 'details belong to the event whose number record_event() returned';
        end if;
    end if;
    return new;
end
$function$;
comment on function public.find_audit_timestamp() is 'Fills audit_timestamp with the time of the event that audit_id names.';

CREATE OR REPLACE FUNCTION public.find_cached_value(key text, lease interval, stale interval, held_by text, OUT state text, OUT value jsonb, OUT token uuid)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_variable
declare
    fresh boolean;
begin
    if key is null or key = '' or length(key) > 512 or lease is null or lease <= interval '0' or stale is null or stale < interval '0' then
        raise exception 'a value has a key of 1 to 512 characters, a lease longer than nothing and no negative time to stand in'
            using errcode = 'NS004', hint = 'such as find_cached_value(''report:7'', interval ''30 seconds'', interval ''0'', ''me'')';
    end if;
    select v.value, v.expires_at > clock_timestamp() into value, fresh from public.cached_values v
    where v.key = find_cached_value.key and v.expires_at + stale > clock_timestamp();
    if fresh then
        state := 'fresh';
        return;
    end if;
    state := case when fresh is null then 'wait' else 'stale' end;
    -- A look first: those who wait come again and again, and must not write.
    perform 1 from public.cached_value_leases l where l.key = find_cached_value.key and l.leased_until > clock_timestamp();
    if found then
        return;
    end if;
    insert into public.cached_value_leases as l (key, token, leased_until, held_by, taken_at)
    values (key, gen_random_uuid(), clock_timestamp() + lease, held_by, clock_timestamp())
    on conflict on constraint cached_value_leases_pkey do update
    set token = excluded.token, leased_until = excluded.leased_until, held_by = excluded.held_by, taken_at = excluded.taken_at
    where l.leased_until <= clock_timestamp()
    returning l.token into token;
    if token is null then
        return;
    end if;
    -- Who computed may have stored it between the look above and the lease.
    perform 1 from public.cached_values v where v.key = find_cached_value.key and v.expires_at > clock_timestamp();
    if found then
        delete from public.cached_value_leases l where l.key = find_cached_value.key;
        select v.value into value from public.cached_values v where v.key = find_cached_value.key;
        state := 'fresh';
        token := null;
        return;
    end if;
    state := 'compute';
    value := null;
end
$function$;
comment on function public.find_cached_value(key text, lease interval, stale interval, held_by text, OUT state text, OUT value jsonb, OUT token uuid) is 'The value of a key, or the right to compute it. state: fresh (the value), stale (an expired one, while another is computed), wait (somebody computes it: come again), compute (yours to compute: store_cached_value() with the token, renewed before the lease ends). In a transaction of its own: others wait for its end.';
grant execute on function public.find_cached_value(text,interval,interval,text) to operator_role;
revoke execute on function public.find_cached_value(text,interval,interval,text) from public;

CREATE OR REPLACE FUNCTION public.finish_login(email text, fitting_hash text, token_hash text DEFAULT NULL::text, lifetime interval DEFAULT '12:00:00'::interval, OUT user_id bigint, OUT accepted boolean, OUT reason text, OUT session_id bigint)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_variable
declare
    subject constant text := public.sha256_hex(lower(email));
    context constant record := public.audit_context();
    place   constant text := public.login_network(context.ip_address);
    account public.users%rowtype;
    here    public.login_attempts%rowtype;
    everywhere    public.login_attempts%rowtype;
    at      timestamptz;
    locked  boolean;
begin
    -- Tries of one account come one after another, so that those that were begun together
    -- can't all pass before the first is counted.
    insert into public.login_attempts (account_hash, network) values (subject, '*'), (subject, place)
    on conflict on constraint login_attempts_pkey do nothing;
    select a.* into everywhere from public.login_attempts a where a.account_hash = subject and a.network = '*' for update;
    select a.* into here from public.login_attempts a where a.account_hash = subject and a.network = place for update;
    select u.* into account from public.users u where lower(u.email) = lower(finish_login.email);
    at := clock_timestamp();
    locked := coalesce(here.locked_until > at, false)
              or (coalesce(greatest(everywhere.locked_until, account.account_locked_until) > at, false)
                  and coalesce(here.trusted_until, at) <= at);
    reason := case
        when account.id is null then 'unknown account'
        when locked then 'locked account'
        when account.password_hash is distinct from fitting_hash then 'wrong password'
        when not account.is_active then 'inactive account'
    end;
    accepted := reason is null;
    user_id := account.id;

    -- The same writes for all that are refused. A try while it is locked counts as none.
    update public.login_attempts a
    set failures      = case when locked then a.failures when accepted then 0 else n.failures end,
        failed_at     = case when locked or accepted then a.failed_at else at end,
        locked_until  = case when locked then a.locked_until
                             when accepted then case when a.network = '*' then a.locked_until end
                             else at + public.lock_out(n.failures, case when a.network = '*' then 50 else 5 end) end,
        trusted_until = case when accepted and a.network not in ('*', 'unknown') then at + interval '90 days' else a.trusted_until end,
        tried_at      = at
    from (
        select f.network, case when f.failed_at > at - interval '1 day' then f.failures + 1 else 1 end as failures
        from public.login_attempts f where f.account_hash = subject
    ) n
    where a.account_hash = subject and a.network in ('*', place) and n.network = a.network;
    perform public.record_event(
        'login', 'user', account.id::text,
        case when accepted then 'success' else 'failure' end::public.audit_status,
        error_message => reason, user_id => account.id);
    if not accepted then
        return;
    end if;
    update public.users u
    set last_login_at = at, failed_login_attempts = 0
    where u.id = account.id;
    if token_hash is not null then
        insert into public.sessions (user_id, token_hash, ip_address, user_agent, created_at, expires_at)
        values (account.id, token_hash, context.ip_address, context.user_agent, at, at + lifetime)
        returning id into session_id;
    end if;
end
$function$;
comment on function public.finish_login(email text, fitting_hash text, token_hash text, lifetime interval, OUT user_id bigint, OUT accepted boolean, OUT reason text, OUT session_id bigint) is 'Ends a try to log in, after the client compared the password; fitting_hash is the hash it fits, null where it fits none. Decides, counts, locks out and writes the login event, with the same writes for every refusal. Accepted: keeps last_login_at, and begins a session where a token''s hash is given.';
grant execute on function public.finish_login(text,text,text,interval) to operator_role;
revoke execute on function public.finish_login(text,text,text,interval) from public;

CREATE OR REPLACE FUNCTION public.fold_job_failures()
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
AS $function$
declare
    folded integer;
begin
    -- One at a time, and no queue behind it.
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.fold_job_failures', 0)) then
        return 0;
    end if;
    with gone as (
        delete from public.job_failures f
        where f.id = any (array(select n.id from public.job_failures n where not n.is_folded order by n.id limit 10000))
        returning f.failed_at, f.algorithm_name, f.error_class, f.tries, f.jobs
    ), kept as (
        insert into public.job_failures as f (failed_at, algorithm_name, error_class, tries, jobs, is_folded)
        select g.failed_at, g.algorithm_name, g.error_class, sum(g.tries), sum(g.jobs), true
        from gone g group by g.failed_at, g.algorithm_name, g.error_class
        on conflict (failed_at, algorithm_name, error_class) where is_folded do update
            set tries = f.tries + excluded.tries, jobs = f.jobs + excluded.jobs
    )
    select count(*) into folded from gone;
    return folded;
end
$function$;
comment on function public.fold_job_failures() is 'Adds what failed since to the sums of its hours, and returns how many rows it took. claim_jobs() calls it now and then.';
grant execute on function public.fold_job_failures() to operator_role;
revoke execute on function public.fold_job_failures() from public;

CREATE OR REPLACE FUNCTION public.fold_queue_counts()
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    folded integer;
begin
    -- One at a time, and no queue behind it.
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.fold_queue_counts', 0)) then
        return 0;
    end if;
    with gone as (
        delete from public.queue_counts c
        where c.id = any (array(select o.id from public.queue_counts o order by o.id limit 10000 for update skip locked))
        returning c.status, c.priority, c.algorithm_name, c.jobs
    ), kept as (
        insert into public.queue_counts (status, priority, algorithm_name, jobs)
        select g.status, g.priority, g.algorithm_name, sum(g.jobs)
        from gone g group by g.status, g.priority, g.algorithm_name
        having sum(g.jobs) <> 0
    )
    select count(*) into folded from gone;
    return folded;
end
$function$;
comment on function public.fold_queue_counts() is 'Adds up the oldest 10,000 changes of the counters, one row for each kind of job, and returns how many it took. Housekeeping, and every claim that sweeps from zero, calls it.';
grant execute on function public.fold_queue_counts() to operator_role;
revoke execute on function public.fold_queue_counts() from public;

CREATE OR REPLACE FUNCTION public.forget_audit_month()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    delete from public.audit_user_months m where m.month = new.month;
    return null;
end
$function$;
comment on function public.forget_audit_month() is 'Removes the sums of a month that left.';
revoke execute on function public.forget_audit_month() from public;

CREATE OR REPLACE FUNCTION public.forget_ended_month(month timestamp with time zone)
 RETURNS void
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    delete from public.ended_job_days d where d.month = forget_ended_month.month;
    delete from public.ended_job_waits w where w.month = forget_ended_month.month;
    delete from public.ended_job_spans s where s.month = forget_ended_month.month;
    insert into public.rollup_progress as r (table_name, rows_since)
    values ('processing_queue', forget_ended_month.month + interval '1 month')
    on conflict (table_name) do update set rows_since = greatest(r.rows_since, excluded.rows_since);
$function$;
comment on function public.forget_ended_month(month timestamp with time zone) is 'Removes the sums of a month whose ended jobs left, and notes that it left.';
revoke execute on function public.forget_ended_month(timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION public.give_back_job(job bigint, token uuid, reason text DEFAULT 'given back by its worker'::text)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select public.end_try(public.hold_job(give_back_job.job, give_back_job.token), give_back_job.reason, true, false)
$function$;
comment on function public.give_back_job(job bigint, token uuid, reason text) is 'A worker that stops gives a job back: it waits again at once, and no try is counted.';
grant execute on function public.give_back_job(bigint,uuid,text) to operator_role;
revoke execute on function public.give_back_job(bigint,uuid,text) from public;

CREATE OR REPLACE FUNCTION public.guard_views()
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
comment on function public.guard_views() is 'Makes views show the rows that their reader may see, and readable by app_user; on PostgreSQL 14, which can''t, they are the operator''s alone. It is called again after a view is made anew (create or replace forgets what it did), and after a dump of another major version is loaded.';
revoke execute on function public.guard_views() from public;

CREATE OR REPLACE FUNCTION public.hash_audit_row()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    new.recorded_in := pg_current_xact_id();
    new.leaf_hash := public.audit_leaf(new);
    return new;
end
$function$;
comment on function public.hash_audit_row() is 'Fills recorded_in and leaf_hash of a new row of the audit trail, whatever was given for them.';

CREATE OR REPLACE FUNCTION public.heartbeat(worker text)
 RETURNS bigint[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    update public.workers w set heartbeat_at = clock_timestamp() where w.id = heartbeat.worker;
    if not found then
        raise exception 'there is no worker %', heartbeat.worker using errcode = 'NS003', hint = 'register_worker() first';
    end if;
    return array(
        select q.id from public.processing_queue_hot q
        where q.worker_id = heartbeat.worker and q.status = 'processing');
end
$function$;
comment on function public.heartbeat(worker text) is 'A worker lives. Returns the jobs it still holds: one that it runs and that is not among them was cancelled or given to another, and is to be dropped.';
grant execute on function public.heartbeat(text) to operator_role;
revoke execute on function public.heartbeat(text) from public;

CREATE OR REPLACE FUNCTION public.hold_audit(reason text, since timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    placed public.audit_holds%rowtype;
begin
    insert into public.audit_holds (reason, since, until)
    values (hold_audit.reason, hold_audit.since, hold_audit.until)
    returning * into placed;
    perform public.record_event('config_change', 'audit_hold', placed.id::text,
                                changes_after => to_jsonb(placed) - 'id');
    return placed.id;
end
$function$;
comment on function public.hold_audit(reason text, since timestamp with time zone, until timestamp with time zone) is 'Places a legal hold on the audit trail and returns its number; an event says so.';
grant execute on function public.hold_audit(text,timestamp with time zone,timestamp with time zone) to operator_role;
revoke execute on function public.hold_audit(text,timestamp with time zone,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION public.images_of_jobs(jobs bigint[])
 RETURNS bigint[]
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select coalesce(array_agg((select q.image_id from public.processing_queue q where q.id = j.id limit 1) order by j.place), '{}')
    from unnest(images_of_jobs.jobs) with ordinality as j (id, place)
$function$;
comment on function public.images_of_jobs(jobs bigint[]) is 'The image of each job, null where there is no such job.';
revoke execute on function public.images_of_jobs(bigint[]) from public;

CREATE OR REPLACE FUNCTION public.insert_jobs(images bigint[], answered bigint[], requested_by bigint, algorithm_name text, algorithm_version text, algorithm_parameters jsonb, priority integer, max_retries integer, moment timestamp with time zone, scheduled_at timestamp with time zone, use_cache boolean, deadline_at timestamp with time zone, weight numeric, job_group text)
 RETURNS TABLE(image_id bigint, job_id bigint)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_nestloop TO 'off'
AS $function$
#variable_conflict use_column
declare
    pace public.algorithm_speeds%rowtype;  -- where workers live that have it
begin
    select s.* into pace from public.algorithm_speeds s
    where s.algorithm_name = insert_jobs.algorithm_name and s.algorithm_version = insert_jobs.algorithm_version
      and s.live_workers > 0;
    return query
        insert into public.processing_queue_hot as q (
            id, image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters, priority, max_retries,
            created_at, scheduled_at, complexity_score, processing_metadata, deadline_at, job_group, estimated_completion_at
        )
        overriding system value
        select nextval('public.processing_queue_id_seq'), a.id, a.user_id, insert_jobs.algorithm_name, insert_jobs.algorithm_version,
               insert_jobs.algorithm_parameters, insert_jobs.priority, insert_jobs.max_retries,
               a.at, coalesce(insert_jobs.scheduled_at, a.at), a.weight,
               case when insert_jobs.use_cache then '{}' else '{"use_cache": false}' end::jsonb,
               insert_jobs.deadline_at, insert_jobs.job_group,
               greatest(a.at, insert_jobs.scheduled_at)
                   + (pace.ms_per_job * (coalesce(pace.jobs_before[insert_jobs.priority], pace.jobs_ahead) + a.place - 1) / pace.live_workers
                      + coalesce(pace.ms_per_megapixel * a.weight::double precision, pace.ms_per_job)) * interval '1 millisecond'
        from (
            -- a microsecond apart, so that their order is that of their times
            select i.id, coalesce(insert_jobs.requested_by, i.user_id) as user_id, w.place,
                   insert_jobs.moment + (w.place - 1) * interval '1 microsecond' as at,
                   coalesce(insert_jobs.weight,
                            (i.image_dimensions ->> 'width')::numeric * (i.image_dimensions ->> 'height')::numeric / 1000000) as weight
            from (select u.id, row_number() over (order by min(u.n)) as place
                  from unnest(insert_jobs.images) with ordinality as u (id, n) group by u.id) w
            join public.images i on i.id = w.id
            where i.id = any (insert_jobs.images)
              and i.id not in (select unnest(insert_jobs.answered))
            order by w.place
        ) a
        on conflict (image_id, algorithm_name, algorithm_version, parameters_hash) do nothing
        returning q.image_id, q.id;
end
$function$;
comment on function public.insert_jobs(images bigint[], answered bigint[], requested_by bigint, algorithm_name text, algorithm_version text, algorithm_parameters jsonb, priority integer, max_retries integer, moment timestamp with time zone, scheduled_at timestamp with time zone, use_cache boolean, deadline_at timestamp with time zone, weight numeric, job_group text) is 'One job for each of the images, which the caller has locked, that was not answered and has no such job yet.';
revoke execute on function public.insert_jobs(bigint[],bigint[],bigint,text,text,jsonb,integer,integer,timestamp with time zone,timestamp with time zone,boolean,timestamp with time zone,numeric,text) from public;

CREATE OR REPLACE FUNCTION public.insert_new_jobs(images bigint[], ids bigint[], users bigint[], weights numeric[], algorithm_name text, algorithm_version text, algorithm_parameters jsonb, priority integer, max_retries integer, moment timestamp with time zone, scheduled_at timestamp with time zone, use_cache boolean, deadline_at timestamp with time zone, job_group text, OUT added bigint[], OUT jobs bigint[])
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_nestloop TO 'off'
AS $function$
#variable_conflict use_column
declare
    hashed constant text := public.sha256_hex(insert_new_jobs.algorithm_parameters::text);
    pace   public.algorithm_speeds%rowtype;  -- where workers live that have it
begin
    if exists (select from public.processing_queue_hot q
               where q.image_id = any (insert_new_jobs.ids) and q.algorithm_name = insert_new_jobs.algorithm_name
                 and q.algorithm_version = insert_new_jobs.algorithm_version and q.parameters_hash = hashed) then
        return;
    end if;
    added := insert_new_jobs.ids;
    if added <> insert_new_jobs.images then  -- each once, in the order that is asked for
        select array_agg(o.id), array_agg(o.user_id), array_agg(o.weight) into added, users, weights
        from (select l.id, l.user_id, l.weight
              from (select u.id, min(u.n) as n from unnest(insert_new_jobs.images) with ordinality as u (id, n) group by u.id) w
              join unnest(added, users, weights) as l (id, user_id, weight) on l.id = w.id
              order by w.n) o;
    end if;
    select s.* into pace from public.algorithm_speeds s
    where s.algorithm_name = insert_new_jobs.algorithm_name and s.algorithm_version = insert_new_jobs.algorithm_version
      and s.live_workers > 0;
    with inserted as (
        insert into public.processing_queue_hot as q (
            id, image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters, priority, max_retries,
            created_at, scheduled_at, complexity_score, processing_metadata, deadline_at, job_group, estimated_completion_at
        )
        overriding system value
        select nextval('public.processing_queue_id_seq'), a.id, a.user_id, insert_new_jobs.algorithm_name,
               insert_new_jobs.algorithm_version, insert_new_jobs.algorithm_parameters, insert_new_jobs.priority,
               insert_new_jobs.max_retries, a.at, coalesce(insert_new_jobs.scheduled_at, a.at), a.weight,
               case when insert_new_jobs.use_cache then '{}'::jsonb else '{"use_cache": false}'::jsonb end,
               insert_new_jobs.deadline_at, insert_new_jobs.job_group,
               greatest(a.at, insert_new_jobs.scheduled_at)
                   + (pace.ms_per_job * (coalesce(pace.jobs_before[insert_new_jobs.priority], pace.jobs_ahead) + a.place - 1) / pace.live_workers
                      + coalesce(pace.ms_per_megapixel * a.weight::double precision, pace.ms_per_job)) * interval '1 millisecond'
        from (
            -- a microsecond apart, so that their order is that of their times
            select u.*, insert_new_jobs.moment + (u.place - 1) * interval '1 microsecond' as at
            from unnest(added, users, weights) with ordinality as u (id, user_id, weight, place)
        ) a
        returning q.id
    )
    select array_agg(i.id) into jobs from inserted i;
exception
    -- Somebody writes such a job meanwhile without a lock on its image, or this transaction doesn't see it.
    when unique_violation then
        jobs := null;
end
$function$;
comment on function public.insert_new_jobs(images bigint[], ids bigint[], users bigint[], weights numeric[], algorithm_name text, algorithm_version text, algorithm_parameters jsonb, priority integer, max_retries integer, moment timestamp with time zone, scheduled_at timestamp with time zone, use_cache boolean, deadline_at timestamp with time zone, job_group text, OUT added bigint[], OUT jobs bigint[]) is 'insert_jobs() where none of the images has such a job yet: the images, each once and in their order, and their jobs. No jobs, and nothing is done, where one has. ids: the images by number, with whose jobs they become and what they weigh.';
revoke execute on function public.insert_new_jobs(bigint[],bigint[],bigint[],numeric[],text,text,jsonb,integer,integer,timestamp with time zone,timestamp with time zone,boolean,timestamp with time zone,text) from public;

CREATE OR REPLACE FUNCTION public.is_trusted_session()
 RETURNS boolean
 LANGUAGE sql
 STABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    -- What writes events runs as the owner: who logged in is session_user.
    select pg_has_role(session_user, 'operator_role', 'usage')
           or pg_has_role(session_user, (select c.relowner from pg_class c where c.oid = 'public.images'::regclass), 'usage')
$function$;
comment on function public.is_trusted_session() is 'Whether what is stated about who acts is taken as it is: where the operator or the owner logged in.';

CREATE OR REPLACE FUNCTION public.issue_account_token(account bigint, purpose text, token_hash text, lifetime interval)
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    address text;
begin
    select u.email into address from public.users u where u.id = account and u.is_active for no key update;
    if not found then
        raise exception 'there is no active user %', account using errcode = 'NS003', hint = 'negspace users list shows the accounts';
    end if;
    update public.account_tokens t set used_at = clock_timestamp()
    where t.user_id = account and t.purpose = issue_account_token.purpose and t.used_at is null;
    insert into public.account_tokens (user_id, purpose, token_hash, email, expires_at)
    values (account, issue_account_token.purpose, issue_account_token.token_hash, address, now() + lifetime);
    perform public.record_event(
        'config_change', 'user', account::text, changes_after => jsonb_build_object('token_issued', purpose));
    return address;
end
$function$;
comment on function public.issue_account_token(account bigint, purpose text, token_hash text, lifetime interval) is 'Keeps the hash of a token for an account, makes its former ones for that purpose void, and returns the address to send it to.';
grant execute on function public.issue_account_token(bigint,text,text,interval) to operator_role;
revoke execute on function public.issue_account_token(bigint,text,text,interval) from public;

CREATE OR REPLACE FUNCTION public.keep_api_key_limit()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    if tg_table_name = 'users' then
        update public.api_key_limits l
        set owner_is_active = new.is_active, owner_scopes = public.role_scopes(new.role)
        from public.api_keys k
        where k.user_id = new.id and l.api_key_id = k.id;
    elsif new.user_id <> old.user_id then
        delete from public.api_key_limits l where l.api_key_id = new.id;
    else
        update public.api_key_limits l
        set key_hash   = new.key_hash,
            is_active  = new.is_active,
            expires_at = new.expires_at,
            scopes     = array(select jsonb_array_elements_text(new.scopes)),
            networks   = public.network_array(new.ip_whitelist),
            step       = public.rate_limit_step(new.rate_limit_per_minute),
            slack      = public.rate_limit_step(new.rate_limit_per_minute) * (new.rate_limit_per_minute - 1)
        where l.api_key_id = new.id;
    end if;
    return null;
end
$function$;
comment on function public.keep_api_key_limit() is 'Carries a change of a key or of its owner to api_key_limits, in the transaction that changes it: a key that is revoked is refused from its commit on.';
revoke execute on function public.keep_api_key_limit() from public;

CREATE OR REPLACE FUNCTION public.keep_image_fingerprint()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    if new.perceptual_hash is null or new.perceptual_hash_algorithm is null then
        delete from public.image_fingerprints f where f.image_id = new.id;
    else
        insert into public.image_fingerprints (image_id, user_id, perceptual_hash, algorithm)
        values (new.id, new.user_id, new.perceptual_hash, new.perceptual_hash_algorithm)
        on conflict on constraint image_fingerprints_pkey do update
        set user_id = excluded.user_id, perceptual_hash = excluded.perceptual_hash, algorithm = excluded.algorithm;
    end if;
    insert into public.unscanned_images (image_id) values (new.id) on conflict do nothing;
    if new.user_id <> old.user_id then
        delete from public.duplicate_pairs p where new.id in (p.first_id, p.second_id);
    end if;
    return null;
end
$function$;
comment on function public.keep_image_fingerprint() is 'Carries the hashes of an image to where near ones are looked for.';
revoke execute on function public.keep_image_fingerprint() from public;

CREATE OR REPLACE FUNCTION public.keep_image_fingerprints()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    if not exists (select from new_rows n where n.perceptual_hash is not null or n.pixel_hash is not null) then
        return null;  -- as nearly always: images come as files, and are analysed later
    end if;
    insert into public.image_fingerprints (image_id, user_id, perceptual_hash, algorithm)
    select n.id, n.user_id, n.perceptual_hash, n.perceptual_hash_algorithm
    from new_rows n where n.perceptual_hash is not null and n.perceptual_hash_algorithm is not null
    on conflict do nothing;
    insert into public.unscanned_images (image_id)
    select n.id from new_rows n where n.perceptual_hash is not null or n.pixel_hash is not null
    on conflict do nothing;
    return null;
end
$function$;
comment on function public.keep_image_fingerprints() is 'The same for images that come with their hashes.';
revoke execute on function public.keep_image_fingerprints() from public;

CREATE OR REPLACE FUNCTION public.keep_job_logs(tries jsonb)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    insert into public.job_logs (job_id, attempt, worker_id, lines, left_out)
    select t.job, t.attempt, t.worker, t.lines, coalesce(t.left_out, 0)
    from jsonb_to_recordset(keep_job_logs.tries) as t (job bigint, attempt integer, worker text, lines jsonb, left_out integer)
    order by t.job, t.attempt
    on conflict on constraint job_logs_pkey do update
        set lines = excluded.lines, left_out = excluded.left_out, logged_at = excluded.logged_at
$function$;
comment on function public.keep_job_logs(tries jsonb) is 'Keeps what tries of jobs said: an array of objects with job, attempt, worker, lines and left_out. Given again for the same try, it takes the place of what was there.';
grant execute on function public.keep_job_logs(jsonb) to operator_role;
revoke execute on function public.keep_job_logs(jsonb) from public;

CREATE OR REPLACE FUNCTION public.limit_running_jobs(max_running integer, user_id bigint DEFAULT NULL::bigint, job_group text DEFAULT NULL::text)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
    limited bigint;
    counted integer;
begin
    if (limit_running_jobs.user_id is null) = (limit_running_jobs.job_group is null) then
        raise exception 'a limit is a user''s or a group''s, one of both'
            using errcode = 'NS004', hint = 'name user_id or job_group';
    end if;
    if limit_running_jobs.max_running is null then
        delete from public.queue_limits l
        where l.user_id = limit_running_jobs.user_id or l.job_group = limit_running_jobs.job_group;
        return null;
    end if;
    -- Nobody claims or ends a job between the count and the row that keeps it.
    lock table public.processing_queue_hot in share row exclusive mode;
    insert into public.queue_limits (user_id, job_group, max_running)
    values (limit_running_jobs.user_id, limit_running_jobs.job_group, limit_running_jobs.max_running)
    on conflict do nothing;
    select l.id into limited from public.queue_limits l
    where l.user_id = limit_running_jobs.user_id or l.job_group = limit_running_jobs.job_group for no key update;
    select count(*) into counted from public.processing_queue_hot q
    where q.status = 'processing'
      and (q.user_id = limit_running_jobs.user_id or q.job_group = limit_running_jobs.job_group);
    update public.queue_limits l set max_running = limit_running_jobs.max_running, running = counted where l.id = limited;
    return counted;
end
$function$;
comment on function public.limit_running_jobs(max_running integer, user_id bigint, job_group text) is 'Sets how many jobs of a user or of a group may run at once, null: as many as there are workers. Returns how many run now. Jobs that run go on.';
grant execute on function public.limit_running_jobs(integer,bigint,text) to operator_role;
revoke execute on function public.limit_running_jobs(integer,bigint,text) from public;

CREATE OR REPLACE FUNCTION public.list_outcomes(images bigint[], answered bigint[], results bigint[], added bigint[], jobs bigint[], algorithm_name text, algorithm_version text, parameters_hash text)
 RETURNS TABLE(image_id bigint, job_id bigint, result_id bigint, outcome text)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_nestloop TO 'off'
AS $function$
#variable_conflict use_column
begin
    if cardinality(added) = cardinality(list_outcomes.images) then  -- each is new, and named once
        return query select a.id, a.job, null::bigint, 'queued' from unnest(added, jobs) as a (id, job);
        return;
    end if;
    return query
        select w.id, coalesce(a.job, e.id), r.result,
               case when r.id is not null then 'cached' when a.id is not null then 'queued' else 'waiting' end
        from (select u.id, min(u.n) as n from unnest(list_outcomes.images) with ordinality as u (id, n) group by u.id) w
        left join unnest(added, jobs) as a (id, job) on a.id = w.id
        left join unnest(answered, results) as r (id, result) on r.id = w.id
        left join (
            select q.image_id, q.id from public.processing_queue_hot q
            where cardinality(added) + cardinality(answered) < cardinality(list_outcomes.images)
              and q.image_id = any (list_outcomes.images) and q.algorithm_name = list_outcomes.algorithm_name
              and q.algorithm_version = list_outcomes.algorithm_version and q.parameters_hash = list_outcomes.parameters_hash
        ) e on e.image_id = w.id and r.id is null
        order by w.n;
end
$function$;
comment on function public.list_outcomes(images bigint[], answered bigint[], results bigint[], added bigint[], jobs bigint[], algorithm_name text, algorithm_version text, parameters_hash text) is 'What became of each image: enqueue_jobs() returns it.';
revoke execute on function public.list_outcomes(bigint[],bigint[],bigint[],bigint[],bigint[],text,text,text) from public;

CREATE OR REPLACE FUNCTION public.lock_for_partitions(urgent boolean)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    patience constant text := current_setting('lock_timeout');
    name     text;
begin
    -- Attaching a partition locks the tables that its foreign keys join. They are locked here
    -- before anything is made, in the order in which the services write to them. A quarter of
    -- a second, well below deadlock_timeout: who is in the way goes on, this one comes again.
    if not urgent then
        perform set_config('lock_timeout', '250ms', true);
    end if;
    foreach name in array array['users', 'images', 'security_audit', 'audit_log_details'] loop
        if to_regclass('public.' || name) is not null then
            execute format('lock table only public.%I in share row exclusive mode', name);
        end if;
    end loop;
    perform set_config('lock_timeout', patience, true);
    return true;
exception
    when lock_not_available then
        if urgent then  -- by the caller's own lock_timeout
            raise;
        end if;
        return false;
end
$function$;
comment on function public.lock_for_partitions(urgent boolean) is 'Takes the locks that making partitions needs. Where it is not urgent, false and none of them when somebody holds one for long.';
revoke execute on function public.lock_for_partitions(boolean) from public;

CREATE OR REPLACE FUNCTION public.lock_out(failures integer, free integer)
 RETURNS interval
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select case when failures >= free then least(interval '1 hour', interval '30 seconds' * 2 ^ least(failures - free, 20)) end
$function$;
comment on function public.lock_out(failures integer, free integer) is 'How long the failure of that number locks out, where so many are free: 30 seconds, doubled with each, an hour at most; null while they are free.';

CREATE OR REPLACE FUNCTION public.login_network(address inet)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select coalesce(
        case when family(address) = 4 then host(address)
             when address <<= inet '::ffff:0.0.0.0/96' then host(inet '0.0.0.0' + (address - inet '::ffff:0.0.0.0'))
             else network(set_masklen(address, 64))::text
        end, 'unknown')
$function$;
comment on function public.login_network(address inet) is 'What counts as one network at a login: an address of IPv4, also where it is written as IPv6, the /64 of an address of IPv6, or unknown.';

CREATE OR REPLACE FUNCTION public.lost_jobs(jobs bigint[], tokens uuid[])
 RETURNS bigint[]
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select array(
        select h.job
        from unnest(lost_jobs.jobs, lost_jobs.tokens) as h (job, token)
        where not exists (
            select from public.processing_queue_hot q
            where q.id = h.job and q.lease_token = h.token))
$function$;
comment on function public.lost_jobs(jobs bigint[], tokens uuid[]) is 'Those of a worker''s jobs that it no longer holds with the token given: cancelled, rescued, or ended. One look for all its jobs.';
grant execute on function public.lost_jobs(bigint[],uuid[]) to operator_role;
revoke execute on function public.lost_jobs(bigint[],uuid[]) from public;

CREATE OR REPLACE FUNCTION public.make_api_key_limit(key bigint, key_hash text)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    -- Whoever changes the account or the key at this moment goes first, or finds the row.
    perform 1 from public.users u
    where u.id = (select k.user_id from public.api_keys k where k.id = key and k.key_hash = make_api_key_limit.key_hash)
    for share;
    -- Written, not locked alone: a transaction that began before and removes or revokes the key on
    -- an older snapshot, which doesn't show this row, fails then instead of leaving it behind.
    update public.api_keys k set last_rate_limit_reset = k.last_rate_limit_reset
    where k.id = key and k.key_hash = make_api_key_limit.key_hash;
    insert into public.api_key_limits (
        api_key_id, user_id, key_hash, is_active, expires_at, scopes, networks, owner_is_active, owner_scopes, step, slack
    )
    select k.id, k.user_id, k.key_hash, k.is_active, k.expires_at,
           array(select jsonb_array_elements_text(k.scopes)), public.network_array(k.ip_whitelist),
           u.is_active, public.role_scopes(u.role),
           public.rate_limit_step(k.rate_limit_per_minute),
           public.rate_limit_step(k.rate_limit_per_minute) * (k.rate_limit_per_minute - 1)
    from public.api_keys k
    join public.users u on u.id = k.user_id
    where k.id = key and k.key_hash = make_api_key_limit.key_hash
    on conflict on constraint api_key_limits_pkey do nothing;
    return exists (
        select from public.api_key_limits l where l.api_key_id = key and l.key_hash = make_api_key_limit.key_hash);
end
$function$;
comment on function public.make_api_key_limit(key bigint, key_hash text) is 'Makes the row of a key''s first request, from its key and its owner; false where there is no such key.';
revoke execute on function public.make_api_key_limit(bigint,text) from public;

CREATE OR REPLACE FUNCTION public.mark_duplicate_images()
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    later     bigint[];  -- originals that repeat an older one …
    originals bigint[];  -- … and which
    marked    integer;
begin
    perform pg_advisory_xact_lock(hashtextextended('negspace.mark_duplicate_images', 0));
    select array_agg(r.id), array_agg(r.original_id) into later, originals
    from (
        select i.id,
               first_value(i.id) over (
                   partition by i.user_id, coalesce(i.pixel_hash, i.file_hash)
                   order by i.uploaded_at, i.id) as original_id
        from public.images i
        where not i.is_duplicate
    ) r
    where r.id <> r.original_id;
    -- Whoever registers a duplicate of one of them waits, and then finds the original.
    perform 1 from public.images i where i.id = any (later || originals) order by i.id for no key update;
    update public.images d
    set duplicate_of = r.original_id
    from unnest(later, originals) as r (id, original_id)
    join public.images o on o.id = r.original_id and not o.is_duplicate
    where d.duplicate_of = r.id;
    update public.images i
    set is_duplicate = true, duplicate_of = r.original_id
    from unnest(later, originals) as r (id, original_id)
    join public.images o on o.id = r.original_id and not o.is_duplicate
    where i.id = r.id and not i.is_duplicate;
    get diagnostics marked = row_count;
    return marked;
end
$function$;
comment on function public.mark_duplicate_images() is 'Marks images whose content their owner has already, and returns how many were marked. Content is the decoded pixels where they are known, else the file. The oldest is the original, also of what were duplicates of the others; nobody''s image becomes a duplicate of somebody else''s.';
grant execute on function public.mark_duplicate_images() to operator_role;
revoke execute on function public.mark_duplicate_images() from public;

CREATE OR REPLACE FUNCTION public.mark_ended_job_day()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    -- once per transaction and day is enough
    insert into public.ended_job_changes (day)
    select distinct date_trunc('day', t.at, 'UTC')
    from unnest(case tg_op when 'INSERT' then array[new.completed_at]
                           when 'DELETE' then array[old.completed_at]
                           else array[old.completed_at, new.completed_at] end) as t (at)
    where not exists (select from public.ended_job_changes c
                      where c.day = date_trunc('day', t.at, 'UTC') and c.xmin = pg_current_xact_id()::xid);
    return null;
end
$function$;
comment on function public.mark_ended_job_day() is 'Marks the day of an ended job that came late, changed or went.';
revoke execute on function public.mark_ended_job_day() from public;

CREATE OR REPLACE FUNCTION public.mark_metric_change()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    if tg_op <> 'INSERT' then
        perform public.mark_metric_hour(old.recorded_at);
    end if;
    if tg_op <> 'DELETE' then
        perform public.mark_metric_hour(new.recorded_at);
    end if;
    return null;
end
$function$;
comment on function public.mark_metric_change() is 'Marks the hour of a sample that came late, changed or went.';
revoke execute on function public.mark_metric_change() from public;

CREATE OR REPLACE FUNCTION public.mark_metric_hour(at timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
comment on function public.mark_metric_hour(at timestamp with time zone) is 'Notes that the samples of an hour changed after it may have been rolled up.';
revoke execute on function public.mark_metric_hour(timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION public.measure_algorithms()
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    measured integer;
begin
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.measure_algorithms', 0)) then
        return 0;
    end if;
    insert into public.algorithm_speeds as s (algorithm_name, algorithm_version, ms_per_job, ms_per_megapixel, jobs_ahead, jobs_before, live_workers)
    select a.algorithm_name, a.algorithm_version, m.ms_per_job, m.ms_per_megapixel,
           coalesce((select sum(d.job_count) from public.queue_depth d
                     where d.algorithm_name = a.algorithm_name and d.status in ('queued', 'processing', 'retrying')), 0),
           array(select coalesce((select sum(d.job_count)::bigint from public.queue_depth d
                                  where d.algorithm_name = a.algorithm_name
                                    and (d.status = 'processing' or d.status in ('queued', 'retrying') and d.priority >= p.priority)), 0)
                 from generate_series(1, 10) as p (priority) order by p.priority),
           k.workers
    from (select v.algorithm, count(*) as workers
          from public.workers w cross join lateral unnest(w.algorithms) as v (algorithm)
          where w.stopped_at is null and w.heartbeat_at > now() - interval '1 minute'
          group by v.algorithm) k
    cross join lateral (select split_part(k.algorithm, '@', 1) as algorithm_name, split_part(k.algorithm, '@', 2) as algorithm_version) a
    cross join lateral (
        select avg(r.processing_time_ms)::double precision as ms_per_job,
               (sum(r.processing_time_ms) filter (where d.megapixels > 0)
                / nullif(sum(d.megapixels) filter (where d.megapixels > 0), 0))::double precision as ms_per_megapixel
        from (select n.image_id, n.processing_time_ms from public.analysis_results n
              where n.algorithm_name = a.algorithm_name and n.algorithm_version = a.algorithm_version and not n.cache_hit
              order by n.created_at desc limit 200) r
        join public.images i on i.id = r.image_id
        cross join lateral (
            select (i.image_dimensions ->> 'width')::numeric * (i.image_dimensions ->> 'height')::numeric / 1000000 as megapixels) d
    ) m
    where m.ms_per_job is not null
    on conflict (algorithm_name, algorithm_version) do update
        set ms_per_job = excluded.ms_per_job, ms_per_megapixel = excluded.ms_per_megapixel,
            jobs_ahead = excluded.jobs_ahead, jobs_before = excluded.jobs_before, live_workers = excluded.live_workers, measured_at = now()
        where abs(excluded.ms_per_job - s.ms_per_job) > s.ms_per_job / 20
           or abs(excluded.ms_per_megapixel - s.ms_per_megapixel) > s.ms_per_megapixel / 20
           or (excluded.ms_per_megapixel is null) <> (s.ms_per_megapixel is null)
           or abs(excluded.jobs_ahead - s.jobs_ahead) > s.jobs_ahead / 20
           or exists (select from unnest(excluded.jobs_before, s.jobs_before) as b (now, before)
                      where abs(b.now - coalesce(b.before, 0)) > coalesce(b.before, 0) / 20)
           or excluded.live_workers <> s.live_workers;
    get diagnostics measured = row_count;
    return measured;
end
$function$;
comment on function public.measure_algorithms() is 'Works out how long the analysers of live workers take lately and what is ahead of a new job, and returns for how many that has changed. claim_jobs() calls it now and then.';
grant execute on function public.measure_algorithms() to operator_role;
revoke execute on function public.measure_algorithms() from public;

CREATE OR REPLACE FUNCTION public.merkle_root(leaves bytea[])
 RETURNS bytea
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    level bytea[] := leaves;
begin
    -- Level by level; a last one without a partner goes up as it is. That is RFC 6962's tree.
    while cardinality(level) > 1 loop
        level := array(
            select case when p.partner is null then p.hash
                   else sha256('\x01'::bytea || p.hash || p.partner) end
            from (
                select n.hash, n.place, lead(n.hash) over (order by n.place) as partner
                from unnest(level) with ordinality as n (hash, place)
            ) p
            where p.place % 2 = 1
            order by p.place);
    end loop;
    return level[1];
end
$function$;
comment on function public.merkle_root(leaves bytea[]) is 'The root of RFC 6962''s tree over these leaves; null for none.';

CREATE OR REPLACE FUNCTION public.metric_bucket_value(bucket smallint)
 RETURNS double precision
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    -- as far from both ends, relatively: 2 x 1.02^(i + 1) / (1.02 + 1)
    select case when bucket = 0 then 0
                else sign(bucket) * 2 / 2.02::double precision * power(1.02::double precision, abs(bucket) - 499)
           end
$function$;
comment on function public.metric_bucket_value(bucket smallint) is 'The value that stands for a bucket: within 1 % of every value in it.';

CREATE OR REPLACE FUNCTION public.missing_partitions(first timestamp without time zone, last timestamp without time zone)
 RETURNS TABLE(parent text, month timestamp without time zone, name text)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    -- Those that a later migration adds are simply not there yet.
    select p.parent, m.month, format('%s_%s', p.parent, to_char(m.month, 'YYYYMM'))
    from unnest(array['security_audit', 'audit_log_details', 'performance_metrics', 'processing_queue_ended']) as p (parent)
    cross join generate_series(missing_partitions.first, missing_partitions.last, interval '1 month') as m (month)
    where to_regclass('public.' || p.parent) is not null
      and to_regclass(format('public.%s_%s', p.parent, to_char(m.month, 'YYYYMM'))) is null
      and not public.month_was_let_go(p.parent, m.month)
    order by 2, 1
$function$;
comment on function public.missing_partitions(first timestamp without time zone, last timestamp without time zone) is 'The monthly partitions that are not there, of the months (UTC) from first to last, oldest first; without those that were let go.';
revoke execute on function public.missing_partitions(timestamp without time zone,timestamp without time zone) from public;

CREATE OR REPLACE FUNCTION public.month_was_let_go(parent text, month timestamp without time zone)
 RETURNS boolean
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
comment on function public.month_was_let_go(parent text, month timestamp without time zone) is 'Whether retention dropped a month (UTC) of a partitioned table and nothing needs it.';
revoke execute on function public.month_was_let_go(text,timestamp without time zone) from public;

CREATE OR REPLACE FUNCTION public.near_hashes(owner bigint, hash bigint, distance integer)
 RETURNS TABLE(image_id bigint, bits integer)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET cpu_index_tuple_cost TO '1'
AS $function$
#variable_conflict use_column
declare
    masks   constant bigint[]  := public.band_masks();
    -- how many of them each band tries: its share of the bits is -1 to 2, and they add up to distance - 3
    tries   constant integer[] := array(
        select case when s.share < 0 then 0 else (array[1, 17, 137])[s.share + 1] end
        from (select floor((near_hashes.distance - 4 + p.place) / 4.0)::integer as share, p.place
              from generate_series(1, 4) as p (place)) s
        order by s.place desc);
    first   bigint[];
    second  bigint[];
    third   bigint[];
    fourth  bigint[];
begin
    if near_hashes.distance > 11 then  -- the look-ups would be more than a scan costs
        return query
            select f.image_id, bit_count((f.perceptual_hash # near_hashes.hash)::bit(64))::integer
            from public.image_fingerprints f
            where f.user_id = near_hashes.owner
              and bit_count((f.perceptual_hash # near_hashes.hash)::bit(64)) <= near_hashes.distance;
        return;
    end if;
    first  := array(select ((near_hashes.hash >> 48) & 65535) # m.mask from unnest(masks[1:tries[1]]) as m (mask));
    second := array(select ((near_hashes.hash >> 32) & 65535) # m.mask from unnest(masks[1:tries[2]]) as m (mask));
    third  := array(select ((near_hashes.hash >> 16) & 65535) # m.mask from unnest(masks[1:tries[3]]) as m (mask));
    fourth := array(select (near_hashes.hash & 65535) # m.mask from unnest(masks[1:tries[4]]) as m (mask));
    return query
        select c.image_id, bit_count((c.perceptual_hash # near_hashes.hash)::bit(64))::integer
        from (
            select f.image_id, f.perceptual_hash from public.image_fingerprints f
            where f.user_id = near_hashes.owner and ((f.perceptual_hash >> 48) & 65535) = any (first)
              and bit_count((f.perceptual_hash # near_hashes.hash)::bit(64)) <= near_hashes.distance
            union
            select f.image_id, f.perceptual_hash from public.image_fingerprints f
            where f.user_id = near_hashes.owner and ((f.perceptual_hash >> 32) & 65535) = any (second)
              and bit_count((f.perceptual_hash # near_hashes.hash)::bit(64)) <= near_hashes.distance
            union
            select f.image_id, f.perceptual_hash from public.image_fingerprints f
            where f.user_id = near_hashes.owner and ((f.perceptual_hash >> 16) & 65535) = any (third)
              and bit_count((f.perceptual_hash # near_hashes.hash)::bit(64)) <= near_hashes.distance
            union
            select f.image_id, f.perceptual_hash from public.image_fingerprints f
            where f.user_id = near_hashes.owner and (f.perceptual_hash & 65535) = any (fourth)
              and bit_count((f.perceptual_hash # near_hashes.hash)::bit(64)) <= near_hashes.distance
        ) c;
end
$function$;
comment on function public.near_hashes(owner bigint, hash bigint, distance integer) is 'Every image of an owner whose perceptual hash differs from one in so many bits at most, and in how many. Exact: up to 11 bits by the indexes of the bands, beyond by comparing all.';
grant execute on function public.near_hashes(bigint,bigint,integer) to operator_role;
revoke execute on function public.near_hashes(bigint,bigint,integer) from public;

CREATE OR REPLACE FUNCTION public.near_images(image bigint, distance integer DEFAULT 8)
 RETURNS TABLE(image_id bigint, bits integer)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select o.id, n.bits
    from public.images i
    cross join lateral public.near_hashes(i.user_id, i.perceptual_hash, near_images.distance) n
    join public.images o
      on o.id = n.image_id
     and o.id <> i.id
     and o.user_id = i.user_id
     and o.perceptual_hash_algorithm = i.perceptual_hash_algorithm
     and o.duplicate_of is distinct from i.id
     and i.duplicate_of is distinct from o.id
    where i.id = near_images.image and i.perceptual_hash is not null
    order by 2, 1
$function$;
comment on function public.near_images(image bigint, distance integer) is 'The same owner''s images that look alike: perceptual hashes at most distance bits of 64 apart, nearest first. A proposal: a person decides.';
grant execute on function public.near_images(bigint,integer) to operator_role;
revoke execute on function public.near_images(bigint,integer) from public;

CREATE OR REPLACE FUNCTION public.network_array(networks jsonb)
 RETURNS inet[]
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select case when networks is not null then array(select n.network::inet from jsonb_array_elements_text(networks) as n (network)) end
$function$;
comment on function public.network_array(networks jsonb) is 'An API key''s networks as an array; null stays null.';

CREATE OR REPLACE FUNCTION public.next_audit_xid(relation text, first xid8, above_id bigint, horizon xid8, most_rows integer)
 RETURNS xid8
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET plan_cache_mode TO 'force_custom_plan'
AS $function$
declare
    reached xid8;
begin
    execute format(
        'select r.recorded_in from public.%I r where r.recorded_in >= $1 and r.recorded_in < $2 and r.id > $3'
        ' order by r.recorded_in, r.id offset $4 limit 1', next_audit_xid.relation)
    into reached using first, horizon, above_id, most_rows;
    return case
        when reached is null then horizon
        when reached > first then reached
        else least(horizon, (reached::text::numeric + 1)::text::xid8)  -- one transaction that large
    end;
end
$function$;
comment on function public.next_audit_xid(relation text, first xid8, above_id bigint, horizon xid8, most_rows integer) is 'Below which transaction some most_rows rows lie, from first on; below horizon at most.';
revoke execute on function public.next_audit_xid(text,xid8,bigint,xid8,integer) from public;

CREATE OR REPLACE FUNCTION public.next_jobs(how_many integer, algorithms text[], capacity numeric, seen bigint[], full_users bigint[], full_groups text[])
 RETURNS bigint[]
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_bitmapscan TO 'off'
AS $function$
declare
    marks     constant timestamptz[] := public.queue_marks();
    step      constant interval := public.priority_step();
    moment    constant timestamptz := clock_timestamp();
    shares    integer[];  -- of each priority, how many are among the first how_many
    found     bigint[] := '{}';
    late      integer[];  -- … and how many of those that had to wait for their time
begin
    with waiting as materialized (  -- looked at once, not once for each priority
        select p.priority, w.planned, w.scheduled_at - p.priority * step as turn
        from generate_series(1, 10) as p (priority)
        cross join lateral (
            (select false as planned, q.scheduled_at from public.processing_queue_hot q
             where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at <= q.created_at
               and q.scheduled_at >= marks[p.priority]
               and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
               and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
               and (q.deadline_at is null or q.deadline_at > moment)
               and q.id <> all (seen) and q.user_id <> all (full_users)
               and (q.job_group is null or q.job_group <> all (full_groups))
             order by q.scheduled_at, q.id limit how_many)
            union all
            (select true, q.scheduled_at from public.processing_queue_hot q
             where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at > q.created_at
               and q.scheduled_at >= marks[p.priority] and q.scheduled_at <= moment
               and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
               and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
               and (q.deadline_at is null or q.deadline_at > moment)
               and q.id <> all (seen) and q.user_id <> all (full_users)
               and (q.job_group is null or q.job_group <> all (full_groups))
             order by q.scheduled_at, q.id limit how_many)
        ) w
        order by turn limit how_many
    )
    select array_agg(c.ready order by p.priority), array_agg(c.planned order by p.priority) into shares, late
    from generate_series(1, 10) as p (priority)
    cross join lateral (
        select count(*) filter (where not w.planned) as ready, count(*) filter (where w.planned) as planned
        from waiting w where w.priority = p.priority) c;
    -- The same again with locks, of each list no more than its share: who claims at the same
    -- time takes what comes after in the same lists.
    for tries_left in reverse 4..0 loop
        begin
            found := array(
                select c.id
                from (
                    select w.id, w.scheduled_at - p.priority * step as turn
                    from generate_series(1, 10) as p (priority)
                    cross join lateral (
                        select q.id, q.scheduled_at from public.processing_queue_hot q
                        where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at <= q.created_at
                          and q.scheduled_at >= marks[p.priority]
                          and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
                          and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
                          and (q.deadline_at is null or q.deadline_at > moment)
                          and q.id <> all (seen) and q.user_id <> all (full_users)
                          and (q.job_group is null or q.job_group <> all (full_groups))
                        order by q.scheduled_at, q.id limit shares[p.priority]
                        for update skip locked) w
                    where shares[p.priority] > 0
                    union all
                    select w.id, w.scheduled_at - p.priority * step
                    from generate_series(1, 10) as p (priority)
                    cross join lateral (
                        select q.id, q.scheduled_at from public.processing_queue_hot q
                        where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at > q.created_at
                          and q.scheduled_at >= marks[p.priority] and q.scheduled_at <= moment
                          and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
                          and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
                          and (q.deadline_at is null or q.deadline_at > moment)
                          and q.id <> all (seen) and q.user_id <> all (full_users)
                          and (q.job_group is null or q.job_group <> all (full_groups))
                        order by q.scheduled_at, q.id limit late[p.priority]
                        for update skip locked) w
                    where late[p.priority] > 0
                ) c
                order by c.turn, c.id);
            exit when found <> '{}' or 0 = all (shares || late) or how_many = all (shares || late);
            shares := array_fill(how_many, array[10]);
            late := shares;
        exception
            when serialization_failure then
                -- One of them has ended since this look began: it lies in another partition now, and
                -- PostgreSQL refuses it there instead of passing it by. Another look doesn't see it.
                if tries_left = 0 then
                    raise;
                end if;
        end;
    end loop;
    return found[1:how_many];
end
$function$;
comment on function public.next_jobs(how_many integer, algorithms text[], capacity numeric, seen bigint[], full_users bigint[], full_groups text[]) is 'The next jobs in the order of the queue, locked: of these analysers, no heavier than capacity, none of those seen, of no user or group that is full.';
revoke execute on function public.next_jobs(integer,text[],numeric,bigint[],bigint[],text[]) from public;

CREATE OR REPLACE FUNCTION public.places_by_job(ends jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    perform public.check_ends(ends);
    return (
        select coalesce(
                   jsonb_object_agg(
                       e.value ->> 'job',
                       jsonb_build_object('attempt', e.value -> 'attempt', 'token', e.value -> 'token', 'place', e.ordinality - 1)),
                   '{}')
        from jsonb_array_elements(ends) with ordinality e);
end
$function$;
comment on function public.places_by_job(ends jsonb) is 'Attempt, token and place in the array (from 0) of the ends of jobs, as one object by job: ends_by_job() where they hold results, which are long. An error as there.';
revoke execute on function public.places_by_job(jsonb) from public;

CREATE OR REPLACE FUNCTION public.priority_step()
 RETURNS interval
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select interval '10 minutes'
$function$;
comment on function public.priority_step() is 'How much waiting one step of priority is worth: a job of priority 1 that waits for 90 minutes comes before one of priority 10 that was asked for now. Within a priority the order is that of time, so nothing is sorted again as jobs age: a claim merges ten ordered lists.';

CREATE OR REPLACE FUNCTION public.purge_account_tokens(older_than interval DEFAULT '90 days'::interval)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    purged integer;
begin
    if older_than is null or older_than < interval '1 day' then
        raise exception 'tokens are kept for a day or longer, not %', coalesce(older_than::text, 'null')
            using errcode = 'NS004', hint = 'they are void once they have expired, and harm nobody';
    end if;
    delete from public.account_tokens t where t.expires_at < now() - older_than;
    get diagnostics purged = row_count;
    return purged;
end
$function$;
comment on function public.purge_account_tokens(older_than interval) is 'Removes tokens of e-mails that expired so long ago, and returns how many; their events stay. Housekeeping calls it.';
grant execute on function public.purge_account_tokens(interval) to operator_role;
revoke execute on function public.purge_account_tokens(interval) from public;

CREATE OR REPLACE FUNCTION public.purge_cached_values(prefix text DEFAULT ''::text, batch_size integer DEFAULT 1000)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    removed integer;
begin
    delete from public.cached_values v where v.key = any (array(
        select d.key from public.cached_values d
        where starts_with(d.key, purge_cached_values.prefix)
        order by d.key
        limit greatest(purge_cached_values.batch_size, 0)
        for update));
    get diagnostics removed = row_count;
    return removed;
end
$function$;
comment on function public.purge_cached_values(prefix text, batch_size integer) is 'Removes up to batch_size values whose keys begin so, and returns how many. Call it until it returns 0.';
grant execute on function public.purge_cached_values(text,integer) to operator_role;
revoke execute on function public.purge_cached_values(text,integer) from public;

CREATE OR REPLACE FUNCTION public.purge_job_logs(older_than interval, how_many integer DEFAULT 10000)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
comment on function public.purge_job_logs(older_than interval, how_many integer) is 'Removes the logs of up to how_many tries that ended longer ago, oldest first, and returns how many.';
grant execute on function public.purge_job_logs(interval,integer) to operator_role;
revoke execute on function public.purge_job_logs(interval,integer) from public;

CREATE OR REPLACE FUNCTION public.purge_jobs(older_than interval, how_many integer DEFAULT 10000)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    purged integer;
begin
    if purge_jobs.older_than < interval '0' then
        raise exception 'the age must not be negative, as % is', purge_jobs.older_than using errcode = 'NS004';
    end if;
    for tries_left in reverse 4..0 loop
        begin
            with old as (
                select q.id, q.created_at from public.processing_queue_ended q
                where q.completed_at < now() - purge_jobs.older_than
                limit greatest(purge_jobs.how_many, 0)
                for update skip locked
            ), gone as (
                delete from public.processing_queue_ended q using old
                where q.id = old.id and q.created_at = old.created_at
                returning 1
            )
            select count(*) into purged from gone;
            exit;
        exception
            when serialization_failure then  -- one of them is tried again, as in next_jobs()
                if tries_left = 0 then
                    raise;
                end if;
        end;
    end loop;
    return purged;
end
$function$;
comment on function public.purge_jobs(older_than interval, how_many integer) is 'Removes up to how_many jobs that ended longer ago, and returns how many. Their results and audit events stay.';
grant execute on function public.purge_jobs(interval,integer) to operator_role;
revoke execute on function public.purge_jobs(interval,integer) from public;

CREATE OR REPLACE FUNCTION public.purge_metrics(keep_samples interval DEFAULT '400 days'::interval, keep_minutes interval DEFAULT '30 days'::interval)
 RETURNS text[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
comment on function public.purge_metrics(keep_samples interval, keep_minutes interval) is 'Drops the monthly partitions whose samples are all older than keep_samples and rolled up, and returns their names; removes minutes older than keep_minutes. Hours and days stay. Gives up where a partition is in use for a quarter of a second.';
revoke execute on function public.purge_metrics(interval,interval) from public;

CREATE OR REPLACE FUNCTION public.queue_marks(OUT marks timestamp with time zone[])
 RETURNS timestamp with time zone[]
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    -- A transaction that enqueues may commit later than one that came after it: what is
    -- younger than a second is always looked at.
    young constant bigint := (extract(epoch from clock_timestamp() - interval '1 second') * 1000000)::bigint;
    us    constant interval := interval '1 microsecond';
begin
    -- Expressions of functions alone: a query for each mark would cost as much as the claim's own.
    marks := array[
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_1'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_2'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_3'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_4'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_5'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_6'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_7'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_8'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_9'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_10'), 1), young) * us];
end
$function$;
comment on function public.queue_marks(OUT marks timestamp with time zone[]) is 'The low-water mark of each priority from 1 to 10.';
revoke execute on function public.queue_marks() from public;

CREATE OR REPLACE FUNCTION public.rate_limit_step(per_minute integer)
 RETURNS interval
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select interval '1 microsecond' * greatest(1, 60000000 / per_minute)
$function$;
comment on function public.rate_limit_step(per_minute integer) is 'A minute divided by a rate limit, rounded down to whole microseconds, of which there is one at least.';

CREATE OR REPLACE FUNCTION public.recent_audit_sums()
 RETURNS TABLE(user_id bigint, event_count bigint, success_count bigint, failure_count bigint, partial_count bigint, last_event_at timestamp with time zone, duration_count bigint, duration_total numeric)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select s.user_id, sum(s.event_count)::bigint, sum(s.success_count)::bigint, sum(s.failure_count)::bigint,
           sum(s.partial_count)::bigint, max(s.last_event_at), sum(s.duration_count)::bigint, sum(s.duration_total)
    from (select r.name as relation, coalesce(q.through_xid, '0') as through_xid, coalesce(q.lineage, 0) as lineage,
                 coalesce(q.highest_id, 0) as highest_id
          from unnest(array['security_audit', 'audit_log_details']) as r (name)
          left join public.audit_summary_progress q on q.relation = r.name) p
    cross join lateral (
        select * from public.audit_sums(p.relation, p.through_xid, '18446744073709551615', p.lineage, 9223372036854775807)
        union all  -- of another server's transactions
        select * from public.audit_sums(p.relation, '0', p.through_xid, p.highest_id, 9223372036854775807)
    ) s
    where s.user_id is not null
    group by s.user_id
$function$;
comment on function public.recent_audit_sums() is 'Sums by user of what audit_user_months does not hold yet.';
grant execute on function public.recent_audit_sums() to app_user;
revoke execute on function public.recent_audit_sums() from public;

CREATE OR REPLACE FUNCTION public.reconcile_queue_counts()
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    wrong   integer;
    limited integer;
begin
    lock table public.processing_queue in share row exclusive mode;
    with truth as (
        select q.status, q.priority, q.algorithm_name, count(*) as jobs
        from public.processing_queue q group by q.status, q.priority, q.algorithm_name
    ), mended as (
        insert into public.queue_counts (status, priority, algorithm_name, jobs)
        select status, priority, algorithm_name, coalesce(t.jobs, 0) - coalesce(d.job_count, 0)
        from truth t full join public.queue_depth d using (status, priority, algorithm_name)
        where coalesce(t.jobs, 0) <> coalesce(d.job_count, 0)
        returning 1
    )
    select count(*) into wrong from mended;
    update public.queue_limits l set running = t.jobs
    from (select k.id, (select count(*) from public.processing_queue_hot q
                        where q.status = 'processing' and (q.user_id = k.user_id or q.job_group = k.job_group)) as jobs
          from public.queue_limits k) t
    where l.id = t.id and l.running <> t.jobs;
    get diagnostics limited = row_count;
    return wrong + limited;
end
$function$;
comment on function public.reconcile_queue_counts() is 'Counts all jobs and mends the counters where they are wrong, as after a partition that was dropped by hand; returns how many were. Nobody moves a job meanwhile.';
grant execute on function public.reconcile_queue_counts() to operator_role;
revoke execute on function public.reconcile_queue_counts() from public;

CREATE OR REPLACE FUNCTION public.record_event(action public.audit_action, resource_type text, resource_id text DEFAULT NULL::text, status public.audit_status DEFAULT 'success'::public.audit_status, changes_before jsonb DEFAULT NULL::jsonb, changes_after jsonb DEFAULT NULL::jsonb, error_message text DEFAULT NULL::text, user_id bigint DEFAULT NULL::bigint)
 RETURNS bigint
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    insert into public.security_audit (
        user_id, api_key_id, action, resource_type, resource_id, status, ip_address,
        user_agent, request_id, error_message, changes_before, changes_after
    )
    select coalesce(c.user_id, case when public.is_trusted_session() then record_event.user_id end), c.api_key_id, record_event.action,
           record_event.resource_type, record_event.resource_id, record_event.status,
           c.ip_address, c.user_agent, c.request_id, record_event.error_message,
           record_event.changes_before, record_event.changes_after
    from public.audit_context() c
    returning id
$function$;
comment on function public.record_event(action public.audit_action, resource_type text, resource_id text, status public.audit_status, changes_before jsonb, changes_after jsonb, error_message text, user_id bigint) is 'Writes one event of the audit trail and returns its number. Who acts comes from the transaction''s context; user_id stands in where the context names nobody, and the operator says so.';
grant execute on function public.record_event(public.audit_action,text,text,public.audit_status,jsonb,jsonb,text,bigint) to app_user;
revoke execute on function public.record_event(public.audit_action,text,text,public.audit_status,jsonb,jsonb,text,bigint) from public;

CREATE OR REPLACE FUNCTION public.record_event_details(audit_id bigint, event_name text, event_description text DEFAULT NULL::text, event_data jsonb DEFAULT '{}'::jsonb, system_state jsonb DEFAULT '{}'::jsonb, duration_ms numeric DEFAULT NULL::numeric, success_count integer DEFAULT 0, failure_count integer DEFAULT 0)
 RETURNS bigint
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    insert into public.audit_log_details (
        audit_id, event_name, event_description, event_data, system_state, duration_ms,
        success_count, failure_count
    )
    values (
        record_event_details.audit_id, record_event_details.event_name,
        record_event_details.event_description, record_event_details.event_data,
        record_event_details.system_state, record_event_details.duration_ms,
        record_event_details.success_count, record_event_details.failure_count
    )
    returning id
$function$;
comment on function public.record_event_details(audit_id bigint, event_name text, event_description text, event_data jsonb, system_state jsonb, duration_ms numeric, success_count integer, failure_count integer) is 'Adds details to an event of the audit trail and returns their number; of services, to an event of the same transaction.';
grant execute on function public.record_event_details(bigint,text,text,jsonb,jsonb,numeric,integer,integer) to app_user;
revoke execute on function public.record_event_details(bigint,text,text,jsonb,jsonb,numeric,integer,integer) from public;

CREATE OR REPLACE FUNCTION public.record_export(resource_type text, resource_id text, purpose text, selection jsonb DEFAULT NULL::jsonb)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    event bigint;
begin
    if coalesce(btrim(record_export.purpose), '') = '' then
        raise exception 'data are taken out for a purpose, and none was given'
            using errcode = 'NS004', hint = 'say in a few words what they are for; it enters the audit trail';
    end if;
    event := public.record_event('export_data', record_export.resource_type, record_export.resource_id,
                                 changes_after => record_export.selection);
    perform public.record_event_details(event, record_export.resource_type || 's_exported', record_export.purpose);
    return event;
end
$function$;
comment on function public.record_export(resource_type text, resource_id text, purpose text, selection jsonb) is 'Writes the export_data event of data that are taken out, with the purpose stated, and returns its number. selection: what narrowed them.';
grant execute on function public.record_export(text,text,text,jsonb) to app_user;
revoke execute on function public.record_export(text,text,text,jsonb) from public;

CREATE OR REPLACE FUNCTION public.redeem_account_token(token_hash text, purpose text, password_hash text DEFAULT NULL::text)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    account bigint;
begin
    -- One statement takes it, so that of two who bring it at once one finds it used.
    update public.account_tokens t set used_at = clock_timestamp()
    from public.users u
    where t.token_hash = redeem_account_token.token_hash
      and t.purpose = redeem_account_token.purpose
      and t.used_at is null and t.expires_at > clock_timestamp()
      and u.id = t.user_id and u.is_active and lower(u.email) = lower(t.email)
    returning u.id into account;
    if not found then
        raise exception 'the token is unknown, used or expired' using errcode = 'NS002', hint = 'ask for another one';
    end if;
    update public.users u set is_email_verified = true where u.id = account;
    if purpose = 'reset_password' then
        perform public.change_password(account, redeem_account_token.password_hash);
        perform public.unlock_account(account);
    end if;
    return account;
end
$function$;
comment on function public.redeem_account_token(token_hash text, purpose text, password_hash text) is 'Uses a token once and returns whose it was: the address is verified, and with reset_password the account has the new password, no session any more and no lock.';
grant execute on function public.redeem_account_token(text,text,text) to operator_role;
revoke execute on function public.redeem_account_token(text,text,text) from public;

CREATE OR REPLACE FUNCTION public.refresh_login_counters()
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    changed integer;
begin
    -- Not by the login itself: an update for accounts alone would tell which ones exist.
    update public.users u
    set failed_login_attempts = a.failures,
        account_locked_until  = greatest(u.account_locked_until, a.locked_until)
    from public.login_attempts a
    where a.account_hash = public.sha256_hex(lower(u.email)) and a.network = '*'
      and (u.failed_login_attempts <> a.failures or a.locked_until > coalesce(u.account_locked_until, '-infinity'));
    get diagnostics changed = row_count;
    delete from public.login_attempts a
    where a.tried_at < now() - interval '1 day' and coalesce(greatest(a.locked_until, a.trusted_until), now()) <= now();
    delete from public.sessions s where s.expires_at < now() - interval '90 days';
    return changed;
end
$function$;
comment on function public.refresh_login_counters() is 'Brings failed_login_attempts and account_locked_until of the accounts up to date and returns how many changed; removes tries and sessions that are long past. Housekeeping calls it.';
grant execute on function public.refresh_login_counters() to operator_role;
revoke execute on function public.refresh_login_counters() from public;

CREATE OR REPLACE FUNCTION public.refresh_user_counters()
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
        select c.user_id as id, c.event_count as events,
               (select coalesce(sum(k.total_requests), 0) from public.api_keys k where k.user_id = c.user_id) as requests
        from public.audit_summary_by_user c
    ) t
    where t.id = u.id and (u.audit_event_count, u.api_request_count) <> (t.events, t.requests);
    get diagnostics changed = row_count;
    return changed;
end
$function$;
comment on function public.refresh_user_counters() is 'Brings audit_event_count and api_request_count of the accounts up to date and returns how many changed. Housekeeping calls it: a counter kept by every event would make one row the bottleneck of all.';
grant execute on function public.refresh_user_counters() to operator_role;
revoke execute on function public.refresh_user_counters() from public;

CREATE OR REPLACE FUNCTION public.refuse_audit_retirement(month timestamp with time zone, anchored_seal bigint, anchored_hash bytea)
 RETURNS void
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    held     constant bigint := (
        select min(h.id) from public.audit_holds h
        where h.released_at is null
          and coalesce(h.since, '-infinity') < month + interval '1 month'
          and coalesce(h.until, 'infinity') > month);
    unsealed constant bigint := (
        (select count(*) from public.security_audit a
         where a."timestamp" >= month and a."timestamp" < month + interval '1 month')
        + (select count(*) from public.audit_log_details d
           where d.created_at >= month and d.created_at < month + interval '1 month')
        - (select coalesce(sum(s.leaf_count), 0) from public.audit_seals s
           where s.month = refuse_audit_retirement.month));
    strays   constant bigint := (
        select count(*) from public.audit_log_details d
        where d.audit_timestamp >= month and d.audit_timestamp < month + interval '1 month'
          and not (d.created_at >= month and d.created_at < month + interval '1 month'));
    reason   text;
    advice   text;
begin
    if month + interval '1 month' > now() then
        reason := 'it has not ended';
        advice := 'only whole months leave';
    elsif held is not null then
        reason := format('hold %s keeps it', held);
        advice := 'negspace audit holds';
    elsif unsealed <> 0 then
        reason := format('%s of its rows are not sealed', unsealed);
        advice := 'negspace audit seal; where it stays so, negspace audit verify';
    elsif not exists (
        select from public.audit_seals s
        where s.number = anchored_seal and s.seal_hash = anchored_hash
          and s.number >= coalesce((select max(m.number) from public.audit_seals m where m.month = refuse_audit_retirement.month), 0)
    ) then
        reason := 'its seals are not anchored';
        advice := 'negspace audit anchor FILE --key KEY';
    elsif strays > 0 then
        reason := format('%s details of other months speak of its events', strays);
        advice := 'it can leave after those months';
    end if;
    if reason is not null then
        raise exception '% of the audit trail can''t leave: %', to_char(month at time zone 'UTC', 'YYYY-MM'), reason
            using errcode = 'NS006', hint = advice;
    end if;
end
$function$;
comment on function public.refuse_audit_retirement(month timestamp with time zone, anchored_seal bigint, anchored_hash bytea) is 'Refuses that a month of the audit trail leaves: it has not ended, a hold keeps it, or it is not sealed and anchored.';
revoke execute on function public.refuse_audit_retirement(timestamp with time zone,bigint,bytea) from public;

CREATE OR REPLACE FUNCTION public.refuse_change()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    raise exception '% on % is refused: its rows are never changed or removed', lower(tg_op), tg_table_name
        using errcode = 'NS002',
              hint = 'write a further row that says what is right; old months leave by retention only';
end
$function$;
comment on function public.refuse_change() is 'Refuses every UPDATE, DELETE and TRUNCATE of the table it guards.';

CREATE OR REPLACE FUNCTION public.refuse_duplicate_chain()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    original record;
begin
    -- The lock waits for whoever makes the original a duplicate at this moment, and keeps out
    -- whoever comes later. No row: the foreign key says so.
    select i.is_duplicate, i.user_id into original
    from public.images i where i.id = new.duplicate_of
    for share;
    if original.is_duplicate then
        raise exception 'image % can''t be a duplicate of image %, which is one itself', new.id, new.duplicate_of
            using errcode = 'NS004', hint = 'name the original: it is the duplicate_of of that image';
    end if;
    if original.user_id <> new.user_id then
        raise exception 'image % can''t be a duplicate of image %, which has another owner', new.id, new.duplicate_of
            using errcode = 'NS004', hint = 'duplicates are told within one owner''s images';
    end if;
    perform 1 from public.images i where i.duplicate_of = new.id;
    if found then
        raise exception 'image % has duplicates of its own, so it can''t be one', new.id
            using errcode = 'NS004', hint = 'let its duplicates name the new original first';
    end if;
    return new;
end
$function$;
comment on function public.refuse_duplicate_chain() is 'Refuses a duplicate of a duplicate, or of somebody else''s image: every duplicate names its owner''s original.';

CREATE OR REPLACE FUNCTION public.refuse_misleading_networks()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    wrong text;
begin
    begin
        select n.network into wrong
        from jsonb_array_elements_text(new.ip_whitelist) as n (network)
        where n.network::cidr::text <> n.network
           or (n.network::cidr && cidr '::ffff:0.0.0.0/96' and n.network <> '::/0')
        limit 1;
    exception
        when invalid_text_representation then
            wrong := new.ip_whitelist::text;
    end;
    if wrong is not null then
        raise exception 'ip_whitelist holds %, which is no canonical network', wrong
            using errcode = 'NS004',
                  hint = 'such as 192.0.2.0/24: the prefix always given, no bits beyond it, IPv4 never written as IPv6';
    end if;
    return new;
end
$function$;
comment on function public.refuse_misleading_networks() is 'Refuses networks that are not written as PostgreSQL writes them, and those of IPv6 that hold IPv4 addresses: they would not mean what they seem to.';

CREATE OR REPLACE FUNCTION public.refuse_others_images(images bigint[], what text, named bigint[])
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    me     constant bigint := public.acting_on('run:analyses');
    others bigint;
begin
    if me is null then
        raise exception 'nobody acts here who may run analyses'
            using errcode = 'NS002', hint = 'act_with_session() or act_with_key(), with the scope run:analyses';
    end if;
    if not public.acting_on_all('run:analyses') then
        -- As if it weren't there: that it is somebody else's tells nobody.
        select n.number into others
        from unnest(images, named) with ordinality as n (image, number, place)
        where not exists (select from public.images i where i.id = n.image and i.user_id = me)
        order by n.place limit 1;
        if found then
            raise exception 'there is no % %', what, coalesce(others::text, 'null')
                using errcode = 'NS003', hint = 'negspace images list shows those there are';
        end if;
    end if;
    return me;
end
$function$;
comment on function public.refuse_others_images(images bigint[], what text, named bigint[]) is 'The account that acts and may run analyses, where all the images are its own; named: the numbers that the caller gave, for what is said otherwise.';
revoke execute on function public.refuse_others_images(bigint[],text,bigint[]) from public;

CREATE OR REPLACE FUNCTION public.refuse_scopes_beyond_role()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    owner_role public.user_role;
    allowed    text[];
    beyond     text;
begin
    -- Whoever changes the role at this moment goes first. A transaction whose snapshot is from
    -- before such a change fails here instead of going by the role that was.
    select u.role into owner_role from public.users u where u.id = new.user_id for share;
    allowed := public.role_scopes(owner_role);
    beyond := (
        select string_agg(s.scope, ', ') from jsonb_array_elements_text(new.scopes) as s (scope)
        where s.scope <> all (allowed));
    if beyond is not null then
        raise exception 'a key of an account in the role % may not have the scope %', owner_role, beyond
            using errcode = 'NS004', hint = format('it may have: %s', array_to_string(allowed, ', '));
    end if;
    return new;
end
$function$;
comment on function public.refuse_scopes_beyond_role() is 'Refuses an API key whose scopes exceed its owner''s role, or don''t exist.';

CREATE OR REPLACE FUNCTION public.refuse_to_part_duplicates()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    if exists (select from public.images i where i.duplicate_of = new.id) then
        raise exception 'image % has duplicates, so it can''t get another owner', new.id
            using errcode = 'NS004', hint = 'duplicates are told within one owner''s images: remove them, or let another be their original';
    end if;
    return new;
end
$function$;
comment on function public.refuse_to_part_duplicates() is 'Refuses another owner for an original that has duplicates, which belong to the same.';

CREATE OR REPLACE FUNCTION public.refuse_transition()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    what    constant text := tg_argv[0];
    field   constant text := tg_argv[1];
    allowed constant jsonb := tg_argv[2];
    before  constant text := to_jsonb(old) ->> field;
    after   constant text := to_jsonb(new) ->> field;
begin
    raise exception '% % may not go from % to %', what, old.id, before, after
        using errcode = 'NS001',
              hint = format('from %s it may go to: %s', before, coalesce(allowed ->> before, 'nothing else, it has ended'));
end
$function$;
comment on function public.refuse_transition() is 'Refuses a change of status. It never decides: the WHEN clause of its trigger does, at no cost for what is allowed. Arguments: what the row is, the column, and per status what may follow, for the hint.';

CREATE OR REPLACE FUNCTION public.register_worker(worker text, hostname text, process_id integer, algorithms text[])
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    insert into public.workers (id, hostname, process_id, algorithms)
    values (register_worker.worker, register_worker.hostname, register_worker.process_id, register_worker.algorithms)
$function$;
comment on function public.register_worker(worker text, hostname text, process_id integer, algorithms text[]) is 'A worker begins.';
grant execute on function public.register_worker(text,text,integer,text[]) to operator_role;
revoke execute on function public.register_worker(text,text,integer,text[]) from public;

CREATE OR REPLACE FUNCTION public.release_audit_hold(hold bigint, reason text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    if coalesce(release_audit_hold.reason, '') = '' then
        raise exception 'a hold is released for a reason, and none was given'
            using errcode = 'NS004', hint = 'who decided it, and where that is written';
    end if;
    update public.audit_holds h set released_at = now()
    where h.id = release_audit_hold.hold and h.released_at is null;
    if not found then
        raise exception 'there is no hold % that is in force', release_audit_hold.hold
            using errcode = 'NS003', hint = 'negspace audit holds shows them';
    end if;
    perform public.record_event('config_change', 'audit_hold', release_audit_hold.hold::text,
                                changes_before => '{"released_at": null}',
                                changes_after => jsonb_build_object('released_at', now(), 'reason', release_audit_hold.reason));
end
$function$;
comment on function public.release_audit_hold(hold bigint, reason text) is 'Releases a legal hold; an event says why. For the owner alone.';
revoke execute on function public.release_audit_hold(bigint,text) from public;

CREATE OR REPLACE FUNCTION public.remove_api_key_limit()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    delete from public.api_key_limits l where l.api_key_id = old.id;
    return null;
end
$function$;
comment on function public.remove_api_key_limit() is 'Removes what decides on a key''s requests with the key.';
revoke execute on function public.remove_api_key_limit() from public;

CREATE OR REPLACE FUNCTION public.renew_cached_value(key text, token uuid, lease interval)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    update public.cached_value_leases l
    set leased_until = clock_timestamp() + renew_cached_value.lease
    where l.key = renew_cached_value.key and l.token = renew_cached_value.token;
    return found;
end
$function$;
comment on function public.renew_cached_value(key text, token uuid, lease interval) is 'Renews the lease of who computes a value; false where it has gone to another. A lease of 0 gives it back.';
grant execute on function public.renew_cached_value(text,uuid,interval) to operator_role;
revoke execute on function public.renew_cached_value(text,uuid,interval) from public;

CREATE OR REPLACE FUNCTION public.renew_context_secret()
 RETURNS void
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    delete from public.context_secret;
    with drawn as materialized (
        -- 366 random bits of the operating system, as 256
        select sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) as key
    )
    insert into public.context_secret (inner_pad, outer_pad)
    select (select string_agg(set_byte('\x00', 0, get_byte(d.key, n) # 54), '' order by n) from generate_series(0, 31) as n)
           || decode(repeat('36', 32), 'hex'),
           (select string_agg(set_byte('\x00', 0, get_byte(d.key, n) # 92), '' order by n) from generate_series(0, 31) as n)
           || decode(repeat('5c', 32), 'hex')
    from drawn d
$function$;
comment on function public.renew_context_secret() is 'Draws the key under the seal of who acts anew. Transactions that are under way lose who acts, and see no rows of people any more. For the owner alone: after a dump that holds the key went out of hand.';
revoke execute on function public.renew_context_secret() from public;

CREATE OR REPLACE FUNCTION public.rescue_jobs(lease interval DEFAULT '00:00:10'::interval, how_many integer DEFAULT 100)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
AS $function$
declare
    moment constant timestamptz := clock_timestamp();
    gone   bigint[];
    tries  integer[];
    free   bigint[];
    held   public.processing_queue[];
    begun  bigint[];
    ends   jsonb;
begin
    if rescue_jobs.lease <= interval '0' then
        raise exception 'the lease must be longer than nothing, not %', rescue_jobs.lease
            using errcode = 'NS004', hint = 'such as 10 seconds';
    end if;
    -- The clock was set back: workers are heard of from now on, and taken as gone a lease later.
    update public.workers w set heartbeat_at = moment
    where w.id = any (array(
        select a.id from public.workers a
        where a.stopped_at is null and a.heartbeat_at > moment + interval '1 second'
        order by a.id for no key update skip locked));
    if found then
        return 0;
    end if;
    select array_agg(g.id), array_agg(g.attempt) into gone, tries
    from (select q.id, q.attempt
          from public.processing_queue_hot q
          left join public.workers w on w.id = q.worker_id
          where q.status = 'processing'
            and coalesce(greatest(w.heartbeat_at, case when q.started_at <= moment then q.started_at end), '-infinity')
                < moment - rescue_jobs.lease
          order by q.worker_id, q.id  -- workers are counted on, by all who rescue in one order
          limit greatest(rescue_jobs.how_many, 0)) g;
    if gone is null then
        return 0;
    end if;
    -- Images before jobs, and none that anybody holds: many may rescue at once.
    free := array(
        select i.id from public.images i
        where i.id = any (array(select q.image_id from public.processing_queue_hot q where q.id = any (gone)))
        order by i.id for no key update skip locked);
    held := array(
        select q::public.processing_queue from public.processing_queue_hot q
        where q.id = any (gone) and q.image_id = any (free) and q.status = 'processing'
          and q.attempt = tries[array_position(gone, q.id)]  -- not claimed anew
        order by q.id for update skip locked);
    -- What a worker held and had not begun is not its doing. It says so now and then only, so
    -- the third claim of a job that was never said to be computed counts all the same.
    begun := array(
        select h.id from unnest(held) h
        left join public.workers w on w.id = h.worker_id
        where w.computing is null or h.id = any (w.computing) or h.attempt - h.retry_count > 2);
    ends := (
        select coalesce(jsonb_object_agg(h.id, jsonb_build_object(
            'reason', format('worker %s was not heard of for %s', h.worker_id, rescue_jobs.lease), 'error', 'WorkerLost')), '{}')
        from unnest(held) h);
    perform public.end_tries(array(select h from unnest(held) h where h.id = any (begun) order by h.id), ends, true);
    perform public.end_tries(array(select h from unnest(held) h where h.id <> all (begun) order by h.id), ends, false);
    return cardinality(held);
end
$function$;
comment on function public.rescue_jobs(lease interval, how_many integer) is 'Takes jobs from workers that were not heard of for the lease: tried again, or failed for good when their tries are used up, as a job is that kills its workers. What a worker had not begun costs no try. Returns how many. Safe to call by many at once, and after the clock was set back.';
grant execute on function public.rescue_jobs(interval,integer) to operator_role;
revoke execute on function public.rescue_jobs(interval,integer) from public;

CREATE OR REPLACE FUNCTION public.rest_worker(worker text, resting boolean)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    update public.workers w
    set sleeping_since = case when rest_worker.resting then clock_timestamp() end
    where w.id = rest_worker.worker;
    -- Who falls asleep has heard nothing yet; who wakes tells the others what came meanwhile.
    perform setval('public.queue_next_wakeup', 1);
    if not rest_worker.resting then
        perform public.wake_workers(0);
    end if;
end
$function$;
comment on function public.rest_worker(worker text, resting boolean) is 'A worker that found nothing says that it sleeps, commits, looks once more and then listens to negspace_jobs; it says so when it is awake again. Only sleepers are woken.';
grant execute on function public.rest_worker(text,boolean) to operator_role;
revoke execute on function public.rest_worker(text,boolean) from public;

CREATE OR REPLACE FUNCTION public.result_of(image bigint, algorithm_name text, algorithm_version text, parameters_hash text)
 RETURNS bigint
 LANGUAGE plpgsql
 STABLE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    -- Put together, the name and the version suit no index: with statistics of an empty table the
    -- one by name and version looks as good as any, and every look-up would read all its results.
    return (
        select r.id from public.analysis_results r
        where r.image_id = result_of.image and r.parameters_hash = result_of.parameters_hash
          and r.algorithm_name || '@' || r.algorithm_version = result_of.algorithm_name || '@' || result_of.algorithm_version);
end
$function$;
comment on function public.result_of(image bigint, algorithm_name text, algorithm_version text, parameters_hash text) is 'The result that an image has of an analyser, its version and parameters (their hash), or null.';
revoke execute on function public.result_of(bigint,text,text,text) from public;

CREATE OR REPLACE FUNCTION public.retry_delay(retry integer)
 RETURNS interval
 LANGUAGE sql
 PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select make_interval(secs => random() * least(3600, 2 ^ least(retry, 20)))
$function$;
comment on function public.retry_delay(retry integer) is 'How long a job waits before its try number retry: exponential, at most an hour, full jitter, so that many that failed together don''t come back together.';

CREATE OR REPLACE FUNCTION public.retry_jobs(jobs bigint[], deadline_at timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS bigint[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
AS $function$
declare
    moment  constant timestamptz := clock_timestamp();
    late    public.processing_queue%rowtype;
    again   public.processing_queue[];
    retried bigint[];
begin
    if retry_jobs.deadline_at <= moment then
        raise exception 'the deadline, %, is over already', retry_jobs.deadline_at
            using errcode = 'NS004', hint = 'name a later one';
    end if;
    perform 1 from public.images i
    where i.id = any (array(select q.image_id from public.processing_queue q where q.id = any (retry_jobs.jobs)))
    order by i.id for no key update;
    again := array(
        select q from public.processing_queue q
        where q.id = any (retry_jobs.jobs) and q.status = 'failed'
          and not exists (select from public.images i where i.id = q.image_id and i.analysis_status = 'archived')
        order by q.id for update);
    -- The same analysis may have been asked for again since, or fail twice here: once is enough.
    again := array(
        select a
        from (select distinct on (f.image_id, f.algorithm_name, f.algorithm_version, f.parameters_hash) f.*
              from unnest(again) f
              order by f.image_id, f.algorithm_name, f.algorithm_version, f.parameters_hash, f.id) a
        where not exists (
            select from public.processing_queue_hot q
            where q.image_id = a.image_id and q.algorithm_name = a.algorithm_name
              and q.algorithm_version = a.algorithm_version and q.parameters_hash = a.parameters_hash)
        order by a.id);
    select a.* into late from unnest(again) a where a.deadline_at <= moment and retry_jobs.deadline_at is null order by a.id limit 1;
    if found then
        raise exception 'the deadline of job %, %, has passed, so it would fail at once', late.id, late.deadline_at
            using errcode = 'NS006', hint = 'name a new deadline: negspace jobs retry --deadline, or deadline_at';
    end if;
    retried := array(select a.id from unnest(again) a order by a.id);
    update public.processing_queue q
    set status = 'retrying', retry_count = 0, scheduled_at = now(), completed_at = null,
        deadline_at = coalesce(retry_jobs.deadline_at, q.deadline_at)
    where q.id = any (retried) and q.status = 'failed' and q.created_at = any (array(select a.created_at from unnest(again) a));
    update public.images i set analysis_status = 'pending'
    where i.id = any (array(select a.image_id from unnest(again) a)) and i.analysis_status in ('failed', 'completed');
    insert into public.security_audit (
        user_id, api_key_id, action, resource_type, resource_id, ip_address, user_agent, request_id, changes_before, changes_after
    )
    select c.user_id, c.api_key_id, 'config_change', 'job', a.id::text, c.ip_address, c.user_agent, c.request_id,
           '{"status": "failed"}', '{"status": "retrying"}'
    from public.audit_context() c cross join unnest(again) a
    order by a.id;
    return retried;
end
$function$;
comment on function public.retry_jobs(jobs bigint[], deadline_at timestamp with time zone) is 'Lets failed jobs be tried again, with all their tries, and returns those; a job whose analysis waits or runs anew, or whose image is archived, stays failed. deadline_at: their new deadline; null: the one they have. An error where that has passed, and none is tried again.';
grant execute on function public.retry_jobs(bigint[],timestamp with time zone) to operator_role;
revoke execute on function public.retry_jobs(bigint[],timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION public.retry_own_jobs(jobs bigint[])
 RETURNS bigint[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    perform public.refuse_others_images(public.images_of_jobs(retry_own_jobs.jobs), 'job', retry_own_jobs.jobs);
    return public.retry_jobs(retry_own_jobs.jobs);
end
$function$;
comment on function public.retry_own_jobs(jobs bigint[]) is 'retry_jobs() for whoever is proven to act, on jobs of the account''s images; an administrator on all.';
grant execute on function public.retry_own_jobs(bigint[]) to app_user;
revoke execute on function public.retry_own_jobs(bigint[]) from public;

CREATE OR REPLACE FUNCTION public.role_scopes(role public.user_role)
 RETURNS text[]
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select case role
        when 'viewer'   then array['read:images', 'read:results']
        when 'api_user' then array['read:images', 'write:images', 'read:results', 'run:analyses']
        when 'analyst'  then array['read:images', 'write:images', 'read:results', 'run:analyses', 'read:metrics']
        when 'admin'    then array['read:images', 'write:images', 'read:results', 'run:analyses', 'read:metrics', 'read:audit', 'manage:accounts']
    end
$function$;
comment on function public.role_scopes(role public.user_role) is 'The scopes that an API key of an account in this role may have. read:images: list and show images. write:images: take in, change, archive and remove them. read:results: read and export what analyses found. run:analyses: enqueue, cancel and retry jobs. read:metrics: metrics and the queue. read:audit: the audit trail. manage:accounts: accounts and keys.';

CREATE OR REPLACE FUNCTION public.roll_up_audit(most_rows integer DEFAULT 100000)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    horizon constant xid8 := pg_snapshot_xmin(pg_current_snapshot());
    p       public.audit_summary_progress%rowtype;
    abroad  bigint;
    below   xid8;
    taken   bigint := 0;
begin
    if most_rows is null or most_rows < 1 then
        raise exception 'one row or more is taken in, not %', coalesce(most_rows::text, 'null')
            using errcode = 'NS004', hint = 'a hundred thousand is a good number';
    end if;
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.roll_up_audit', 0)) then
        return 0;  -- somebody is at it, for all
    end if;
    insert into public.audit_summary_progress (relation) values ('security_audit'), ('audit_log_details')
    on conflict do nothing;
    for p in select * from public.audit_summary_progress q order by q.relation desc loop
        abroad := public.foreign_audit_row(p);
        if abroad is not null then
            -- what came with the dump and was not taken in there, then this server's own
            taken := taken + public.take_in_audit_rows(p.through_xid, '18446744073709551615', abroad - 1, p);
            update public.audit_summary_progress q
            set lineage = abroad - 1, through_xid = '0', highest_id = abroad - 1
            where q.relation = p.relation
            returning * into p;
        end if;
        if p.through_xid < horizon then
            below := public.next_audit_xid(p.relation, p.through_xid, p.lineage, horizon, most_rows);
            taken := taken + public.take_in_audit_rows(p.through_xid, below, 9223372036854775807, p);
        end if;
    end loop;
    return taken;
end
$function$;
comment on function public.roll_up_audit(most_rows integer) is 'Takes into audit_user_months what can''t change any more of the audit trail, some most_rows rows of it, and returns how many. Safe to call often and by many; call it until it returns 0, in a transaction of its own.';
revoke execute on function public.roll_up_audit(integer) from public;

CREATE OR REPLACE FUNCTION public.roll_up_ended_jobs()
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
comment on function public.roll_up_ended_jobs() is 'Sums up the days of ended jobs that are closed, and anew those that changed late; returns how many months of jobs that concerned. Safe to call often and by many, in a transaction of its own; a day closes with the second call after it.';
revoke execute on function public.roll_up_ended_jobs() from public;

CREATE OR REPLACE FUNCTION public.roll_up_metric_days(first timestamp with time zone, last timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
comment on function public.roll_up_metric_days(first timestamp with time zone, last timestamp with time zone) is 'Makes the roll-ups of the days from first to last (UTC, last not included) anew from those of their hours.';
revoke execute on function public.roll_up_metric_days(timestamp with time zone,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION public.roll_up_metric_hours(first timestamp with time zone, last timestamp with time zone, minutes_since timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
comment on function public.roll_up_metric_hours(first timestamp with time zone, last timestamp with time zone, minutes_since timestamp with time zone) is 'Makes the roll-ups of the hours from first to last (UTC, last not included) anew from the samples; by minute from minutes_since on.';
revoke execute on function public.roll_up_metric_hours(timestamp with time zone,timestamp with time zone,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION public.roll_up_metrics(most_hours integer DEFAULT 24)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
comment on function public.roll_up_metrics(most_hours integer) is 'Rolls up the hours that are closed, oldest first, then those that changed late, some most_hours of them, and returns how many. Safe to call often and by many; call it until it returns 0, in a transaction of its own, which nobody waits for. Hours are closed when every transaction that might still add to them has ended.';
grant execute on function public.roll_up_metrics(integer) to operator_role;
revoke execute on function public.roll_up_metrics(integer) from public;

CREATE OR REPLACE FUNCTION public.roll_up_summaries(most_rows integer DEFAULT 100000)
 RETURNS bigint
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select public.roll_up_ended_jobs() + public.roll_up_audit(roll_up_summaries.most_rows)
$function$;
comment on function public.roll_up_summaries(most_rows integer) is 'Brings the sums behind audit_summary_by_user and queue_status_summary up to date, some most_rows events at a time, and returns how much it took in. Safe to call often and by many; call it until it returns 0, in a transaction of its own. Views are exact without it, and slower.';
grant execute on function public.roll_up_summaries(integer) to operator_role;
revoke execute on function public.roll_up_summaries(integer) from public;

CREATE OR REPLACE FUNCTION public.say_computing(worker text, jobs bigint[])
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    update public.workers w set computing = say_computing.jobs where w.id = say_computing.worker
$function$;
comment on function public.say_computing(worker text, jobs bigint[]) is 'A worker says which of its jobs it computes: should it be gone, the others have cost no try.';
grant execute on function public.say_computing(text,bigint[]) to operator_role;
revoke execute on function public.say_computing(text,bigint[]) from public;

CREATE OR REPLACE FUNCTION public.scan_duplicates(how_many integer DEFAULT 200, distance integer DEFAULT 8, most_pairs integer DEFAULT 20)
 RETURNS TABLE(scanned integer, pairs integer, alerts integer)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    batch bigint[];
begin
    if how_many is null or how_many not between 1 and 10000 or distance is null or distance not between 0 and 32
       or most_pairs is null or most_pairs not between 1 and 1000 then
        raise exception 'a scan takes 1 to 10000 images, 0 to 32 bits and 1 to 1000 pairs of each'
            using errcode = 'NS004', hint = 'beyond 8 bits most pairs are no duplicates';
    end if;
    -- One at a time, and no queue behind it. Images that somebody removes are left to the next scan.
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.scan_duplicates', 0)) then
        scanned := 0;
        pairs := 0;
        alerts := 0;
        return next;
        return;
    end if;
    batch := array(
        select i.id from public.images i
        where i.id = any (array(select u.image_id from public.unscanned_images u order by u.image_id limit how_many))
        order by i.id
        for key share skip locked);
    delete from public.unscanned_images u where u.image_id = any (batch);
    scanned := cardinality(batch);

    insert into public.duplicate_pairs (first_id, second_id, user_id, bits)
    select distinct on (1, 2) least(i.id, n.image_id), greatest(i.id, n.image_id), i.user_id, n.bits
    from public.images i
    cross join lateral (
        select m.image_id, m.bits from public.near_images(i.id, scan_duplicates.distance) m
        join public.images o on o.id = m.image_id and not o.is_duplicate
        order by m.bits, m.image_id limit most_pairs
        for key share of o skip locked
    ) n
    where i.id = any (batch) and not i.is_duplicate
    order by 1, 2
    on conflict on constraint duplicate_pairs_pkey do nothing;
    get diagnostics pairs = row_count;

    -- Of images with the same pixels the later one is told of, with all owners that had them.
    with shared as (
        select i.id, i.pixel_hash, array_agg(o.id order by o.id) as others, array_agg(distinct o.user_id) as owners
        from public.images i
        join public.images o on o.pixel_hash = i.pixel_hash and o.user_id <> i.user_id and o.id < i.id
        where i.pixel_hash in (select b.pixel_hash from public.images b where b.id = any (batch))
        group by i.id
    ), raised as (
        insert into public.shared_pixels (image_id)
        select s.id from shared s
        on conflict do nothing
        returning image_id
    )
    select count(e.event) into alerts
    from (
        select public.record_event(
            'create_image', 'shared_pixels', s.id::text,
            changes_after => jsonb_build_object('alert', 'the same pixels under another owner', 'pixel_hash', s.pixel_hash,
                                                'images', s.others, 'owners', s.owners)) as event
        from shared s join raised r on r.image_id = s.id
        order by s.id
        offset 0
    ) e;
    return next;
end
$function$;
comment on function public.scan_duplicates(how_many integer, distance integer, most_pairs integer) is 'Looks for the like of up to how_many images whose hashes came since the last scan: pairs of one owner within distance bits, the nearest most_pairs of each image; and raises an alert event where another owner had the same pixels. One scan works at a time, others return 0; call it until scanned is 0.';
grant execute on function public.scan_duplicates(integer,integer,integer) to operator_role;
revoke execute on function public.scan_duplicates(integer,integer,integer) from public;

CREATE OR REPLACE FUNCTION public.seal_audit(batch_size integer DEFAULT 1000, how_many integer DEFAULT 100)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    relation text;
    made     integer := 0;
begin
    if batch_size is null or batch_size not between 1 and 100000 or how_many is null or how_many < 1 then
        raise exception 'a seal holds from 1 to 100000 rows, and one or more are made, not % of %',
                        coalesce(how_many::text, 'null'), coalesce(batch_size::text, 'null')
            using errcode = 'NS004', hint = 'a thousand rows each is a good size';
    end if;
    -- One at a time, and no queue behind it: the one that seals does it for all.
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.seal_audit', 0)) then
        return 0;
    end if;
    perform setval('public.audit_seals_seen', s.number)
    from (select max(number) as number from public.audit_seals where sealed_at < now()) s
    cross join public.audit_seals_seen q
    where s.number > q.last_value;
    foreach relation in array array['security_audit', 'audit_log_details'] loop
        exit when made >= how_many;
        made := made + public.seal_audit_relation(relation, batch_size, how_many - made);
    end loop;
    return made;
end
$function$;
comment on function public.seal_audit(batch_size integer, how_many integer) is 'Seals what can''t change any more of the audit trail, in batches of batch_size rows at most, and returns how many seals it made. Call it until it returns 0; workers do, every minute.';
grant execute on function public.seal_audit(integer,integer) to operator_role;
revoke execute on function public.seal_audit(integer,integer) from public;

CREATE OR REPLACE FUNCTION public.seal_audit_relation(relation text, batch_size integer, how_many integer)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    horizon constant xid8 := pg_snapshot_xmin(pg_current_snapshot());
    newest  public.audit_seals%rowtype := public.newest_audit_seal(relation);
    abroad  bigint := public.foreign_audit_rows(newest);
    sealed  public.audit_seals%rowtype;
    made    integer := 0;
begin
    while made < how_many loop
        sealed := public.next_audit_seal(
            newest, coalesce(abroad, 9223372036854775807),
            case when abroad is null then horizon else '18446744073709551615' end, batch_size);
        if sealed.leaf_count is not null then
            select coalesce(max(s.number), 0) + 1 into sealed.number from public.audit_seals s;
            sealed.previous_hash := coalesce(
                (select s.seal_hash from public.audit_seals s where s.number = sealed.number - 1),
                decode(repeat('00', 32), 'hex'));
            sealed.sealed_at := now();
            sealed.seal_hash := public.audit_seal_hash(sealed);
            insert into public.audit_seals select sealed.*;
            newest := sealed;
            made := made + 1;
        elsif abroad is not null then  -- all from before are sealed: now those of this server
            newest.lineage := abroad;
            newest.last_xid := '0';
            newest.last_id := -9223372036854775808;
            abroad := null;
        else
            exit;
        end if;
    end loop;
    return made;
end
$function$;
comment on function public.seal_audit_relation(relation text, batch_size integer, how_many integer) is 'Seals up to how_many batches of one relation, and returns how many.';
revoke execute on function public.seal_audit_relation(text,integer,integer) from public;

CREATE OR REPLACE FUNCTION public.sees_all_rows()
 RETURNS boolean
 LANGUAGE sql
 STABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select pg_has_role(current_user, 'operator_role', 'usage')
           or pg_has_role(current_user, (select c.relowner from pg_class c where c.oid = 'public.images'::regclass), 'usage')
$function$;
comment on function public.sees_all_rows() is 'Whether the role that asks sees the rows of all accounts, as the operator and the owner do: before anything that is done because no row is there, such as removing a file that nobody names.';

CREATE OR REPLACE FUNCTION public.set_image_hashes(image bigint, pixel_hash text, perceptual_hash bigint, perceptual_hash_algorithm text)
 RETURNS void
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    update public.images i
    set pixel_hash                = set_image_hashes.pixel_hash,
        perceptual_hash           = set_image_hashes.perceptual_hash,
        perceptual_hash_algorithm = set_image_hashes.perceptual_hash_algorithm
    where i.id = set_image_hashes.image
      and (i.pixel_hash, i.perceptual_hash, i.perceptual_hash_algorithm)
          is distinct from (set_image_hashes.pixel_hash, set_image_hashes.perceptual_hash, set_image_hashes.perceptual_hash_algorithm)
$function$;
comment on function public.set_image_hashes(image bigint, pixel_hash text, perceptual_hash bigint, perceptual_hash_algorithm text) is 'Keeps the hashes of an image''s pixels, which a worker computes once it has decoded them.';
grant execute on function public.set_image_hashes(bigint,text,bigint,text) to operator_role;
revoke execute on function public.set_image_hashes(bigint,text,bigint,text) from public;

CREATE OR REPLACE FUNCTION public.set_updated_at()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    new.updated_at := now();
    return new;
end
$function$;
comment on function public.set_updated_at() is 'Keeps updated_at: the time of the transaction that last changed the row.';

CREATE OR REPLACE FUNCTION public.settle_image(image bigint, outcome public.analysis_status, reason text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    -- The caller holds the image's row lock, so that of two jobs that end at once the second
    -- sees the first. While another job of it lives, the image is not done.
    if exists (select from public.processing_queue_hot q where q.image_id = settle_image.image) then
        return;
    end if;
    -- Asked for again, taken back before it ran: what it had is what it has.
    update public.images i
    set analysis_status = 'processing'
    where i.id = settle_image.image
      and i.analysis_status = 'pending'
      and settle_image.outcome = 'completed';
    update public.images i
    set analysis_status = settle_image.outcome,
        processed_at    = clock_timestamp(),
        failure_reason  = settle_image.reason
    where i.id = settle_image.image
      and i.analysis_status = 'processing';
end
$function$;
comment on function public.settle_image(image bigint, outcome public.analysis_status, reason text) is 'Gives an image its status when the last of its jobs ended: completed, or failed with a reason. The caller holds the lock on the image.';
revoke execute on function public.settle_image(bigint,public.analysis_status,text) from public;

CREATE OR REPLACE FUNCTION public.settle_images(images bigint[], outcome public.analysis_status, reasons jsonb DEFAULT '{}'::jsonb, hashes jsonb DEFAULT '{}'::jsonb)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
    -- The caller holds the images' row locks, so that of two jobs that end at once the second
    -- sees the first. While another job of it lives, an image is not done.
    busy constant bigint[] := array(select q.image_id from public.processing_queue_hot q where q.image_id = any (images));
begin
    update public.images i
    set analysis_status           = case when d.done then settle_images.outcome else i.analysis_status end,
        processed_at              = case when d.done then clock_timestamp() else i.processed_at end,
        failure_reason            = case when d.done then reasons ->> i.id::text else i.failure_reason end,
        pixel_hash                = case when d.hashed then h.pixel_hash else i.pixel_hash end,
        perceptual_hash           = case when d.hashed then h.perceptual_hash else i.perceptual_hash end,
        perceptual_hash_algorithm = case when d.hashed then h.perceptual_hash_algorithm else i.perceptual_hash_algorithm end
    from unnest(images) as w (id)
    cross join lateral jsonb_to_record(coalesce(nullif(hashes -> w.id::text, 'null'), '{}'))
        as h (pixel_hash text, perceptual_hash bigint, perceptual_hash_algorithm text)
    cross join lateral (select not w.id = any (busy) as done, h.pixel_hash is not null as hashed) d
    where i.id = w.id
      and i.id = any (images)
      and (d.done and i.analysis_status = 'processing'
           or d.hashed and (i.pixel_hash, i.perceptual_hash, i.perceptual_hash_algorithm)
              is distinct from (h.pixel_hash, h.perceptual_hash, h.perceptual_hash_algorithm));
end
$function$;
comment on function public.settle_images(images bigint[], outcome public.analysis_status, reasons jsonb, hashes jsonb) is 'Gives images their status when the last of their jobs ended, and keeps the hashes of their pixels. Each image once; the caller holds the locks. reasons and hashes: by image.';
revoke execute on function public.settle_images(bigint[],public.analysis_status,jsonb,jsonb) from public;

CREATE OR REPLACE FUNCTION public.sha256_hex(content text)
 RETURNS text
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    return encode(sha256(convert_to(content, 'UTF8')), 'hex');
end
$function$;
comment on function public.sha256_hex(content text) is 'SHA-256 of a text''s UTF-8 bytes, 64 hexadecimal digits. Immutable, which convert_to() alone is not: a database''s encoding never changes.';

CREATE OR REPLACE FUNCTION public.split_waits(waits bigint[])
 RETURNS TABLE(bucket smallint, bucket_waits bigint[])
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select case when u.wait = 0 then 0
                else 1000 + floor(ln(u.wait / 1000::double precision) / ln(1.01::double precision)) end::smallint,
           array_agg(u.wait order by u.wait)
    from unnest(split_waits.waits) as u (wait)
    group by 1
$function$;
comment on function public.split_waits(waits bigint[]) is 'Waits in microseconds by bucket, each of which is 1 % wider than the one before: none, and from there on the logarithm of milliseconds.';
grant execute on function public.split_waits(bigint[]) to operator_role;
revoke execute on function public.split_waits(bigint[]) from public;

CREATE OR REPLACE FUNCTION public.state_acting(account bigint, role public.user_role, session bigint, key bigint, scopes text[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    said    constant text := concat(account, '|', role, '|', session, '|', key, '|', array_to_string(scopes, ' '));
    seal    constant text := public.context_seal(said);
    already constant bigint := (select a.user_id from public.acting() a);
begin
    -- A cursor that is open, or a row that was read, belongs to who acted first.
    if already <> account then
        raise exception 'this transaction acts for another account already'
            using errcode = 'NS006', hint = 'one transaction, one account: begin another one';
    end if;
    if seal is null then
        raise exception 'the key under the seal of who acts is not there'
            using errcode = 'NS006', hint = 'as the owner: select renew_context_secret()';
    end if;
    perform set_config('negspace.acting', concat(said, '|', seal), true),
            set_config('negspace.user_id', account::text, true),
            set_config('negspace.api_key_id', coalesce(key::text, ''), true);
end
$function$;
comment on function public.state_acting(account bigint, role public.user_role, session bigint, key bigint, scopes text[]) is 'Seals who acts in this transaction. For act_with_session() and act_with_key(), which have verified it.';
revoke execute on function public.state_acting(bigint,public.user_role,bigint,bigint,text[]) from public;

CREATE OR REPLACE FUNCTION public.stop_worker(worker text, last_words text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    update public.workers w
    set stopped_at = clock_timestamp(), last_words = stop_worker.last_words
    where w.id = stop_worker.worker
$function$;
comment on function public.stop_worker(worker text, last_words text) is 'A worker says goodbye.';
grant execute on function public.stop_worker(text,text) to operator_role;
revoke execute on function public.stop_worker(text,text) from public;

CREATE OR REPLACE FUNCTION public.store_cached_result(image bigint, requested_by bigint, algorithm_name text, algorithm_version text, algorithm_parameters jsonb)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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

    known := public.result_of(image, algorithm_name, algorithm_version, public.sha256_hex(algorithm_parameters::text));
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
$function$;
comment on function public.store_cached_result(image bigint, requested_by bigint, algorithm_name text, algorithm_version text, algorithm_parameters jsonb) is 'The result that an image has already, or one made from the cache for it, or null. Counts the hit.';
revoke execute on function public.store_cached_result(bigint,bigint,text,text,jsonb) from public;

CREATE OR REPLACE FUNCTION public.store_cached_value(key text, token uuid, value jsonb, ttl interval, stale interval DEFAULT '00:00:00'::interval)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_variable
declare
    moment constant timestamptz := clock_timestamp();
begin
    if ttl is null or ttl <= interval '0' or ttl > interval '10 years' or stale is null or stale < interval '0' or stale > interval '10 years' then
        raise exception 'a value is kept for more than nothing and at most ten years, and so it stands in, not % and %',
            coalesce(ttl::text, 'null'), coalesce(stale::text, 'null')
            using errcode = 'NS004', hint = 'such as interval ''1 hour''';
    end if;
    delete from public.cached_value_leases l where l.key = store_cached_value.key and l.token = store_cached_value.token;
    if not found then
        return false;
    end if;
    insert into public.cached_values (key, value, computed_at, expires_at, kept_until, last_used_at)
    values (key, value, moment, moment + ttl, moment + ttl + stale, moment)
    on conflict on constraint cached_values_pkey do update
    set value = excluded.value, computed_at = excluded.computed_at, expires_at = excluded.expires_at,
        kept_until = excluded.kept_until, last_used_at = excluded.last_used_at;
    return true;
end
$function$;
comment on function public.store_cached_value(key text, token uuid, value jsonb, ttl interval, stale interval) is 'Stores what was computed and ends the lease; false, and nothing stored, where the lease has gone to another. ttl: how long it answers; stale: how long after that it stands in while another is computed.';
grant execute on function public.store_cached_value(text,uuid,jsonb,interval,interval) to operator_role;
revoke execute on function public.store_cached_value(text,uuid,jsonb,interval,interval) from public;

CREATE OR REPLACE FUNCTION public.sum_up_ended_months(months timestamp with time zone[])
 RETURNS void
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
comment on function public.sum_up_ended_months(months timestamp with time zone[]) is 'Adds up the days of some months anew, by bucket and by span.';
revoke execute on function public.sum_up_ended_months(timestamp with time zone[]) from public;

CREATE OR REPLACE FUNCTION public.sweep_queue()
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    began   constant timestamptz := clock_timestamp();
    now_us  constant bigint := (extract(epoch from began) * 1000000)::bigint;
    due     constant bigint := coalesce(pg_sequence_last_value('public.queue_next_sweep'), 1);
    whole   constant bigint := coalesce(pg_sequence_last_value('public.queue_next_whole_sweep'), 1);
    -- A clock that was set back leaves times that are too far ahead: they are due as well.
    all_due constant boolean := whole <= now_us or whole > now_us + 600 * 1000000::bigint;
    marks   timestamptz[];
begin
    if due > now_us and due < now_us + 10 * 1000000 and not all_due then
        return false;
    end if;
    perform setval('public.queue_next_sweep', now_us + 500000);
    marks := case when all_due then array_fill('-infinity'::timestamptz, array[10]) else public.queue_marks() end;
    perform setval(('public.queue_mark_' || p.priority)::regclass, public.as_microseconds(least(
        began,
        (select q.scheduled_at from public.processing_queue_hot q
         where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at <= q.created_at
           and q.scheduled_at >= marks[p.priority] order by q.scheduled_at, q.id limit 1),
        (select q.scheduled_at from public.processing_queue_hot q
         where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at > q.created_at
           and q.scheduled_at >= marks[p.priority] order by q.scheduled_at, q.id limit 1))))
    from generate_series(1, 10) as p (priority);
    if all_due then
        -- never more than a twentieth of the time
        perform setval('public.queue_next_whole_sweep', public.as_microseconds(
            clock_timestamp() + greatest(interval '1 second', 20 * (clock_timestamp() - began))));
    end if;
    return all_due;
end
$function$;
comment on function public.sweep_queue() is 'Brings the low-water marks up to date where that is due: every half second, from zero every second or so. claim_jobs() calls it. Returns whether it began from zero.';
revoke execute on function public.sweep_queue() from public;

CREATE OR REPLACE FUNCTION public.trim_cache(most_bytes bigint, batch_size integer DEFAULT 1000)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    excess  constant bigint := (select coalesce(sum(c.size_bytes), 0) from public.analysis_cache c) - trim_cache.most_bytes;
    removed integer;
begin
    if excess is null or excess <= 0 then
        return 0;
    end if;
    with oldest as (
        select c.id, c.size_bytes, c.last_accessed_at from public.analysis_cache c
        order by c.last_accessed_at
        limit greatest(trim_cache.batch_size, 0)
        for update skip locked
    ), enough as (
        select o.id, sum(o.size_bytes) over (order by o.last_accessed_at, o.id) - o.size_bytes as before from oldest o
    )
    delete from public.analysis_cache c where c.id = any (array(select e.id from enough e where e.before < excess));
    get diagnostics removed = row_count;
    return removed;
end
$function$;
comment on function public.trim_cache(most_bytes bigint, batch_size integer) is 'Removes answers of analyses, those that were not asked for longest first, up to batch_size of them, until the rest takes most_bytes at most, and returns how many. Results stay. Call it until it returns 0.';
grant execute on function public.trim_cache(bigint,integer) to operator_role;
revoke execute on function public.trim_cache(bigint,integer) from public;

CREATE OR REPLACE FUNCTION public.trim_cached_values(most_bytes bigint, batch_size integer DEFAULT 1000)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    excess  constant bigint := (select coalesce(sum(v.size_bytes), 0) from public.cached_values v) - trim_cached_values.most_bytes;
    removed integer;
begin
    if excess is null or excess <= 0 then
        return 0;
    end if;
    with oldest as (
        select v.key, v.size_bytes, v.last_used_at from public.cached_values v
        order by v.last_used_at
        limit greatest(trim_cached_values.batch_size, 0)
        for update skip locked
    ), enough as (
        select o.key, sum(o.size_bytes) over (order by o.last_used_at, o.key) - o.size_bytes as before from oldest o
    )
    delete from public.cached_values v where v.key = any (array(select e.key from enough e where e.before < excess));
    get diagnostics removed = row_count;
    return removed;
end
$function$;
comment on function public.trim_cached_values(most_bytes bigint, batch_size integer) is 'Removes values, those that were not used for longest first, up to batch_size of them, until the rest takes most_bytes at most, and returns how many. Call it until it returns 0.';
grant execute on function public.trim_cached_values(bigint,integer) to operator_role;
revoke execute on function public.trim_cached_values(bigint,integer) from public;

CREATE OR REPLACE FUNCTION public.unlock_account(account bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    subject constant text := (select public.sha256_hex(lower(u.email)) from public.users u where u.id = account);
    locked  constant timestamptz := (select max(a.locked_until) from public.login_attempts a where a.account_hash = subject);
    known   boolean;
begin
    select u.account_locked_until is not null into known from public.users u where u.id = account for no key update;
    if not found then
        raise exception 'there is no user %', account using errcode = 'NS003', hint = 'negspace users list shows the accounts';
    end if;
    update public.users u set account_locked_until = null, failed_login_attempts = 0 where u.id = account;
    update public.login_attempts a set locked_until = null, failures = 0 where a.account_hash = subject;
    -- Where the account itself knows of the lock, its own trigger tells.
    if locked is not null and not known then
        perform public.record_event(
            'permission_change', 'user', account::text,
            changes_before => jsonb_build_object('account_locked_until', locked),
            changes_after => '{"account_locked_until": null}');
    end if;
end
$function$;
comment on function public.unlock_account(account bigint) is 'Lets an account log in again from everywhere, whatever failed before.';
grant execute on function public.unlock_account(bigint) to operator_role;
revoke execute on function public.unlock_account(bigint) from public;

CREATE OR REPLACE FUNCTION public.verify_api_key(key bigint, key_hash text, scope text DEFAULT NULL::text, address inet DEFAULT NULL::inet, OUT api_key_id bigint, OUT user_id bigint, OUT accepted boolean, OUT reason text, OUT remaining integer, OUT retry_after interval)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_variable
begin
    -- ::ffff:a.b.c.d is a.b.c.d, so that no network of IPv4 is walked round, or missed, by it
    if family(address) = 6 then
        address := case
            when masklen(address) = 128 and address <<= inet '::ffff:0.0.0.0/96'
            then inet '0.0.0.0' + (address - inet '::ffff:0.0.0.0')
            else address end;
    end if;
    -- Nearly always this is all. Whoever comes at the same time waits for the row and asks
    -- again with what it holds then; a limit that is used up changes no row and locks none.
    update public.api_key_limits l
    set unused_at        = greatest(l.unused_at, clock_timestamp()) + l.step,
        busy_since       = case when l.unused_at < clock_timestamp() then clock_timestamp() else l.busy_since end,
        busy_requests    = case when l.unused_at < clock_timestamp() then 1 else l.busy_requests + 1 end,
        uncounted        = l.uncounted + 1,
        last_accepted_at = clock_timestamp()
    where l.api_key_id = key
      and l.key_hash = verify_api_key.key_hash
      and l.unused_at <= clock_timestamp() + l.slack  -- who asks too often is refused before the rest is looked at
      and l.is_active
      and l.owner_is_active
      and (l.expires_at is null or l.expires_at > clock_timestamp())
      and (scope is null or (scope = any (l.scopes) and scope = any (l.owner_scopes)))
      and (l.networks is null or address <<= any (l.networks))
    returning l.api_key_id, l.user_id, true,
              floor(date_part('epoch', clock_timestamp() + l.slack + l.step - l.unused_at) / date_part('epoch', l.step))::integer
    into api_key_id, user_id, accepted, remaining;
    if accepted then
        return;
    end if;
    select l.api_key_id, l.user_id, false,
           case
               when not l.is_active then 'revoked key'
               when not l.owner_is_active then 'inactive account'
               when l.expires_at <= clock_timestamp() then 'expired key'
               when scope <> all (l.scopes) then 'scope not granted'
               when scope <> all (l.owner_scopes) then 'scope beyond the owner''s role'
               when l.networks is not null and (address <<= any (l.networks)) is not true then 'address not allowed'
               else 'rate limit reached'
           end,
           0, greatest(l.unused_at - l.slack - clock_timestamp(), interval '0')
    into api_key_id, user_id, accepted, reason, remaining, retry_after
    from public.api_key_limits l
    where l.api_key_id = key and l.key_hash = verify_api_key.key_hash;
    if found then
        if reason <> 'rate limit reached' then
            remaining := null;
            retry_after := null;
        end if;
        return;
    end if;
    if public.make_api_key_limit(key, key_hash) then  -- its first request: it has a row now
        select v.* into api_key_id, user_id, accepted, reason, remaining, retry_after
        from public.verify_api_key(key, key_hash, scope, address) v;
    else
        accepted := false;
        reason := 'unknown key';
    end if;
end
$function$;
comment on function public.verify_api_key(key bigint, key_hash text, scope text, address inet, OUT api_key_id bigint, OUT user_id bigint, OUT accepted boolean, OUT reason text, OUT remaining integer, OUT retry_after interval) is 'Answers in one round trip whether a key, named by the number in its text and by its SHA-256, may be used for a scope from an address, and takes one request from its rate limit where it may. Refused for the limit: after how long to come again. Call it in a transaction of its own: the row of the limit is locked until its end. A refusal writes nothing.';
grant execute on function public.verify_api_key(bigint,text,text,inet) to app_user;
revoke execute on function public.verify_api_key(bigint,text,text,inet) from public;

CREATE OR REPLACE FUNCTION public.verify_session(token_hash text, OUT session_id bigint, OUT user_id bigint, OUT role public.user_role, OUT expires_at timestamp with time zone)
 RETURNS record
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select s.id, u.id, u.role, s.expires_at
    from public.sessions s
    join public.users u on u.id = s.user_id
    where s.token_hash = verify_session.token_hash
      and s.ended_at is null and s.expires_at > clock_timestamp() and u.is_active
$function$;
comment on function public.verify_session(token_hash text, OUT session_id bigint, OUT user_id bigint, OUT role public.user_role, OUT expires_at timestamp with time zone) is 'Whose session a token, named by its SHA-256, is, and what the account may do now; nulls where there is none, or it has ended.';
grant execute on function public.verify_session(text) to app_user;
revoke execute on function public.verify_session(text) from public;

CREATE OR REPLACE FUNCTION public.wake_workers(jobs bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    now_us constant bigint := (extract(epoch from clock_timestamp()) * 1000000)::bigint;
    due    constant bigint := coalesce(pg_sequence_last_value('public.queue_next_wakeup'), 1);
    untold constant bigint := coalesce(pg_sequence_last_value('public.queue_untold'), 1) - 1;
begin
    -- NOTIFY makes transactions commit one after the other. So it is sent only when somebody
    -- sleeps, once in 5 ms, and by one transaction at a time: the others' jobs are found by whom
    -- it wakes, and counted in the next one. A clock that was set back leaves a time too far ahead.
    if jobs + untold > 0
       and exists (select from public.workers w
                   where w.sleeping_since is not null and w.stopped_at is null
                     and w.heartbeat_at > clock_timestamp() - interval '1 minute') then
        if (due <= now_us or due > now_us + 1000000)
           and pg_try_advisory_xact_lock(hashtextextended('negspace.wake_workers', 0)) then
            perform setval('public.queue_next_wakeup', now_us + 5000), setval('public.queue_untold', 1);
            perform pg_notify('negspace_jobs', (jobs + untold)::text);
            return true;
        end if;
        perform setval('public.queue_untold', least(untold + jobs, 1000000) + 1) where jobs > 0;
    end if;
    return false;
end
$function$;
comment on function public.wake_workers(jobs bigint) is 'Tells sleeping workers, on channel negspace_jobs, how many jobs came, when this transaction commits; at most once in 5 ms, or until one that was told says so. Returns whether it does. A worker polls as well: a wake-up may be lost, a job never.';
grant execute on function public.wake_workers(bigint) to operator_role;
revoke execute on function public.wake_workers(bigint) from public;

CREATE OR REPLACE FUNCTION public.whole_units(unit text, begins timestamp with time zone, ends timestamp with time zone)
 RETURNS tstzmultirange
 LANGUAGE sql
 STABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select tstzmultirange(tstzrange(b.first, greatest(b.first, date_trunc(whole_units.unit, whole_units.ends, 'UTC'))))
    from (select case when date_trunc(whole_units.unit, whole_units.begins, 'UTC') = whole_units.begins then whole_units.begins
                      else date_trunc(whole_units.unit, whole_units.begins, 'UTC')
                           -- 24 hours: a day of the session's time zone may be longer
                           + case whole_units.unit when 'day' then interval '24 hours' else ('1 ' || whole_units.unit)::interval end
                 end as first) b
$function$;
comment on function public.whole_units(unit text, begins timestamp with time zone, ends timestamp with time zone) is 'From the first whole minute, hour or day (UTC) of a span to the end of its last; empty where there is none.';

CREATE OR REPLACE FUNCTION public.within_limits(candidates bigint[])
 RETURNS bigint[]
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    -- Whoever claims of the same user or group at this moment has its limit; its jobs are
    -- passed by, as held images are.
    held constant bigint[] := array(
        select l.id from public.queue_limits l
        where exists (select from public.processing_queue_hot q
                      where q.id = any (candidates) and (q.user_id = l.user_id or q.job_group = l.job_group))
        order by l.id for no key update skip locked);
begin
    return array(
        select q.id
        from public.processing_queue_hot q
        where q.id = any (candidates)
          and q.id not in (
              select r.id
              from (select c.id, l.id as limited, l.max_running - l.running as free,
                           row_number() over (partition by l.id order by u.ordinality) as place
                    from unnest(candidates) with ordinality as u (id, ordinality)
                    join public.processing_queue_hot c on c.id = u.id
                    join public.queue_limits l on l.user_id = c.user_id or l.job_group = c.job_group) r
              where r.place > r.free or r.limited <> all (held)));
end
$function$;
comment on function public.within_limits(candidates bigint[]) is 'Those of the candidates, in their order, that may run now; their limits are locked until the transaction ends.';
revoke execute on function public.within_limits(bigint[]) from public;

create table public.account_tokens (
    id         bigint                   not null generated always as identity,
    user_id    bigint                   not null,
    purpose    text                     not null,
    token_hash text                     not null,
    email      text                     not null,
    created_at timestamp with time zone not null default now(),
    expires_at timestamp with time zone not null,
    used_at    timestamp with time zone,
    constraint account_tokens_pkey PRIMARY KEY (id),
    constraint account_tokens_token_hash_key UNIQUE (token_hash),
    constraint account_tokens_email_given CHECK (email <> ''::text),
    constraint account_tokens_expires_after_creation CHECK (expires_at > created_at),
    constraint account_tokens_purpose_known CHECK (purpose = ANY (ARRAY['verify_email'::text, 'reset_password'::text])),
    constraint account_tokens_token_hash_sha256 CHECK (length(token_hash) = 64 AND token_hash !~ '[^0-9a-f]'::text)
);
comment on table public.account_tokens is 'Tokens sent by e-mail, each for one use: who has it reads the account''s mail.';
comment on column public.account_tokens.id is 'Number of the token.';
comment on column public.account_tokens.user_id is 'Whose account it is for.';
comment on column public.account_tokens.purpose is 'verify_email: the address is the account''s. reset_password: a new password.';
comment on column public.account_tokens.token_hash is 'SHA-256 of the token, which is sent once and stored nowhere.';
comment on column public.account_tokens.email is 'The address it was made for; it is void once the account has another.';
comment on column public.account_tokens.created_at is 'When it was made.';
comment on column public.account_tokens.expires_at is 'From then on it is void.';
comment on column public.account_tokens.used_at is 'When it was used, or made void by the next one; null: neither.';

CREATE INDEX account_tokens_user_id_created_at_idx ON public.account_tokens USING btree (user_id, created_at DESC);
comment on index public.account_tokens_user_id_created_at_idx is 'An account''s tokens, newest first; the foreign key.';

create table public.algorithm_speeds (
    algorithm_name    text                     not null,
    algorithm_version text                     not null,
    ms_per_job        double precision         not null,
    ms_per_megapixel  double precision,
    jobs_ahead        bigint                   not null default 0,
    live_workers      integer                  not null default 0,
    measured_at       timestamp with time zone not null default now(),
    jobs_before       bigint[],
    constraint algorithm_speeds_pkey PRIMARY KEY (algorithm_name, algorithm_version),
    constraint algorithm_speeds_jobs_ahead_not_negative CHECK (jobs_ahead >= 0),
    constraint algorithm_speeds_live_workers_not_negative CHECK (live_workers >= 0),
    constraint algorithm_speeds_ms_per_job_not_negative CHECK (ms_per_job >= 0::double precision),
    constraint algorithm_speeds_ms_per_megapixel_not_negative CHECK (ms_per_megapixel >= 0::double precision)
) with (fillfactor = '50');
comment on table public.algorithm_speeds is 'How long jobs took lately, per analyser; what estimates are made of.';
comment on column public.algorithm_speeds.algorithm_name is 'The analyser.';
comment on column public.algorithm_speeds.algorithm_version is 'Its version.';
comment on column public.algorithm_speeds.ms_per_job is 'Mean of its newest 200 results, in milliseconds.';
comment on column public.algorithm_speeds.ms_per_megapixel is 'The same by megapixel of their images; null where no size is known.';
comment on column public.algorithm_speeds.jobs_ahead is 'How many jobs of it wait or run, of all priorities.';
comment on column public.algorithm_speeds.live_workers is 'How many workers that live have it.';
comment on column public.algorithm_speeds.measured_at is 'When that was last worked out, and had changed by a twentieth or more.';
comment on column public.algorithm_speeds.jobs_before is 'How many jobs of it are before a new one, for each priority from 1 to 10: those that run, and those that wait and are as urgent or more.';
grant select on public.algorithm_speeds to operator_role;

create table public.analysis_cache (
    id                    bigint                   not null generated always as identity,
    cache_key             text                     not null,
    image_id              bigint,
    analysis_id           bigint,
    algorithm_fingerprint text                     not null,
    cached_result         jsonb                    not null,
    hit_count             bigint                   not null default 0,
    last_accessed_at      timestamp with time zone not null default now(),
    created_at            timestamp with time zone not null default now(),
    expires_at            timestamp with time zone not null default now() + '1 day'::interval,
    size_bytes            bigint                   not null generated always as (octet_length(cached_result::text)) stored,
    constraint analysis_cache_pkey PRIMARY KEY (id),
    constraint analysis_cache_cache_key_key UNIQUE (cache_key),
    constraint analysis_cache_algorithm_fingerprint_sha256 CHECK (length(algorithm_fingerprint) = 64 AND algorithm_fingerprint !~ '[^0-9a-f]'::text),
    constraint analysis_cache_cache_key_given CHECK (cache_key <> ''::text AND length(cache_key) <= 512),
    constraint analysis_cache_expires_after_creation CHECK (expires_at > created_at),
    constraint analysis_cache_hit_count_not_negative CHECK (hit_count >= 0)
);
alter table public.analysis_cache enable row level security;
alter table public.analysis_cache force row level security;
comment on table public.analysis_cache is 'Results kept for a time, so that the same bytes with the same analyser and parameters are not computed again.';
comment on column public.analysis_cache.id is 'Number of the entry.';
comment on column public.analysis_cache.cache_key is 'What it answers: cache_key() of file hash, algorithm fingerprint and the image''s owner.';
comment on column public.analysis_cache.image_id is 'The image it was computed for.';
comment on column public.analysis_cache.analysis_id is 'The result it repeats.';
comment on column public.analysis_cache.algorithm_fingerprint is 'algorithm_fingerprint() of name, version and resolved parameters.';
comment on column public.analysis_cache.cached_result is 'The result as JSON.';
comment on column public.analysis_cache.hit_count is 'How often it answered; brought up to date in batches.';
comment on column public.analysis_cache.last_accessed_at is 'When it answered last, or was put in; brought up to date in batches.';
comment on column public.analysis_cache.created_at is 'When it was put in.';
comment on column public.analysis_cache.expires_at is 'From then on it answers no more and may be removed.';
comment on column public.analysis_cache.size_bytes is 'Size of the result''s text in bytes.';
grant delete, insert, select, update on public.analysis_cache to operator_role;

CREATE INDEX analysis_cache_algorithm_fingerprint_idx ON public.analysis_cache USING btree (algorithm_fingerprint);
comment on index public.analysis_cache_algorithm_fingerprint_idx is 'All entries of an algorithm''s version: to remove them when it proves wrong.';

CREATE INDEX analysis_cache_analysis_id_idx ON public.analysis_cache USING btree (analysis_id);
comment on index public.analysis_cache_analysis_id_idx is 'A result''s entries; the foreign key.';

CREATE INDEX analysis_cache_expires_at_idx ON public.analysis_cache USING btree (expires_at);
comment on index public.analysis_cache_expires_at_idx is 'cleanup_expired_cache().';

CREATE INDEX analysis_cache_image_id_idx ON public.analysis_cache USING btree (image_id);
comment on index public.analysis_cache_image_id_idx is 'An image''s entries; the foreign key.';

CREATE INDEX analysis_cache_last_accessed_at_idx ON public.analysis_cache USING btree (last_accessed_at);
comment on index public.analysis_cache_last_accessed_at_idx is 'What was not asked for longest, when room is needed.';

create policy analysis_cache_machine on public.analysis_cache to operator_role, current_user
    using (true)
    with check (true);
comment on policy analysis_cache_machine on public.analysis_cache is 'The operator, and functions that run as the owner: all rows.';

create table public.analysis_cache_days (
    day    timestamp with time zone not null,
    hits   bigint                   not null default 0,
    misses bigint                   not null default 0,
    constraint analysis_cache_days_pkey PRIMARY KEY (day),
    constraint analysis_cache_days_hits_not_negative CHECK (hits >= 0),
    constraint analysis_cache_days_misses_not_negative CHECK (misses >= 0)
);
comment on table public.analysis_cache_days is 'How often analysis_cache answered, and how often it couldn''t, by day; counted in batches.';
comment on column public.analysis_cache_days.day is 'The day (UTC).';
comment on column public.analysis_cache_days.hits is 'How often an entry answered, whether it is still there or not.';
comment on column public.analysis_cache_days.misses is 'Jobs that were computed because nothing answered them.';
grant select on public.analysis_cache_days to operator_role;

create table public.analysis_cache_misses (
    id        bigint                   not null generated always as identity,
    misses    bigint                   not null,
    missed_at timestamp with time zone not null,
    constraint analysis_cache_misses_pkey PRIMARY KEY (id),
    constraint analysis_cache_misses_misses_positive CHECK (misses > 0)
);
comment on table public.analysis_cache_misses is 'Misses of analysis_cache that are not in analysis_cache_days yet: a row for each batch of jobs that stored their results.';
comment on column public.analysis_cache_misses.id is 'Number of the row.';
comment on column public.analysis_cache_misses.misses is 'How many jobs of the batch were computed because nothing answered them; those that asked for no answer are none.';
comment on column public.analysis_cache_misses.missed_at is 'When their results were stored.';
grant select on public.analysis_cache_misses to operator_role;

create table public.analysis_cache_uses (
    id       bigint                   not null generated always as identity,
    entry_id bigint                   not null,
    used_at  timestamp with time zone not null,
    constraint analysis_cache_uses_pkey PRIMARY KEY (id)
);
comment on table public.analysis_cache_uses is 'Hits of analysis_cache that are not in its hit_count yet. No foreign key: they go with the next count where the entry has gone.';
comment on column public.analysis_cache_uses.id is 'Number of the row.';
comment on column public.analysis_cache_uses.entry_id is 'The entry that answered.';
comment on column public.analysis_cache_uses.used_at is 'When it did.';
grant select on public.analysis_cache_uses to operator_role;

create table public.analysis_results (
    id                       bigint                   not null generated always as identity,
    image_id                 bigint                   not null,
    user_id                  bigint                   not null,
    algorithm_name           text                     not null default 'negative_space'::text,
    algorithm_version        text                     not null,
    algorithm_parameters     jsonb                    not null default '{}'::jsonb,
    parameters_hash          text                     not null generated always as (public.sha256_hex(algorithm_parameters::text)) stored,
    negative_space_data      jsonb                    not null,
    anomalies                jsonb                    not null default '[]'::jsonb,
    confidence_score         numeric(7,6)             not null,
    processing_time_ms       integer                  not null,
    quality_metrics          jsonb                    not null default '{}'::jsonb,
    provenance               jsonb                    not null default '{}'::jsonb,
    visualization_path       text,
    notes                    text,
    created_at               timestamp with time zone not null default now(),
    updated_at               timestamp with time zone not null default now(),
    cache_hit                boolean                  not null default false,
    cached_at                timestamp with time zone,
    cache_ttl_seconds        integer                  not null default 86400,
    performance_stats        jsonb                    not null default '{}'::jsonb,
    optimization_suggestions jsonb                    not null default '[]'::jsonb,
    constraint analysis_results_pkey PRIMARY KEY (id),
    constraint analysis_results_identity_key UNIQUE (image_id, algorithm_name, algorithm_version, parameters_hash),
    constraint analysis_results_algorithm_name_valid CHECK (algorithm_name ~ '^[a-z][a-z0-9_.-]*$'::text AND length(algorithm_name) <= 63),
    constraint analysis_results_algorithm_parameters_object CHECK (jsonb_typeof(algorithm_parameters) = 'object'::text),
    constraint analysis_results_algorithm_version_semver CHECK (algorithm_version ~ '^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$'::text),
    constraint analysis_results_anomalies_array CHECK (jsonb_typeof(anomalies) = 'array'::text),
    constraint analysis_results_cache_hit_has_time CHECK (NOT cache_hit OR cached_at IS NOT NULL),
    constraint analysis_results_cache_ttl_seconds_positive CHECK (cache_ttl_seconds > 0),
    constraint analysis_results_confidence_score_range CHECK (confidence_score >= 0::numeric AND confidence_score <= 1::numeric),
    constraint analysis_results_negative_space_data_object CHECK (jsonb_typeof(negative_space_data) = 'object'::text),
    constraint analysis_results_optimization_suggestions_array CHECK (jsonb_typeof(optimization_suggestions) = 'array'::text),
    constraint analysis_results_performance_stats_object CHECK (jsonb_typeof(performance_stats) = 'object'::text),
    constraint analysis_results_processing_time_ms_not_negative CHECK (processing_time_ms >= 0),
    constraint analysis_results_provenance_object CHECK (jsonb_typeof(provenance) = 'object'::text),
    constraint analysis_results_quality_metrics_object CHECK (jsonb_typeof(quality_metrics) = 'object'::text)
);
alter table public.analysis_results enable row level security;
alter table public.analysis_results force row level security;
comment on table public.analysis_results is 'What analyses found: one row per image, algorithm, version and parameters.';
comment on column public.analysis_results.id is 'Number of the result.';
comment on column public.analysis_results.image_id is 'The image.';
comment on column public.analysis_results.user_id is 'Who asked for the analysis.';
comment on column public.analysis_results.algorithm_name is 'The analyser.';
comment on column public.analysis_results.algorithm_version is 'Its version, as semver. Patch: same numbers; minor: new keys; major: numbers change.';
comment on column public.analysis_results.algorithm_parameters is 'Its parameters, resolved: defaults and profile written out.';
comment on column public.analysis_results.parameters_hash is 'SHA-256 of the parameters'' text, for the identity of a result.';
comment on column public.analysis_results.negative_space_data is 'What was measured; the key "schema" names its form and version.';
comment on column public.analysis_results.anomalies is 'Unusual voids, strongest first.';
comment on column public.analysis_results.confidence_score is 'From 0 to 1; a rank within one threshold method, no probability.';
comment on column public.analysis_results.processing_time_ms is 'Duration of the analysis in milliseconds.';
comment on column public.analysis_results.quality_metrics is 'Sharpness, noise, saturation and contrast of the image.';
comment on column public.analysis_results.provenance is 'Versions of the libraries that computed it.';
comment on column public.analysis_results.visualization_path is 'Overlay image, below the storage folder.';
comment on column public.analysis_results.notes is 'What a person wrote about it.';
comment on column public.analysis_results.created_at is 'When the row was made.';
comment on column public.analysis_results.updated_at is 'When the row last changed; kept by a trigger.';
comment on column public.analysis_results.cache_hit is 'Answered from the cache: nothing was computed for this row.';
comment on column public.analysis_results.cached_at is 'When it was answered from the cache, or put into it.';
comment on column public.analysis_results.cache_ttl_seconds is 'How long the cache keeps it, in seconds.';
comment on column public.analysis_results.performance_stats is 'Durations of the steps and memory used.';
comment on column public.analysis_results.optimization_suggestions is 'What would make it faster, an array of texts.';
grant select (algorithm_name, algorithm_parameters, algorithm_version, cache_hit, cache_ttl_seconds, cached_at, confidence_score, created_at, id, image_id, notes, optimization_suggestions, parameters_hash, performance_stats, processing_time_ms, updated_at, user_id), update (notes, optimization_suggestions, visualization_path) on public.analysis_results to app_user;
grant insert, select on public.analysis_results to operator_role;

CREATE INDEX analysis_results_algorithm_idx ON public.analysis_results USING btree (algorithm_name, algorithm_version, created_at DESC);
comment on index public.analysis_results_algorithm_idx is 'What an algorithm''s version found: what to analyse again after a new one.';

CREATE INDEX analysis_results_algorithm_parameters_idx ON public.analysis_results USING gin (algorithm_parameters jsonb_path_ops);
comment on index public.analysis_results_algorithm_parameters_idx is 'Results by parameter: algorithm_parameters @> ''{"mode": "ridge"}''.';

CREATE INDEX analysis_results_anomalies_idx ON public.analysis_results USING gin (anomalies jsonb_path_ops);
comment on index public.analysis_results_anomalies_idx is 'Results by kind of anomaly: anomalies @> ''[{"type": "size"}]''.';

CREATE INDEX analysis_results_anomalous_idx ON public.analysis_results USING btree (created_at DESC) WHERE anomalies <> '[]'::jsonb;
comment on index public.analysis_results_anomalous_idx is 'Newest results with anomalies.';

CREATE INDEX analysis_results_cache_hit_idx ON public.analysis_results USING btree (cached_at DESC) WHERE cache_hit;
comment on index public.analysis_results_cache_hit_idx is 'What the cache answered last.';

CREATE INDEX analysis_results_confidence_score_idx ON public.analysis_results USING btree (confidence_score, id);
comment on index public.analysis_results_confidence_score_idx is 'Least trusted results first, for review.';

CREATE INDEX analysis_results_created_at_idx ON public.analysis_results USING btree (created_at DESC);
comment on index public.analysis_results_created_at_idx is 'Newest results of all users.';

CREATE INDEX analysis_results_image_id_created_at_idx ON public.analysis_results USING btree (image_id, created_at DESC);
comment on index public.analysis_results_image_id_created_at_idx is 'An image''s newest result; image_analysis_status; the foreign key.';

CREATE INDEX analysis_results_processing_time_ms_idx ON public.analysis_results USING btree (processing_time_ms DESC);
comment on index public.analysis_results_processing_time_ms_idx is 'Slowest analyses first.';

CREATE INDEX analysis_results_user_id_created_at_idx ON public.analysis_results USING btree (user_id, created_at DESC);
comment on index public.analysis_results_user_id_created_at_idx is 'A user''s results, newest first; user_activity_summary; the foreign key.';

CREATE INDEX analysis_results_visualization_path_idx ON public.analysis_results USING btree (visualization_path) WHERE visualization_path IS NOT NULL;
comment on index public.analysis_results_visualization_path_idx is 'Whether a stored overlay is still in use, before it is removed.';

create policy analysis_results_machine on public.analysis_results to operator_role, current_user
    using (true)
    with check (true);
comment on policy analysis_results_machine on public.analysis_results is 'The operator, and functions that run as the owner: all rows.';

CREATE TRIGGER analysis_results_audit_delete AFTER DELETE ON public.analysis_results REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION public.audit_result_changes();
comment on trigger analysis_results_audit_delete on public.analysis_results is 'Every removed result is an event.';

CREATE TRIGGER analysis_results_audit_insert AFTER INSERT ON public.analysis_results FOR EACH ROW WHEN (CURRENT_USER = SESSION_USER OR CURRENT_USER = 'app_user'::name) EXECUTE FUNCTION public.audit_stored_result();
comment on trigger analysis_results_audit_insert on public.analysis_results is 'Every result that no job brought is an event.';

CREATE TRIGGER analysis_results_audit_update AFTER UPDATE ON public.analysis_results REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.audit_result_changes();
comment on trigger analysis_results_audit_update on public.analysis_results is 'Every changed result is an event.';

CREATE TRIGGER analysis_results_set_updated_at BEFORE UPDATE ON public.analysis_results FOR EACH ROW EXECUTE FUNCTION public.set_updated_at();
comment on trigger analysis_results_set_updated_at on public.analysis_results is 'Keeps updated_at.';

CREATE OR REPLACE FUNCTION public.read_results(image bigint, purpose text)
 RETURNS SETOF public.analysis_results
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    event bigint;
begin
    if coalesce(read_results.purpose, '') = '' then
        raise exception 'results are read for a purpose, and none was given'
            using errcode = 'NS004', hint = 'say in a few words what they are read for; it enters the audit trail';
    end if;
    -- As the policies of images and results have it: the function itself sees all rows.
    perform 1 from public.images i
    where i.id = read_results.image
      and (public.is_trusted_session()
           or public.acting_on('read:results') is not null
              and (i.user_id = public.acting_on('read:images') or public.acting_on_all('read:images')));
    if not found then
        raise exception 'there is no image %', read_results.image
            using errcode = 'NS003', hint = 'negspace images list shows those there are';
    end if;
    event := public.record_event('view_results', 'image', read_results.image::text);
    perform public.record_event_details(event, 'results_read', read_results.purpose);
    return query
        select r.* from public.analysis_results r
        where r.image_id = read_results.image
        order by r.created_at desc, r.id desc;
end
$function$;
comment on function public.read_results(image bigint, purpose text) is 'An image''s results, newest first, read for a stated purpose: one view_results event per call.';
grant execute on function public.read_results(bigint,text) to app_user;
revoke execute on function public.read_results(bigint,text) from public;

create unlogged table public.api_key_limits (
    api_key_id       bigint                   not null,
    user_id          bigint                   not null,
    key_hash         text                     not null,
    is_active        boolean                  not null,
    expires_at       timestamp with time zone,
    scopes           text[]                   not null,
    networks         inet[],
    owner_is_active  boolean                  not null,
    owner_scopes     text[]                   not null,
    step             interval                 not null,
    slack            interval                 not null,
    unused_at        timestamp with time zone not null default now(),
    busy_since       timestamp with time zone not null default now(),
    busy_requests    bigint                   not null default 0,
    uncounted        bigint                   not null default 0,
    last_accepted_at timestamp with time zone,
    constraint api_key_limits_pkey PRIMARY KEY (api_key_id)
) with (autovacuum_vacuum_scale_factor = '0.02', fillfactor = '20');
comment on table public.api_key_limits is 'What decides on a request with a key, and how far its rate limit is used up. Unlogged: empty after a crash, and made again. Nobody''s to read or write: verify_api_key() does.';
comment on column public.api_key_limits.api_key_id is 'The key; its row is made by its first request.';
comment on column public.api_key_limits.user_id is 'Whose key it is.';
comment on column public.api_key_limits.key_hash is 'The key''s hash.';
comment on column public.api_key_limits.is_active is 'The key is not revoked.';
comment on column public.api_key_limits.expires_at is 'When the key ends by itself; null: never.';
comment on column public.api_key_limits.scopes is 'What the key may do.';
comment on column public.api_key_limits.networks is 'Where it may be used from; null: anywhere.';
comment on column public.api_key_limits.owner_is_active is 'Its owner''s account is switched on.';
comment on column public.api_key_limits.owner_scopes is 'What keys of its owner''s role may do: role_scopes().';
comment on column public.api_key_limits.step is 'A minute divided by the limit, in whole microseconds: how far each request moves unused_at.';
comment on column public.api_key_limits.slack is 'How far unused_at may lie ahead for one more request: all steps of the limit but one.';
comment on column public.api_key_limits.unused_at is 'When its limit is wholly unused again: the theoretical arrival time of GCRA.';
comment on column public.api_key_limits.busy_since is 'Since when the limit was never wholly unused.';
comment on column public.api_key_limits.busy_requests is 'Accepted requests since then.';
comment on column public.api_key_limits.uncounted is 'Accepted requests that count_api_key_uses() has not yet carried to api_keys.';
comment on column public.api_key_limits.last_accepted_at is 'The last accepted request; null: none yet.';

create table public.api_keys (
    id                           bigint                   not null generated always as identity,
    user_id                      bigint                   not null,
    key_hash                     text                     not null,
    name                         text                     not null,
    description                  text,
    is_active                    boolean                  not null default true,
    last_used_at                 timestamp with time zone,
    created_at                   timestamp with time zone not null default now(),
    expires_at                   timestamp with time zone,
    scopes                       jsonb                    not null default '["read:images", "read:results"]'::jsonb,
    ip_whitelist                 jsonb,
    rate_limit_per_minute        integer                  not null default 100,
    last_rate_limit_reset        timestamp with time zone,
    request_count_current_window integer                  not null default 0,
    total_requests               bigint                   not null default 0,
    usage_stats                  jsonb                    not null default '{}'::jsonb,
    constraint api_keys_pkey PRIMARY KEY (id),
    constraint api_keys_key_hash_key UNIQUE (key_hash),
    constraint api_keys_expires_after_creation CHECK (expires_at > created_at),
    constraint api_keys_ip_whitelist_texts CHECK (jsonb_typeof(ip_whitelist) = 'array'::text AND NOT ip_whitelist @? 'strict $[*]?(@.type() != "string")'::jsonpath),
    constraint api_keys_key_hash_sha256 CHECK (length(key_hash) = 64 AND key_hash !~ '[^0-9a-f]'::text),
    constraint api_keys_name_given CHECK (name <> ''::text),
    constraint api_keys_rate_limit_per_minute_positive CHECK (rate_limit_per_minute > 0),
    constraint api_keys_request_count_current_window_not_negative CHECK (request_count_current_window >= 0),
    constraint api_keys_scopes_texts CHECK (jsonb_typeof(scopes) = 'array'::text AND NOT scopes @? 'strict $[*]?(@.type() != "string")'::jsonpath),
    constraint api_keys_total_requests_not_negative CHECK (total_requests >= 0),
    constraint api_keys_usage_stats_object CHECK (jsonb_typeof(usage_stats) = 'object'::text)
);
alter table public.api_keys enable row level security;
alter table public.api_keys force row level security;
comment on table public.api_keys is 'API authentication. Keys are switched off, not removed.';
comment on column public.api_keys.id is 'Number of the key; part of the key''s text, nsk_<id>_….';
comment on column public.api_keys.user_id is 'Whose key it is.';
comment on column public.api_keys.key_hash is 'SHA-256 of the key, 64 hexadecimal digits; the key itself is shown once and stored nowhere.';
comment on column public.api_keys.name is 'What its owner calls it.';
comment on column public.api_keys.description is 'What it is for.';
comment on column public.api_keys.is_active is 'False once it is revoked.';
comment on column public.api_keys.last_used_at is 'Last accepted request; brought up to date in batches.';
comment on column public.api_keys.created_at is 'When it was made.';
comment on column public.api_keys.expires_at is 'When it ends by itself; null: never.';
comment on column public.api_keys.scopes is 'What it may do, an array of texts.';
comment on column public.api_keys.ip_whitelist is 'Networks it may be used from, an array of CIDR texts; null: any.';
comment on column public.api_keys.rate_limit_per_minute is 'Requests a minute.';
comment on column public.api_keys.last_rate_limit_reset is 'When the current window of its rate limit began: since then the limit was never wholly unused. Brought up to date in batches.';
comment on column public.api_keys.request_count_current_window is 'Requests in that window; brought up to date in batches.';
comment on column public.api_keys.total_requests is 'Requests since it was made; brought up to date in batches.';
comment on column public.api_keys.usage_stats is 'Requests by day (UTC) and outcome, {"2026-01-31": {"accepted": 7, "refused": 1}}; brought up to date in batches.';
grant insert, select (created_at, description, expires_at, id, ip_whitelist, is_active, last_rate_limit_reset, last_used_at, name, rate_limit_per_minute, request_count_current_window, scopes, total_requests, usage_stats, user_id), update (description, expires_at, ip_whitelist, is_active, name, rate_limit_per_minute, scopes) on public.api_keys to app_user;
grant insert, select, update on public.api_keys to operator_role;

CREATE INDEX api_keys_expires_at_idx ON public.api_keys USING btree (expires_at) WHERE is_active AND expires_at IS NOT NULL;
comment on index public.api_keys_expires_at_idx is 'Which key ends next.';

CREATE INDEX api_keys_last_used_at_idx ON public.api_keys USING btree (last_used_at DESC NULLS LAST) WHERE is_active;
comment on index public.api_keys_last_used_at_idx is 'Which keys are in use, and which never were.';

CREATE INDEX api_keys_scopes_idx ON public.api_keys USING gin (scopes);
comment on index public.api_keys_scopes_idx is 'Which keys may do something: scopes ? ''write:images''.';

CREATE INDEX api_keys_user_id_created_at_idx ON public.api_keys USING btree (user_id, created_at DESC);
comment on index public.api_keys_user_id_created_at_idx is 'A user''s keys, newest first; the foreign key.';

create policy api_keys_add on public.api_keys for insert to app_user
    with check (user_id = (( SELECT public.acting_on('write:account'::text) AS acting_on)) OR ( SELECT public.acting_on_all('manage:accounts'::text) AS acting_on_all));
comment on policy api_keys_add on public.api_keys is 'Keys of one''s own; of which scopes, a trigger says.';

create policy api_keys_change on public.api_keys for update to app_user
    using (user_id = (( SELECT public.acting_on('write:account'::text) AS acting_on)) OR ( SELECT public.acting_on_all('manage:accounts'::text) AS acting_on_all))
    with check (user_id = (( SELECT public.acting_on('write:account'::text) AS acting_on)) OR ( SELECT public.acting_on_all('manage:accounts'::text) AS acting_on_all));
comment on policy api_keys_change on public.api_keys is 'Own keys; which columns, its grants say.';

create policy api_keys_machine on public.api_keys to operator_role, current_user
    using (true)
    with check (true);
comment on policy api_keys_machine on public.api_keys is 'The operator, and functions that run as the owner: all rows.';

create policy api_keys_read on public.api_keys for select to app_user
    using (user_id = (( SELECT public.acting_on('read:account'::text) AS acting_on)) OR ( SELECT public.acting_on_all('manage:accounts'::text) AS acting_on_all));
comment on policy api_keys_read on public.api_keys is 'Own keys; an administrator all.';

CREATE TRIGGER api_keys_audit_delete AFTER DELETE ON public.api_keys REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION public.audit_accounts('api_key');
comment on trigger api_keys_audit_delete on public.api_keys is 'Every removed key is an event.';

CREATE TRIGGER api_keys_audit_insert AFTER INSERT ON public.api_keys REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.audit_accounts('api_key');
comment on trigger api_keys_audit_insert on public.api_keys is 'Every new key is an event.';

CREATE TRIGGER api_keys_audit_update AFTER UPDATE ON public.api_keys REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.audit_accounts('api_key');
comment on trigger api_keys_audit_update on public.api_keys is 'Every decided change of a key is an event.';

CREATE TRIGGER api_keys_keep_limit AFTER UPDATE OF user_id, key_hash, is_active, expires_at, scopes, ip_whitelist, rate_limit_per_minute ON public.api_keys FOR EACH ROW EXECUTE FUNCTION public.keep_api_key_limit();
comment on trigger api_keys_keep_limit on public.api_keys is 'Revoked at once, and so every other change.';

CREATE TRIGGER api_keys_networks_canonical BEFORE INSERT OR UPDATE OF ip_whitelist ON public.api_keys FOR EACH ROW WHEN (jsonb_typeof(new.ip_whitelist) = 'array'::text AND NOT new.ip_whitelist @? 'strict $[*]?(@.type() != "string")'::jsonpath) EXECUTE FUNCTION public.refuse_misleading_networks();
comment on trigger api_keys_networks_canonical on public.api_keys is 'Networks mean what they seem to.';

CREATE TRIGGER api_keys_remove_limit AFTER DELETE ON public.api_keys FOR EACH ROW EXECUTE FUNCTION public.remove_api_key_limit();
comment on trigger api_keys_remove_limit on public.api_keys is 'A key that is removed is refused from the commit on.';

CREATE TRIGGER api_keys_scopes_within_role BEFORE INSERT OR UPDATE OF scopes, user_id ON public.api_keys FOR EACH ROW WHEN (jsonb_typeof(new.scopes) = 'array'::text AND NOT new.scopes @? 'strict $[*]?(@.type() != "string")'::jsonpath) EXECUTE FUNCTION public.refuse_scopes_beyond_role();
comment on trigger api_keys_scopes_within_role on public.api_keys is 'No scope that its owner''s role doesn''t have. check_api_key() asks again, since roles change.';

CREATE OR REPLACE FUNCTION public.rotate_api_key(key bigint, successor bigint, key_hash text, overlap interval DEFAULT '1 day'::interval)
 RETURNS public.api_keys
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_variable
declare
    old_key public.api_keys%rowtype;
    new_key public.api_keys%rowtype;
begin
    if overlap is null or overlap < interval '0' or overlap > interval '90 days' then
        raise exception 'the overlap must be from 0 to 90 days, not %', coalesce(overlap::text, 'null')
            using errcode = 'NS004', hint = 'long enough to give the new key to all who use the old one';
    end if;
    select k.* into old_key from public.api_keys k where k.id = key for no key update;
    if not found then
        raise exception 'there is no API key %', key using errcode = 'NS003', hint = 'negspace keys list shows those there are';
    end if;
    if not old_key.is_active or old_key.expires_at <= now() then
        raise exception 'API key % has ended and can''t be rotated', key using errcode = 'NS006', hint = 'negspace keys create makes another';
    end if;
    insert into public.api_keys (
        id, user_id, key_hash, name, description, scopes, ip_whitelist, rate_limit_per_minute, expires_at
    )
    overriding system value
    values (
        successor, old_key.user_id, key_hash, old_key.name, old_key.description, old_key.scopes, old_key.ip_whitelist,
        old_key.rate_limit_per_minute, now() + (old_key.expires_at - old_key.created_at)
    )
    returning * into new_key;
    update public.api_keys k
    set is_active  = overlap > interval '0',
        expires_at = case when overlap > interval '0' then least(k.expires_at, now() + overlap) else k.expires_at end
    where k.id = key;
    perform public.record_event(
        'permission_change', 'api_key', successor::text, changes_after => jsonb_build_object('replaces', key));
    return new_key;
end
$function$;
comment on function public.rotate_api_key(key bigint, successor bigint, key_hash text, overlap interval) is 'Makes a successor of a key, with all that the key has and as long to live as it had, and ends the key after the overlap; at once where that is 0.';
grant execute on function public.rotate_api_key(bigint,bigint,text,interval) to operator_role;
revoke execute on function public.rotate_api_key(bigint,bigint,text,interval) from public;

create table public.audit_holds (
    id          bigint                   not null generated always as identity,
    reason      text                     not null,
    since       timestamp with time zone,
    until       timestamp with time zone,
    placed_at   timestamp with time zone not null default now(),
    released_at timestamp with time zone,
    constraint audit_holds_pkey PRIMARY KEY (id),
    constraint audit_holds_reason_given CHECK (reason <> ''::text),
    constraint audit_holds_released_after CHECK (released_at >= placed_at),
    constraint audit_holds_until_after_since CHECK (until > since)
);
comment on table public.audit_holds is 'Legal holds: of what time the audit trail may not leave, whatever its age.';
comment on column public.audit_holds.id is 'Number of the hold.';
comment on column public.audit_holds.reason is 'Why, such as the matter''s number.';
comment on column public.audit_holds.since is 'From when on events are held; null: from the first.';
comment on column public.audit_holds.until is 'Before when; null: without end.';
comment on column public.audit_holds.placed_at is 'When it was placed.';
comment on column public.audit_holds.released_at is 'When it was released; null: it holds.';
grant select on public.audit_holds to app_user;

create table public.audit_log_details (
    id                bigint                   not null generated always as identity,
    audit_id          bigint                   not null,
    audit_timestamp   timestamp with time zone not null,
    event_name        text                     not null,
    event_description text,
    event_data        jsonb                    not null default '{}'::jsonb,
    system_state      jsonb                    not null default '{}'::jsonb,
    duration_ms       numeric(15,3),
    success_count     integer                  not null default 0,
    failure_count     integer                  not null default 0,
    created_at        timestamp with time zone not null default now(),
    recorded_in       xid8                     not null default '0'::xid8,
    leaf_hash         bytea,
    constraint audit_log_details_pkey PRIMARY KEY (id, created_at),
    constraint audit_log_details_duration_ms_not_negative CHECK (duration_ms >= 0::numeric AND duration_ms <> 'NaN'::numeric),
    constraint audit_log_details_event_data_object CHECK (jsonb_typeof(event_data) = 'object'::text),
    constraint audit_log_details_event_name_given CHECK (event_name <> ''::text),
    constraint audit_log_details_failure_count_not_negative CHECK (failure_count >= 0),
    constraint audit_log_details_success_count_not_negative CHECK (success_count >= 0),
    constraint audit_log_details_system_state_object CHECK (jsonb_typeof(system_state) = 'object'::text)
) partition by range (created_at);
alter table only public.audit_log_details enable row level security;
alter table only public.audit_log_details force row level security;
comment on table public.audit_log_details is 'Details of audit events, where there is more to say. Partitioned by month.';
comment on column public.audit_log_details.id is 'Number of the row.';
comment on column public.audit_log_details.audit_id is 'The event.';
comment on column public.audit_log_details.audit_timestamp is 'The event''s time, part of its key; looked up where it is not given.';
comment on column public.audit_log_details.event_name is 'Name of the detail, such as job_completed.';
comment on column public.audit_log_details.event_description is 'One sentence about it.';
comment on column public.audit_log_details.event_data is 'Facts of the event, as a JSON object; never a secret.';
comment on column public.audit_log_details.system_state is 'State of the system at the time, as a JSON object.';
comment on column public.audit_log_details.duration_ms is 'How long it took, in milliseconds.';
comment on column public.audit_log_details.success_count is 'How many parts of it succeeded.';
comment on column public.audit_log_details.failure_count is 'How many parts of it failed.';
comment on column public.audit_log_details.created_at is 'When the row was made.';
comment on column public.audit_log_details.recorded_in is 'The transaction that wrote it; details are sealed in the order of (recorded_in, id). 0: before there were seals.';
comment on column public.audit_log_details.leaf_hash is 'SHA-256 of its canonical text, made as it was written; null: before there were seals.';
grant select on public.audit_log_details to app_user;

CREATE INDEX audit_log_details_audit_id_idx ON public.audit_log_details USING btree (audit_id, audit_timestamp);
comment on index public.audit_log_details_audit_id_idx is 'An event''s details; the foreign key.';

CREATE INDEX audit_log_details_created_at_idx ON public.audit_log_details USING btree (created_at DESC);
comment on index public.audit_log_details_created_at_idx is 'Newest details first.';

CREATE INDEX audit_log_details_event_data_idx ON public.audit_log_details USING gin (event_data jsonb_path_ops);
comment on index public.audit_log_details_event_data_idx is 'Details by fact: event_data @> ''{"job_id": 7}''.';

CREATE INDEX audit_log_details_event_name_idx ON public.audit_log_details USING btree (event_name, created_at DESC);
comment on index public.audit_log_details_event_name_idx is 'The newest details of one kind.';

CREATE INDEX audit_log_details_recorded_in_idx ON public.audit_log_details USING btree (recorded_in, id);
comment on index public.audit_log_details_recorded_in_idx is 'The details of a seal, in its order; seal_audit(), negspace audit verify.';

create policy audit_log_details_machine on public.audit_log_details to operator_role, current_user
    using (true)
    with check (true);
comment on policy audit_log_details_machine on public.audit_log_details is 'The operator, and functions that run as the owner: all rows. Changes are refused by triggers all the same.';

CREATE TRIGGER audit_log_details_append_only BEFORE DELETE OR UPDATE ON public.audit_log_details FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
alter table public.audit_log_details enable always trigger audit_log_details_append_only;
comment on trigger audit_log_details_append_only on public.audit_log_details is 'No detail is ever changed or removed.';

CREATE TRIGGER audit_log_details_find_timestamp BEFORE INSERT ON public.audit_log_details FOR EACH ROW WHEN (new.audit_timestamp IS NULL) EXECUTE FUNCTION public.find_audit_timestamp();
comment on trigger audit_log_details_find_timestamp on public.audit_log_details is 'Fills audit_timestamp where it wasn''t given.';

CREATE TRIGGER audit_log_details_hash BEFORE INSERT ON public.audit_log_details FOR EACH ROW EXECUTE FUNCTION public.hash_audit_row();
alter table public.audit_log_details enable always trigger audit_log_details_hash;
comment on trigger audit_log_details_hash on public.audit_log_details is 'Fills recorded_in and leaf_hash.';

CREATE TRIGGER audit_log_details_no_truncate BEFORE TRUNCATE ON public.audit_log_details FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
alter table public.audit_log_details enable always trigger audit_log_details_no_truncate;
comment on trigger audit_log_details_no_truncate on public.audit_log_details is 'Nor all of them at once.';

CREATE OR REPLACE FUNCTION public.audit_leaf(detail public.audit_log_details)
 RETURNS bytea
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    return sha256('\x00'::bytea || convert_to(
        'negspace audit_log_details 1'
        || E'\nid='                || detail.id
        || E'\naudit_id='          || detail.audit_id
        || E'\naudit_timestamp='   || (extract(epoch from detail.audit_timestamp) * 1000000)::bigint
        || E'\nevent_name='        || length(detail.event_name) || ':' || detail.event_name
        || E'\nevent_description=' || coalesce(length(detail.event_description) || ':' || detail.event_description, '-')
        || E'\nevent_data='        || length(detail.event_data::text) || ':' || detail.event_data::text
        || E'\nsystem_state='      || length(detail.system_state::text) || ':' || detail.system_state::text
        || E'\nduration_ms='       || coalesce(detail.duration_ms::text, '-')
        || E'\nsuccess_count='     || detail.success_count
        || E'\nfailure_count='     || detail.failure_count
        || E'\ncreated_at='        || (extract(epoch from detail.created_at) * 1000000)::bigint,
        'UTF8'));
end
$function$;
comment on function public.audit_leaf(detail public.audit_log_details) is 'The leaf of an event''s details: SHA-256 of a zero byte and their canonical text, form 1.';

create table public.audit_retirements (
    month         timestamp with time zone not null,
    retired_at    timestamp with time zone not null default now(),
    event_count   bigint                   not null,
    detail_count  bigint                   not null,
    last_seal     bigint                   not null,
    anchored_seal bigint                   not null,
    export_sha256 text                     not null,
    constraint audit_retirements_pkey PRIMARY KEY (month),
    constraint audit_retirements_anchored CHECK (anchored_seal >= last_seal),
    constraint audit_retirements_detail_count_not_negative CHECK (detail_count >= 0),
    constraint audit_retirements_event_count_not_negative CHECK (event_count >= 0),
    constraint audit_retirements_export_sha256_sha256 CHECK (length(export_sha256) = 64 AND export_sha256 !~ '[^0-9a-f]'::text)
);
comment on table public.audit_retirements is 'Months of the audit trail that have left; their seals stay.';
comment on column public.audit_retirements.month is 'The month, as the time at which it began (UTC).';
comment on column public.audit_retirements.retired_at is 'When it left.';
comment on column public.audit_retirements.event_count is 'How many events it had.';
comment on column public.audit_retirements.detail_count is 'How many details.';
comment on column public.audit_retirements.last_seal is 'The newest seal of its rows; 0 where it had none.';
comment on column public.audit_retirements.anchored_seal is 'The seal up to which the trail was anchored when it left.';
comment on column public.audit_retirements.export_sha256 is 'SHA-256 of the file that it was exported to.';
grant select on public.audit_retirements to app_user;

CREATE TRIGGER audit_retirements_append_only BEFORE DELETE OR UPDATE ON public.audit_retirements FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
alter table public.audit_retirements enable always trigger audit_retirements_append_only;
comment on trigger audit_retirements_append_only on public.audit_retirements is 'What has left stays on record.';

CREATE TRIGGER audit_retirements_forget_sums AFTER INSERT ON public.audit_retirements FOR EACH ROW EXECUTE FUNCTION public.forget_audit_month();
comment on trigger audit_retirements_forget_sums on public.audit_retirements is 'A month''s sums leave with its events.';

CREATE OR REPLACE FUNCTION public.retire_audit_month(month timestamp with time zone, anchored_seal bigint, anchored_hash bytea, export_sha256 text)
 RETURNS public.audit_retirements
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    retired public.audit_retirements%rowtype;
    suffix  text;
    parent  text;
begin
    retired.month := date_trunc('month', retire_audit_month.month, 'UTC');
    suffix := to_char(retired.month at time zone 'UTC', 'YYYYMM');
    if to_regclass('public.security_audit_' || suffix) is null then
        raise exception 'the audit trail has no month %', to_char(retired.month at time zone 'UTC', 'YYYY-MM')
            using errcode = 'NS003', hint = 'it was never there, or has left';
    end if;
    -- in the order in which events are written; from here on nothing changes
    lock table public.security_audit, public.audit_log_details in access exclusive mode;
    perform public.refuse_audit_retirement(retired.month, anchored_seal, anchored_hash);
    retired.retired_at := now();
    retired.event_count := (select count(*) from public.security_audit a
                            where a."timestamp" >= retired.month and a."timestamp" < retired.month + interval '1 month');
    retired.detail_count := (select count(*) from public.audit_log_details d
                             where d.created_at >= retired.month and d.created_at < retired.month + interval '1 month');
    retired.last_seal := coalesce((select max(s.number) from public.audit_seals s where s.month = retired.month), 0);
    retired.anchored_seal := anchored_seal;
    retired.export_sha256 := export_sha256;
    insert into public.audit_retirements select retired.*;
    perform public.record_event('config_change', 'audit_month', to_char(retired.month at time zone 'UTC', 'YYYY-MM'),
                                changes_before => jsonb_build_object('event_count', retired.event_count, 'detail_count', retired.detail_count),
                                changes_after => to_jsonb(retired) - 'month' - 'event_count' - 'detail_count');
    -- details first: they lead to the events
    foreach parent in array array['audit_log_details', 'security_audit'] loop
        if to_regclass(format('public.%s_%s', parent, suffix)) is not null then
            execute format('alter table public.%I detach partition public.%I', parent, parent || '_' || suffix);
            execute format('drop table public.%I', parent || '_' || suffix);
        end if;
    end loop;
    return retired;
end
$function$;
comment on function public.retire_audit_month(month timestamp with time zone, anchored_seal bigint, anchored_hash bytea, export_sha256 text) is 'Lets a month of the audit trail leave: it has ended, no hold keeps it, every row is sealed and the seals are anchored. The caller has checked the export whose SHA-256 it names. Its seals stay; an event says so. For the owner alone.';
revoke execute on function public.retire_audit_month(timestamp with time zone,bigint,bytea,text) from public;

create table public.audit_seals (
    number        bigint                   not null,
    relation      text                     not null,
    month         timestamp with time zone not null,
    lineage       bigint                   not null,
    last_xid      xid8                     not null,
    last_id       bigint                   not null,
    highest_id    bigint                   not null,
    leaf_count    bigint                   not null,
    merkle_root   bytea                    not null,
    previous_hash bytea                    not null,
    seal_hash     bytea                    not null,
    sealed_at     timestamp with time zone not null,
    constraint audit_seals_pkey PRIMARY KEY (number),
    constraint audit_seals_leaf_count_positive CHECK (leaf_count > 0),
    constraint audit_seals_lineage_not_negative CHECK (lineage >= 0),
    constraint audit_seals_merkle_root_sha256 CHECK (octet_length(merkle_root) = 32),
    constraint audit_seals_number_positive CHECK (number > 0),
    constraint audit_seals_previous_hash_sha256 CHECK (octet_length(previous_hash) = 32),
    constraint audit_seals_relation_known CHECK (relation = ANY (ARRAY['security_audit'::text, 'audit_log_details'::text])),
    constraint audit_seals_seal_hash_sha256 CHECK (octet_length(seal_hash) = 32)
);
comment on table public.audit_seals is 'Seals of the audit trail: each says what rows a batch held, and leads to the seal before it.';
comment on column public.audit_seals.number is 'Number of the seal, from 1 without a gap.';
comment on column public.audit_seals.relation is 'The table whose rows it seals: security_audit or audit_log_details.';
comment on column public.audit_seals.month is 'The month of its rows, as the time at which it began (UTC): a batch is of one month, which leaves as a whole.';
comment on column public.audit_seals.lineage is 'From which row number on transactions are counted anew: 0, or more once the trail was loaded into another server from a dump.';
comment on column public.audit_seals.last_xid is 'With last_id, its last row in the order of (recorded_in, id). Its first is the next after the last of the seal before, of the same relation.';
comment on column public.audit_seals.last_id is 'See last_xid.';
comment on column public.audit_seals.highest_id is 'The highest row number of the relation that this seal, or one before it, holds.';
comment on column public.audit_seals.leaf_count is 'How many rows it holds.';
comment on column public.audit_seals.merkle_root is 'The root of the tree over their leaves, as RFC 6962 builds it.';
comment on column public.audit_seals.previous_hash is 'seal_hash of the seal before; 32 zero bytes at the first.';
comment on column public.audit_seals.seal_hash is 'SHA-256 of the byte 2 and this seal''s canonical text, previous_hash in it.';
comment on column public.audit_seals.sealed_at is 'When it was made.';
grant select on public.audit_seals to app_user;

CREATE INDEX audit_seals_month_idx ON public.audit_seals USING btree (month, relation, number);
comment on index public.audit_seals_month_idx is 'The seals of a month, before it leaves.';

CREATE TRIGGER audit_seals_append_only BEFORE DELETE OR UPDATE ON public.audit_seals FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
alter table public.audit_seals enable always trigger audit_seals_append_only;
comment on trigger audit_seals_append_only on public.audit_seals is 'No seal is ever changed or removed.';

CREATE TRIGGER audit_seals_no_truncate BEFORE TRUNCATE ON public.audit_seals FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
alter table public.audit_seals enable always trigger audit_seals_no_truncate;
comment on trigger audit_seals_no_truncate on public.audit_seals is 'Nor all of them at once.';

CREATE OR REPLACE FUNCTION public.audit_seal_hash(seal public.audit_seals)
 RETURNS bytea
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select sha256('\x02'::bytea || convert_to(
        'negspace audit_seals 1'
        || E'\nnumber='        || seal.number
        || E'\nrelation='      || seal.relation
        || E'\nmonth='         || (extract(epoch from seal.month) * 1000000)::bigint
        || E'\nlineage='       || seal.lineage
        || E'\nlast_xid='      || seal.last_xid::text
        || E'\nlast_id='       || seal.last_id
        || E'\nhighest_id='    || seal.highest_id
        || E'\nleaf_count='    || seal.leaf_count
        || E'\nmerkle_root='   || encode(seal.merkle_root, 'hex')
        || E'\nprevious_hash=' || encode(seal.previous_hash, 'hex')
        || E'\nsealed_at='     || (extract(epoch from seal.sealed_at) * 1000000)::bigint,
        'UTF8'))
$function$;
comment on function public.audit_seal_hash(seal public.audit_seals) is 'The hash of a seal: SHA-256 of the byte 2 and its canonical text, all columns but seal_hash, form 1.';

CREATE OR REPLACE FUNCTION public.foreign_audit_rows(newest public.audit_seals)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    first constant text := format(
        'select r.id from public.%I r where r.id > $1 and r.recorded_in < $2 order by r.id limit 1',
        newest.relation);
    found_id bigint;
begin
    -- A row that is newer than all that are sealed, and of an older transaction: this server
    -- counts its transactions from lower on than the one that the trail was dumped from.
    execute first into found_id using newest.highest_id, newest.last_xid;
    if found_id is not null then
        execute format('lock table public.%I in share mode', newest.relation);  -- every writer is done
        execute first into found_id using newest.highest_id, newest.last_xid;
    end if;
    return found_id;
end
$function$;
comment on function public.foreign_audit_rows(newest public.audit_seals) is 'The first row that was written after the trail was loaded into another server from a dump, where its seals don''t know of that yet; else null.';
revoke execute on function public.foreign_audit_rows(public.audit_seals) from public;

CREATE OR REPLACE FUNCTION public.newest_audit_seal(relation text)
 RETURNS public.audit_seals
 LANGUAGE plpgsql
 STABLE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    found_seal public.audit_seals%rowtype;
begin
    select s.* into found_seal from public.audit_seals s
    where s.relation = newest_audit_seal.relation
    order by s.number desc limit 1;
    if not found then
        found_seal.relation := relation;
        found_seal.lineage := 0;
        found_seal.last_xid := '0';
        found_seal.last_id := -9223372036854775808;
        found_seal.highest_id := -9223372036854775808;
    end if;
    return found_seal;
end
$function$;
comment on function public.newest_audit_seal(relation text) is 'A relation''s newest seal; where it has none, one that ends before every row.';
revoke execute on function public.newest_audit_seal(text) from public;

CREATE OR REPLACE FUNCTION public.next_audit_seal(newest public.audit_seals, below_id bigint, horizon xid8, batch_size integer)
 RETURNS public.audit_seals
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_sort TO 'off'
AS $function$
declare
    made   public.audit_seals%rowtype := newest;
    leaves bytea[];
    xids   xid8[];
    ids    bigint[];
begin
    execute format($query$
        select array_agg(b.leaf order by b.recorded_in, b.id),
               array_agg(b.recorded_in order by b.recorded_in, b.id),
               array_agg(b.id order by b.recorded_in, b.id),
               min(b.month)
        from (
            select r.recorded_in, r.id, r.month, coalesce(r.leaf_hash, r.computed) as leaf,
                   bool_and(r.month = r.first) over (order by r.recorded_in, r.id) as is_of_first_month
            from (
                select a.recorded_in, a.id, a.leaf_hash, m.month,
                       first_value(m.month) over (order by a.recorded_in, a.id) as first,
                       case when a.leaf_hash is null then public.audit_leaf(a) end as computed
                from public.%I a
                cross join lateral (select date_trunc('month', a.%I, 'UTC') as month) m
                where (a.recorded_in, a.id) > ($1, $2) and a.recorded_in < $3
                  and case when a.id >= $4 then a.id < $5 end  -- to the planner: no index to go by
                order by a.recorded_in, a.id
                limit $6
            ) r
        ) b
        where b.is_of_first_month
        $query$,
        newest.relation,
        case newest.relation when 'security_audit' then 'timestamp' else 'created_at' end)
    into leaves, xids, ids, made.month
    using newest.last_xid, newest.last_id, horizon, newest.lineage, below_id, batch_size;
    made.leaf_count := cardinality(ids);
    made.merkle_root := public.merkle_root(leaves);
    made.last_xid := xids[cardinality(xids)];
    made.last_id := ids[cardinality(ids)];
    made.highest_id := greatest(newest.highest_id, (select max(i.id) from unnest(ids) as i (id)));
    return made;
end
$function$;
comment on function public.next_audit_seal(newest public.audit_seals, below_id bigint, horizon xid8, batch_size integer) is 'What the next batch of a relation holds; leaf_count is null where there is none. The rest of the seal is not filled in.';
revoke execute on function public.next_audit_seal(public.audit_seals,bigint,xid8,integer) from public;

create table public.audit_summary_progress (
    relation    text   not null,
    lineage     bigint not null default 0,
    through_xid xid8   not null default '0'::xid8,
    highest_id  bigint not null default 0,
    constraint audit_summary_progress_pkey PRIMARY KEY (relation),
    constraint audit_summary_progress_lineage_below CHECK (lineage >= 0 AND lineage <= highest_id),
    constraint audit_summary_progress_relation_known CHECK (relation = ANY (ARRAY['security_audit'::text, 'audit_log_details'::text]))
);
comment on table public.audit_summary_progress is 'Which rows of the audit trail audit_user_months holds: those up to lineage, and of the others up to highest_id those of a transaction below through_xid.';
comment on column public.audit_summary_progress.relation is 'The table.';
comment on column public.audit_summary_progress.lineage is 'Rows up to this number are all taken in; above it transactions are counted by this server.';
comment on column public.audit_summary_progress.through_xid is 'Every transaction below it is taken in.';
comment on column public.audit_summary_progress.highest_id is 'The highest number of a row that was taken in.';
grant select on public.audit_summary_progress to app_user;

CREATE OR REPLACE FUNCTION public.foreign_audit_row(p public.audit_summary_progress)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET plan_cache_mode TO 'force_custom_plan'
AS $function$
declare
    query constant text := format(
        'select min(r.id) from public.%I r where r.id > $1 and r.recorded_in < $2', p.relation);
    found_id bigint;
begin
    execute query into found_id using p.highest_id, p.through_xid;
    if found_id is not null then
        execute format('lock table public.%I in share mode', p.relation);  -- every writer is done
        execute query into found_id using p.highest_id, p.through_xid;
    end if;
    return found_id;
end
$function$;
comment on function public.foreign_audit_row(p public.audit_summary_progress) is 'The first row that this server wrote, where the rows that were taken in are of another that counted its transactions higher; else null.';
revoke execute on function public.foreign_audit_row(public.audit_summary_progress) from public;

CREATE OR REPLACE FUNCTION public.take_in_audit_rows(first xid8, below xid8, through_id bigint, p public.audit_summary_progress)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    reached bigint;
    taken   bigint;
begin
    with sums as materialized (
        select * from public.audit_sums(p.relation, first, below, p.lineage, through_id)
    ), kept as (
        insert into public.audit_user_months as m
        select s.user_id, s.month, s.event_count, s.success_count, s.failure_count, s.partial_count,
               s.last_event_at, s.duration_count, s.duration_total
        from sums s where s.user_id is not null
        on conflict (user_id, month) do update
        set event_count    = m.event_count + excluded.event_count,
            success_count  = m.success_count + excluded.success_count,
            failure_count  = m.failure_count + excluded.failure_count,
            partial_count  = m.partial_count + excluded.partial_count,
            last_event_at  = greatest(m.last_event_at, excluded.last_event_at),
            duration_count = m.duration_count + excluded.duration_count,
            duration_total = m.duration_total + excluded.duration_total
    )
    select max(s.highest_id), sum(s.row_count) into reached, taken from sums s;
    if reached is not null then
        update public.audit_summary_progress q
        set through_xid = below, highest_id = greatest(q.highest_id, reached)
        where q.relation = p.relation;
    end if;
    return coalesce(taken, 0);
end
$function$;
comment on function public.take_in_audit_rows(first xid8, below xid8, through_id bigint, p public.audit_summary_progress) is 'Adds rows of the audit trail to audit_user_months: those of transactions from first on and below another, up to the number through_id.';
revoke execute on function public.take_in_audit_rows(xid8,xid8,bigint,public.audit_summary_progress) from public;

create table public.audit_user_months (
    user_id        bigint                   not null,
    month          timestamp with time zone not null,
    event_count    bigint                   not null,
    success_count  bigint                   not null,
    failure_count  bigint                   not null,
    partial_count  bigint                   not null,
    last_event_at  timestamp with time zone,
    duration_count bigint                   not null,
    duration_total numeric                  not null,
    constraint audit_user_months_pkey PRIMARY KEY (user_id, month),
    constraint audit_user_months_duration_count_not_negative CHECK (duration_count >= 0),
    constraint audit_user_months_events_add_up CHECK (event_count = (success_count + failure_count + partial_count))
);
alter table public.audit_user_months enable row level security;
alter table public.audit_user_months force row level security;
comment on table public.audit_user_months is 'Events of the audit trail by user and month (UTC), as far as audit_summary_progress says; read it through audit_summary_by_user. No foreign key: as the events, it outlives the account.';
comment on column public.audit_user_months.user_id is 'Who did it.';
comment on column public.audit_user_months.month is 'When the month began; a month leaves with its events.';
comment on column public.audit_user_months.event_count is 'How many events.';
comment on column public.audit_user_months.success_count is 'How many of them were a success.';
comment on column public.audit_user_months.failure_count is 'How many were a failure.';
comment on column public.audit_user_months.partial_count is 'How many were partly done.';
comment on column public.audit_user_months.last_event_at is 'The newest of them; null: only details are of this month.';
comment on column public.audit_user_months.duration_count is 'How many details written in this month have a duration.';
comment on column public.audit_user_months.duration_total is 'Their durations together, in milliseconds.';
grant select on public.audit_user_months to app_user;

create policy audit_user_months_machine on public.audit_user_months to operator_role, current_user
    using (true)
    with check (true);
comment on policy audit_user_months_machine on public.audit_user_months is 'The operator, and functions that run as the owner: all rows.';

create policy audit_user_months_read on public.audit_user_months for select to app_user
    using (user_id = (( SELECT public.acting_on('read:account'::text) AS acting_on)) OR ( SELECT public.acting_on_all('read:audit'::text) AS acting_on_all));
comment on policy audit_user_months_read on public.audit_user_months is 'Sums of one''s own events; an administrator all.';

create unlogged table public.cached_value_leases (
    key          text                     not null,
    token        uuid                     not null,
    leased_until timestamp with time zone not null,
    held_by      text                     not null,
    taken_at     timestamp with time zone not null,
    constraint cached_value_leases_pkey PRIMARY KEY (key)
);
comment on table public.cached_value_leases is 'Who computes which value now.';
comment on column public.cached_value_leases.key is 'The value''s key.';
comment on column public.cached_value_leases.token is 'Known to who computes it: nobody else can store or renew.';
comment on column public.cached_value_leases.leased_until is 'Who computes renews it; once it is past, another takes over.';
comment on column public.cached_value_leases.held_by is 'Machine and process that compute.';
comment on column public.cached_value_leases.taken_at is 'Since when.';
grant select on public.cached_value_leases to operator_role;

create table public.cached_value_uses (
    day        timestamp with time zone not null,
    hits       bigint                   not null default 0,
    stale_hits bigint                   not null default 0,
    misses     bigint                   not null default 0,
    constraint cached_value_uses_pkey PRIMARY KEY (day),
    constraint cached_value_uses_hits_not_negative CHECK (hits >= 0),
    constraint cached_value_uses_misses_not_negative CHECK (misses >= 0),
    constraint cached_value_uses_stale_hits_not_negative CHECK (stale_hits >= 0)
);
comment on table public.cached_value_uses is 'How often cached_values answered, by day; counted in batches, so that no read writes.';
comment on column public.cached_value_uses.day is 'The day (UTC), as the time at which it began.';
comment on column public.cached_value_uses.hits is 'Answered.';
comment on column public.cached_value_uses.stale_hits is 'Answered with a value that had expired, while another was computed.';
comment on column public.cached_value_uses.misses is 'Not there: computed, or waited for.';
grant select on public.cached_value_uses to operator_role;

create table public.cached_values (
    key          text                     not null,
    value        jsonb                    not null,
    size_bytes   bigint                   not null generated always as (octet_length(value::text)) stored,
    computed_at  timestamp with time zone not null,
    expires_at   timestamp with time zone not null,
    kept_until   timestamp with time zone not null,
    hit_count    bigint                   not null default 0,
    last_used_at timestamp with time zone not null,
    constraint cached_values_pkey PRIMARY KEY (key),
    constraint cached_values_expires_after_computed CHECK (expires_at > computed_at),
    constraint cached_values_hit_count_not_negative CHECK (hit_count >= 0),
    constraint cached_values_kept_until_expired CHECK (kept_until >= expires_at),
    constraint cached_values_key_given CHECK (key <> ''::text AND length(key) <= 512),
    constraint cached_values_size_bytes_bounded CHECK (size_bytes <= 67108864)
);
comment on table public.cached_values is 'What get_or_compute() keeps: values by key, each computed once until it expires.';
comment on column public.cached_values.key is 'What the value answers; a prefix such as "report:" tells kinds apart.';
comment on column public.cached_values.value is 'The value as JSON.';
comment on column public.cached_values.size_bytes is 'Size of its text in bytes, 64 MB at most.';
comment on column public.cached_values.computed_at is 'When it was computed.';
comment on column public.cached_values.expires_at is 'From then on it is computed anew.';
comment on column public.cached_values.kept_until is 'Until then it stands in while somebody computes it anew; then it may be removed.';
comment on column public.cached_values.hit_count is 'How often it answered; brought up to date in batches.';
comment on column public.cached_values.last_used_at is 'When it answered last, or was computed; brought up to date in batches.';
grant select on public.cached_values to operator_role;

CREATE INDEX cached_values_kept_until_idx ON public.cached_values USING btree (kept_until);
comment on index public.cached_values_kept_until_idx is 'cleanup_cached_values().';

CREATE INDEX cached_values_last_used_at_idx ON public.cached_values USING btree (last_used_at);
comment on index public.cached_values_last_used_at_idx is 'trim_cached_values(): what was not asked for longest goes first.';

create table public.context_secret (
    id        bigint                   not null generated always as identity,
    inner_pad bytea                    not null,
    outer_pad bytea                    not null,
    made_at   timestamp with time zone not null default now(),
    constraint context_secret_pkey PRIMARY KEY (id),
    constraint context_secret_inner_pad_block CHECK (length(inner_pad) = 64),
    constraint context_secret_outer_pad_block CHECK (length(outer_pad) = 64)
);
comment on table public.context_secret is 'The key under the seal of who acts, which only functions of the owner read; the newest counts.';
comment on column public.context_secret.id is 'Number of the key.';
comment on column public.context_secret.inner_pad is 'The key as HMAC takes it for the inner hash, 64 bytes.';
comment on column public.context_secret.outer_pad is 'The key as HMAC takes it for the outer hash, 64 bytes.';
comment on column public.context_secret.made_at is 'When the key was drawn.';

create table public.duplicate_pairs (
    first_id   bigint                    not null,
    second_id  bigint                    not null,
    user_id    bigint                    not null,
    bits       integer                   not null,
    found_at   timestamp with time zone  not null default now(),
    decision   public.duplicate_decision not null default 'undecided'::public.duplicate_decision,
    decided_by bigint,
    decided_at timestamp with time zone,
    note       text,
    constraint duplicate_pairs_pkey PRIMARY KEY (first_id, second_id),
    constraint duplicate_pairs_bits_range CHECK (bits >= 0 AND bits <= 64),
    constraint duplicate_pairs_decided_by_person CHECK ((decision = 'undecided'::public.duplicate_decision) = (decided_by IS NULL) AND (decision = 'undecided'::public.duplicate_decision) = (decided_at IS NULL)),
    constraint duplicate_pairs_in_order CHECK (first_id < second_id)
);
comment on table public.duplicate_pairs is 'Two images of one owner that look alike, and what a person decided. Nothing is merged by it.';
comment on column public.duplicate_pairs.first_id is 'The one with the lower number.';
comment on column public.duplicate_pairs.second_id is 'The other.';
comment on column public.duplicate_pairs.user_id is 'Whose images they are.';
comment on column public.duplicate_pairs.bits is 'In how many of 64 bits their perceptual hashes differed when they were found.';
comment on column public.duplicate_pairs.found_at is 'When scan_duplicates() found them.';
comment on column public.duplicate_pairs.decision is 'What a person decided; kept when they are found again.';
comment on column public.duplicate_pairs.decided_by is 'Which account. No foreign key: the decision outlives it.';
comment on column public.duplicate_pairs.decided_at is 'When.';
comment on column public.duplicate_pairs.note is 'What the person wrote about it.';
grant select on public.duplicate_pairs to operator_role;

CREATE INDEX duplicate_pairs_second_id_idx ON public.duplicate_pairs USING btree (second_id);
comment on index public.duplicate_pairs_second_id_idx is 'Pairs of an image that is the second; the foreign key.';

CREATE INDEX duplicate_pairs_user_id_decision_idx ON public.duplicate_pairs USING btree (user_id, decision);
comment on index public.duplicate_pairs_user_id_decision_idx is 'What an owner has to decide on; negspace duplicates review.';

create table public.ended_job_changes (
    id  bigint                   not null generated always as identity,
    day timestamp with time zone not null,
    constraint ended_job_changes_pkey PRIMARY KEY (id)
);
comment on table public.ended_job_changes is 'Days (UTC) whose ended jobs changed late: read from the jobs until they are summed up anew. Each writer adds rows of its own, so that nobody waits.';
comment on column public.ended_job_changes.id is 'Number of the row.';
comment on column public.ended_job_changes.day is 'When the day began.';
grant select on public.ended_job_changes to operator_role;

CREATE INDEX ended_job_changes_day_idx ON public.ended_job_changes USING btree (day);
comment on index public.ended_job_changes_day_idx is 'Whether a day changed, and which did.';

create table public.ended_job_days (
    day          timestamp with time zone not null,
    month        timestamp with time zone not null,
    status       public.queue_status      not null,
    job_count    bigint                   not null,
    oldest_at    timestamp with time zone not null,
    newest_at    timestamp with time zone not null,
    waited_count bigint                   not null,
    wait_total   double precision         not null,
    wait_minimum double precision,
    wait_maximum double precision,
    buckets      smallint[]               not null,
    counts       integer[]                not null,
    waits        bigint[]                 not null default '{}'::bigint[],
    constraint ended_job_days_pkey PRIMARY KEY (day, month, status),
    constraint ended_job_days_counts_match_buckets CHECK (cardinality(counts) = cardinality(buckets)),
    constraint ended_job_days_job_count_positive CHECK (job_count > 0),
    constraint ended_job_days_oldest_not_after CHECK (oldest_at <= newest_at),
    constraint ended_job_days_waited_count_range CHECK (waited_count >= 0 AND waited_count <= job_count)
);
comment on table public.ended_job_days is 'Jobs by the day they ended (UTC) and their status, of the days that are closed; read it through queue_status_summary.';
comment on column public.ended_job_days.day is 'When the day began.';
comment on column public.ended_job_days.month is 'When the month began that the jobs were asked for in: that of their partition.';
comment on column public.ended_job_days.status is 'How they ended.';
comment on column public.ended_job_days.job_count is 'How many jobs.';
comment on column public.ended_job_days.oldest_at is 'When the first of them was asked for.';
comment on column public.ended_job_days.newest_at is 'When the last was.';
comment on column public.ended_job_days.waited_count is 'How many of them were ever begun.';
comment on column public.ended_job_days.wait_total is 'How long those waited before their newest try, together, in milliseconds.';
comment on column public.ended_job_days.wait_minimum is 'The shortest wait in milliseconds; null: none was begun.';
comment on column public.ended_job_days.wait_maximum is 'The longest wait in milliseconds; null: none was begun.';
comment on column public.ended_job_days.buckets is 'Buckets that hold a wait, ascending: split_waits().';
comment on column public.ended_job_days.counts is 'How many waits each of them holds.';
comment on column public.ended_job_days.waits is 'The waits themselves in microseconds, ascending.';
grant select on public.ended_job_days to operator_role;

CREATE OR REPLACE FUNCTION public.ended_job_percentiles(fresh public.ended_job_days[], gone public.ended_job_days[])
 RETURNS TABLE(status public.queue_status, fraction double precision, wait double precision)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET jit TO 'off'
AS $function$
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
$function$;
comment on function public.ended_job_percentiles(fresh public.ended_job_days[], gone public.ended_job_days[]) is 'The median and the 95th percentile of ended jobs'' waits by status, in seconds, exactly as percentile_cont has them: of what is added up, without the days gone and with those of fresh.';
grant execute on function public.ended_job_percentiles(public.ended_job_days[],public.ended_job_days[]) to operator_role;
revoke execute on function public.ended_job_percentiles(public.ended_job_days[],public.ended_job_days[]) from public;

CREATE OR REPLACE FUNCTION public.sum_ended_jobs(first timestamp with time zone, last timestamp with time zone)
 RETURNS SETOF public.ended_job_days
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
AS $function$
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
$function$;
comment on function public.sum_ended_jobs(first timestamp with time zone, last timestamp with time zone) is 'Ended jobs by day, month and status, from the jobs themselves: of those that ended from first on and before last.';
grant execute on function public.sum_ended_jobs(timestamp with time zone,timestamp with time zone) to operator_role;
revoke execute on function public.sum_ended_jobs(timestamp with time zone,timestamp with time zone) from public;

create table public.ended_job_spans (
    month      timestamp with time zone not null,
    status     public.queue_status      not null,
    span       smallint                 not null,
    wait_count bigint                   not null,
    constraint ended_job_spans_pkey PRIMARY KEY (month, status, span),
    constraint ended_job_spans_wait_count_positive CHECK (wait_count > 0)
);
comment on table public.ended_job_spans is 'How many waits ended_job_waits has in each ten buckets: a tenth of them to read.';
comment on column public.ended_job_spans.month is 'As ended_job_days has it.';
comment on column public.ended_job_spans.status is 'As ended_job_days has it.';
comment on column public.ended_job_spans.span is 'A tenth of the bucket, without its rest.';
comment on column public.ended_job_spans.wait_count is 'How many waits they hold.';
grant select on public.ended_job_spans to operator_role;

create table public.ended_job_waits (
    month      timestamp with time zone not null,
    status     public.queue_status      not null,
    bucket     smallint                 not null,
    wait_count bigint                   not null,
    waits      bigint[]                 not null default '{}'::bigint[],
    constraint ended_job_waits_pkey PRIMARY KEY (status, bucket, month),
    constraint ended_job_waits_wait_count_positive CHECK (wait_count > 0)
);
comment on table public.ended_job_waits is 'The waits of ended_job_days by month and bucket.';
comment on column public.ended_job_waits.month is 'As ended_job_days has it.';
comment on column public.ended_job_waits.status is 'As ended_job_days has it.';
comment on column public.ended_job_waits.bucket is 'Bucket: split_waits().';
comment on column public.ended_job_waits.wait_count is 'How many waits it holds.';
comment on column public.ended_job_waits.waits is 'The waits themselves in microseconds, ascending.';
grant select on public.ended_job_waits to operator_role;

create table public.image_fingerprints (
    image_id        bigint not null,
    user_id         bigint not null,
    perceptual_hash bigint not null,
    algorithm       text   not null,
    constraint image_fingerprints_pkey PRIMARY KEY (image_id)
);
comment on table public.image_fingerprints is 'The perceptual hashes of images, for the search of near ones; kept by triggers on images.';
comment on column public.image_fingerprints.image_id is 'The image.';
comment on column public.image_fingerprints.user_id is 'Whose image it is: only one owner''s are compared.';
comment on column public.image_fingerprints.perceptual_hash is 'As images has it.';
comment on column public.image_fingerprints.algorithm is 'As images has it; only equal names compare.';

CREATE INDEX image_fingerprints_band_1_idx ON public.image_fingerprints USING btree (user_id, ((perceptual_hash >> 48) & 65535::bigint)) INCLUDE (perceptual_hash, image_id);
comment on index public.image_fingerprints_band_1_idx is 'near_hashes(): hashes whose first 16 bits are near.';

CREATE INDEX image_fingerprints_band_2_idx ON public.image_fingerprints USING btree (user_id, ((perceptual_hash >> 32) & 65535::bigint)) INCLUDE (perceptual_hash, image_id);
comment on index public.image_fingerprints_band_2_idx is 'near_hashes(): hashes whose second 16 bits are near.';

CREATE INDEX image_fingerprints_band_3_idx ON public.image_fingerprints USING btree (user_id, ((perceptual_hash >> 16) & 65535::bigint)) INCLUDE (perceptual_hash, image_id);
comment on index public.image_fingerprints_band_3_idx is 'near_hashes(): hashes whose third 16 bits are near.';

CREATE INDEX image_fingerprints_band_4_idx ON public.image_fingerprints USING btree (user_id, (perceptual_hash & 65535::bigint)) INCLUDE (perceptual_hash, image_id);
comment on index public.image_fingerprints_band_4_idx is 'near_hashes(): hashes whose last 16 bits are near.';

create table public.images (
    id                        bigint                   not null generated always as identity,
    user_id                   bigint                   not null,
    file_name                 text                     not null,
    original_filename         text                     not null,
    file_path                 text                     not null,
    file_size                 bigint                   not null,
    mime_type                 text                     not null,
    file_hash                 text                     not null,
    image_dimensions          jsonb,
    analysis_status           public.analysis_status   not null default 'pending'::public.analysis_status,
    metadata                  jsonb                    not null default '{}'::jsonb,
    uploaded_at               timestamp with time zone not null default now(),
    processed_at              timestamp with time zone,
    created_at                timestamp with time zone not null default now(),
    updated_at                timestamp with time zone not null default now(),
    analysis_retry_count      integer                  not null default 0,
    failure_reason            text,
    last_retry_at             timestamp with time zone,
    processing_history        jsonb                    not null default '[]'::jsonb,
    is_duplicate              boolean                  not null default false,
    duplicate_of              bigint,
    pixel_hash                text,
    perceptual_hash           bigint,
    perceptual_hash_algorithm text,
    constraint images_pkey PRIMARY KEY (id),
    constraint images_analysis_retry_count_not_negative CHECK (analysis_retry_count >= 0),
    constraint images_duplicate_names_its_original CHECK (is_duplicate = (duplicate_of IS NOT NULL)),
    constraint images_duplicate_of_another CHECK (duplicate_of <> id),
    constraint images_file_hash_sha256 CHECK (length(file_hash) = 64 AND file_hash !~ '[^0-9a-f]'::text),
    constraint images_file_name_given CHECK (file_name <> ''::text),
    constraint images_file_path_relative CHECK (file_path <> ''::text AND file_path !~ '(^/|(^|/)\.\.(/|$))'::text),
    constraint images_file_size_positive CHECK (file_size > 0),
    constraint images_image_dimensions_valid CHECK (image_dimensions IS NULL OR (image_dimensions @? 'strict $?(((((((@."width" >= 1 && @."width" <= 4294967295) && @."width".floor() == @."width") && @."height" >= 1) && @."height" <= 4294967295) && @."height".floor() == @."height") && @."channels" >= 1) && @."channels".floor() == @."channels")'::jsonpath) IS TRUE),
    constraint images_metadata_object CHECK (jsonb_typeof(metadata) = 'object'::text),
    constraint images_mime_type_valid CHECK (mime_type ~ '^[a-z]+/[a-z0-9][a-z0-9!#$&^_.+-]*$'::text),
    constraint images_original_filename_given CHECK (original_filename <> ''::text),
    constraint images_perceptual_hash_has_algorithm CHECK ((perceptual_hash IS NULL) = (perceptual_hash_algorithm IS NULL)),
    constraint images_pixel_hash_sha256 CHECK (length(pixel_hash) = 64 AND pixel_hash !~ '[^0-9a-f]'::text),
    constraint images_processing_history_array CHECK (jsonb_typeof(processing_history) = 'array'::text)
);
alter table public.images enable row level security;
alter table public.images force row level security;
comment on table public.images is 'Uploaded images. The bytes lie in the content-addressed storage, once per hash.';
comment on column public.images.id is 'Number of the image.';
comment on column public.images.user_id is 'Whose image it is.';
comment on column public.images.file_name is 'Name in the storage: the hash and a suffix that fits the type.';
comment on column public.images.original_filename is 'Name that the file came with; never used as a path.';
comment on column public.images.file_path is 'Path below the storage folder.';
comment on column public.images.file_size is 'Size in bytes.';
comment on column public.images.mime_type is 'Type as sniffed from the bytes, never from the name.';
comment on column public.images.file_hash is 'SHA-256 of the file, 64 hexadecimal digits.';
comment on column public.images.image_dimensions is '{"width": px, "height": px, "channels": n}; null where the header can''t be read.';
comment on column public.images.analysis_status is 'Where the image stands; changes are guarded by images_status_transition.';
comment on column public.images.metadata is 'Anything else, as a JSON object.';
comment on column public.images.uploaded_at is 'When the file was taken in.';
comment on column public.images.processed_at is 'When the last job on it ended.';
comment on column public.images.created_at is 'When the row was made.';
comment on column public.images.updated_at is 'When the row last changed; kept by a trigger.';
comment on column public.images.analysis_retry_count is 'How often an analysis of it was tried again.';
comment on column public.images.failure_reason is 'Why the last job on it failed; null once one succeeds.';
comment on column public.images.last_retry_at is 'When an analysis of it was last tried again.';
comment on column public.images.processing_history is 'Its newest 50 changes of status, an array of {"at", "from", "to"}; kept by a trigger.';
comment on column public.images.is_duplicate is 'The same content is there already, as duplicate_of.';
comment on column public.images.duplicate_of is 'The original that it repeats. Not CASCADE: an original with duplicates is not removed before another takes its place (delete_image does that).';
comment on column public.images.pixel_hash is 'SHA-256 of the decoded pixels: equal where only the file around them differs.';
comment on column public.images.perceptual_hash is 'A 64-bit hash that stays near when an image is resized or compressed again.';
comment on column public.images.perceptual_hash_algorithm is 'How perceptual_hash was computed; only equal names compare.';
grant delete, insert, select, update on public.images to app_user;

CREATE INDEX images_analysis_status_uploaded_at_idx ON public.images USING btree (analysis_status, uploaded_at DESC);
comment on index public.images_analysis_status_uploaded_at_idx is 'Images of one status, newest first.';

CREATE INDEX images_duplicate_of_idx ON public.images USING btree (duplicate_of) WHERE duplicate_of IS NOT NULL;
comment on index public.images_duplicate_of_idx is 'An original''s duplicates; the foreign key.';

CREATE INDEX images_duplicate_report_idx ON public.images USING btree (user_id, duplicate_of, id) INCLUDE (original_filename, file_size, uploaded_at) WHERE duplicate_of IS NOT NULL;
comment on index public.images_duplicate_report_idx is 'Duplicates by owner and original: duplicate_images_report, without the table.';

CREATE INDEX images_failed_idx ON public.images USING btree (updated_at DESC) WHERE analysis_status = 'failed'::public.analysis_status;
comment on index public.images_failed_idx is 'What failed last.';

CREATE INDEX images_file_hash_idx ON public.images USING btree (file_hash);
comment on index public.images_file_hash_idx is 'Images by content; whether stored bytes are still in use.';

CREATE INDEX images_metadata_idx ON public.images USING gin (metadata jsonb_path_ops);
comment on index public.images_metadata_idx is 'Images by metadata: metadata @> ''{"instrument": "…"}''.';

CREATE INDEX images_mime_type_idx ON public.images USING btree (mime_type, id);
comment on index public.images_mime_type_idx is 'Images of one type, page by page.';

CREATE INDEX images_original_filename_idx ON public.images USING btree (lower(original_filename) text_pattern_ops);
comment on index public.images_original_filename_idx is 'Images by the beginning of the name they came with.';

CREATE UNIQUE INDEX images_original_key ON public.images USING btree (user_id, file_hash) WHERE NOT is_duplicate;
comment on index public.images_original_key is 'One original per owner and content. Not across owners: a refusal would tell that somebody else has the file.';

CREATE INDEX images_pixel_hash_idx ON public.images USING btree (pixel_hash) WHERE pixel_hash IS NOT NULL;
comment on index public.images_pixel_hash_idx is 'Images with the same pixels in another file.';

CREATE INDEX images_retried_idx ON public.images USING btree (last_retry_at DESC) WHERE analysis_retry_count > 0;
comment on index public.images_retried_idx is 'What was tried again last.';

CREATE INDEX images_uploaded_at_idx ON public.images USING btree (uploaded_at DESC);
comment on index public.images_uploaded_at_idx is 'Newest uploads of all users.';

CREATE INDEX images_user_id_created_at_idx ON public.images USING btree (user_id, created_at DESC);
comment on index public.images_user_id_created_at_idx is 'A user''s images, newest first; user_activity_summary; the foreign key.';

CREATE INDEX images_user_id_uploaded_at_idx ON public.images USING btree (user_id, uploaded_at DESC);
comment on index public.images_user_id_uploaded_at_idx is 'A user''s last upload; user_activity_summary.';

create policy images_add on public.images for insert to app_user
    with check (user_id = (( SELECT public.acting_on('write:images'::text) AS acting_on)) OR ( SELECT public.acting_on_all('write:images'::text) AS acting_on_all));
comment on policy images_add on public.images is 'Images of one''s own.';

create policy images_change on public.images for update to app_user
    using (user_id = (( SELECT public.acting_on('write:images'::text) AS acting_on)) OR ( SELECT public.acting_on_all('write:images'::text) AS acting_on_all))
    with check (user_id = (( SELECT public.acting_on('write:images'::text) AS acting_on)) OR ( SELECT public.acting_on_all('write:images'::text) AS acting_on_all));
comment on policy images_change on public.images is 'Own images, which stay one''s own.';

create policy images_machine on public.images to operator_role, current_user
    using (true)
    with check (true);
comment on policy images_machine on public.images is 'The operator, and functions that run as the owner: all rows.';

create policy images_read on public.images for select to app_user
    using (user_id = (( SELECT public.acting_on('read:images'::text) AS acting_on)) OR ( SELECT public.acting_on_all('read:images'::text) AS acting_on_all));
comment on policy images_read on public.images is 'Own images; an administrator all.';

create policy images_remove on public.images for delete to app_user
    using (user_id = (( SELECT public.acting_on('write:images'::text) AS acting_on)) OR ( SELECT public.acting_on_all('write:images'::text) AS acting_on_all));
comment on policy images_remove on public.images is 'Own images.';

CREATE TRIGGER images_append_processing_history BEFORE UPDATE ON public.images FOR EACH ROW WHEN (old.analysis_status <> new.analysis_status) EXECUTE FUNCTION public.append_processing_history();
comment on trigger images_append_processing_history on public.images is 'Keeps processing_history and updated_at where the status changes.';

CREATE TRIGGER images_archived_cancels_jobs AFTER UPDATE ON public.images FOR EACH ROW WHEN (old.analysis_status <> new.analysis_status AND new.analysis_status = 'archived'::public.analysis_status) EXECUTE FUNCTION public.cancel_jobs_of_image();
comment on trigger images_archived_cancels_jobs on public.images is 'No job waits for an image that is archived: it would never be claimed.';

CREATE TRIGGER images_audit_archived AFTER UPDATE OF analysis_status ON public.images FOR EACH ROW WHEN (old.analysis_status <> new.analysis_status AND (old.analysis_status = 'archived'::public.analysis_status OR new.analysis_status = 'archived'::public.analysis_status)) EXECUTE FUNCTION public.audit_image_change('archived');
comment on trigger images_audit_archived on public.images is 'That an image is archived is an event.';

CREATE TRIGGER images_audit_delete AFTER DELETE ON public.images REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.audit_images();
comment on trigger images_audit_delete on public.images is 'Every removed image is an event.';

CREATE TRIGGER images_audit_insert AFTER INSERT ON public.images REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.audit_images();
comment on trigger images_audit_insert on public.images is 'Every new image is an event.';

CREATE TRIGGER images_audit_update AFTER UPDATE OF user_id, original_filename, file_path, file_size, mime_type, file_hash, is_duplicate, duplicate_of, metadata ON public.images FOR EACH ROW WHEN (old.user_id IS DISTINCT FROM new.user_id OR old.original_filename IS DISTINCT FROM new.original_filename OR old.file_path IS DISTINCT FROM new.file_path OR old.file_size IS DISTINCT FROM new.file_size OR old.mime_type IS DISTINCT FROM new.mime_type OR old.file_hash IS DISTINCT FROM new.file_hash OR old.is_duplicate IS DISTINCT FROM new.is_duplicate OR old.duplicate_of IS DISTINCT FROM new.duplicate_of OR old.metadata IS DISTINCT FROM new.metadata) EXECUTE FUNCTION public.audit_image_change('decided');
comment on trigger images_audit_update on public.images is 'Every decided change of an image is an event.';

CREATE TRIGGER images_duplicate_names_an_original BEFORE INSERT OR UPDATE OF duplicate_of, user_id ON public.images FOR EACH ROW WHEN (new.duplicate_of IS NOT NULL) EXECUTE FUNCTION public.refuse_duplicate_chain();
comment on trigger images_duplicate_names_an_original on public.images is 'No chains of duplicates.';

CREATE TRIGGER images_keep_duplicates_together BEFORE UPDATE OF user_id ON public.images FOR EACH ROW WHEN (old.user_id <> new.user_id) EXECUTE FUNCTION public.refuse_to_part_duplicates();
comment on trigger images_keep_duplicates_together on public.images is 'An original and its duplicates have one owner.';

CREATE TRIGGER images_keep_fingerprint AFTER UPDATE OF user_id, perceptual_hash, perceptual_hash_algorithm, pixel_hash ON public.images FOR EACH ROW WHEN (old.user_id IS DISTINCT FROM new.user_id OR old.perceptual_hash IS DISTINCT FROM new.perceptual_hash OR old.perceptual_hash_algorithm IS DISTINCT FROM new.perceptual_hash_algorithm OR old.pixel_hash IS DISTINCT FROM new.pixel_hash) EXECUTE FUNCTION public.keep_image_fingerprint();
comment on trigger images_keep_fingerprint on public.images is 'Hashes that came or changed.';

CREATE TRIGGER images_keep_fingerprints AFTER INSERT ON public.images REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.keep_image_fingerprints();
comment on trigger images_keep_fingerprints on public.images is 'Images that come with their hashes.';

CREATE TRIGGER images_set_updated_at BEFORE UPDATE ON public.images FOR EACH ROW WHEN (old.analysis_status = new.analysis_status) EXECUTE FUNCTION public.set_updated_at();
comment on trigger images_set_updated_at on public.images is 'Keeps updated_at where the status stays.';

CREATE TRIGGER images_status_transition BEFORE UPDATE ON public.images FOR EACH ROW WHEN (old.analysis_status <> new.analysis_status AND (new.analysis_status <> ALL (
        CASE old.analysis_status
            WHEN 'pending'::public.analysis_status THEN '{processing,failed,archived}'::public.analysis_status[]
            WHEN 'processing'::public.analysis_status THEN '{completed,failed}'::public.analysis_status[]
            WHEN 'completed'::public.analysis_status THEN '{pending,archived}'::public.analysis_status[]
            WHEN 'failed'::public.analysis_status THEN '{pending,archived}'::public.analysis_status[]
            ELSE '{}'::public.analysis_status[]
        END))) EXECUTE FUNCTION public.refuse_transition('image', 'analysis_status', '{"pending": "processing, failed, archived", "processing": "completed, failed", "completed": "pending, archived", "failed": "pending, archived"}');
comment on trigger images_status_transition on public.images is 'The allowed changes of analysis_status; all else is refused.';

CREATE OR REPLACE FUNCTION public.register_image(user_id bigint, original_filename text, file_name text, file_path text, file_size bigint, mime_type text, file_hash text, image_dimensions jsonb DEFAULT NULL::jsonb, metadata jsonb DEFAULT '{}'::jsonb)
 RETURNS public.images
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
    taken    public.images%rowtype;
    original bigint;
begin
    perform 1 from public.users u where u.id = register_image.user_id and u.is_active;
    if not found then
        raise exception 'there is no active user %', register_image.user_id
            using errcode = 'NS003', hint = 'negspace users list shows the accounts';
    end if;
    -- Again only where an original appears or goes between the look and the insert.
    loop
        -- The same file may be there as a duplicate, of an image with the same pixels.
        select coalesce(i.duplicate_of, i.id) into original from public.images i
        where i.user_id = register_image.user_id and i.file_hash = register_image.file_hash
        order by i.is_duplicate limit 1;
        if found then
            perform 1 from public.images i where i.id = original and not i.is_duplicate for share;
            continue when not found;
        end if;
        insert into public.images (
            user_id, original_filename, file_name, file_path, file_size, mime_type, file_hash,
            image_dimensions, metadata, is_duplicate, duplicate_of
        )
        values (
            register_image.user_id, register_image.original_filename, register_image.file_name,
            register_image.file_path, register_image.file_size, register_image.mime_type,
            register_image.file_hash, register_image.image_dimensions, register_image.metadata,
            original is not null, original
        )
        on conflict (user_id, file_hash) where not is_duplicate do nothing
        returning * into taken;
        exit when found;
    end loop;
    return taken;
end
$function$;
comment on function public.register_image(user_id bigint, original_filename text, file_name text, file_path text, file_size bigint, mime_type text, file_hash text, image_dimensions jsonb, metadata jsonb) is 'Takes an image in and returns its row: a duplicate of the original where its owner has the same file already.';
grant execute on function public.register_image(bigint,text,text,text,bigint,text,text,jsonb,jsonb) to app_user;
revoke execute on function public.register_image(bigint,text,text,text,bigint,text,text,jsonb,jsonb) from public;

create table public.job_failures (
    id             bigint                   not null generated always as identity,
    failed_at      timestamp with time zone not null,
    algorithm_name text                     not null,
    error_class    text                     not null,
    tries          bigint                   not null default 0,
    jobs           bigint                   not null default 0,
    is_folded      boolean                  not null default false,
    constraint job_failures_pkey PRIMARY KEY (id),
    constraint job_failures_error_class_valid CHECK (error_class ~ '^[A-Za-z][A-Za-z0-9_.]*$'::text AND length(error_class) <= 63),
    constraint job_failures_tries_counted CHECK (tries >= jobs AND jobs >= 0)
) with (fillfactor = '50');
comment on table public.job_failures is 'Tries of jobs that failed, counted by hour, analyser and error; read it through failures_by_error(). Counted as they fail, and kept when the jobs are purged.';
comment on column public.job_failures.id is 'Number of the count.';
comment on column public.job_failures.failed_at is 'The hour in which they failed, of UTC.';
comment on column public.job_failures.algorithm_name is 'The analyser.';
comment on column public.job_failures.error_class is 'The kind of error, as its worker named it: the name of an exception, or ProcessDied, TimeLimit, MemoryLimit, DeadlinePassed, WorkerLost, Unknown.';
comment on column public.job_failures.tries is 'How many tries failed so.';
comment on column public.job_failures.jobs is 'How many of them were the last: the job failed for good.';
comment on column public.job_failures.is_folded is 'Whether it is the sum of its hour; else what one transaction adds to it.';
grant select on public.job_failures to operator_role;

CREATE UNIQUE INDEX job_failures_folded_key ON public.job_failures USING btree (failed_at, algorithm_name, error_class) WHERE is_folded;
comment on index public.job_failures_folded_key is 'The sum of an hour; the newest hours.';

CREATE INDEX job_failures_new_idx ON public.job_failures USING btree (id) WHERE NOT is_folded;
comment on index public.job_failures_new_idx is 'What fold_job_failures() is to add up, oldest first.';

create table public.job_logs (
    job_id    bigint                   not null,
    attempt   integer                  not null,
    worker_id text                     not null,
    logged_at timestamp with time zone not null default clock_timestamp(),
    lines     jsonb                    not null,
    left_out  integer                  not null default 0,
    constraint job_logs_pkey PRIMARY KEY (job_id, attempt),
    constraint job_logs_attempt_positive CHECK (attempt > 0),
    constraint job_logs_left_out_not_negative CHECK (left_out >= 0),
    constraint job_logs_lines_array CHECK (jsonb_typeof(lines) = 'array'::text),
    constraint job_logs_lines_bounded CHECK (
CASE
    WHEN jsonb_typeof(lines) = 'array'::text THEN jsonb_array_length(lines) <= 1000
    ELSE NULL::boolean
END AND octet_length(lines::text) <= 2000000)
);
comment on table public.job_logs is 'What was logged while a try of a job was computed; a try that said nothing has no row. No foreign key: jobs are partitioned by status and month, and their numbers alone are no key.';
comment on column public.job_logs.job_id is 'The job.';
comment on column public.job_logs.attempt is 'Its try, as processing_queue.attempt counts them.';
comment on column public.job_logs.worker_id is 'The worker that ran it.';
comment on column public.job_logs.logged_at is 'When the lines were stored last: at the end of the try, and now and then while it runs.';
comment on column public.job_logs.lines is 'The lines, in order: objects with logged_at, level, logger and message.';
comment on column public.job_logs.left_out is 'How many lines there were besides, between the first and the last ones.';
grant select on public.job_logs to operator_role;

CREATE INDEX job_logs_logged_at_idx ON public.job_logs USING btree (logged_at);
comment on index public.job_logs_logged_at_idx is 'The oldest first: purge_job_logs().';

create table public.login_attempts (
    account_hash  text                     not null,
    network       text                     not null,
    failures      integer                  not null default 0,
    failed_at     timestamp with time zone,
    locked_until  timestamp with time zone,
    trusted_until timestamp with time zone,
    tried_at      timestamp with time zone not null default now(),
    constraint login_attempts_pkey PRIMARY KEY (account_hash, network),
    constraint login_attempts_account_hash_sha256 CHECK (length(account_hash) = 64 AND account_hash !~ '[^0-9a-f]'::text),
    constraint login_attempts_failures_not_negative CHECK (failures >= 0),
    constraint login_attempts_network_given CHECK (network <> ''::text)
) with (fillfactor = '70');
comment on table public.login_attempts is 'Logins tried, per e-mail address and network: what decides on the next one.';
comment on column public.login_attempts.account_hash is 'SHA-256 of the address in lower case: what is typed there may be a password.';
comment on column public.login_attempts.network is 'The network, login_network(); * for all of them together.';
comment on column public.login_attempts.failures is 'Failures since the last success, or since a day without any.';
comment on column public.login_attempts.failed_at is 'The last failure that counted.';
comment on column public.login_attempts.locked_until is 'No login before this time; null: never locked since the last success.';
comment on column public.login_attempts.trusted_until is 'Until when the lock over all networks doesn''t hold here, since the account has logged in from here.';
comment on column public.login_attempts.tried_at is 'The last try, counted or not.';

CREATE INDEX login_attempts_tried_at_idx ON public.login_attempts USING btree (tried_at);
comment on index public.login_attempts_tried_at_idx is 'What is long past, for refresh_login_counters().';

create table public.metric_changes (
    id   bigint                   not null generated always as identity,
    hour timestamp with time zone not null,
    constraint metric_changes_pkey PRIMARY KEY (id)
);
comment on table public.metric_changes is 'Hours (UTC) whose samples changed late: read from the samples until they are rolled up anew. Each writer adds rows of its own, so that nobody waits.';
comment on column public.metric_changes.id is 'Number of the row.';
comment on column public.metric_changes.hour is 'When the hour began.';
grant select on public.metric_changes to app_user;

CREATE INDEX metric_changes_hour_idx ON public.metric_changes USING btree (hour);
comment on index public.metric_changes_hour_idx is 'Whether an hour changed, and which did.';

create table public.metric_days (
    series_id    bigint                   not null,
    started_at   timestamp with time zone not null,
    sample_count bigint                   not null,
    total        numeric                  not null,
    minimum      numeric(15,4)            not null,
    maximum      numeric(15,4)            not null,
    buckets      smallint[]               not null,
    counts       integer[]                not null,
    constraint metric_days_pkey PRIMARY KEY (series_id, started_at),
    constraint metric_days_counts_match_buckets CHECK (cardinality(counts) = cardinality(buckets) AND cardinality(buckets) > 0),
    constraint metric_days_minimum_not_above CHECK (minimum <= maximum),
    constraint metric_days_sample_count_positive CHECK (sample_count > 0)
);
comment on table public.metric_days is 'Metrics by day (UTC); they stay when the samples go.';
comment on column public.metric_days.series_id is 'The series.';
comment on column public.metric_days.started_at is 'When the day began.';
comment on column public.metric_days.sample_count is 'How many samples.';
comment on column public.metric_days.total is 'Their sum.';
comment on column public.metric_days.minimum is 'The smallest value of a row.';
comment on column public.metric_days.maximum is 'The largest value of a row.';
comment on column public.metric_days.buckets is 'Buckets of the histogram that hold a row, ascending.';
comment on column public.metric_days.counts is 'How many rows each of them holds.';
grant select on public.metric_days to app_user;

create table public.metric_hours (
    series_id    bigint                   not null,
    started_at   timestamp with time zone not null,
    sample_count bigint                   not null,
    total        numeric                  not null,
    minimum      numeric(15,4)            not null,
    maximum      numeric(15,4)            not null,
    buckets      smallint[]               not null,
    counts       integer[]                not null,
    constraint metric_hours_pkey PRIMARY KEY (series_id, started_at),
    constraint metric_hours_counts_match_buckets CHECK (cardinality(counts) = cardinality(buckets) AND cardinality(buckets) > 0),
    constraint metric_hours_minimum_not_above CHECK (minimum <= maximum),
    constraint metric_hours_sample_count_positive CHECK (sample_count > 0)
);
comment on table public.metric_hours is 'Metrics by hour (UTC); they stay when the samples go.';
comment on column public.metric_hours.series_id is 'The series.';
comment on column public.metric_hours.started_at is 'When the hour began.';
comment on column public.metric_hours.sample_count is 'How many samples.';
comment on column public.metric_hours.total is 'Their sum.';
comment on column public.metric_hours.minimum is 'The smallest value of a row.';
comment on column public.metric_hours.maximum is 'The largest value of a row.';
comment on column public.metric_hours.buckets is 'Buckets of the histogram that hold a row, ascending.';
comment on column public.metric_hours.counts is 'How many rows each of them holds.';
grant select on public.metric_hours to app_user;

create table public.metric_minutes (
    series_id    bigint                   not null,
    started_at   timestamp with time zone not null,
    sample_count bigint                   not null,
    total        numeric                  not null,
    minimum      numeric(15,4)            not null,
    maximum      numeric(15,4)            not null,
    buckets      smallint[]               not null,
    counts       integer[]                not null,
    constraint metric_minutes_pkey PRIMARY KEY (series_id, started_at),
    constraint metric_minutes_counts_match_buckets CHECK (cardinality(counts) = cardinality(buckets) AND cardinality(buckets) > 0),
    constraint metric_minutes_minimum_not_above CHECK (minimum <= maximum),
    constraint metric_minutes_sample_count_positive CHECK (sample_count > 0)
);
comment on table public.metric_minutes is 'Metrics by minute (UTC), of the last weeks.';
comment on column public.metric_minutes.series_id is 'The series.';
comment on column public.metric_minutes.started_at is 'When the minute began.';
comment on column public.metric_minutes.sample_count is 'How many samples.';
comment on column public.metric_minutes.total is 'Their sum.';
comment on column public.metric_minutes.minimum is 'The smallest value of a row.';
comment on column public.metric_minutes.maximum is 'The largest value of a row.';
comment on column public.metric_minutes.buckets is 'Buckets of the histogram that hold a row, ascending.';
comment on column public.metric_minutes.counts is 'How many rows each of them holds.';
grant select on public.metric_minutes to app_user;

create table public.metric_series (
    id          bigint                   not null generated always as identity,
    metric_name text                     not null,
    metric_type text                     not null,
    unit        text                     not null,
    labels      jsonb                    not null,
    labels_hash text                     not null generated always as (public.sha256_hex(labels::text)) stored,
    created_at  timestamp with time zone not null default now(),
    constraint metric_series_pkey PRIMARY KEY (id),
    constraint metric_series_identity_key UNIQUE (metric_name, metric_type, unit, labels_hash)
);
comment on table public.metric_series is 'What roll-ups are told apart by: one row per metric, type, unit and labels.';
comment on column public.metric_series.id is 'Number of the series.';
comment on column public.metric_series.metric_name is 'As performance_metrics has it.';
comment on column public.metric_series.metric_type is 'As performance_metrics has it.';
comment on column public.metric_series.unit is 'As performance_metrics has it.';
comment on column public.metric_series.labels is 'As performance_metrics has it.';
comment on column public.metric_series.labels_hash is 'SHA-256 of the labels'' text: they may be longer than an index takes.';
comment on column public.metric_series.created_at is 'When it was first rolled up.';
grant select on public.metric_series to app_user;

create table public.performance_metrics (
    id             bigint                   not null generated always as identity,
    metric_name    text                     not null,
    metric_type    text                     not null default 'histogram'::text,
    value          numeric(15,4)            not null,
    unit           text                     not null default ''::text,
    labels         jsonb                    not null default '{}'::jsonb,
    context        jsonb                    not null default '{}'::jsonb,
    recorded_at    timestamp with time zone not null default now(),
    sample_count   integer                  not null default 1,
    percentile_p50 numeric(15,4),
    percentile_p95 numeric(15,4),
    percentile_p99 numeric(15,4),
    constraint performance_metrics_pkey PRIMARY KEY (id, recorded_at),
    constraint performance_metrics_context_object CHECK (jsonb_typeof(context) = 'object'::text AND octet_length(context::text) <= 65536),
    constraint performance_metrics_labels_object CHECK (jsonb_typeof(labels) = 'object'::text AND octet_length(labels::text) <= 8192),
    constraint performance_metrics_metric_name_valid CHECK (metric_name ~ '^[a-z][a-z0-9_.:]*$'::text AND length(metric_name) <= 127),
    constraint performance_metrics_metric_type_known CHECK (metric_type = ANY (ARRAY['histogram'::text, 'gauge'::text, 'counter'::text])),
    constraint performance_metrics_percentiles_are_numbers CHECK (percentile_p50 <> 'NaN'::numeric AND percentile_p95 <> 'NaN'::numeric AND percentile_p99 <> 'NaN'::numeric),
    constraint performance_metrics_percentiles_ordered CHECK (percentile_p50 <= percentile_p95 AND percentile_p95 <= percentile_p99 AND percentile_p50 <= percentile_p99),
    constraint performance_metrics_sample_count_positive CHECK (sample_count > 0),
    constraint performance_metrics_value_is_number CHECK (value <> 'NaN'::numeric)
) partition by range (recorded_at);
comment on table public.performance_metrics is 'Metrics: one row per sample, or per batch of samples. Partitioned by month.';
comment on column public.performance_metrics.id is 'Number of the row.';
comment on column public.performance_metrics.metric_name is 'What was measured, such as job_run_ms.';
comment on column public.performance_metrics.metric_type is 'histogram: a sample of a distribution; gauge: a level; counter: an amount added.';
comment on column public.performance_metrics.value is 'The sample, or the mean of the batch.';
comment on column public.performance_metrics.unit is 'Its unit, such as ms.';
comment on column public.performance_metrics.labels is 'What it is told apart by, a JSON object of few values.';
comment on column public.performance_metrics.context is 'What belongs to this sample alone, as a JSON object.';
comment on column public.performance_metrics.recorded_at is 'When it was measured.';
comment on column public.performance_metrics.sample_count is 'How many samples the row stands for.';
comment on column public.performance_metrics.percentile_p50 is 'Median of a batch.';
comment on column public.performance_metrics.percentile_p95 is '95th percentile of a batch.';
comment on column public.performance_metrics.percentile_p99 is '99th percentile of a batch.';
grant insert, select on public.performance_metrics to app_user;

CREATE INDEX performance_metrics_name_recorded_at_idx ON public.performance_metrics USING btree (metric_name, recorded_at DESC);
comment on index public.performance_metrics_name_recorded_at_idx is 'One metric over time; aggregate_performance_metrics().';

CREATE INDEX performance_metrics_recorded_at_idx ON public.performance_metrics USING brin (recorded_at);
comment on index public.performance_metrics_recorded_at_idx is 'All metrics of a span of time: 40 kB where a btree takes hundreds of MB.';

CREATE TRIGGER performance_metrics_mark_change AFTER DELETE OR UPDATE ON public.performance_metrics FOR EACH ROW EXECUTE FUNCTION public.mark_metric_change();
comment on trigger performance_metrics_mark_change on public.performance_metrics is 'A sample that changes or goes marks its hour.';

CREATE TRIGGER performance_metrics_mark_late AFTER INSERT ON public.performance_metrics FOR EACH ROW WHEN (new.recorded_at < (clock_timestamp() - '00:05:00'::interval)) EXECUTE FUNCTION public.mark_metric_change();
comment on trigger performance_metrics_mark_late on public.performance_metrics is 'A late sample marks its hour.';

create table public.processing_queue (
    id                      bigint                   not null generated always as identity,
    image_id                bigint                   not null,
    user_id                 bigint                   not null,
    algorithm_name          text                     not null default 'negative_space'::text,
    algorithm_version       text                     not null default '1.0.0'::text,
    algorithm_parameters    jsonb                    not null default '{}'::jsonb,
    parameters_hash         text                     not null generated always as (public.sha256_hex(algorithm_parameters::text)) stored,
    status                  public.queue_status      not null default 'queued'::public.queue_status,
    priority                smallint                 not null default 5,
    retry_count             integer                  not null default 0,
    max_retries             integer                  not null default 3,
    error_message           text,
    last_error_at           timestamp with time zone,
    created_at              timestamp with time zone not null default now(),
    scheduled_at            timestamp with time zone not null default now(),
    started_at              timestamp with time zone,
    completed_at            timestamp with time zone,
    estimated_completion_at timestamp with time zone,
    worker_id               text,
    estimated_priority      smallint,
    complexity_score        numeric(20,4),
    processing_metadata     jsonb                    not null default '{}'::jsonb,
    processing_notes        text,
    attempt                 integer                  not null default 0,
    lease_token             uuid,
    deadline_at             timestamp with time zone,
    job_group               text,
    constraint processing_queue_pkey PRIMARY KEY (id, status, created_at),
    constraint processing_queue_algorithm_name_valid CHECK (algorithm_name ~ '^[a-z][a-z0-9_.-]*$'::text AND length(algorithm_name) <= 63),
    constraint processing_queue_algorithm_parameters_object CHECK (jsonb_typeof(algorithm_parameters) = 'object'::text),
    constraint processing_queue_algorithm_version_semver CHECK (algorithm_version ~ '^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$'::text),
    constraint processing_queue_attempt_not_negative CHECK (attempt >= 0),
    constraint processing_queue_complexity_score_not_negative CHECK (complexity_score >= 0::numeric AND complexity_score <> 'NaN'::numeric),
    constraint processing_queue_ended_has_time CHECK ((status <> ALL (ARRAY['completed'::public.queue_status, 'failed'::public.queue_status, 'cancelled'::public.queue_status])) OR completed_at IS NOT NULL),
    constraint processing_queue_estimated_priority_range CHECK (estimated_priority >= 1 AND estimated_priority <= 10),
    constraint processing_queue_job_group_given CHECK (job_group <> ''::text AND length(job_group) <= 200),
    constraint processing_queue_max_retries_range CHECK (max_retries >= 0 AND max_retries <= 100),
    constraint processing_queue_priority_range CHECK (priority >= 1 AND priority <= 10),
    constraint processing_queue_processing_metadata_object CHECK (jsonb_typeof(processing_metadata) = 'object'::text),
    constraint processing_queue_retry_count_range CHECK (retry_count >= 0 AND retry_count <= max_retries),
    constraint processing_queue_running_has_worker CHECK (status <> 'processing'::public.queue_status OR worker_id IS NOT NULL AND started_at IS NOT NULL)
) partition by list (status);
alter table only public.processing_queue enable row level security;
alter table only public.processing_queue force row level security;
comment on table public.processing_queue is 'Jobs: one analysis of one image, from waiting to its end.';
comment on column public.processing_queue.id is 'Number of the job.';
comment on column public.processing_queue.image_id is 'The image to analyse.';
comment on column public.processing_queue.user_id is 'Who asked for it.';
comment on column public.processing_queue.algorithm_name is 'The analyser.';
comment on column public.processing_queue.algorithm_version is 'Its version, as semver.';
comment on column public.processing_queue.algorithm_parameters is 'Its parameters, resolved.';
comment on column public.processing_queue.parameters_hash is 'SHA-256 of the parameters'' text, for the identity of a job.';
comment on column public.processing_queue.status is 'Where the job stands; changes are guarded by processing_queue_status_transition.';
comment on column public.processing_queue.priority is 'From 1, least urgent, to 10, first.';
comment on column public.processing_queue.retry_count is 'Tries that failed and were tried again.';
comment on column public.processing_queue.max_retries is 'How often it is tried again before it fails for good.';
comment on column public.processing_queue.error_message is 'What the last failed try said.';
comment on column public.processing_queue.last_error_at is 'When the last try failed.';
comment on column public.processing_queue.created_at is 'When it was asked for.';
comment on column public.processing_queue.scheduled_at is 'Not before this time: a planned start, or the end of a back-off.';
comment on column public.processing_queue.started_at is 'When the newest try began.';
comment on column public.processing_queue.completed_at is 'When it ended, in whatever way.';
comment on column public.processing_queue.estimated_completion_at is 'When it is expected to end, from how long its like took.';
comment on column public.processing_queue.worker_id is 'The worker that holds it, or held it last.';
comment on column public.processing_queue.estimated_priority is 'The priority that its waiting time and complexity suggest.';
comment on column public.processing_queue.complexity_score is 'How much work it is, in megapixels.';
comment on column public.processing_queue.processing_metadata is 'What was asked of the worker ({"use_cache": false}: compute, whatever the cache says), and what a worker says of its tries, as a JSON object.';
comment on column public.processing_queue.processing_notes is 'What a person wrote about it.';
comment on column public.processing_queue.attempt is 'How often it was claimed; with lease_token it fences off a worker that lost the job.';
comment on column public.processing_queue.lease_token is 'Known to the worker that holds it; null while nobody does.';
comment on column public.processing_queue.deadline_at is 'A job that has not begun by then fails and never begins; null: none.';
comment on column public.processing_queue.job_group is 'What it is limited with, whoever asked for it: queue_limits; null: nothing.';
grant select on public.processing_queue to app_user;

CREATE INDEX processing_queue_image_id_created_at_idx ON public.processing_queue USING btree (image_id, created_at DESC);
comment on index public.processing_queue_image_id_created_at_idx is 'An image''s jobs, newest first; image_analysis_status; the foreign key.';

CREATE INDEX processing_queue_user_id_created_at_idx ON public.processing_queue USING btree (user_id, created_at DESC);
comment on index public.processing_queue_user_id_created_at_idx is 'A user''s jobs, newest first; the foreign key.';

create policy processing_queue_machine on public.processing_queue to operator_role, current_user
    using (true)
    with check (true);
comment on policy processing_queue_machine on public.processing_queue is 'The operator, and functions that run as the owner: all rows.';

create policy processing_queue_read on public.processing_queue for select to app_user
    using ((EXISTS ( SELECT
   FROM public.images i
  WHERE i.id = processing_queue.image_id)));
comment on policy processing_queue_read on public.processing_queue is 'Jobs on images that one sees, whoever asked for them.';

CREATE TRIGGER processing_queue_count_delete AFTER DELETE ON public.processing_queue REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION public.count_jobs();
comment on trigger processing_queue_count_delete on public.processing_queue is 'Keeps the counters.';

CREATE TRIGGER processing_queue_count_insert AFTER INSERT ON public.processing_queue REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.count_jobs();
comment on trigger processing_queue_count_insert on public.processing_queue is 'Keeps the counters.';

CREATE TRIGGER processing_queue_count_update AFTER UPDATE ON public.processing_queue REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.count_jobs();
comment on trigger processing_queue_count_update on public.processing_queue is 'Keeps the counters.';

CREATE TRIGGER processing_queue_limit_delete AFTER DELETE ON public.processing_queue REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION public.count_running_jobs();
comment on trigger processing_queue_limit_delete on public.processing_queue is 'Keeps how many run.';

CREATE TRIGGER processing_queue_limit_insert AFTER INSERT ON public.processing_queue REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.count_running_jobs();
comment on trigger processing_queue_limit_insert on public.processing_queue is 'Keeps how many run.';

CREATE TRIGGER processing_queue_limit_update AFTER UPDATE ON public.processing_queue REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.count_running_jobs();
comment on trigger processing_queue_limit_update on public.processing_queue is 'Keeps how many run.';

CREATE TRIGGER processing_queue_status_transition BEFORE UPDATE ON public.processing_queue FOR EACH ROW WHEN (old.status <> new.status AND (new.status <> ALL (
        CASE old.status
            WHEN 'queued'::public.queue_status THEN '{processing,cancelled}'::public.queue_status[]
            WHEN 'processing'::public.queue_status THEN '{completed,failed,cancelled}'::public.queue_status[]
            WHEN 'failed'::public.queue_status THEN '{retrying,cancelled}'::public.queue_status[]
            WHEN 'retrying'::public.queue_status THEN '{processing,cancelled}'::public.queue_status[]
            ELSE '{}'::public.queue_status[]
        END))) EXECUTE FUNCTION public.refuse_transition('job', 'status', '{"queued": "processing, cancelled", "processing": "completed, failed, cancelled", "failed": "retrying, cancelled", "retrying": "processing, cancelled"}');
comment on trigger processing_queue_status_transition on public.processing_queue is 'The allowed changes of status; all else is refused.';

create table public.processing_queue_ended partition of public.processing_queue for values IN ('completed', 'failed', 'cancelled') partition by range (created_at);
comment on table public.processing_queue_ended is 'Jobs that have ended, by the month they were asked for.';

CREATE INDEX processing_queue_ended_failed_idx ON public.processing_queue_ended USING btree (last_error_at DESC) WHERE status = 'failed'::public.queue_status;
comment on index public.processing_queue_ended_failed_idx is 'What failed last, with its reason.';

CREATE INDEX processing_queue_ended_status_completed_at_idx ON public.processing_queue_ended USING btree (status, completed_at DESC);
comment on index public.processing_queue_ended_status_completed_at_idx is 'What ended last, by status.';

CREATE TRIGGER processing_queue_ended_count_delete AFTER DELETE ON public.processing_queue_ended REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION public.count_jobs();
comment on trigger processing_queue_ended_count_delete on public.processing_queue_ended is 'Keeps the counters where jobs are purged.';

CREATE TRIGGER processing_queue_ended_mark_change AFTER UPDATE ON public.processing_queue_ended FOR EACH ROW WHEN (LEAST(old.completed_at, new.completed_at) < date_trunc('day'::text, clock_timestamp() - '00:05:00'::interval, 'UTC'::text) AND (old.status IS DISTINCT FROM new.status OR old.created_at IS DISTINCT FROM new.created_at OR old.scheduled_at IS DISTINCT FROM new.scheduled_at OR old.started_at IS DISTINCT FROM new.started_at OR old.completed_at IS DISTINCT FROM new.completed_at)) EXECUTE FUNCTION public.mark_ended_job_day();
comment on trigger processing_queue_ended_mark_change on public.processing_queue_ended is 'A job that is cancelled after its end marks its day.';

CREATE TRIGGER processing_queue_ended_mark_gone AFTER DELETE ON public.processing_queue_ended FOR EACH ROW WHEN (old.completed_at < date_trunc('day'::text, clock_timestamp() - '00:05:00'::interval, 'UTC'::text)) EXECUTE FUNCTION public.mark_ended_job_day();
comment on trigger processing_queue_ended_mark_gone on public.processing_queue_ended is 'A job that goes, or is tried again, marks its day.';

CREATE TRIGGER processing_queue_ended_mark_late AFTER INSERT ON public.processing_queue_ended FOR EACH ROW WHEN (new.completed_at < date_trunc('day'::text, clock_timestamp() - '00:05:00'::interval, 'UTC'::text)) EXECUTE FUNCTION public.mark_ended_job_day();
comment on trigger processing_queue_ended_mark_late on public.processing_queue_ended is 'A job that ended on a day that may be closed marks it.';

create table public.processing_queue_hot partition of public.processing_queue for values IN ('queued', 'processing', 'retrying') with (autovacuum_analyze_scale_factor = '0.05', autovacuum_vacuum_scale_factor = '0.02', fillfactor = '70');
comment on table public.processing_queue_hot is 'Jobs that wait or run: small, so that claims stay fast.';

CREATE INDEX processing_queue_hot_claim_idx ON public.processing_queue_hot USING btree (priority, scheduled_at, id) WHERE (status = ANY (ARRAY['queued'::public.queue_status, 'retrying'::public.queue_status])) AND scheduled_at <= created_at;
comment on index public.processing_queue_hot_claim_idx is 'The claim: who waits longest, by priority.';

CREATE INDEX processing_queue_hot_deadline_idx ON public.processing_queue_hot USING btree (deadline_at) WHERE (status = ANY (ARRAY['queued'::public.queue_status, 'retrying'::public.queue_status])) AND deadline_at IS NOT NULL;
comment on index public.processing_queue_hot_deadline_idx is 'fail_overdue_jobs().';

CREATE UNIQUE INDEX processing_queue_hot_live_key ON public.processing_queue_hot USING btree (image_id, algorithm_name, algorithm_version, parameters_hash);
comment on index public.processing_queue_hot_live_key is 'The same analysis waits or runs at most once.';

CREATE INDEX processing_queue_hot_planned_idx ON public.processing_queue_hot USING btree (priority, scheduled_at, id) WHERE (status = ANY (ARRAY['queued'::public.queue_status, 'retrying'::public.queue_status])) AND scheduled_at > created_at;
comment on index public.processing_queue_hot_planned_idx is 'The claim: what had to wait for its time; only what is due is read.';

CREATE INDEX processing_queue_hot_retrying_idx ON public.processing_queue_hot USING btree (scheduled_at) WHERE status = 'retrying'::public.queue_status;
comment on index public.processing_queue_hot_retrying_idx is 'Which job is tried again next, and when.';

CREATE INDEX processing_queue_hot_running_idx ON public.processing_queue_hot USING btree (worker_id) WHERE status = 'processing'::public.queue_status;
comment on index public.processing_queue_hot_running_idx is 'What a worker holds: heartbeat, give-back and rescue.';

CREATE TRIGGER processing_queue_hot_count_insert AFTER INSERT ON public.processing_queue_hot REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.count_jobs();
comment on trigger processing_queue_hot_count_insert on public.processing_queue_hot is 'Keeps the counters.';

CREATE TRIGGER processing_queue_hot_count_update AFTER UPDATE ON public.processing_queue_hot REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.count_jobs();
comment on trigger processing_queue_hot_count_update on public.processing_queue_hot is 'Keeps the counters.';

CREATE TRIGGER processing_queue_hot_limit_update AFTER UPDATE ON public.processing_queue_hot REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.count_running_jobs();
comment on trigger processing_queue_hot_limit_update on public.processing_queue_hot is 'Keeps how many run.';

CREATE OR REPLACE FUNCTION public.cache_keys(jobs public.processing_queue[], OUT prints text[], OUT keys text[])
 RETURNS record
 LANGUAGE plpgsql
 STABLE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    -- made once for each analyser and its parameters, not once for each job
    made constant jsonb := (
        select jsonb_object_agg(
            u.algorithm_name || '@' || u.algorithm_version || ':' || u.parameters_hash,
            public.algorithm_fingerprint(u.algorithm_name, u.algorithm_version, u.parameters::jsonb))
        from (select j.algorithm_name, j.algorithm_version, j.parameters_hash, min(j.algorithm_parameters::text) as parameters
              from unnest(jobs) j group by 1, 2, 3) u);
begin
    prints := array(
        select made ->> (j.algorithm_name || '@' || j.algorithm_version || ':' || j.parameters_hash)
        from unnest(jobs) with ordinality j order by j.ordinality);
    -- the key as cache_key() makes it, whose call would cost as much as the rest
    keys := array(
        select (select encode(sha256(convert_to(i.file_hash || ':' || prints[j.ordinality] || ':' || i.user_id, 'UTF8')), 'hex')
                from public.images i where i.id = j.image_id)
        from unnest(jobs) with ordinality j order by j.ordinality);
end
$function$;
comment on function public.cache_keys(jobs public.processing_queue[], OUT prints text[], OUT keys text[]) is 'The analysers'' fingerprints of jobs and the keys of their results in the cache, in the order of the jobs.';
revoke execute on function public.cache_keys(public.processing_queue[]) from public;

CREATE OR REPLACE FUNCTION public.claim_jobs(worker text, how_many integer DEFAULT 1, algorithms text[] DEFAULT NULL::text[], capacity numeric DEFAULT NULL::numeric)
 RETURNS SETOF public.processing_queue
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
#variable_conflict use_column
declare
    candidates  bigint[];
    free        bigint[];
    seen        bigint[] := '{}';
    held        public.processing_queue[] := '{}';
    limited     boolean;
    busy_users  bigint[] := '{}';
    busy_groups text[] := '{}';
begin
    if public.sweep_queue() then
        perform public.fold_queue_counts(), public.fail_overdue_jobs(), public.measure_algorithms();
    end if;
    -- Again only where an image of a candidate is held by somebody who enqueues, finishes or
    -- removes it, or a limit is reached: this claim holds jobs, so it doesn't wait for images,
    -- and what comes after in the queue doesn't wait either.
    loop
        limited := exists (select from public.queue_limits);
        if limited then
            select coalesce(array_agg(l.user_id) filter (where l.user_id is not null), '{}'),
                   coalesce(array_agg(l.job_group) filter (where l.job_group is not null), '{}')
            into busy_users, busy_groups
            from public.queue_limits l where l.running >= l.max_running;
        end if;
        candidates := public.next_jobs(
            greatest(claim_jobs.how_many - cardinality(held), 0), claim_jobs.algorithms, claim_jobs.capacity, seen, busy_users, busy_groups);
        exit when candidates = '{}';
        seen := seen || candidates;
        free := array(
            select i.id from public.images i
            where i.id = any (array(select q.image_id from public.processing_queue_hot q where q.id = any (candidates)))
              and i.analysis_status <> 'archived'
            order by i.id
            for no key update skip locked);
        candidates := array(
            select q.id from public.processing_queue_hot q
            where q.id = any (candidates) and (q.image_id in (select unnest(free))) is true
            order by q.scheduled_at - q.priority * public.priority_step(), q.id);
        if limited then
            candidates := public.within_limits(candidates);
        end if;
        update public.images i set analysis_status = 'processing'
        where i.id = any (array(select q.image_id from public.processing_queue_hot q where q.id = any (candidates)))
          and i.analysis_status = 'pending';
        with claimed as (
            update public.processing_queue_hot q
            set status                  = 'processing',
                worker_id               = claim_jobs.worker,
                attempt                 = q.attempt + 1,
                lease_token             = gen_random_uuid(),
                started_at              = clock_timestamp(),
                estimated_completion_at = clock_timestamp() + coalesce((
                    select coalesce(s.ms_per_megapixel * q.complexity_score::double precision, s.ms_per_job)
                    from public.algorithm_speeds s
                    where s.algorithm_name = q.algorithm_name and s.algorithm_version = q.algorithm_version), 1000) * interval '1 millisecond'
            where q.id = any (candidates)
            returning q::public.processing_queue as job
        )
        select held || coalesce(array_agg(c.job), '{}') into held from claimed c;
        exit when cardinality(held) >= claim_jobs.how_many or cardinality(seen) >= 1000 + claim_jobs.how_many;
    end loop;
    return query
        select c.* from unnest(held) c
        order by c.scheduled_at - c.priority * public.priority_step(), c.id;
end
$function$;
comment on function public.claim_jobs(worker text, how_many integer, algorithms text[], capacity numeric) is 'Gives a worker up to how_many waiting jobs of the analysers it has (name@version; null: any), none heavier than capacity megapixels (null: any), each with a lease token. The order is that of priority and waiting time together: docs/jobs.md. Their images become processing. Nobody waits, nothing is given twice, and no limit is exceeded.';
grant execute on function public.claim_jobs(text,integer,text[],numeric) to operator_role;
revoke execute on function public.claim_jobs(text,integer,text[],numeric) from public;

CREATE OR REPLACE FUNCTION public.count_failures(held public.processing_queue[], ends jsonb, over bigint[])
 RETURNS void
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    -- Rows of its own, so that nobody waits for a counter.
    insert into public.job_failures (failed_at, algorithm_name, error_class, tries, jobs)
    select date_trunc('hour', clock_timestamp(), 'UTC'), c.algorithm_name, c.error_class,
           count(*), count(*) filter (where c.id = any (count_failures.over))
    from (select h.id, h.algorithm_name,
                 case when count_failures.ends -> h.id::text ->> 'error' ~ '^[A-Za-z][A-Za-z0-9_.]{0,62}$'
                      then count_failures.ends -> h.id::text ->> 'error' else 'Unknown' end as error_class
          from unnest(count_failures.held) h) c
    group by c.algorithm_name, c.error_class
$function$;
comment on function public.count_failures(held public.processing_queue[], ends jsonb, over bigint[]) is 'Counts tries that failed. ends: by job, with "error", the kind of error; over: the jobs that failed for good.';
revoke execute on function public.count_failures(public.processing_queue[],jsonb,bigint[]) from public;

CREATE OR REPLACE FUNCTION public.end_held_jobs(held public.processing_queue[], outcome public.queue_status, ended_at timestamp with time zone, reasons jsonb DEFAULT '{}'::jsonb)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    workers constant text[] := array(select distinct h.worker_id from unnest(held) h);
begin
    -- The three live statuses prune to the hot partition, yet imply none of its partial
    -- indexes, whose dead entries a drain would walk again and again.
    update public.processing_queue q
    set status        = end_held_jobs.outcome,
        completed_at  = end_held_jobs.ended_at,
        lease_token   = null,
        error_message = case when end_held_jobs.outcome = 'completed' then null else coalesce(reasons ->> q.id::text, q.error_message) end,
        last_error_at = case when end_held_jobs.outcome = 'failed' then end_held_jobs.ended_at else q.last_error_at end
    where q.id = any (array(select h.id from unnest(held) h))
      and q.status in ('queued', 'processing', 'retrying');
    perform public.record_batch_metrics(held, end_held_jobs.outcome, end_held_jobs.ended_at);
    perform 1 from public.workers w where w.id = any (workers) order by w.id for no key update;
    update public.workers w
    set jobs_completed = w.jobs_completed + case when end_held_jobs.outcome = 'completed' then c.jobs else 0 end,
        jobs_failed    = w.jobs_failed + case when end_held_jobs.outcome = 'failed' then c.jobs else 0 end
    from (select h.worker_id, count(*) as jobs from unnest(held) h group by h.worker_id) c
    where w.id = c.worker_id;
end
$function$;
comment on function public.end_held_jobs(held public.processing_queue[], outcome public.queue_status, ended_at timestamp with time zone, reasons jsonb) is 'Moves running jobs that the caller has locked to their end, counts them on their workers, and keeps their metrics. reasons: by job.';
revoke execute on function public.end_held_jobs(public.processing_queue[],public.queue_status,timestamp with time zone,jsonb) from public;

CREATE OR REPLACE FUNCTION public.end_job(job public.processing_queue, outcome public.queue_status, ended_at timestamp with time zone, reason text, counts boolean DEFAULT true)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    -- The three live statuses prune to the hot partition, yet imply none of its partial
    -- indexes, whose dead entries a drain would walk again and again.
    update public.processing_queue q
    set status        = end_job.outcome,
        completed_at  = end_job.ended_at,
        lease_token   = null,
        error_message = case when end_job.outcome = 'completed' then null else coalesce(end_job.reason, q.error_message) end,
        last_error_at = case when end_job.outcome = 'failed' then end_job.ended_at else q.last_error_at end
    where q.id = (end_job.job).id
      and q.status in ('queued', 'processing', 'retrying');
    if (end_job.job).status <> 'processing' or not end_job.counts then
        return;
    end if;
    -- A cancelled job is nobody's doing: whoever cancels many locks no worker.
    if end_job.outcome <> 'cancelled' then
        update public.workers w
        set jobs_completed = w.jobs_completed + (end_job.outcome = 'completed')::integer,
            jobs_failed    = w.jobs_failed + (end_job.outcome = 'failed')::integer
        where w.id = (end_job.job).worker_id;
    end if;
    perform public.record_job_metrics(end_job.job, end_job.outcome::text, end_job.ended_at);
end
$function$;
comment on function public.end_job(job public.processing_queue, outcome public.queue_status, ended_at timestamp with time zone, reason text, counts boolean) is 'Moves a job that the caller has locked to its end, and counts it unless counts is false.';
revoke execute on function public.end_job(public.processing_queue,public.queue_status,timestamp with time zone,text,boolean) from public;

CREATE OR REPLACE FUNCTION public.end_tries(held public.processing_queue[], ends jsonb, counts boolean)
 RETURNS TABLE(job_id bigint, outcome text)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
    ended_at constant timestamptz := clock_timestamp();
    reasons  constant jsonb := (
        select coalesce(jsonb_object_agg(h.id, coalesce(nullif(left(ends -> h.id::text ->> 'reason', 10000), ''), 'no reason given')), '{}')
        from unnest(held) h);
    again    constant public.processing_queue[] := array(
        select h from unnest(held) h
        where not counts
           or h.retry_count < h.max_retries and coalesce((ends -> h.id::text ->> 'again')::boolean, true));
    over     constant public.processing_queue[] := array(
        select h from unnest(held) h where h.id <> all (array(select a.id from unnest(again) a)));
begin
    if held = '{}' then
        return;
    end if;
    if counts then
        perform public.end_held_jobs(held, 'failed', ended_at, reasons);
    else
        -- given back: no try, no metric, nobody's failure
        update public.processing_queue q
        set status = 'failed', completed_at = ended_at, lease_token = null,
            error_message = reasons ->> q.id::text, last_error_at = ended_at
        where q.id = any (array(select h.id from unnest(held) h)) and q.status in ('queued', 'processing', 'retrying');
    end if;
    update public.processing_queue q
    set status       = 'retrying',
        retry_count  = q.retry_count + counts::integer,
        scheduled_at = case when counts then ended_at + public.retry_delay(q.retry_count + 1) else least(q.scheduled_at, ended_at) end,
        completed_at = null
    where q.id = any (array(select a.id from unnest(again) a)) and q.status = 'failed'
      and q.created_at = any (array(select a.created_at from unnest(again) a));
    update public.images i
    set analysis_retry_count = i.analysis_retry_count + 1, last_retry_at = ended_at
    where i.id = any (array(select a.image_id from unnest(again) a)) and counts;
    if over <> '{}' then
        perform public.record_job_events(over, 'failure', ended_at, '{}', reasons);
        perform public.settle_images(
            array(select distinct o.image_id from unnest(over) o), 'failed',
            (select jsonb_object_agg(o.image_id, reasons -> o.id::text) from unnest(over) o));
    end if;
    if counts then
        perform public.count_failures(held, ends, array(select o.id from unnest(over) o));
    end if;
    return query
        select h.id, case when h.id = any (array(select a.id from unnest(again) a)) then 'retrying' else 'failed' end
        from unnest(held) h;
end
$function$;
comment on function public.end_tries(held public.processing_queue[], ends jsonb, counts boolean) is 'Ends the tries of jobs that the caller has locked: tried again after a delay, or failed for good with an audit event. ends: by job, with reason, error and again. counts false: the tries were given back and cost nothing.';
revoke execute on function public.end_tries(public.processing_queue[],jsonb,boolean) from public;

CREATE OR REPLACE FUNCTION public.end_try(held public.processing_queue, reason text, again boolean, counts boolean)
 RETURNS public.queue_status
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select t.outcome::public.queue_status
    from public.end_tries(
        array[held], jsonb_build_object(held.id, jsonb_build_object('reason', reason, 'again', again)), counts) t
$function$;
comment on function public.end_try(held public.processing_queue, reason text, again boolean, counts boolean) is 'Ends a try of a job that the caller has locked: tried again after a delay, or failed for good with an audit event. counts false: the try was given back and costs nothing.';
revoke execute on function public.end_try(public.processing_queue,text,boolean,boolean) from public;

CREATE OR REPLACE FUNCTION public.hold_job(job bigint, token uuid)
 RETURNS public.processing_queue
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    held public.processing_queue%rowtype;
begin
    perform 1 from public.images i
    where i.id = (select q.image_id from public.processing_queue_hot q where q.id = hold_job.job)
    for no key update;
    select q.* into held from public.processing_queue_hot q
    where q.id = hold_job.job and q.lease_token = hold_job.token
    for update;
    if not found then
        raise exception 'job % is no longer held with this lease', hold_job.job
            using errcode = 'NS005', hint = 'it was cancelled, or given to another worker; drop the work';
    end if;
    return held;
end
$function$;
comment on function public.hold_job(job bigint, token uuid) is 'Locks a job''s image and the job itself for whoever has its lease; an error for anybody else.';
revoke execute on function public.hold_job(bigint,uuid) from public;

CREATE OR REPLACE FUNCTION public.hold_jobs(ends jsonb)
 RETURNS SETOF public.processing_queue
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    jobs constant bigint[] := array(select k.job::bigint from jsonb_object_keys(ends) k (job));
begin
    perform 1 from public.images i
    where i.id = any (array(select q.image_id from public.processing_queue_hot q where q.id = any (jobs)))
    order by i.id for no key update;
    return query
        select q.* from public.processing_queue_hot q
        where q.id = any (jobs)
          and (ends -> q.id::text ->> 'attempt')::integer = q.attempt
          and (ends -> q.id::text ->> 'token')::uuid = q.lease_token
        order by q.id
        for update;
end
$function$;
comment on function public.hold_jobs(ends jsonb) is 'Locks the images of jobs and then those jobs that are still held with the attempt and token given, and returns these.';
revoke execute on function public.hold_jobs(jsonb) from public;

CREATE OR REPLACE FUNCTION public.record_batch_metrics(held public.processing_queue[], outcome public.queue_status, ended_at timestamp with time zone)
 RETURNS void
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
comment on function public.record_batch_metrics(held public.processing_queue[], outcome public.queue_status, ended_at timestamp with time zone) is 'How long the tries of a batch waited (job_wait_ms) and ran (job_run_ms): two metrics per job.';
revoke execute on function public.record_batch_metrics(public.processing_queue[],public.queue_status,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION public.record_job_events(held public.processing_queue[], outcome public.audit_status, ended_at timestamp with time zone, changes jsonb, reasons jsonb DEFAULT '{}'::jsonb)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
    -- drawn before the rows are written, so that details find their event without a join
    events constant bigint[] := array(select nextval('public.security_audit_id_seq') from unnest(held));
    moment constant timestamptz := now();  -- of both, so that nobody has to look for it
begin
    insert into public.security_audit (
        id, user_id, api_key_id, action, resource_type, resource_id, status, ip_address,
        user_agent, request_id, error_message, changes_after, "timestamp"
    )
    overriding system value
    select events[h.ordinality], coalesce(c.user_id, h.user_id), c.api_key_id, 'run_analysis', 'image',
           h.image_id::text, record_job_events.outcome, c.ip_address, c.user_agent, c.request_id,
           reasons ->> h.id::text, changes -> h.id::text, moment
    from public.audit_context() c
    cross join unnest(held) with ordinality h;
    insert into public.audit_log_details (audit_id, audit_timestamp, event_name, event_data, duration_ms, success_count, failure_count)
    select events[h.ordinality], moment,
           case when record_job_events.outcome = 'success' then 'job_completed' else 'job_failed' end,
           jsonb_build_object('job_id', h.id, 'algorithm', h.algorithm_name, 'version', h.algorithm_version,
                              'attempt', h.attempt, 'worker_id', h.worker_id),
           greatest(extract(epoch from record_job_events.ended_at - h.started_at) * 1000, 0),
           (record_job_events.outcome = 'success')::integer, (record_job_events.outcome <> 'success')::integer
    from unnest(held) with ordinality h;
end
$function$;
comment on function public.record_job_events(held public.processing_queue[], outcome public.audit_status, ended_at timestamp with time zone, changes jsonb, reasons jsonb) is 'One run_analysis event with its details per job that ended. changes and reasons: by job.';
revoke execute on function public.record_job_events(public.processing_queue[],public.audit_status,timestamp with time zone,jsonb,jsonb) from public;

CREATE OR REPLACE FUNCTION public.record_job_metrics(job public.processing_queue, outcome text, ended_at timestamp with time zone)
 RETURNS void
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
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
$function$;
comment on function public.record_job_metrics(job public.processing_queue, outcome text, ended_at timestamp with time zone) is 'Two metrics of a job''s try: how long it waited (job_wait_ms) and ran (job_run_ms).';
revoke execute on function public.record_job_metrics(public.processing_queue,text,timestamp with time zone) from public;

CREATE OR REPLACE FUNCTION public.store_results(held public.processing_queue[], ends jsonb[])
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
    -- Drawn before the rows are written, so that nothing has to be joined with what was written:
    -- the planner knows nothing of the length of a batch, and compared each with each.
    results bigint[] := array(select nextval('public.analysis_results_id_seq') from unnest(held));
    prints  text[];
    keys    text[];
    stored  integer;
begin
    insert into public.analysis_results (
        id, image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters,
        negative_space_data, anomalies, confidence_score, processing_time_ms, quality_metrics,
        provenance, visualization_path, cached_at, cache_ttl_seconds, performance_stats,
        optimization_suggestions
    )
    overriding system value
    select results[h.ordinality], h.image_id, h.user_id, h.algorithm_name, h.algorithm_version, h.algorithm_parameters,
           e.negative_space_data, coalesce(e.anomalies, '[]'), e.confidence_score, e.processing_time_ms, coalesce(e.quality_metrics, '{}'),
           coalesce(e.provenance, '{}'), e.visualization_path, now(), coalesce(e.cache_ttl_seconds, 86400), coalesce(e.performance_stats, '{}'),
           coalesce(e.optimization_suggestions, '[]')
    from unnest(held) with ordinality h
    cross join lateral jsonb_to_record(ends[h.ordinality]) as e (
        negative_space_data jsonb, anomalies jsonb, confidence_score numeric, processing_time_ms integer,
        quality_metrics jsonb, provenance jsonb, visualization_path text, performance_stats jsonb,
        optimization_suggestions jsonb, cache_ttl_seconds integer)
    on conflict on constraint analysis_results_identity_key do nothing;
    get diagnostics stored = row_count;
    if stored < cardinality(held) then  -- analysed again on purpose: the same in, the same out
        results := array(
            select public.result_of(h.image_id, h.algorithm_name, h.algorithm_version, h.parameters_hash)
            from unnest(held) with ordinality h order by h.ordinality);
    end if;
    select k.prints, k.keys into prints, keys from public.cache_keys(held) k;
    insert into public.analysis_cache (cache_key, image_id, analysis_id, algorithm_fingerprint, cached_result, expires_at)
    select distinct on (keys[h.ordinality]) keys[h.ordinality], h.image_id, results[h.ordinality], prints[h.ordinality],
           jsonb_build_object(
               'negative_space_data', e.given -> 'negative_space_data', 'anomalies', coalesce(nullif(e.given -> 'anomalies', 'null'), '[]'),
               'confidence_score', (e.given ->> 'confidence_score')::numeric, 'processing_time_ms', (e.given ->> 'processing_time_ms')::integer,
               'quality_metrics', coalesce(nullif(e.given -> 'quality_metrics', 'null'), '{}'),
               'provenance', coalesce(nullif(e.given -> 'provenance', 'null'), '{}'), 'visualization_path', e.given ->> 'visualization_path'),
           now() + make_interval(secs => coalesce((e.given ->> 'cache_ttl_seconds')::integer, 86400))
    from unnest(held) with ordinality h
    cross join lateral (select ends[h.ordinality] as given offset 0) e
    order by keys[h.ordinality]
    on conflict (cache_key) do update
        set analysis_id = excluded.analysis_id, image_id = excluded.image_id,
            cached_result = excluded.cached_result, created_at = excluded.created_at, expires_at = excluded.expires_at;
    return (
        select coalesce(jsonb_object_agg(h.id, results[h.ordinality]), '{}')
        from unnest(held) with ordinality h);
end
$function$;
comment on function public.store_results(held public.processing_queue[], ends jsonb[]) is 'Stores the results of held jobs, whose ends are given in the same order, and puts them into the cache; returns the results'' numbers by job.';
revoke execute on function public.store_results(public.processing_queue[],jsonb[]) from public;

create table public.queue_counts (
    id             bigint              not null generated always as identity,
    status         public.queue_status not null,
    priority       smallint            not null,
    algorithm_name text                not null,
    jobs           bigint              not null,
    constraint queue_counts_pkey PRIMARY KEY (id)
) with (autovacuum_vacuum_scale_factor = '0.0', autovacuum_vacuum_threshold = '1000');
comment on table public.queue_counts is 'How many jobs there are, as a sum of changes; read it through queue_depth.';
comment on column public.queue_counts.id is 'Number of the change.';
comment on column public.queue_counts.status is 'The status of the jobs that were counted.';
comment on column public.queue_counts.priority is 'Their priority.';
comment on column public.queue_counts.algorithm_name is 'Their analyser.';
comment on column public.queue_counts.jobs is 'How many more, or less.';

create table public.queue_limits (
    id          bigint  not null generated always as identity,
    user_id     bigint,
    job_group   text,
    max_running integer not null,
    running     integer not null default 0,
    constraint queue_limits_pkey PRIMARY KEY (id),
    constraint queue_limits_job_group_key UNIQUE (job_group),
    constraint queue_limits_user_id_key UNIQUE (user_id),
    constraint queue_limits_job_group_given CHECK (job_group <> ''::text AND length(job_group) <= 200),
    constraint queue_limits_max_running_not_negative CHECK (max_running >= 0),
    constraint queue_limits_of_user_or_group CHECK ((user_id IS NULL) <> (job_group IS NULL)),
    constraint queue_limits_running_not_negative CHECK (running >= 0)
) with (fillfactor = '50');
comment on table public.queue_limits is 'How many jobs of a user, or of a group, may run at once.';
comment on column public.queue_limits.id is 'Number of the limit.';
comment on column public.queue_limits.user_id is 'Whose jobs; null: a group''s.';
comment on column public.queue_limits.job_group is 'Which group''s jobs; null: a user''s.';
comment on column public.queue_limits.max_running is 'How many may run at once; 0: none begins.';
comment on column public.queue_limits.running is 'How many run; kept by the triggers of processing_queue.';
grant select on public.queue_limits to operator_role;

CREATE TRIGGER queue_limits_audit_delete AFTER DELETE ON public.queue_limits FOR EACH ROW EXECUTE FUNCTION public.audit_queue_limits();
comment on trigger queue_limits_audit_delete on public.queue_limits is 'Every removed limit is an event.';

CREATE TRIGGER queue_limits_audit_insert AFTER INSERT ON public.queue_limits FOR EACH ROW EXECUTE FUNCTION public.audit_queue_limits();
comment on trigger queue_limits_audit_insert on public.queue_limits is 'Every new limit is an event.';

CREATE TRIGGER queue_limits_audit_update AFTER UPDATE OF max_running, user_id, job_group ON public.queue_limits FOR EACH ROW WHEN (old.max_running IS DISTINCT FROM new.max_running OR old.user_id IS DISTINCT FROM new.user_id OR old.job_group IS DISTINCT FROM new.job_group) EXECUTE FUNCTION public.audit_queue_limits();
comment on trigger queue_limits_audit_update on public.queue_limits is 'Every changed limit is an event; that jobs begin and end is none.';

create table public.rollup_progress (
    table_name     text                     not null,
    closed_through timestamp with time zone,
    closing_at     timestamp with time zone,
    closing_xid    bigint,
    minutes_since  timestamp with time zone,
    rows_since     timestamp with time zone,
    constraint rollup_progress_pkey PRIMARY KEY (table_name),
    constraint rollup_progress_closing_whole CHECK ((closing_at IS NULL) = (closing_xid IS NULL)),
    constraint rollup_progress_table_name_known CHECK (table_name = ANY (ARRAY['performance_metrics'::text, 'security_audit'::text, 'processing_queue'::text]))
);
comment on table public.rollup_progress is 'How far each table is rolled up.';
comment on column public.rollup_progress.table_name is 'The table.';
comment on column public.rollup_progress.closed_through is 'Everything before it is rolled up; null: nothing yet.';
comment on column public.rollup_progress.closing_at is 'Where what is rolled up next ends, once every transaction below closing_xid has ended.';
comment on column public.rollup_progress.closing_xid is 'Above the number of every transaction that might still write before closing_at unseen.';
comment on column public.rollup_progress.minutes_since is 'Roll-ups by minute are kept from then on.';
comment on column public.rollup_progress.rows_since is 'The rows themselves are kept from then on; null: all are there.';
grant select on public.rollup_progress to app_user;

create table public.security_audit (
    id             bigint                   not null generated always as identity,
    user_id        bigint,
    api_key_id     bigint,
    action         public.audit_action      not null,
    resource_type  text                     not null,
    resource_id    text,
    status         public.audit_status      not null default 'success'::public.audit_status,
    ip_address     inet,
    user_agent     text,
    request_id     text,
    error_message  text,
    changes_before jsonb,
    changes_after  jsonb,
    "timestamp"    timestamp with time zone not null default now(),
    recorded_in    xid8                     not null default '0'::xid8,
    leaf_hash      bytea,
    constraint security_audit_pkey PRIMARY KEY (id, "timestamp"),
    constraint security_audit_changes_after_object CHECK (jsonb_typeof(changes_after) = 'object'::text),
    constraint security_audit_changes_before_object CHECK (jsonb_typeof(changes_before) = 'object'::text),
    constraint security_audit_resource_type_valid CHECK (resource_type ~ '^[a-z][a-z0-9_]*$'::text AND length(resource_type) <= 63)
) partition by range ("timestamp");
alter table only public.security_audit enable row level security;
alter table only public.security_audit force row level security;
comment on table public.security_audit is 'The audit trail: who did what, when, from where, and what it changed. Partitioned by month.';
comment on column public.security_audit.id is 'Number of the event.';
comment on column public.security_audit.user_id is 'Who did it; null: the system, or nobody known. No foreign key: the event outlives the account.';
comment on column public.security_audit.api_key_id is 'With which API key.';
comment on column public.security_audit.action is 'What was done.';
comment on column public.security_audit.resource_type is 'To what kind of thing: image, user, api_key, job, result, setting ….';
comment on column public.security_audit.resource_id is 'To which one.';
comment on column public.security_audit.status is 'How it ended.';
comment on column public.security_audit.ip_address is 'From which address.';
comment on column public.security_audit.user_agent is 'With which program.';
comment on column public.security_audit.request_id is 'In which request, to find it in other logs.';
comment on column public.security_audit.error_message is 'Why it failed.';
comment on column public.security_audit.changes_before is 'The changed keys before; never a secret.';
comment on column public.security_audit.changes_after is 'The changed keys after; never a secret.';
comment on column public.security_audit."timestamp" is 'When, as the time of the transaction.';
comment on column public.security_audit.recorded_in is 'The transaction that wrote it; events are sealed in the order of (recorded_in, id). 0: before there were seals.';
comment on column public.security_audit.leaf_hash is 'SHA-256 of its canonical text, made as it was written; null: before there were seals.';
grant select on public.security_audit to app_user;

CREATE INDEX security_audit_action_timestamp_idx ON public.security_audit USING btree (action, "timestamp" DESC);
comment on index public.security_audit_action_timestamp_idx is 'The newest events of one kind.';

CREATE INDEX security_audit_api_key_id_idx ON public.security_audit USING btree (api_key_id, "timestamp" DESC) WHERE api_key_id IS NOT NULL;
comment on index public.security_audit_api_key_id_idx is 'What was done with one key.';

CREATE INDEX security_audit_failures_idx ON public.security_audit USING btree ("timestamp" DESC) WHERE status <> 'success'::public.audit_status;
comment on index public.security_audit_failures_idx is 'What was refused or broke.';

CREATE INDEX security_audit_ip_address_idx ON public.security_audit USING btree (ip_address, "timestamp" DESC) WHERE ip_address IS NOT NULL;
comment on index public.security_audit_ip_address_idx is 'What came from one address.';

CREATE INDEX security_audit_recorded_in_idx ON public.security_audit USING btree (recorded_in, id);
comment on index public.security_audit_recorded_in_idx is 'The events of a seal, in its order; seal_audit(), negspace audit verify.';

CREATE INDEX security_audit_resource_idx ON public.security_audit USING btree (resource_type, resource_id, "timestamp" DESC);
comment on index public.security_audit_resource_idx is 'What was done to something, and who saw it.';

CREATE INDEX security_audit_timestamp_idx ON public.security_audit USING btree ("timestamp" DESC, id DESC);
comment on index public.security_audit_timestamp_idx is 'The newest events; recent_audit_events.';

CREATE INDEX security_audit_user_id_timestamp_idx ON public.security_audit USING btree (user_id, "timestamp" DESC);
comment on index public.security_audit_user_id_timestamp_idx is 'What somebody did; audit_summary_by_user.';

create policy security_audit_machine on public.security_audit to operator_role, current_user
    using (true)
    with check (true);
comment on policy security_audit_machine on public.security_audit is 'The operator, and functions that run as the owner: all rows. Changes are refused by triggers all the same.';

create policy security_audit_read on public.security_audit for select to app_user
    using (user_id = (( SELECT public.acting_on('read:account'::text) AS acting_on)) OR ( SELECT public.acting_on_all('read:audit'::text) AS acting_on_all));
comment on policy security_audit_read on public.security_audit is 'Events of one''s own; an administrator all.';

CREATE TRIGGER security_audit_append_only BEFORE DELETE OR UPDATE ON public.security_audit FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
alter table public.security_audit enable always trigger security_audit_append_only;
comment on trigger security_audit_append_only on public.security_audit is 'No event is ever changed or removed.';

CREATE TRIGGER security_audit_hash BEFORE INSERT ON public.security_audit FOR EACH ROW EXECUTE FUNCTION public.hash_audit_row();
alter table public.security_audit enable always trigger security_audit_hash;
comment on trigger security_audit_hash on public.security_audit is 'Fills recorded_in and leaf_hash.';

CREATE TRIGGER security_audit_no_truncate BEFORE TRUNCATE ON public.security_audit FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
alter table public.security_audit enable always trigger security_audit_no_truncate;
comment on trigger security_audit_no_truncate on public.security_audit is 'Nor all of them at once.';

CREATE OR REPLACE FUNCTION public.audit_leaf(event public.security_audit)
 RETURNS bytea
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    return sha256('\x00'::bytea || convert_to(
        'negspace security_audit 1'
        || E'\nid='             || event.id
        || E'\nuser_id='        || coalesce(event.user_id::text, '-')
        || E'\napi_key_id='     || coalesce(event.api_key_id::text, '-')
        || E'\naction='         || event.action
        || E'\nresource_type='  || length(event.resource_type) || ':' || event.resource_type
        || E'\nresource_id='    || coalesce(length(event.resource_id) || ':' || event.resource_id, '-')
        || E'\nstatus='         || event.status
        || E'\nip_address='     || coalesce(event.ip_address::text, '-')
        || E'\nuser_agent='     || coalesce(length(event.user_agent) || ':' || event.user_agent, '-')
        || E'\nrequest_id='     || coalesce(length(event.request_id) || ':' || event.request_id, '-')
        || E'\nerror_message='  || coalesce(length(event.error_message) || ':' || event.error_message, '-')
        || E'\nchanges_before=' || coalesce(length(event.changes_before::text) || ':' || event.changes_before::text, '-')
        || E'\nchanges_after='  || coalesce(length(event.changes_after::text) || ':' || event.changes_after::text, '-')
        || E'\ntimestamp='      || (extract(epoch from event."timestamp") * 1000000)::bigint,
        'UTF8'));
end
$function$;
comment on function public.audit_leaf(event public.security_audit) is 'The leaf of an event: SHA-256 of a zero byte and its canonical text, form 1.';

create table public.sessions (
    id         bigint                   not null generated always as identity,
    user_id    bigint                   not null,
    token_hash text                     not null,
    ip_address inet,
    user_agent text,
    created_at timestamp with time zone not null default now(),
    expires_at timestamp with time zone not null,
    ended_at   timestamp with time zone,
    constraint sessions_pkey PRIMARY KEY (id),
    constraint sessions_token_hash_key UNIQUE (token_hash),
    constraint sessions_expires_after_creation CHECK (expires_at > created_at),
    constraint sessions_token_hash_sha256 CHECK (length(token_hash) = 64 AND token_hash !~ '[^0-9a-f]'::text)
);
alter table public.sessions enable row level security;
alter table public.sessions force row level security;
comment on table public.sessions is 'Logins that last: who holds the token acts for the account.';
comment on column public.sessions.id is 'Number of the session.';
comment on column public.sessions.user_id is 'Whose it is.';
comment on column public.sessions.token_hash is 'SHA-256 of its token, which is given out once and stored nowhere.';
comment on column public.sessions.ip_address is 'From where it was begun.';
comment on column public.sessions.user_agent is 'With which program.';
comment on column public.sessions.created_at is 'When it began.';
comment on column public.sessions.expires_at is 'When it ends by itself; use doesn''t prolong it.';
comment on column public.sessions.ended_at is 'When it was ended; null: it wasn''t.';
grant select (created_at, ended_at, expires_at, id, ip_address, user_agent, user_id) on public.sessions to app_user;

CREATE INDEX sessions_expires_at_idx ON public.sessions USING btree (expires_at);
comment on index public.sessions_expires_at_idx is 'What ended long ago, for refresh_login_counters().';

CREATE INDEX sessions_user_id_created_at_idx ON public.sessions USING btree (user_id, created_at DESC);
comment on index public.sessions_user_id_created_at_idx is 'An account''s sessions, newest first; the foreign key.';

create policy sessions_machine on public.sessions to operator_role, current_user
    using (true)
    with check (true);
comment on policy sessions_machine on public.sessions is 'The operator, and functions that run as the owner: all rows.';

create policy sessions_read on public.sessions for select to app_user
    using (user_id = (( SELECT public.acting_on('read:account'::text) AS acting_on)) OR ( SELECT public.acting_on_all('manage:accounts'::text) AS acting_on_all));
comment on policy sessions_read on public.sessions is 'Own sessions; an administrator all.';

create table public.shared_pixels (
    image_id  bigint                   not null,
    raised_at timestamp with time zone not null default now(),
    constraint shared_pixels_pkey PRIMARY KEY (image_id)
);
comment on table public.shared_pixels is 'Images for which an alert says that another owner has the same pixels: each is raised once. Nobody''s to read: it would tell what others have.';
comment on column public.shared_pixels.image_id is 'The image that came later.';
comment on column public.shared_pixels.raised_at is 'When the alert was raised.';

create table public.unscanned_images (
    image_id bigint not null,
    constraint unscanned_images_pkey PRIMARY KEY (image_id)
);
comment on table public.unscanned_images is 'Images whose hashes came or changed since scan_duplicates() looked for their like.';
comment on column public.unscanned_images.image_id is 'The image.';
grant select on public.unscanned_images to operator_role;

create table public.upkeep_steps (
    step         text                     not null,
    lease_token  uuid,
    leased_until timestamp with time zone,
    held_by      text,
    started_at   timestamp with time zone,
    ended_at     timestamp with time zone,
    done         bigint,
    failed_at    timestamp with time zone,
    failure      text,
    constraint upkeep_steps_pkey PRIMARY KEY (step),
    constraint upkeep_steps_lease_whole CHECK ((lease_token IS NULL) = (leased_until IS NULL)),
    constraint upkeep_steps_step_given CHECK (step <> ''::text)
);
comment on table public.upkeep_steps is 'The steps of housekeeping: who does one now, and when it was last done.';
comment on column public.upkeep_steps.step is 'Name of the step, as negspace maintain shows it.';
comment on column public.upkeep_steps.lease_token is 'Known to who does it now; null: nobody does.';
comment on column public.upkeep_steps.leased_until is 'When another may take over.';
comment on column public.upkeep_steps.held_by is 'Machine and process that did it last, or do now.';
comment on column public.upkeep_steps.started_at is 'When it was last begun.';
comment on column public.upkeep_steps.ended_at is 'When it was last done, to the end.';
comment on column public.upkeep_steps.done is 'How much was done then.';
comment on column public.upkeep_steps.failed_at is 'When it last failed.';
comment on column public.upkeep_steps.failure is 'Why; null once it was done again.';
grant select on public.upkeep_steps to operator_role;

create table public.users (
    id                    bigint                   not null generated always as identity,
    email                 text                     not null,
    password_hash         text                     not null,
    full_name             text,
    role                  public.user_role         not null default 'viewer'::public.user_role,
    is_active             boolean                  not null default true,
    is_email_verified     boolean                  not null default false,
    last_login_at         timestamp with time zone,
    created_at            timestamp with time zone not null default now(),
    updated_at            timestamp with time zone not null default now(),
    metadata              jsonb                    not null default '{}'::jsonb,
    audit_event_count     bigint                   not null default 0,
    api_request_count     bigint                   not null default 0,
    failed_login_attempts integer                  not null default 0,
    account_locked_until  timestamp with time zone,
    security_settings     jsonb                    not null default '{}'::jsonb,
    constraint users_pkey PRIMARY KEY (id),
    constraint users_api_request_count_not_negative CHECK (api_request_count >= 0),
    constraint users_audit_event_count_not_negative CHECK (audit_event_count >= 0),
    constraint users_email_valid CHECK (email ~ '^[^@[:space:]]+@([^@.[:space:]]+\.)+[^@.[:space:]]+$'::text AND length(email) <= 254),
    constraint users_failed_login_attempts_not_negative CHECK (failed_login_attempts >= 0),
    constraint users_metadata_object CHECK (jsonb_typeof(metadata) = 'object'::text),
    constraint users_password_hash_bcrypt CHECK (password_hash ~ '^\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}$'::text),
    constraint users_security_settings_object CHECK (jsonb_typeof(security_settings) = 'object'::text)
);
alter table public.users enable row level security;
alter table public.users force row level security;
comment on table public.users is 'Accounts and authentication.';
comment on column public.users.id is 'Number of the account.';
comment on column public.users.email is 'E-mail address; unique whatever its letters'' case.';
comment on column public.users.password_hash is 'bcrypt hash, made in the client''s process: a clear password never reaches the database.';
comment on column public.users.full_name is 'Name as the person writes it.';
comment on column public.users.role is 'What the account may do.';
comment on column public.users.is_active is 'An account that may be used; accounts are switched off, not removed.';
comment on column public.users.is_email_verified is 'The address is known to be the account''s.';
comment on column public.users.last_login_at is 'Last successful login.';
comment on column public.users.created_at is 'When the row was made.';
comment on column public.users.updated_at is 'When the row last changed; kept by a trigger.';
comment on column public.users.metadata is 'Anything else, as a JSON object.';
comment on column public.users.audit_event_count is 'Events of the audit trail by this account; brought up to date in batches.';
comment on column public.users.api_request_count is 'Requests with its API keys; brought up to date in batches.';
comment on column public.users.failed_login_attempts is 'Failed logins since the last successful one; brought up to date in batches.';
comment on column public.users.account_locked_until is 'No login before this time, but from networks it has logged in from of late; null: not locked. Brought up to date in batches, and obeyed where somebody sets it.';
comment on column public.users.security_settings is 'The account''s own security settings, as a JSON object.';
grant select (account_locked_until, api_request_count, audit_event_count, created_at, email, failed_login_attempts, full_name, id, is_active, is_email_verified, last_login_at, metadata, role, security_settings, updated_at), update (full_name, metadata) on public.users to app_user;
grant insert, select, update on public.users to operator_role;

CREATE INDEX users_created_at_idx ON public.users USING btree (created_at DESC);
comment on index public.users_created_at_idx is 'Newest accounts first.';

CREATE UNIQUE INDEX users_email_key ON public.users USING btree (lower(email));
comment on index public.users_email_key is 'Login and look-up by e-mail, whatever its letters'' case; no address twice.';

CREATE INDEX users_last_login_at_idx ON public.users USING btree (last_login_at DESC NULLS LAST);
comment on index public.users_last_login_at_idx is 'Who logged in last, and who never did.';

CREATE INDEX users_locked_idx ON public.users USING btree (account_locked_until DESC) WHERE account_locked_until IS NOT NULL;
comment on index public.users_locked_idx is 'Which accounts are locked out, and until when.';

CREATE INDEX users_metadata_idx ON public.users USING gin (metadata jsonb_path_ops);
comment on index public.users_metadata_idx is 'Accounts by metadata: metadata @> ''{"institution": "…"}''.';

CREATE INDEX users_role_idx ON public.users USING btree (role, id) WHERE is_active;
comment on index public.users_role_idx is 'The active accounts of a role.';

create policy users_change on public.users for update to app_user
    using (id = (( SELECT public.acting_on('write:account'::text) AS acting_on)) OR ( SELECT public.acting_on_all('manage:accounts'::text) AS acting_on_all))
    with check (id = (( SELECT public.acting_on('write:account'::text) AS acting_on)) OR ( SELECT public.acting_on_all('manage:accounts'::text) AS acting_on_all));
comment on policy users_change on public.users is 'The own account; which columns, its grants say: not the role.';

create policy users_machine on public.users to operator_role, current_user
    using (true)
    with check (true);
comment on policy users_machine on public.users is 'The operator, and functions that run as the owner: all rows.';

create policy users_read on public.users for select to app_user
    using (id = (( SELECT public.acting_on('read:account'::text) AS acting_on)) OR ( SELECT public.acting_on_all('manage:accounts'::text) AS acting_on_all));
comment on policy users_read on public.users is 'The own account; an administrator all. By a key with the right scope alone.';

CREATE TRIGGER users_audit_delete AFTER DELETE ON public.users REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION public.audit_accounts('user');
comment on trigger users_audit_delete on public.users is 'Every removed account is an event.';

CREATE TRIGGER users_audit_insert AFTER INSERT ON public.users REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.audit_accounts('user');
comment on trigger users_audit_insert on public.users is 'Every new account is an event.';

CREATE TRIGGER users_audit_update AFTER UPDATE ON public.users REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.audit_accounts('user');
comment on trigger users_audit_update on public.users is 'Every decided change of an account is an event.';

CREATE TRIGGER users_keep_api_key_limits AFTER UPDATE OF role, is_active ON public.users FOR EACH ROW WHEN (old.role <> new.role OR old.is_active <> new.is_active) EXECUTE FUNCTION public.keep_api_key_limit();
comment on trigger users_keep_api_key_limits on public.users is 'What an account may no longer do its keys may no longer do.';

CREATE TRIGGER users_set_updated_at BEFORE UPDATE ON public.users FOR EACH ROW EXECUTE FUNCTION public.set_updated_at();
comment on trigger users_set_updated_at on public.users is 'Keeps updated_at.';

create table public.workers (
    id             text                     not null,
    hostname       text                     not null,
    process_id     integer                  not null,
    algorithms     text[]                   not null default '{}'::text[],
    started_at     timestamp with time zone not null default now(),
    heartbeat_at   timestamp with time zone not null default now(),
    stopped_at     timestamp with time zone,
    jobs_completed bigint                   not null default 0,
    jobs_failed    bigint                   not null default 0,
    last_words     text,
    sleeping_since timestamp with time zone,
    computing      bigint[],
    constraint workers_pkey PRIMARY KEY (id),
    constraint workers_id_given CHECK (id <> ''::text),
    constraint workers_jobs_completed_not_negative CHECK (jobs_completed >= 0),
    constraint workers_jobs_failed_not_negative CHECK (jobs_failed >= 0),
    constraint workers_process_id_positive CHECK (process_id > 0)
) with (fillfactor = '50');
comment on table public.workers is 'Worker processes, those that have stopped too. No index on heartbeat_at: heartbeats stay on their page.';
comment on column public.workers.id is 'Name of the worker, as processing_queue.worker_id has it.';
comment on column public.workers.hostname is 'The machine it runs on.';
comment on column public.workers.process_id is 'Its process there.';
comment on column public.workers.algorithms is 'The analysers it has, as name@version: what it asks claim_jobs() for.';
comment on column public.workers.started_at is 'When it began.';
comment on column public.workers.heartbeat_at is 'When it was last heard of; its jobs are taken over when that is too long ago.';
comment on column public.workers.stopped_at is 'When it said goodbye; null: it runs, or died.';
comment on column public.workers.jobs_completed is 'Jobs it completed.';
comment on column public.workers.jobs_failed is 'Tries of jobs that failed on it.';
comment on column public.workers.last_words is 'Why it stopped, as it said.';
comment on column public.workers.sleeping_since is 'Since when it has nothing to do and listens; null: it looks for jobs by itself.';
comment on column public.workers.computing is 'The jobs that it computes, as it last said; those it holds besides have not begun. Null: it doesn''t say.';
grant select on public.workers to operator_role;

CREATE INDEX workers_sleeping_idx ON public.workers USING btree (sleeping_since) WHERE sleeping_since IS NOT NULL;
comment on index public.workers_sleeping_idx is 'Whether anybody is to be woken: each enqueue looks.';

CREATE INDEX workers_started_at_idx ON public.workers USING btree (started_at DESC);
comment on index public.workers_started_at_idx is 'Newest workers first.';

create policy analysis_results_change on public.analysis_results for update to app_user
    using ((( SELECT public.acting_on('write:images'::text) AS acting_on)) IS NOT NULL AND (EXISTS ( SELECT
   FROM public.images i
  WHERE i.id = analysis_results.image_id)))
    with check ((( SELECT public.acting_on('write:images'::text) AS acting_on)) IS NOT NULL AND (EXISTS ( SELECT
   FROM public.images i
  WHERE i.id = analysis_results.image_id)));
comment on policy analysis_results_change on public.analysis_results is 'Notes on results of own images; which columns, its grants say.';

create policy analysis_results_read on public.analysis_results for select to app_user
    using ((( SELECT public.acting_on('read:results'::text) AS acting_on)) IS NOT NULL AND (EXISTS ( SELECT
   FROM public.images i
  WHERE i.id = analysis_results.image_id)));
comment on policy analysis_results_read on public.analysis_results is 'Results of images that one sees, whoever asked for them.';

create policy audit_log_details_read on public.audit_log_details for select to app_user
    using ((EXISTS ( SELECT
   FROM public.security_audit a
  WHERE a.id = audit_log_details.audit_id AND a."timestamp" = audit_log_details.audit_timestamp)));
comment on policy audit_log_details_read on public.audit_log_details is 'Details of events that one sees.';

create view public.analysis_performance_summary as
 SELECT r.id AS result_id,
    r.image_id,
    r.user_id,
    i.original_filename,
    r.algorithm_name,
    r.algorithm_version,
    r.processing_time_ms,
    r.cache_hit,
        CASE
            WHEN r.cache_hit THEN 'cached'::text
            WHEN r.processing_time_ms < 1000 THEN 'fast'::text
            WHEN r.processing_time_ms < 5000 THEN 'normal'::text
            ELSE 'slow'::text
        END AS performance_category,
    r.confidence_score,
    r.created_at
   FROM public.analysis_results r
     JOIN public.images i ON i.id = r.image_id;
do $do$ begin if current_setting('server_version_num')::integer >= 150000 then alter view public.analysis_performance_summary set (security_invoker = 'true'); end if; end $do$;
comment on view public.analysis_performance_summary is 'Each result as cached, fast (under 1 s), normal (under 5 s) or slow.';
grant select on public.analysis_performance_summary to app_user;

create view public.audit_summary_by_user as
 SELECT u.id AS user_id,
    u.email,
    COALESCE(m.event_count, 0::bigint) + COALESCE(r.event_count, 0::bigint) AS event_count,
    COALESCE(m.success_count, 0::bigint) + COALESCE(r.success_count, 0::bigint) AS success_count,
    COALESCE(m.failure_count, 0::bigint) + COALESCE(r.failure_count, 0::bigint) AS failure_count,
    COALESCE(m.partial_count, 0::bigint) + COALESCE(r.partial_count, 0::bigint) AS partial_count,
    GREATEST(m.last_event_at, r.last_event_at) AS last_event_at,
    (COALESCE(m.duration_total, 0::numeric) + COALESCE(r.duration_total, 0::numeric)) / NULLIF(COALESCE(m.duration_count, 0::bigint) + COALESCE(r.duration_count, 0::bigint), 0)::numeric AS mean_duration_ms
   FROM public.users u
     LEFT JOIN LATERAL ( SELECT sum(s.event_count)::bigint AS event_count,
            sum(s.success_count)::bigint AS success_count,
            sum(s.failure_count)::bigint AS failure_count,
            sum(s.partial_count)::bigint AS partial_count,
            max(s.last_event_at) AS last_event_at,
            sum(s.duration_count)::bigint AS duration_count,
            sum(s.duration_total) AS duration_total
           FROM public.audit_user_months s
          WHERE s.user_id = u.id) m ON true
     LEFT JOIN public.recent_audit_sums() r(user_id, event_count, success_count, failure_count, partial_count, last_event_at, duration_count, duration_total) ON r.user_id = u.id;
do $do$ begin if current_setting('server_version_num')::integer >= 150000 then alter view public.audit_summary_by_user set (security_invoker = 'true'); end if; end $do$;
comment on view public.audit_summary_by_user is 'Per user, of the months that are kept: events, successes, failures, last event, mean duration of what took time. From the sums by month, and the events for the rest: exact at any moment.';
grant select on public.audit_summary_by_user to app_user;

create view public.duplicate_images_report as
 SELECT original_id,
    user_id,
    ( SELECT o.original_filename
           FROM public.images o
          WHERE o.id = d.original_id) AS original_filename,
    ( SELECT o.file_hash
           FROM public.images o
          WHERE o.id = d.original_id) AS file_hash,
    ( SELECT o.file_size
           FROM public.images o
          WHERE o.id = d.original_id) AS file_size,
    duplicate_count,
    ARRAY( SELECT c.id
           FROM public.images c
          WHERE c.user_id = d.user_id AND c.duplicate_of = d.original_id
          ORDER BY c.id) AS duplicate_ids,
    ARRAY( SELECT c.original_filename
           FROM public.images c
          WHERE c.user_id = d.user_id AND c.duplicate_of = d.original_id
          ORDER BY c.id) AS duplicate_filenames,
    duplicate_bytes,
    last_duplicate_at
   FROM ( SELECT i.user_id,
            i.duplicate_of AS original_id,
            count(*) AS duplicate_count,
            sum(i.file_size) AS duplicate_bytes,
            max(i.uploaded_at) AS last_duplicate_at
           FROM public.images i
          WHERE i.duplicate_of IS NOT NULL
          GROUP BY i.user_id, i.duplicate_of) d;
do $do$ begin if current_setting('server_version_num')::integer >= 150000 then alter view public.duplicate_images_report set (security_invoker = 'true'); end if; end $do$;
comment on view public.duplicate_images_report is 'Each original that has duplicates, with their numbers, names and bytes. Bytes of exact duplicates are stored once all the same.';
grant select on public.duplicate_images_report to app_user;

create view public.image_analysis_status as
 SELECT i.id AS image_id,
    i.user_id,
    i.original_filename,
    i.analysis_status,
    i.uploaded_at,
    i.processed_at,
    j.id AS job_id,
    j.status AS job_status,
    j.priority,
    j.retry_count,
    j.worker_id,
    j.started_at AS job_started_at,
    j.completed_at AS job_completed_at,
    j.error_message,
    r.id AS result_id,
    r.algorithm_name,
    r.algorithm_version,
    r.confidence_score,
    r.processing_time_ms,
    r.created_at AS analysed_at
   FROM public.images i
     LEFT JOIN LATERAL ( SELECT q.id,
            q.status,
            q.priority,
            q.retry_count,
            q.worker_id,
            q.started_at,
            q.completed_at,
            q.error_message
           FROM public.processing_queue q
          WHERE q.image_id = i.id
          ORDER BY q.created_at DESC, q.id DESC
         LIMIT 1) j ON true
     LEFT JOIN LATERAL ( SELECT a.id,
            a.algorithm_name,
            a.algorithm_version,
            a.confidence_score,
            a.processing_time_ms,
            a.created_at
           FROM public.analysis_results a
          WHERE a.image_id = i.id
          ORDER BY a.created_at DESC, a.id DESC
         LIMIT 1) r ON true;
do $do$ begin if current_setting('server_version_num')::integer >= 150000 then alter view public.image_analysis_status set (security_invoker = 'true'); end if; end $do$;
comment on view public.image_analysis_status is 'Each image in the pipeline: its newest job and its newest result.';
grant select on public.image_analysis_status to app_user;

create view public.queue_depth as
 SELECT status,
    priority,
    algorithm_name,
    sum(jobs)::bigint AS job_count
   FROM public.queue_counts c
  GROUP BY status, priority, algorithm_name
 HAVING sum(jobs) <> 0::numeric;
comment on view public.queue_depth is 'How many jobs stand where, from kept counters: exact, and never a count of the queue.';
grant select on public.queue_depth to operator_role;

create view public.queue_status_summary as
 SELECT s.status,
    COALESCE(l.job_count, e.job_count, 0::bigint) AS job_count,
    COALESCE(l.mean_wait, e.mean_wait) AS mean_wait_seconds,
    COALESCE(l.p50_wait, e.p50_wait) AS p50_wait_seconds,
    COALESCE(l.p95_wait, e.p95_wait) AS p95_wait_seconds,
    COALESCE(l.max_wait, e.max_wait) AS max_wait_seconds,
    COALESCE(l.oldest, e.oldest) AS oldest_created_at,
    COALESCE(l.newest, e.newest) AS newest_created_at
   FROM unnest(enum_range(NULL::public.queue_status)) s(status)
     LEFT JOIN ( SELECT q.status,
            count(*) AS job_count,
            avg(w.seconds) AS mean_wait,
            percentile_cont(0.5::double precision) WITHIN GROUP (ORDER BY w.seconds) AS p50_wait,
            percentile_cont(0.95::double precision) WITHIN GROUP (ORDER BY w.seconds) AS p95_wait,
            max(w.seconds) AS max_wait,
            min(q.created_at) AS oldest,
            max(q.created_at) AS newest
           FROM public.processing_queue q
             CROSS JOIN LATERAL ( SELECT EXTRACT(epoch FROM GREATEST(
                        CASE
                            WHEN q.status = 'processing'::public.queue_status THEN q.started_at
                            ELSE now()
                        END - GREATEST(q.created_at, q.scheduled_at), '00:00:00'::interval))::double precision AS seconds) w
          WHERE q.status = ANY (ARRAY['queued'::public.queue_status, 'processing'::public.queue_status, 'retrying'::public.queue_status])
          GROUP BY q.status) l ON l.status = s.status
     LEFT JOIN public.ended_job_summary() e(status, job_count, mean_wait, p50_wait, p95_wait, max_wait, oldest, newest) ON e.status = s.status;
comment on view public.queue_status_summary is 'Per status, those without jobs too: how many jobs, how long they waited before their newest try began (or have waited for it), the oldest and the newest. Ended ones from sums by day: exact at any moment.';
grant select on public.queue_status_summary to operator_role;

create view public.recent_audit_events as
 SELECT a.id,
    a."timestamp",
    a.user_id,
    u.email,
    a.action,
    a.resource_type,
    a.resource_id,
    a.status,
    a.ip_address,
    a.user_agent,
    a.error_message,
    a.changes_before,
    a.changes_after
   FROM ( SELECT security_audit.id,
            security_audit."timestamp",
            security_audit.user_id,
            security_audit.action,
            security_audit.resource_type,
            security_audit.resource_id,
            security_audit.status,
            security_audit.ip_address,
            security_audit.user_agent,
            security_audit.error_message,
            security_audit.changes_before,
            security_audit.changes_after
           FROM public.security_audit
          ORDER BY security_audit."timestamp" DESC, security_audit.id DESC
         LIMIT 1000) a
     LEFT JOIN LATERAL ( SELECT p.email
           FROM public.users p
          WHERE p.id = a.user_id
         OFFSET 0) u ON true
  ORDER BY a."timestamp" DESC, a.id DESC;
do $do$ begin if current_setting('server_version_num')::integer >= 150000 then alter view public.recent_audit_events set (security_invoker = 'true'); end if; end $do$;
comment on view public.recent_audit_events is 'The newest 1000 events, newest first, with the e-mail of who acted.';
grant select on public.recent_audit_events to app_user;

create view public.user_activity_summary as
 SELECT u.id AS user_id,
    u.email,
    u.full_name,
    u.role,
    u.is_active,
    i.image_count,
    r.analysis_count,
    i.last_upload_at,
    r.last_analysis_at,
    u.last_login_at
   FROM public.users u
     CROSS JOIN LATERAL ( SELECT count(*) AS image_count,
            max(i_1.uploaded_at) AS last_upload_at
           FROM public.images i_1
          WHERE i_1.user_id = u.id) i
     CROSS JOIN LATERAL ( SELECT count(*) AS analysis_count,
            max(r_1.created_at) AS last_analysis_at
           FROM public.analysis_results r_1
          WHERE r_1.user_id = u.id) r;
do $do$ begin if current_setting('server_version_num')::integer >= 150000 then alter view public.user_activity_summary set (security_invoker = 'true'); end if; end $do$;
comment on view public.user_activity_summary is 'Per user: how many images and analyses, last upload, last analysis, last login.';
grant select on public.user_activity_summary to app_user;

alter table public.account_tokens add constraint account_tokens_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
alter table public.analysis_cache add constraint analysis_cache_analysis_id_fkey FOREIGN KEY (analysis_id) REFERENCES public.analysis_results(id) ON DELETE CASCADE;
alter table public.analysis_cache add constraint analysis_cache_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.images(id) ON DELETE CASCADE;
alter table public.analysis_results add constraint analysis_results_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.images(id) ON DELETE CASCADE;
alter table public.analysis_results add constraint analysis_results_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
alter table public.api_keys add constraint api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
alter table public.audit_log_details add constraint audit_log_details_audit_id_fkey FOREIGN KEY (audit_id, audit_timestamp) REFERENCES public.security_audit(id, "timestamp") ON DELETE CASCADE;
alter table public.duplicate_pairs add constraint duplicate_pairs_first_id_fkey FOREIGN KEY (first_id) REFERENCES public.images(id) ON DELETE CASCADE;
alter table public.duplicate_pairs add constraint duplicate_pairs_second_id_fkey FOREIGN KEY (second_id) REFERENCES public.images(id) ON DELETE CASCADE;
alter table public.image_fingerprints add constraint image_fingerprints_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.images(id) ON DELETE CASCADE;
alter table public.images add constraint images_duplicate_of_fkey FOREIGN KEY (duplicate_of) REFERENCES public.images(id) DEFERRABLE;
alter table public.images add constraint images_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
alter table public.metric_days add constraint metric_days_series_id_fkey FOREIGN KEY (series_id) REFERENCES public.metric_series(id) ON DELETE CASCADE;
alter table public.metric_hours add constraint metric_hours_series_id_fkey FOREIGN KEY (series_id) REFERENCES public.metric_series(id) ON DELETE CASCADE;
alter table public.metric_minutes add constraint metric_minutes_series_id_fkey FOREIGN KEY (series_id) REFERENCES public.metric_series(id) ON DELETE CASCADE;
alter table public.processing_queue add constraint processing_queue_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.images(id) ON DELETE CASCADE;
alter table public.processing_queue add constraint processing_queue_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
alter table public.queue_limits add constraint queue_limits_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
alter table public.sessions add constraint sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
alter table public.shared_pixels add constraint shared_pixels_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.images(id) ON DELETE CASCADE;
alter table public.unscanned_images add constraint unscanned_images_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.images(id) ON DELETE CASCADE;

commit;

-- The partitions of the months are made by a function and are no part of the schema; without
-- this month's, nothing can be inserted.
select public.ensure_partitions();

-- Views show what their reader may see; on PostgreSQL 14 they are the operator's.
select public.guard_views();

-- The key under the seal of who acts, of this database alone.
select public.renew_context_secret();

-- What operator_role is: the rights of app_user, on all rows.
do $$
begin
    if not pg_catalog.pg_has_role('operator_role', 'app_user', 'usage') then
        grant app_user to operator_role;
    end if;
end
$$;
