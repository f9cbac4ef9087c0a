do $$
declare
    change record;
begin
    for change in
        select c.* from (values
            ('answer_images', 1,
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
',
             '    image  record;
    result bigint;
begin
    answered := ''{}'';
    results := ''{}'';
'),
            ('answer_images', 2,
             '(cached and exists (select from public.analysis_cache a where a.cache_key = c.key and a.expires_at > clock_timestamp())
               or i.id in (select unnest(analysed)))',
             '(exists (select from public.analysis_cache a where a.cache_key = c.key and a.expires_at > clock_timestamp())
               or (select r.id from public.analysis_results r
                   where r.image_id = i.id and r.parameters_hash = hashed  -- as result_of()
                     and r.algorithm_name || ''@'' || r.algorithm_version
                         = answer_images.algorithm_name || ''@'' || answer_images.algorithm_version) is not null)'),
            ('enqueue_jobs', 1,
             '    again    boolean;  -- some have been analysed before
    ids      bigint[];  -- the images by number …
    users    bigint[];
    weights  numeric[];
',
             '    again    boolean;  -- some have been analysed before
'),
            ('enqueue_jobs', 2,
             'bool_or(l.analysis_status in (''completed'', ''failed'')),
           array_agg(l.id), array_agg(l.user_id), array_agg(l.weight)
    into locked, wrong, again, ids, users, weights
    from (select i.id, i.analysis_status, coalesce(enqueue_jobs.requested_by, i.user_id) as user_id,
                 coalesce(enqueue_jobs.weight,
                          (i.image_dimensions ->> ''width'')::numeric * (i.image_dimensions ->> ''height'')::numeric * 0.000001) as weight
          from public.images i',
             'bool_or(l.analysis_status in (''completed'', ''failed''))
    into locked, wrong, again
    from (select i.id, i.analysis_status from public.images i'),
            ('enqueue_jobs', 3,
             'if locked < cardinality(enqueue_jobs.images) and locked < (select',
             'if locked < (select'),
            ('enqueue_jobs', 4,
             '    jobs     bigint[];',
             '    jobs     bigint[] := ''{}'';'),
            ('enqueue_jobs', 5,
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
',
             '    select coalesce(array_agg(n.image_id), ''{}''), coalesce(array_agg(n.job_id), ''{}'') into added, jobs
    from public.insert_jobs(
        enqueue_jobs.images, answered, enqueue_jobs.requested_by, enqueue_jobs.algorithm_name, enqueue_jobs.algorithm_version,
        enqueue_jobs.algorithm_parameters, enqueue_jobs.priority, enqueue_jobs.max_retries, moment, enqueue_jobs.scheduled_at,
        enqueue_jobs.use_cache, enqueue_jobs.deadline_at, enqueue_jobs.weight, enqueue_jobs.job_group) n;
')
        ) as c (name, place, was, becomes)
        order by c.name, c.place desc
    loop
        execute replace(pg_get_functiondef(('public.' || change.name)::regproc), change.was, change.becomes);
    end loop;
end
$$;

drop function insert_new_jobs(
    bigint[], bigint[], bigint[], numeric[], text, text, jsonb, integer, integer, timestamptz, timestamptz, boolean, timestamptz, text);
