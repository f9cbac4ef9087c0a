-- negspace: allow constraint-missing-not-valid in this file because there is a row a key at most
-- negspace: allow adding-foreign-key-constraint in this file because there is a row a key at most

drop trigger api_keys_remove_limit on api_keys;
drop function remove_api_key_limit();

create or replace function make_api_key_limit(key bigint, key_hash text) returns boolean
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    -- Whoever changes the account or the key at this moment goes first, or finds the row.
    perform 1 from public.users u
    where u.id = (select k.user_id from public.api_keys k where k.id = key and k.key_hash = make_api_key_limit.key_hash)
    for share;
    perform 1 from public.api_keys k where k.id = key and k.key_hash = make_api_key_limit.key_hash for share;
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
$$;

comment on index api_key_limits_pkey is 'The limit of a request''s key; the foreign key.';

alter table api_key_limits
    add constraint api_key_limits_api_key_id_fkey foreign key (api_key_id) references api_keys (id) on delete cascade;
