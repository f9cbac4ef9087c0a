do $$
declare
    was     constant text := '    select count(*), min(l.id) filter';
    becomes constant text := '    if cardinality(enqueue_jobs.images) = 1 and enqueue_jobs.images[1] is not null then
        job_id := public.enqueue_image(
            enqueue_jobs.images[1], enqueue_jobs.requested_by, enqueue_jobs.algorithm_name, enqueue_jobs.algorithm_version,
            enqueue_jobs.algorithm_parameters, enqueue_jobs.priority, enqueue_jobs.max_retries, moment, enqueue_jobs.scheduled_at,
            enqueue_jobs.use_cache, enqueue_jobs.deadline_at, enqueue_jobs.weight, enqueue_jobs.job_group);
        if job_id is not null then
            if enqueue_jobs.scheduled_at is null or enqueue_jobs.scheduled_at <= moment then
                perform public.wake_workers(1);
            end if;
            image_id := enqueue_jobs.images[1];
            outcome := ''queued'';
            return next;
            return;
        end if;
    end if;
    select count(*), min(l.id) filter';
begin
    execute replace(pg_get_functiondef('public.enqueue_jobs'::regproc), becomes, was);
end
$$;

drop function enqueue_image(
    bigint, bigint, text, text, jsonb, integer, integer, timestamptz, timestamptz, boolean, timestamptz, numeric, text);

create or replace trigger images_status_transition
    before update on images
    for each row
    when (old.analysis_status <> new.analysis_status
          and (old.analysis_status, new.analysis_status) not in (
              ('pending',    'processing'),
              ('pending',    'failed'),
              ('pending',    'archived'),
              ('processing', 'completed'),
              ('processing', 'failed'),
              ('completed',  'pending'),   -- addition: analyse again
              ('completed',  'archived'),  -- addition
              ('failed',     'pending'),   -- addition: try again
              ('failed',     'archived')   -- addition
          ))
    execute function refuse_transition('image', 'analysis_status',
        '{"pending": "processing, failed, archived", "processing": "completed, failed", "completed": "pending, archived", "failed": "pending, archived"}');
comment on trigger images_status_transition on images is 'The allowed changes of analysis_status; all else is refused.';

drop trigger processing_queue_status_transition on processing_queue;
create trigger processing_queue_status_transition
    before update on processing_queue
    for each row
    when (old.status <> new.status
          and (old.status, new.status) not in (
              ('queued',     'processing'),
              ('queued',     'cancelled'),
              ('processing', 'completed'),
              ('processing', 'failed'),
              ('processing', 'cancelled'),  -- addition: a running job is taken back
              ('failed',     'retrying'),
              ('failed',     'cancelled'),
              ('retrying',   'processing'), -- addition: or it would lead nowhere
              ('retrying',   'cancelled')   -- addition
          ))
    execute function refuse_transition('job', 'status',
        '{"queued": "processing, cancelled", "processing": "completed, failed, cancelled", "failed": "retrying, cancelled", "retrying": "processing, cancelled"}');
comment on trigger processing_queue_status_transition on processing_queue is 'The allowed changes of status; all else is refused.';

drop trigger images_audit_update on images;
drop trigger images_audit_archived on images;
drop function audit_image_change();

create function audit_image_changes() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    -- Jobs change images all the time, and write events of their own: those are left out first.
    insert into public.security_audit (
        user_id, api_key_id, action, resource_type, resource_id, ip_address, user_agent,
        request_id, changes_before, changes_after
    )
    select c.user_id, c.api_key_id, 'config_change', 'image', n.id::text, c.ip_address, c.user_agent,
           c.request_id, d.was, d.becomes
    from old_rows o
    join new_rows n using (id)
    cross join public.audit_context() c
    cross join lateral public.changed_keys(o.metadata, n.metadata) m
    cross join lateral public.changed_keys(
        jsonb_build_object(
            'user_id', o.user_id, 'original_filename', o.original_filename, 'file_path', o.file_path,
            'file_size', o.file_size, 'mime_type', o.mime_type, 'file_hash', o.file_hash,
            'is_duplicate', o.is_duplicate, 'duplicate_of', o.duplicate_of, 'metadata', m.was)
        || case when n.analysis_status = 'archived' then jsonb_build_object('analysis_status', o.analysis_status) else '{}' end,
        jsonb_build_object(
            'user_id', n.user_id, 'original_filename', n.original_filename, 'file_path', n.file_path,
            'file_size', n.file_size, 'mime_type', n.mime_type, 'file_hash', n.file_hash,
            'is_duplicate', n.is_duplicate, 'duplicate_of', n.duplicate_of, 'metadata', m.becomes)
        || case when n.analysis_status = 'archived' then jsonb_build_object('analysis_status', n.analysis_status) else '{}' end
    ) d
    where (o.user_id, o.original_filename, o.file_path, o.file_size, o.mime_type, o.file_hash,
           o.is_duplicate, o.duplicate_of, o.metadata, o.analysis_status = 'archived')
          is distinct from
          (n.user_id, n.original_filename, n.file_path, n.file_size, n.mime_type, n.file_hash,
           n.is_duplicate, n.duplicate_of, n.metadata, n.analysis_status = 'archived')
    order by n.id;
    return null;
end
$$;
comment on function audit_image_changes() is
    'Writes what somebody decided about images into the audit trail: the changed keys before and after. What jobs change of them is told by run_analysis.';
revoke execute on function audit_image_changes() from public;

create trigger images_audit_update
    after update on images
    referencing old table as old_rows new table as new_rows
    for each statement
    execute function audit_image_changes();
comment on trigger images_audit_update on images is 'Every decided change of an image is an event.';
