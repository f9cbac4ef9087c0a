-- Views show the rows that their reader may see, and sums of everybody's rows are the operator's.


-- ── Sums by account ─────────────────────────────────────────────────────────────────────

alter table audit_user_months enable row level security, force row level security;

create policy audit_user_months_machine on audit_user_months to operator_role, current_user using (true) with check (true);
comment on policy audit_user_months_machine on audit_user_months is 'The operator, and functions that run as the owner: all rows.';

create policy audit_user_months_read on audit_user_months for select to app_user
    using (user_id = (select acting_on('read:account')) or (select acting_on_all('read:audit')));
comment on policy audit_user_months_read on audit_user_months is 'Sums of one''s own events; an administrator all.';


-- ── What is of all accounts together, and housekeeping ────────────────────────────────────

do $$
declare
    name    text;
    routine regprocedure;
begin
    foreach name in array array['queue_status_summary', 'ended_job_days', 'ended_job_waits', 'ended_job_changes', 'job_failures', 'cached_values',
        'cached_value_leases', 'cached_value_uses', 'upkeep_steps', 'unscanned_images', 'duplicate_pairs']
    loop
        execute format('revoke select on public.%I from app_user', name);
        execute format('grant select on public.%I to operator_role', name);
    end loop;
    for routine in
        select p.oid::regprocedure from pg_catalog.pg_proc p
        where p.pronamespace = 'public'::regnamespace and p.proname = any (array['sum_ended_jobs', 'ended_job_summary', 'roll_up_summaries', 'purge_account_tokens', 'fold_job_failures',
        'failures_by_error', 'say_computing', 'find_cached_value', 'store_cached_value', 'renew_cached_value',
        'count_cached_value_uses', 'cleanup_cached_values', 'trim_cached_values', 'trim_cache', 'purge_cached_values',
        'begin_upkeep', 'end_upkeep', 'analyze_parent', 'near_hashes', 'near_images', 'scan_duplicates', 'decide_duplicates'])
    loop
        execute format('revoke execute on function %s from app_user', routine);
        execute format('grant execute on function %s to operator_role', routine);
    end loop;
end
$$;


-- ── Views ───────────────────────────────────────────────────────────────────────────────

create function guard_views() returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    name text;
begin
    foreach name in array array[
        'user_activity_summary', 'image_analysis_status', 'recent_audit_events', 'analysis_performance_summary',
        'audit_summary_by_user', 'duplicate_images_report']
    loop
        if current_setting('server_version_num')::integer >= 150000 then
            execute format('alter view public.%I set (security_invoker = true)', name);
        else
            -- PostgreSQL 14 reads a view as its owner, who sees all rows: there it is the operator's.
            execute format('revoke select on public.%I from app_user', name);
            execute format('grant select on public.%I to operator_role', name);
        end if;
    end loop;
end
$$;
comment on function guard_views() is
    'Makes views show the rows that their reader may see; on PostgreSQL 14, which can''t, they are the operator''s alone. After a view is made anew it is called again: create or replace forgets what it did.';
revoke execute on function guard_views() from public;

select guard_views();
