-- What a row of each table needs: the columns that can be given a value.
select a.attrelid                       as relation,
       quote_ident(a.attname)           as name,
       a.atttypid                       as type_id,
       format_type(a.atttypid, a.atttypmod) as type,
       case when a.atttypmod > 4 and t.typname in ('varchar', 'bpchar') then a.atttypmod - 4 end
                                        as length,
       t.typname in ('text', 'varchar', 'bpchar') as is_text,
       a.attnotnull or t.typnotnull     as not_null,
       d.oid is not null or t.typdefault is not null or a.attidentity <> '' as has_default,
       a.attidentity <> '' or pg_get_expr(d.adbin, d.adrelid) ~ '^nextval\(' as numbered
  from pg_attribute as a
  join pg_class as c on c.oid = a.attrelid
  join pg_type as t on t.oid = a.atttypid
  left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
   and c.relkind in ('r', 'p') and c.oid >= 16384
 order by a.attrelid, a.attnum
