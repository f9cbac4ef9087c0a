-- Logins that lock out whoever guesses and not the account's owner; sessions; tokens that
-- verify an e-mail address or set a password anew. Of every token only its SHA-256 is stored.

-- negspace: allow prefer-bigint-over-int in this file because they are failures since the last success
-- negspace: allow ban-drop-function in this file because services call finish_login() from this version on


-- ── Failed logins ───────────────────────────────────────────────────────────────────────
-- Counted per account and network, so that who guesses from elsewhere locks out nobody but
-- himself; and per account over all networks, for guesses that come from many: that lock
-- holds outside the networks from which the account has logged in of late. Addresses without
-- an account are counted alike, so that they can't be told from others.

create table login_attempts (
    account_hash  text        not null,
    network       text        not null,
    failures      integer     not null default 0,
    failed_at     timestamptz null,
    locked_until  timestamptz null,
    trusted_until timestamptz null,
    tried_at      timestamptz not null default now(),

    constraint login_attempts_pkey                  primary key (account_hash, network),
    constraint login_attempts_account_hash_sha256   check (length(account_hash) = 64 and account_hash !~ '[^0-9a-f]'),
    constraint login_attempts_network_given         check (network <> ''),
    constraint login_attempts_failures_not_negative check (failures >= 0)
) with (fillfactor = 70);

comment on table  login_attempts               is 'Logins tried, per e-mail address and network: what decides on the next one.';
comment on column login_attempts.account_hash  is 'SHA-256 of the address in lower case: what is typed there may be a password.';
comment on column login_attempts.network       is 'The network, login_network(); * for all of them together.';
comment on column login_attempts.failures      is 'Failures since the last success, or since a day without any.';
comment on column login_attempts.failed_at     is 'The last failure that counted.';
comment on column login_attempts.locked_until  is 'No login before this time; null: never locked since the last success.';
comment on column login_attempts.trusted_until is 'Until when the lock over all networks doesn''t hold here, since the account has logged in from here.';
comment on column login_attempts.tried_at      is 'The last try, counted or not.';
comment on index login_attempts_pkey is 'The tries of a login.';
create index login_attempts_tried_at_idx on login_attempts (tried_at);
comment on index login_attempts_tried_at_idx is 'What is long past, for refresh_login_counters().';


create function login_network(address inet) returns text
    language sql
    immutable parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select coalesce(
        case when family(address) = 4 then host(address)
             when address <<= inet '::ffff:0.0.0.0/96' then host(inet '0.0.0.0' + (address - inet '::ffff:0.0.0.0'))
             else network(set_masklen(address, 64))::text
        end, 'unknown')
$$;
comment on function login_network(inet) is
    'What counts as one network at a login: an address of IPv4, also where it is written as IPv6, the /64 of an address of IPv6, or unknown.';

create function lock_out(failures integer, free integer) returns interval
    language sql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select case when failures >= free then least(interval '1 hour', interval '30 seconds' * 2 ^ least(failures - free, 20)) end
$$;
comment on function lock_out(integer, integer) is
    'How long the failure of that number locks out, where so many are free: 30 seconds, doubled with each, an hour at most; null while they are free.';


-- ── Sessions ────────────────────────────────────────────────────────────────────────────

create table sessions (
    id         bigint      not null generated always as identity,
    user_id    bigint      not null,
    token_hash text        not null,
    ip_address inet        null,
    user_agent text        null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    ended_at   timestamptz null,

    constraint sessions_pkey                   primary key (id),
    constraint sessions_user_id_fkey           foreign key (user_id) references users (id) on delete cascade,
    constraint sessions_token_hash_key         unique (token_hash),
    constraint sessions_token_hash_sha256      check (length(token_hash) = 64 and token_hash !~ '[^0-9a-f]'),
    constraint sessions_expires_after_creation check (expires_at > created_at)
);

