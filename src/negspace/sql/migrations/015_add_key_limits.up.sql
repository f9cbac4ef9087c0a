-- The whole check of an API key in one call: key, owner, end, scope, address and rate limit.
-- Its counters are kept beside it and carried to api_keys in batches; keys are rotated with
-- an overlap; networks are held canonical by the database itself.

-- negspace: allow prefer-bigint-over-int in this file because it is what is left of a limit, no id
-- negspace: allow ban-drop-function in this file because services call verify_api_key() from this version on


-- ── The rate limit ──────────────────────────────────────────────────────────────────────
-- GCRA: one time per key says how far the limit is used up. Unlogged, because each request
-- writes it: one hot key would wait for an fsync a request otherwise. A crash empties the
-- table, so that after it each key may have one burst anew, and what was not yet carried to
-- api_keys is not counted.
--
-- The row holds what decides as well, so that a request touches this row alone: triggers on
-- api_keys and users keep it true, in the transaction that changes a key or an account. Each
-- writes what comes from its own row and reads no other, so that neither can bring back what
-- the other has just taken away.

create unlogged table api_key_limits (
    api_key_id       bigint      not null,
    user_id          bigint      not null,
    key_hash         text        not null,
    is_active        boolean     not null,
    expires_at       timestamptz null,
    scopes           text[]      not null,
    networks         inet[]      null,
    owner_is_active  boolean     not null,
    owner_scopes     text[]      not null,
    step             interval    not null,
    slack            interval    not null,
    unused_at        timestamptz not null default now(),
    busy_since       timestamptz not null default now(),
    busy_requests    bigint      not null default 0,
    uncounted        bigint      not null default 0,
    last_accepted_at timestamptz null,

    constraint api_key_limits_pkey                       primary key (api_key_id),
    constraint api_key_limits_api_key_id_fkey            foreign key (api_key_id) references api_keys (id) on delete cascade,
    constraint api_key_limits_busy_requests_not_negative check (busy_requests >= 0),
    constraint api_key_limits_uncounted_not_negative     check (uncounted >= 0)
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0.02);

comment on table  api_key_limits                  is 'What decides on a request with a key, and how far its rate limit is used up. Unlogged: empty after a crash, and made again. Nobody''s to read or write: verify_api_key() does.';
comment on column api_key_limits.api_key_id       is 'The key; its row is made by its first request.';
comment on column api_key_limits.user_id          is 'Whose key it is.';
comment on column api_key_limits.key_hash         is 'The key''s hash.';
comment on column api_key_limits.is_active        is 'The key is not revoked.';
comment on column api_key_limits.expires_at       is 'When the key ends by itself; null: never.';
comment on column api_key_limits.scopes           is 'What the key may do.';
comment on column api_key_limits.networks         is 'Where it may be used from; null: anywhere.';
comment on column api_key_limits.owner_is_active  is 'Its owner''s account is switched on.';
comment on column api_key_limits.owner_scopes     is 'What keys of its owner''s role may do: role_scopes().';
comment on column api_key_limits.step             is 'A minute divided by the limit, in whole microseconds: how far each request moves unused_at.';
comment on column api_key_limits.slack            is 'How far unused_at may lie ahead for one more request: all steps of the limit but one.';
comment on column api_key_limits.unused_at        is 'When its limit is wholly unused again: the theoretical arrival time of GCRA.';
comment on column api_key_limits.busy_since       is 'Since when the limit was never wholly unused.';
comment on column api_key_limits.busy_requests    is 'Accepted requests since then.';
comment on column api_key_limits.uncounted        is 'Accepted requests that count_api_key_uses() has not yet carried to api_keys.';
comment on column api_key_limits.last_accepted_at is 'The last accepted request; null: none yet.';
comment on index api_key_limits_pkey is 'The limit of a request''s key; the foreign key.';


create function rate_limit_step(per_minute integer) returns interval
    language sql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select interval '1 microsecond' * greatest(1, 60000000 / per_minute)
$$;
comment on function rate_limit_step(integer) is
    'A minute divided by a rate limit, rounded down to whole microseconds, of which there is one at least.';

create function network_array(networks jsonb) returns inet[]
    language sql
    immutable parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select case when networks is not null then array(select n.network::inet from jsonb_array_elements_text(networks) as n (network)) end
