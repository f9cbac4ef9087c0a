-- The queries of the product, each with a name: what the services ask, what the documentation
-- shows, what the views are read for. benchmarks/queries.py runs them all on generated data and
-- shows which index each of them uses; between them they use every index. Parameters come by
-- name. "as owner" runs as the owner, everything else as the services; "changes" is rolled back.

-- ── users ────────────────────────────────────────────────────────────────────────────────

-- name: the account of an address (negspace users show)
select * from users where id = -1 or lower(email) = lower(%(email)s);

-- name: a page of accounts (negspace users list)
select * from users where id > %(user)s order by id limit 100;

-- name: the active accounts of a role
select id, email from users where role = 'admin' and is_active order by id limit 50;

-- name: newest accounts
select id, email from users order by created_at desc limit 20;

-- name: who logged in last
select id, email, last_login_at from users order by last_login_at desc nulls last limit 20;

-- name: accounts that are locked out
select id, email, account_locked_until from users where account_locked_until is not null order by account_locked_until desc limit 20;

-- name: accounts by metadata
select id from users where metadata @> '{"institution": "nowhere"}';

-- ── sessions, logins, tokens ─────────────────────────────────────────────────────────────

-- name: the session of a request (verify_session) · as owner
select * from verify_session(%(digest)s);

-- name: an account's sessions (negspace users sessions)
select id, created_at from sessions where user_id = %(user)s order by created_at desc, id desc limit 20;

-- name: one session is ended (end_sessions) · changes
select end_sessions(%(user)s, %(session)s);

-- name: old sessions and tries go (refresh_login_counters) · changes
select refresh_login_counters();

-- name: the tries of a login · as owner
select * from login_attempts where account_hash = %(digest)s and network = '*';

-- name: a token that somebody brings · as owner
select * from account_tokens where token_hash = %(digest)s;

-- name: an account's tokens · as owner
select * from account_tokens where user_id = %(user)s order by created_at desc limit 5;

-- name: one token · as owner
select * from account_tokens where id = %(session)s;

-- ── API keys ─────────────────────────────────────────────────────────────────────────────

-- name: the limit of a request's key · as owner
select * from api_key_limits where api_key_id = %(key)s;

-- name: one API key
select * from api_keys where id = %(key)s;

-- name: an API key by its hash
select * from api_keys where key_hash = %(digest)s;

-- name: an account's API keys (negspace keys list)
select id, name from api_keys where user_id = %(user)s order by created_at desc limit 20;

-- name: which API key ends next
select id, expires_at from api_keys where is_active and expires_at > now() order by expires_at limit 5;

-- name: which API keys are in use
select id, last_used_at from api_keys where is_active order by last_used_at desc nulls last limit 20;

-- name: which API keys may do something rare
select id from api_keys where scopes ? 'manage:accounts';

-- ── images ───────────────────────────────────────────────────────────────────────────────

-- name: one image (negspace images show)
select * from image_analysis_status where image_id = %(image)s;

-- name: a user's images by the time of their row
select id from images where user_id = %(user)s order by created_at desc limit 50;

-- name: a user's images in the pipeline
select * from image_analysis_status where user_id = %(user)s order by uploaded_at desc limit 50;

-- name: newest uploads of all
select * from image_analysis_status order by uploaded_at desc limit 50;

-- name: newest images of a status
select id, original_filename from images where analysis_status = 'processing' order by uploaded_at desc limit 50;

-- name: images that failed last
select id, failure_reason from images where analysis_status = 'failed' order by updated_at desc limit 20;

-- name: images that were tried again last
select id, last_retry_at from images where analysis_retry_count > 0 order by last_retry_at desc limit 20;

-- name: whether stored bytes are still in use
select from images where file_hash = %(hash)s and file_path = 'none' limit 1;

-- name: an owner's original of a file (register_image)
select id from images where user_id = %(user)s and file_hash = %(hash)s and not is_duplicate;

-- name: images by the beginning of their name
select id, original_filename from images where lower(original_filename) like 'zz%%' limit 20;

-- name: images of a type, page by page
select id from images where mime_type = 'image/tiff' and id > %(image)s order by id limit 50;

-- name: images by metadata
select id from images where metadata @> '{"instrument": "none of ours"}';

-- name: images with the same pixels
select id from images where pixel_hash = %(hash)s;

-- name: images that look like another (near_images)
select * from near_images(%(image)s, 8);

