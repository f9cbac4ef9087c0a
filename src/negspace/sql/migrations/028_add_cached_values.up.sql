-- Values that are computed once, whoever asks, and kept for a time; bounds on the size of both
-- caches; and what of housekeeping was done when, so that of many who keep house one works.
--
-- Both rest on leases: a row with a token and an end. No transaction and no lock is held while
-- somebody computes, so that PgBouncer may stand in between, and whoever dies is replaced when
-- the lease ends. Locks: the lease of a key, then its value; both one key at a time or by key.


-- ── Values ──────────────────────────────────────────────────────────────────────────────

create table cached_values (
    key          text        not null,
    value        jsonb       not null,
    size_bytes   bigint      not null generated always as (octet_length(value::text)) stored,
    computed_at  timestamptz not null,
    expires_at   timestamptz not null,
    kept_until   timestamptz not null,
    hit_count    bigint      not null default 0,
    last_used_at timestamptz not null,

    constraint cached_values_pkey                   primary key (key),
    constraint cached_values_key_given              check (key <> '' and length(key) <= 512),
    constraint cached_values_size_bytes_bounded     check (size_bytes <= 67108864),
    constraint cached_values_expires_after_computed check (expires_at > computed_at),
    constraint cached_values_kept_until_expired     check (kept_until >= expires_at),
    constraint cached_values_hit_count_not_negative check (hit_count >= 0)
);

comment on table  cached_values              is 'What get_or_compute() keeps: values by key, each computed once until it expires.';
comment on column cached_values.key          is 'What the value answers; a prefix such as "report:" tells kinds apart.';
comment on column cached_values.value        is 'The value as JSON.';
comment on column cached_values.size_bytes   is 'Size of its text in bytes, 64 MB at most.';
comment on column cached_values.computed_at  is 'When it was computed.';
comment on column cached_values.expires_at   is 'From then on it is computed anew.';
comment on column cached_values.kept_until   is 'Until then it stands in while somebody computes it anew; then it may be removed.';
comment on column cached_values.hit_count    is 'How often it answered; brought up to date in batches.';
comment on column cached_values.last_used_at is 'When it answered last, or was computed; brought up to date in batches.';

comment on index cached_values_pkey is 'The value of a key.';
create index cached_values_kept_until_idx on cached_values (kept_until);
comment on index cached_values_kept_until_idx is 'cleanup_cached_values().';
create index cached_values_last_used_at_idx on cached_values (last_used_at);
comment on index cached_values_last_used_at_idx is 'trim_cached_values(): what was not asked for longest goes first.';

grant select on cached_values to app_user;

-- Unlogged: a crash ends every computation, so nobody need wait for the end of its lease.
create unlogged table cached_value_leases (
    key          text        not null,
    token        uuid        not null,
    leased_until timestamptz not null,
    held_by      text        not null,
    taken_at     timestamptz not null,

    constraint cached_value_leases_pkey primary key (key)
);

comment on table  cached_value_leases              is 'Who computes which value now.';
comment on column cached_value_leases.key          is 'The value''s key.';
comment on column cached_value_leases.token        is 'Known to who computes it: nobody else can store or renew.';
comment on column cached_value_leases.leased_until is 'Who computes renews it; once it is past, another takes over.';
comment on column cached_value_leases.held_by      is 'Machine and process that compute.';
comment on column cached_value_leases.taken_at     is 'Since when.';
comment on index  cached_value_leases_pkey         is 'Who computes the value of a key.';

grant select on cached_value_leases to app_user;

create table cached_value_uses (
    day        timestamptz not null,
    hits       bigint      not null default 0,
    stale_hits bigint      not null default 0,
    misses     bigint      not null default 0,

    constraint cached_value_uses_pkey                    primary key (day),
    constraint cached_value_uses_hits_not_negative       check (hits >= 0),
    constraint cached_value_uses_stale_hits_not_negative check (stale_hits >= 0),
    constraint cached_value_uses_misses_not_negative     check (misses >= 0)
);

comment on table  cached_value_uses            is 'How often cached_values answered, by day; counted in batches, so that no read writes.';
comment on column cached_value_uses.day        is 'The day (UTC), as the time at which it began.';
comment on column cached_value_uses.hits       is 'Answered.';
comment on column cached_value_uses.stale_hits is 'Answered with a value that had expired, while another was computed.';
comment on column cached_value_uses.misses     is 'Not there: computed, or waited for.';
comment on index  cached_value_uses_pkey       is 'One day.';

grant select on cached_value_uses to app_user;


-- ── One computation at a time ───────────────────────────────────────────────────────────

create function find_cached_value(
    key       text,
    lease     interval,
    stale     interval,
    held_by   text,
    out state text,
    out value jsonb,
    out token uuid
)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_variable
declare
    fresh boolean;
