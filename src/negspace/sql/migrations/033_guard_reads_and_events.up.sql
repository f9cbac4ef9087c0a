-- What an analysis found is read for a purpose, by services too; a key's scopes are compared with a
-- role that can't change meanwhile; nobody but the operator adds details to an event that was there
-- before; and an image that is taken in for somebody else has its owner in the event.


-- ── Results are read by their function ──────────────────────────────────────────────────
-- Of a result, services see which it is; what was found is shown by read_results(), which writes
-- who saw it and why.

revoke select on analysis_results from app_user;
grant select on analysis_results to operator_role;
grant select (
    id, image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters, parameters_hash, confidence_score,
    processing_time_ms, notes, created_at, updated_at, cache_hit, cached_at, cache_ttl_seconds, performance_stats,
    optimization_suggestions
) on analysis_results to app_user;

-- It asked for all columns of a job and a result, to show some.
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
    select q.id, q.status, q.priority, q.retry_count, q.worker_id, q.started_at, q.completed_at, q.error_message
    from processing_queue q
    where q.image_id = i.id
    order by q.created_at desc, q.id desc
    limit 1
) j on true
left join lateral (
    select a.id, a.algorithm_name, a.algorithm_version, a.confidence_score, a.processing_time_ms, a.created_at
    from analysis_results a
    where a.image_id = i.id
    order by a.created_at desc, a.id desc
    limit 1
) r on true;

select guard_views();

create or replace function read_results(image bigint, purpose text) returns setof analysis_results
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
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
$$;


-- ── Keys and events ─────────────────────────────────────────────────────────────────────


create or replace function refuse_scopes_beyond_role() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
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
$$;

create or replace function find_audit_timestamp() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
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
$$;

comment on function record_event_details(bigint, text, text, jsonb, jsonb, numeric, integer, integer) is
    'Adds details to an event of the audit trail and returns their number; of services, to an event of the same transaction.';

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
$$;
