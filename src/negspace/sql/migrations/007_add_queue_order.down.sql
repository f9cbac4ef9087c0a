-- Removes the order of the queue and its counters. Lost: deadlines and groups of jobs, limits,
-- and what was measured of the analysers. Jobs stay, and are claimed by priority, then time.

-- negspace: allow require-concurrent-index-creation in this file because the hot partition is small by design

drop function claim_jobs(text, integer, text[], numeric);
drop function measure_algorithms();
drop table algorithm_speeds;
drop function next_jobs(integer, text[], numeric, bigint[], bigint[], text[]);
drop function fail_overdue_jobs(integer);

drop trigger processing_queue_hot_limit_update on processing_queue_hot;
drop trigger processing_queue_limit_delete on processing_queue;
drop trigger processing_queue_limit_update on processing_queue;
drop trigger processing_queue_limit_insert on processing_queue;
drop trigger processing_queue_ended_count_delete on processing_queue_ended;
drop trigger processing_queue_hot_count_update on processing_queue_hot;
drop trigger processing_queue_hot_count_insert on processing_queue_hot;
drop trigger processing_queue_count_delete on processing_queue;
drop trigger processing_queue_count_update on processing_queue;
drop trigger processing_queue_count_insert on processing_queue;

drop function reconcile_queue_counts();
drop function count_running_jobs();
drop function count_jobs();
drop function fold_queue_counts();
drop view queue_depth;
drop table queue_counts;
drop function within_limits(bigint[]);
drop function limit_running_jobs(integer, bigint, text);
drop table queue_limits;
drop function sweep_queue();
drop function queue_marks();
drop function as_microseconds(timestamptz);
drop sequence queue_next_whole_sweep;
drop sequence queue_next_sweep;
drop sequence queue_mark_10;
drop sequence queue_mark_9;
drop sequence queue_mark_8;
drop sequence queue_mark_7;
drop sequence queue_mark_6;
drop sequence queue_mark_5;
drop sequence queue_mark_4;
drop sequence queue_mark_3;
drop sequence queue_mark_2;
drop sequence queue_mark_1;
drop function priority_step();

drop index processing_queue_hot_deadline_idx;
drop index processing_queue_hot_planned_idx;
drop index processing_queue_hot_claim_idx;
create index processing_queue_hot_claim_idx on processing_queue_hot (priority desc, scheduled_at, id) where status in ('queued', 'retrying');
comment on index processing_queue_hot_claim_idx is 'The claim: most urgent first, then who waits longest.';

alter table processing_queue
    drop column job_group,
    drop column deadline_at;

create function claim_jobs(worker text, how_many integer default 1, algorithms text[] default null)
    returns setof processing_queue
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_column
declare
    candidates bigint[];
    free       bigint[];
    seen       bigint[] := '{}';
    taken      bigint[] := '{}';
begin
    -- Again only where an image of a candidate is held by somebody who enqueues, finishes or
    -- removes it: this claim holds jobs, so it doesn't wait for images, and what comes after
    -- in the queue doesn't wait either.
    loop
        -- An array, not a join: a planner with statistics of an empty queue would nest the
        -- join and claim without regard to the limit.
        candidates := array(
            select q.id from public.processing_queue_hot q
            where q.status in ('queued', 'retrying')
              and q.scheduled_at <= clock_timestamp()
              and (claim_jobs.algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (claim_jobs.algorithms))
              and q.id <> all (seen)
            order by q.priority desc, q.scheduled_at, q.id
            limit greatest(claim_jobs.how_many - cardinality(taken), 0)
            for update skip locked);
        exit when candidates = '{}';
        free := array(
            select i.id from public.images i
            where i.id = any (array(select q.image_id from public.processing_queue_hot q where q.id = any (candidates)))
              and i.analysis_status <> 'archived'
            order by i.id
            for no key update skip locked);
        update public.images i set analysis_status = 'processing'
        where i.id = any (free) and i.analysis_status = 'pending';
        taken := taken || array(
            select q.id from public.processing_queue_hot q where q.id = any (candidates) and q.image_id = any (free));
        seen := seen || candidates;
        exit when cardinality(seen) >= 1000 + claim_jobs.how_many;
    end loop;
    if taken = '{}' then
        return;
    end if;
    return query
    with claimed as (
        update public.processing_queue_hot q
        set status                  = 'processing',
            worker_id               = claim_jobs.worker,
            attempt                 = q.attempt + 1,
            lease_token             = gen_random_uuid(),
            started_at              = clock_timestamp(),
            estimated_completion_at = clock_timestamp() + make_interval(secs => coalesce((
                select avg(r.processing_time_ms) / 1000.0
                from (select a.processing_time_ms from public.analysis_results a
                      where a.algorithm_name = q.algorithm_name and a.algorithm_version = q.algorithm_version
                        and not a.cache_hit
                      order by a.created_at desc limit 50) r), 1)::double precision)
        where q.id = any (taken)
        returning q.*
    )
    select c.* from claimed c order by c.priority desc, c.scheduled_at, c.id;
end
$$;
comment on function claim_jobs(text, integer, text[]) is
    'Gives a worker up to how_many waiting jobs of the analysers it has (name@version; null: any), most urgent first, then who waits longest, each with a lease token. Their images become processing. Nobody waits and nothing is given twice.';
revoke execute on function claim_jobs(text, integer, text[]) from public;
grant execute on function claim_jobs(text, integer, text[]) to app_user;
