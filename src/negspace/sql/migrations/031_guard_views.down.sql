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

revoke execute on function roll_up_summaries(integer), purge_account_tokens(interval) from operator_role;
grant execute on function roll_up_summaries(integer), purge_account_tokens(interval) to app_user;

revoke execute on function sum_ended_jobs(timestamptz, timestamptz), ended_job_summary() from operator_role;
grant execute on function sum_ended_jobs(timestamptz, timestamptz), ended_job_summary() to app_user;

revoke select on queue_status_summary, ended_job_days, ended_job_waits, ended_job_changes from operator_role;
grant select on queue_status_summary, ended_job_days, ended_job_waits, ended_job_changes to app_user;

drop policy audit_user_months_read on audit_user_months;
drop policy audit_user_months_machine on audit_user_months;
alter table audit_user_months no force row level security, disable row level security;
