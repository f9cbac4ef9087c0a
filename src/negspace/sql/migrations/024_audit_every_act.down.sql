-- These acts are no events any more; those written stay.

drop function purge_account_tokens(interval);
drop trigger queue_limits_audit_delete on queue_limits;
drop trigger queue_limits_audit_update on queue_limits;
drop trigger queue_limits_audit_insert on queue_limits;
drop function audit_queue_limits();
drop trigger analysis_results_audit_insert on analysis_results;
drop function audit_stored_result();

create or replace function unlock_account(account bigint) returns void
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
