-- Decided changes of images and results are no events any more; those written stay.

drop function record_export(text, text, text, jsonb);
drop trigger analysis_results_audit_delete on analysis_results;
drop trigger analysis_results_audit_update on analysis_results;
drop function audit_result_changes();
drop trigger images_audit_update on images;
drop function audit_image_changes();
drop function changed_keys(jsonb, jsonb);

create or replace function audit_context(
    out user_id bigint, out api_key_id bigint, out ip_address inet, out user_agent text, out request_id text
)
    language sql
    stable parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select public.context_value('user_id')::bigint,
           public.context_value('api_key_id')::bigint,
           public.context_value('ip_address')::inet,
           public.context_value('user_agent'),
           public.context_value('request_id')
$$;
