-- Accounts, keys, sessions and the audit trail: rows of whoever is proven to act, and no hash of
-- a secret. What workers, housekeeping and the operator call is taken from services for people.

-- negspace: allow ban-drop-function in this file because nothing is dropped that services call


-- ── Functions of the machine ────────────────────────────────────────────────────────────
-- Each takes numbers of anybody's rows and asks nobody. Logins too: who may read the hash that
-- a password is compared with, and say that it fits, could log in as anybody.

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
            select string_agg(format('revoke execute on function %1$s from app_user; grant execute on function %1$s to operator_role', p.oid::regprocedure), '; ')
            from pg_catalog.pg_proc p
            where p.pronamespace = 'public'::regnamespace and p.proname = name);
    end loop;
end
$$;


-- ── users ───────────────────────────────────────────────────────────────────────────────

alter table users enable row level security, force row level security;

create policy users_machine on users to operator_role, current_user using (true) with check (true);
comment on policy users_machine on users is 'The operator, and functions that run as the owner: all rows.';

create policy users_read on users for select to app_user
    using (id = (select acting_on('read:account')) or (select acting_on_all('manage:accounts')));
comment on policy users_read on users is 'The own account; an administrator all. By a key with the right scope alone.';

create policy users_change on users for update to app_user
    using (id = (select acting_on('write:account')) or (select acting_on_all('manage:accounts')))
    with check (id = (select acting_on('write:account')) or (select acting_on_all('manage:accounts')));
comment on policy users_change on users is 'The own account; which columns, its grants say: not the role.';

revoke select, insert, update on users from app_user;
grant select, insert, update on users to operator_role;
grant select (
    id, email, full_name, role, is_active, is_email_verified, last_login_at, created_at, updated_at, metadata,
    audit_event_count, api_request_count, failed_login_attempts, account_locked_until, security_settings
) on users to app_user;
grant update (full_name, metadata) on users to app_user;


-- ── api_keys ────────────────────────────────────────────────────────────────────────────

alter table api_keys enable row level security, force row level security;

create policy api_keys_machine on api_keys to operator_role, current_user using (true) with check (true);
comment on policy api_keys_machine on api_keys is 'The operator, and functions that run as the owner: all rows.';

create policy api_keys_read on api_keys for select to app_user
    using (user_id = (select acting_on('read:account')) or (select acting_on_all('manage:accounts')));
comment on policy api_keys_read on api_keys is 'Own keys; an administrator all.';

create policy api_keys_add on api_keys for insert to app_user
    with check (user_id = (select acting_on('write:account')) or (select acting_on_all('manage:accounts')));
comment on policy api_keys_add on api_keys is 'Keys of one''s own; of which scopes, a trigger says.';

create policy api_keys_change on api_keys for update to app_user
    using (user_id = (select acting_on('write:account')) or (select acting_on_all('manage:accounts')))
    with check (user_id = (select acting_on('write:account')) or (select acting_on_all('manage:accounts')));
comment on policy api_keys_change on api_keys is 'Own keys; which columns, its grants say.';

-- The hash acts for the key, so nobody but the operator reads or changes it.
revoke select, insert, update on api_keys from app_user;
grant select, insert, update on api_keys to operator_role;
grant insert on api_keys to app_user;
grant select (
    id, user_id, name, description, is_active, last_used_at, created_at, expires_at, scopes, ip_whitelist,
    rate_limit_per_minute, last_rate_limit_reset, request_count_current_window, total_requests, usage_stats
) on api_keys to app_user;
grant update (name, description, is_active, expires_at, scopes, ip_whitelist, rate_limit_per_minute) on api_keys to app_user;


-- ── sessions ────────────────────────────────────────────────────────────────────────────

alter table sessions enable row level security, force row level security;

create policy sessions_machine on sessions to operator_role, current_user using (true) with check (true);
comment on policy sessions_machine on sessions is 'The operator, and functions that run as the owner: all rows.';

create policy sessions_read on sessions for select to app_user
    using (user_id = (select acting_on('read:account')) or (select acting_on_all('manage:accounts')));
comment on policy sessions_read on sessions is 'Own sessions; an administrator all.';

