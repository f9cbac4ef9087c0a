create or replace trigger images_set_updated_at
    before update on images
    for each row
    execute function set_updated_at();
comment on trigger images_set_updated_at on images is 'Keeps updated_at.';

create or replace function append_processing_history() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    entry constant jsonb := jsonb_build_object('at', now(), 'from', old.analysis_status, 'to', new.analysis_status);
begin
    new.processing_history := case
        when jsonb_array_length(old.processing_history) >= 50 then old.processing_history - 0
        else old.processing_history
    end || jsonb_build_array(entry);
    return new;
end
$$;
comment on function append_processing_history() is 'Keeps processing_history: the newest 50 changes of status.';
comment on trigger images_append_processing_history on images is 'Keeps processing_history.';

do $$
declare
    change record;
begin
    for change in
        select c.* from (values
            ('answer_images',
             '(select r.id from public.analysis_results r
                   where r.image_id = i.id and r.parameters_hash = hashed  -- as result_of()
                     and r.algorithm_name || ''@'' || r.algorithm_version
                         = answer_images.algorithm_name || ''@'' || answer_images.algorithm_version) is not null',
             'public.result_of(i.id, answer_images.algorithm_name, answer_images.algorithm_version, hashed) is not null'),
            ('list_outcomes',
             'begin
    if cardinality(added) = cardinality(list_outcomes.images) then  -- each is new, and named once
        return query select a.id, a.job, null::bigint, ''queued'' from unnest(added, jobs) as a (id, job);
        return;
    end if;
    return query',
             'begin
    return query')
        ) as c (name, was, becomes)
    loop
        execute replace(pg_get_functiondef(('public.' || change.name)::regproc), change.was, change.becomes);
    end loop;
end
$$;
