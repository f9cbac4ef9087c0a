-- The order of the queue, what holds a job back, and counters that move with the jobs.
--
-- Order: ageing · low-water marks · deadlines · limits of running jobs · counters · claim.
-- Why it is so: docs/decisions/0008.

-- negspace: allow ban-drop-function in this file because claim_jobs() comes back with one argument more, which has a default
-- negspace: allow require-concurrent-index-deletion in this file because the hot partition is small by design
-- negspace: allow prefer-bigint-over-smallint in this file because a priority is 1 to 10
-- negspace: allow prefer-bigint-over-int in this file because they are counts of jobs that run at once, none is an id
-- negspace: allow constraint-missing-not-valid in this file because the hot partition is small by design, and ended months are read once
-- negspace: allow require-concurrent-index-creation in this file because the hot partition is small by design


-- ── processing_queue: deadline and group ────────────────────────────────────────────────

alter table processing_queue
    add column deadline_at timestamptz null,
    add column job_group   text        null,
    add constraint processing_queue_job_group_given check (job_group <> '' and length(job_group) <= 200);

comment on column processing_queue.deadline_at is 'A job that has not begun by then fails and never begins; null: none.';
comment on column processing_queue.job_group   is 'What it is limited with, whoever asked for it: queue_limits; null: nothing.';

-- Jobs that are ready since they were asked for, and those that have to wait for their time:
-- a planned job, a try that backs off. The first are ready whatever the clock does.
drop index processing_queue_hot_claim_idx;
create index processing_queue_hot_claim_idx on processing_queue_hot (priority, scheduled_at, id) where status in ('queued', 'retrying') and scheduled_at <= created_at;
comment on index processing_queue_hot_claim_idx is 'The claim: who waits longest, by priority.';
create index processing_queue_hot_planned_idx on processing_queue_hot (priority, scheduled_at, id) where status in ('queued', 'retrying') and scheduled_at > created_at;
comment on index processing_queue_hot_planned_idx is 'The claim: what had to wait for its time; only what is due is read.';
create index processing_queue_hot_deadline_idx on processing_queue_hot (deadline_at) where status in ('queued', 'retrying') and deadline_at is not null;
comment on index processing_queue_hot_deadline_idx is 'fail_overdue_jobs().';


-- ── Ageing ──────────────────────────────────────────────────────────────────────────────

create function priority_step() returns interval
    language sql
    immutable parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select interval '10 minutes'
$$;
comment on function priority_step() is
    'How much waiting one step of priority is worth: a job of priority 1 that waits for 90 minutes comes before one of priority 10 that was asked for now. Within a priority the order is that of time, so nothing is sorted again as jobs age: a claim merges ten ordered lists.';


-- ── Low-water marks ─────────────────────────────────────────────────────────────────────
-- Nothing waits below a priority's mark, so that a claim never walks the dead entries at the
-- front of its index, which a snapshot held open elsewhere keeps there. The marks are
-- sequences because a sequence is changed in place, outside of transactions: a table's row
-- would itself leave dead versions behind, and make claims wait for each other. They are
-- hints: what lies below one is found by the next sweep from zero.

create sequence queue_mark_1;
create sequence queue_mark_2;
create sequence queue_mark_3;
create sequence queue_mark_4;
create sequence queue_mark_5;
create sequence queue_mark_6;
create sequence queue_mark_7;
create sequence queue_mark_8;
create sequence queue_mark_9;
create sequence queue_mark_10;
create sequence queue_next_sweep;
create sequence queue_next_whole_sweep;

comment on sequence queue_mark_1           is 'Low-water mark of priority 1, in microseconds since 1970.';
comment on sequence queue_mark_2           is 'Low-water mark of priority 2.';
comment on sequence queue_mark_3           is 'Low-water mark of priority 3.';
comment on sequence queue_mark_4           is 'Low-water mark of priority 4.';
comment on sequence queue_mark_5           is 'Low-water mark of priority 5.';
comment on sequence queue_mark_6           is 'Low-water mark of priority 6.';
comment on sequence queue_mark_7           is 'Low-water mark of priority 7.';
comment on sequence queue_mark_8           is 'Low-water mark of priority 8.';
comment on sequence queue_mark_9           is 'Low-water mark of priority 9.';
comment on sequence queue_mark_10          is 'Low-water mark of priority 10.';
comment on sequence queue_next_sweep       is 'When the marks are to be brought up to date again, in microseconds since 1970.';
comment on sequence queue_next_whole_sweep is 'When that is to be done from zero, in microseconds since 1970.';