create function end_session(token_hash text) returns boolean
    language sql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
    select coalesce((
        select public.end_sessions(s.user_id, s.session_id) > 0
        from public.verify_session(end_session.token_hash) s
        where s.session_id is not null), false)
$$;
comment on function end_session(text) is
    'Ends the session of a token, named by its SHA-256, with a logout event; false where there is none, or it has ended.';
revoke execute on function end_session(text) from public;
grant execute on function end_session(text) to app_user;


-- ── The audit trail ─────────────────────────────────────────────────────────────────────

alter table security_audit enable row level security, force row level security;

create policy security_audit_machine on security_audit to operator_role, current_user using (true) with check (true);
comment on policy security_audit_machine on security_audit is 'The operator, and functions that run as the owner: all rows. Changes are refused by triggers all the same.';

create policy security_audit_read on security_audit for select to app_user
    using (user_id = (select acting_on('read:account')) or (select acting_on_all('read:audit')));
comment on policy security_audit_read on security_audit is 'Events of one''s own; an administrator all.';

alter table audit_log_details enable row level security, force row level security;

create policy audit_log_details_machine on audit_log_details to operator_role, current_user using (true) with check (true);
comment on policy audit_log_details_machine on audit_log_details is 'The operator, and functions that run as the owner: all rows. Changes are refused by triggers all the same.';

create policy audit_log_details_read on audit_log_details for select to app_user
    using (exists (select from security_audit a
                   where a.id = audit_log_details.audit_id and a."timestamp" = audit_log_details.audit_timestamp));
comment on policy audit_log_details_read on audit_log_details is 'Details of events that one sees.';


-- ── analysis_cache ──────────────────────────────────────────────────────────────────────

alter table analysis_cache enable row level security, force row level security;

create policy analysis_cache_machine on analysis_cache to operator_role, current_user using (true) with check (true);
comment on policy analysis_cache_machine on analysis_cache is 'The operator, and functions that run as the owner: all rows.';

-- Answers are found by what a file holds: to see which there are would tell who has it.
revoke select, insert, update, delete on analysis_cache from app_user;
grant select, insert, update, delete on analysis_cache to operator_role;


-- ── What is recorded ────────────────────────────────────────────────────────────────────

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
    select coalesce(c.user_id, case when public.is_trusted_session() then record_event.user_id end), c.api_key_id, record_event.action,
           record_event.resource_type, record_event.resource_id, record_event.status,
           c.ip_address, c.user_agent, c.request_id, record_event.error_message,
           record_event.changes_before, record_event.changes_after
    from public.audit_context() c
    returning id
$$;
comment on function record_event(audit_action, text, text, audit_status, jsonb, jsonb, text, bigint) is
    'Writes one event of the audit trail and returns its number. Who acts comes from the transaction''s context; user_id stands in where the context names nobody, and the operator says so.';


-- ── Jobs of one's own ───────────────────────────────────────────────────────────────────

create function refuse_others_images(images bigint[], what text, named bigint[]) returns bigint
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    me     constant bigint := public.acting_on('run:analyses');
    others bigint;
begin
    if me is null then
        raise exception 'nobody acts here who may run analyses'
            using errcode = 'NS002', hint = 'act_with_session() or act_with_key(), with the scope run:analyses';
    end if;
    if not public.acting_on_all('run:analyses') then
        -- As if it weren't there: that it is somebody else's tells nobody.
        select n.number into others
        from unnest(images, named) with ordinality as n (image, number, place)
        where not exists (select from public.images i where i.id = n.image and i.user_id = me)
        order by n.place limit 1;
        if found then
            raise exception 'there is no % %', what, coalesce(others::text, 'null')
                using errcode = 'NS003', hint = 'negspace images list shows those there are';
        end if;
    end if;
    return me;
end
$$;
comment on function refuse_others_images(bigint[], text, bigint[]) is
    'The account that acts and may run analyses, where all the images are its own; named: the numbers that the caller gave, for what is said otherwise.';
revoke execute on function refuse_others_images(bigint[], text, bigint[]) from public;