comment on table  sessions            is 'Logins that last: who holds the token acts for the account.';
comment on column sessions.id         is 'Number of the session.';
comment on column sessions.user_id    is 'Whose it is.';
comment on column sessions.token_hash is 'SHA-256 of its token, which is given out once and stored nowhere.';
comment on column sessions.ip_address is 'From where it was begun.';
comment on column sessions.user_agent is 'With which program.';
comment on column sessions.created_at is 'When it began.';
comment on column sessions.expires_at is 'When it ends by itself; use doesn''t prolong it.';
comment on column sessions.ended_at   is 'When it was ended; null: it wasn''t.';
comment on index sessions_pkey is 'One session.';
comment on index sessions_token_hash_key is 'The session of a request; verify_session().';
create index sessions_user_id_created_at_idx on sessions (user_id, created_at desc);
comment on index sessions_user_id_created_at_idx is 'An account''s sessions, newest first; the foreign key.';
create index sessions_expires_at_idx on sessions (expires_at);
comment on index sessions_expires_at_idx is 'What ended long ago, for refresh_login_counters().';

grant select (id, user_id, ip_address, user_agent, created_at, expires_at, ended_at) on sessions to app_user;


create function finish_login(
    email          text,
    fitting_hash   text,
    token_hash     text     default null,
    lifetime       interval default interval '12 hours',
    out user_id    bigint,
    out accepted   boolean,
    out reason     text,
    out session_id bigint
)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_variable
declare
    subject constant text := public.sha256_hex(lower(email));
    context constant record := public.audit_context();
    place   constant text := public.login_network(context.ip_address);
    account public.users%rowtype;
    here    public.login_attempts%rowtype;
    everywhere    public.login_attempts%rowtype;
    at      timestamptz;
    locked  boolean;
begin
    -- Tries of one account come one after another, so that those that were begun together
    -- can't all pass before the first is counted.
    insert into public.login_attempts (account_hash, network) values (subject, '*'), (subject, place)
    on conflict on constraint login_attempts_pkey do nothing;
    select a.* into everywhere from public.login_attempts a where a.account_hash = subject and a.network = '*' for update;
    select a.* into here from public.login_attempts a where a.account_hash = subject and a.network = place for update;
    select u.* into account from public.users u where lower(u.email) = lower(finish_login.email);
    at := clock_timestamp();
    locked := coalesce(here.locked_until > at, false)
              or (coalesce(greatest(everywhere.locked_until, account.account_locked_until) > at, false)
                  and coalesce(here.trusted_until, at) <= at);
    reason := case
        when account.id is null then 'unknown account'
        when locked then 'locked account'
        when account.password_hash is distinct from fitting_hash then 'wrong password'
        when not account.is_active then 'inactive account'
    end;
    accepted := reason is null;
    user_id := account.id;

    -- The same writes for all that are refused. A try while it is locked counts as none.
    update public.login_attempts a
    set failures      = case when locked then a.failures when accepted then 0 else n.failures end,
        failed_at     = case when locked or accepted then a.failed_at else at end,
        locked_until  = case when locked then a.locked_until
                             when accepted then case when a.network = '*' then a.locked_until end
                             else at + public.lock_out(n.failures, case when a.network = '*' then 50 else 5 end) end,
        trusted_until = case when accepted and a.network not in ('*', 'unknown') then at + interval '90 days' else a.trusted_until end,
        tried_at      = at
    from (
        select f.network, case when f.failed_at > at - interval '1 day' then f.failures + 1 else 1 end as failures
        from public.login_attempts f where f.account_hash = subject
    ) n
    where a.account_hash = subject and a.network in ('*', place) and n.network = a.network;
    perform public.record_event(
        'login', 'user', account.id::text,
        case when accepted then 'success' else 'failure' end::public.audit_status,
        error_message => reason, user_id => account.id);
    if not accepted then
        return;
    end if;
    update public.users u
    set last_login_at = at, failed_login_attempts = 0
    where u.id = account.id;
    if token_hash is not null then
        insert into public.sessions (user_id, token_hash, ip_address, user_agent, created_at, expires_at)
        values (account.id, token_hash, context.ip_address, context.user_agent, at, at + lifetime)
        returning id into session_id;
    end if;
end
$$;
comment on function finish_login(text, text, text, interval) is
    'Ends a try to log in, after the client compared the password; fitting_hash is the hash it fits, null where it fits none. Decides, counts, locks out and writes the login event, with the same writes for every refusal. Accepted: keeps last_login_at, and begins a session where a token''s hash is given.';
revoke execute on function finish_login(text, text, text, interval) from public;
grant execute on function finish_login(text, text, text, interval) to app_user;

-- It counted per account alone and locked nobody out.
drop function record_login(bigint, boolean, text);


