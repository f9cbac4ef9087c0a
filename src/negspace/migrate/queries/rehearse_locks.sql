-- What this transaction holds on relations that are not the system's own.
select distinct held.relation as oid, held.mode
  from pg_catalog.pg_locks as held
 where held.pid = pg_catalog.pg_backend_pid()
   and held.locktype = 'relation'
   and held.granted
   and held.database = (
           select d.oid from pg_catalog.pg_database as d
            where d.datname = pg_catalog.current_database())
   and held.relation >= 16384
