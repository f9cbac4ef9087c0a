-- The indexes that REINDEX INDEX or REINDEX TABLE of that name rebuilds.
select i.indexrelid::bigint as oid
  from pg_index as i
  join pg_class as c on c.oid = i.indexrelid
 where to_regclass(%(name)s) in (i.indexrelid, i.indrelid)
   and c.relkind = 'i'
   and i.indisvalid
 order by 1
