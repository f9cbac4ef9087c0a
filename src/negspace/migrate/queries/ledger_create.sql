-- Append-only: a row is what was seen to happen, so nothing may change or remove one. The
-- trigger fires for the owner too, and under session_replication_role = replica.
create table if not exists public.negspace_migrations (
    id                 bigint           not null generated always as identity,
    run_id             uuid             not null,
    batch              integer          not null,
    version            text             not null,
    name               text             not null,
    direction          text             not null,
    status             text             not null,
    checksum           text             null,
    checksum_algorithm text             null,
    bytes_sha256       text             null,
    started_at         timestamptz      not null,
    completed_at       timestamptz      null,
    rolled_back_at     timestamptz      null,
    duration_ms        double precision null,
    error_message      text             null,
    sqlstate           text             null,
    executed_by        text             not null default session_user,
    host               text             not null,
    tool_version       text             not null,
    metadata           jsonb            not null default '{}',
    constraint negspace_migrations_pkey            primary key (id),
    constraint negspace_migrations_batch_positive  check (batch > 0),
    constraint negspace_migrations_direction_known check (direction in ('up', 'down')),
    constraint negspace_migrations_status_known    check
        (status in ('pending', 'running', 'success', 'failed', 'rolled_back'))
);

comment on table public.negspace_migrations is
    'negspace ledger, format 1: every attempt to apply or undo a migration; append-only';
comment on column public.negspace_migrations.batch is
    'which run of up the migration belongs to; a down has the batch it undoes';
comment on column public.negspace_migrations.status is
    'success: applied; rolled_back: undone by down; failed: rolled back by an error; '
    'running: begun outside a transaction, the next row of the run says how it ended; '
    'pending: what negspace calls a file that has no row';
comment on column public.negspace_migrations.checksum is
    'over the tokens of the file that ran, by checksum_algorithm';

create or replace function public.negspace_migrations_append_only() returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'INSERT' and pg_has_role(
        current_user, (select relowner from pg_class where oid = tg_relid), 'usage'
    ) then
        return null;
    end if;
    raise exception 'the migration ledger is append-only, and only its owner appends'
        using errcode = 'NS006', hint = 'negspace migrate up and down write it';
end
$$;

create or replace trigger negspace_migrations_append_only
    before insert or update or delete or truncate on public.negspace_migrations
    for each statement execute function public.negspace_migrations_append_only();

alter table public.negspace_migrations enable always trigger negspace_migrations_append_only;

revoke all on function public.negspace_migrations_append_only() from public;
