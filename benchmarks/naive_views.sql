-- The seven views as one writes them first: join what belongs together, then group. The same
-- names and columns as ours, in a schema of their own.

create schema naive;
grant usage on schema naive to app_user;

create view naive.user_activity_summary as
select u.id as user_id, u.email, u.full_name, u.role, u.is_active,
       count(distinct i.id) as image_count,
       count(distinct r.id) as analysis_count,
       max(i.uploaded_at)   as last_upload_at,
       max(r.created_at)    as last_analysis_at,
       u.last_login_at
from users u
left join images i on i.user_id = u.id
left join analysis_results r on r.user_id = u.id
group by u.id;

create view naive.queue_status_summary as
select q.status,
       count(*)                                                as job_count,
       avg(w.seconds)                                          as mean_wait_seconds,
       percentile_cont(0.5) within group (order by w.seconds)  as p50_wait_seconds,
       percentile_cont(0.95) within group (order by w.seconds) as p95_wait_seconds,
       max(w.seconds)                                          as max_wait_seconds,
       min(q.created_at)                                       as oldest_created_at,
       max(q.created_at)                                       as newest_created_at
from processing_queue q
cross join lateral (
    select extract(epoch from coalesce(q.started_at, now()) - q.created_at)::double precision as seconds
) w
group by q.status;

create view naive.image_analysis_status as
select distinct on (i.uploaded_at, i.id)
       i.id as image_id, i.user_id, i.original_filename, i.analysis_status, i.uploaded_at,
       i.processed_at, j.id as job_id, j.status as job_status, j.priority, j.retry_count,
       j.worker_id, j.started_at as job_started_at, j.completed_at as job_completed_at,
       j.error_message, r.id as result_id, r.algorithm_name, r.algorithm_version,
       r.confidence_score, r.processing_time_ms, r.created_at as analysed_at
from images i
left join processing_queue j on j.image_id = i.id
left join analysis_results r on r.image_id = i.id
order by i.uploaded_at desc, i.id desc, j.created_at desc, j.id desc, r.created_at desc, r.id desc;

create view naive.recent_audit_events as
select a.id, a."timestamp", a.user_id, u.email, a.action, a.resource_type, a.resource_id,
       a.status, a.ip_address, a.user_agent, a.error_message, a.changes_before, a.changes_after
from security_audit a
left join users u on u.id = a.user_id
order by a."timestamp" desc
limit 1000;

create view naive.analysis_performance_summary as
select r.id as result_id, r.image_id, r.user_id, i.original_filename, r.algorithm_name,
       r.algorithm_version, r.processing_time_ms, r.cache_hit,
       case when r.cache_hit then 'cached'
            when r.processing_time_ms < 1000 then 'fast'
            when r.processing_time_ms < 5000 then 'normal'
            else 'slow' end as performance_category,
       r.confidence_score, r.created_at
from analysis_results r
join images i on i.id = r.image_id;

create view naive.audit_summary_by_user as
select u.id as user_id, u.email,
       count(distinct a.id)                                       as event_count,
       count(distinct a.id) filter (where a.status = 'success')   as success_count,
       count(distinct a.id) filter (where a.status = 'failure')   as failure_count,
       count(distinct a.id) filter (where a.status = 'partial')   as partial_count,
       max(a."timestamp")                                         as last_event_at,
       avg(d.duration_ms)                                         as mean_duration_ms
from users u
left join security_audit a on a.user_id = u.id
left join audit_log_details d on d.audit_id = a.id
group by u.id;

create view naive.duplicate_images_report as
select o.id as original_id, o.user_id, o.original_filename, o.file_hash, o.file_size,
       count(*)                                     as duplicate_count,
       array_agg(d.id order by d.id)                as duplicate_ids,
       array_agg(d.original_filename order by d.id) as duplicate_filenames,
       sum(d.file_size)                             as duplicate_bytes,
       max(d.uploaded_at)                           as last_duplicate_at
from images o
join images d on d.duplicate_of = o.id
group by o.id;

grant select on all tables in schema naive to app_user;
