-- Decided changes of images and results are events; exports state a purpose, as reads do; and
-- who acts is asked for in one function call instead of six.


create or replace function audit_context(
    out user_id bigint, out api_key_id bigint, out ip_address inet, out user_agent text, out request_id text
)
    language sql
    stable parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select nullif(current_setting('negspace.user_id', true), '')::bigint,
           nullif(current_setting('negspace.api_key_id', true), '')::bigint,
           nullif(current_setting('negspace.ip_address', true), '')::inet,
           nullif(current_setting('negspace.user_agent', true), ''),
           nullif(current_setting('negspace.request_id', true), '')
$$;

create function changed_keys(before jsonb, after jsonb, out was jsonb, out becomes jsonb)
    language sql
    immutable parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select jsonb_object_agg(k.key, before -> k.key), jsonb_object_agg(k.key, after -> k.key)
    from (select jsonb_object_keys(before) union select jsonb_object_keys(after)) as k (key)
    where before -> k.key is distinct from after -> k.key
$$;
comment on function changed_keys(jsonb, jsonb) is
    'The keys of two objects whose values differ, as they were and as they become; a key that isn''t there is null. Null where all are equal.';

create function audit_image_changes() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    -- Jobs change images all the time, and write events of their own: those are left out first.
    insert into public.security_audit (
        user_id, api_key_id, action, resource_type, resource_id, ip_address, user_agent,
        request_id, changes_before, changes_after
    )
    select c.user_id, c.api_key_id, 'config_change', 'image', n.id::text, c.ip_address, c.user_agent,
           c.request_id, d.was, d.becomes
    from old_rows o
    join new_rows n using (id)
    cross join public.audit_context() c
    cross join lateral public.changed_keys(o.metadata, n.metadata) m
    cross join lateral public.changed_keys(
        jsonb_build_object(
            'user_id', o.user_id, 'original_filename', o.original_filename, 'file_path', o.file_path,
            'file_size', o.file_size, 'mime_type', o.mime_type, 'file_hash', o.file_hash,
            'is_duplicate', o.is_duplicate, 'duplicate_of', o.duplicate_of, 'metadata', m.was)
        || case when n.analysis_status = 'archived' then jsonb_build_object('analysis_status', o.analysis_status) else '{}' end,
        jsonb_build_object(
            'user_id', n.user_id, 'original_filename', n.original_filename, 'file_path', n.file_path,
            'file_size', n.file_size, 'mime_type', n.mime_type, 'file_hash', n.file_hash,
            'is_duplicate', n.is_duplicate, 'duplicate_of', n.duplicate_of, 'metadata', m.becomes)
        || case when n.analysis_status = 'archived' then jsonb_build_object('analysis_status', n.analysis_status) else '{}' end
    ) d
    where (o.user_id, o.original_filename, o.file_path, o.file_size, o.mime_type, o.file_hash,
           o.is_duplicate, o.duplicate_of, o.metadata, o.analysis_status = 'archived')
          is distinct from
          (n.user_id, n.original_filename, n.file_path, n.file_size, n.mime_type, n.file_hash,
           n.is_duplicate, n.duplicate_of, n.metadata, n.analysis_status = 'archived')
    order by n.id;
    return null;
end
$$;
comment on function audit_image_changes() is
    'Writes what somebody decided about images into the audit trail: the changed keys before and after. What jobs change of them is told by run_analysis.';
revoke execute on function audit_image_changes() from public;

create trigger images_audit_update
    after update on images
    referencing old table as old_rows new table as new_rows
    for each statement
    execute function audit_image_changes();
comment on trigger images_audit_update on images is 'Every decided change of an image is an event.';

create function audit_result_changes() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    if tg_op = 'DELETE' then
        perform public.record_event(
            'config_change', 'result', o.id::text,
            changes_before => jsonb_build_object(
                'image_id', o.image_id, 'user_id', o.user_id, 'algorithm_name', o.algorithm_name,
                'algorithm_version', o.algorithm_version, 'parameters_hash', o.parameters_hash,
                'confidence_score', o.confidence_score, 'notes', o.notes))
        from old_rows o order by o.id;
    else
        perform public.record_event('config_change', 'result', n.id::text,
                                    changes_before => d.was, changes_after => d.becomes)
        from old_rows o
        join new_rows n using (id)
        cross join lateral public.changed_keys(
            to_jsonb(o) - '{updated_at,cache_hit,cached_at}'::text[],
            to_jsonb(n) - '{updated_at,cache_hit,cached_at}'::text[]) d
        where d.was is not null
        order by n.id;
    end if;
    return null;
end
$$;
comment on function audit_result_changes() is
    'Writes changed and removed results into the audit trail. That one came is told by run_analysis.';
revoke execute on function audit_result_changes() from public;

create trigger analysis_results_audit_update
    after update on analysis_results
    referencing old table as old_rows new table as new_rows
    for each statement
    execute function audit_result_changes();
comment on trigger analysis_results_audit_update on analysis_results is 'Every changed result is an event.';

create trigger analysis_results_audit_delete
    after delete on analysis_results
    referencing old table as old_rows
    for each statement
    execute function audit_result_changes();
comment on trigger analysis_results_audit_delete on analysis_results is 'Every removed result is an event.';

create function record_export(resource_type text, resource_id text, purpose text, selection jsonb default null) returns bigint
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    event bigint;
begin
    if coalesce(btrim(record_export.purpose), '') = '' then
        raise exception 'data are taken out for a purpose, and none was given'
            using errcode = 'NS004', hint = 'say in a few words what they are for; it enters the audit trail';
    end if;
    event := public.record_event('export_data', record_export.resource_type, record_export.resource_id,
                                 changes_after => record_export.selection);
    perform public.record_event_details(event, record_export.resource_type || 's_exported', record_export.purpose);
    return event;
end
$$;
comment on function record_export(text, text, text, jsonb) is
    'Writes the export_data event of data that are taken out, with the purpose stated, and returns its number. selection: what narrowed them.';
revoke execute on function record_export(text, text, text, jsonb) from public;
grant execute on function record_export(text, text, text, jsonb) to app_user;
