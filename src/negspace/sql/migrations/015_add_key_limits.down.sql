-- Removes the limits and what was counted of them since the last batch; no other row is lost.

drop function rotate_api_key(bigint, bigint, text, interval);

drop trigger api_keys_networks_canonical on api_keys;
drop function refuse_misleading_networks();

comment on column api_keys.last_used_at                 is 'Last accepted request.';
comment on column api_keys.last_rate_limit_reset        is 'When the current window of its rate limit began.';
comment on column api_keys.request_count_current_window is 'Requests in that window.';
comment on column api_keys.total_requests               is 'Requests since it was made.';
comment on column api_keys.usage_stats                  is 'Requests by day and outcome, as a JSON object.';
drop function count_api_key_uses(integer);

comment on index api_keys_key_hash_key is 'The key of a request; check_api_key().';
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

drop function verify_api_key(bigint, text, text, inet);
drop trigger users_keep_api_key_limits on users;
drop trigger api_keys_keep_limit on api_keys;
drop function keep_api_key_limit();
drop function make_api_key_limit(bigint, text);
drop function network_array(jsonb);
drop function rate_limit_step(integer);
drop table api_key_limits;