create function as_microseconds(moment timestamptz) returns bigint
    language sql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select greatest((extract(epoch from moment) * 1000000)::bigint, 1)
$$;
comment on function as_microseconds(timestamptz) is 'A time as a sequence keeps it: microseconds since 1970, at least 1.';

create function queue_marks(out marks timestamptz[])
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
comment on function queue_marks() is 'The low-water mark of each priority from 1 to 10.';
revoke execute on function queue_marks() from public;

create function sweep_queue() returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    began   constant timestamptz := clock_timestamp();
    now_us  constant bigint := public.as_microseconds(began);
    due     constant bigint := (select last_value from public.queue_next_sweep);
    whole   constant bigint := (select last_value from public.queue_next_whole_sweep);
    -- A clock that was set back leaves times that are too far ahead: they are due as well.
    all_due constant boolean := whole <= now_us or whole > now_us + 600 * 1000000::bigint;
    marks   timestamptz[];
begin
    if due > now_us and due < now_us + 10 * 1000000 and not all_due then
        return false;
    end if;
    perform setval('public.queue_next_sweep', now_us + 500000);
    marks := case when all_due then array_fill('-infinity'::timestamptz, array[10]) else public.queue_marks() end;
    perform setval(('public.queue_mark_' || p.priority)::regclass, public.as_microseconds(least(
        began,
        (select q.scheduled_at from public.processing_queue_hot q
         where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at <= q.created_at
           and q.scheduled_at >= marks[p.priority] order by q.scheduled_at, q.id limit 1),
        (select q.scheduled_at from public.processing_queue_hot q
         where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at > q.created_at
           and q.scheduled_at >= marks[p.priority] order by q.scheduled_at, q.id limit 1))))
    from generate_series(1, 10) as p (priority);
    if all_due then
        -- never more than a twentieth of the time
        perform setval('public.queue_next_whole_sweep', public.as_microseconds(
            clock_timestamp() + greatest(interval '1 second', 20 * (clock_timestamp() - began))));
    end if;
    return all_due;
end
$$;
comment on function sweep_queue() is
    'Brings the low-water marks up to date where that is due: every half second, from zero every second or so. claim_jobs() calls it. Returns whether it began from zero.';
revoke execute on function sweep_queue() from public;


-- ── Limits of running jobs ──────────────────────────────────────────────────────────────

create table queue_limits (
    id          bigint  not null generated always as identity,
    user_id     bigint  null,
    job_group   text    null,
    max_running integer not null,
    running     integer not null default 0,

    constraint queue_limits_pkey                     primary key (id),
    constraint queue_limits_user_id_key              unique (user_id),
    constraint queue_limits_job_group_key            unique (job_group),
    constraint queue_limits_user_id_fkey             foreign key (user_id) references users (id) on delete cascade,
    constraint queue_limits_of_user_or_group         check ((user_id is null) <> (job_group is null)),
    constraint queue_limits_job_group_given          check (job_group <> '' and length(job_group) <= 200),
    constraint queue_limits_max_running_not_negative check (max_running >= 0),
    constraint queue_limits_running_not_negative     check (running >= 0)
) with (fillfactor = 50);

comment on table  queue_limits             is 'How many jobs of a user, or of a group, may run at once.';
comment on column queue_limits.id          is 'Number of the limit.';
comment on column queue_limits.user_id     is 'Whose jobs; null: a group''s.';
comment on column queue_limits.job_group   is 'Which group''s jobs; null: a user''s.';
comment on column queue_limits.max_running is 'How many may run at once; 0: none begins.';
comment on column queue_limits.running     is 'How many run; kept by the triggers of processing_queue.';
comment on index queue_limits_pkey          is 'One limit.';
comment on index queue_limits_user_id_key   is 'A user''s limit, one each; the foreign key.';
comment on index queue_limits_job_group_key is 'A group''s limit, one each.';

grant select on queue_limits to app_user;

create function limit_running_jobs(max_running integer, user_id bigint default null, job_group text default null) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
#variable_conflict use_column
declare
    limited bigint;
    counted integer;
