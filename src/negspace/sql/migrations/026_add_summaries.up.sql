-- What audit_summary_by_user and queue_status_summary counted row by row is kept as sums. What
-- is not in the sums yet is read from the rows, so that an answer is never out of date.

-- negspace: allow prefer-bigint-over-int in this file because they are counts within one bucket of a day
-- negspace: allow prefer-bigint-over-smallint in this file because buckets lie within 1800 either way


-- ── Events by user and month ────────────────────────────────────────────────────────────
-- Rows are taken in by their transaction (recorded_in), not by their time: once every older
-- transaction has ended nothing can come before, however late or back-dated an event is. What
-- lies behind is a range of an index. A trail that was loaded into another server from a dump
-- counts its transactions anew: rows whose number (id) is above all that were taken in are new,
-- whatever their transaction says.

create table audit_user_months (
    user_id        bigint      not null,
    month          timestamptz not null,
    event_count    bigint      not null,
    success_count  bigint      not null,
    failure_count  bigint      not null,
    partial_count  bigint      not null,
    last_event_at  timestamptz null,
    duration_count bigint      not null,
    duration_total numeric     not null,

    constraint audit_user_months_pkey                        primary key (user_id, month),
    constraint audit_user_months_events_add_up               check (event_count = success_count + failure_count + partial_count),
    constraint audit_user_months_duration_count_not_negative check (duration_count >= 0)
);

comment on table  audit_user_months                is 'Events of the audit trail by user and month (UTC), as far as audit_summary_progress says; read it through audit_summary_by_user. No foreign key: as the events, it outlives the account.';
comment on column audit_user_months.user_id        is 'Who did it.';
comment on column audit_user_months.month          is 'When the month began; a month leaves with its events.';
comment on column audit_user_months.event_count    is 'How many events.';
comment on column audit_user_months.success_count  is 'How many of them were a success.';
comment on column audit_user_months.failure_count  is 'How many were a failure.';
comment on column audit_user_months.partial_count  is 'How many were partly done.';
comment on column audit_user_months.last_event_at  is 'The newest of them; null: only details are of this month.';
comment on column audit_user_months.duration_count is 'How many details written in this month have a duration.';
comment on column audit_user_months.duration_total is 'Their durations together, in milliseconds.';

comment on index audit_user_months_pkey is 'A user''s months; audit_summary_by_user.';

grant select on audit_user_months to app_user;

create table audit_summary_progress (
    relation    text   not null,
    lineage     bigint not null default 0,
    through_xid xid8   not null default '0',
    highest_id  bigint not null default 0,

    constraint audit_summary_progress_pkey           primary key (relation),
    constraint audit_summary_progress_relation_known check (relation in ('security_audit', 'audit_log_details')),
    constraint audit_summary_progress_lineage_below  check (lineage between 0 and highest_id)
);

comment on table  audit_summary_progress             is 'Which rows of the audit trail audit_user_months holds: those up to lineage, and of the others up to highest_id those of a transaction below through_xid.';
comment on column audit_summary_progress.relation    is 'The table.';
comment on column audit_summary_progress.lineage     is 'Rows up to this number are all taken in; above it transactions are counted by this server.';
comment on column audit_summary_progress.through_xid is 'Every transaction below it is taken in.';
comment on column audit_summary_progress.highest_id  is 'The highest number of a row that was taken in.';

comment on index audit_summary_progress_pkey is 'One table.';

grant select on audit_summary_progress to app_user;

create function audit_sums(relation text, first xid8, below xid8, above_id bigint, through_id bigint)
    returns table (user_id bigint, month timestamptz, event_count bigint, success_count bigint, failure_count bigint,
                   partial_count bigint, last_event_at timestamptz, duration_count bigint, duration_total numeric, row_count bigint, highest_id bigint)
    language plpgsql
    stable
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off  -- the rows of a range that nobody has statistics of
    set plan_cache_mode = force_custom_plan
