-- A key's scopes are compared with a role as it is read, and details are added to any event.


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
