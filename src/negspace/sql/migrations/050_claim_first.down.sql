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
    held constant public.processing_queue[] := array(
        select j from public.claim_jobs(claim_work.worker, claim_work.how_many, claim_work.algorithms, claim_work.capacity) j);
begin
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

drop function claim_first(text, integer, text[], numeric);

create or replace function queue_marks(out marks timestamptz[])
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    -- A transaction that enqueues may commit later than one that came after it: what is
    -- younger than a second is always looked at.
    young constant bigint := public.as_microseconds(clock_timestamp() - interval '1 second');
begin
    marks := array(
        select to_timestamp(least(m.mark, young) / 1000000) + least(m.mark, young) % 1000000 * interval '1 microsecond'
        from (select unnest(array[
            (select last_value from public.queue_mark_1), (select last_value from public.queue_mark_2),
            (select last_value from public.queue_mark_3), (select last_value from public.queue_mark_4),
            (select last_value from public.queue_mark_5), (select last_value from public.queue_mark_6),
            (select last_value from public.queue_mark_7), (select last_value from public.queue_mark_8),
            (select last_value from public.queue_mark_9), (select last_value from public.queue_mark_10)]) as mark) m);
end
$$;

alter function next_jobs(integer, text[], numeric, bigint[], bigint[], text[]) reset enable_bitmapscan;

do $$
declare
    change record;
begin
    for change in
        select c.* from (values
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
            ('count_jobs', 'from (select n.status, n.priority, n.algorithm_name, count(*) as jobs from new_rows n group by 1, 2, 3',
             'from (select n.status, n.priority, n.algorithm_name, 1 as jobs from new_rows n'),
            ('count_jobs', 'select o.status, o.priority, o.algorithm_name, -count(*) from old_rows o group by 1, 2, 3) r',
             'select o.status, o.priority, o.algorithm_name, -1 from old_rows o) r')
        ) as c (name, was, becomes)
    loop
        execute replace(pg_get_functiondef(('public.' || change.name)::regproc), change.becomes, change.was);
    end loop;
end
$$;
