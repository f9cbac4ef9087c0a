-- Who holds the runner's lock in this database: the key of lock_take.sql is split over two columns.
select activity.pid,
       activity.application_name as application,
       activity.usename::text    as "user",
       activity.xact_start       as since
  from pg_locks as held
  join pg_stat_activity as activity using (pid)
 where held.locktype = 'advisory'
   and held.granted
   and held.database = (select oid from pg_database where datname = current_database())
   and held.classid = x'6e65675f'::int::oid
   and held.objid = x'6d696772'::int::oid
   and held.objsubid = 1
