-- Jobs for many images in one statement, wake-ups of sleeping workers, many jobs cancelled at
-- once, and months of ended jobs that are dropped.

-- negspace: allow ban-drop-function in this file because enqueue_jobs() comes back with further arguments, which have defaults
-- negspace: allow require-concurrent-index-creation in this file because there are few workers


-- ── Wake-ups ────────────────────────────────────────────────────────────────────────────

alter table workers add column sleeping_since timestamptz null;
comment on column workers.sleeping_since is 'Since when it has nothing to do and listens; null: it looks for jobs by itself.';
create index workers_sleeping_idx on workers (sleeping_since) where sleeping_since is not null;
comment on index workers_sleeping_idx is 'Whether anybody is to be woken: each enqueue looks.';

create function rest_worker(worker text, resting boolean) returns void
    language sql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
    update public.workers w
    set sleeping_since = case when rest_worker.resting then clock_timestamp() end
    where w.id = rest_worker.worker
$$;
comment on function rest_worker(text, boolean) is
    'A worker that found nothing says that it sleeps, commits, looks once more and then listens to negspace_jobs; it says so when it is awake again. Only sleepers are woken.';
revoke execute on function rest_worker(text, boolean) from public;
grant execute on function rest_worker(text, boolean) to app_user;

create function wake_workers(jobs bigint) returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    -- NOTIFY makes transactions commit one after the other. So it is sent only when somebody
    -- sleeps, and by one transaction at a time: the others' jobs are found by whom it wakes.
    if jobs > 0
       and exists (select from public.workers w
                   where w.sleeping_since is not null and w.stopped_at is null
                     and w.heartbeat_at > clock_timestamp() - interval '1 minute')
       and pg_try_advisory_xact_lock(hashtextextended('negspace.wake_workers', 0)) then
        perform pg_notify('negspace_jobs', jobs::text);
        return true;
    end if;
    return false;
end
$$;
comment on function wake_workers(bigint) is
    'Tells sleeping workers, on channel negspace_jobs, how many jobs came, when this transaction commits. Returns whether it does. A worker polls as well: a wake-up may be lost, a job never.';
revoke execute on function wake_workers(bigint) from public;
grant execute on function wake_workers(bigint) to app_user;


-- ── Enqueue ─────────────────────────────────────────────────────────────────────────────

drop function enqueue_jobs(bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, boolean);

create function answer_images(
    images bigint[], requested_by bigint, algorithm_name text, algorithm_version text, algorithm_parameters jsonb,
    out answered bigint[], out results bigint[]
)
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_column
declare
    print  constant text := public.algorithm_fingerprint(
        answer_images.algorithm_name, answer_images.algorithm_version, answer_images.algorithm_parameters);
    hashed constant text := public.sha256_hex(answer_images.algorithm_parameters::text);
    image  record;
    result bigint;
begin
    answered := '{}';
    results := '{}';
    for image in
        -- the key as cache_key() makes it, whose call for each image would cost as much as its job
        select i.id, i.user_id, i.analysis_status
        from public.images i
        cross join lateral (select encode(sha256(convert_to(i.file_hash || ':' || print, 'UTF8')), 'hex') as key) c
        where i.id = any (answer_images.images)
          and (exists (select from public.analysis_cache a where a.cache_key = c.key and a.expires_at > clock_timestamp())
               or exists (select from public.analysis_results r
                          where r.image_id = i.id and r.algorithm_name = answer_images.algorithm_name
                            and r.algorithm_version = answer_images.algorithm_version and r.parameters_hash = hashed))
        order by c.key  -- in which all lock the entries: equal contents may come to two callers crosswise
    loop
        result := public.store_cached_result(
            image.id, coalesce(answer_images.requested_by, image.user_id), answer_images.algorithm_name,
            answer_images.algorithm_version, answer_images.algorithm_parameters);
        continue when result is null;
        answered := answered || image.id;
        results := results || result;
        if image.analysis_status in ('pending', 'failed')
           and not exists (select from public.processing_queue_hot q where q.image_id = image.id) then
            update public.images i set analysis_status = 'pending' where i.id = image.id and i.analysis_status = 'failed';
            update public.images i set analysis_status = 'processing' where i.id = image.id;
            perform public.settle_image(image.id, 'completed');
        end if;
    end loop;
end
$$;
comment on function answer_images(bigint[], bigint, text, text, jsonb) is
    'Those of the images, which the caller has locked, whose result is there or in the cache, with their results.';
revoke execute on function answer_images(bigint[], bigint, text, text, jsonb) from public;

