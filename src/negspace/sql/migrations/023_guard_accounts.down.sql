-- Everybody's accounts, keys, sessions and events are seen by all who may read the tables again.

create or replace function archive_image(image bigint) returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    perform 1 from public.images i where i.id = archive_image.image for no key update;
    if not found then
        raise exception 'there is no image %', archive_image.image
            using errcode = 'NS003', hint = 'negspace images list shows those there are';
    end if;
    perform public.cancel_jobs(
        array(select q.id from public.processing_queue q
              where q.image_id = archive_image.image and q.status in ('queued', 'retrying', 'processing')),
        'its image is archived');
    update public.images i set analysis_status = 'archived'
    where i.id = archive_image.image and i.analysis_status <> 'archived';
end
$$;

drop function retry_own_jobs(bigint[]);
drop function cancel_own_jobs(bigint[], text);
drop function images_of_jobs(bigint[]);
drop function enqueue_own_jobs(bigint[], text, text, jsonb, integer, timestamptz, boolean, timestamptz);
drop function refuse_others_images(bigint[], text, bigint[]);

create or replace function record_event(
    action         audit_action,
    resource_type  text,
    resource_id    text         default null,
    status         audit_status default 'success',
    changes_before jsonb        default null,
    changes_after  jsonb        default null,
    error_message  text         default null,
    user_id        bigint       default null
) returns bigint
    language sql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
    insert into public.security_audit (
        user_id, api_key_id, action, resource_type, resource_id, status, ip_address,
        user_agent, request_id, error_message, changes_before, changes_after
    )
    select coalesce(c.user_id, record_event.user_id), c.api_key_id, record_event.action,
           record_event.resource_type, record_event.resource_id, record_event.status,
           c.ip_address, c.user_agent, c.request_id, record_event.error_message,
           record_event.changes_before, record_event.changes_after
    from public.audit_context() c
    returning id
$$;
comment on function record_event(audit_action, text, text, audit_status, jsonb, jsonb, text, bigint) is
    'Writes one event of the audit trail and returns its number. Who acts comes from the transaction''s context; user_id stands in where the context names nobody.';

revoke select, insert, update, delete on analysis_cache from operator_role;
grant select, insert, update, delete on analysis_cache to app_user;
drop policy analysis_cache_machine on analysis_cache;
alter table analysis_cache no force row level security, disable row level security;

drop policy audit_log_details_read on audit_log_details;
drop policy audit_log_details_machine on audit_log_details;
alter table audit_log_details no force row level security, disable row level security;
drop policy security_audit_read on security_audit;
drop policy security_audit_machine on security_audit;
alter table security_audit no force row level security, disable row level security;

drop function end_session(text);
drop policy sessions_read on sessions;
drop policy sessions_machine on sessions;
alter table sessions no force row level security, disable row level security;

-- A right on all columns takes those on single ones along.
revoke select, insert, update on api_keys from app_user, operator_role;
grant select, insert, update on api_keys to app_user;
drop policy api_keys_change on api_keys;
drop policy api_keys_add on api_keys;
drop policy api_keys_read on api_keys;
drop policy api_keys_machine on api_keys;
alter table api_keys no force row level security, disable row level security;

revoke select, insert, update on users from app_user, operator_role;
grant select, insert, update on users to app_user;
drop policy users_change on users;
drop policy users_read on users;
drop policy users_machine on users;
alter table users no force row level security, disable row level security;

do $$
declare
    name text;
begin
    foreach name in array array[
        -- the queue, from outside an account
        'enqueue_jobs', 'cancel_jobs', 'retry_jobs', 'limit_running_jobs', 'purge_jobs',
        -- workers
        'answer_jobs', 'claim_jobs', 'complete_job', 'complete_job_from_cache', 'complete_jobs', 'count_deaths',
        'fail_job', 'fail_jobs', 'give_back_job', 'heartbeat', 'keep_job_logs', 'lost_jobs', 'register_worker',
        'rest_worker', 'set_image_hashes', 'stop_worker', 'wake_workers',
        -- housekeeping
        'cleanup_expired_cache', 'count_api_key_uses', 'drop_ended_months', 'fail_overdue_jobs', 'fold_queue_counts',
        'mark_duplicate_images', 'measure_algorithms', 'purge_job_logs', 'reconcile_queue_counts',
        'refresh_login_counters', 'refresh_user_counters', 'rescue_jobs', 'roll_up_metrics', 'seal_audit',
        -- accounts
        'change_password', 'end_sessions', 'finish_login', 'hold_audit', 'issue_account_token',
        'redeem_account_token', 'rotate_api_key', 'unlock_account']
    loop
        execute (
            select string_agg(format('revoke execute on function %1$s from operator_role; grant execute on function %1$s to app_user', p.oid::regprocedure), '; ')
            from pg_catalog.pg_proc p
            where p.pronamespace = 'public'::regnamespace and p.proname = name);
    end loop;
end
$$;
