-- How long the audit trail is kept: legal holds, and months that leave once they are sealed,
-- anchored and exported. The leaving is an event.


create table audit_holds (
    id          bigint      not null generated always as identity,
    reason      text        not null,
    since       timestamptz null,
    until       timestamptz null,
    placed_at   timestamptz not null default now(),
    released_at timestamptz null,

    constraint audit_holds_pkey               primary key (id),
    constraint audit_holds_reason_given       check (reason <> ''),
    constraint audit_holds_until_after_since  check (until > since),
    constraint audit_holds_released_after     check (released_at >= placed_at)
);

comment on table  audit_holds             is 'Legal holds: of what time the audit trail may not leave, whatever its age.';
comment on column audit_holds.id          is 'Number of the hold.';
comment on column audit_holds.reason      is 'Why, such as the matter''s number.';
comment on column audit_holds.since       is 'From when on events are held; null: from the first.';
comment on column audit_holds.until       is 'Before when; null: without end.';
comment on column audit_holds.placed_at   is 'When it was placed.';
comment on column audit_holds.released_at is 'When it was released; null: it holds.';
comment on index audit_holds_pkey is 'One hold.';

grant select on audit_holds to app_user;

create table audit_retirements (
    month         timestamptz not null,
    retired_at    timestamptz not null default now(),
    event_count   bigint      not null,
    detail_count  bigint      not null,
    last_seal     bigint      not null,
    anchored_seal bigint      not null,
    export_sha256 text        not null,

    constraint audit_retirements_pkey                      primary key (month),
    constraint audit_retirements_event_count_not_negative  check (event_count >= 0),
    constraint audit_retirements_detail_count_not_negative check (detail_count >= 0),
    constraint audit_retirements_anchored                  check (anchored_seal >= last_seal),
    constraint audit_retirements_export_sha256_sha256      check (length(export_sha256) = 64 and export_sha256 !~ '[^0-9a-f]')
);

comment on table  audit_retirements               is 'Months of the audit trail that have left; their seals stay.';
comment on column audit_retirements.month         is 'The month, as the time at which it began (UTC).';
comment on column audit_retirements.retired_at    is 'When it left.';
comment on column audit_retirements.event_count   is 'How many events it had.';
comment on column audit_retirements.detail_count  is 'How many details.';
comment on column audit_retirements.last_seal     is 'The newest seal of its rows; 0 where it had none.';
comment on column audit_retirements.anchored_seal is 'The seal up to which the trail was anchored when it left.';
comment on column audit_retirements.export_sha256 is 'SHA-256 of the file that it was exported to.';
comment on index audit_retirements_pkey is 'One month; each leaves once.';

grant select on audit_retirements to app_user;

create trigger audit_retirements_append_only
    before update or delete on audit_retirements
    for each row
    execute function refuse_change();
comment on trigger audit_retirements_append_only on audit_retirements is 'What has left stays on record.';

alter table audit_retirements enable always trigger audit_retirements_append_only;

create function hold_audit(reason text, since timestamptz default null, until timestamptz default null) returns bigint
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    placed public.audit_holds%rowtype;
begin
    insert into public.audit_holds (reason, since, until)
    values (hold_audit.reason, hold_audit.since, hold_audit.until)
    returning * into placed;
    perform public.record_event('config_change', 'audit_hold', placed.id::text,
                                changes_after => to_jsonb(placed) - 'id');
    return placed.id;
end
$$;
comment on function hold_audit(text, timestamptz, timestamptz) is 'Places a legal hold on the audit trail and returns its number; an event says so.';
revoke execute on function hold_audit(text, timestamptz, timestamptz) from public;
grant execute on function hold_audit(text, timestamptz, timestamptz) to app_user;

create function release_audit_hold(hold bigint, reason text) returns void
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    if coalesce(release_audit_hold.reason, '') = '' then
        raise exception 'a hold is released for a reason, and none was given'
            using errcode = 'NS004', hint = 'who decided it, and where that is written';
    end if;
    update public.audit_holds h set released_at = now()
    where h.id = release_audit_hold.hold and h.released_at is null;
    if not found then
        raise exception 'there is no hold % that is in force', release_audit_hold.hold
            using errcode = 'NS003', hint = 'negspace audit holds shows them';
    end if;
    perform public.record_event('config_change', 'audit_hold', release_audit_hold.hold::text,
                                changes_before => '{"released_at": null}',
                                changes_after => jsonb_build_object('released_at', now(), 'reason', release_audit_hold.reason));
end
$$;
comment on function release_audit_hold(bigint, text) is 'Releases a legal hold; an event says why. For the owner alone.';
revoke execute on function release_audit_hold(bigint, text) from public;

