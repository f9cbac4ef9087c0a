-- Removes the workers and the functions of the queue. Lost with it: who worked, and the
-- leases. Jobs stay; one that is running has nobody left to end it, so it waits no longer
-- than the next 003: rescue_jobs() takes it up.

drop function purge_jobs(interval, integer);
drop function retry_jobs(bigint[]);
drop trigger images_archived_cancels_jobs on images;
drop function cancel_jobs_of_image();
drop function cancel_jobs(bigint[], text);
drop function rescue_jobs(interval, integer);
drop function give_back_job(bigint, uuid, text);
drop function fail_job(bigint, uuid, text, boolean);
drop function end_try(processing_queue, text, boolean, boolean);
drop function retry_delay(integer);
drop function complete_job_from_cache(bigint, uuid);
drop function complete_job(bigint, uuid, jsonb, jsonb, numeric, integer, jsonb, jsonb, text, jsonb, jsonb, integer);
drop function end_job(processing_queue, queue_status, timestamptz, text, boolean);
drop function record_job_metrics(processing_queue, text, timestamptz);
drop function hold_job(bigint, uuid);
drop function claim_jobs(text, integer, text[]);
drop function stop_worker(text, text);
drop function heartbeat(text);
drop function register_worker(text, text, integer, text[]);
drop function enqueue_jobs(bigint[], bigint, text, text, jsonb, integer, integer, timestamptz, boolean);
drop function store_cached_result(bigint, bigint, text, text, jsonb);
drop function settle_image(bigint, analysis_status, text);

comment on column processing_queue.processing_metadata is 'What the worker says of its tries, as a JSON object.';
alter table processing_queue
    drop column lease_token,
    drop column attempt;

drop table workers;
