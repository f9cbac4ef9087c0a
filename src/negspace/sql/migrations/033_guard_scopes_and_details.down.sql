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
