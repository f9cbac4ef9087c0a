-- @finished
insert into processing_queue (image_id, user_id, algorithm_name, algorithm_version, status, worker_id, created_at, started_at, completed_at)
select i.id, i.user_id, 'negative_space', '1.0.0', 'completed', 'long ago', now(), now(), now()
from generate_series(1, %(n)s) n, (select id, user_id from images order by id limit 1) i
-- @dead
insert into processing_queue (image_id, user_id, algorithm_name, algorithm_version, algorithm_parameters)
select i.id, i.user_id, 'negative_space', '1.0.0', jsonb_build_object('dead', n)
from generate_series(1, %(n)s) n, (select id, user_id from images order by id limit 1) i
-- @dead
delete from processing_queue where status = 'queued'
-- @done
select count(*) as n from processing_queue where status = 'completed' and worker_id <> 'long ago'
