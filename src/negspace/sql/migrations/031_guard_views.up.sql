-- Views show the rows that their reader may see, and sums of everybody's rows are the operator's.


-- ── Sums by account ─────────────────────────────────────────────────────────────────────

alter table audit_user_months enable row level security, force row level security;

create policy audit_user_months_machine on audit_user_months to operator_role, current_user using (true) with check (true);
comment on policy audit_user_months_machine on audit_user_months is 'The operator, and functions that run as the owner: all rows.';

create policy audit_user_months_read on audit_user_months for select to app_user
    using (user_id = (select acting_on('read:account')) or (select acting_on_all('read:audit')));
comment on policy audit_user_months_read on audit_user_months is 'Sums of one''s own events; an administrator all.';


-- ── Sums of all accounts together ───────────────────────────────────────────────────────

revoke select on queue_status_summary, ended_job_days, ended_job_waits, ended_job_changes from app_user;
grant select on queue_status_summary, ended_job_days, ended_job_waits, ended_job_changes to operator_role;

revoke execute on function sum_ended_jobs(timestamptz, timestamptz), ended_job_summary() from app_user;
grant execute on function sum_ended_jobs(timestamptz, timestamptz), ended_job_summary() to operator_role;

-- Housekeeping, as in 023.
revoke execute on function roll_up_summaries(integer), purge_account_tokens(interval) from app_user;
grant execute on function roll_up_summaries(integer), purge_account_tokens(interval) to operator_role;


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
