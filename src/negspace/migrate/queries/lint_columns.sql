-- The columns of those tables.
select n.nspname::text                                   as schema,
       c.relname::text                                   as "table",
       a.attname::text                                   as name,
       format_type(a.atttypid, a.atttypmod)              as type
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 where c.relname = any (%(tables)s) and c.relkind in ('r', 'p')
