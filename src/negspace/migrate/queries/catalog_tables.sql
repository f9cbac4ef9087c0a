-- Tables, a row each, without columns and constraints.
select c.oid,
       format('%I.%I', n.nspname, c.relname)         as name,
       c.relpersistence = 'u'                        as unlogged,
       am.amname                                     as method,
       pg_get_partkeydef(c.oid)                      as partition_key,
       c.relispartition                              as is_partition,
       pg_get_expr(c.relpartbound, c.oid, true)      as partition_bound,
       (select array_agg(i.inhparent::regclass::text order by i.inhseqno)
          from pg_inherits as i where i.inhrelid = c.oid) as parents,
       (select string_agg(o.option_name || ' = ' || quote_literal(o.option_value), ', '
                          order by o.option_name)
          from (select * from pg_options_to_table(c.reloptions)
                union all
                select 'toast.' || t.option_name, t.option_value
                  from pg_class as toast, pg_options_to_table(toast.reloptions) as t
                 where toast.oid = c.reltoastrelid) as o) as options,
       c.relrowsecurity                              as row_security,
       c.relforcerowsecurity                         as forced_row_security,
       c.relreplident                                as replica_identity,
       (select quote_ident(r.relname) from pg_index as i join pg_class as r on r.oid = i.indexrelid
         where i.indrelid = c.oid and i.indisreplident) as replica_index,
       (select quote_ident(r.relname) from pg_index as i join pg_class as r on r.oid = i.indexrelid
         where i.indrelid = c.oid and i.indisclustered) as clustered_on,
       obj_description(c.oid, 'pg_class')            as comment
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  left join pg_am as am on am.oid = c.relam
 where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
   and c.reloftype = 0
