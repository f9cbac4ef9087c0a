-- What this role may measure with.
select pg_catalog.has_function_privilege(
           'pg_catalog.pg_current_wal_insert_lsn()', 'execute')       as wal,
       pg_catalog.current_setting('track_counts')::boolean            as counts
