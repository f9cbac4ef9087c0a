-- @dead
insert into graphile_worker._private_jobs (task_id, payload)
select t.id, '{}' from generate_series(1, %(n)s), graphile_worker._private_tasks t
-- @dead
delete from graphile_worker._private_jobs
-- @done
select %(enqueued)s - count(*) as n from graphile_worker._private_jobs