create function enqueue_jobs(
    images               bigint[],
    requested_by         bigint      default null,
    algorithm_name       text        default 'negative_space',
    algorithm_version    text        default '1.0.0',
    algorithm_parameters jsonb       default '{}',
    priority             integer     default 5,
    max_retries          integer     default 3,
    scheduled_at         timestamptz default null,
    use_cache            boolean     default true,
    deadline_at          timestamptz default null,
    weight               numeric     default null,
    job_group            text        default null
) returns table (image_id bigint, job_id bigint, result_id bigint, outcome text)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    moment   constant timestamptz := clock_timestamp();
    wrong    bigint;
    locked   bigint;
    again    boolean;  -- some have been analysed before
    answered bigint[] := '{}';
    results  bigint[] := '{}';
    added    bigint[] := '{}';
    jobs     bigint[] := '{}';
begin
    if enqueue_jobs.deadline_at <= greatest(moment, enqueue_jobs.scheduled_at) then
        raise exception 'the deadline, %, is over before the job may begin', enqueue_jobs.deadline_at
            using errcode = 'NS004', hint = 'name a later one, or none';
    end if;
    if enqueue_jobs.weight < 0 or enqueue_jobs.weight in ('NaN', 'Infinity') then
        raise exception 'the weight is %', enqueue_jobs.weight
            using errcode = 'NS004', hint = 'a number of megapixels, 0 or more';
    end if;
    select count(*), min(l.id) filter (where l.analysis_status = 'archived'), bool_or(l.analysis_status in ('completed', 'failed'))
    into locked, wrong, again
    from (select i.id, i.analysis_status from public.images i
          where i.id = any (enqueue_jobs.images) order by i.id for no key update) l;
    if wrong is not null then
        raise exception 'image % is archived and is not analysed again', wrong
            using errcode = 'NS006', hint = 'take the file in again to analyse it';
    end if;
    if locked < (select count(distinct w.id) + count(*) filter (where w.id is null) from unnest(enqueue_jobs.images) as w (id)) then
        select w.id into wrong from unnest(enqueue_jobs.images) as w (id)
        where not exists (select from public.images i where i.id = w.id) limit 1;
        raise exception 'there is no image %', coalesce(wrong::text, 'null')
            using errcode = 'NS003', hint = 'negspace images list shows those there are';
    end if;
    if enqueue_jobs.use_cache then
        select a.answered, a.results into answered, results
        from public.answer_images(
            enqueue_jobs.images, enqueue_jobs.requested_by, enqueue_jobs.algorithm_name,
            enqueue_jobs.algorithm_version, enqueue_jobs.algorithm_parameters) a;
    end if;
    select coalesce(array_agg(n.image_id), '{}'), coalesce(array_agg(n.job_id), '{}') into added, jobs
    from public.insert_jobs(
        enqueue_jobs.images, answered, enqueue_jobs.requested_by, enqueue_jobs.algorithm_name, enqueue_jobs.algorithm_version,
        enqueue_jobs.algorithm_parameters, enqueue_jobs.priority, enqueue_jobs.max_retries, moment, enqueue_jobs.scheduled_at,
        enqueue_jobs.use_cache, enqueue_jobs.deadline_at, enqueue_jobs.weight, enqueue_jobs.job_group) n;
    if again then
        update public.images i set analysis_status = 'pending'
        where i.id = any (added) and i.analysis_status in ('completed', 'failed');
    end if;
    if enqueue_jobs.scheduled_at is null or enqueue_jobs.scheduled_at <= moment then
        perform public.wake_workers(cardinality(added));
    end if;
    return query
        select * from public.list_outcomes(
            enqueue_jobs.images, answered, results, added, jobs, enqueue_jobs.algorithm_name,
            enqueue_jobs.algorithm_version, public.sha256_hex(enqueue_jobs.algorithm_parameters::text));
end
$$;
comment on function enqueue_jobs(bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, boolean, timestamptz, numeric, text) is
    'Asks for an analysis of each image, in the order given and in the caller''s transaction. Outcome per image: queued (a new job), waiting (the same analysis waits or runs already), cached (the result is there, nothing waits). requested_by null: the image''s owner. use_cache false: computed again, by the worker too. deadline_at: it fails where it has not begun by then. weight: in megapixels; null: the image''s. job_group: what limit_running_jobs() limits it with.';
revoke execute on function enqueue_jobs(bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, boolean, timestamptz, numeric, text) from public;
grant execute on function enqueue_jobs(bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, boolean, timestamptz, numeric, text) to app_user;

-- Without nested loops, and tables by their keys alone: a kept plan guesses that an array is short.
create function insert_jobs(
    images bigint[], answered bigint[], requested_by bigint, algorithm_name text, algorithm_version text, algorithm_parameters jsonb,
    priority integer, max_retries integer, moment timestamptz, scheduled_at timestamptz, use_cache boolean,
    deadline_at timestamptz, weight numeric, job_group text
) returns table (image_id bigint, job_id bigint)
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
    set enable_nestloop = off