as $$
begin
    if relation = 'security_audit' then
        return query
            select a.user_id, date_trunc('month', a."timestamp", 'UTC'), count(*),
                   count(*) filter (where a.status = 'success'), count(*) filter (where a.status = 'failure'),
                   count(*) filter (where a.status = 'partial'), max(a."timestamp"), 0::bigint, 0::numeric, count(*), max(a.id)
            from public.security_audit a
            where a.recorded_in >= audit_sums.first and a.recorded_in < audit_sums.below
              and a.id > audit_sums.above_id and a.id <= audit_sums.through_id
            group by 1, 2;
    else
        return query
            select e.user_id, date_trunc('month', d.created_at, 'UTC'), 0::bigint, 0::bigint, 0::bigint, 0::bigint,
                   null::timestamptz, count(d.duration_ms), coalesce(sum(d.duration_ms), 0), count(*), max(d.id)
            from public.audit_log_details d
            join public.security_audit e on e.id = d.audit_id and e."timestamp" = d.audit_timestamp
            where d.recorded_in >= audit_sums.first and d.recorded_in < audit_sums.below
              and d.id > audit_sums.above_id and d.id <= audit_sums.through_id
            group by 1, 2;
    end if;
end
$$;
comment on function audit_sums(text, xid8, xid8, bigint, bigint) is
    'Sums by user and month of the rows of some transactions, from first on and below another, with numbers above above_id and up to through_id: of events, or of the details'' durations.';
revoke execute on function audit_sums(text, xid8, xid8, bigint, bigint) from public;
grant execute on function audit_sums(text, xid8, xid8, bigint, bigint) to app_user;

create function recent_audit_sums()
    returns table (user_id bigint, event_count bigint, success_count bigint, failure_count bigint, partial_count bigint,
                   last_event_at timestamptz, duration_count bigint, duration_total numeric)
    language sql
    stable
    set search_path = pg_catalog, public, pg_temp
as $$
    select s.user_id, sum(s.event_count)::bigint, sum(s.success_count)::bigint, sum(s.failure_count)::bigint,
           sum(s.partial_count)::bigint, max(s.last_event_at), sum(s.duration_count)::bigint, sum(s.duration_total)
    from (select r.name as relation, coalesce(q.through_xid, '0') as through_xid, coalesce(q.lineage, 0) as lineage,
                 coalesce(q.highest_id, 0) as highest_id
          from unnest(array['security_audit', 'audit_log_details']) as r (name)
          left join public.audit_summary_progress q on q.relation = r.name) p
    cross join lateral (
        select * from public.audit_sums(p.relation, p.through_xid, '18446744073709551615', p.lineage, 9223372036854775807)
        union all  -- of another server's transactions
        select * from public.audit_sums(p.relation, '0', p.through_xid, p.highest_id, 9223372036854775807)
    ) s
    where s.user_id is not null
    group by s.user_id
$$;
comment on function recent_audit_sums() is 'Sums by user of what audit_user_months does not hold yet.';
revoke execute on function recent_audit_sums() from public;
grant execute on function recent_audit_sums() to app_user;

create function next_audit_xid(relation text, first xid8, above_id bigint, horizon xid8, most_rows integer) returns xid8
    language plpgsql
    stable
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
    set plan_cache_mode = force_custom_plan
as $$
declare
    reached xid8;
begin
    execute format(
        'select r.recorded_in from public.%I r where r.recorded_in >= $1 and r.recorded_in < $2 and r.id > $3'
        ' order by r.recorded_in, r.id offset $4 limit 1', next_audit_xid.relation)
    into reached using first, horizon, above_id, most_rows;
    return case
        when reached is null then horizon
        when reached > first then reached
        else least(horizon, (reached::text::numeric + 1)::text::xid8)  -- one transaction that large
    end;
end
$$;
comment on function next_audit_xid(text, xid8, bigint, xid8, integer) is
    'Below which transaction some most_rows rows lie, from first on; below horizon at most.';
revoke execute on function next_audit_xid(text, xid8, bigint, xid8, integer) from public;

create function take_in_audit_rows(first xid8, below xid8, through_id bigint, p audit_summary_progress) returns bigint
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    reached bigint;
    taken   bigint;
