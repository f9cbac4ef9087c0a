-- negspace: allow constraint-missing-not-valid in this file because there is a row a key at most

create or replace function keep_image_fingerprints() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    insert into public.image_fingerprints (image_id, user_id, perceptual_hash, algorithm)
    select n.id, n.user_id, n.perceptual_hash, n.perceptual_hash_algorithm
    from new_rows n where n.perceptual_hash is not null and n.perceptual_hash_algorithm is not null
    on conflict do nothing;
    insert into public.unscanned_images (image_id)
    select n.id from new_rows n where n.perceptual_hash is not null or n.pixel_hash is not null
    on conflict do nothing;
    return null;
end
$$;

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

alter table api_key_limits
    add constraint api_key_limits_busy_requests_not_negative check (busy_requests >= 0),
    add constraint api_key_limits_uncounted_not_negative     check (uncounted >= 0);
