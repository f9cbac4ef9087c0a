-- What is still under way of a run whose process is gone: its transaction or its session holds
-- the key 'neg_migs', and a statement outside a transaction has our mark. No parameter, for
-- the reason in lock_take.sql.
select activity.pid,
       activity.application_name as application,
       activity.usename::text    as "user",
       coalesce(activity.xact_start, activity.backend_start) as since
  from pg_stat_activity as activity
 where activity.datname = current_database()
   and activity.pid <> pg_backend_pid()
   and (
        activity.state = 'active' and activity.query like '/* negspace migrate, %'
        or exists (
            select from pg_locks as held
             where held.pid = activity.pid
               and held.locktype = 'advisory'
               and held.granted
               and held.database = activity.datid
               and held.classid = x'6e65675f'::int::oid
               and held.objid = x'6d696773'::int::oid
               and held.objsubid = 1
        )
   )
 limit 1