begin
    with sums as materialized (
        select * from public.audit_sums(p.relation, first, below, p.lineage, through_id)
    ), kept as (
        insert into public.audit_user_months as m
        select s.user_id, s.month, s.event_count, s.success_count, s.failure_count, s.partial_count,
               s.last_event_at, s.duration_count, s.duration_total
        from sums s where s.user_id is not null
        on conflict (user_id, month) do update
        set event_count    = m.event_count + excluded.event_count,
            success_count  = m.success_count + excluded.success_count,
            failure_count  = m.failure_count + excluded.failure_count,
            partial_count  = m.partial_count + excluded.partial_count,
            last_event_at  = greatest(m.last_event_at, excluded.last_event_at),
            duration_count = m.duration_count + excluded.duration_count,
            duration_total = m.duration_total + excluded.duration_total
    )
    select max(s.highest_id), sum(s.row_count) into reached, taken from sums s;
    if reached is not null then
        update public.audit_summary_progress q
        set through_xid = below, highest_id = greatest(q.highest_id, reached)
        where q.relation = p.relation;
    end if;
    return coalesce(taken, 0);
end
$$;
comment on function take_in_audit_rows(xid8, xid8, bigint, audit_summary_progress) is
    'Adds rows of the audit trail to audit_user_months: those of transactions from first on and below another, up to the number through_id.';
revoke execute on function take_in_audit_rows(xid8, xid8, bigint, audit_summary_progress) from public;

create function foreign_audit_row(p audit_summary_progress) returns bigint
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off
    set plan_cache_mode = force_custom_plan
as $$
declare
    query constant text := format(
        'select min(r.id) from public.%I r where r.id > $1 and r.recorded_in < $2', p.relation);
    found_id bigint;
begin
    execute query into found_id using p.highest_id, p.through_xid;
    if found_id is not null then
        execute format('lock table public.%I in share mode', p.relation);  -- every writer is done
        execute query into found_id using p.highest_id, p.through_xid;
    end if;
    return found_id;
end
$$;
comment on function foreign_audit_row(audit_summary_progress) is
    'The first row that this server wrote, where the rows that were taken in are of another that counted its transactions higher; else null.';
revoke execute on function foreign_audit_row(audit_summary_progress) from public;

create function roll_up_audit(most_rows integer default 100000) returns bigint
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    horizon constant xid8 := pg_snapshot_xmin(pg_current_snapshot());
    p       public.audit_summary_progress%rowtype;
    abroad  bigint;
    below   xid8;
    taken   bigint := 0;
begin
    if most_rows is null or most_rows < 1 then
        raise exception 'one row or more is taken in, not %', coalesce(most_rows::text, 'null')
            using errcode = 'NS004', hint = 'a hundred thousand is a good number';
    end if;
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.roll_up_audit', 0)) then
        return 0;  -- somebody is at it, for all
    end if;
    insert into public.audit_summary_progress (relation) values ('security_audit'), ('audit_log_details')
    on conflict do nothing;
    for p in select * from public.audit_summary_progress q order by q.relation desc loop
        abroad := public.foreign_audit_row(p);
        if abroad is not null then
            -- what came with the dump and was not taken in there, then this server's own
            taken := taken + public.take_in_audit_rows(p.through_xid, '18446744073709551615', abroad - 1, p);
            update public.audit_summary_progress q
            set lineage = abroad - 1, through_xid = '0', highest_id = abroad - 1
            where q.relation = p.relation
            returning * into p;
        end if;
        if p.through_xid < horizon then
            below := public.next_audit_xid(p.relation, p.through_xid, p.lineage, horizon, most_rows);
            taken := taken + public.take_in_audit_rows(p.through_xid, below, 9223372036854775807, p);
        end if;
    end loop;
    return taken;
end
$$;
comment on function roll_up_audit(integer) is
    'Takes into audit_user_months what can''t change any more of the audit trail, some most_rows rows of it, and returns how many. Safe to call often and by many; call it until it returns 0, in a transaction of its own.';
revoke execute on function roll_up_audit(integer) from public;

create function forget_audit_month() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    delete from public.audit_user_months m where m.month = new.month;
    return null;
end
$$;
comment on function forget_audit_month() is 'Removes the sums of a month that left.';
revoke execute on function forget_audit_month() from public;

create trigger audit_retirements_forget_sums
    after insert on audit_retirements
    for each row
    execute function forget_audit_month();
comment on trigger audit_retirements_forget_sums on audit_retirements is 'A month''s sums leave with its events.';

