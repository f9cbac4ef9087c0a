-- Many images asked for at once: what the look that locks them has read is not read again, and
-- nothing is looked for that can't be there.


-- ── New jobs ────────────────────────────────────────────────────────────────────────────

create function insert_new_jobs(
    images               bigint[],
    ids                  bigint[],
    users                bigint[],
    weights              numeric[],
    algorithm_name       text,
    algorithm_version    text,
    algorithm_parameters jsonb,
    priority             integer,
    max_retries          integer,
    moment               timestamptz,
    scheduled_at         timestamptz,
    use_cache            boolean,
    deadline_at          timestamptz,
    job_group            text,
    out added            bigint[],
    out jobs             bigint[]
)
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
    set enable_nestloop = off
as $$
#variable_conflict use_column
declare
    hashed constant text := public.sha256_hex(insert_new_jobs.algorithm_parameters::text);
    pace   public.algorithm_speeds%rowtype;  -- where workers live that have it
begin
    if exists (select from public.processing_queue_hot q
               where q.image_id = any (insert_new_jobs.ids) and q.algorithm_name = insert_new_jobs.algorithm_name
                 and q.algorithm_version = insert_new_jobs.algorithm_version and q.parameters_hash = hashed) then
        return;
    end if;
    added := insert_new_jobs.ids;
    if added <> insert_new_jobs.images then  -- each once, in the order that is asked for
        select array_agg(o.id), array_agg(o.user_id), array_agg(o.weight) into added, users, weights
        from (select l.id, l.user_id, l.weight
              from (select u.id, min(u.n) as n from unnest(insert_new_jobs.images) with ordinality as u (id, n) group by u.id) w
              join unnest(added, users, weights) as l (id, user_id, weight) on l.id = w.id
              order by w.n) o;
    end if;
    select s.* into pace from public.algorithm_speeds s
    where s.algorithm_name = insert_new_jobs.algorithm_name and s.algorithm_version = insert_new_jobs.algorithm_version
      and s.live_workers > 0;
    with inserted as (
        insert into public.processing_queue_hot as q (
            id, image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters, priority, max_retries,
            created_at, scheduled_at, complexity_score, processing_metadata, deadline_at, job_group, estimated_completion_at
        )
        overriding system value
        select nextval('public.processing_queue_id_seq'), a.id, a.user_id, insert_new_jobs.algorithm_name,
               insert_new_jobs.algorithm_version, insert_new_jobs.algorithm_parameters, insert_new_jobs.priority,
               insert_new_jobs.max_retries, a.at, coalesce(insert_new_jobs.scheduled_at, a.at), a.weight,
               case when insert_new_jobs.use_cache then '{}'::jsonb else '{"use_cache": false}'::jsonb end,
               insert_new_jobs.deadline_at, insert_new_jobs.job_group,
               greatest(a.at, insert_new_jobs.scheduled_at)
                   + (pace.ms_per_job * (coalesce(pace.jobs_before[insert_new_jobs.priority], pace.jobs_ahead) + a.place - 1) / pace.live_workers
                      + coalesce(pace.ms_per_megapixel * a.weight::double precision, pace.ms_per_job)) * interval '1 millisecond'
        from (
            -- a microsecond apart, so that their order is that of their times
            select u.*, insert_new_jobs.moment + (u.place - 1) * interval '1 microsecond' as at
            from unnest(added, users, weights) with ordinality as u (id, user_id, weight, place)
        ) a
        returning q.id
    )
    select array_agg(i.id) into jobs from inserted i;
exception
    -- Somebody writes such a job meanwhile without a lock on its image, or this transaction doesn't see it.
    when unique_violation then
        jobs := null;
end
$$;
comment on function insert_new_jobs(
    bigint[], bigint[], bigint[], numeric[], text, text, jsonb, integer, integer, timestamptz, timestamptz, boolean, timestamptz, text) is
    'insert_jobs() where none of the images has such a job yet: the images, each once and in their order, and their jobs. No jobs, and nothing is done, where one has. ids: the images by number, with whose jobs they become and what they weigh.';
revoke execute on function insert_new_jobs(
    bigint[], bigint[], bigint[], numeric[], text, text, jsonb, integer, integer, timestamptz, timestamptz, boolean, timestamptz, text) from public;


-- ── What calls them ─────────────────────────────────────────────────────────────────────

do $$
declare
    change record;
    source text;