create function enqueue_own_jobs(
    images               bigint[],
    algorithm_name       text        default 'negative_space',
    algorithm_version    text        default '1.0.0',
    algorithm_parameters jsonb       default '{}',
    priority             integer     default 5,
    scheduled_at         timestamptz default null,
    use_cache            boolean     default true,
    deadline_at          timestamptz default null
) returns table (image_id bigint, job_id bigint, result_id bigint, outcome text)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_column
declare
    me constant bigint := public.refuse_others_images(enqueue_own_jobs.images, 'image', enqueue_own_jobs.images);
begin
    return query
        select e.* from public.enqueue_jobs(
            enqueue_own_jobs.images, me, enqueue_own_jobs.algorithm_name, enqueue_own_jobs.algorithm_version,
            enqueue_own_jobs.algorithm_parameters, enqueue_own_jobs.priority,
            scheduled_at => enqueue_own_jobs.scheduled_at, use_cache => enqueue_own_jobs.use_cache,
            deadline_at => enqueue_own_jobs.deadline_at) e;
end
$$;
comment on function enqueue_own_jobs(bigint[], text, text, jsonb, integer, timestamptz, boolean, timestamptz) is
    'enqueue_jobs() for whoever is proven to act, on images of the account; an administrator on all.';
revoke execute on function enqueue_own_jobs(bigint[], text, text, jsonb, integer, timestamptz, boolean, timestamptz) from public;
grant execute on function enqueue_own_jobs(bigint[], text, text, jsonb, integer, timestamptz, boolean, timestamptz) to app_user;

create function images_of_jobs(jobs bigint[]) returns bigint[]
    language sql
    stable
    set search_path = pg_catalog, public, pg_temp
as $$
    select coalesce(array_agg((select q.image_id from public.processing_queue q where q.id = j.id limit 1) order by j.place), '{}')
    from unnest(images_of_jobs.jobs) with ordinality as j (id, place)
$$;
comment on function images_of_jobs(bigint[]) is 'The image of each job, null where there is no such job.';
revoke execute on function images_of_jobs(bigint[]) from public;

create function cancel_own_jobs(jobs bigint[], reason text default 'cancelled') returns bigint[]
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    perform public.refuse_others_images(public.images_of_jobs(cancel_own_jobs.jobs), 'job', cancel_own_jobs.jobs);
    return public.cancel_jobs(cancel_own_jobs.jobs, cancel_own_jobs.reason);
end
$$;
comment on function cancel_own_jobs(bigint[], text) is
    'cancel_jobs() for whoever is proven to act, on jobs of the account''s images; an administrator on all.';
revoke execute on function cancel_own_jobs(bigint[], text) from public;
grant execute on function cancel_own_jobs(bigint[], text) to app_user;

create function retry_own_jobs(jobs bigint[]) returns bigint[]
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    perform public.refuse_others_images(public.images_of_jobs(retry_own_jobs.jobs), 'job', retry_own_jobs.jobs);
    return public.retry_jobs(retry_own_jobs.jobs);
end
$$;
comment on function retry_own_jobs(bigint[]) is
    'retry_jobs() for whoever is proven to act, on jobs of the account''s images; an administrator on all.';
revoke execute on function retry_own_jobs(bigint[]) from public;
grant execute on function retry_own_jobs(bigint[]) to app_user;

create or replace function archive_image(image bigint) returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    jobs bigint[];
begin
    perform 1 from public.images i where i.id = archive_image.image for no key update;
    if not found then
        raise exception 'there is no image %', archive_image.image
            using errcode = 'NS003', hint = 'negspace images list shows those there are';
    end if;
    jobs := array(
        select q.id from public.processing_queue q
        where q.image_id = archive_image.image and q.status in ('queued', 'retrying', 'processing'));
    if public.sees_all_rows() then
        perform public.cancel_jobs(jobs, 'its image is archived');
    elsif cardinality(jobs) > 0 then
        perform public.cancel_own_jobs(jobs, 'its image is archived');
    end if;
    update public.images i set analysis_status = 'archived'
    where i.id = archive_image.image and i.analysis_status <> 'archived';
end
$$;