create or replace view audit_summary_by_user as
select u.id                                                            as user_id,
       u.email,
       coalesce(m.event_count, 0)   + coalesce(r.event_count, 0)       as event_count,
       coalesce(m.success_count, 0) + coalesce(r.success_count, 0)     as success_count,
       coalesce(m.failure_count, 0) + coalesce(r.failure_count, 0)     as failure_count,
       coalesce(m.partial_count, 0) + coalesce(r.partial_count, 0)     as partial_count,
       greatest(m.last_event_at, r.last_event_at)                      as last_event_at,
       (coalesce(m.duration_total, 0) + coalesce(r.duration_total, 0))
           / nullif(coalesce(m.duration_count, 0) + coalesce(r.duration_count, 0), 0) as mean_duration_ms
from users u
left join lateral (
    select sum(s.event_count)::bigint    as event_count,
           sum(s.success_count)::bigint  as success_count,
           sum(s.failure_count)::bigint  as failure_count,
           sum(s.partial_count)::bigint  as partial_count,
           max(s.last_event_at)          as last_event_at,
           sum(s.duration_count)::bigint as duration_count,
           sum(s.duration_total)         as duration_total
    from audit_user_months s
    where s.user_id = u.id
) m on true
left join recent_audit_sums() r on r.user_id = u.id;
comment on view audit_summary_by_user is
    'Per user, of the months that are kept: events, successes, failures, last event, mean duration of what took time. From the sums by month, and the events for the rest: exact at any moment.';

create or replace function refresh_user_counters() returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    changed integer;
begin
    -- One at a time, and no queue behind it: the one that counts does it for all.
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.refresh_user_counters', 0)) then
        return 0;
    end if;
    update public.users u
    set audit_event_count = t.events, api_request_count = t.requests
    from (
        select c.user_id as id, c.event_count as events,
               (select coalesce(sum(k.total_requests), 0) from public.api_keys k where k.user_id = c.user_id) as requests
        from public.audit_summary_by_user c
    ) t
    where t.id = u.id and (u.audit_event_count, u.api_request_count) <> (t.events, t.requests);
    get diagnostics changed = row_count;
    return changed;
end
$$;


-- ── Ended jobs by day ───────────────────────────────────────────────────────────────────
-- A day is closed, and summed up, once no job can end in it unseen: as with the metrics
-- (rollup_progress), whoever writes later than five minutes after its end, or removes or changes
-- a job of a day that may be closed, marks the day, and it is read from the jobs until it is
-- summed up anew. Waits are kept in the histograms of the metrics, in milliseconds.

create table ended_job_days (
    day          timestamptz      not null,
    month        timestamptz      not null,
    status       queue_status     not null,
    job_count    bigint           not null,
    oldest_at    timestamptz      not null,
    newest_at    timestamptz      not null,
    waited_count bigint           not null,
    wait_total   double precision not null,
    wait_minimum double precision null,
    wait_maximum double precision null,
    buckets      smallint[]       not null,
    counts       integer[]        not null,

    constraint ended_job_days_pkey                  primary key (day, month, status),
    constraint ended_job_days_job_count_positive    check (job_count > 0),
    constraint ended_job_days_waited_count_range    check (waited_count between 0 and job_count),
    constraint ended_job_days_oldest_not_after      check (oldest_at <= newest_at),
    constraint ended_job_days_counts_match_buckets  check (cardinality(counts) = cardinality(buckets))
);

comment on table  ended_job_days              is 'Jobs by the day they ended (UTC) and their status, of the days that are closed; read it through queue_status_summary.';
comment on column ended_job_days.day          is 'When the day began.';
comment on column ended_job_days.month        is 'When the month began that the jobs were asked for in: that of their partition.';
comment on column ended_job_days.status       is 'How they ended.';
comment on column ended_job_days.job_count    is 'How many jobs.';
comment on column ended_job_days.oldest_at    is 'When the first of them was asked for.';
comment on column ended_job_days.newest_at    is 'When the last was.';
comment on column ended_job_days.waited_count is 'How many of them were ever begun.';
comment on column ended_job_days.wait_total   is 'How long those waited before their newest try, together, in milliseconds.';
comment on column ended_job_days.wait_minimum is 'The shortest wait in milliseconds; null: none was begun.';
comment on column ended_job_days.wait_maximum is 'The longest wait in milliseconds; null: none was begun.';
comment on column ended_job_days.buckets      is 'Buckets of the histogram of waits that hold one, ascending, as the metrics have them.';
comment on column ended_job_days.counts       is 'How many waits each of them holds.';