create function verify_session(
    token_hash text, out session_id bigint, out user_id bigint, out role user_role, out expires_at timestamptz
)
    language sql
    stable
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
    select s.id, u.id, u.role, s.expires_at
    from public.sessions s
    join public.users u on u.id = s.user_id
    where s.token_hash = verify_session.token_hash
      and s.ended_at is null and s.expires_at > clock_timestamp() and u.is_active
$$;
comment on function verify_session(text) is
    'Whose session a token, named by its SHA-256, is, and what the account may do now; nulls where there is none, or it has ended.';
revoke execute on function verify_session(text) from public;
grant execute on function verify_session(text) to app_user;

create function end_sessions(account bigint, session bigint default null) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    ended bigint[];
begin
    with gone as (
        update public.sessions s set ended_at = clock_timestamp()
        where s.user_id = account and (session is null or s.id = session)
          and s.ended_at is null and s.expires_at > clock_timestamp()
        returning s.id
    )
    select array_agg(g.id order by g.id) into ended from gone g;
    perform public.record_event('logout', 'session', e.id::text, user_id => account) from unnest(ended) as e (id);
    return coalesce(cardinality(ended), 0);
end
$$;
comment on function end_sessions(bigint, bigint) is
    'Ends a session of an account, or all of them, with a logout event each, and returns how many it ended.';
revoke execute on function end_sessions(bigint, bigint) from public;
grant execute on function end_sessions(bigint, bigint) to app_user;


-- ── Passwords and addresses ─────────────────────────────────────────────────────────────

create table account_tokens (
    id         bigint      not null generated always as identity,
    user_id    bigint      not null,
    purpose    text        not null,
    token_hash text        not null,
    email      text        not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    used_at    timestamptz null,

    constraint account_tokens_pkey                   primary key (id),
    constraint account_tokens_user_id_fkey           foreign key (user_id) references users (id) on delete cascade,
    constraint account_tokens_token_hash_key         unique (token_hash),
    constraint account_tokens_purpose_known          check (purpose in ('verify_email', 'reset_password')),
    constraint account_tokens_token_hash_sha256      check (length(token_hash) = 64 and token_hash !~ '[^0-9a-f]'),
    constraint account_tokens_email_given            check (email <> ''),
    constraint account_tokens_expires_after_creation check (expires_at > created_at)
);

comment on table  account_tokens            is 'Tokens sent by e-mail, each for one use: who has it reads the account''s mail.';
comment on column account_tokens.id         is 'Number of the token.';
comment on column account_tokens.user_id    is 'Whose account it is for.';
comment on column account_tokens.purpose    is 'verify_email: the address is the account''s. reset_password: a new password.';
comment on column account_tokens.token_hash is 'SHA-256 of the token, which is sent once and stored nowhere.';
comment on column account_tokens.email      is 'The address it was made for; it is void once the account has another.';
comment on column account_tokens.created_at is 'When it was made.';
comment on column account_tokens.expires_at is 'From then on it is void.';
comment on column account_tokens.used_at    is 'When it was used, or made void by the next one; null: neither.';
comment on index account_tokens_pkey is 'One token.';
comment on index account_tokens_token_hash_key is 'The token that somebody brings; redeem_account_token().';
create index account_tokens_user_id_created_at_idx on account_tokens (user_id, created_at desc);
comment on index account_tokens_user_id_created_at_idx is 'An account''s tokens, newest first; the foreign key.';

create function issue_account_token(account bigint, purpose text, token_hash text, lifetime interval) returns text
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    address text;
begin
    select u.email into address from public.users u where u.id = account and u.is_active for no key update;
    if not found then
        raise exception 'there is no active user %', account using errcode = 'NS003', hint = 'negspace users list shows the accounts';
    end if;
    update public.account_tokens t set used_at = clock_timestamp()
    where t.user_id = account and t.purpose = issue_account_token.purpose and t.used_at is null;
    insert into public.account_tokens (user_id, purpose, token_hash, email, expires_at)
    values (account, issue_account_token.purpose, issue_account_token.token_hash, address, now() + lifetime);
    perform public.record_event(
        'config_change', 'user', account::text, changes_after => jsonb_build_object('token_issued', purpose));
    return address;