-- name: pairs that a user has not decided (negspace duplicates review)
select first_id, second_id from duplicate_pairs where user_id = %(user)s and decision = 'undecided';

-- name: pairs of an image
select first_id, second_id from duplicate_pairs where first_id = %(image)s or second_id = %(image)s;

-- name: an original's duplicates
select id from images where duplicate_of = %(original)s;

-- name: originals with most duplicates
select * from duplicate_images_report order by duplicate_count desc, original_id limit 20;

-- name: a user's duplicates
select * from duplicate_images_report where user_id = %(user)s order by original_id desc limit 50;

-- ── results ──────────────────────────────────────────────────────────────────────────────

-- name: results page by page (negspace results list)
select * from analysis_performance_summary where result_id < %(result)s order by result_id desc limit 100;

-- name: a user's newest results
select * from analysis_performance_summary where user_id = %(user)s order by created_at desc limit 50;

-- name: newest results of all
select * from analysis_performance_summary order by created_at desc limit 50;

-- name: the result that an analysis gave already (complete_job)
select id from analysis_results
where image_id = %(image)s and algorithm_name = 'negative_space' and algorithm_version = '1.0.0' and parameters_hash = %(hash)s;

-- name: an image's results (read_results)
select id, created_at from analysis_results where image_id = %(image)s order by created_at desc, id desc;

-- name: what an algorithm's version found
select id, image_id from analysis_results where algorithm_name = 'negative_space' and algorithm_version = '0.0.1' order by created_at desc limit 50;

-- name: results that are trusted least
select id, confidence_score from analysis_results order by confidence_score, id limit 20;

-- name: slowest analyses
select id, processing_time_ms from analysis_results order by processing_time_ms desc limit 20;

-- name: newest results with anomalies
select id from analysis_results where anomalies <> '[]' order by created_at desc limit 20;

-- name: results by kind of anomaly
select id from analysis_results where anomalies @> '[{"type": "none of ours"}]';

-- name: results by parameter
select id from analysis_results where algorithm_parameters @> '{"mode": "none of ours"}';

-- name: whether an overlay is still in use
select from analysis_results where visualization_path = 'ab/none.webp';

-- name: what the cache answered last
select id, cached_at from analysis_results where cache_hit order by cached_at desc limit 20;

-- ── cache ────────────────────────────────────────────────────────────────────────────────

-- name: the answer to one question
select cached_result from analysis_cache where cache_key = %(digest)s;

-- name: one entry of the cache
select * from analysis_cache where id = %(entry)s;

-- name: an image's entries
select id from analysis_cache where image_id = %(image)s;

-- name: a result's entries
select id from analysis_cache where analysis_id = %(result)s;

-- name: an algorithm's entries
select id from analysis_cache where algorithm_fingerprint = %(digest)s;

-- name: expired entries go (cleanup_expired_cache) · changes
select cleanup_expired_cache();

-- name: entries that were not asked for longest
select id from analysis_cache order by last_accessed_at limit 20;

-- name: values that are kept no longer (cleanup_cached_values)
select key from cached_values where kept_until < now() order by kept_until limit 100;

-- name: values that were not asked for longest (trim_cached_values)
select key from cached_values order by last_used_at limit 100;

-- ── the queue ────────────────────────────────────────────────────────────────────────────

-- name: the queue by status (negspace jobs stats)
select * from queue_status_summary;

-- name: one job (negspace jobs show)
select * from processing_queue where id = %(job)s;

-- name: an image's jobs
select id, status from processing_queue where image_id = %(image)s order by created_at desc;

-- name: a user's newest jobs
select id, status from processing_queue where user_id = %(user)s order by created_at desc limit 20;

-- name: jobs are claimed (claim_jobs) · changes
select id from claim_jobs('benchmark', 5);

-- name: whether an analysis waits already · as owner
select id from processing_queue_hot
where image_id = %(image)s and algorithm_name = 'negative_space' and algorithm_version = '1.0.0' and parameters_hash = %(hash)s;

-- name: what has to wait for its time · as owner
select id from processing_queue_hot
where status in ('queued', 'retrying') and scheduled_at > created_at and priority = 5 and scheduled_at <= now()
order by scheduled_at, id limit 5;

-- name: what is tried again next
select id, scheduled_at from processing_queue where status = 'retrying' order by scheduled_at limit 5;

-- name: what a worker holds
select id from processing_queue where status = 'processing' and worker_id = 'nobody';