comment on index ended_job_days_pkey is 'A day''s jobs; queue_status_summary.';

grant select on ended_job_days to app_user;

create table ended_job_waits (
    month      timestamptz  not null,
    status     queue_status not null,
    bucket     smallint     not null,
    wait_count bigint       not null,

    constraint ended_job_waits_pkey                primary key (month, status, bucket),
    constraint ended_job_waits_wait_count_positive check (wait_count > 0)
);

comment on table  ended_job_waits            is 'The histograms of ended_job_days, added up by month: a twentieth of them to read.';
comment on column ended_job_waits.month      is 'As ended_job_days has it.';
comment on column ended_job_waits.status     is 'As ended_job_days has it.';
comment on column ended_job_waits.bucket     is 'Bucket of the histogram.';
comment on column ended_job_waits.wait_count is 'How many waits it holds.';

comment on index ended_job_waits_pkey is 'A month''s histogram; queue_status_summary.';

grant select on ended_job_waits to app_user;

create table ended_job_changes (
    id  bigint      not null generated always as identity,
    day timestamptz not null,

    constraint ended_job_changes_pkey primary key (id)
);

comment on table  ended_job_changes     is 'Days (UTC) whose ended jobs changed late: read from the jobs until they are summed up anew. Each writer adds rows of its own, so that nobody waits.';
comment on column ended_job_changes.id  is 'Number of the row.';
comment on column ended_job_changes.day is 'When the day began.';

comment on index ended_job_changes_pkey is 'One change.';
create index ended_job_changes_day_idx on ended_job_changes (day);
comment on index ended_job_changes_day_idx is 'Whether a day changed, and which did.';

grant select on ended_job_changes to app_user;

-- negspace: allow ban-drop-constraint because the one that follows allows more
alter table rollup_progress
    drop constraint rollup_progress_table_name_known,
    -- negspace: allow constraint-missing-not-valid because the table has a row or two
    add constraint rollup_progress_table_name_known check (table_name in ('performance_metrics', 'security_audit', 'processing_queue'));

create function mark_ended_job_day() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    -- once per transaction and day is enough
    insert into public.ended_job_changes (day)
    select distinct date_trunc('day', t.at, 'UTC')
    from unnest(case tg_op when 'INSERT' then array[new.completed_at]
                           when 'DELETE' then array[old.completed_at]
                           else array[old.completed_at, new.completed_at] end) as t (at)
    where not exists (select from public.ended_job_changes c
                      where c.day = date_trunc('day', t.at, 'UTC') and c.xmin = pg_current_xact_id()::xid);
    return null;
end
$$;
comment on function mark_ended_job_day() is 'Marks the day of an ended job that came late, changed or went.';
revoke execute on function mark_ended_job_day() from public;

create trigger processing_queue_ended_mark_late
    after insert on processing_queue_ended
    for each row
    when (new.completed_at < date_trunc('day', clock_timestamp() - interval '5 minutes', 'UTC'))
    execute function mark_ended_job_day();
comment on trigger processing_queue_ended_mark_late on processing_queue_ended is 'A job that ended on a day that may be closed marks it.';

create trigger processing_queue_ended_mark_gone
    after delete on processing_queue_ended
    for each row
    when (old.completed_at < date_trunc('day', clock_timestamp() - interval '5 minutes', 'UTC'))
    execute function mark_ended_job_day();
comment on trigger processing_queue_ended_mark_gone on processing_queue_ended is 'A job that goes, or is tried again, marks its day.';

create trigger processing_queue_ended_mark_change
    after update on processing_queue_ended
    for each row
    when (least(old.completed_at, new.completed_at) < date_trunc('day', clock_timestamp() - interval '5 minutes', 'UTC')
          and (old.status, old.created_at, old.scheduled_at, old.started_at, old.completed_at)
              is distinct from (new.status, new.created_at, new.scheduled_at, new.started_at, new.completed_at))
    execute function mark_ended_job_day();
comment on trigger processing_queue_ended_mark_change on processing_queue_ended is 'A job that is cancelled after its end marks its day.';

create function sum_ended_jobs(first timestamptz, last timestamptz) returns setof ended_job_days
    language sql
    stable
    set search_path = pg_catalog, public, pg_temp
    set enable_seqscan = off  -- days, however many there are
