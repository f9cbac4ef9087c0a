-- The claim of a job that waits alone, or of one job, in few statements; and no claim reads more of
-- the queue than it takes, whatever the statistics are of.


-- ── Looks at the queue ──────────────────────────────────────────────────────────────────
-- With statistics of a queue that is full, the limit of a list being unknown when it is planned, a
-- look read all that waits and sorted it: 20,000 jobs for one.

alter function next_jobs(integer, text[], numeric, bigint[], bigint[], text[]) set enable_bitmapscan = off;

create or replace function queue_marks(out marks timestamptz[])
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    -- A transaction that enqueues may commit later than one that came after it: what is
    -- younger than a second is always looked at.
    young constant bigint := (extract(epoch from clock_timestamp() - interval '1 second') * 1000000)::bigint;
    us    constant interval := interval '1 microsecond';
begin
    -- Expressions of functions alone: a query for each mark would cost as much as the claim's own.
    marks := array[
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_1'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_2'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_3'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_4'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_5'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_6'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_7'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_8'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_9'),  1), young) * us,
        'epoch'::timestamptz + least(coalesce(pg_sequence_last_value('public.queue_mark_10'), 1), young) * us];
end
$$;

do $$
declare
    change record;
    source text;
begin
    -- A few lines of five functions change; the rest stays as it is.
    for change in
        select c.* from (values
            -- Where others hold all that it was to take, a look takes of what comes after: a claim of one
            -- found nothing while somebody held the first, and what waited had another priority.
            ('next_jobs', '    late      integer[];', '    found     bigint[] := ''{}'';
    late      integer[];'),
            ('next_jobs', 'return array(', 'found := array('),
            ('next_jobs', 'order by c.turn, c.id);', 'order by c.turn, c.id);
            exit when found <> ''{}'' or 0 = all (shares || late) or how_many = all (shares || late);
            shares := array_fill(how_many, array[10]);
            late := shares;'),
            ('next_jobs', '    end loop;
end', '    end loop;
    return found[1:how_many];
end'),
            -- By their numbers, and the images among the free ones, hashed: with statistics of a full queue each
            -- was looked for by all images; a join would read all that waits, with those of an empty one.
            ('claim_jobs', 'select c.id from unnest(candidates) with ordinality as c (id, place)
            join public.processing_queue_hot q on q.id = c.id
            where q.image_id = any (free) order by c.place);',
             'select q.id from public.processing_queue_hot q
            where q.id = any (candidates) and (q.image_id in (select unnest(free))) is true
            order by q.scheduled_at - q.priority * public.priority_step(), q.id);'),
            ('sweep_queue', 'bigint := public.as_microseconds(began);', 'bigint := (extract(epoch from began) * 1000000)::bigint;'),
            ('sweep_queue', '(select last_value from public.queue_next_sweep)', 'coalesce(pg_sequence_last_value(''public.queue_next_sweep''), 1)'),
            ('sweep_queue', '(select last_value from public.queue_next_whole_sweep)',
             'coalesce(pg_sequence_last_value(''public.queue_next_whole_sweep''), 1)'),
            ('wake_workers', 'public.as_microseconds(clock_timestamp())', '(extract(epoch from clock_timestamp()) * 1000000)::bigint'),
            ('wake_workers', '(select last_value from public.queue_next_wakeup)', 'coalesce(pg_sequence_last_value(''public.queue_next_wakeup''), 1)'),
            ('wake_workers', '(select last_value from public.queue_untold)', 'coalesce(pg_sequence_last_value(''public.queue_untold''), 1)'),
            -- the sum of the sums was the sum already
            ('count_jobs', 'from (select n.status, n.priority, n.algorithm_name, count(*) as jobs from new_rows n group by 1, 2, 3',
             'from (select n.status, n.priority, n.algorithm_name, 1 as jobs from new_rows n'),
            ('count_jobs', 'select o.status, o.priority, o.algorithm_name, -count(*) from old_rows o group by 1, 2, 3) r',
             'select o.status, o.priority, o.algorithm_name, -1 from old_rows o) r')
        ) as c (name, was, becomes)
    loop
        source := pg_get_functiondef(('public.' || change.name)::regproc);
        if length(source) - length(replace(source, change.was, '')) <> length(change.was) then
            raise exception 'the function % is not as the migrations made it', change.name
                using errcode = 'NS006', hint = 'negspace migrate drift shows how it differs';
        end if;
        execute replace(source, change.was, change.becomes);
    end loop;
end
$$;


-- ── A claim of one ──────────────────────────────────────────────────────────────────────

create function claim_first(worker text, how_many integer, algorithms text[], capacity numeric)
    returns table (
        id bigint, token uuid, attempt integer, image_id bigint, owner bigint, file_path text, file_hash text, original_filename text,
        algorithm_name text, algorithm_version text, algorithm_parameters jsonb, answered boolean, seconds_left double precision)
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
    set enable_bitmapscan = off
    set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    marks  constant timestamptz[] := public.queue_marks();
    step   constant interval := public.priority_step();
    moment constant timestamptz := clock_timestamp();
    opens  constant uuid := gen_random_uuid();
    most   constant integer := least(greatest(claim_first.how_many, 0), 2);  -- two are told from one
    job    record;
begin
    begin
        with first as materialized (
            select w.id
            from generate_series(1, 10) as p (priority)
            cross join lateral (
                (select q.id, q.scheduled_at from public.processing_queue_hot q
                 where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at <= q.created_at
                   and q.scheduled_at >= marks[p.priority]
                   and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
                   and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
                   and (q.deadline_at is null or q.deadline_at > moment)
                 order by q.scheduled_at, q.id limit most)
                union all
                (select q.id, q.scheduled_at from public.processing_queue_hot q
                 where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at > q.created_at
                   and q.scheduled_at >= marks[p.priority] and q.scheduled_at <= moment
                   and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
                   and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
                   and (q.deadline_at is null or q.deadline_at > moment)
                 order by q.scheduled_at, q.id limit most)) w
            order by w.scheduled_at - p.priority * step, w.id
            limit most
        )
        select l.* into job
        from first f
        cross join lateral (
            select q.id, q.attempt + 1 as attempt, q.image_id, q.algorithm_name, q.algorithm_version, q.algorithm_parameters,
                   q.deadline_at, q.complexity_score, i.analysis_status, i.user_id, i.file_path, i.file_hash, i.original_filename,
                   q.processing_metadata -> 'use_cache' is distinct from 'false' and (
                       (select r.id from public.analysis_results r
                        where r.image_id = q.image_id and r.parameters_hash = q.parameters_hash  -- as result_of()
                          and r.algorithm_name || '@' || r.algorithm_version = q.algorithm_name || '@' || q.algorithm_version) is not null
                       or (select a.id from public.analysis_cache a
                           where a.cache_key = public.cache_key(
                                     i.file_hash,
                                     public.algorithm_fingerprint(q.algorithm_name, q.algorithm_version, q.algorithm_parameters),
                                     i.user_id)
                             and a.expires_at > clock_timestamp()) is not null) as answered
            from public.processing_queue_hot q
            join public.images i on i.id = q.image_id
            where q.id = f.id and q.status in ('queued', 'retrying') and i.analysis_status <> 'archived'
            for update of q skip locked
            for no key update of i skip locked) l
        where (select count(*) from first) = 1
          and not exists (select from public.queue_limits);
    exception
        when serialization_failure then  -- it has ended since this look began, and lies in another partition
            return;
    end;
    if job.id is null then
        return;
    end if;
    if job.analysis_status = 'pending' then
        update public.images i set analysis_status = 'processing' where i.id = job.image_id;
    end if;
    update public.processing_queue_hot q
    set status                  = 'processing',
        worker_id               = claim_first.worker,
        attempt                 = job.attempt,
        lease_token             = opens,
        started_at              = clock_timestamp(),
        estimated_completion_at = clock_timestamp() + coalesce((
            select coalesce(s.ms_per_megapixel * job.complexity_score::double precision, s.ms_per_job)
            from public.algorithm_speeds s
            where s.algorithm_name = job.algorithm_name and s.algorithm_version = job.algorithm_version), 1000) * interval '1 millisecond'
    where q.id = job.id;
    return query
        select job.id, opens, job.attempt, job.image_id, job.user_id, job.file_path, job.file_hash, job.original_filename, job.algorithm_name,
               job.algorithm_version, job.algorithm_parameters, job.answered, extract(epoch from job.deadline_at - moment)::double precision;
end
$$;
comment on function claim_first(text, integer, text[], numeric) is
    'claim_work() of a job that waits alone, or of one job, where nothing stands in its way: nobody holds it or its image, and nothing is limited. Otherwise nothing, and claim_jobs() looks further.';
revoke execute on function claim_first(text, integer, text[], numeric) from public;

create or replace function claim_work(worker text, how_many integer default 1, algorithms text[] default null, capacity numeric default null)
    returns table (
        id bigint, token uuid, attempt integer, image_id bigint, owner bigint, file_path text, file_hash text, original_filename text,
        algorithm_name text, algorithm_version text, algorithm_parameters jsonb, answered boolean, seconds_left double precision)
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
    set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    held public.processing_queue[];
begin
    if public.sweep_queue() then
        perform public.fold_queue_counts(), public.fail_overdue_jobs(), public.measure_algorithms();
    end if;
    return query
        select * from public.claim_first(claim_work.worker, claim_work.how_many, claim_work.algorithms, claim_work.capacity);
    if found then
        return;
    end if;
    held := array(select j from public.claim_jobs(claim_work.worker, claim_work.how_many, claim_work.algorithms, claim_work.capacity) j);
    if held = '{}' then
        return;
    end if;
    return query
        select h.id, h.lease_token, h.attempt, h.image_id, i.user_id, i.file_path, i.file_hash, i.original_filename,
               h.algorithm_name, h.algorithm_version, h.algorithm_parameters,
               h.processing_metadata -> 'use_cache' is distinct from 'false' and (
                   exists (select from public.analysis_results r
                           where r.image_id = h.image_id and r.parameters_hash = h.parameters_hash  -- as result_of()
                             and r.algorithm_name || '@' || r.algorithm_version = h.algorithm_name || '@' || h.algorithm_version)
                   or exists (select from public.analysis_cache a
                              where a.cache_key = public.cache_key(
                                        i.file_hash,
                                        public.algorithm_fingerprint(h.algorithm_name, h.algorithm_version, h.algorithm_parameters),
                                        i.user_id)
                                and a.expires_at > clock_timestamp())),
               extract(epoch from h.deadline_at - clock_timestamp())::double precision
        from unnest(held) with ordinality h
        join public.images i on i.id = h.image_id
        order by h.ordinality;
end
$$;
