-- @finished
insert into pgqueuer_log (job_id, status, priority, entrypoint)
select -n, 'successful', 0, 'long ago' from generate_series(1, %(n)s) n
-- @dead
insert into pgqueuer (priority, status, entrypoint) select 0, 'queued', 'nothing' from generate_series(1, %(n)s)
-- @dead
delete from pgqueuer
-- @done
select %(enqueued)s - count(*) as n from pgqueuer where status in ('queued', 'picked')
