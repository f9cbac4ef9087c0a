-- @finished
insert into procrastinate_jobs (queue_name, task_name, status)
select 'default', 'long ago', 'succeeded' from generate_series(1, %(n)s)
-- @dead
insert into procrastinate_jobs (queue_name, task_name, args)
select 'default', 'nothing', '{}' from generate_series(1, %(n)s)
-- @dead
delete from procrastinate_jobs where status = 'todo'
-- @done
select count(*) as n from procrastinate_jobs where status = 'succeeded' and task_name = 'nothing'
