-- One image asked for in few statements; and a change of an image's status, which each job makes
-- twice, doesn't prepare to write an event that it hasn't.

-- negspace: allow ban-drop-function in this file because audit_image_changes() is a trigger's alone


-- ── Changes of images ───────────────────────────────────────────────────────────────────
-- Jobs change the status of images, and write events of their own: a trigger of columns isn't even
-- looked at then. The one for each statement compared all rows, was before now, and in a session
-- that changed one image first each with each.

create function audit_image_change() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    if tg_argv[0] = 'archived'
       and (old.user_id, old.original_filename, old.file_path, old.file_size, old.mime_type, old.file_hash,
            old.is_duplicate, old.duplicate_of, old.metadata)
           is distinct from
           (new.user_id, new.original_filename, new.file_path, new.file_size, new.mime_type, new.file_hash,
            new.is_duplicate, new.duplicate_of, new.metadata) then
        return null;  -- the event of those columns says it as well
    end if;
    insert into public.security_audit (
        user_id, api_key_id, action, resource_type, resource_id, ip_address, user_agent,
        request_id, changes_before, changes_after
    )
    select c.user_id, c.api_key_id, 'config_change', 'image', new.id::text, c.ip_address, c.user_agent,
           c.request_id, d.was, d.becomes
    from public.audit_context() c
    cross join public.changed_keys(old.metadata, new.metadata) m
    cross join lateral public.changed_keys(
        jsonb_build_object(
            'user_id', old.user_id, 'original_filename', old.original_filename, 'file_path', old.file_path,
            'file_size', old.file_size, 'mime_type', old.mime_type, 'file_hash', old.file_hash,
            'is_duplicate', old.is_duplicate, 'duplicate_of', old.duplicate_of, 'metadata', m.was)
        || case when new.analysis_status = 'archived' then jsonb_build_object('analysis_status', old.analysis_status) else '{}' end,
        jsonb_build_object(
            'user_id', new.user_id, 'original_filename', new.original_filename, 'file_path', new.file_path,
            'file_size', new.file_size, 'mime_type', new.mime_type, 'file_hash', new.file_hash,
            'is_duplicate', new.is_duplicate, 'duplicate_of', new.duplicate_of, 'metadata', m.becomes)
        || case when new.analysis_status = 'archived' then jsonb_build_object('analysis_status', new.analysis_status) else '{}' end
    ) d;
    return null;
end
$$;
comment on function audit_image_change() is
    'Writes what somebody decided about an image into the audit trail: the changed keys before and after. What jobs change of it is told by run_analysis. Argument: which of its two triggers calls.';
revoke execute on function audit_image_change() from public;

drop trigger images_audit_update on images;
drop function audit_image_changes();

create trigger images_audit_update
    after update of user_id, original_filename, file_path, file_size, mime_type, file_hash, is_duplicate, duplicate_of, metadata on images
    for each row
    when ((old.user_id, old.original_filename, old.file_path, old.file_size, old.mime_type, old.file_hash,
           old.is_duplicate, old.duplicate_of, old.metadata)
          is distinct from
          (new.user_id, new.original_filename, new.file_path, new.file_size, new.mime_type, new.file_hash,
           new.is_duplicate, new.duplicate_of, new.metadata))
    execute function audit_image_change('decided');
comment on trigger images_audit_update on images is 'Every decided change of an image is an event.';

create trigger images_audit_archived
    after update of analysis_status on images
    for each row
    when (old.analysis_status <> new.analysis_status and (old.analysis_status = 'archived' or new.analysis_status = 'archived'))
    execute function audit_image_change('archived');
comment on trigger images_audit_archived on images is 'That an image is archived is an event.';


-- ── What may follow a status ────────────────────────────────────────────────────────────
-- The same rules in fewer words: each statement reads the clause of a trigger anew, and these two
-- took more of a claim of one job than the rows that it wrote.

create or replace trigger images_status_transition
    before update on images
    for each row
    when (old.analysis_status <> new.analysis_status
          and new.analysis_status <> all (
              case old.analysis_status
                  when 'pending'    then '{processing, failed, archived}'::analysis_status[]
                  when 'processing' then '{completed, failed}'
                  when 'completed'  then '{pending, archived}'
                  when 'failed'     then '{pending, archived}'
                  else '{}'
              end))
    execute function refuse_transition('image', 'analysis_status',
        '{"pending": "processing, failed, archived", "processing": "completed, failed", "completed": "pending, archived", "failed": "pending, archived"}');
comment on trigger images_status_transition on images is 'The allowed changes of analysis_status; all else is refused.';