$$;
comment on function network_array(jsonb) is 'An API key''s networks as an array; null stays null.';

create function make_api_key_limit(key bigint, key_hash text) returns boolean
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
comment on function make_api_key_limit(bigint, text) is 'Makes the row of a key''s first request, from its key and its owner; false where there is no such key.';
revoke execute on function make_api_key_limit(bigint, text) from public;

create function keep_api_key_limit() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    if tg_table_name = 'users' then
        update public.api_key_limits l
        set owner_is_active = new.is_active, owner_scopes = public.role_scopes(new.role)
        from public.api_keys k
        where k.user_id = new.id and l.api_key_id = k.id;
    elsif new.user_id <> old.user_id then
        delete from public.api_key_limits l where l.api_key_id = new.id;
    else
        update public.api_key_limits l
        set key_hash   = new.key_hash,
            is_active  = new.is_active,
            expires_at = new.expires_at,
            scopes     = array(select jsonb_array_elements_text(new.scopes)),
            networks   = public.network_array(new.ip_whitelist),
            step       = public.rate_limit_step(new.rate_limit_per_minute),
            slack      = public.rate_limit_step(new.rate_limit_per_minute) * (new.rate_limit_per_minute - 1)
        where l.api_key_id = new.id;
    end if;
    return null;
end
$$;
comment on function keep_api_key_limit() is 'Carries a change of a key or of its owner to api_key_limits, in the transaction that changes it: a key that is revoked is refused from its commit on.';
revoke execute on function keep_api_key_limit() from public;

create trigger api_keys_keep_limit
    after update of user_id, key_hash, is_active, expires_at, scopes, ip_whitelist, rate_limit_per_minute on api_keys
    for each row
    execute function keep_api_key_limit();
comment on trigger api_keys_keep_limit on api_keys is 'Revoked at once, and so every other change.';

create trigger users_keep_api_key_limits
    after update of role, is_active on users
    for each row
    when (old.role <> new.role or old.is_active <> new.is_active)
    execute function keep_api_key_limit();
comment on trigger users_keep_api_key_limits on users is 'What an account may no longer do its keys may no longer do.';


create function verify_api_key(
    key             bigint,
    key_hash        text,
    scope           text default null,
    address         inet default null,
    out api_key_id  bigint,
    out user_id     bigint,
    out accepted    boolean,
    out reason      text,
    out remaining   integer,
    out retry_after interval
)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_variable
declare
    -- ::ffff:a.b.c.d is a.b.c.d, so that no network of IPv4 is walked round, or missed, by it
    origin constant inet := case
        when family(address) = 6 and masklen(address) = 128 and address <<= inet '::ffff:0.0.0.0/96'
        then inet '0.0.0.0' + (address - inet '::ffff:0.0.0.0')
        else address end;
    held   public.api_key_limits%rowtype;
begin
    for try in 1 .. 2 loop
        -- Nearly always this is all. Whoever comes at the same time waits for the row and asks
        -- again with what it holds then; a limit that is used up changes no row and locks none.
        update public.api_key_limits l
        set unused_at        = greatest(l.unused_at, clock_timestamp()) + l.step,
            busy_since       = case when l.unused_at < clock_timestamp() then clock_timestamp() else l.busy_since end,
            busy_requests    = case when l.unused_at < clock_timestamp() then 1 else l.busy_requests + 1 end,
            uncounted        = l.uncounted + 1,
            last_accepted_at = clock_timestamp()
        where l.api_key_id = key
          and l.key_hash = verify_api_key.key_hash
          and l.is_active
          and l.owner_is_active
          and (l.expires_at is null or l.expires_at > clock_timestamp())
          and (scope is null or (scope = any (l.scopes) and scope = any (l.owner_scopes)))
          and (l.networks is null or origin <<= any (l.networks))
          and l.unused_at <= clock_timestamp() + l.slack
        returning l.api_key_id, l.user_id, true,
                  floor(date_part('epoch', clock_timestamp() + l.slack + l.step - l.unused_at) / date_part('epoch', l.step))
        into api_key_id, user_id, accepted, remaining;
        if accepted then
            return;
        end if;
        select l.* into held from public.api_key_limits l where l.api_key_id = key and l.key_hash = verify_api_key.key_hash;
        exit when found;
        if not public.make_api_key_limit(key, key_hash) then
            accepted := false;
            reason := 'unknown key';
            return;
        end if;
    end loop;

    api_key_id := held.api_key_id;
    user_id := held.user_id;
    accepted := false;
    reason := case
        when not held.is_active then 'revoked key'
        when not held.owner_is_active then 'inactive account'
        when held.expires_at <= clock_timestamp() then 'expired key'
        when scope <> all (held.scopes) then 'scope not granted'
        when scope <> all (held.owner_scopes) then 'scope beyond the owner''s role'
        when held.networks is not null and (origin <<= any (held.networks)) is not true then 'address not allowed'
        else 'rate limit reached'
    end;
    if reason = 'rate limit reached' then
        remaining := 0;
        retry_after := greatest(held.unused_at - held.slack - clock_timestamp(), interval '0');
    end if;
