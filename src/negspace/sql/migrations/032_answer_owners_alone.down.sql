-- A cached answer is everybody's again. Where several owners have the answer to one question, the
-- newest stays: one entry for each.

-- negspace: allow ban-drop-function in this file because services refuse a schema that is newer than they are


create function cache_key(file_hash text, algorithm_fingerprint text) returns text
    language sql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select public.sha256_hex(file_hash || ':' || algorithm_fingerprint)
$$;
comment on function cache_key(text, text) is 'The key of a cached result: SHA-256 of the file''s hash and what the analyser would do.';

do $$
declare
    change record;
    source text;
begin
    for change in
        select c.* from (values
            ('answer_images',       'i.file_hash || '':'' || print || '':'' || i.user_id,',   'i.file_hash || '':'' || print,'),
            ('store_results',       'i.file_hash || '':'' || p.print || '':'' || i.user_id,', 'i.file_hash || '':'' || p.print,'),
            ('store_cached_result', 'public.cache_key(i.file_hash, print, i.user_id)',        'public.cache_key(i.file_hash, print)'),
            ('complete_job',        'public.cache_key(i.file_hash, print, i.user_id)',        'public.cache_key(i.file_hash, print)'),
            ('answer_jobs',         'h.algorithm_parameters), i.user_id) as key',             'h.algorithm_parameters)) as key')
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

delete from analysis_cache c
where exists (
    select from analysis_cache o
    join images oi on oi.id = o.image_id
    join images ci on ci.id = c.image_id
    where oi.file_hash = ci.file_hash and o.algorithm_fingerprint = c.algorithm_fingerprint
      and (o.created_at, o.id) > (c.created_at, c.id));

update analysis_cache c
set cache_key = cache_key(i.file_hash, c.algorithm_fingerprint)
from images i
where i.id = c.image_id and c.cache_key = cache_key(i.file_hash, c.algorithm_fingerprint, i.user_id);

drop function cache_key(text, text, bigint);

comment on column analysis_cache.cache_key is 'What it answers: cache_key() of file hash and algorithm fingerprint.';