begin
    if key is null or key = '' or length(key) > 512 or lease is null or lease <= interval '0' or stale is null or stale < interval '0' then
        raise exception 'a value has a key of 1 to 512 characters, a lease longer than nothing and no negative time to stand in'
            using errcode = 'NS004', hint = 'such as find_cached_value(''report:7'', interval ''30 seconds'', interval ''0'', ''me'')';
    end if;
    select v.value, v.expires_at > clock_timestamp() into value, fresh from public.cached_values v
    where v.key = find_cached_value.key and v.expires_at + stale > clock_timestamp();
    if fresh then
        state := 'fresh';
        return;
    end if;
    state := case when fresh is null then 'wait' else 'stale' end;
    -- A look first: those who wait come again and again, and must not write.
    perform 1 from public.cached_value_leases l where l.key = find_cached_value.key and l.leased_until > clock_timestamp();
    if found then
        return;
    end if;
    insert into public.cached_value_leases as l (key, token, leased_until, held_by, taken_at)
    values (key, gen_random_uuid(), clock_timestamp() + lease, held_by, clock_timestamp())
    on conflict on constraint cached_value_leases_pkey do update
    set token = excluded.token, leased_until = excluded.leased_until, held_by = excluded.held_by, taken_at = excluded.taken_at
    where l.leased_until <= clock_timestamp()
    returning l.token into token;
    if token is null then
        return;
    end if;
    -- Who computed may have stored it between the look above and the lease.
    perform 1 from public.cached_values v where v.key = find_cached_value.key and v.expires_at > clock_timestamp();
    if found then
        delete from public.cached_value_leases l where l.key = find_cached_value.key;
        select v.value into value from public.cached_values v where v.key = find_cached_value.key;
        state := 'fresh';
        token := null;
        return;
    end if;
    state := 'compute';
    value := null;
end
$$;
comment on function find_cached_value(text, interval, interval, text) is
    'The value of a key, or the right to compute it. state: fresh (the value), stale (an expired one, while another is computed), wait (somebody computes it: come again), compute (yours to compute: store_cached_value() with the token, renewed before the lease ends). In a transaction of its own: others wait for its end.';
revoke execute on function find_cached_value(text, interval, interval, text) from public;
grant execute on function find_cached_value(text, interval, interval, text) to app_user;

create function store_cached_value(key text, token uuid, value jsonb, ttl interval, stale interval default interval '0') returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_variable
declare
    moment constant timestamptz := clock_timestamp();
begin
    if ttl is null or ttl <= interval '0' or ttl > interval '10 years' or stale is null or stale < interval '0' or stale > interval '10 years' then
        raise exception 'a value is kept for more than nothing and at most ten years, and so it stands in, not % and %',
            coalesce(ttl::text, 'null'), coalesce(stale::text, 'null')
            using errcode = 'NS004', hint = 'such as interval ''1 hour''';
    end if;
    delete from public.cached_value_leases l where l.key = store_cached_value.key and l.token = store_cached_value.token;
    if not found then
        return false;
    end if;
    insert into public.cached_values (key, value, computed_at, expires_at, kept_until, last_used_at)
    values (key, value, moment, moment + ttl, moment + ttl + stale, moment)
    on conflict on constraint cached_values_pkey do update
    set value = excluded.value, computed_at = excluded.computed_at, expires_at = excluded.expires_at,
        kept_until = excluded.kept_until, last_used_at = excluded.last_used_at;
    return true;
end
$$;
comment on function store_cached_value(text, uuid, jsonb, interval, interval) is
    'Stores what was computed and ends the lease; false, and nothing stored, where the lease has gone to another. ttl: how long it answers; stale: how long after that it stands in while another is computed.';
revoke execute on function store_cached_value(text, uuid, jsonb, interval, interval) from public;
grant execute on function store_cached_value(text, uuid, jsonb, interval, interval) to app_user;

create function renew_cached_value(key text, token uuid, lease interval) returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    update public.cached_value_leases l
    set leased_until = clock_timestamp() + renew_cached_value.lease
    where l.key = renew_cached_value.key and l.token = renew_cached_value.token;
    return found;
end
$$;
comment on function renew_cached_value(text, uuid, interval) is
    'Renews the lease of who computes a value; false where it has gone to another. A lease of 0 gives it back.';
revoke execute on function renew_cached_value(text, uuid, interval) from public;
grant execute on function renew_cached_value(text, uuid, interval) to app_user;

