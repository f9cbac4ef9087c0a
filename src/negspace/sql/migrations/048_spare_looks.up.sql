-- Less for each image that an analysis is asked for, and for each change of an image's status.


-- ── Asking for many ─────────────────────────────────────────────────────────────────────

do $$
declare
    change record;
    source text;
begin
    -- A few lines of two functions change; the rest stays as it is.
    for change in
        select c.* from (values
            -- the look-up of result_of() in line: its call for each image cost a seventh of the job
            ('answer_images',
             'public.result_of(i.id, answer_images.algorithm_name, answer_images.algorithm_version, hashed) is not null',
             '(select r.id from public.analysis_results r
                   where r.image_id = i.id and r.parameters_hash = hashed  -- as result_of()
                     and r.algorithm_name || ''@'' || r.algorithm_version
                         = answer_images.algorithm_name || ''@'' || answer_images.algorithm_version) is not null'),
            ('list_outcomes',
             'begin
    return query',
             'begin
    if cardinality(added) = cardinality(list_outcomes.images) then  -- each is new, and named once
        return query select a.id, a.job, null::bigint, ''queued'' from unnest(added, jobs) as a (id, job);
        return;
    end if;
    return query')
        ) as c (name, was, becomes)
    loop
        source := pg_get_functiondef(('public.' || change.name)::regproc);
        if (length(source) - length(replace(source, change.was, ''))) <> length(change.was) then
            raise exception 'the function % is not as the migrations made it', change.name
                using errcode = 'NS006', hint = 'negspace migrate drift shows how it differs';
        end if;
        execute replace(source, change.was, change.becomes);
    end loop;
end
$$;


-- ── Changes of status ───────────────────────────────────────────────────────────────────
-- Each job changes an image twice. One trigger does then what two did: each takes the row apart
-- and puts it together again.

create or replace function append_processing_history() returns trigger
    language plpgsql
    set search_path = pg_catalog, public, pg_temp
as $$
declare
    entry constant jsonb := jsonb_build_object('at', now(), 'from', old.analysis_status, 'to', new.analysis_status);
begin
    new.updated_at := now();
    new.processing_history := case
        when jsonb_array_length(old.processing_history) >= 50 then old.processing_history - 0
        else old.processing_history
    end || jsonb_build_array(entry);
    return new;
end
$$;
comment on function append_processing_history() is 'Keeps processing_history, the newest 50 changes of status, and with it updated_at.';
comment on trigger images_append_processing_history on images is 'Keeps processing_history and updated_at where the status changes.';

create or replace trigger images_set_updated_at
    before update on images
    for each row
    when (old.analysis_status = new.analysis_status)
    execute function set_updated_at();
comment on trigger images_set_updated_at on images is 'Keeps updated_at where the status stays.';
