-- @finished
insert into bench_jobs (payload, status, worker, started_at, completed_at)
select '{}', 'completed', 'long ago', now(), now() from generate_series(1, %(n)s)
-- @dead
insert into bench_jobs (payload) select '{}' from generate_series(1, %(n)s)
-- @dead
delete from bench_jobs where status = 'queued'
-- @done
select count(*) as n from bench_jobs where status = 'completed' and worker <> 'long ago'
