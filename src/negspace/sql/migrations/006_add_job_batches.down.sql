-- Removes the ends of many jobs at once. Nothing is lost: jobs are ended one by one again.

drop function fail_jobs(jsonb, boolean);
drop function end_tries(processing_queue[], jsonb, boolean);
drop function answer_jobs(jsonb);
drop function complete_jobs(jsonb);
drop function store_results(processing_queue[], jsonb);
drop function settle_images(bigint[], analysis_status, jsonb, jsonb);
drop function record_job_events(processing_queue[], audit_status, timestamptz, jsonb, jsonb);
drop function end_held_jobs(processing_queue[], queue_status, timestamptz, jsonb);
drop function record_batch_metrics(processing_queue[], queue_status, timestamptz);
drop function hold_jobs(jsonb);
drop function ends_by_job(jsonb);