end
$$;
comment on function verify_api_key(bigint, text, text, inet) is
    'Answers in one round trip whether a key, named by the number in its text and by its SHA-256, may be used for a scope from an address, and takes one request from its rate limit where it may. Refused for the limit: after how long to come again. Call it in a transaction of its own: the row of the limit is locked until its end. A refusal writes nothing.';
revoke execute on function verify_api_key(bigint, text, text, inet) from public;
grant execute on function verify_api_key(bigint, text, text, inet) to app_user;

-- It had no limit and wrote the key's row at each request; nothing is left to call it.
drop function check_api_key(text, text, inet);
comment on index api_keys_key_hash_key is 'One key for one hash.';


-- ── Counters, in batches ────────────────────────────────────────────────────────────────

create function count_api_key_uses(how_many integer default 10000) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    keys    bigint[];
    counted integer;
begin
    -- One at a time, and no queue behind it.
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.count_api_key_uses', 0)) then
        return 0;
    end if;
    keys := array(
        select k.id from public.api_keys k
        where k.id = any (array(
            select l.api_key_id from public.api_key_limits l where l.uncounted > 0
            order by l.uncounted desc limit greatest(how_many, 0)))
        order by k.id
        for no key update);
    with used as (
        select l.* from public.api_key_limits l
        where l.api_key_id = any (keys) order by l.api_key_id for update
    ), reset as (
        update public.api_key_limits l set uncounted = 0
        from used where l.api_key_id = used.api_key_id
    )
    update public.api_keys k
    set total_requests               = k.total_requests + used.uncounted,
        last_used_at                 = greatest(k.last_used_at, used.last_accepted_at),
        last_rate_limit_reset        = used.busy_since,
        request_count_current_window = least(used.busy_requests, 2147483647),
        usage_stats                  = k.usage_stats || jsonb_build_object(d.day, coalesce(k.usage_stats -> d.day, '{}')
            || jsonb_build_object('accepted', coalesce((k.usage_stats -> d.day ->> 'accepted')::bigint, 0) + used.uncounted))
    from used
    cross join lateral (select to_char(used.last_accepted_at at time zone 'UTC', 'YYYY-MM-DD') as day) d
    where k.id = used.api_key_id;
    get diagnostics counted = row_count;

    -- Refusals are events already; of those of a flood against the limit none is kept.
    update public.api_keys k
    set usage_stats = k.usage_stats || r.stats
    from (
        select k2.id, jsonb_object_agg(e.day, coalesce(k2.usage_stats -> e.day, '{}') || jsonb_build_object('refused', e.refused)) as stats
        from (
            select a.resource_id, to_char(a."timestamp" at time zone 'UTC', 'YYYY-MM-DD') as day, count(*) as refused
            from public.security_audit a
            where a.action = 'api_call' and a.resource_type = 'api_key' and a.status = 'failure'
              and a."timestamp" >= date_trunc('day', now() at time zone 'UTC') at time zone 'UTC' - interval '1 day'
            group by 1, 2
        ) e
        join public.api_keys k2 on k2.id::text = e.resource_id
        group by k2.id
    ) r
    where k.id = r.id and not k.usage_stats @> r.stats;
    return counted;
end
$$;
comment on function count_api_key_uses(integer) is
    'Carries what up to how_many keys were used for to api_keys (last_used_at, total_requests, the window and usage_stats) and returns how many keys, those with the most uses first. Housekeeping calls it: a write of api_keys by every request would make one row the bottleneck of all. Requests count for the day (UTC) of the last of them.';
