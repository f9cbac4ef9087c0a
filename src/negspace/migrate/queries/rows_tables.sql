-- The tables that hold rows: partitions are read and filled through the table they are of.
-- What extensions own and the runner's own ledger are left out.
select c.oid                                        as oid,
       c.oid::regclass::text                        as name,
       c.relkind = 'p'                              as partitioned,
       array_agg(a.attname::text order by a.attnum) filter (where a.attnum is not null) as columns,
       array_agg(format_type(a.atttypid, a.atttypmod) order by a.attnum)
           filter (where a.attnum is not null)      as types,
       coalesce(array_agg(a.attname::text) filter (where a.attgenerated <> ''), '{}') as generated
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  left join pg_attribute as a
         on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't'
   and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
   and c.oid <> coalesce(to_regclass('public.negspace_migrations'), 0)
   and c.oid <> coalesce(to_regclass('public.negspace_migrations_journal'), 0)
   and not exists (
       select from pg_depend as d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 group by c.oid, c.relkind
 order by name