as $$
    with jobs as (
        select date_trunc('day', q.completed_at, 'UTC') as day, date_trunc('month', q.created_at, 'UTC') as month,
               q.status, q.created_at,
               case when q.started_at is not null then
                   1000 * extract(epoch from greatest(q.started_at - greatest(q.created_at, q.scheduled_at), interval '0'))::double precision
               end as wait
        from public.processing_queue q
        where q.status in ('completed', 'failed', 'cancelled')
          and q.completed_at >= sum_ended_jobs.first and q.completed_at < sum_ended_jobs.last
    ), cells as (
        select j.day, j.month, j.status,
               case when j.wait = 0 then 0 else 500 + floor(ln(j.wait) / ln(1.02::double precision)) end::smallint as bucket,
               count(*) as jobs, min(j.created_at) as oldest, max(j.created_at) as newest, count(j.wait) as waited,
               coalesce(sum(j.wait), 0) as total, min(j.wait) as minimum, max(j.wait) as maximum
        from jobs j
        group by 1, 2, 3, 4
    )
    select c.day, c.month, c.status, sum(c.jobs)::bigint, min(c.oldest), max(c.newest), sum(c.waited)::bigint,
           sum(c.total), min(c.minimum), max(c.maximum),
           coalesce(array_agg(c.bucket order by c.bucket) filter (where c.bucket is not null), '{}'),
           coalesce(array_agg(c.waited::integer order by c.bucket) filter (where c.bucket is not null), '{}')
    from cells c
    group by 1, 2, 3
$$;
comment on function sum_ended_jobs(timestamptz, timestamptz) is
    'Ended jobs by day, month and status, from the jobs themselves: of those that ended from first on and before last.';
revoke execute on function sum_ended_jobs(timestamptz, timestamptz) from public;
grant execute on function sum_ended_jobs(timestamptz, timestamptz) to app_user;

create function closed_through(of_table text, settled timestamptz) returns timestamptz
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    numbered constant boolean := pg_current_xact_id_if_assigned() is not null;
    mine     constant bigint := pg_current_xact_id()::text::bigint;
    p        public.rollup_progress%rowtype;
begin
    -- A number drawn now is above all that were drawn before, unless it was drawn long ago; one
    -- that is above it is from another server, before a restore.
    select * into p from public.rollup_progress r where r.table_name = of_table;
    if p.closing_at is null or p.closing_xid > mine or p.closing_at <= p.closed_through then
        if numbered then
            return p.closed_through;
        end if;
        p.closing_at := settled;
        p.closing_xid := mine;
        insert into public.rollup_progress as r (table_name, closing_at, closing_xid)
        values (of_table, settled, mine)
        on conflict (table_name) do update set closing_at = excluded.closing_at, closing_xid = excluded.closing_xid;
    end if;
    if pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= p.closing_xid then
        return p.closing_at;
    end if;
    return p.closed_through;
end
$$;
comment on function closed_through(text, timestamptz) is
    'Until when nobody can add to a table unseen, settled at most: rows marked later than that are not seen by who wrote earlier, and all of those have ended.';
revoke execute on function closed_through(text, timestamptz) from public;

create function roll_up_ended_jobs() returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    before  timestamptz;
    closed  timestamptz;
    late    timestamptz;
    changed timestamptz[]; -- days, …
    months  timestamptz[]; -- … and the months of what they hold or held
begin
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.roll_up_ended_jobs', 0)) then
        return 0;  -- somebody is at it, for all
    end if;
    closed := public.closed_through('processing_queue', date_trunc('day', clock_timestamp() - interval '5 minutes', 'UTC'));
    select r.closed_through into before from public.rollup_progress r where r.table_name = 'processing_queue';
    -- Those that are taken off the list here are those that are seen: what comes meanwhile stays.
    with gone as (delete from public.ended_job_changes c where c.day < closed returning c.day)
    select array_agg(distinct g.day) into changed from gone g;
    months := array(select distinct d.month from public.ended_job_days d where d.day = any (changed));
    delete from public.ended_job_days d where d.day = any (changed);
    foreach late in array coalesce(changed, '{}') loop
        insert into public.ended_job_days
        select * from public.sum_ended_jobs(late, least(late + interval '24 hours', coalesce(before, '-infinity')));
    end loop;
    if closed > coalesce(before, '-infinity') then
        insert into public.ended_job_days select * from public.sum_ended_jobs(coalesce(before, '-infinity'), closed);
        update public.rollup_progress set closed_through = closed where table_name = 'processing_queue';
    end if;
    months := months || array(
        select distinct d.month from public.ended_job_days d
        where d.day = any (changed) or d.day >= coalesce(before, '-infinity'));
    delete from public.ended_job_waits w where w.month = any (months);
    insert into public.ended_job_waits
    select d.month, d.status, u.bucket, sum(u.waits)
    from public.ended_job_days d cross join unnest(d.buckets, d.counts) as u (bucket, waits)
    where d.month = any (months)
    group by 1, 2, 3;
    return cardinality(months);