revoke execute on function count_api_key_uses(integer) from public;
grant execute on function count_api_key_uses(integer) to app_user;

comment on column api_keys.last_used_at                 is 'Last accepted request; brought up to date in batches.';
comment on column api_keys.last_rate_limit_reset        is 'When the current window of its rate limit began: since then the limit was never wholly unused. Brought up to date in batches.';
comment on column api_keys.request_count_current_window is 'Requests in that window; brought up to date in batches.';
comment on column api_keys.total_requests               is 'Requests since it was made; brought up to date in batches.';
comment on column api_keys.usage_stats                  is 'Requests by day (UTC) and outcome, {"2026-01-31": {"accepted": 7, "refused": 1}}; brought up to date in batches.';


-- ── Networks ────────────────────────────────────────────────────────────────────────────

create function refuse_misleading_networks() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    wrong text;
begin
    begin
        select n.network into wrong
        from jsonb_array_elements_text(new.ip_whitelist) as n (network)
        where n.network::cidr::text <> n.network
           or (n.network::cidr && cidr '::ffff:0.0.0.0/96' and n.network <> '::/0')
        limit 1;
    exception
        when invalid_text_representation then
            wrong := new.ip_whitelist::text;
    end;
    if wrong is not null then
        raise exception 'ip_whitelist holds %, which is no canonical network', wrong
            using errcode = 'NS004',
                  hint = 'such as 192.0.2.0/24: the prefix always given, no bits beyond it, IPv4 never written as IPv6';
    end if;
    return new;
end
$$;
comment on function refuse_misleading_networks() is
    'Refuses networks that are not written as PostgreSQL writes them, and those of IPv6 that hold IPv4 addresses: they would not mean what they seem to.';

create trigger api_keys_networks_canonical
    before insert or update of ip_whitelist on api_keys
    for each row
    when (jsonb_typeof(new.ip_whitelist) = 'array' and not new.ip_whitelist @? 'strict $[*] ? (@.type() != "string")')  -- else a check refuses it
    execute function refuse_misleading_networks();
comment on trigger api_keys_networks_canonical on api_keys is 'Networks mean what they seem to.';


-- ── Rotation ────────────────────────────────────────────────────────────────────────────

create function rotate_api_key(key bigint, successor bigint, key_hash text, overlap interval default interval '1 day')
    returns api_keys
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_variable
declare
    old_key public.api_keys%rowtype;
    new_key public.api_keys%rowtype;
begin
    if overlap is null or overlap < interval '0' or overlap > interval '90 days' then
        raise exception 'the overlap must be from 0 to 90 days, not %', coalesce(overlap::text, 'null')
            using errcode = 'NS004', hint = 'long enough to give the new key to all who use the old one';
    end if;
    select k.* into old_key from public.api_keys k where k.id = key for no key update;
    if not found then
        raise exception 'there is no API key %', key using errcode = 'NS003', hint = 'negspace keys list shows those there are';
    end if;
    if not old_key.is_active or old_key.expires_at <= now() then
        raise exception 'API key % has ended and can''t be rotated', key using errcode = 'NS006', hint = 'negspace keys create makes another';
    end if;
    insert into public.api_keys (
        id, user_id, key_hash, name, description, scopes, ip_whitelist, rate_limit_per_minute, expires_at
    )
    overriding system value
    values (
        successor, old_key.user_id, key_hash, old_key.name, old_key.description, old_key.scopes, old_key.ip_whitelist,
        old_key.rate_limit_per_minute, now() + (old_key.expires_at - old_key.created_at)
    )
    returning * into new_key;
    update public.api_keys k
    set is_active  = overlap > interval '0',
        expires_at = case when overlap > interval '0' then least(k.expires_at, now() + overlap) else k.expires_at end
    where k.id = key;
    perform public.record_event(
        'permission_change', 'api_key', successor::text, changes_after => jsonb_build_object('replaces', key));
    return new_key;
end
$$;
comment on function rotate_api_key(bigint, bigint, text, interval) is
    'Makes a successor of a key, with all that the key has and as long to live as it had, and ends the key after the overlap; at once where that is 0.';
revoke execute on function rotate_api_key(bigint, bigint, text, interval) from public;
grant execute on function rotate_api_key(bigint, bigint, text, interval) to app_user;