begin
    if (limit_running_jobs.user_id is null) = (limit_running_jobs.job_group is null) then
        raise exception 'a limit is a user''s or a group''s, one of both'
            using errcode = 'NS004', hint = 'name user_id or job_group';
    end if;
    if limit_running_jobs.max_running is null then
        delete from public.queue_limits l
        where l.user_id = limit_running_jobs.user_id or l.job_group = limit_running_jobs.job_group;
        return null;
    end if;
    -- Nobody claims or ends a job between the count and the row that keeps it.
    lock table public.processing_queue_hot in share row exclusive mode;
    insert into public.queue_limits (user_id, job_group, max_running)
    values (limit_running_jobs.user_id, limit_running_jobs.job_group, limit_running_jobs.max_running)
    on conflict do nothing;
    select l.id into limited from public.queue_limits l
    where l.user_id = limit_running_jobs.user_id or l.job_group = limit_running_jobs.job_group for no key update;
    select count(*) into counted from public.processing_queue_hot q
    where q.status = 'processing'
      and (q.user_id = limit_running_jobs.user_id or q.job_group = limit_running_jobs.job_group);
    update public.queue_limits l set max_running = limit_running_jobs.max_running, running = counted where l.id = limited;
    return counted;
end
$$;
comment on function limit_running_jobs(integer, bigint, text) is
    'Sets how many jobs of a user or of a group may run at once, null: as many as there are workers. Returns how many run now. Jobs that run go on.';
revoke execute on function limit_running_jobs(integer, bigint, text) from public;
grant execute on function limit_running_jobs(integer, bigint, text) to app_user;

create function within_limits(candidates bigint[]) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    -- Whoever claims of the same user or group at this moment has its limit; its jobs are
    -- passed by, as held images are.
    held constant bigint[] := array(
        select l.id from public.queue_limits l
        where exists (select from public.processing_queue_hot q
                      where q.id = any (candidates) and (q.user_id = l.user_id or q.job_group = l.job_group))
        order by l.id for no key update skip locked);
begin
    return array(
        select q.id
        from public.processing_queue_hot q
        where q.id = any (candidates)
          and q.id not in (
              select r.id
              from (select c.id, l.id as limited, l.max_running - l.running as free,
                           row_number() over (partition by l.id order by u.ordinality) as place
                    from unnest(candidates) with ordinality as u (id, ordinality)
                    join public.processing_queue_hot c on c.id = u.id
                    join public.queue_limits l on l.user_id = c.user_id or l.job_group = c.job_group) r
              where r.place > r.free or r.limited <> all (held)));
end
$$;
comment on function within_limits(bigint[]) is 'Those of the candidates, in their order, that may run now; their limits are locked until the transaction ends.';
revoke execute on function within_limits(bigint[]) from public;


-- ── Counters ────────────────────────────────────────────────────────────────────────────
-- Each statement that moves jobs adds what it changed; nobody waits for a counter. Whoever
-- sweeps folds the changes together now and then, and the sum is exact at any moment.

create table queue_counts (
    id             bigint       not null generated always as identity,
    status         queue_status not null,
    priority       smallint     not null,
    algorithm_name text         not null,
    jobs           bigint       not null,

    constraint queue_counts_pkey primary key (id)
);
comment on table  queue_counts                is 'How many jobs there are, as a sum of changes; read it through queue_depth.';
comment on column queue_counts.id             is 'Number of the change.';
comment on column queue_counts.status         is 'The status of the jobs that were counted.';
comment on column queue_counts.priority       is 'Their priority.';
comment on column queue_counts.algorithm_name is 'Their analyser.';
comment on column queue_counts.jobs           is 'How many more, or less.';
comment on index queue_counts_pkey is 'One change; fold_queue_counts() takes the oldest first.';
alter table queue_counts set (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);

create view queue_depth as
select c.status, c.priority, c.algorithm_name, sum(c.jobs)::bigint as job_count
from queue_counts c
group by c.status, c.priority, c.algorithm_name
having sum(c.jobs) <> 0;
comment on view queue_depth is 'How many jobs stand where, from kept counters: exact, and never a count of the queue.';
grant select on queue_depth to app_user;

create function fold_queue_counts() returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    folded integer;
begin
    -- One at a time, and no queue behind it.
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.fold_queue_counts', 0)) then
        return 0;
    end if;
    with gone as (
        delete from public.queue_counts c
        where c.id = any (array(select o.id from public.queue_counts o order by o.id limit 10000 for update skip locked))
        returning c.status, c.priority, c.algorithm_name, c.jobs
    ), kept as (
        insert into public.queue_counts (status, priority, algorithm_name, jobs)
        select g.status, g.priority, g.algorithm_name, sum(g.jobs)
        from gone g group by g.status, g.priority, g.algorithm_name
        having sum(g.jobs) <> 0
    )
    select count(*) into folded from gone;
    return folded;
