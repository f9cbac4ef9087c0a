-- A key's scopes are compared with a role as it is read.

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