end
$$;
comment on function issue_account_token(bigint, text, text, interval) is
    'Keeps the hash of a token for an account, makes its former ones for that purpose void, and returns the address to send it to.';
revoke execute on function issue_account_token(bigint, text, text, interval) from public;
grant execute on function issue_account_token(bigint, text, text, interval) to app_user;

create function change_password(account bigint, password_hash text) returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    update public.users u set password_hash = change_password.password_hash where u.id = account;
    if not found then
        raise exception 'there is no user %', account using errcode = 'NS003', hint = 'negspace users list shows the accounts';
    end if;
    update public.account_tokens t set used_at = clock_timestamp()
    where t.user_id = account and t.purpose = 'reset_password' and t.used_at is null;
    perform public.end_sessions(account);
end
$$;
comment on function change_password(bigint, text) is 'Gives an account another password, and ends all that the old one began: sessions, and tokens for a new one.';
revoke execute on function change_password(bigint, text) from public;
grant execute on function change_password(bigint, text) to app_user;

create function unlock_account(account bigint) returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    subject text;
begin
    update public.users u set account_locked_until = null, failed_login_attempts = 0
    where u.id = account returning public.sha256_hex(lower(u.email)) into subject;
    if not found then
        raise exception 'there is no user %', account using errcode = 'NS003', hint = 'negspace users list shows the accounts';
    end if;
    update public.login_attempts a set locked_until = null, failures = 0 where a.account_hash = subject;
end
$$;
comment on function unlock_account(bigint) is 'Lets an account log in again from everywhere, whatever failed before.';
revoke execute on function unlock_account(bigint) from public;
grant execute on function unlock_account(bigint) to app_user;

create function redeem_account_token(token_hash text, purpose text, password_hash text default null) returns bigint
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    account bigint;
begin
    -- One statement takes it, so that of two who bring it at once one finds it used.
    update public.account_tokens t set used_at = clock_timestamp()
    from public.users u
    where t.token_hash = redeem_account_token.token_hash
      and t.purpose = redeem_account_token.purpose
      and t.used_at is null and t.expires_at > clock_timestamp()
      and u.id = t.user_id and u.is_active and lower(u.email) = lower(t.email)
    returning u.id into account;
    if not found then
        raise exception 'the token is unknown, used or expired' using errcode = 'NS002', hint = 'ask for another one';
    end if;
    update public.users u set is_email_verified = true where u.id = account;
    if purpose = 'reset_password' then
        perform public.change_password(account, redeem_account_token.password_hash);
        perform public.unlock_account(account);
    end if;
    return account;
end
$$;
comment on function redeem_account_token(text, text, text) is
    'Uses a token once and returns whose it was: the address is verified, and with reset_password the account has the new password, no session any more and no lock.';
revoke execute on function redeem_account_token(text, text, text) from public;
grant execute on function redeem_account_token(text, text, text) to app_user;


-- ── Housekeeping ────────────────────────────────────────────────────────────────────────

create function refresh_login_counters() returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    changed integer;
begin
    -- Not by the login itself: an update for accounts alone would tell which ones exist.
    update public.users u
    set failed_login_attempts = a.failures,
        account_locked_until  = greatest(u.account_locked_until, a.locked_until)
    from public.login_attempts a
    where a.account_hash = public.sha256_hex(lower(u.email)) and a.network = '*'
      and (u.failed_login_attempts <> a.failures or a.locked_until > coalesce(u.account_locked_until, '-infinity'));
    get diagnostics changed = row_count;
    delete from public.login_attempts a
    where a.tried_at < now() - interval '1 day' and coalesce(greatest(a.locked_until, a.trusted_until), now()) <= now();
    delete from public.sessions s where s.expires_at < now() - interval '90 days';
    return changed;
end
$$;
comment on function refresh_login_counters() is
    'Brings failed_login_attempts and account_locked_until of the accounts up to date and returns how many changed; removes tries and sessions that are long past. Housekeeping calls it.';
revoke execute on function refresh_login_counters() from public;
grant execute on function refresh_login_counters() to app_user;

comment on column users.failed_login_attempts is 'Failed logins since the last successful one; brought up to date in batches.';
comment on column users.account_locked_until  is 'No login before this time, but from networks it has logged in from of late; null: not locked. Brought up to date in batches, and obeyed where somebody sets it.';