create function count_cached_value_uses(keys text[], hits bigint[], stale_hits bigint, misses bigint) returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_variable
begin
    perform 1 from public.cached_values v where v.key = any (keys) order by v.key for no key update;
    update public.cached_values v
    set hit_count = v.hit_count + u.hits, last_used_at = clock_timestamp()
    from unnest(keys, hits) as u (key, hits)
    where v.key = u.key;
    insert into public.cached_value_uses as d (day, hits, stale_hits, misses)
    values (date_trunc('day', now(), 'UTC'), coalesce((select sum(u.hits) from unnest(hits) as u (hits)), 0), stale_hits, misses)
    on conflict on constraint cached_value_uses_pkey do update
    set hits = d.hits + excluded.hits, stale_hits = d.stale_hits + excluded.stale_hits, misses = d.misses + excluded.misses;
end
$$;
comment on function count_cached_value_uses(text[], bigint[], bigint, bigint) is
    'Counts how often each key answered, and what was stale or missed besides: what a process gathered over some seconds.';
revoke execute on function count_cached_value_uses(text[], bigint[], bigint, bigint) from public;
grant execute on function count_cached_value_uses(text[], bigint[], bigint, bigint) to app_user;


-- ── Bounds ──────────────────────────────────────────────────────────────────────────────

create function cleanup_cached_values(batch_size integer default 1000) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    removed integer;
begin
    delete from public.cached_value_leases l where l.key = any (array(
        select d.key from public.cached_value_leases d where d.leased_until <= now() - interval '1 hour' for update skip locked));
    delete from public.cached_values v where v.key = any (array(
        select d.key from public.cached_values d
        where d.kept_until <= now()
        order by d.kept_until
        limit greatest(cleanup_cached_values.batch_size, 0)
        for update skip locked));
    get diagnostics removed = row_count;
    return removed;
end
$$;
comment on function cleanup_cached_values(integer) is
    'Removes up to batch_size values that neither answer nor stand in any more, and returns how many. Skips what somebody else holds; call it until it returns 0.';
revoke execute on function cleanup_cached_values(integer) from public;
grant execute on function cleanup_cached_values(integer) to app_user;

create function trim_cached_values(most_bytes bigint, batch_size integer default 1000) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    excess  constant bigint := (select coalesce(sum(v.size_bytes), 0) from public.cached_values v) - trim_cached_values.most_bytes;
    removed integer;
begin
    if excess is null or excess <= 0 then
        return 0;
    end if;
    with oldest as (
        select v.key, v.size_bytes, v.last_used_at from public.cached_values v
        order by v.last_used_at
        limit greatest(trim_cached_values.batch_size, 0)
        for update skip locked
    ), enough as (
        select o.key, sum(o.size_bytes) over (order by o.last_used_at, o.key) - o.size_bytes as before from oldest o
    )
    delete from public.cached_values v where v.key = any (array(select e.key from enough e where e.before < excess));
    get diagnostics removed = row_count;
    return removed;
end
$$;
comment on function trim_cached_values(bigint, integer) is
    'Removes values, those that were not used for longest first, up to batch_size of them, until the rest takes most_bytes at most, and returns how many. Call it until it returns 0.';
revoke execute on function trim_cached_values(bigint, integer) from public;
grant execute on function trim_cached_values(bigint, integer) to app_user;

create function trim_cache(most_bytes bigint, batch_size integer default 1000) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    excess  constant bigint := (select coalesce(sum(c.size_bytes), 0) from public.analysis_cache c) - trim_cache.most_bytes;
    removed integer;
begin
    if excess is null or excess <= 0 then
        return 0;
    end if;
    with oldest as (
        select c.id, c.size_bytes, c.last_accessed_at from public.analysis_cache c
        order by c.last_accessed_at
        limit greatest(trim_cache.batch_size, 0)
        for update skip locked
    ), enough as (
        select o.id, sum(o.size_bytes) over (order by o.last_accessed_at, o.id) - o.size_bytes as before from oldest o
    )
    delete from public.analysis_cache c where c.id = any (array(select e.id from enough e where e.before < excess));
    get diagnostics removed = row_count;
    return removed;
end
$$;
comment on function trim_cache(bigint, integer) is
    'Removes answers of analyses, those that were not asked for longest first, up to batch_size of them, until the rest takes most_bytes at most, and returns how many. Results stay. Call it until it returns 0.';
revoke execute on function trim_cache(bigint, integer) from public;
grant execute on function trim_cache(bigint, integer) to app_user;

create function purge_cached_values(prefix text default '', batch_size integer default 1000) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    removed integer;
begin
    delete from public.cached_values v where v.key = any (array(
        select d.key from public.cached_values d
        where starts_with(d.key, purge_cached_values.prefix)
        order by d.key
        limit greatest(purge_cached_values.batch_size, 0)
        for update));
    get diagnostics removed = row_count;
    return removed;
end
$$;
comment on function purge_cached_values(text, integer) is
    'Removes up to batch_size values whose keys begin so, and returns how many. Call it until it returns 0.';
