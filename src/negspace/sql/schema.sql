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

CREATE OR REPLACE FUNCTION public.append_processing_history()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    entry constant jsonb := jsonb_build_object('at', now(), 'from', old.analysis_status, 'to', new.analysis_status);
begin
    new.processing_history := case
        when jsonb_array_length(old.processing_history) >= 50 then old.processing_history - 0
        else old.processing_history
    end || jsonb_build_array(entry);
    return new;
end
$function$;
comment on function public.append_processing_history() is 'Keeps processing_history: the newest 50 changes of status.';

CREATE OR REPLACE FUNCTION public.archive_image(image bigint)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    perform 1 from public.images i where i.id = archive_image.image for no key update;
    if not found then
        raise exception 'there is no image %', archive_image.image
            using errcode = 'NS003', hint = 'negspace images list shows those there are';
    end if;
    perform public.cancel_jobs(
        array(select q.id from public.processing_queue q
              where q.image_id = archive_image.image and q.status in ('queued', 'retrying', 'processing')),
        'its image is archived');
    update public.images i set analysis_status = 'archived'
    where i.id = archive_image.image and i.analysis_status <> 'archived';
end
$function$;
comment on function public.archive_image(image bigint) is 'Takes an image out of use: its jobs are cancelled, its results stay.';
grant execute on function public.archive_image(bigint) to app_user;
revoke execute on function public.archive_image(bigint) from public;

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
 STABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select public.context_value('user_id')::bigint,
           public.context_value('api_key_id')::bigint,
           public.context_value('ip_address')::inet,
           public.context_value('user_agent'),
           public.context_value('request_id')
$function$;
comment on function public.audit_context(OUT user_id bigint, OUT api_key_id bigint, OUT ip_address inet, OUT user_agent text, OUT request_id text) is 'Who acts in this transaction, as an event of the audit trail keeps it; always one row.';

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
           case when added then d.facts end
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

