-- The queue that most people write: one table, one partial index.
create table bench_jobs (
    id           bigint      not null generated always as identity primary key,
    payload      jsonb       not null,
    status       text        not null default 'queued',
    priority     smallint    not null default 5,
    attempt      integer     not null default 0,
    created_at   timestamptz not null default now(),
    scheduled_at timestamptz not null default now(),
    started_at   timestamptz null,
    completed_at timestamptz null,
    worker       text        null
);
create index bench_jobs_claim_idx on bench_jobs (priority desc, scheduled_at, id) where status = 'queued';
