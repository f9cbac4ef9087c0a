-- Whom the watched backend waits for, and what it wants. Pid 0 is a prepared transaction.
select blocker.pid,
       activity.application_name                         as application,
       activity.usename::text                            as "user",
       activity.state,
       activity.query,
       extract(epoch from clock_timestamp() - activity.xact_start)::double precision as age_seconds,
       wanted.what                                       as wants
  from (select %(watched)s::integer as pid) as watched
 cross join lateral (select distinct pid from unnest(pg_blocking_pids(watched.pid)) as b(pid))
       as blocker
  left join pg_stat_activity as activity on activity.pid = blocker.pid
  left join lateral (
      select concat_ws(' on ', waiting.mode, coalesce(
                 quote_ident(n.nspname) || '.' || quote_ident(c.relname),
                 waiting.locktype)) as what
        from pg_locks as waiting
        left join pg_class as c on c.oid = waiting.relation
        left join pg_namespace as n on n.oid = c.relnamespace
       where waiting.pid = watched.pid and not waiting.granted
       limit 1
  ) as wanted on true
 order by blocker.pid