revoke execute on function purge_cached_values(text, integer) from public;
grant execute on function purge_cached_values(text, integer) to app_user;


-- ── Housekeeping: who does it, and what was done when ───────────────────────────────────

create table upkeep_steps (
    step         text        not null,
    lease_token  uuid        null,
    leased_until timestamptz null,
    held_by      text        null,
    started_at   timestamptz null,
    ended_at     timestamptz null,
    done         bigint      null,
    failed_at    timestamptz null,
    failure      text        null,

    constraint upkeep_steps_pkey        primary key (step),
    constraint upkeep_steps_step_given  check (step <> ''),
    constraint upkeep_steps_lease_whole check ((lease_token is null) = (leased_until is null))
);

comment on table  upkeep_steps              is 'The steps of housekeeping: who does one now, and when it was last done.';
comment on column upkeep_steps.step         is 'Name of the step, as negspace maintain shows it.';
comment on column upkeep_steps.lease_token  is 'Known to who does it now; null: nobody does.';
comment on column upkeep_steps.leased_until is 'When another may take over.';
comment on column upkeep_steps.held_by      is 'Machine and process that did it last, or do now.';
comment on column upkeep_steps.started_at   is 'When it was last begun.';
comment on column upkeep_steps.ended_at     is 'When it was last done, to the end.';
comment on column upkeep_steps.done         is 'How much was done then.';
comment on column upkeep_steps.failed_at    is 'When it last failed.';
comment on column upkeep_steps.failure      is 'Why; null once it was done again.';
comment on index  upkeep_steps_pkey         is 'One step.';

grant select on upkeep_steps to app_user;

create function begin_upkeep(step text, every interval, lease interval, held_by text, out token uuid, out state text)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_variable
begin
    if every is null or every < interval '0' or lease is null or lease <= interval '0' then
        raise exception 'a step is due again after a time that is not negative, and its lease is longer than nothing'
            using errcode = 'NS004', hint = 'such as interval ''1 hour'' and interval ''15 minutes''';
    end if;
    if not exists (select from public.upkeep_steps u where u.step = begin_upkeep.step) then
        insert into public.upkeep_steps (step) values (step) on conflict do nothing;
    end if;
    update public.upkeep_steps u
    set lease_token = gen_random_uuid(), leased_until = clock_timestamp() + lease,
        held_by = begin_upkeep.held_by, started_at = clock_timestamp()
    where u.step = begin_upkeep.step
      and (u.leased_until is null or u.leased_until <= clock_timestamp())
      and (u.ended_at is null or u.ended_at <= clock_timestamp() - every)
    returning u.lease_token into token;
    state := case when token is not null then 'yours'
                  when exists (select from public.upkeep_steps u where u.step = begin_upkeep.step and u.leased_until > clock_timestamp()) then 'busy'
                  else 'done' end;
end
$$;
comment on function begin_upkeep(text, interval, interval, text) is
    'Who may do a step of housekeeping now. state: yours (with a token, until the lease ends), busy (somebody is at it), done (not due: it was done within every).';
revoke execute on function begin_upkeep(text, interval, interval, text) from public;
grant execute on function begin_upkeep(text, interval, interval, text) to app_user;

create function end_upkeep(step text, token uuid, done bigint, failure text default null) returns void
    language sql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
    update public.upkeep_steps u
    set lease_token  = null,
        leased_until = null,
        ended_at     = case when end_upkeep.failure is null then clock_timestamp() else u.ended_at end,
        done         = case when end_upkeep.failure is null then end_upkeep.done else u.done end,
        failed_at    = case when end_upkeep.failure is null then u.failed_at else clock_timestamp() end,
        failure      = end_upkeep.failure
    where u.step = end_upkeep.step and u.lease_token = end_upkeep.token
$$;
comment on function end_upkeep(text, uuid, bigint, text) is
    'A step of housekeeping was done, or failed; nothing is noted where its lease has gone to another.';
revoke execute on function end_upkeep(text, uuid, bigint, text) from public;
grant execute on function end_upkeep(text, uuid, bigint, text) to app_user;

create function analyze_parent(name text) returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    perform 1 from pg_class c
    where c.oid = to_regclass(format('public.%I', analyze_parent.name)) and c.relkind = 'p' and not c.relispartition;
    if not found then
        raise exception 'there is no partitioned table %', coalesce(analyze_parent.name, 'null')
            using errcode = 'NS003', hint = 'such as security_audit';
    end if;
    execute format('analyze public.%I', analyze_parent.name);
end
$$;
comment on function analyze_parent(text) is
    'Keeps the statistics of a partitioned table fresh: autovacuum sees to its partitions alone.';
revoke execute on function analyze_parent(text) from public;
grant execute on function analyze_parent(text) to app_user;