end
$$;
comment on function fold_queue_counts() is 'Adds up the oldest 10,000 changes of the counters, one row for each kind of job, and returns how many it took. Housekeeping, and every claim that sweeps from zero, calls it.';
revoke execute on function fold_queue_counts() from public;
grant execute on function fold_queue_counts() to app_user;

create function count_jobs() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    if tg_op = 'INSERT' then
        insert into public.queue_counts (status, priority, algorithm_name, jobs)
        select n.status, n.priority, n.algorithm_name, count(*) from new_rows n
        group by n.status, n.priority, n.algorithm_name;
    elsif tg_op = 'DELETE' then
        insert into public.queue_counts (status, priority, algorithm_name, jobs)
        select o.status, o.priority, o.algorithm_name, -count(*) from old_rows o
        group by o.status, o.priority, o.algorithm_name;
    else
        insert into public.queue_counts (status, priority, algorithm_name, jobs)
        select r.status, r.priority, r.algorithm_name, sum(r.jobs)
        from (select n.status, n.priority, n.algorithm_name, count(*) as jobs from new_rows n group by 1, 2, 3
              union all
              select o.status, o.priority, o.algorithm_name, -count(*) from old_rows o group by 1, 2, 3) r
        group by r.status, r.priority, r.algorithm_name
        having sum(r.jobs) <> 0;
    end if;
    return null;
end
$$;
comment on function count_jobs() is 'Keeps queue_counts: one row per statement and kind of job that it moved.';
revoke execute on function count_jobs() from public;

create function count_running_jobs() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    changed bigint[];  -- limits …
    more    integer[]; -- … and how many more of their jobs run
begin
    if not exists (select from public.queue_limits) then
        return null;
    end if;
    if tg_op = 'INSERT' then
        select array_agg(r.id), array_agg(r.jobs) into changed, more
        from (select l.id, count(*) as jobs from new_rows n join public.queue_limits l on l.user_id = n.user_id or l.job_group = n.job_group
              where n.status = 'processing' group by l.id) r;
    elsif tg_op = 'DELETE' then
        select array_agg(r.id), array_agg(r.jobs) into changed, more
        from (select l.id, -count(*) as jobs from old_rows o join public.queue_limits l on l.user_id = o.user_id or l.job_group = o.job_group
              where o.status = 'processing' group by l.id) r;
    else
        select array_agg(r.id), array_agg(r.jobs) into changed, more
        from (select l.id, sum(m.jobs) as jobs
              from (select n.user_id, n.job_group, 1 as jobs from new_rows n where n.status = 'processing'
                    union all
                    select o.user_id, o.job_group, -1 from old_rows o where o.status = 'processing') m
              join public.queue_limits l on l.user_id = m.user_id or l.job_group = m.job_group
              group by l.id having sum(m.jobs) <> 0) r;
    end if;
    if changed is not null then
        perform 1 from public.queue_limits l where l.id = any (changed) order by l.id for no key update;
        update public.queue_limits l set running = l.running + c.jobs
        from unnest(changed, more) as c (id, jobs) where l.id = c.id;
    end if;
    return null;
end
$$;
comment on function count_running_jobs() is 'Keeps queue_limits.running, whoever moves a job into processing or out of it.';
revoke execute on function count_running_jobs() from public;

-- On the parent and on the hot partition: a trigger of a statement fires for the table that
-- the statement names.
create trigger processing_queue_count_insert after insert on processing_queue
    referencing new table as new_rows for each statement execute function count_jobs();
comment on trigger processing_queue_count_insert on processing_queue is 'Keeps the counters.';
create trigger processing_queue_count_update after update on processing_queue
    referencing old table as old_rows new table as new_rows for each statement execute function count_jobs();
comment on trigger processing_queue_count_update on processing_queue is 'Keeps the counters.';
create trigger processing_queue_count_delete after delete on processing_queue
    referencing old table as old_rows for each statement execute function count_jobs();
comment on trigger processing_queue_count_delete on processing_queue is 'Keeps the counters.';
create trigger processing_queue_hot_count_insert after insert on processing_queue_hot
    referencing new table as new_rows for each statement execute function count_jobs();
comment on trigger processing_queue_hot_count_insert on processing_queue_hot is 'Keeps the counters.';
create trigger processing_queue_hot_count_update after update on processing_queue_hot
    referencing old table as old_rows new table as new_rows for each statement execute function count_jobs();
