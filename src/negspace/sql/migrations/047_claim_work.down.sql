do $$
declare
    was     constant text := 'exit when cardinality(held) >= claim_jobs.how_many or cardinality(seen) >= 1000 + claim_jobs.how_many;';
    becomes constant text := 'exit when cardinality(seen) >= 1000 + claim_jobs.how_many;';
begin
    execute replace(pg_get_functiondef('public.claim_jobs'::regproc), was, becomes);
end
$$;

drop function claim_work(text, integer, text[], numeric);
