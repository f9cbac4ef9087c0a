-- The history tables of other tools that the search path finds, with their columns.
select c.relname::text                                  as name,
       array_agg(a.attname::text order by a.attnum)     as columns
  from pg_class as c
  join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 where c.relname = any(%(names)s) and c.relkind in ('r', 'p') and pg_table_is_visible(c.oid)
 group by c.relname
 order by c.relname
