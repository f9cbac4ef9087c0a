-- Services read results without a purpose; a key's scopes are compared with a role as it is read, and
-- details are added to any event.

create or replace function read_results(image bigint, purpose text) returns setof analysis_results
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
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
$$;

create or replace view image_analysis_status as
select i.id                as image_id,
       i.user_id,
       i.original_filename,
       i.analysis_status,
       i.uploaded_at,
       i.processed_at,
       j.id                as job_id,
       j.status            as job_status,
       j.priority,
       j.retry_count,
       j.worker_id,
       j.started_at        as job_started_at,
       j.completed_at      as job_completed_at,
       j.error_message,
       r.id                as result_id,
       r.algorithm_name,
       r.algorithm_version,
       r.confidence_score,
       r.processing_time_ms,
       r.created_at        as analysed_at
from images i
left join lateral (
    select q.id, q.image_id, q.user_id, q.algorithm_name, q.algorithm_version, q.algorithm_parameters, q.parameters_hash,
           q.status, q.priority, q.retry_count, q.max_retries, q.error_message, q.last_error_at, q.created_at,
           q.scheduled_at, q.started_at, q.completed_at, q.estimated_completion_at, q.worker_id
    from processing_queue q
    where q.image_id = i.id
    order by q.created_at desc, q.id desc
    limit 1
) j on true
left join lateral (
    select a.id, a.image_id, a.user_id, a.algorithm_name, a.algorithm_version, a.algorithm_parameters, a.parameters_hash,
           a.negative_space_data, a.anomalies, a.confidence_score, a.processing_time_ms, a.quality_metrics,
           a.provenance, a.visualization_path, a.notes, a.created_at, a.updated_at
    from analysis_results a
    where a.image_id = i.id
    order by a.created_at desc, a.id desc
    limit 1
) r on true;

select guard_views();

revoke select (
    id, image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters, parameters_hash, confidence_score,
    processing_time_ms, notes, created_at, updated_at, cache_hit, cached_at, cache_ttl_seconds, performance_stats,
    optimization_suggestions
) on analysis_results from app_user;
revoke select on analysis_results from operator_role;
grant select on analysis_results to app_user;


create or replace function refuse_scopes_beyond_role() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
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
$$;

create or replace function find_audit_timestamp() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    -- Nearly always the event was written in this transaction, and now() is its time; where
    -- it was not, its number tells.
    select a."timestamp" into new.audit_timestamp
    from public.security_audit a where a.id = new.audit_id and a."timestamp" = now();
    if not found then
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
$$;

comment on function record_event_details(bigint, text, text, jsonb, jsonb, numeric, integer, integer) is
    'Adds details to an event of the audit trail and returns their number.';

create or replace function audit_images() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
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
$$;