-- name: what is overdue · as owner
select id from processing_queue_hot where status in ('queued', 'retrying') and deadline_at is not null and deadline_at < now();

-- name: what ended last
select id, completed_at from processing_queue where status = 'failed' order by completed_at desc limit 20;

-- name: what failed last
select id, error_message from processing_queue where status = 'failed' order by last_error_at desc limit 20;

-- name: failures that are to be added up (fold_job_failures)
select id from job_failures where not is_folded order by id limit 100;

-- name: a job's logs
select lines from job_logs where job_id = %(job)s order by attempt;

-- name: old logs go (purge_job_logs) · changes
select purge_job_logs(interval '30 days');

-- name: whether anybody is to be woken · as owner
select from workers where sleeping_since is not null limit 1;

-- name: one worker
select * from workers where id = 'benchmark';

-- name: whether a day of ended jobs changed
select from ended_job_changes where day = %(month)s limit 1;

-- name: newest workers (negspace worker list)
select * from workers order by started_at desc limit 20;

-- ── the audit trail ──────────────────────────────────────────────────────────────────────

-- name: newest events (negspace audit list)
select * from recent_audit_events limit 100;

-- name: what somebody did
select id, action from security_audit where user_id = %(user)s order by "timestamp" desc, id desc limit 50;

-- name: who did how much
select * from audit_summary_by_user where user_id = %(user)s;

-- name: what was done to an image (negspace audit who-saw)
select id, action from security_audit where resource_type = 'image' and resource_id = %(image_text)s order by "timestamp" desc;

-- name: newest events of a kind
select id from security_audit where action = 'permission_change' order by "timestamp" desc, id desc limit 50;

-- name: what was refused or broke
select id, error_message from security_audit where status <> 'success' order by "timestamp" desc limit 50;

-- name: what came from an address
select id from security_audit where ip_address = '203.0.113.77' order by "timestamp" desc limit 50;

-- name: what was done with a key
select id from security_audit where api_key_id = %(key)s order by "timestamp" desc limit 50;

-- name: one event with its details (negspace audit show)
select e.*, d.* from security_audit e join audit_log_details d on d.audit_id = e.id and d.audit_timestamp = e."timestamp" where e.id = %(event)s;

-- name: one row of details
select * from audit_log_details where id = %(event)s;

-- name: newest details
select id from audit_log_details order by created_at desc limit 20;

-- name: newest details of a kind
select id from audit_log_details where event_name = 'results_exported' order by created_at desc limit 20;

-- name: details by fact
select id from audit_log_details where event_data @> '{"job_id": -1}';

-- name: events since the newest seal (seal_audit) · as owner
select id from security_audit where recorded_in > '9000000000' order by recorded_in, id limit 100;

-- name: details since the newest seal (seal_audit) · as owner
select id from audit_log_details where recorded_in > '9000000000' order by recorded_in, id limit 100;

-- name: where a relation's newest seal ends
select * from audit_seals where relation = 'security_audit' order by number desc limit 1;

-- name: the seals of a month
select number from audit_seals where month = %(month)s and relation = 'security_audit' order by number;

-- name: the newest seals
select * from audit_seals order by number desc limit 5;

-- ── metrics ──────────────────────────────────────────────────────────────────────────────

-- name: one metric over time
select value from performance_metrics where metric_name = 'job_run_ms' and recorded_at >= %(hour)s order by recorded_at desc limit 100;

-- name: a day of a metric (negspace metrics show)
select * from aggregate_performance_metrics('job_run_ms', '1 hour', %(since)s, %(until)s);

-- name: a month of a metric by day
select * from aggregate_performance_metrics('job_run_ms', '1 day', %(month)s, %(until)s);

-- name: minutes of a metric
select * from aggregate_performance_metrics('job_run_ms', '1 minute', %(hour)s, %(until)s);

-- name: all metrics of a span of time (roll_up_metrics)
select metric_name, count(*), max(value) from performance_metrics where recorded_at >= %(span)s and recorded_at < %(span)s + interval '1 hour' group by 1;

-- name: all metrics of a day
select metric_name, count(*), max(value) from performance_metrics where recorded_at >= %(span)s and recorded_at < %(span)s + interval '1 day' group by 1;

-- name: whether an hour of metrics changed
select from metric_changes where hour = %(month)s limit 1;

-- name: one sample
select * from performance_metrics where id = %(sample)s;
