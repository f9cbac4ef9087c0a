-- The audit trail is sealed: each row gets the hash of its content in its own transaction, and
-- batches of rows that can't change any more are sealed afterwards into a chain of Merkle
-- roots. A chain over all rows would hold its lock through each commit's fsync: an eighth of
-- the inserts. What an auditor compares, and how: docs/audit.md.

-- negspace: allow require-concurrent-index-creation in this file because partitioned tables can't have an index made concurrently


-- ── A leaf of each row ──────────────────────────────────────────────────────────────────
-- The canonical text under the hash depends on no setting and no version of PostgreSQL: a
-- line for each column; numbers as digits, times as microseconds since 1970, null as "-",
-- and whatever a person can write with its length in characters before it. Its first line
-- names its form: another form gets another number. RFC 6962: leaves begin with a zero byte.

alter table security_audit
    add column recorded_in xid8  not null default '0',
    add column leaf_hash   bytea null;

comment on column security_audit.recorded_in is 'The transaction that wrote it; events are sealed in the order of (recorded_in, id). 0: before there were seals.';
comment on column security_audit.leaf_hash   is 'SHA-256 of its canonical text, made as it was written; null: before there were seals.';

create index security_audit_recorded_in_idx on security_audit (recorded_in, id);
comment on index security_audit_recorded_in_idx is 'The events of a seal, in its order; seal_audit(), negspace audit verify.';

alter table audit_log_details
    add column recorded_in xid8  not null default '0',
    add column leaf_hash   bytea null;

comment on column audit_log_details.recorded_in is 'The transaction that wrote it; details are sealed in the order of (recorded_in, id). 0: before there were seals.';
comment on column audit_log_details.leaf_hash   is 'SHA-256 of its canonical text, made as it was written; null: before there were seals.';

create index audit_log_details_recorded_in_idx on audit_log_details (recorded_in, id);
comment on index audit_log_details_recorded_in_idx is 'The details of a seal, in its order; seal_audit(), negspace audit verify.';

create function audit_leaf(event security_audit) returns bytea
    language plpgsql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    return sha256('\x00'::bytea || convert_to(
        'negspace security_audit 1'
        || E'\nid='             || event.id
        || E'\nuser_id='        || coalesce(event.user_id::text, '-')
        || E'\napi_key_id='     || coalesce(event.api_key_id::text, '-')
        || E'\naction='         || event.action
        || E'\nresource_type='  || length(event.resource_type) || ':' || event.resource_type
        || E'\nresource_id='    || coalesce(length(event.resource_id) || ':' || event.resource_id, '-')
        || E'\nstatus='         || event.status
        || E'\nip_address='     || coalesce(event.ip_address::text, '-')
        || E'\nuser_agent='     || coalesce(length(event.user_agent) || ':' || event.user_agent, '-')
        || E'\nrequest_id='     || coalesce(length(event.request_id) || ':' || event.request_id, '-')
        || E'\nerror_message='  || coalesce(length(event.error_message) || ':' || event.error_message, '-')
        || E'\nchanges_before=' || coalesce(length(event.changes_before::text) || ':' || event.changes_before::text, '-')
        || E'\nchanges_after='  || coalesce(length(event.changes_after::text) || ':' || event.changes_after::text, '-')
        || E'\ntimestamp='      || (extract(epoch from event."timestamp") * 1000000)::bigint,
        'UTF8'));
end
$$;
comment on function audit_leaf(security_audit) is
    'The leaf of an event: SHA-256 of a zero byte and its canonical text, form 1.';

create function audit_leaf(detail audit_log_details) returns bytea
    language plpgsql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    return sha256('\x00'::bytea || convert_to(
        'negspace audit_log_details 1'
        || E'\nid='                || detail.id
        || E'\naudit_id='          || detail.audit_id
        || E'\naudit_timestamp='   || (extract(epoch from detail.audit_timestamp) * 1000000)::bigint
        || E'\nevent_name='        || length(detail.event_name) || ':' || detail.event_name
        || E'\nevent_description=' || coalesce(length(detail.event_description) || ':' || detail.event_description, '-')
        || E'\nevent_data='        || length(detail.event_data::text) || ':' || detail.event_data::text
        || E'\nsystem_state='      || length(detail.system_state::text) || ':' || detail.system_state::text
        || E'\nduration_ms='       || coalesce(detail.duration_ms::text, '-')
        || E'\nsuccess_count='     || detail.success_count
        || E'\nfailure_count='     || detail.failure_count
        || E'\ncreated_at='        || (extract(epoch from detail.created_at) * 1000000)::bigint,
        'UTF8'));