comment on trigger processing_queue_hot_count_update on processing_queue_hot is 'Keeps the counters.';
create trigger processing_queue_ended_count_delete after delete on processing_queue_ended
    referencing old table as old_rows for each statement execute function count_jobs();
comment on trigger processing_queue_ended_count_delete on processing_queue_ended is 'Keeps the counters where jobs are purged.';

create trigger processing_queue_limit_insert after insert on processing_queue
    referencing new table as new_rows for each statement execute function count_running_jobs();
comment on trigger processing_queue_limit_insert on processing_queue is 'Keeps how many run.';
create trigger processing_queue_limit_update after update on processing_queue
    referencing old table as old_rows new table as new_rows for each statement execute function count_running_jobs();
comment on trigger processing_queue_limit_update on processing_queue is 'Keeps how many run.';
create trigger processing_queue_limit_delete after delete on processing_queue
    referencing old table as old_rows for each statement execute function count_running_jobs();
comment on trigger processing_queue_limit_delete on processing_queue is 'Keeps how many run.';
create trigger processing_queue_hot_limit_update after update on processing_queue_hot
    referencing old table as old_rows new table as new_rows for each statement execute function count_running_jobs();
comment on trigger processing_queue_hot_limit_update on processing_queue_hot is 'Keeps how many run.';

create function reconcile_queue_counts() returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    wrong   integer;
    limited integer;
begin
    lock table public.processing_queue in share row exclusive mode;
    with truth as (
        select q.status, q.priority, q.algorithm_name, count(*) as jobs
        from public.processing_queue q group by q.status, q.priority, q.algorithm_name
    ), mended as (
        insert into public.queue_counts (status, priority, algorithm_name, jobs)
        select status, priority, algorithm_name, coalesce(t.jobs, 0) - coalesce(d.job_count, 0)
        from truth t full join public.queue_depth d using (status, priority, algorithm_name)
        where coalesce(t.jobs, 0) <> coalesce(d.job_count, 0)
        returning 1
    )
    select count(*) into wrong from mended;
    update public.queue_limits l set running = t.jobs
    from (select k.id, (select count(*) from public.processing_queue_hot q
                        where q.status = 'processing' and (q.user_id = k.user_id or q.job_group = k.job_group)) as jobs
          from public.queue_limits k) t
    where l.id = t.id and l.running <> t.jobs;
    get diagnostics limited = row_count;
    return wrong + limited;
end
$$;
comment on function reconcile_queue_counts() is
    'Counts all jobs and mends the counters where they are wrong, as after a partition that was dropped by hand; returns how many were. Nobody moves a job meanwhile.';
revoke execute on function reconcile_queue_counts() from public;
grant execute on function reconcile_queue_counts() to app_user;

select reconcile_queue_counts();


-- ── Deadlines ───────────────────────────────────────────────────────────────────────────

create function fail_overdue_jobs(how_many integer default 1000) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
as $$
declare
    overdue constant bigint[] := array(
        select q.id from public.processing_queue_hot q
        where q.status in ('queued', 'retrying') and q.deadline_at <= clock_timestamp()
        order by q.deadline_at limit greatest(how_many, 0));
    free    bigint[];
    held    public.processing_queue[];
begin
    if overdue = '{}' then
        return 0;
    end if;
    free := array(
        select i.id from public.images i
        where i.id = any (array(select q.image_id from public.processing_queue_hot q where q.id = any (overdue)))
        order by i.id for no key update skip locked);
    update public.images i set analysis_status = 'processing' where i.id = any (free) and i.analysis_status = 'pending';
    perform 1 from public.processing_queue_hot q
    where q.id = any (overdue) and q.image_id = any (free) and q.status in ('queued', 'retrying')
    order by q.id for update skip locked;
    -- Waiting jobs don't fail: on paper it begins, held by nobody, and ends at once.
    with begun as (
        update public.processing_queue q
        set status = 'processing', worker_id = coalesce(q.worker_id, '(none)'), started_at = coalesce(q.started_at, clock_timestamp())
        where q.id = any (overdue) and q.image_id = any (free) and q.status in ('queued', 'retrying')
          and q.deadline_at <= clock_timestamp()
        returning q as job
    )
    select array_agg(b.job order by (b.job).id) into held from begun b;
    if held is null then
        return 0;
    end if;
    update public.processing_queue q
    set status = 'failed', completed_at = clock_timestamp(), last_error_at = clock_timestamp(),
        error_message = format('its deadline, %s, passed before it could begin', q.deadline_at),
        worker_id = nullif(q.worker_id, '(none)'),
        started_at = case when q.worker_id = '(none)' then null else q.started_at end
    where q.id = any (array(select h.id from unnest(held) h)) and q.status in ('queued', 'processing', 'retrying');
    perform public.record_job_events(
        held, 'failure', clock_timestamp(), '{}',
        (select jsonb_object_agg(h.id, format('its deadline, %s, passed before it could begin', h.deadline_at)) from unnest(held) h));
    perform public.settle_images(
        array(select distinct h.image_id from unnest(held) h), 'failed',
        (select jsonb_object_agg(h.image_id, format('the deadline of job %s, %s, passed before it could begin', h.id, h.deadline_at)) from unnest(held) h));
    return cardinality(held);
