-- Days that are summed up already and got ended jobs.
insert into ended_job_changes (day)
select distinct date_trunc('day', q.completed_at, 'UTC')
from rollup_progress p
join processing_queue q on q.id >= %(first)s and q.completed_at < p.closed_through
where p.table_name = 'processing_queue' and q.status in ('completed', 'failed', 'cancelled')
