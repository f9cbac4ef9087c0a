-- The indexes of a table, whether each can be used, and who builds it just now.
select i.indexrelid::bigint                                   as oid,
       n.nspname                                              as schema,
       c.relname                                              as name,
       i.indisvalid and i.indisready and i.indislive          as valid,
       (select min(p.pid) from pg_stat_progress_create_index as p
         where p.datname = current_database() and p.index_relid = c.oid) as builder
  from pg_index as i
  join pg_class as c on c.oid = i.indexrelid
  join pg_namespace as n on n.oid = c.relnamespace
 where i.indrelid = to_regclass(%(table)s)
   and c.relkind = 'i'
 order by 1