end
$$;
comment on function fail_overdue_jobs(integer) is 'Fails waiting jobs whose deadline has passed, each with that reason, and returns how many. claim_jobs() calls it now and then; no claim gives such a job out meanwhile.';
revoke execute on function fail_overdue_jobs(integer) from public;
grant execute on function fail_overdue_jobs(integer) to app_user;


-- ── Claim ───────────────────────────────────────────────────────────────────────────────

create function next_jobs(how_many integer, algorithms text[], capacity numeric, seen bigint[], full_users bigint[], full_groups text[])
    returns bigint[]
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    marks     constant timestamptz[] := public.queue_marks();
    step      constant interval := public.priority_step();
    moment    constant timestamptz := clock_timestamp();
    shares    integer[];  -- of each priority, how many are among the first how_many
    late      integer[];  -- … and how many of those that had to wait for their time
begin
    with waiting as (
        select p.priority, w.planned, w.scheduled_at - p.priority * step as turn
        from generate_series(1, 10) as p (priority)
        cross join lateral (
            (select false as planned, q.scheduled_at from public.processing_queue_hot q
             where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at <= q.created_at
               and q.scheduled_at >= marks[p.priority]
               and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
               and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
               and (q.deadline_at is null or q.deadline_at > moment)
               and q.id <> all (seen) and q.user_id <> all (full_users)
               and (q.job_group is null or q.job_group <> all (full_groups))
             order by q.scheduled_at, q.id limit how_many)
            union all
            (select true, q.scheduled_at from public.processing_queue_hot q
             where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at > q.created_at
               and q.scheduled_at >= marks[p.priority] and q.scheduled_at <= moment
               and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
               and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
               and (q.deadline_at is null or q.deadline_at > moment)
               and q.id <> all (seen) and q.user_id <> all (full_users)
               and (q.job_group is null or q.job_group <> all (full_groups))
             order by q.scheduled_at, q.id limit how_many)
        ) w
        order by turn limit how_many
    )
    select array_agg(c.ready order by p.priority), array_agg(c.planned order by p.priority) into shares, late
    from generate_series(1, 10) as p (priority)
    cross join lateral (
        select count(*) filter (where not w.planned) as ready, count(*) filter (where w.planned) as planned
        from waiting w where w.priority = p.priority) c;
    -- The same again with locks, of each list no more than its share: who claims at the same
    -- time takes what comes after in the same lists.
    return array(
        select c.id
        from (
            select w.id, w.scheduled_at - p.priority * step as turn
            from generate_series(1, 10) as p (priority)
            cross join lateral (
                select q.id, q.scheduled_at from public.processing_queue_hot q
                where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at <= q.created_at
                  and q.scheduled_at >= marks[p.priority]
                  and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
                  and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
                  and (q.deadline_at is null or q.deadline_at > moment)
                  and q.id <> all (seen) and q.user_id <> all (full_users)
                  and (q.job_group is null or q.job_group <> all (full_groups))
                order by q.scheduled_at, q.id limit shares[p.priority]
                for update skip locked) w
            where shares[p.priority] > 0
            union all
            select w.id, w.scheduled_at - p.priority * step
            from generate_series(1, 10) as p (priority)
            cross join lateral (
                select q.id, q.scheduled_at from public.processing_queue_hot q
                where q.priority = p.priority and q.status in ('queued', 'retrying') and q.scheduled_at > q.created_at
                  and q.scheduled_at >= marks[p.priority] and q.scheduled_at <= moment
                  and (algorithms is null or q.algorithm_name || '@' || q.algorithm_version = any (algorithms))
                  and (capacity is null or q.complexity_score is null or q.complexity_score <= capacity)
                  and (q.deadline_at is null or q.deadline_at > moment)
                  and q.id <> all (seen) and q.user_id <> all (full_users)
                  and (q.job_group is null or q.job_group <> all (full_groups))
                order by q.scheduled_at, q.id limit late[p.priority]
                for update skip locked) w
            where late[p.priority] > 0
        ) c
        order by c.turn, c.id);