end
$$;
comment on function roll_up_ended_jobs() is
    'Sums up the days of ended jobs that are closed, and anew those that changed late; returns how many months of jobs that concerned. Safe to call often and by many, in a transaction of its own; a day closes with the second call after it.';
revoke execute on function roll_up_ended_jobs() from public;

create function ended_job_summary()
    returns table (status queue_status, job_count bigint, mean_wait double precision, p50_wait double precision,
                   p95_wait double precision, max_wait double precision, oldest timestamptz, newest timestamptz)
    language plpgsql
    stable
    set search_path = pg_catalog, public, pg_temp
    set jit = off
    set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
    closed  constant timestamptz := coalesce(
        (select r.closed_through from public.rollup_progress r where r.table_name = 'processing_queue'), '-infinity');
    changed constant timestamptz[] := array(
        select distinct c.day from public.ended_job_changes c where c.day < closed);
begin
    return query
        with fresh as materialized (
            select f.* from unnest(changed) as c (day) cross join lateral public.sum_ended_jobs(c.day, c.day + interval '24 hours') f
            union all
            select f.* from public.sum_ended_jobs(closed, 'infinity') f
        ), moments as (
            select p.status, sum(p.job_count)::bigint as jobs, sum(p.waited_count)::bigint as waited, sum(p.wait_total) as total,
                   min(p.wait_minimum) as minimum, max(p.wait_maximum) as maximum,
                   min(p.oldest_at) as oldest, max(p.newest_at) as newest
            from (select d.* from public.ended_job_days d where d.day <> all (changed) union all select * from fresh) p
            group by p.status
        ), histogram as (
            select p.status, p.bucket, sum(p.waits) as waits
            from (
                select w.status, w.bucket, w.wait_count as waits from public.ended_job_waits w
                union all
                select d.status, u.bucket, -u.waits
                from public.ended_job_days d cross join unnest(d.buckets, d.counts) as u (bucket, waits)
                where d.day = any (changed)
                union all
                select f.status, u.bucket, u.waits
                from fresh f cross join unnest(f.buckets, f.counts) as u (bucket, waits)
            ) p
            group by p.status, p.bucket
            having sum(p.waits) > 0
        ), ranked as (
            select h.status, h.bucket, sum(h.waits) over (partition by h.status order by h.bucket) as through
            from histogram h
        ), places as (
            -- waits are counted from 0, as percentile_cont counts them
            select m.status,
                   min(r.bucket) filter (where r.through > floor(0.50 * (m.waited - 1)))   as low50,
                   min(r.bucket) filter (where r.through > ceiling(0.50 * (m.waited - 1))) as high50,
                   min(r.bucket) filter (where r.through > floor(0.95 * (m.waited - 1)))   as low95,
                   min(r.bucket) filter (where r.through > ceiling(0.95 * (m.waited - 1))) as high95
            from ranked r
            join moments m on m.status = r.status
            group by m.status
        )
        select m.status, m.jobs, m.total / nullif(m.waited, 0) / 1000,
               public.estimated_percentile(0.50, m.waited, l.low50, l.high50, m.minimum::numeric, m.maximum::numeric) / 1000,
               public.estimated_percentile(0.95, m.waited, l.low95, l.high95, m.minimum::numeric, m.maximum::numeric) / 1000,
               m.maximum / 1000, m.oldest, m.newest
        from moments m
        left join places l on l.status = m.status;
end
$$;
comment on function ended_job_summary() is
    'Ended jobs by status: how many, and how long they waited, in seconds. From the sums of closed days, and the jobs for the rest: always up to date; percentiles are within 1 %, everything else is exact.';
