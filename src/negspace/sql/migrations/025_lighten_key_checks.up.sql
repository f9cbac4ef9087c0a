-- A check of a key does less: the row that every request writes has no foreign key any more. A
-- trigger removes it with its key instead.

-- negspace: allow ban-drop-constraint in this file because a trigger does what it did


alter table api_key_limits drop constraint api_key_limits_api_key_id_fkey;

comment on index api_key_limits_pkey is 'The limit of a request''s key; its removal with the key.';

create or replace function make_api_key_limit(key bigint, key_hash text) returns boolean
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    -- Whoever changes the account or the key at this moment goes first, or finds the row.
    perform 1 from public.users u
    where u.id = (select k.user_id from public.api_keys k where k.id = key and k.key_hash = make_api_key_limit.key_hash)
    for share;
    -- Written, not locked alone: a transaction that began before and removes or revokes the key on
    -- an older snapshot, which doesn't show this row, fails then instead of leaving it behind.
    update public.api_keys k set last_rate_limit_reset = k.last_rate_limit_reset
    where k.id = key and k.key_hash = make_api_key_limit.key_hash;
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

create function remove_api_key_limit() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    delete from public.api_key_limits l where l.api_key_id = old.id;
    return null;
end
$$;
comment on function remove_api_key_limit() is 'Removes what decides on a key''s requests with the key.';
revoke execute on function remove_api_key_limit() from public;

create trigger api_keys_remove_limit
    after delete on api_keys
    for each row
    execute function remove_api_key_limit();
comment on trigger api_keys_remove_limit on api_keys is 'A key that is removed is refused from the commit on.';