end
$$;
comment on function next_jobs(integer, text[], numeric, bigint[], bigint[], text[]) is
    'The next jobs in the order of the queue, locked: of these analysers, no heavier than capacity, none of those seen, of no user or group that is full.';
revoke execute on function next_jobs(integer, text[], numeric, bigint[], bigint[], text[]) from public;

-- ── How long the like of a job takes ────────────────────────────────────────────────────

create table algorithm_speeds (
    algorithm_name    text             not null,
    algorithm_version text             not null,
    ms_per_job        double precision not null,
    ms_per_megapixel  double precision null,
    jobs_ahead        bigint           not null default 0,
    live_workers      integer          not null default 0,
    measured_at       timestamptz      not null default now(),

    constraint algorithm_speeds_pkey                           primary key (algorithm_name, algorithm_version),
    constraint algorithm_speeds_ms_per_job_not_negative        check (ms_per_job >= 0),
    constraint algorithm_speeds_ms_per_megapixel_not_negative  check (ms_per_megapixel >= 0),
    constraint algorithm_speeds_jobs_ahead_not_negative        check (jobs_ahead >= 0),
    constraint algorithm_speeds_live_workers_not_negative      check (live_workers >= 0)
) with (fillfactor = 50);
comment on table  algorithm_speeds                   is 'How long jobs took lately, per analyser; what estimates are made of.';
comment on column algorithm_speeds.algorithm_name    is 'The analyser.';
comment on column algorithm_speeds.algorithm_version is 'Its version.';
comment on column algorithm_speeds.ms_per_job        is 'Mean of its newest 200 results, in milliseconds.';
comment on column algorithm_speeds.ms_per_megapixel  is 'The same by megapixel of their images; null where no size is known.';
comment on column algorithm_speeds.jobs_ahead        is 'How many jobs of it wait or run.';
comment on column algorithm_speeds.live_workers      is 'How many workers that live have it.';
comment on column algorithm_speeds.measured_at       is 'When that was last worked out, and had changed by a twentieth or more.';
comment on index algorithm_speeds_pkey is 'One analyser.';
grant select on algorithm_speeds to app_user;

create function measure_algorithms() returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    measured integer;
begin
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.measure_algorithms', 0)) then
        return 0;
    end if;
    insert into public.algorithm_speeds as s (algorithm_name, algorithm_version, ms_per_job, ms_per_megapixel, jobs_ahead, live_workers)
    select a.algorithm_name, a.algorithm_version, m.ms_per_job, m.ms_per_megapixel,
           coalesce((select sum(d.job_count) from public.queue_depth d
                     where d.algorithm_name = a.algorithm_name and d.status in ('queued', 'processing', 'retrying')), 0),
           k.workers
    from (select v.algorithm, count(*) as workers
          from public.workers w cross join lateral unnest(w.algorithms) as v (algorithm)
          where w.stopped_at is null and w.heartbeat_at > now() - interval '1 minute'
          group by v.algorithm) k
    cross join lateral (select split_part(k.algorithm, '@', 1) as algorithm_name, split_part(k.algorithm, '@', 2) as algorithm_version) a
    cross join lateral (
        select avg(r.processing_time_ms)::double precision as ms_per_job,
               (sum(r.processing_time_ms) filter (where d.megapixels > 0)
                / nullif(sum(d.megapixels) filter (where d.megapixels > 0), 0))::double precision as ms_per_megapixel
        from (select n.image_id, n.processing_time_ms from public.analysis_results n
              where n.algorithm_name = a.algorithm_name and n.algorithm_version = a.algorithm_version and not n.cache_hit
              order by n.created_at desc limit 200) r
        join public.images i on i.id = r.image_id
        cross join lateral (
            select (i.image_dimensions ->> 'width')::numeric * (i.image_dimensions ->> 'height')::numeric / 1000000 as megapixels) d
    ) m
    where m.ms_per_job is not null
    on conflict (algorithm_name, algorithm_version) do update
        set ms_per_job = excluded.ms_per_job, ms_per_megapixel = excluded.ms_per_megapixel,
            jobs_ahead = excluded.jobs_ahead, live_workers = excluded.live_workers, measured_at = now()
        where abs(excluded.ms_per_job - s.ms_per_job) > s.ms_per_job / 20
           or abs(excluded.ms_per_megapixel - s.ms_per_megapixel) > s.ms_per_megapixel / 20
           or (excluded.ms_per_megapixel is null) <> (s.ms_per_megapixel is null)
           or abs(excluded.jobs_ahead - s.jobs_ahead) > s.jobs_ahead / 20
           or excluded.live_workers <> s.live_workers;
    get diagnostics measured = row_count;
    return measured;
