-- Where the sequences stand that were used.
select format('select pg_catalog.setval(%L, %s);', c.oid::regclass, s.last_value) as statement
  from pg_sequences as s
  join pg_namespace as n on n.nspname = s.schemaname
  join pg_class as c on c.relnamespace = n.oid and c.relname = s.sequencename
 where s.last_value is not null
   and not exists (
       select from pg_depend as d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid
          and (d.deptype = 'e'
               or d.refobjid in (to_regclass('public.negspace_migrations'),
                                to_regclass('public.negspace_migrations_journal'))))
 order by c.oid::regclass::text
