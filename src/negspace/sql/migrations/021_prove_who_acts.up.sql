-- Who acts is proven: a transaction names a session or an API key, the database verifies it and
-- seals what it found into a setting of that transaction. Policies of later migrations read it.


-- ── The machine's operator ──────────────────────────────────────────────────────────────
-- app_user is what a service for people logs in as: its rights on tables, and rows only of
-- whoever is proven to act. operator_role has the same rights and all rows: the command line,
-- workers and housekeeping of this machine. Roles belong to the whole server, so it may be
-- there already, and it stays when this migration is undone.

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'operator_role') then
        create role operator_role login;
        comment on role operator_role is 'negspace command line, workers and housekeeping: the rights of app_user on all rows, owns nothing';
    end if;
exception
    when duplicate_object or unique_violation then null;  -- another database's migration was first
end
$$;

do $$
begin
    if not pg_catalog.pg_has_role('operator_role', 'app_user', 'usage') then
        grant app_user to operator_role;
    end if;
exception
    when insufficient_privilege then
        raise exception 'operator_role needs the rights of app_user, and % may not grant them', current_user
            using errcode = 'NS006', hint = 'as a superuser: grant app_user to operator_role; then migrate again';
end
$$;

create function sees_all_rows() returns boolean
    language sql
    stable parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select pg_has_role(current_user, 'operator_role', 'usage')
           or pg_has_role(current_user, (select c.relowner from pg_class c where c.oid = 'public.images'::regclass), 'usage')
$$;
comment on function sees_all_rows() is
    'Whether the role that asks sees the rows of all accounts, as the operator and the owner do: before anything that is done because no row is there, such as removing a file that nobody names.';


-- ── The secret ──────────────────────────────────────────────────────────────────────────
-- What is found about who acts is sealed with a key that nobody but the owner reads, so that
-- whoever can SET cannot forge it. HMAC-SHA-256 is two calls of sha256() with the key's two
-- blocks, which are kept ready. A row in a table, by process and transaction, would do as well,
-- but it writes: no read-only transactions, and none on a standby.

create table context_secret (
    id        bigint      not null generated always as identity,
    inner_pad bytea       not null,
    outer_pad bytea       not null,
    made_at   timestamptz not null default now(),

    constraint context_secret_pkey            primary key (id),
    constraint context_secret_inner_pad_block check (length(inner_pad) = 64),
    constraint context_secret_outer_pad_block check (length(outer_pad) = 64)
);

comment on table  context_secret           is 'The key under the seal of who acts, which only functions of the owner read; the newest counts.';
comment on column context_secret.id        is 'Number of the key.';
comment on column context_secret.inner_pad is 'The key as HMAC takes it for the inner hash, 64 bytes.';
comment on column context_secret.outer_pad is 'The key as HMAC takes it for the outer hash, 64 bytes.';
comment on column context_secret.made_at   is 'When the key was drawn.';
comment on index context_secret_pkey is 'The newest key.';

create function renew_context_secret() returns void
    language sql
    set search_path = pg_catalog, public, pg_temp