revoke execute on function ended_job_summary() from public;
grant execute on function ended_job_summary() to app_user;

create or replace view queue_status_summary as
select s.status,
       coalesce(l.job_count, e.job_count, 0)  as job_count,
       coalesce(l.mean_wait, e.mean_wait)     as mean_wait_seconds,
       coalesce(l.p50_wait, e.p50_wait)       as p50_wait_seconds,
       coalesce(l.p95_wait, e.p95_wait)       as p95_wait_seconds,
       coalesce(l.max_wait, e.max_wait)       as max_wait_seconds,
       coalesce(l.oldest, e.oldest)           as oldest_created_at,
       coalesce(l.newest, e.newest)           as newest_created_at
from unnest(enum_range(null::queue_status)) as s (status)
left join (
    select q.status,
           count(*)                                                as job_count,
           avg(w.seconds)                                          as mean_wait,
           percentile_cont(0.5) within group (order by w.seconds)  as p50_wait,
           percentile_cont(0.95) within group (order by w.seconds) as p95_wait,
           max(w.seconds)                                          as max_wait,
           min(q.created_at)                                       as oldest,
           max(q.created_at)                                       as newest
    from processing_queue q
    cross join lateral (
        -- From when its newest try could have begun; a job that is planned for later doesn't wait yet.
        select extract(epoch from greatest(
                   case when q.status = 'processing' then q.started_at else now() end
                   - greatest(q.created_at, q.scheduled_at), interval '0'))::double precision as seconds
    ) w
    where q.status in ('queued', 'processing', 'retrying')
    group by q.status
) l on l.status = s.status
left join ended_job_summary() e on e.status = s.status;
comment on view queue_status_summary is
    'Per status, those without jobs too: how many jobs, how long they waited before their newest try began (or have waited for it), the oldest and the newest. Ended ones from sums by day: their percentiles are within 1 %, everything else is exact.';

create or replace function drop_ended_months(older_than interval) returns text[]
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
        delete from public.ended_job_days d
        where d.month = to_date(right(month.name, 6), 'YYYYMM')::timestamp at time zone 'UTC';
        delete from public.ended_job_waits w
        where w.month = to_date(right(month.name, 6), 'YYYYMM')::timestamp at time zone 'UTC';
        execute format('drop table public.%I', month.name);
        dropped := dropped || month.name::text;
    end loop;
    return dropped;
end
$$;


-- ── All of it ───────────────────────────────────────────────────────────────────────────

create function roll_up_summaries(most_rows integer default 100000) returns bigint
    language sql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
    select public.roll_up_ended_jobs() + public.roll_up_audit(roll_up_summaries.most_rows)
$$;
comment on function roll_up_summaries(integer) is
    'Brings the sums behind audit_summary_by_user and queue_status_summary up to date, some most_rows events at a time, and returns how much it took in. Safe to call often and by many; call it until it returns 0, in a transaction of its own. Views are exact without it, and slower.';
revoke execute on function roll_up_summaries(integer) from public;
grant execute on function roll_up_summaries(integer) to app_user;


-- ── duplicate_images_report ─────────────────────────────────────────────────────────────
-- Lists are made for each row that is shown, not for each that is counted.

create or replace view duplicate_images_report as
select d.original_id,
       d.user_id,
       (select o.original_filename from images o where o.id = d.original_id) as original_filename,
       (select o.file_hash from images o where o.id = d.original_id)         as file_hash,
       (select o.file_size from images o where o.id = d.original_id)         as file_size,
       d.duplicate_count,
       array(select c.id from images c where c.user_id = d.user_id and c.duplicate_of = d.original_id order by c.id)                as duplicate_ids,
       array(select c.original_filename from images c where c.user_id = d.user_id and c.duplicate_of = d.original_id order by c.id) as duplicate_filenames,
       d.duplicate_bytes,
       d.last_duplicate_at
from (
    select i.user_id,
           i.duplicate_of     as original_id,
           count(*)           as duplicate_count,
           sum(i.file_size)   as duplicate_bytes,
           max(i.uploaded_at) as last_duplicate_at
    from images i
    where i.duplicate_of is not null
    group by i.user_id, i.duplicate_of
) d;