end
$$;
comment on function audit_leaf(audit_log_details) is
    'The leaf of an event''s details: SHA-256 of a zero byte and their canonical text, form 1.';

create function hash_audit_row() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    new.recorded_in := pg_current_xact_id();
    new.leaf_hash := public.audit_leaf(new);
    return new;
end
$$;
comment on function hash_audit_row() is 'Fills recorded_in and leaf_hash of a new row of the audit trail, whatever was given for them.';

create trigger security_audit_hash
    before insert on security_audit
    for each row
    execute function hash_audit_row();
comment on trigger security_audit_hash on security_audit is 'Fills recorded_in and leaf_hash.';

create trigger audit_log_details_hash  -- after audit_log_details_find_timestamp: by name
    before insert on audit_log_details
    for each row
    execute function hash_audit_row();
comment on trigger audit_log_details_hash on audit_log_details is 'Fills recorded_in and leaf_hash.';

alter table security_audit enable always trigger security_audit_hash;
alter table audit_log_details enable always trigger audit_log_details_hash;


-- ── Seals ───────────────────────────────────────────────────────────────────────────────

create table audit_seals (
    number        bigint      not null,
    relation      text        not null,
    month         timestamptz not null,
    lineage       bigint      not null,
    last_xid      xid8        not null,
    last_id       bigint      not null,
    highest_id    bigint      not null,
    leaf_count    bigint      not null,
    merkle_root   bytea       not null,
    previous_hash bytea       not null,
    seal_hash     bytea       not null,
    sealed_at     timestamptz not null,

    constraint audit_seals_pkey                 primary key (number),
    constraint audit_seals_number_positive      check (number > 0),
    constraint audit_seals_relation_known       check (relation in ('security_audit', 'audit_log_details')),
    constraint audit_seals_lineage_not_negative check (lineage >= 0),
    constraint audit_seals_leaf_count_positive  check (leaf_count > 0),
    constraint audit_seals_merkle_root_sha256   check (octet_length(merkle_root) = 32),
    constraint audit_seals_previous_hash_sha256 check (octet_length(previous_hash) = 32),
    constraint audit_seals_seal_hash_sha256     check (octet_length(seal_hash) = 32)
);

comment on table  audit_seals               is 'Seals of the audit trail: each says what rows a batch held, and leads to the seal before it.';
comment on column audit_seals.number        is 'Number of the seal, from 1 without a gap.';
comment on column audit_seals.relation      is 'The table whose rows it seals: security_audit or audit_log_details.';
comment on column audit_seals.month         is 'The month of its rows, as the time at which it began (UTC): a batch is of one month, which leaves as a whole.';
comment on column audit_seals.lineage       is 'From which row number on transactions are counted anew: 0, or more once the trail was loaded into another server from a dump.';
comment on column audit_seals.last_xid      is 'With last_id, its last row in the order of (recorded_in, id). Its first is the next after the last of the seal before, of the same relation.';
comment on column audit_seals.last_id       is 'See last_xid.';
comment on column audit_seals.highest_id    is 'The highest row number of the relation that this seal, or one before it, holds.';
comment on column audit_seals.leaf_count    is 'How many rows it holds.';
comment on column audit_seals.merkle_root   is 'The root of the tree over their leaves, as RFC 6962 builds it.';
comment on column audit_seals.previous_hash is 'seal_hash of the seal before; 32 zero bytes at the first.';
comment on column audit_seals.seal_hash     is 'SHA-256 of the byte 2 and this seal''s canonical text, previous_hash in it.';
comment on column audit_seals.sealed_at     is 'When it was made.';

comment on index audit_seals_pkey is 'One seal; the newest one.';
create index audit_seals_relation_number_idx on audit_seals (relation, number desc);
comment on index audit_seals_relation_number_idx is 'Where a relation''s newest seal ends; seal_audit().';
create index audit_seals_month_idx on audit_seals (month, relation, number);
comment on index audit_seals_month_idx is 'The seals of a month, before it leaves.';

create trigger audit_seals_append_only
    before update or delete on audit_seals
    for each row
    execute function refuse_change();
comment on trigger audit_seals_append_only on audit_seals is 'No seal is ever changed or removed.';

create trigger audit_seals_no_truncate
    before truncate on audit_seals
    for each statement
    execute function refuse_change();
comment on trigger audit_seals_no_truncate on audit_seals is 'Nor all of them at once.';

alter table audit_seals enable always trigger audit_seals_append_only;
alter table audit_seals enable always trigger audit_seals_no_truncate;

grant select on audit_seals to app_user;

