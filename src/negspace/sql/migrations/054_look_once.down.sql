do $$
declare
    change record;
    source text := pg_get_functiondef('public.claim_work(text, integer, text[], numeric)'::regprocedure);
begin
    for change in
        select c.* from (values
            ('
    keys text[];  -- of their results in the cache', ''),
            ('
    select k.keys into keys from public.cache_keys(held) k;', ''),
            ('where a.cache_key = keys[h.ordinality] and', 'where a.cache_key = public.cache_key(
                                        i.file_hash,
                                        public.algorithm_fingerprint(h.algorithm_name, h.algorithm_version, h.algorithm_parameters),
                                        i.user_id)
                                and')
        ) as c (was, becomes)
    loop
        source := replace(source, change.was, change.becomes);
    end loop;
    execute source;
end
$$;
