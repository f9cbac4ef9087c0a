-- Removes sessions, tokens, and the tries to log in; what users holds of them stays.

comment on column users.failed_login_attempts is 'Failed logins since the last successful one.';
comment on column users.account_locked_until  is 'No login before this time; null: not locked.';

drop function refresh_login_counters();
drop function redeem_account_token(text, text, text);
drop function unlock_account(bigint);
drop function change_password(bigint, text);
drop function issue_account_token(bigint, text, text, interval);
drop table account_tokens;

drop function end_sessions(bigint, bigint);
drop function verify_session(text);

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

drop function finish_login(text, text, text, interval);
drop table sessions;
drop function lock_out(integer, integer);
drop function login_network(inet);
drop table login_attempts;
