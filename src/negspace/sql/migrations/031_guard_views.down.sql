-- Views show all rows to all who may read them again.

do $$
declare
    name text;
begin
    foreach name in array array[
        'user_activity_summary', 'image_analysis_status', 'recent_audit_events', 'analysis_performance_summary',
        'audit_summary_by_user', 'duplicate_images_report']
    loop
        if current_setting('server_version_num')::integer >= 150000 then
            execute format('alter view public.%I reset (security_invoker)', name);
        else
            execute format('revoke select on public.%I from operator_role', name);
            execute format('grant select on public.%I to app_user', name);
        end if;
    end loop;
end
$$;
drop function guard_views();

do $$
declare
    name    text;
    routine regprocedure;
begin
    foreach name in array array['queue_status_summary', 'ended_job_days', 'ended_job_waits', 'ended_job_changes', 'job_failures', 'cached_values',
        'cached_value_leases', 'cached_value_uses', 'upkeep_steps', 'unscanned_images', 'duplicate_pairs']
    loop
        execute format('revoke select on public.%I from operator_role', name);
        execute format('grant select on public.%I to app_user', name);
    end loop;
    for routine in
        select p.oid::regprocedure from pg_catalog.pg_proc p
        where p.pronamespace = 'public'::regnamespace and p.proname = any (array['sum_ended_jobs', 'ended_job_summary', 'roll_up_summaries', 'purge_account_tokens', 'fold_job_failures',
        'failures_by_error', 'say_computing', 'find_cached_value', 'store_cached_value', 'renew_cached_value',
        'count_cached_value_uses', 'cleanup_cached_values', 'trim_cached_values', 'trim_cache', 'purge_cached_values',
        'begin_upkeep', 'end_upkeep', 'analyze_parent', 'near_hashes', 'near_images', 'scan_duplicates', 'decide_duplicates'])
    loop
        execute format('revoke execute on function %s from operator_role', routine);
        execute format('grant execute on function %s to app_user', routine);
    end loop;
end
$$;

drop policy audit_user_months_read on audit_user_months;
drop policy audit_user_months_machine on audit_user_months;
alter table audit_user_months no force row level security, disable row level security;