-- Follows the number of the newest seal outside of any transaction: who removes the newest
-- seals with their rows leaves it behind. Set to what a later call finds committed, so that
-- it never runs ahead of the seals.
create sequence audit_seals_seen as bigint minvalue 0 start 0;
comment on sequence audit_seals_seen is 'The highest number of a seal that was seen committed.';
grant select on sequence audit_seals_seen to app_user;

create function merkle_root(leaves bytea[]) returns bytea
    language plpgsql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    level bytea[] := leaves;
begin
    -- Level by level; a last one without a partner goes up as it is. That is RFC 6962's tree.
    while cardinality(level) > 1 loop
        level := array(
            select case when p.partner is null then p.hash
                   else sha256('\x01'::bytea || p.hash || p.partner) end
            from (
                select n.hash, n.place, lead(n.hash) over (order by n.place) as partner
                from unnest(level) with ordinality as n (hash, place)
            ) p
            where p.place % 2 = 1
            order by p.place);
    end loop;
    return level[1];
end
$$;
comment on function merkle_root(bytea[]) is 'The root of RFC 6962''s tree over these leaves; null for none.';

create function audit_seal_hash(seal audit_seals) returns bytea
    language sql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select sha256('\x02'::bytea || convert_to(
        'negspace audit_seals 1'
        || E'\nnumber='        || seal.number
        || E'\nrelation='      || seal.relation
        || E'\nmonth='         || (extract(epoch from seal.month) * 1000000)::bigint
        || E'\nlineage='       || seal.lineage
        || E'\nlast_xid='      || seal.last_xid::text
        || E'\nlast_id='       || seal.last_id
        || E'\nhighest_id='    || seal.highest_id
        || E'\nleaf_count='    || seal.leaf_count
        || E'\nmerkle_root='   || encode(seal.merkle_root, 'hex')
        || E'\nprevious_hash=' || encode(seal.previous_hash, 'hex')
        || E'\nsealed_at='     || (extract(epoch from seal.sealed_at) * 1000000)::bigint,
        'UTF8'))
$$;
comment on function audit_seal_hash(audit_seals) is
    'The hash of a seal: SHA-256 of the byte 2 and its canonical text, all columns but seal_hash, form 1.';


-- ── Sealing ─────────────────────────────────────────────────────────────────────────────
-- A row is sealed once its transaction lies below the oldest one that still runs: then no row
-- can come any more before it in the order of (recorded_in, id). Numbers of rows would not do:
-- they commit out of order.

create function newest_audit_seal(relation text) returns audit_seals
    language plpgsql
    stable strict
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    found_seal public.audit_seals%rowtype;
begin
    select s.* into found_seal from public.audit_seals s
    where s.relation = newest_audit_seal.relation
    order by s.number desc limit 1;
    if not found then
        found_seal.relation := relation;
        found_seal.lineage := 0;
        found_seal.last_xid := '0';
        found_seal.last_id := -9223372036854775808;
        found_seal.highest_id := -9223372036854775808;
    end if;
    return found_seal;
end
$$;
comment on function newest_audit_seal(text) is 'A relation''s newest seal; where it has none, one that ends before every row.';
revoke execute on function newest_audit_seal(text) from public;

create function foreign_audit_rows(newest audit_seals) returns bigint
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    first constant text := format(
        'select r.id from public.%I r where r.id > $1 and r.recorded_in < $2 order by r.id limit 1',
        newest.relation);
    found_id bigint;
begin
    -- A row that is newer than all that are sealed, and of an older transaction: this server
    -- counts its transactions from lower on than the one that the trail was dumped from.
    execute first into found_id using newest.highest_id, newest.last_xid;
    if found_id is not null then
        execute format('lock table public.%I in share mode', newest.relation);  -- every writer is done
        execute first into found_id using newest.highest_id, newest.last_xid;
    end if;
    return found_id;
end
$$;
comment on function foreign_audit_rows(audit_seals) is
    'The first row that was written after the trail was loaded into another server from a dump, where its seals don''t know of that yet; else null.';
revoke execute on function foreign_audit_rows(audit_seals) from public;

create function next_audit_seal(
    newest      audit_seals,
    below_id    bigint,
    horizon     xid8,
    batch_size  integer
) returns audit_seals
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    made   public.audit_seals%rowtype := newest;
    leaves bytea[];
    xids   xid8[];
    ids    bigint[];
