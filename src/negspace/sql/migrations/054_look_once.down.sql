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
            ('(select r.id from public.analysis_results r  -- as result_of()
                    where r.image_id = h.image_id and r.parameters_hash = h.parameters_hash
                      and r.algorithm_name || ''@'' || r.algorithm_version = h.algorithm_name || ''@'' || h.algorithm_version) is not null',
             'exists (select from public.analysis_results r
                           where r.image_id = h.image_id and r.parameters_hash = h.parameters_hash  -- as result_of()
                             and r.algorithm_name || ''@'' || r.algorithm_version = h.algorithm_name || ''@'' || h.algorithm_version)'),
            ('(select a.id from public.analysis_cache a
                       where a.cache_key = keys[h.ordinality] and a.expires_at > clock_timestamp()) is not null),',
             'exists (select from public.analysis_cache a
                              where a.cache_key = public.cache_key(
                                        i.file_hash,
                                        public.algorithm_fingerprint(h.algorithm_name, h.algorithm_version, h.algorithm_parameters),
                                        i.user_id)
                                and a.expires_at > clock_timestamp())),')
        ) as c (was, becomes)
    loop
        source := replace(source, change.was, change.becomes);
    end loop;
    execute source;
end
$$;