end
$$;
comment on function measure_algorithms() is 'Works out how long the analysers of live workers take lately and what is ahead of a new job, and returns for how many that has changed. claim_jobs() calls it now and then.';
revoke execute on function measure_algorithms() from public;
grant execute on function measure_algorithms() to app_user;


drop function claim_jobs(text, integer, text[]);

create function claim_jobs(worker text, how_many integer default 1, algorithms text[] default null, capacity numeric default null)
    returns setof processing_queue
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    candidates  bigint[];
    free        bigint[];
    seen        bigint[] := '{}';
    held        public.processing_queue[] := '{}';
    limited     boolean;
    busy_users  bigint[] := '{}';
    busy_groups text[] := '{}';
begin
    if public.sweep_queue() then
        perform public.fold_queue_counts(), public.fail_overdue_jobs(), public.measure_algorithms();
    end if;
    -- Again only where an image of a candidate is held by somebody who enqueues, finishes or
    -- removes it, or a limit is reached: this claim holds jobs, so it doesn't wait for images,
    -- and what comes after in the queue doesn't wait either.
    loop
        limited := exists (select from public.queue_limits);
        if limited then
            select coalesce(array_agg(l.user_id) filter (where l.user_id is not null), '{}'),
                   coalesce(array_agg(l.job_group) filter (where l.job_group is not null), '{}')
            into busy_users, busy_groups
            from public.queue_limits l where l.running >= l.max_running;
        end if;
        candidates := public.next_jobs(
            greatest(claim_jobs.how_many - cardinality(held), 0), claim_jobs.algorithms, claim_jobs.capacity, seen, busy_users, busy_groups);
        exit when candidates = '{}';
        seen := seen || candidates;
        free := array(
            select i.id from public.images i
            where i.id = any (array(select q.image_id from public.processing_queue_hot q where q.id = any (candidates)))
              and i.analysis_status <> 'archived'
            order by i.id
            for no key update skip locked);
        candidates := array(
            select c.id from unnest(candidates) with ordinality as c (id, place)
            join public.processing_queue_hot q on q.id = c.id
            where q.image_id = any (free) order by c.place);
        if limited then
            candidates := public.within_limits(candidates);
        end if;
        update public.images i set analysis_status = 'processing'
        where i.id = any (array(select q.image_id from public.processing_queue_hot q where q.id = any (candidates)))
          and i.analysis_status = 'pending';
        with claimed as (
            update public.processing_queue_hot q
            set status                  = 'processing',
                worker_id               = claim_jobs.worker,
                attempt                 = q.attempt + 1,
                lease_token             = gen_random_uuid(),
                started_at              = clock_timestamp(),
                estimated_completion_at = clock_timestamp() + coalesce((
                    select coalesce(s.ms_per_megapixel * q.complexity_score::double precision, s.ms_per_job)
                    from public.algorithm_speeds s
                    where s.algorithm_name = q.algorithm_name and s.algorithm_version = q.algorithm_version), 1000) * interval '1 millisecond'
            where q.id = any (candidates)
            returning q::public.processing_queue as job
        )
        select held || coalesce(array_agg(c.job), '{}') into held from claimed c;
        exit when cardinality(seen) >= 1000 + claim_jobs.how_many;
    end loop;
    return query
        select c.* from unnest(held) c
        order by c.scheduled_at - c.priority * public.priority_step(), c.id;
end
$$;
comment on function claim_jobs(text, integer, text[], numeric) is
    'Gives a worker up to how_many waiting jobs of the analysers it has (name@version; null: any), none heavier than capacity megapixels (null: any), each with a lease token. The order is that of priority and waiting time together: docs/jobs.md. Their images become processing. Nobody waits, nothing is given twice, and no limit is exceeded.';
revoke execute on function claim_jobs(text, integer, text[], numeric) from public;
grant execute on function claim_jobs(text, integer, text[], numeric) to app_user;
