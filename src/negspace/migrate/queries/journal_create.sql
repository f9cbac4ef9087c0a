-- What a migration outside the run's transaction has got done, so that a run that died can be
-- gone on with. Append-only, as the ledger, whose trigger function it uses.
create table if not exists public.negspace_migrations_journal (
    id         bigint      not null generated always as identity,
    run_id     uuid        not null,
    migration  text        not null,
    direction  text        not null,
    unit       integer     not null,
    event      text        not null,
    checksum   text        null,
    statement  text        null,
    before     jsonb       null,
    decided_by text        not null,
    at         timestamptz not null default clock_timestamp(),
    constraint negspace_migrations_journal_pkey            primary key (id),
    constraint negspace_migrations_journal_direction_known check (direction in ('up', 'down')),
    constraint negspace_migrations_journal_event_known     check
        (event in ('begun', 'done', 'failed', 'settled')),
    constraint negspace_migrations_journal_decider_known   check
        (decided_by in ('statement', 'catalog', 'operator'))
);

comment on table public.negspace_migrations_journal is
    'negspace journal, format 1: each statement of a migration outside a transaction; append-only';
comment on column public.negspace_migrations_journal.migration is
    'number and name; the number without leading zeros';
comment on column public.negspace_migrations_journal.unit is
    'which part of the file, from 1; 0 stands for the whole';
comment on column public.negspace_migrations_journal.event is
    'begun: about to run outside a transaction; done; failed: PostgreSQL refused it; '
    'settled: what stands before is history, the migration ended or starts anew';
comment on column public.negspace_migrations_journal.before is
    'what the catalog held of the statement''s object just before it ran';
comment on column public.negspace_migrations_journal.decided_by is
    'statement: it was seen to end; catalog, operator: told after a crash';

create or replace trigger negspace_migrations_append_only
    before insert or update or delete or truncate on public.negspace_migrations_journal
    for each statement execute function public.negspace_migrations_append_only();

alter table public.negspace_migrations_journal
    enable always trigger negspace_migrations_append_only;
