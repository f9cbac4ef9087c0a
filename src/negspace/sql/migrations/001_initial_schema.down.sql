-- Removes everything that 001 made. The role app_user belongs to the whole server, other
-- databases may use it too, so it stays, without any right in this one.

drop view recent_audit_events;
drop view image_analysis_status;
drop view queue_status_summary;
drop view user_activity_summary;

drop function ensure_partitions(integer, timestamptz);
drop function lock_for_partitions(boolean);
drop function missing_partitions(timestamp, timestamp);

drop table security_audit;
drop table api_keys;
drop table processing_queue;
drop table analysis_results;
drop table images;
drop table users;

drop function audit_accounts();
drop function audit_images();
drop function record_event(audit_action, text, text, audit_status, jsonb, jsonb, text, bigint);
drop function audit_context();
drop function context_value(text);
drop function refuse_change();
drop function refuse_transition();
drop function set_updated_at();
drop function sha256_hex(text);

drop type audit_status;
drop type audit_action;
drop type queue_status;
drop type analysis_status;
drop type user_role;

revoke usage on schema public from app_user;