begin
    execute format($query$
        select array_agg(b.leaf order by b.recorded_in, b.id),
               array_agg(b.recorded_in order by b.recorded_in, b.id),
               array_agg(b.id order by b.recorded_in, b.id),
               min(b.month)
        from (
            select r.recorded_in, r.id, r.month, coalesce(r.leaf_hash, r.computed) as leaf,
                   bool_and(r.month = r.first) over (order by r.recorded_in, r.id) as is_of_first_month
            from (
                select a.recorded_in, a.id, a.leaf_hash, m.month,
                       first_value(m.month) over (order by a.recorded_in, a.id) as first,
                       case when a.leaf_hash is null then public.audit_leaf(a) end as computed
                from public.%I a
                cross join lateral (select date_trunc('month', a.%I, 'UTC') as month) m
                where (a.recorded_in, a.id) > ($1, $2) and a.recorded_in < $3
                  and case when a.id >= $4 then a.id < $5 end  -- to the planner: no index to go by
                order by a.recorded_in, a.id
                limit $6
            ) r
        ) b
        where b.is_of_first_month
        $query$,
        newest.relation,
        case newest.relation when 'security_audit' then 'timestamp' else 'created_at' end)
    into leaves, xids, ids, made.month
    using newest.last_xid, newest.last_id, horizon, newest.lineage, below_id, batch_size;
    made.leaf_count := cardinality(ids);
    made.merkle_root := public.merkle_root(leaves);
    made.last_xid := xids[cardinality(xids)];
    made.last_id := ids[cardinality(ids)];
    made.highest_id := greatest(newest.highest_id, (select max(i.id) from unnest(ids) as i (id)));
    return made;
end
$$;
comment on function next_audit_seal(audit_seals, bigint, xid8, integer) is
    'What the next batch of a relation holds; leaf_count is null where there is none. The rest of the seal is not filled in.';
revoke execute on function next_audit_seal(audit_seals, bigint, xid8, integer) from public;

create function seal_audit_relation(relation text, batch_size integer, how_many integer) returns integer
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    horizon constant xid8 := pg_snapshot_xmin(pg_current_snapshot());
    newest  public.audit_seals%rowtype := public.newest_audit_seal(relation);
    abroad  bigint := public.foreign_audit_rows(newest);
    sealed  public.audit_seals%rowtype;
    made    integer := 0;
begin
    while made < how_many loop
        sealed := public.next_audit_seal(
            newest, coalesce(abroad, 9223372036854775807),
            case when abroad is null then horizon else '18446744073709551615' end, batch_size);
        if sealed.leaf_count is not null then
            select coalesce(max(s.number), 0) + 1 into sealed.number from public.audit_seals s;
            sealed.previous_hash := coalesce(
                (select s.seal_hash from public.audit_seals s where s.number = sealed.number - 1),
                decode(repeat('00', 32), 'hex'));
            sealed.sealed_at := now();
            sealed.seal_hash := public.audit_seal_hash(sealed);
            insert into public.audit_seals select sealed.*;
            newest := sealed;
            made := made + 1;
        elsif abroad is not null then  -- all from before are sealed: now those of this server
            newest.lineage := abroad;
            newest.last_xid := '0';
            newest.last_id := -9223372036854775808;
            abroad := null;
        else
            exit;
        end if;
    end loop;
    return made;
end
$$;
comment on function seal_audit_relation(text, integer, integer) is 'Seals up to how_many batches of one relation, and returns how many.';
revoke execute on function seal_audit_relation(text, integer, integer) from public;

create function seal_audit(batch_size integer default 1000, how_many integer default 100) returns integer
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    relation text;
    made     integer := 0;
begin
    if batch_size is null or batch_size not between 1 and 100000 or how_many is null or how_many < 1 then
        raise exception 'a seal holds from 1 to 100000 rows, and one or more are made, not % of %',
                        coalesce(how_many::text, 'null'), coalesce(batch_size::text, 'null')
            using errcode = 'NS004', hint = 'a thousand rows each is a good size';
    end if;
    -- One at a time, and no queue behind it: the one that seals does it for all.
    if not pg_try_advisory_xact_lock(hashtextextended('negspace.seal_audit', 0)) then
        return 0;
    end if;
    perform setval('public.audit_seals_seen', s.number)
    from (select max(number) as number from public.audit_seals where sealed_at < now()) s
    cross join public.audit_seals_seen q
    where s.number > q.last_value;
    foreach relation in array array['security_audit', 'audit_log_details'] loop
        exit when made >= how_many;
        made := made + public.seal_audit_relation(relation, batch_size, how_many - made);
    end loop;
    return made;
end
$$;
comment on function seal_audit(integer, integer) is
    'Seals what can''t change any more of the audit trail, in batches of batch_size rows at most, and returns how many seals it made. Call it until it returns 0; workers do, every minute.';
revoke execute on function seal_audit(integer, integer) from public;
grant execute on function seal_audit(integer, integer) to app_user;