as $$
#variable_conflict use_column
declare
    pace public.algorithm_speeds%rowtype;  -- where workers live that have it
begin
    select s.* into pace from public.algorithm_speeds s
    where s.algorithm_name = insert_jobs.algorithm_name and s.algorithm_version = insert_jobs.algorithm_version
      and s.live_workers > 0;
    return query
        insert into public.processing_queue_hot as q (
            id, image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters, priority, max_retries,
            created_at, scheduled_at, complexity_score, processing_metadata, deadline_at, job_group, estimated_completion_at
        )
        overriding system value
        select nextval('public.processing_queue_id_seq'), a.id, a.user_id, insert_jobs.algorithm_name, insert_jobs.algorithm_version,
               insert_jobs.algorithm_parameters, insert_jobs.priority, insert_jobs.max_retries,
               a.at, coalesce(insert_jobs.scheduled_at, a.at), a.weight,
               case when insert_jobs.use_cache then '{}' else '{"use_cache": false}' end::jsonb,
               insert_jobs.deadline_at, insert_jobs.job_group,
               greatest(a.at, insert_jobs.scheduled_at)
                   + (pace.ms_per_job * (pace.jobs_ahead + a.place - 1) / pace.live_workers
                      + coalesce(pace.ms_per_megapixel * a.weight::double precision, pace.ms_per_job)) * interval '1 millisecond'
        from (
            -- a microsecond apart, so that their order is that of their times
            select i.id, coalesce(insert_jobs.requested_by, i.user_id) as user_id, w.place,
                   insert_jobs.moment + (w.place - 1) * interval '1 microsecond' as at,
                   coalesce(insert_jobs.weight,
                            (i.image_dimensions ->> 'width')::numeric * (i.image_dimensions ->> 'height')::numeric / 1000000) as weight
            from (select u.id, row_number() over (order by min(u.n)) as place
                  from unnest(insert_jobs.images) with ordinality as u (id, n) group by u.id) w
            join public.images i on i.id = w.id
            where i.id = any (insert_jobs.images)
              and i.id not in (select unnest(insert_jobs.answered))
            order by w.place
        ) a
        on conflict (image_id, algorithm_name, algorithm_version, parameters_hash) do nothing
        returning q.image_id, q.id;
end
$$;
comment on function insert_jobs(bigint[], bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, timestamptz, boolean, timestamptz, numeric, text) is
    'One job for each of the images, which the caller has locked, that was not answered and has no such job yet.';
revoke execute on function insert_jobs(bigint[], bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, timestamptz, boolean, timestamptz, numeric, text) from public;

create function list_outcomes(
    images bigint[], answered bigint[], results bigint[], added bigint[], jobs bigint[],
    algorithm_name text, algorithm_version text, parameters_hash text
) returns table (image_id bigint, job_id bigint, result_id bigint, outcome text)
    language plpgsql
    stable
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
    set enable_nestloop = off
as $$
#variable_conflict use_column
begin
    return query
        select w.id, coalesce(a.job, e.id), r.result,
               case when r.id is not null then 'cached' when a.id is not null then 'queued' else 'waiting' end
        from (select u.id, min(u.n) as n from unnest(list_outcomes.images) with ordinality as u (id, n) group by u.id) w
        left join unnest(added, jobs) as a (id, job) on a.id = w.id
        left join unnest(answered, results) as r (id, result) on r.id = w.id
        left join (
            select q.image_id, q.id from public.processing_queue_hot q
            where cardinality(added) + cardinality(answered) < cardinality(list_outcomes.images)
              and q.image_id = any (list_outcomes.images) and q.algorithm_name = list_outcomes.algorithm_name
              and q.algorithm_version = list_outcomes.algorithm_version and q.parameters_hash = list_outcomes.parameters_hash
        ) e on e.image_id = w.id and r.id is null
        order by w.n;
end
$$;
comment on function list_outcomes(bigint[], bigint[], bigint[], bigint[], bigint[], text, text, text) is
    'What became of each image: enqueue_jobs() returns it.';
revoke execute on function list_outcomes(bigint[], bigint[], bigint[], bigint[], bigint[], text, text, text) from public;


-- ── Cancel ──────────────────────────────────────────────────────────────────────────────

create or replace function cancel_jobs(jobs bigint[], reason text default 'cancelled') returns bigint[]
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
as $$
declare
    ended_at constant timestamptz := clock_timestamp();
    held     public.processing_queue[];
    known    bigint[];  -- images that have a result
    others   bigint[];