create function refuse_audit_retirement(month timestamptz, anchored_seal bigint, anchored_hash bytea) returns void
    language plpgsql
    stable
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    held     constant bigint := (
        select min(h.id) from public.audit_holds h
        where h.released_at is null
          and coalesce(h.since, '-infinity') < month + interval '1 month'
          and coalesce(h.until, 'infinity') > month);
    unsealed constant bigint := (
        (select count(*) from public.security_audit a
         where a."timestamp" >= month and a."timestamp" < month + interval '1 month')
        + (select count(*) from public.audit_log_details d
           where d.created_at >= month and d.created_at < month + interval '1 month')
        - (select coalesce(sum(s.leaf_count), 0) from public.audit_seals s
           where s.month = refuse_audit_retirement.month));
    strays   constant bigint := (
        select count(*) from public.audit_log_details d
        where d.audit_timestamp >= month and d.audit_timestamp < month + interval '1 month'
          and not (d.created_at >= month and d.created_at < month + interval '1 month'));
    reason   text;
    advice   text;
begin
    if month + interval '1 month' > now() then
        reason := 'it has not ended';
        advice := 'only whole months leave';
    elsif held is not null then
        reason := format('hold %s keeps it', held);
        advice := 'negspace audit holds';
    elsif unsealed <> 0 then
        reason := format('%s of its rows are not sealed', unsealed);
        advice := 'negspace audit seal; where it stays so, negspace audit verify';
    elsif not exists (
        select from public.audit_seals s
        where s.number = anchored_seal and s.seal_hash = anchored_hash
          and s.number >= coalesce((select max(m.number) from public.audit_seals m where m.month = refuse_audit_retirement.month), 0)
    ) then
        reason := 'its seals are not anchored';
        advice := 'negspace audit anchor FILE --key KEY';
    elsif strays > 0 then
        reason := format('%s details of other months speak of its events', strays);
        advice := 'it can leave after those months';
    end if;
    if reason is not null then
        raise exception '% of the audit trail can''t leave: %', to_char(month at time zone 'UTC', 'YYYY-MM'), reason
            using errcode = 'NS006', hint = advice;
    end if;
end
$$;
comment on function refuse_audit_retirement(timestamptz, bigint, bytea) is
    'Refuses that a month of the audit trail leaves: it has not ended, a hold keeps it, or it is not sealed and anchored.';
revoke execute on function refuse_audit_retirement(timestamptz, bigint, bytea) from public;

create function retire_audit_month(month timestamptz, anchored_seal bigint, anchored_hash bytea, export_sha256 text)
    returns audit_retirements
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    retired public.audit_retirements%rowtype;
    suffix  text;
    parent  text;
begin
    retired.month := date_trunc('month', retire_audit_month.month, 'UTC');
    suffix := to_char(retired.month at time zone 'UTC', 'YYYYMM');
    if to_regclass('public.security_audit_' || suffix) is null then
        raise exception 'the audit trail has no month %', to_char(retired.month at time zone 'UTC', 'YYYY-MM')
            using errcode = 'NS003', hint = 'it was never there, or has left';
    end if;
    -- in the order in which events are written; from here on nothing changes
    lock table public.security_audit, public.audit_log_details in access exclusive mode;
    perform public.refuse_audit_retirement(retired.month, anchored_seal, anchored_hash);
    retired.retired_at := now();
    retired.event_count := (select count(*) from public.security_audit a
                            where a."timestamp" >= retired.month and a."timestamp" < retired.month + interval '1 month');
    retired.detail_count := (select count(*) from public.audit_log_details d
                             where d.created_at >= retired.month and d.created_at < retired.month + interval '1 month');
    retired.last_seal := coalesce((select max(s.number) from public.audit_seals s where s.month = retired.month), 0);
    retired.anchored_seal := anchored_seal;
    retired.export_sha256 := export_sha256;
    insert into public.audit_retirements select retired.*;
    perform public.record_event('config_change', 'audit_month', to_char(retired.month at time zone 'UTC', 'YYYY-MM'),
                                changes_before => jsonb_build_object('event_count', retired.event_count, 'detail_count', retired.detail_count),
                                changes_after => to_jsonb(retired) - 'month' - 'event_count' - 'detail_count');
    -- details first: they lead to the events
    foreach parent in array array['audit_log_details', 'security_audit'] loop
        if to_regclass(format('public.%s_%s', parent, suffix)) is not null then
            execute format('alter table public.%I detach partition public.%I', parent, parent || '_' || suffix);
            execute format('drop table public.%I', parent || '_' || suffix);
        end if;
    end loop;
    return retired;
end
$$;
comment on function retire_audit_month(timestamptz, bigint, bytea, text) is
    'Lets a month of the audit trail leave: it has ended, no hold keeps it, every row is sealed and the seals are anchored. The caller has checked the export whose SHA-256 it names. Its seals stay; an event says so. For the owner alone.';
revoke execute on function retire_audit_month(timestamptz, bigint, bytea, text) from public;