CREATE OR REPLACE FUNCTION public.cache_key(file_hash text, algorithm_fingerprint text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select public.sha256_hex(file_hash || ':' || algorithm_fingerprint)
$function$;
comment on function public.cache_key(file_hash text, algorithm_fingerprint text) is 'The key of a cached result: SHA-256 of the file''s hash and what the analyser would do.';

CREATE OR REPLACE FUNCTION public.cancel_jobs(jobs bigint[], reason text DEFAULT 'cancelled'::text)
 RETURNS bigint[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    job       public.processing_queue%rowtype;
    cancelled bigint[] := '{}';
begin
    perform 1 from public.images i
    where i.id in (select q.image_id from public.processing_queue q where q.id = any (cancel_jobs.jobs))
    order by i.id for no key update;
    for job in
        select q.* from public.processing_queue q
        where q.id = any (cancel_jobs.jobs) and q.status in ('queued', 'processing', 'retrying', 'failed')
        order by q.id for update
    loop
        if job.status = 'failed' then
            update public.processing_queue q set status = 'cancelled'
            where q.id = job.id and q.status = 'failed' and q.created_at = job.created_at;
        else
            perform public.end_job(job, 'cancelled', clock_timestamp(), cancel_jobs.reason);
            perform public.settle_image(
                job.image_id,
                case when exists (select from public.analysis_results r where r.image_id = job.image_id)
                     then 'completed' else 'failed' end::public.analysis_status,
                cancel_jobs.reason);
        end if;
        perform public.record_event(
            'config_change', 'job', job.id::text,
            changes_before => jsonb_build_object('status', job.status),
            changes_after => jsonb_build_object('status', 'cancelled', 'reason', cancel_jobs.reason));
        cancelled := cancelled || job.id;
    end loop;
    return cancelled;
end
$function$;
comment on function public.cancel_jobs(jobs bigint[], reason text) is 'Takes jobs back, running ones too (their workers learn it with the next heartbeat), and returns those it took back; ended ones stay as they are.';
grant execute on function public.cancel_jobs(bigint[],text) to app_user;
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

CREATE OR REPLACE FUNCTION public.check_api_key(key_hash text, scope text DEFAULT NULL::text, address inet DEFAULT NULL::inet)
 RETURNS TABLE(api_key_id bigint, user_id bigint, accepted boolean, reason text)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
    found_key public.api_keys%rowtype;
    owner     public.users%rowtype;
begin
    select k.* into found_key from public.api_keys k where k.key_hash = check_api_key.key_hash;
    select u.* into owner from public.users u where u.id = found_key.user_id;
    api_key_id := found_key.id;
    user_id := found_key.user_id;
    reason := case
        when found_key.id is null then 'unknown key'
        when not found_key.is_active then 'revoked key'
        when not owner.is_active then 'inactive account'
        when found_key.expires_at <= now() then 'expired key'
        when check_api_key.scope is not null and not found_key.scopes ? check_api_key.scope then 'scope not granted'
        when check_api_key.scope <> all (public.role_scopes(owner.role)) then 'scope beyond the owner''s role'
        when found_key.ip_whitelist is not null and not exists (
            select from jsonb_array_elements_text(found_key.ip_whitelist) as n (network)
            where check_api_key.address <<= n.network::inet) then 'address not allowed'
    end;
    accepted := reason is null;
    if accepted then
        update public.api_keys k
        set last_used_at = now(), total_requests = k.total_requests + 1
        where k.id = found_key.id;
    end if;
    return next;
end
$function$;
comment on function public.check_api_key(key_hash text, scope text, address inet) is 'Answers in one round trip whether a key, named by its SHA-256, may be used for a scope from an address, and why not. Counts what it accepts.';
grant execute on function public.check_api_key(text,text,inet) to app_user;
revoke execute on function public.check_api_key(text,text,inet) from public;

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
grant execute on function public.cleanup_expired_cache(integer) to app_user;
revoke execute on function public.cleanup_expired_cache(integer) from public;

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
    select public.cache_key(i.file_hash, print), held.image_id, result, print,
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
grant execute on function public.complete_job(bigint,uuid,jsonb,jsonb,numeric,integer,jsonb,jsonb,text,jsonb,jsonb,integer) to app_user;
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
grant execute on function public.complete_job_from_cache(bigint,uuid) to app_user;
revoke execute on function public.complete_job_from_cache(bigint,uuid) from public;

CREATE OR REPLACE FUNCTION public.context_value(name text)
 RETURNS text
 LANGUAGE sql
 STABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select nullif(current_setting('negspace.' || name, true), '')
$function$;
comment on function public.context_value(name text) is 'One part of who acts in this transaction (user_id, api_key_id, ip_address, user_agent, request_id), or null.';

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
    return case when not exists (
        select from public.images i where i.file_hash = gone.file_hash and i.file_path = gone.file_path) then gone.file_path end;
end
$function$;
comment on function public.delete_image(image bigint) is 'Removes an image with its jobs and results; its oldest duplicate takes its place as the original. Returns the path of the stored file where no image uses it any more, else null.';
grant execute on function public.delete_image(bigint) to app_user;
revoke execute on function public.delete_image(bigint) from public;

CREATE OR REPLACE FUNCTION public.enqueue_jobs(images bigint[], requested_by bigint DEFAULT NULL::bigint, algorithm_name text DEFAULT 'negative_space'::text, algorithm_version text DEFAULT '1.0.0'::text, algorithm_parameters jsonb DEFAULT '{}'::jsonb, priority integer DEFAULT 5, max_retries integer DEFAULT 3, scheduled_at timestamp with time zone DEFAULT NULL::timestamp with time zone, use_cache boolean DEFAULT true)
 RETURNS TABLE(image_id bigint, job_id bigint, result_id bigint, outcome text)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
    print   constant text := public.sha256_hex(enqueue_jobs.algorithm_parameters::text);
    wrong   bigint;
    image   record;
begin
    perform 1 from public.images i where i.id = any (enqueue_jobs.images) order by i.id for no key update;
    select w.id into wrong from unnest(enqueue_jobs.images) as w (id)
    where not exists (select from public.images i where i.id = w.id) limit 1;
    if found then
        raise exception 'there is no image %', coalesce(wrong::text, 'null') using errcode = 'NS003', hint = 'negspace images list shows those there are';
    end if;
    select i.id into wrong from public.images i
    where i.id = any (enqueue_jobs.images) and i.analysis_status = 'archived' limit 1;
    if found then
        raise exception 'image % is archived and is not analysed again', wrong using errcode = 'NS006', hint = 'take the file in again to analyse it';
    end if;

    -- The entries that will answer, locked in one order by all: equal contents may come to two
    -- callers crosswise.
    if enqueue_jobs.use_cache then
        perform 1 from public.analysis_cache c
        where c.cache_key = any (array(
            select public.cache_key(i.file_hash, public.algorithm_fingerprint(
                enqueue_jobs.algorithm_name, enqueue_jobs.algorithm_version, enqueue_jobs.algorithm_parameters))
            from public.images i where i.id = any (enqueue_jobs.images)))
        order by c.cache_key for no key update;
    end if;

    for image in
        select i.id, i.user_id, i.image_dimensions, i.analysis_status
        from (select u.id, min(u.n) as n from unnest(enqueue_jobs.images) with ordinality as u (id, n) group by u.id) w
        join public.images i on i.id = w.id
        order by w.n
    loop
        image_id := image.id;
        job_id := null;
        result_id := null;
        if enqueue_jobs.use_cache then
            result_id := public.store_cached_result(
                image.id, coalesce(enqueue_jobs.requested_by, image.user_id), enqueue_jobs.algorithm_name,
                enqueue_jobs.algorithm_version, enqueue_jobs.algorithm_parameters);
        end if;
        if result_id is not null then
            outcome := 'cached';
            if image.analysis_status in ('pending', 'failed')
               and not exists (select from public.processing_queue_hot q where q.image_id = image.id) then
                update public.images i set analysis_status = 'pending' where i.id = image.id and i.analysis_status = 'failed';
                update public.images i set analysis_status = 'processing' where i.id = image.id;
                perform public.settle_image(image.id, 'completed');
            end if;
            return next;
            continue;
        end if;

        -- Whoever enqueues the same holds the image, so nobody can come between look and insert.
        select q.id into job_id from public.processing_queue_hot q
        where q.image_id = image.id and q.algorithm_name = enqueue_jobs.algorithm_name
          and q.algorithm_version = enqueue_jobs.algorithm_version and q.parameters_hash = print;
        outcome := 'waiting';
        if job_id is null then
            insert into public.processing_queue (
                image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters,
                priority, max_retries, scheduled_at, complexity_score, processing_metadata
            )
            values (
                image.id, coalesce(enqueue_jobs.requested_by, image.user_id), enqueue_jobs.algorithm_name,
                enqueue_jobs.algorithm_version, enqueue_jobs.algorithm_parameters,
                enqueue_jobs.priority, enqueue_jobs.max_retries, coalesce(enqueue_jobs.scheduled_at, now()),
                (image.image_dimensions ->> 'width')::numeric * (image.image_dimensions ->> 'height')::numeric / 1000000,
                case when enqueue_jobs.use_cache then '{}' else '{"use_cache": false}' end::jsonb
            )
            returning id into job_id;
            outcome := 'queued';
            update public.images i set analysis_status = 'pending'
            where i.id = image.id and i.analysis_status in ('completed', 'failed');
        end if;
        return next;
    end loop;
end
$function$;
comment on function public.enqueue_jobs(images bigint[], requested_by bigint, algorithm_name text, algorithm_version text, algorithm_parameters jsonb, priority integer, max_retries integer, scheduled_at timestamp with time zone, use_cache boolean) is 'Asks for an analysis of each image, in the order given and in the caller''s transaction. Outcome per image: queued (a new job), waiting (the same analysis waits or runs already), cached (the result is there, nothing waits). requested_by null: the image''s owner. use_cache false: computed again, by the worker too.';
grant execute on function public.enqueue_jobs(bigint[],bigint,text,text,jsonb,integer,integer,timestamp with time zone,boolean) to app_user;
revoke execute on function public.enqueue_jobs(bigint[],bigint,text,text,jsonb,integer,integer,timestamp with time zone,boolean) from public;

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
grant execute on function public.fail_job(bigint,uuid,text,boolean) to app_user;
revoke execute on function public.fail_job(bigint,uuid,text,boolean) from public;

CREATE OR REPLACE FUNCTION public.find_audit_timestamp()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    -- Nearly always the event was written in this transaction, and now() is its time; where
    -- it was not, its number tells.
    if not exists (select from public.security_audit a
                   where a.id = new.audit_id and a."timestamp" = new.audit_timestamp) then
        select a."timestamp" into new.audit_timestamp
        from public.security_audit a where a.id = new.audit_id;
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

CREATE OR REPLACE FUNCTION public.give_back_job(job bigint, token uuid, reason text DEFAULT 'given back by its worker'::text)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select public.end_try(public.hold_job(give_back_job.job, give_back_job.token), give_back_job.reason, true, false)
$function$;
comment on function public.give_back_job(job bigint, token uuid, reason text) is 'A worker that stops gives a job back: it waits again at once, and no try is counted.';
grant execute on function public.give_back_job(bigint,uuid,text) to app_user;
revoke execute on function public.give_back_job(bigint,uuid,text) from public;

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
grant execute on function public.heartbeat(text) to app_user;
revoke execute on function public.heartbeat(text) from public;

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
grant execute on function public.mark_duplicate_images() to app_user;
revoke execute on function public.mark_duplicate_images() from public;

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
    order by 2, 1
$function$;
comment on function public.missing_partitions(first timestamp without time zone, last timestamp without time zone) is 'The monthly partitions that are not there, of the months (UTC) from first to last, oldest first.';
revoke execute on function public.missing_partitions(timestamp without time zone,timestamp without time zone) from public;

CREATE OR REPLACE FUNCTION public.near_images(image bigint, distance integer DEFAULT 8)
 RETURNS TABLE(image_id bigint, bits integer)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select o.id, bit_count((o.perceptual_hash # i.perceptual_hash)::bit(64))::integer
    from public.images i
    join public.images o
      on o.user_id = i.user_id
     and o.id <> i.id
     and o.perceptual_hash_algorithm = i.perceptual_hash_algorithm
     and o.duplicate_of is distinct from i.id
     and i.duplicate_of is distinct from o.id
    where i.id = near_images.image
      and bit_count((o.perceptual_hash # i.perceptual_hash)::bit(64)) <= near_images.distance
    order by 2, 1
$function$;
comment on function public.near_images(image bigint, distance integer) is 'The same owner''s images that look alike: perceptual hashes at most distance bits of 64 apart, nearest first. A proposal: a person decides.';
grant execute on function public.near_images(bigint,integer) to app_user;
revoke execute on function public.near_images(bigint,integer) from public;

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
    return purged;
end
$function$;
comment on function public.purge_jobs(older_than interval, how_many integer) is 'Removes up to how_many jobs that ended longer ago, and returns how many. Their results and audit events stay.';
grant execute on function public.purge_jobs(interval,integer) to app_user;
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
    select coalesce(c.user_id, record_event.user_id), c.api_key_id, record_event.action,
           record_event.resource_type, record_event.resource_id, record_event.status,
           c.ip_address, c.user_agent, c.request_id, record_event.error_message,
           record_event.changes_before, record_event.changes_after
    from public.audit_context() c
    returning id
$function$;
comment on function public.record_event(action public.audit_action, resource_type text, resource_id text, status public.audit_status, changes_before jsonb, changes_after jsonb, error_message text, user_id bigint) is 'Writes one event of the audit trail and returns its number. Who acts comes from the transaction''s context; user_id stands in where the context names nobody.';
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
comment on function public.record_event_details(audit_id bigint, event_name text, event_description text, event_data jsonb, system_state jsonb, duration_ms numeric, success_count integer, failure_count integer) is 'Adds details to an event of the audit trail and returns their number.';
grant execute on function public.record_event_details(bigint,text,text,jsonb,jsonb,numeric,integer,integer) to app_user;
revoke execute on function public.record_event_details(bigint,text,text,jsonb,jsonb,numeric,integer,integer) from public;

CREATE OR REPLACE FUNCTION public.record_login(user_id bigint, accepted boolean, reason text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
begin
    -- One update and one event either way, for an unknown account too: what differs tells.
    update public.users u
    set last_login_at         = case when record_login.accepted then now() else u.last_login_at end,
        failed_login_attempts = case when record_login.accepted then 0 else u.failed_login_attempts + 1 end
    where u.id = record_login.user_id;
    perform public.record_event(
        'login', 'user', record_login.user_id::text,
        case when record_login.accepted then 'success' else 'failure' end::public.audit_status,
        error_message => record_login.reason, user_id => record_login.user_id);
end
$function$;
comment on function public.record_login(user_id bigint, accepted boolean, reason text) is 'Keeps last_login_at and failed_login_attempts, and writes the login event, accepted or not.';
grant execute on function public.record_login(bigint,boolean,text) to app_user;
revoke execute on function public.record_login(bigint,boolean,text) from public;

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
        select c.id,
               (select count(*) from public.security_audit a where a.user_id = c.id) as events,
               (select coalesce(sum(k.total_requests), 0) from public.api_keys k where k.user_id = c.id) as requests
        from public.users c
    ) t
    where t.id = u.id and (u.audit_event_count, u.api_request_count) <> (t.events, t.requests);
    get diagnostics changed = row_count;
    return changed;
end
$function$;
comment on function public.refresh_user_counters() is 'Brings audit_event_count and api_request_count of the accounts up to date and returns how many changed. Housekeeping calls it: a counter kept by every event would make one row the bottleneck of all.';
grant execute on function public.refresh_user_counters() to app_user;
revoke execute on function public.refresh_user_counters() from public;

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

CREATE OR REPLACE FUNCTION public.refuse_scopes_beyond_role()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    owner_role constant public.user_role := (select u.role from public.users u where u.id = new.user_id);
    allowed    constant text[] := public.role_scopes(owner_role);
    beyond     constant text := (
        select string_agg(s.scope, ', ') from jsonb_array_elements_text(new.scopes) as s (scope)
        where s.scope <> all (allowed));
begin
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
grant execute on function public.register_worker(text,text,integer,text[]) to app_user;
revoke execute on function public.register_worker(text,text,integer,text[]) from public;

CREATE OR REPLACE FUNCTION public.rescue_jobs(lease interval DEFAULT '00:00:10'::interval, how_many integer DEFAULT 100)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    held    public.processing_queue%rowtype;
    rescued integer := 0;
begin
    if rescue_jobs.lease <= interval '0' then
        raise exception 'the lease must be longer than nothing, not %', rescue_jobs.lease using errcode = 'NS004';
    end if;
    for held in
        select q.*
        from public.processing_queue_hot q
        left join public.workers w on w.id = q.worker_id
        where q.status = 'processing'
          and greatest(w.heartbeat_at, q.started_at) < clock_timestamp() - rescue_jobs.lease
        order by q.worker_id, q.image_id, q.id  -- workers are counted on, by all who rescue in one order
        limit greatest(rescue_jobs.how_many, 0)
    loop
        -- Images before jobs, and none that anybody holds: many may rescue at once.
        perform 1 from public.images i where i.id = held.image_id for no key update skip locked;
        continue when not found;
        perform 1 from public.processing_queue_hot q
        where q.id = held.id and q.lease_token is not distinct from held.lease_token and q.attempt = held.attempt
          and q.status = 'processing'
        for update skip locked;
        continue when not found;
        perform public.end_try(held, format('worker %s was not heard of for %s', held.worker_id, rescue_jobs.lease), true, true);
        rescued := rescued + 1;
    end loop;
    return rescued;
end
$function$;
comment on function public.rescue_jobs(lease interval, how_many integer) is 'Takes jobs from workers that were not heard of for the lease: tried again, or failed for good when their tries are used up, as a job is that kills its workers. Returns how many. Safe to call by many at once.';
grant execute on function public.rescue_jobs(interval,integer) to app_user;
revoke execute on function public.rescue_jobs(interval,integer) from public;

CREATE OR REPLACE FUNCTION public.retry_delay(retry integer)
 RETURNS interval
 LANGUAGE sql
 PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select make_interval(secs => random() * least(3600, 2 ^ least(retry, 20)))
$function$;
comment on function public.retry_delay(retry integer) is 'How long a job waits before its try number retry: exponential, at most an hour, full jitter, so that many that failed together don''t come back together.';

CREATE OR REPLACE FUNCTION public.retry_jobs(jobs bigint[])
 RETURNS bigint[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    job     public.processing_queue%rowtype;
    retried bigint[] := '{}';
begin
    perform 1 from public.images i
    where i.id in (select q.image_id from public.processing_queue q where q.id = any (retry_jobs.jobs))
    order by i.id for no key update;
    for job in
        select q.* from public.processing_queue q
        where q.id = any (retry_jobs.jobs) and q.status = 'failed'
        order by q.id for update
    loop
        continue when exists (
            select from public.images i where i.id = job.image_id and i.analysis_status = 'archived');
        -- the same analysis may have been asked for again since: once is enough
        continue when exists (
            select from public.processing_queue_hot q
            where q.image_id = job.image_id and q.algorithm_name = job.algorithm_name
              and q.algorithm_version = job.algorithm_version and q.parameters_hash = job.parameters_hash);
        update public.processing_queue q
        set status = 'retrying', retry_count = 0, scheduled_at = now(), completed_at = null
        where q.id = job.id and q.status = 'failed' and q.created_at = job.created_at;
        update public.images i set analysis_status = 'pending'
        where i.id = job.image_id and i.analysis_status in ('failed', 'completed');
        perform public.record_event(
            'config_change', 'job', job.id::text,
            changes_before => jsonb_build_object('status', job.status),
            changes_after => jsonb_build_object('status', 'retrying'));
        retried := retried || job.id;
    end loop;
    return retried;
end
$function$;
comment on function public.retry_jobs(jobs bigint[]) is 'Lets failed jobs be tried again, with all their tries, and returns those; a job whose analysis waits or runs anew, or whose image is archived, stays failed.';
grant execute on function public.retry_jobs(bigint[]) to app_user;
revoke execute on function public.retry_jobs(bigint[]) from public;

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
grant execute on function public.roll_up_metrics(integer) to app_user;
revoke execute on function public.roll_up_metrics(integer) from public;

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
grant execute on function public.set_image_hashes(bigint,text,bigint,text) to app_user;
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

CREATE OR REPLACE FUNCTION public.sha256_hex(content text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
    select encode(sha256(convert_to(content, 'UTF8')), 'hex')
$function$;
comment on function public.sha256_hex(content text) is 'SHA-256 of a text''s UTF-8 bytes, 64 hexadecimal digits. Immutable, which convert_to() alone is not: a database''s encoding never changes.';

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
grant execute on function public.stop_worker(text,text) to app_user;
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
    update public.analysis_cache c
    set hit_count = c.hit_count + 1, last_accessed_at = clock_timestamp()
    from public.images i
    where i.id = image
      and c.cache_key = public.cache_key(i.file_hash, print)
      and c.expires_at > clock_timestamp()
    returning c.* into entry;

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
$function$;
comment on function public.store_cached_result(image bigint, requested_by bigint, algorithm_name text, algorithm_version text, algorithm_parameters jsonb) is 'The result that an image has already, or one made from the cache for it, or null. Counts the hit.';
revoke execute on function public.store_cached_result(bigint,bigint,text,text,jsonb) from public;

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
comment on table public.analysis_cache is 'Results kept for a time, so that the same bytes with the same analyser and parameters are not computed again.';
comment on column public.analysis_cache.id is 'Number of the entry.';
comment on column public.analysis_cache.cache_key is 'What it answers: cache_key() of file hash and algorithm fingerprint.';
comment on column public.analysis_cache.image_id is 'The image it was computed for.';
comment on column public.analysis_cache.analysis_id is 'The result it repeats.';
comment on column public.analysis_cache.algorithm_fingerprint is 'algorithm_fingerprint() of name, version and resolved parameters.';
comment on column public.analysis_cache.cached_result is 'The result as JSON.';
comment on column public.analysis_cache.hit_count is 'How often it answered.';
comment on column public.analysis_cache.last_accessed_at is 'When it answered last.';
comment on column public.analysis_cache.created_at is 'When it was put in.';
comment on column public.analysis_cache.expires_at is 'From then on it answers no more and may be removed.';
comment on column public.analysis_cache.size_bytes is 'Size of the result''s text in bytes.';
grant delete, insert, select, update on public.analysis_cache to app_user;

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
grant insert, select, update (notes, optimization_suggestions, visualization_path) on public.analysis_results to app_user;

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

CREATE TRIGGER analysis_results_set_updated_at BEFORE UPDATE ON public.analysis_results FOR EACH ROW EXECUTE FUNCTION public.set_updated_at();
comment on trigger analysis_results_set_updated_at on public.analysis_results is 'Keeps updated_at.';

CREATE OR REPLACE FUNCTION public.read_results(image bigint, purpose text)
 RETURNS SETOF public.analysis_results
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    event bigint;
begin
    if coalesce(read_results.purpose, '') = '' then
        raise exception 'results are read for a purpose, and none was given'
            using errcode = 'NS004', hint = 'say in a few words what they are read for; it enters the audit trail';
    end if;
    perform 1 from public.images i where i.id = read_results.image;
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
comment on table public.api_keys is 'API authentication. Keys are switched off, not removed.';
comment on column public.api_keys.id is 'Number of the key; part of the key''s text, nsk_<id>_….';
comment on column public.api_keys.user_id is 'Whose key it is.';
comment on column public.api_keys.key_hash is 'SHA-256 of the key, 64 hexadecimal digits; the key itself is shown once and stored nowhere.';
comment on column public.api_keys.name is 'What its owner calls it.';
comment on column public.api_keys.description is 'What it is for.';
comment on column public.api_keys.is_active is 'False once it is revoked.';
comment on column public.api_keys.last_used_at is 'Last accepted request.';
comment on column public.api_keys.created_at is 'When it was made.';
comment on column public.api_keys.expires_at is 'When it ends by itself; null: never.';
comment on column public.api_keys.scopes is 'What it may do, an array of texts.';
comment on column public.api_keys.ip_whitelist is 'Networks it may be used from, an array of CIDR texts; null: any.';
comment on column public.api_keys.rate_limit_per_minute is 'Requests a minute.';
comment on column public.api_keys.last_rate_limit_reset is 'When the current window of its rate limit began.';
comment on column public.api_keys.request_count_current_window is 'Requests in that window.';
comment on column public.api_keys.total_requests is 'Requests since it was made.';
comment on column public.api_keys.usage_stats is 'Requests by day and outcome, as a JSON object.';
grant insert, select, update on public.api_keys to app_user;

CREATE INDEX api_keys_expires_at_idx ON public.api_keys USING btree (expires_at) WHERE is_active AND expires_at IS NOT NULL;
comment on index public.api_keys_expires_at_idx is 'Which key ends next.';

CREATE INDEX api_keys_last_used_at_idx ON public.api_keys USING btree (last_used_at DESC NULLS LAST) WHERE is_active;
comment on index public.api_keys_last_used_at_idx is 'Which keys are in use, and which never were.';

CREATE INDEX api_keys_scopes_idx ON public.api_keys USING gin (scopes);
comment on index public.api_keys_scopes_idx is 'Which keys may do something: scopes ? ''write:images''.';

CREATE INDEX api_keys_user_id_created_at_idx ON public.api_keys USING btree (user_id, created_at DESC);
comment on index public.api_keys_user_id_created_at_idx is 'A user''s keys, newest first; the foreign key.';

CREATE TRIGGER api_keys_audit_delete AFTER DELETE ON public.api_keys REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION public.audit_accounts('api_key');
comment on trigger api_keys_audit_delete on public.api_keys is 'Every removed key is an event.';

CREATE TRIGGER api_keys_audit_insert AFTER INSERT ON public.api_keys REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.audit_accounts('api_key');
comment on trigger api_keys_audit_insert on public.api_keys is 'Every new key is an event.';

CREATE TRIGGER api_keys_audit_update AFTER UPDATE ON public.api_keys REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.audit_accounts('api_key');
comment on trigger api_keys_audit_update on public.api_keys is 'Every decided change of a key is an event.';

CREATE TRIGGER api_keys_scopes_within_role BEFORE INSERT OR UPDATE OF scopes, user_id ON public.api_keys FOR EACH ROW WHEN (jsonb_typeof(new.scopes) = 'array'::text AND NOT new.scopes @? 'strict $[*]?(@.type() != "string")'::jsonpath) EXECUTE FUNCTION public.refuse_scopes_beyond_role();
comment on trigger api_keys_scopes_within_role on public.api_keys is 'No scope that its owner''s role doesn''t have. check_api_key() asks again, since roles change.';

create table public.audit_log_details (
    id                bigint                   not null generated always as identity,
    audit_id          bigint                   not null,
    audit_timestamp   timestamp with time zone not null default now(),
    event_name        text                     not null,
    event_description text,
    event_data        jsonb                    not null default '{}'::jsonb,
    system_state      jsonb                    not null default '{}'::jsonb,
    duration_ms       numeric(15,3),
    success_count     integer                  not null default 0,
    failure_count     integer                  not null default 0,
    created_at        timestamp with time zone not null default now(),
    constraint audit_log_details_pkey PRIMARY KEY (id, created_at),
    constraint audit_log_details_duration_ms_not_negative CHECK (duration_ms >= 0::numeric AND duration_ms <> 'NaN'::numeric),
    constraint audit_log_details_event_data_object CHECK (jsonb_typeof(event_data) = 'object'::text),
    constraint audit_log_details_event_name_given CHECK (event_name <> ''::text),
    constraint audit_log_details_failure_count_not_negative CHECK (failure_count >= 0),
    constraint audit_log_details_success_count_not_negative CHECK (success_count >= 0),
    constraint audit_log_details_system_state_object CHECK (jsonb_typeof(system_state) = 'object'::text)
) partition by range (created_at);
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
grant select on public.audit_log_details to app_user;

CREATE INDEX audit_log_details_audit_id_idx ON public.audit_log_details USING btree (audit_id, audit_timestamp);
comment on index public.audit_log_details_audit_id_idx is 'An event''s details; the foreign key.';

CREATE INDEX audit_log_details_created_at_idx ON public.audit_log_details USING btree (created_at DESC);
comment on index public.audit_log_details_created_at_idx is 'Newest details first.';

CREATE INDEX audit_log_details_event_data_idx ON public.audit_log_details USING gin (event_data jsonb_path_ops);
comment on index public.audit_log_details_event_data_idx is 'Details by fact: event_data @> ''{"job_id": 7}''.';

CREATE INDEX audit_log_details_event_name_idx ON public.audit_log_details USING btree (event_name, created_at DESC);
comment on index public.audit_log_details_event_name_idx is 'The newest details of one kind.';

CREATE TRIGGER audit_log_details_append_only BEFORE DELETE OR UPDATE ON public.audit_log_details FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
alter table public.audit_log_details enable always trigger audit_log_details_append_only;
comment on trigger audit_log_details_append_only on public.audit_log_details is 'No detail is ever changed or removed.';

CREATE TRIGGER audit_log_details_find_timestamp BEFORE INSERT ON public.audit_log_details FOR EACH ROW EXECUTE FUNCTION public.find_audit_timestamp();
comment on trigger audit_log_details_find_timestamp on public.audit_log_details is 'Fills audit_timestamp.';

CREATE TRIGGER audit_log_details_no_truncate BEFORE TRUNCATE ON public.audit_log_details FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
alter table public.audit_log_details enable always trigger audit_log_details_no_truncate;
comment on trigger audit_log_details_no_truncate on public.audit_log_details is 'Nor all of them at once.';

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

CREATE INDEX images_perceptual_hash_idx ON public.images USING btree (user_id, perceptual_hash) WHERE perceptual_hash IS NOT NULL;
comment on index public.images_perceptual_hash_idx is 'A user''s perceptual hashes, read without the table when near duplicates are looked for.';

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

CREATE TRIGGER images_append_processing_history BEFORE UPDATE ON public.images FOR EACH ROW WHEN (old.analysis_status <> new.analysis_status) EXECUTE FUNCTION public.append_processing_history();
comment on trigger images_append_processing_history on public.images is 'Keeps processing_history.';

CREATE TRIGGER images_archived_cancels_jobs AFTER UPDATE ON public.images FOR EACH ROW WHEN (old.analysis_status <> new.analysis_status AND new.analysis_status = 'archived'::public.analysis_status) EXECUTE FUNCTION public.cancel_jobs_of_image();
comment on trigger images_archived_cancels_jobs on public.images is 'No job waits for an image that is archived: it would never be claimed.';

CREATE TRIGGER images_audit_delete AFTER DELETE ON public.images REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.audit_images();
comment on trigger images_audit_delete on public.images is 'Every removed image is an event.';

CREATE TRIGGER images_audit_insert AFTER INSERT ON public.images REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.audit_images();
comment on trigger images_audit_insert on public.images is 'Every new image is an event.';

CREATE TRIGGER images_duplicate_names_an_original BEFORE INSERT OR UPDATE OF duplicate_of, user_id ON public.images FOR EACH ROW WHEN (new.duplicate_of IS NOT NULL) EXECUTE FUNCTION public.refuse_duplicate_chain();
comment on trigger images_duplicate_names_an_original on public.images is 'No chains of duplicates.';

CREATE TRIGGER images_keep_duplicates_together BEFORE UPDATE OF user_id ON public.images FOR EACH ROW WHEN (old.user_id <> new.user_id) EXECUTE FUNCTION public.refuse_to_part_duplicates();
comment on trigger images_keep_duplicates_together on public.images is 'An original and its duplicates have one owner.';

CREATE TRIGGER images_set_updated_at BEFORE UPDATE ON public.images FOR EACH ROW EXECUTE FUNCTION public.set_updated_at();
comment on trigger images_set_updated_at on public.images is 'Keeps updated_at.';

CREATE TRIGGER images_status_transition BEFORE UPDATE ON public.images FOR EACH ROW WHEN (old.analysis_status <> new.analysis_status AND (old.analysis_status <> 'pending'::public.analysis_status OR new.analysis_status <> 'processing'::public.analysis_status) AND (old.analysis_status <> 'pending'::public.analysis_status OR new.analysis_status <> 'failed'::public.analysis_status) AND (old.analysis_status <> 'pending'::public.analysis_status OR new.analysis_status <> 'archived'::public.analysis_status) AND (old.analysis_status <> 'processing'::public.analysis_status OR new.analysis_status <> 'completed'::public.analysis_status) AND (old.analysis_status <> 'processing'::public.analysis_status OR new.analysis_status <> 'failed'::public.analysis_status) AND (old.analysis_status <> 'completed'::public.analysis_status OR new.analysis_status <> 'pending'::public.analysis_status) AND (old.analysis_status <> 'completed'::public.analysis_status OR new.analysis_status <> 'archived'::public.analysis_status) AND (old.analysis_status <> 'failed'::public.analysis_status OR new.analysis_status <> 'pending'::public.analysis_status) AND (old.analysis_status <> 'failed'::public.analysis_status OR new.analysis_status <> 'archived'::public.analysis_status)) EXECUTE FUNCTION public.refuse_transition('image', 'analysis_status', '{"pending": "processing, failed, archived", "processing": "completed, failed", "completed": "pending, archived", "failed": "pending, archived"}');
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
    constraint processing_queue_pkey PRIMARY KEY (id, status, created_at),
    constraint processing_queue_algorithm_name_valid CHECK (algorithm_name ~ '^[a-z][a-z0-9_.-]*$'::text AND length(algorithm_name) <= 63),
    constraint processing_queue_algorithm_parameters_object CHECK (jsonb_typeof(algorithm_parameters) = 'object'::text),
    constraint processing_queue_algorithm_version_semver CHECK (algorithm_version ~ '^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$'::text),
    constraint processing_queue_attempt_not_negative CHECK (attempt >= 0),
    constraint processing_queue_complexity_score_not_negative CHECK (complexity_score >= 0::numeric AND complexity_score <> 'NaN'::numeric),
    constraint processing_queue_ended_has_time CHECK ((status <> ALL (ARRAY['completed'::public.queue_status, 'failed'::public.queue_status, 'cancelled'::public.queue_status])) OR completed_at IS NOT NULL),
    constraint processing_queue_estimated_priority_range CHECK (estimated_priority >= 1 AND estimated_priority <= 10),
    constraint processing_queue_max_retries_range CHECK (max_retries >= 0 AND max_retries <= 100),
    constraint processing_queue_priority_range CHECK (priority >= 1 AND priority <= 10),
    constraint processing_queue_processing_metadata_object CHECK (jsonb_typeof(processing_metadata) = 'object'::text),
    constraint processing_queue_retry_count_range CHECK (retry_count >= 0 AND retry_count <= max_retries),
    constraint processing_queue_running_has_worker CHECK (status <> 'processing'::public.queue_status OR worker_id IS NOT NULL AND started_at IS NOT NULL)
) partition by list (status);
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
grant select on public.processing_queue to app_user;

CREATE INDEX processing_queue_image_id_created_at_idx ON public.processing_queue USING btree (image_id, created_at DESC);
comment on index public.processing_queue_image_id_created_at_idx is 'An image''s jobs, newest first; image_analysis_status; the foreign key.';

CREATE INDEX processing_queue_user_id_created_at_idx ON public.processing_queue USING btree (user_id, created_at DESC);
comment on index public.processing_queue_user_id_created_at_idx is 'A user''s jobs, newest first; the foreign key.';

CREATE TRIGGER processing_queue_status_transition BEFORE UPDATE ON public.processing_queue FOR EACH ROW WHEN (old.status <> new.status AND (old.status <> 'queued'::public.queue_status OR new.status <> 'processing'::public.queue_status) AND (old.status <> 'queued'::public.queue_status OR new.status <> 'cancelled'::public.queue_status) AND (old.status <> 'processing'::public.queue_status OR new.status <> 'completed'::public.queue_status) AND (old.status <> 'processing'::public.queue_status OR new.status <> 'failed'::public.queue_status) AND (old.status <> 'processing'::public.queue_status OR new.status <> 'cancelled'::public.queue_status) AND (old.status <> 'failed'::public.queue_status OR new.status <> 'retrying'::public.queue_status) AND (old.status <> 'failed'::public.queue_status OR new.status <> 'cancelled'::public.queue_status) AND (old.status <> 'retrying'::public.queue_status OR new.status <> 'processing'::public.queue_status) AND (old.status <> 'retrying'::public.queue_status OR new.status <> 'cancelled'::public.queue_status)) EXECUTE FUNCTION public.refuse_transition('job', 'status', '{"queued": "processing, cancelled", "processing": "completed, failed, cancelled", "failed": "retrying, cancelled", "retrying": "processing, cancelled"}');
comment on trigger processing_queue_status_transition on public.processing_queue is 'The allowed changes of status; all else is refused.';

create table public.processing_queue_ended partition of public.processing_queue for values IN ('completed', 'failed', 'cancelled') partition by range (created_at);
comment on table public.processing_queue_ended is 'Jobs that have ended, by the month they were asked for.';

CREATE INDEX processing_queue_ended_failed_idx ON public.processing_queue_ended USING btree (last_error_at DESC) WHERE status = 'failed'::public.queue_status;
comment on index public.processing_queue_ended_failed_idx is 'What failed last, with its reason.';

CREATE INDEX processing_queue_ended_status_completed_at_idx ON public.processing_queue_ended USING btree (status, completed_at DESC);
comment on index public.processing_queue_ended_status_completed_at_idx is 'What ended last, by status.';

create table public.processing_queue_hot partition of public.processing_queue for values IN ('queued', 'processing', 'retrying') with (autovacuum_analyze_scale_factor = '0.05', autovacuum_vacuum_scale_factor = '0.02', fillfactor = '70');
comment on table public.processing_queue_hot is 'Jobs that wait or run: small, so that claims stay fast.';

CREATE INDEX processing_queue_hot_claim_idx ON public.processing_queue_hot USING btree (priority DESC, scheduled_at, id) WHERE status = ANY (ARRAY['queued'::public.queue_status, 'retrying'::public.queue_status]);
comment on index public.processing_queue_hot_claim_idx is 'The claim: most urgent first, then who waits longest.';

CREATE UNIQUE INDEX processing_queue_hot_live_key ON public.processing_queue_hot USING btree (image_id, algorithm_name, algorithm_version, parameters_hash);
comment on index public.processing_queue_hot_live_key is 'The same analysis waits or runs at most once.';

CREATE INDEX processing_queue_hot_retrying_idx ON public.processing_queue_hot USING btree (scheduled_at) WHERE status = 'retrying'::public.queue_status;
comment on index public.processing_queue_hot_retrying_idx is 'Which job is tried again next, and when.';

CREATE INDEX processing_queue_hot_running_idx ON public.processing_queue_hot USING btree (worker_id) WHERE status = 'processing'::public.queue_status;
comment on index public.processing_queue_hot_running_idx is 'What a worker holds: heartbeat, give-back and rescue.';

CREATE OR REPLACE FUNCTION public.claim_jobs(worker text, how_many integer DEFAULT 1, algorithms text[] DEFAULT NULL::text[])
 RETURNS SETOF public.processing_queue
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
    candidates bigint[];
    free       bigint[];
    seen       bigint[] := '{}';
    taken      bigint[] := '{}';
begin
    -- Again only where an image of a candidate is held by somebody who enqueues, finishes or
    -- removes it: this claim holds jobs, so it doesn't wait for images, and what comes after
    -- in the queue doesn't wait either.
    loop
        -- An array, not a join: a planner with statistics of an empty queue would nest the
        -- join and claim without regard to the limit.
        candidates := array(
            select q.id from public.processing_queue_hot q
            where q.status in ('queued', 'retrying')
              and q.scheduled_at <= clock_timestamp()
              and (claim_jobs.algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (claim_jobs.algorithms))
              and q.id <> all (seen)
            order by q.priority desc, q.scheduled_at, q.id
            limit greatest(claim_jobs.how_many - cardinality(taken), 0)
            for update skip locked);
        exit when candidates = '{}';
        free := array(
            select i.id from public.images i
            where i.id = any (array(select q.image_id from public.processing_queue_hot q where q.id = any (candidates)))
              and i.analysis_status <> 'archived'
            order by i.id
            for no key update skip locked);
        update public.images i set analysis_status = 'processing'
        where i.id = any (free) and i.analysis_status = 'pending';
        taken := taken || array(
            select q.id from public.processing_queue_hot q where q.id = any (candidates) and q.image_id = any (free));
        seen := seen || candidates;
        exit when cardinality(seen) >= 1000 + claim_jobs.how_many;
    end loop;
    if taken = '{}' then
        return;
    end if;
    return query
    with claimed as (
        update public.processing_queue_hot q
        set status                  = 'processing',
            worker_id               = claim_jobs.worker,
            attempt                 = q.attempt + 1,
            lease_token             = gen_random_uuid(),
            started_at              = clock_timestamp(),
            estimated_completion_at = clock_timestamp() + make_interval(secs => coalesce((
                select avg(r.processing_time_ms) / 1000.0
                from (select a.processing_time_ms from public.analysis_results a
                      where a.algorithm_name = q.algorithm_name and a.algorithm_version = q.algorithm_version
                        and not a.cache_hit
                      order by a.created_at desc limit 50) r), 1)::double precision)
        where q.id = any (taken)
        returning q.*
    )
    select c.* from claimed c order by c.priority desc, c.scheduled_at, c.id;
end
$function$;
comment on function public.claim_jobs(worker text, how_many integer, algorithms text[]) is 'Gives a worker up to how_many waiting jobs of the analysers it has (name@version; null: any), most urgent first, then who waits longest, each with a lease token. Their images become processing. Nobody waits and nothing is given twice.';
grant execute on function public.claim_jobs(text,integer,text[]) to app_user;
revoke execute on function public.claim_jobs(text,integer,text[]) from public;

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

CREATE OR REPLACE FUNCTION public.end_try(held public.processing_queue, reason text, again boolean, counts boolean)
 RETURNS public.queue_status
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
declare
    ended_at constant timestamptz := clock_timestamp();
    retried  constant boolean := again and (held.retry_count < held.max_retries or not counts);
    event    bigint;
begin
    perform public.end_job(held, 'failed', ended_at, reason, counts);
    if retried then
        update public.processing_queue q
        set status       = 'retrying',
            retry_count  = q.retry_count + counts::integer,
            scheduled_at = case when counts then ended_at + public.retry_delay(q.retry_count + 1) else ended_at end,
            completed_at = null
        where q.id = held.id and q.status = 'failed' and q.created_at = held.created_at;
        update public.images i
        set analysis_retry_count = i.analysis_retry_count + 1, last_retry_at = ended_at
        where i.id = held.image_id and counts;
        return 'retrying';
    end if;
    event := public.record_event(
        'run_analysis', 'image', held.image_id::text, 'failure', error_message => reason, user_id => held.user_id);
    perform public.record_event_details(
        event, 'job_failed', null,
        jsonb_build_object('job_id', held.id, 'algorithm', held.algorithm_name, 'version', held.algorithm_version,
                           'attempt', held.attempt, 'worker_id', held.worker_id),
        '{}', (extract(epoch from ended_at - held.started_at) * 1000)::numeric, 0, 1);
    perform public.settle_image(held.image_id, 'failed', reason);
    return 'failed';
end
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

create table public.rollup_progress (
    table_name     text                     not null,
    closed_through timestamp with time zone,
    closing_at     timestamp with time zone,
    closing_xid    bigint,
    minutes_since  timestamp with time zone,
    rows_since     timestamp with time zone,
    constraint rollup_progress_pkey PRIMARY KEY (table_name),
    constraint rollup_progress_closing_whole CHECK ((closing_at IS NULL) = (closing_xid IS NULL)),
    constraint rollup_progress_table_name_known CHECK (table_name = ANY (ARRAY['performance_metrics'::text, 'security_audit'::text]))
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
    constraint security_audit_pkey PRIMARY KEY (id, "timestamp"),
    constraint security_audit_changes_after_object CHECK (jsonb_typeof(changes_after) = 'object'::text),
    constraint security_audit_changes_before_object CHECK (jsonb_typeof(changes_before) = 'object'::text),
    constraint security_audit_resource_type_valid CHECK (resource_type ~ '^[a-z][a-z0-9_]*$'::text AND length(resource_type) <= 63)
) partition by range ("timestamp");
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
grant select on public.security_audit to app_user;

CREATE INDEX security_audit_action_timestamp_idx ON public.security_audit USING btree (action, "timestamp" DESC);
comment on index public.security_audit_action_timestamp_idx is 'The newest events of one kind.';

CREATE INDEX security_audit_api_key_id_idx ON public.security_audit USING btree (api_key_id, "timestamp" DESC) WHERE api_key_id IS NOT NULL;
comment on index public.security_audit_api_key_id_idx is 'What was done with one key.';

CREATE INDEX security_audit_failures_idx ON public.security_audit USING btree ("timestamp" DESC) WHERE status <> 'success'::public.audit_status;
comment on index public.security_audit_failures_idx is 'What was refused or broke.';

CREATE INDEX security_audit_ip_address_idx ON public.security_audit USING btree (ip_address, "timestamp" DESC) WHERE ip_address IS NOT NULL;
comment on index public.security_audit_ip_address_idx is 'What came from one address.';

CREATE INDEX security_audit_resource_idx ON public.security_audit USING btree (resource_type, resource_id, "timestamp" DESC);
comment on index public.security_audit_resource_idx is 'What was done to something, and who saw it.';

CREATE INDEX security_audit_timestamp_idx ON public.security_audit USING btree ("timestamp" DESC, id DESC);
comment on index public.security_audit_timestamp_idx is 'The newest events; recent_audit_events.';

CREATE INDEX security_audit_user_id_timestamp_idx ON public.security_audit USING btree (user_id, "timestamp" DESC);
comment on index public.security_audit_user_id_timestamp_idx is 'What somebody did; audit_summary_by_user.';

CREATE TRIGGER security_audit_append_only BEFORE DELETE OR UPDATE ON public.security_audit FOR EACH ROW EXECUTE FUNCTION public.refuse_change();
alter table public.security_audit enable always trigger security_audit_append_only;
comment on trigger security_audit_append_only on public.security_audit is 'No event is ever changed or removed.';

CREATE TRIGGER security_audit_no_truncate BEFORE TRUNCATE ON public.security_audit FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
alter table public.security_audit enable always trigger security_audit_no_truncate;
comment on trigger security_audit_no_truncate on public.security_audit is 'Nor all of them at once.';

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
comment on column public.users.failed_login_attempts is 'Failed logins since the last successful one.';
comment on column public.users.account_locked_until is 'No login before this time; null: not locked.';
comment on column public.users.security_settings is 'The account''s own security settings, as a JSON object.';
grant insert, select, update on public.users to app_user;

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

CREATE TRIGGER users_audit_delete AFTER DELETE ON public.users REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION public.audit_accounts('user');
comment on trigger users_audit_delete on public.users is 'Every removed account is an event.';

CREATE TRIGGER users_audit_insert AFTER INSERT ON public.users REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.audit_accounts('user');
comment on trigger users_audit_insert on public.users is 'Every new account is an event.';

CREATE TRIGGER users_audit_update AFTER UPDATE ON public.users REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.audit_accounts('user');
comment on trigger users_audit_update on public.users is 'Every decided change of an account is an event.';

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
grant select on public.workers to app_user;

CREATE INDEX workers_started_at_idx ON public.workers USING btree (started_at DESC);
comment on index public.workers_started_at_idx is 'Newest workers first.';

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
comment on view public.analysis_performance_summary is 'Each result as cached, fast (under 1 s), normal (under 5 s) or slow.';
grant select on public.analysis_performance_summary to app_user;

create view public.audit_summary_by_user as
 SELECT u.id AS user_id,
    u.email,
    COALESCE(e.events, 0::bigint) AS event_count,
    COALESCE(e.successes, 0::bigint) AS success_count,
    COALESCE(e.failures, 0::bigint) AS failure_count,
    COALESCE(e.partials, 0::bigint) AS partial_count,
    e.last_event_at,
    d.mean_duration_ms
   FROM public.users u
     LEFT JOIN LATERAL ( SELECT count(*) AS events,
            count(*) FILTER (WHERE a.status = 'success'::public.audit_status) AS successes,
            count(*) FILTER (WHERE a.status = 'failure'::public.audit_status) AS failures,
            count(*) FILTER (WHERE a.status = 'partial'::public.audit_status) AS partials,
            max(a."timestamp") AS last_event_at
           FROM public.security_audit a
          WHERE a.user_id = u.id) e ON true
     LEFT JOIN LATERAL ( SELECT avg(l.duration_ms) AS mean_duration_ms
           FROM public.security_audit a
             JOIN public.audit_log_details l ON l.audit_id = a.id AND l.audit_timestamp = a."timestamp"
          WHERE a.user_id = u.id) d ON true;
comment on view public.audit_summary_by_user is 'Per user: events, successes, failures, last event, mean duration of what took time.';
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
    duplicate_ids,
    duplicate_filenames,
    duplicate_bytes,
    last_duplicate_at
   FROM ( SELECT i.user_id,
            i.duplicate_of AS original_id,
            count(*) AS duplicate_count,
            array_agg(i.id ORDER BY i.id) AS duplicate_ids,
            array_agg(i.original_filename ORDER BY i.id) AS duplicate_filenames,
            sum(i.file_size) AS duplicate_bytes,
            max(i.uploaded_at) AS last_duplicate_at
           FROM public.images i
          WHERE i.duplicate_of IS NOT NULL
          GROUP BY i.user_id, i.duplicate_of) d;
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
            q.image_id,
            q.user_id,
            q.algorithm_name,
            q.algorithm_version,
            q.algorithm_parameters,
            q.parameters_hash,
            q.status,
            q.priority,
            q.retry_count,
            q.max_retries,
            q.error_message,
            q.last_error_at,
            q.created_at,
            q.scheduled_at,
            q.started_at,
            q.completed_at,
            q.estimated_completion_at,
            q.worker_id
           FROM public.processing_queue q
          WHERE q.image_id = i.id
          ORDER BY q.created_at DESC, q.id DESC
         LIMIT 1) j ON true
     LEFT JOIN LATERAL ( SELECT a.id,
            a.image_id,
            a.user_id,
            a.algorithm_name,
            a.algorithm_version,
            a.algorithm_parameters,
            a.parameters_hash,
            a.negative_space_data,
            a.anomalies,
            a.confidence_score,
            a.processing_time_ms,
            a.quality_metrics,
            a.provenance,
            a.visualization_path,
            a.notes,
            a.created_at,
            a.updated_at
           FROM public.analysis_results a
          WHERE a.image_id = i.id
          ORDER BY a.created_at DESC, a.id DESC
         LIMIT 1) r ON true;
comment on view public.image_analysis_status is 'Each image in the pipeline: its newest job and its newest result.';
grant select on public.image_analysis_status to app_user;

create view public.queue_status_summary as
 SELECT s.status,
    count(q.id) AS job_count,
    avg(w.seconds) AS mean_wait_seconds,
    percentile_cont(0.5::double precision) WITHIN GROUP (ORDER BY w.seconds) AS p50_wait_seconds,
    percentile_cont(0.95::double precision) WITHIN GROUP (ORDER BY w.seconds) AS p95_wait_seconds,
    max(w.seconds) AS max_wait_seconds,
    min(q.created_at) AS oldest_created_at,
    max(q.created_at) AS newest_created_at
   FROM unnest(enum_range(NULL::public.queue_status)) s(status)
     LEFT JOIN public.processing_queue q ON q.status = s.status
     LEFT JOIN LATERAL ( SELECT EXTRACT(epoch FROM GREATEST(
                CASE
                    WHEN q.status = ANY (ARRAY['queued'::public.queue_status, 'retrying'::public.queue_status]) THEN now()
                    ELSE q.started_at
                END - GREATEST(q.created_at, q.scheduled_at), '00:00:00'::interval))::double precision AS seconds
          WHERE (q.status = ANY (ARRAY['queued'::public.queue_status, 'retrying'::public.queue_status])) OR q.started_at IS NOT NULL) w ON true
  GROUP BY s.status;
comment on view public.queue_status_summary is 'Per status, those without jobs too: how many jobs, how long they waited before their newest try began (or have waited for it), the oldest and the newest.';
grant select on public.queue_status_summary to app_user;

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
            security_audit.user_id,
            security_audit.api_key_id,
            security_audit.action,
            security_audit.resource_type,
            security_audit.resource_id,
            security_audit.status,
            security_audit.ip_address,
            security_audit.user_agent,
            security_audit.request_id,
            security_audit.error_message,
            security_audit.changes_before,
            security_audit.changes_after,
            security_audit."timestamp"
           FROM public.security_audit
          ORDER BY security_audit."timestamp" DESC, security_audit.id DESC
         LIMIT 1000) a
     LEFT JOIN public.users u ON u.id = a.user_id
  ORDER BY a."timestamp" DESC, a.id DESC;
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
comment on view public.user_activity_summary is 'Per user: how many images and analyses, last upload, last analysis, last login.';
grant select on public.user_activity_summary to app_user;

alter table public.analysis_cache add constraint analysis_cache_analysis_id_fkey FOREIGN KEY (analysis_id) REFERENCES public.analysis_results(id) ON DELETE CASCADE;
alter table public.analysis_cache add constraint analysis_cache_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.images(id) ON DELETE CASCADE;
alter table public.analysis_results add constraint analysis_results_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.images(id) ON DELETE CASCADE;
alter table public.analysis_results add constraint analysis_results_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
alter table public.api_keys add constraint api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
alter table public.audit_log_details add constraint audit_log_details_audit_id_fkey FOREIGN KEY (audit_id, audit_timestamp) REFERENCES public.security_audit(id, "timestamp") ON DELETE CASCADE;
alter table public.images add constraint images_duplicate_of_fkey FOREIGN KEY (duplicate_of) REFERENCES public.images(id) DEFERRABLE;
alter table public.images add constraint images_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
alter table public.metric_days add constraint metric_days_series_id_fkey FOREIGN KEY (series_id) REFERENCES public.metric_series(id) ON DELETE CASCADE;
alter table public.metric_hours add constraint metric_hours_series_id_fkey FOREIGN KEY (series_id) REFERENCES public.metric_series(id) ON DELETE CASCADE;
alter table public.metric_minutes add constraint metric_minutes_series_id_fkey FOREIGN KEY (series_id) REFERENCES public.metric_series(id) ON DELETE CASCADE;
alter table public.processing_queue add constraint processing_queue_image_id_fkey FOREIGN KEY (image_id) REFERENCES public.images(id) ON DELETE CASCADE;
alter table public.processing_queue add constraint processing_queue_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;

commit;

-- The partitions of the months are made by a function and are no part of the schema; without
-- this month's, nothing can be inserted.
select public.ensure_partitions();
