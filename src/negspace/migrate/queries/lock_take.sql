-- The key is 'neg_migr' in ASCII. No parameter: with one, the statement's portal would keep
-- its snapshot as long as the transaction idles, and CREATE INDEX CONCURRENTLY of the very
-- run that holds the lock would wait for it for ever.
select pg_try_advisory_xact_lock(7954877976375027570) as taken
