-- The shadows of this database whose maker is gone: nobody holds their lock. The lock that
-- this takes on them keeps two sweepers off the same one.
with shadows as materialized (
    select datname as name
      from pg_catalog.pg_database
     where datname like format('negspace\_shadow\_%s\_%%',
               (select oid from pg_catalog.pg_database where datname = current_database()))
)
select name from shadows where pg_try_advisory_xact_lock(hashtextextended(name, 0))
