-- A key's scopes are compared with a role that can't change meanwhile.


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
