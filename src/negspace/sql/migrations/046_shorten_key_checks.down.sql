create or replace function verify_api_key(
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
          and l.unused_at <= clock_timestamp() + l.slack  -- who asks too often is refused before the rest is looked at
          and l.is_active
          and l.owner_is_active
          and (l.expires_at is null or l.expires_at > clock_timestamp())
          and (scope is null or (scope = any (l.scopes) and scope = any (l.owner_scopes)))
          and (l.networks is null or origin <<= any (l.networks))
        returning l.api_key_id, l.user_id, true,
                  floor(date_part('epoch', clock_timestamp() + l.slack + l.step - l.unused_at) / date_part('epoch', l.step))
        into api_key_id, user_id, accepted, remaining;
        if accepted then
            return;
        end if;
        select l.api_key_id, l.user_id, false, r.reason,
               case when r.reason = 'rate limit reached' then 0 end,
               case when r.reason = 'rate limit reached' then greatest(l.unused_at - l.slack - clock_timestamp(), interval '0') end
        into api_key_id, user_id, accepted, reason, remaining, retry_after
        from public.api_key_limits l
        cross join lateral (
            select case
                when not l.is_active then 'revoked key'
                when not l.owner_is_active then 'inactive account'
                when l.expires_at <= clock_timestamp() then 'expired key'
                when scope <> all (l.scopes) then 'scope not granted'
                when scope <> all (l.owner_scopes) then 'scope beyond the owner''s role'
                when l.networks is not null and (origin <<= any (l.networks)) is not true then 'address not allowed'
                else 'rate limit reached'
            end as reason
        ) r
        where l.api_key_id = key and l.key_hash = verify_api_key.key_hash;
        exit when found;
        if not public.make_api_key_limit(key, key_hash) then
            accepted := false;
            reason := 'unknown key';
            return;
        end if;
    end loop;
end
$$;
