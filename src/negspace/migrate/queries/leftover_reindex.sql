-- What REINDEX CONCURRENTLY leaves when it dies: the new index before the swap, or the old
-- one after it; both are invalid and named so.
select c.oid::bigint as oid,
       n.nspname     as schema,
       c.relname     as name,
       (select min(p.pid) from pg_stat_progress_create_index as p
         where p.datname = current_database() and p.index_relid = c.oid) as builder
  from pg_index as i
  join pg_class as c on c.oid = i.indexrelid
  join pg_namespace as n on n.oid = c.relnamespace
 where not i.indisvalid
   and c.relkind = 'i'
   and c.relname ~ '_cc(new|old)[0-9]*$'
 order by 1
