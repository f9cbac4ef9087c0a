-- What was no event yet is one: a result that somebody stores by hand, a limit of the queue, an
-- account that is unlocked. Tokens of e-mails go when they are long past.


-- ── Results ─────────────────────────────────────────────────────────────────────────────

create function audit_stored_result() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    calls text;
begin
    -- The queue's functions tell of their results themselves, with the job.
    get diagnostics calls = pg_context;
    if calls ~ 'PL/pgSQL function (public\.)?(complete_jobs?|store_cached_result)\(' then
        return null;
    end if;
    perform public.record_event(
        'run_analysis', 'image', new.image_id::text,
        changes_after => jsonb_build_object(
            'result_id', new.id, 'algorithm_name', new.algorithm_name, 'algorithm_version', new.algorithm_version,
            'parameters_hash', new.parameters_hash, 'confidence_score', new.confidence_score),
        user_id => new.user_id);
    return null;
end
$$;
comment on function audit_stored_result() is
    'Writes a run_analysis event for a result that was stored by nobody''s job.';
revoke execute on function audit_stored_result() from public;

-- For each row, because the condition then costs the queue's functions nothing: they run as
-- the owner, called by somebody else. Where the services are the owner themselves, the
-- function looks at who calls.
create trigger analysis_results_audit_insert
    after insert on analysis_results
    for each row
    when (current_user = session_user or current_user = 'app_user')
    execute function audit_stored_result();
comment on trigger analysis_results_audit_insert on analysis_results is 'Every result that no job brought is an event.';


-- ── Limits of the queue ─────────────────────────────────────────────────────────────────

create function audit_queue_limits() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    was     constant jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) - '{id,running}'::text[] end;
    becomes constant jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) - '{id,running}'::text[] end;
begin
    perform public.record_event(
        'config_change', 'queue_limit', coalesce(new.id, old.id)::text,
        changes_before => was, changes_after => becomes);
    return null;
end
$$;
comment on function audit_queue_limits() is 'Writes a config_change event for a limit of running jobs that comes, changes or goes.';
revoke execute on function audit_queue_limits() from public;

create trigger queue_limits_audit_insert
    after insert on queue_limits
    for each row
    execute function audit_queue_limits();
comment on trigger queue_limits_audit_insert on queue_limits is 'Every new limit is an event.';

create trigger queue_limits_audit_update
    after update of max_running, user_id, job_group on queue_limits
    for each row
    when ((old.max_running, old.user_id, old.job_group) is distinct from (new.max_running, new.user_id, new.job_group))
    execute function audit_queue_limits();
comment on trigger queue_limits_audit_update on queue_limits is 'Every changed limit is an event; that jobs begin and end is none.';

create trigger queue_limits_audit_delete
    after delete on queue_limits
    for each row
    execute function audit_queue_limits();
comment on trigger queue_limits_audit_delete on queue_limits is 'Every removed limit is an event.';


-- ── Accounts ────────────────────────────────────────────────────────────────────────────

create or replace function unlock_account(account bigint) returns void
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    subject constant text := (select public.sha256_hex(lower(u.email)) from public.users u where u.id = account);
    locked  constant timestamptz := (select max(a.locked_until) from public.login_attempts a where a.account_hash = subject);
    known   boolean;
begin
    select u.account_locked_until is not null into known from public.users u where u.id = account for no key update;
    if not found then
        raise exception 'there is no user %', account using errcode = 'NS003', hint = 'negspace users list shows the accounts';
    end if;
    update public.users u set account_locked_until = null, failed_login_attempts = 0 where u.id = account;
    update public.login_attempts a set locked_until = null, failures = 0 where a.account_hash = subject;
    -- Where the account itself knows of the lock, its own trigger tells.
    if locked is not null and not known then
        perform public.record_event(
            'permission_change', 'user', account::text,
            changes_before => jsonb_build_object('account_locked_until', locked),
            changes_after => '{"account_locked_until": null}');
    end if;
end
$$;

create function purge_account_tokens(older_than interval default interval '90 days') returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    purged integer;
begin
    if older_than is null or older_than < interval '1 day' then
        raise exception 'tokens are kept for a day or longer, not %', coalesce(older_than::text, 'null')
            using errcode = 'NS004', hint = 'they are void once they have expired, and harm nobody';
    end if;
    delete from public.account_tokens t where t.expires_at < now() - older_than;
    get diagnostics purged = row_count;
    return purged;
end
$$;
comment on function purge_account_tokens(interval) is
    'Removes tokens of e-mails that expired so long ago, and returns how many; their events stay. Housekeeping calls it.';
revoke execute on function purge_account_tokens(interval) from public;
grant execute on function purge_account_tokens(interval) to app_user;
