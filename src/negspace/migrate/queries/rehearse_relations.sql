-- Every relation with its file, and the rows that this transaction has written in it. The
-- runner's own are left out.
select c.oid,
       pg_catalog.format('%I.%I', n.nspname, c.relname) as name,
       c.relkind::text                                  as kind,
       c.relfilenode                                    as file,
       case when c.relkind in ('r', 'm') then
           pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid)
           + pg_catalog.pg_stat_get_xact_tuples_updated(c.oid)
           + pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid)
       else 0 end                                       as written
  from pg_catalog.pg_class as c
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
 where c.oid >= 16384
   and c.relkind <> 't'
   and n.nspname !~ '^pg_toast'
   and not (n.nspname = 'public' and c.relname ~ '^negspace_migration')
