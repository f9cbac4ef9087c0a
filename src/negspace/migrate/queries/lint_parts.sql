-- The valid indexes and constraints of those tables, as the server writes them.
select n.nspname::text                                   as schema,
       c.relname::text                                   as "table",
       i.relname::text                                   as name,
       pg_get_indexdef(i.oid)                            as definition,
       true                                              as is_index
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  join pg_index as x on x.indrelid = c.oid and x.indisvalid
  join pg_class as i on i.oid = x.indexrelid
 where c.relname = any (%(tables)s)
union all
select n.nspname, c.relname, k.conname, pg_get_constraintdef(k.oid), false
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  join pg_constraint as k on k.conrelid = c.oid
 where c.relname = any (%(tables)s)