begin
    -- A few lines of two functions change; the rest stays as it is.
    for change in
        select c.* from (values
            -- one look at the results of all; none for an entry, which costs a hash for each image, where
            -- no analysis of the kind has one
            ('answer_images', 1,
             '    image  record;
    result bigint;
begin
    answered := ''{}'';
    results := ''{}'';
',
             '    -- Whether there is any entry. Only one index has the order: one row is read, whatever the planner believes.
    cached   constant boolean := coalesce(print = (
        select c.algorithm_fingerprint from public.analysis_cache c
        where c.algorithm_fingerprint >= print
        order by c.algorithm_fingerprint limit 1), false);
    analysed constant bigint[] := array(
        select r.image_id from public.analysis_results r
        where r.image_id = any (answer_images.images) and r.parameters_hash = hashed  -- as result_of()
          and r.algorithm_name || ''@'' || r.algorithm_version
              = answer_images.algorithm_name || ''@'' || answer_images.algorithm_version);
    image  record;
    result bigint;
begin
    answered := ''{}'';
    results := ''{}'';
    if not cached and analysed = ''{}'' then
        return;
    end if;
'),
            ('answer_images', 2,
             '(exists (select from public.analysis_cache a where a.cache_key = c.key and a.expires_at > clock_timestamp())
               or (select r.id from public.analysis_results r
                   where r.image_id = i.id and r.parameters_hash = hashed  -- as result_of()
                     and r.algorithm_name || ''@'' || r.algorithm_version
                         = answer_images.algorithm_name || ''@'' || answer_images.algorithm_version) is not null)',
             '(cached and exists (select from public.analysis_cache a where a.cache_key = c.key and a.expires_at > clock_timestamp())
               or i.id in (select unnest(analysed)))'),
            ('enqueue_jobs', 1,
             '    again    boolean;  -- some have been analysed before
',
             '    again    boolean;  -- some have been analysed before
    ids      bigint[];  -- the images by number …
    users    bigint[];
    weights  numeric[];
'),
            ('enqueue_jobs', 2,
             'bool_or(l.analysis_status in (''completed'', ''failed''))
    into locked, wrong, again
    from (select i.id, i.analysis_status from public.images i',
             'bool_or(l.analysis_status in (''completed'', ''failed'')),
           array_agg(l.id), array_agg(l.user_id), array_agg(l.weight)
    into locked, wrong, again, ids, users, weights
    from (select i.id, i.analysis_status, coalesce(enqueue_jobs.requested_by, i.user_id) as user_id,
                 coalesce(enqueue_jobs.weight,
                          (i.image_dimensions ->> ''width'')::numeric * (i.image_dimensions ->> ''height'')::numeric * 0.000001) as weight
          from public.images i'),
            ('enqueue_jobs', 3,
             'if locked < (select',
             'if locked < cardinality(enqueue_jobs.images) and locked < (select'),
            ('enqueue_jobs', 4,
             '    jobs     bigint[] := ''{}'';',
             '    jobs     bigint[];'),
            ('enqueue_jobs', 5,
             '    select coalesce(array_agg(n.image_id), ''{}''), coalesce(array_agg(n.job_id), ''{}'') into added, jobs
    from public.insert_jobs(
        enqueue_jobs.images, answered, enqueue_jobs.requested_by, enqueue_jobs.algorithm_name, enqueue_jobs.algorithm_version,
        enqueue_jobs.algorithm_parameters, enqueue_jobs.priority, enqueue_jobs.max_retries, moment, enqueue_jobs.scheduled_at,
        enqueue_jobs.use_cache, enqueue_jobs.deadline_at, enqueue_jobs.weight, enqueue_jobs.job_group) n;
',
             '    if answered = ''{}'' then
        select n.added, n.jobs into added, jobs
        from public.insert_new_jobs(
            enqueue_jobs.images, ids, users, weights, enqueue_jobs.algorithm_name, enqueue_jobs.algorithm_version,
            enqueue_jobs.algorithm_parameters, enqueue_jobs.priority, enqueue_jobs.max_retries, moment,
            enqueue_jobs.scheduled_at, enqueue_jobs.use_cache, enqueue_jobs.deadline_at, enqueue_jobs.job_group) n;
    end if;
    if jobs is null then
        select coalesce(array_agg(n.image_id), ''{}''), coalesce(array_agg(n.job_id), ''{}'') into added, jobs
        from public.insert_jobs(
            enqueue_jobs.images, answered, enqueue_jobs.requested_by, enqueue_jobs.algorithm_name, enqueue_jobs.algorithm_version,
            enqueue_jobs.algorithm_parameters, enqueue_jobs.priority, enqueue_jobs.max_retries, moment, enqueue_jobs.scheduled_at,
            enqueue_jobs.use_cache, enqueue_jobs.deadline_at, enqueue_jobs.weight, enqueue_jobs.job_group) n;
    end if;
')
        ) as c (name, place, was, becomes)
        order by c.name, c.place
    loop
        source := pg_get_functiondef(('public.' || change.name)::regproc);
        if (length(source) - length(replace(source, change.was, ''))) <> length(change.was) then
            raise exception 'the function % is not as the migrations made it', change.name
                using errcode = 'NS006', hint = 'negspace migrate drift shows how it differs';
        end if;
        execute replace(source, change.was, change.becomes);
    end loop;
end
$$;
