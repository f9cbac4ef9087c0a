-- A cached answer is its owner's: who has a file and a watch can't tell any more whether somebody
-- else had it analysed. The owner's number joins the file's hash and the algorithm's fingerprint
-- in the key, so that no look-up ever meets an entry of another account.

-- negspace: allow ban-drop-function in this file because services refuse a schema that is newer than they are


create function cache_key(file_hash text, algorithm_fingerprint text, owner bigint) returns text
    language sql
    immutable strict parallel safe
    set search_path = pg_catalog, public, pg_temp
as $$
    select public.sha256_hex(file_hash || ':' || algorithm_fingerprint || ':' || owner)
$$;
comment on function cache_key(text, text, bigint) is
    'The key of a cached result: SHA-256 of the file''s hash, what the analyser would do, and whose image it is.';

do $$
declare
    change record;
    source text;
begin
    -- Five functions of the queue make the key; one place of each changes, and the rest, which is
    -- long, stays as it is. Two make it in line, for speed.
    for change in
        select c.* from (values
            ('answer_images',       'i.file_hash || '':'' || print,',             'i.file_hash || '':'' || print || '':'' || i.user_id,'),
            ('store_results',       'i.file_hash || '':'' || p.print,',           'i.file_hash || '':'' || p.print || '':'' || i.user_id,'),
            ('store_cached_result', 'public.cache_key(i.file_hash, print)',       'public.cache_key(i.file_hash, print, i.user_id)'),
            ('complete_job',        'public.cache_key(i.file_hash, print)',       'public.cache_key(i.file_hash, print, i.user_id)'),
            ('answer_jobs',         'h.algorithm_parameters)) as key',            'h.algorithm_parameters), i.user_id) as key')
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

update analysis_cache c
set cache_key = cache_key(i.file_hash, c.algorithm_fingerprint, i.user_id)
from images i
where i.id = c.image_id and c.cache_key = cache_key(i.file_hash, c.algorithm_fingerprint);

drop function cache_key(text, text);

comment on column analysis_cache.cache_key is 'What it answers: cache_key() of file hash, algorithm fingerprint and the image''s owner.';