as $$
    delete from public.context_secret;
    with drawn as materialized (
        -- 366 random bits of the operating system, as 256
        select sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) as key
    )
    insert into public.context_secret (inner_pad, outer_pad)
    select (select string_agg(set_byte('\x00', 0, get_byte(d.key, n) # 54), '' order by n) from generate_series(0, 31) as n)
           || decode(repeat('36', 32), 'hex'),
           (select string_agg(set_byte('\x00', 0, get_byte(d.key, n) # 92), '' order by n) from generate_series(0, 31) as n)
           || decode(repeat('5c', 32), 'hex')
    from drawn d
$$;
comment on function renew_context_secret() is
    'Draws the key under the seal of who acts anew. Transactions that are under way lose who acts, and see no rows of people any more. For the owner alone: after a dump that holds the key went out of hand.';
revoke execute on function renew_context_secret() from public;

select renew_context_secret();


create function context_seal(said text) returns text
    language sql
    stable
    set search_path = pg_catalog, public, pg_temp
as $$
    -- A server process runs one transaction at a time, and none begins twice at the same
    -- microsecond: what is sealed here is of no use anywhere else. Numbers, since texts of
    -- times depend on settings that anybody may change.
    select encode(sha256(s.outer_pad || sha256(s.inner_pad || convert_to(concat_ws(
               '|', said, pg_backend_pid(), extract(epoch from now()), extract(epoch from pg_postmaster_start_time())),
               'UTF8'))), 'hex')
    from public.context_secret s
    order by s.id desc
    limit 1
$$;
comment on function context_seal(text) is 'The seal of a statement about who acts in this transaction. For functions of the owner: whoever may call it can forge.';
revoke execute on function context_seal(text) from public;


-- ── Who acts ────────────────────────────────────────────────────────────────────────────

create function account_scopes(role user_role) returns text[]
    language sql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select public.role_scopes(role) || case
        when role in ('admin', 'analyst') then array['read:account', 'write:account']
        else array['read:account']
    end
$$;
comment on function account_scopes(user_role) is
    'What a session of an account in this role may do: what its keys may, and besides read:account: see the account itself, its keys, sessions and events; write:account: keep its keys.';

create function acting(
    out user_id bigint, out role user_role, out session_id bigint, out api_key_id bigint, out scopes text[]
)
    language plpgsql
    stable
    security definer
    parallel restricted
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    stated constant text := current_setting('negspace.acting', true);
    said   constant text := left(stated, -65);
    parts  text[];
begin
    -- Hashes are compared, so that the time it takes tells nothing about a forged seal.
    if coalesce(stated, '') = ''
       or sha256(convert_to(right(stated, 64), 'UTF8')) is distinct from sha256(convert_to(public.context_seal(said), 'UTF8')) then
        return;
    end if;
    parts := string_to_array(said, '|', '');
    user_id := parts[1]::bigint;
    role := parts[2]::public.user_role;
    session_id := parts[3]::bigint;
    api_key_id := parts[4]::bigint;
    scopes := string_to_array(coalesce(parts[5], ''), ' ');
end
$$;
comment on function acting() is
    'Who is proven to act in this transaction: account, role, by which session or key, and what it may do; nulls where nobody is.';
revoke execute on function acting() from public;
grant execute on function acting() to app_user;

create function acting_on(scope text) returns bigint
    language sql
    stable
    parallel restricted
    set search_path = pg_catalog, public, pg_temp
as $$
    select a.user_id from public.acting() a where scope = any (a.scopes)
$$;
comment on function acting_on(text) is
    'The account whose own rows this transaction may touch in the way of the scope; null: none. Policies call it as (select acting_on(…)), once a statement.';
revoke execute on function acting_on(text) from public;
grant execute on function acting_on(text) to app_user;

create function acting_on_all(scope text) returns boolean
    language sql
    stable
    parallel restricted
    set search_path = pg_catalog, public, pg_temp
as $$
    select exists (select from public.acting() a where a.role = 'admin' and scope = any (a.scopes))
$$;
comment on function acting_on_all(text) is
    'Whether this transaction may touch everybody''s rows in the way of the scope: an administrator acts. Policies call it as (select acting_on_all(…)), once a statement.';
revoke execute on function acting_on_all(text) from public;
grant execute on function acting_on_all(text) to app_user;

create function state_acting(account bigint, role user_role, session bigint, key bigint, scopes text[]) returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    said    constant text := concat(account, '|', role, '|', session, '|', key, '|', array_to_string(scopes, ' '));
    seal    constant text := public.context_seal(said);
    already constant bigint := (select a.user_id from public.acting() a);
begin
    -- A cursor that is open, or a row that was read, belongs to who acted first.
    if already <> account then
        raise exception 'this transaction acts for another account already'
            using errcode = 'NS006', hint = 'one transaction, one account: begin another one';
    end if;
    if seal is null then
        raise exception 'the key under the seal of who acts is not there'
            using errcode = 'NS006', hint = 'as the owner: select renew_context_secret()';
    end if;
    perform set_config('negspace.acting', concat(said, '|', seal), true),
            set_config('negspace.user_id', account::text, true),
            set_config('negspace.api_key_id', coalesce(key::text, ''), true);
end
$$;
comment on function state_acting(bigint, user_role, bigint, bigint, text[]) is
    'Seals who acts in this transaction. For act_with_session() and act_with_key(), which have verified it.';
revoke execute on function state_acting(bigint, user_role, bigint, bigint, text[]) from public;

create function act_with_session(token_hash text, out user_id bigint, out role user_role, out session_id bigint)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_variable
begin
    select s.user_id, s.role, s.session_id into user_id, role, session_id
    from public.verify_session(token_hash) s;
    if session_id is null then
        raise exception 'there is no such session, or it has ended' using errcode = 'NS002', hint = 'log in again';
    end if;
    perform public.state_acting(user_id, role, session_id, null, public.account_scopes(role));
end
$$;
comment on function act_with_session(text) is
    'Whoever holds the token, named by its SHA-256, acts until this transaction ends: sees and changes what the account may. Writes nothing, so it serves read-only transactions and standbys too.';
revoke execute on function act_with_session(text) from public;
grant execute on function act_with_session(text) to app_user;

create function act_with_key(
    key            bigint,
    key_hash       text,
    scope          text default null,
    address        inet default null,
    out user_id    bigint,
    out role       user_role,
    out api_key_id bigint
)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_variable
declare
    origin constant inet := case
        when family(address) = 6 and masklen(address) = 128 and address <<= inet '::ffff:0.0.0.0/96'
        then inet '0.0.0.0' + (address - inet '::ffff:0.0.0.0')
        else address end;
    granted text[];
begin
    select u.id, u.role, k.id,
           array(select g.scope from jsonb_array_elements_text(k.scopes) as g (scope)
                 where g.scope = any (public.role_scopes(u.role)))
    into user_id, role, api_key_id, granted
    from public.api_keys k
    join public.users u on u.id = k.user_id
    where k.id = key and k.key_hash = act_with_key.key_hash
      and k.is_active and u.is_active
      and (k.expires_at is null or k.expires_at > clock_timestamp())
      and (k.ip_whitelist is null or origin <<= any (public.network_array(k.ip_whitelist)));
    if api_key_id is null or scope <> all (granted) then
        raise exception 'the API key may not be used for this'
            using errcode = 'NS002', hint = 'whoever made it sees why: negspace keys check';
    end if;
    perform public.state_acting(user_id, role, null, api_key_id, granted);
end
$$;
comment on function act_with_key(bigint, text, text, inet) is
    'The owner of an API key, named by the number in its text and its SHA-256, acts until this transaction ends, as far as the key''s scopes reach; refused where the key may not be used for the scope from the address. It takes nothing from the rate limit, since that would lock the key''s row until the end: verify_api_key() comes before, in a transaction of its own.';
revoke execute on function act_with_key(bigint, text, text, inet) from public;
grant execute on function act_with_key(bigint, text, text, inet) to app_user;


-- ── The audit trail's actor ─────────────────────────────────────────────────────────────
-- What a service states about who acts is worth what the service is: the operator's is taken,
-- of all others only what is proven. Address, program and request are stated either way.

create function is_trusted_session() returns boolean
    language sql
    stable parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    -- What writes events runs as the owner: who logged in is session_user.
    select pg_has_role(session_user, 'operator_role', 'usage')
           or pg_has_role(session_user, (select c.relowner from pg_class c where c.oid = 'public.images'::regclass), 'usage')
$$;
comment on function is_trusted_session() is
    'Whether what is stated about who acts is taken as it is: where the operator or the owner logged in.';

create or replace function audit_context(
    out user_id bigint, out api_key_id bigint, out ip_address inet, out user_agent text, out request_id text
)
    language sql
    stable parallel restricted
    set search_path = pg_catalog, public, pg_temp
as $$
    select case when t.trusted then nullif(current_setting('negspace.user_id', true), '')::bigint else (select a.user_id from public.acting() a) end,
           case when t.trusted then nullif(current_setting('negspace.api_key_id', true), '')::bigint else (select a.api_key_id from public.acting() a) end,
           nullif(current_setting('negspace.ip_address', true), '')::inet,
           nullif(current_setting('negspace.user_agent', true), ''),
           nullif(current_setting('negspace.request_id', true), '')
    -- The operator's work is most of all, and a call of a function costs more than this.
    from (select pg_has_role(session_user, 'operator_role', 'usage') or public.is_trusted_session()) as t (trusted)
$$;
comment on function audit_context() is
    'Who acts in this transaction, as an event of the audit trail keeps it; always one row. What the operator states is taken, of all others only what is proven.';