begin
    perform 1 from public.images i
    where i.id = any (array(select q.image_id from public.processing_queue q where q.id = any (cancel_jobs.jobs)))
    order by i.id for no key update;
    held := array(
        select q from public.processing_queue q
        where q.id = any (cancel_jobs.jobs) and q.status in ('queued', 'processing', 'retrying', 'failed')
        order by q.id for update);
    update public.processing_queue q
    set status = 'cancelled', completed_at = ended_at, lease_token = null, error_message = coalesce(cancel_jobs.reason, q.error_message)
    where q.id = any (array(select h.id from unnest(held) h where h.status <> 'failed'))
      and q.status in ('queued', 'processing', 'retrying');
    update public.processing_queue q set status = 'cancelled'
    where q.id = any (array(select h.id from unnest(held) h where h.status = 'failed')) and q.status = 'failed';
    perform public.record_batch_metrics(array(select h from unnest(held) h where h.status = 'processing'), 'cancelled', ended_at);
    -- An image without further jobs has what it had: where it was asked for again and taken
    -- back before it ran, its result; else its analysis has failed.
    known := array(
        select i.id from public.images i
        where i.id = any (array(select h.image_id from unnest(held) h where h.status <> 'failed'))
          and exists (select from public.analysis_results r where r.image_id = i.id));
    update public.images i set analysis_status = 'processing'
    where i.id = any (known) and i.analysis_status = 'pending'
      and i.id <> all (array(select q.image_id from public.processing_queue_hot q where q.image_id = any (known)));
    perform public.settle_images(known, 'completed', (select jsonb_object_agg(i.id, cancel_jobs.reason) from unnest(known) as i (id)));
    others := array(
        select distinct h.image_id from unnest(held) h
        where h.status <> 'failed' and h.image_id not in (select unnest(known)));
    perform public.settle_images(others, 'failed', (select jsonb_object_agg(i.id, cancel_jobs.reason) from unnest(others) as i (id)));
    insert into public.security_audit (
        user_id, api_key_id, action, resource_type, resource_id, ip_address, user_agent, request_id, changes_before, changes_after
    )
    select c.user_id, c.api_key_id, 'config_change', 'job', h.id::text, c.ip_address, c.user_agent, c.request_id,
           jsonb_build_object('status', h.status), jsonb_build_object('status', 'cancelled', 'reason', cancel_jobs.reason)
    from public.audit_context() c cross join unnest(held) h
    order by h.id;
    return array(select h.id from unnest(held) h order by h.id);
end
$$;


-- ── History ─────────────────────────────────────────────────────────────────────────────

create function drop_ended_months(older_than interval) returns text[]
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    patience constant text := current_setting('lock_timeout');
    month    record;
    young    boolean;
    dropped  text[] := '{}';
begin
    if drop_ended_months.older_than is null or drop_ended_months.older_than < interval '0' then
        raise exception 'the age must not be negative, as % is', coalesce(drop_ended_months.older_than::text, 'null')
            using errcode = 'NS004', hint = 'such as 1 year';
    end if;
    for month in
        select c.oid, c.relname as name
        from pg_inherits h join pg_class c on c.oid = h.inhrelid
        where h.inhparent = 'public.processing_queue_ended'::regclass and c.relname ~ '_[0-9]{6}$'
          and (to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month') at time zone 'UTC' <= now() - drop_ended_months.older_than
        order by c.relname
    loop
        -- Jobs that were asked for in that month may have ended later.
        execute format('select exists (select from public.%I q where q.completed_at >= now() - $1)', month.name)
        into young using drop_ended_months.older_than;
        continue when young;
        -- Dropping takes the foreign keys off their tables as well. A quarter of a second, well
        -- below deadlock_timeout: who is in the way goes on, this one comes again.
        begin
            perform set_config('lock_timeout', '250ms', true);
            lock table only public.users, public.images, public.processing_queue in access exclusive mode;
            lock table only public.processing_queue_ended in access exclusive mode;
            perform set_config('lock_timeout', patience, true);
        exception
            when lock_not_available then
                exit;
        end;
        execute format(
            'insert into public.queue_counts (status, priority, algorithm_name, jobs)'
            ' select q.status, q.priority, q.algorithm_name, -count(*) from public.%I q group by 1, 2, 3', month.name);
        execute format('drop table public.%I', month.name);
        dropped := dropped || month.name::text;
    end loop;
    return dropped;
end
$$;
comment on function drop_ended_months(interval) is
    'Drops whole months of jobs that all ended longer ago, at once and without dead rows, and returns their partitions. Where somebody is in the way for long it leaves them to the next call; purge_jobs() removes single jobs. Call it in a transaction of its own.';
revoke execute on function drop_ended_months(interval) from public;
grant execute on function drop_ended_months(interval) to app_user;
