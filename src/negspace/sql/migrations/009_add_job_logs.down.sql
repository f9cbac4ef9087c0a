-- The logs of jobs are lost.

drop function count_deaths(jsonb, integer);
drop function lost_jobs(bigint[], uuid[]);
drop function purge_job_logs(interval, integer);
drop function keep_job_logs(jsonb);
drop table job_logs;
