-- Logins and API keys as functions. Passwords are compared in the client's process: bcrypt
-- never runs in SQL, where literals reach logs.


create function record_login(user_id bigint, accepted boolean, reason text default null) returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
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
$$;
comment on function record_login(bigint, boolean, text) is 'Keeps last_login_at and failed_login_attempts, and writes the login event, accepted or not.';
revoke execute on function record_login(bigint, boolean, text) from public;
grant execute on function record_login(bigint, boolean, text) to app_user;


-- The one place that says which scopes there are and which role may have them.

create function role_scopes(role user_role) returns text[]
    language sql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select case role
        when 'viewer'   then array['read:images', 'read:results']
        when 'api_user' then array['read:images', 'write:images', 'read:results', 'run:analyses']
        when 'analyst'  then array['read:images', 'write:images', 'read:results', 'run:analyses', 'read:metrics']
        when 'admin'    then array['read:images', 'write:images', 'read:results', 'run:analyses', 'read:metrics', 'read:audit', 'manage:accounts']
    end
$$;
comment on function role_scopes(user_role) is
    'The scopes that an API key of an account in this role may have. read:images: list and show images. write:images: take in, change, archive and remove them. read:results: read and export what analyses found. run:analyses: enqueue, cancel and retry jobs. read:metrics: metrics and the queue. read:audit: the audit trail. manage:accounts: accounts and keys.';

create function refuse_scopes_beyond_role() returns trigger
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
comment on function refuse_scopes_beyond_role() is 'Refuses an API key whose scopes exceed its owner''s role, or don''t exist.';

create trigger api_keys_scopes_within_role
    before insert or update of scopes, user_id on api_keys
    for each row
    when (jsonb_typeof(new.scopes) = 'array' and not new.scopes @? 'strict $[*] ? (@.type() != "string")')  -- else a check refuses it
    execute function refuse_scopes_beyond_role();
comment on trigger api_keys_scopes_within_role on api_keys is 'No scope that its owner''s role doesn''t have. check_api_key() asks again, since roles change.';


create function check_api_key(key_hash text, scope text default null, address inet default null)
    returns table (api_key_id bigint, user_id bigint, accepted boolean, reason text)
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
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
$$;
comment on function check_api_key(text, text, inet) is
    'Answers in one round trip whether a key, named by its SHA-256, may be used for a scope from an address, and why not. Counts what it accepts.';
revoke execute on function check_api_key(text, text, inet) from public;
grant execute on function check_api_key(text, text, inet) to app_user;