drop trigger processing_queue_status_transition on processing_queue;
create trigger processing_queue_status_transition
    before update on processing_queue
    for each row
    when (old.status <> new.status
          and new.status <> all (
              case old.status
                  when 'queued'     then '{processing, cancelled}'::queue_status[]
                  when 'processing' then '{completed, failed, cancelled}'
                  when 'failed'     then '{retrying, cancelled}'
                  when 'retrying'   then '{processing, cancelled}'
                  else '{}'
              end))
    execute function refuse_transition('job', 'status',
        '{"queued": "processing, cancelled", "processing": "completed, failed, cancelled", "failed": "retrying, cancelled", "retrying": "processing, cancelled"}');
comment on trigger processing_queue_status_transition on processing_queue is 'The allowed changes of status; all else is refused.';


-- ── Asking for one ──────────────────────────────────────────────────────────────────────

create function enqueue_image(
    image                bigint,
    requested_by         bigint,
    algorithm_name       text,
    algorithm_version    text,
    algorithm_parameters jsonb,
    priority             integer,
    max_retries          integer,
    moment               timestamptz,
    scheduled_at         timestamptz,
    use_cache            boolean,
    deadline_at          timestamptz,
    weight               numeric,
    job_group            text
) returns bigint
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
    set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    found_image record;
    job         bigint;
begin
    select i.user_id, i.analysis_status,
           (i.image_dimensions ->> 'width')::numeric * (i.image_dimensions ->> 'height')::numeric / 1000000 as weight,
           enqueue_image.use_cache and (
               (select r.id from public.analysis_results r
                where r.image_id = i.id and r.parameters_hash = public.sha256_hex(enqueue_image.algorithm_parameters::text)  -- as result_of()
                  and r.algorithm_name || '@' || r.algorithm_version
                      = enqueue_image.algorithm_name || '@' || enqueue_image.algorithm_version) is not null
               or (select a.id from public.analysis_cache a
                   where a.cache_key = public.cache_key(
                             i.file_hash,
                             public.algorithm_fingerprint(
                                 enqueue_image.algorithm_name, enqueue_image.algorithm_version, enqueue_image.algorithm_parameters),
                             i.user_id)
                     and a.expires_at > clock_timestamp()) is not null) as answered
    into found_image
    from public.images i where i.id = enqueue_image.image
    for no key update;
    if found_image.analysis_status is null or found_image.analysis_status = 'archived' or found_image.answered then
        return null;
    end if;
    insert into public.processing_queue_hot as q (
        id, image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters, priority, max_retries,
        created_at, scheduled_at, complexity_score, processing_metadata, deadline_at, job_group, estimated_completion_at
    )
    overriding system value
    select nextval('public.processing_queue_id_seq'), enqueue_image.image, coalesce(enqueue_image.requested_by, found_image.user_id),
           enqueue_image.algorithm_name, enqueue_image.algorithm_version, enqueue_image.algorithm_parameters,
           enqueue_image.priority, enqueue_image.max_retries,
           enqueue_image.moment, coalesce(enqueue_image.scheduled_at, enqueue_image.moment), g.weight,
           case when enqueue_image.use_cache then '{}' else '{"use_cache": false}' end::jsonb,
           enqueue_image.deadline_at, enqueue_image.job_group,
           greatest(enqueue_image.moment, enqueue_image.scheduled_at)
               + (s.ms_per_job * coalesce(s.jobs_before[enqueue_image.priority], s.jobs_ahead) / s.live_workers
                  + coalesce(s.ms_per_megapixel * g.weight::double precision, s.ms_per_job)) * interval '1 millisecond'
    from (select coalesce(enqueue_image.weight, found_image.weight) as weight) g
    left join public.algorithm_speeds s on s.algorithm_name = enqueue_image.algorithm_name
        and s.algorithm_version = enqueue_image.algorithm_version and s.live_workers > 0
    on conflict (image_id, algorithm_name, algorithm_version, parameters_hash) do nothing
    returning q.id into job;
    if job is not null and found_image.analysis_status in ('completed', 'failed') then
        update public.images i set analysis_status = 'pending' where i.id = enqueue_image.image;
    end if;
    return job;
end
$$;
comment on function enqueue_image(
    bigint, bigint, text, text, jsonb, integer, integer, timestamptz, timestamptz, boolean, timestamptz, numeric, text) is
    'enqueue_jobs() of one image that nothing answers yet: its new job. Otherwise null: it isn''t there, is archived, is answered or waits already.';
revoke execute on function enqueue_image(
    bigint, bigint, text, text, jsonb, integer, integer, timestamptz, timestamptz, boolean, timestamptz, numeric, text) from public;

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
    source  constant text := pg_get_functiondef('public.enqueue_jobs'::regproc);
begin
    if length(source) - length(replace(source, was, '')) <> length(was) then
        raise exception 'the function enqueue_jobs is not as the migrations made it'
            using errcode = 'NS006', hint = 'negspace migrate drift shows how it differs';
    end if;
    execute replace(source, was, becomes);
end
$$;
