-- Removes the set-based enqueue, wake-ups and the dropping of months. Lost: which workers
-- sleep. Jobs stay; deadlines and groups are those of 007.

drop function drop_ended_months(interval);

create or replace function cancel_jobs(jobs bigint[], reason text default 'cancelled') returns bigint[]
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    job       public.processing_queue%rowtype;
    cancelled bigint[] := '{}';
begin
    perform 1 from public.images i
    where i.id in (select q.image_id from public.processing_queue q where q.id = any (cancel_jobs.jobs))
    order by i.id for no key update;
    for job in
        select q.* from public.processing_queue q
        where q.id = any (cancel_jobs.jobs) and q.status in ('queued', 'processing', 'retrying', 'failed')
        order by q.id for update
    loop
        if job.status = 'failed' then
            update public.processing_queue q set status = 'cancelled'
            where q.id = job.id and q.status = 'failed' and q.created_at = job.created_at;
        else
            perform public.end_job(job, 'cancelled', clock_timestamp(), cancel_jobs.reason);
            perform public.settle_image(
                job.image_id,
                case when exists (select from public.analysis_results r where r.image_id = job.image_id)
                     then 'completed' else 'failed' end::public.analysis_status,
                cancel_jobs.reason);
        end if;
        perform public.record_event(
            'config_change', 'job', job.id::text,
            changes_before => jsonb_build_object('status', job.status),
            changes_after => jsonb_build_object('status', 'cancelled', 'reason', cancel_jobs.reason));
        cancelled := cancelled || job.id;
    end loop;
    return cancelled;
end
$$;

drop function list_outcomes(bigint[], bigint[], bigint[], bigint[], bigint[], text, text, text);
drop function insert_jobs(bigint[], bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, timestamptz, boolean, timestamptz, numeric, text);
drop function enqueue_jobs(bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, boolean, timestamptz, numeric, text);
drop function answer_images(bigint[], bigint, text, text, jsonb);

create function enqueue_jobs(
    images               bigint[],
    requested_by         bigint      default null,
    algorithm_name       text        default 'negative_space',
    algorithm_version    text        default '1.0.0',
    algorithm_parameters jsonb       default '{}',
    priority             integer     default 5,
    max_retries          integer     default 3,
    scheduled_at         timestamptz default null,
    use_cache            boolean     default true
) returns table (image_id bigint, job_id bigint, result_id bigint, outcome text)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_column
declare
    print   constant text := public.sha256_hex(enqueue_jobs.algorithm_parameters::text);
    wrong   bigint;
    image   record;
begin
    perform 1 from public.images i where i.id = any (enqueue_jobs.images) order by i.id for no key update;
    select w.id into wrong from unnest(enqueue_jobs.images) as w (id)
    where not exists (select from public.images i where i.id = w.id) limit 1;
    if found then
        raise exception 'there is no image %', coalesce(wrong::text, 'null') using errcode = 'NS003', hint = 'negspace images list shows those there are';
    end if;
    select i.id into wrong from public.images i
    where i.id = any (enqueue_jobs.images) and i.analysis_status = 'archived' limit 1;
    if found then
        raise exception 'image % is archived and is not analysed again', wrong using errcode = 'NS006', hint = 'take the file in again to analyse it';
    end if;

    -- The entries that will answer, locked in one order by all: equal contents may come to two
    -- callers crosswise.
    if enqueue_jobs.use_cache then
        perform 1 from public.analysis_cache c
        where c.cache_key = any (array(
            select public.cache_key(i.file_hash, public.algorithm_fingerprint(
                enqueue_jobs.algorithm_name, enqueue_jobs.algorithm_version, enqueue_jobs.algorithm_parameters))
            from public.images i where i.id = any (enqueue_jobs.images)))
        order by c.cache_key for no key update;
    end if;

    for image in
        select i.id, i.user_id, i.image_dimensions, i.analysis_status
        from (select u.id, min(u.n) as n from unnest(enqueue_jobs.images) with ordinality as u (id, n) group by u.id) w
        join public.images i on i.id = w.id
        order by w.n
    loop
        image_id := image.id;
        job_id := null;
        result_id := null;
        if enqueue_jobs.use_cache then
            result_id := public.store_cached_result(
                image.id, coalesce(enqueue_jobs.requested_by, image.user_id), enqueue_jobs.algorithm_name,
                enqueue_jobs.algorithm_version, enqueue_jobs.algorithm_parameters);
        end if;
        if result_id is not null then
            outcome := 'cached';
            if image.analysis_status in ('pending', 'failed')
               and not exists (select from public.processing_queue_hot q where q.image_id = image.id) then
                update public.images i set analysis_status = 'pending' where i.id = image.id and i.analysis_status = 'failed';
                update public.images i set analysis_status = 'processing' where i.id = image.id;
                perform public.settle_image(image.id, 'completed');
            end if;
            return next;
            continue;
        end if;

        -- Whoever enqueues the same holds the image, so nobody can come between look and insert.
        select q.id into job_id from public.processing_queue_hot q
        where q.image_id = image.id and q.algorithm_name = enqueue_jobs.algorithm_name
          and q.algorithm_version = enqueue_jobs.algorithm_version and q.parameters_hash = print;
        outcome := 'waiting';
        if job_id is null then
            insert into public.processing_queue (
                image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters,
                priority, max_retries, scheduled_at, complexity_score, processing_metadata
            )
            values (
                image.id, coalesce(enqueue_jobs.requested_by, image.user_id), enqueue_jobs.algorithm_name,
                enqueue_jobs.algorithm_version, enqueue_jobs.algorithm_parameters,
                enqueue_jobs.priority, enqueue_jobs.max_retries, coalesce(enqueue_jobs.scheduled_at, now()),
                (image.image_dimensions ->> 'width')::numeric * (image.image_dimensions ->> 'height')::numeric / 1000000,
                case when enqueue_jobs.use_cache then '{}' else '{"use_cache": false}' end::jsonb
            )
            returning id into job_id;
            outcome := 'queued';
            update public.images i set analysis_status = 'pending'
            where i.id = image.id and i.analysis_status in ('completed', 'failed');
        end if;
        return next;
    end loop;
end
$$;
comment on function enqueue_jobs(bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, boolean) is
    'Asks for an analysis of each image, in the order given and in the caller''s transaction. Outcome per image: queued (a new job), waiting (the same analysis waits or runs already), cached (the result is there, nothing waits). requested_by null: the image''s owner. use_cache false: computed again, by the worker too.';
revoke execute on function enqueue_jobs(bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, boolean) from public;
grant execute on function enqueue_jobs(bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, boolean) to app_user;

drop function wake_workers(bigint);
drop function rest_worker(text, boolean);
drop index workers_sleeping_idx;
alter table workers drop column sleeping_since;
