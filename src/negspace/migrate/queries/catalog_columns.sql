-- The columns of tables, and the comments on those of views and composite types.
select a.attrelid                                   as relation,
       quote_ident(a.attname)                       as name,
       format_type(a.atttypid, a.atttypmod)         as type,
       case when a.attcollation <> t.typcollation then (
           select format('%I.%I', cn.nspname, co.collname)
             from pg_collation as co
             join pg_namespace as cn on cn.oid = co.collnamespace
            where co.oid = a.attcollation) end      as "collation",
       a.attnotnull                                 as not_null,
       nullif(a.attidentity, '')                    as identity,
       nullif(a.attgenerated, '')                   as generated,
       pg_get_expr(d.adbin, d.adrelid, true)        as "default",
       a.attislocal                                 as is_local,
       parent.attnotnull                            as parent_not_null,
       pg_get_expr(pd.adbin, pd.adrelid, true)      as parent_default,
       case when a.attstorage <> coalesce(parent.attstorage, t.typstorage) then
           case a.attstorage when 'p' then 'plain' when 'e' then 'external'
                             when 'm' then 'main' else 'extended' end end as storage,
       case a.attcompression when 'p' then 'pglz' when 'l' then 'lz4' end as compression,
       case when a.attstattarget >= 0 then a.attstattarget end as statistics,
       array_to_string(a.attoptions, ', ')          as options,
       col_description(a.attrelid, a.attnum)        as comment,
       c.relkind                                    as relkind,
       s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle
  from pg_attribute as a
  join pg_class as c on c.oid = a.attrelid and c.relkind in ('r', 'p', 'v', 'm', 'c')
  join pg_namespace as n on n.oid = c.relnamespace
  join pg_type as t on t.oid = a.atttypid
  left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
  left join pg_inherits as i on i.inhrelid = a.attrelid and i.inhseqno = 1
  left join pg_attribute as parent
         on parent.attrelid = i.inhparent and parent.attname = a.attname and parent.attnum > 0
  left join pg_attrdef as pd on pd.adrelid = parent.attrelid and pd.adnum = parent.attnum
  left join pg_depend as owned
         on owned.refclassid = 'pg_class'::regclass and owned.refobjid = a.attrelid
        and owned.refobjsubid = a.attnum and owned.classid = 'pg_class'::regclass
        and owned.deptype = 'i' and a.attidentity <> ''
  left join pg_sequence as s on s.seqrelid = owned.objid
 where a.attnum > 0 and not a.attisdropped
   and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
 order by a.attrelid, a.attnum
