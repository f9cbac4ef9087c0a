-- The checks and foreign keys that a row must satisfy; unique ones show by themselves. A
-- check that is inherited stands with each table.
select k.conrelid                       as relation,
       k.conname::text                  as name,
       k.contype::text                  as kind,
       coalesce((select array_agg(quote_ident(a.attname) order by u.n)
          from unnest(k.conkey) with ordinality as u(attnum, n)
          join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = u.attnum), '{}')
                                        as columns,
       case when k.contype = 'c' then pg_get_expr(k.conbin, k.conrelid) end as expression,
       k.confrelid                      as target,
       nullif(k.confrelid, 0)::regclass::text as target_name,
       (select array_agg(quote_ident(a.attname) order by u.n)
          from unnest(k.confkey) with ordinality as u(attnum, n)
          join pg_attribute as a on a.attrelid = k.confrelid and a.attnum = u.attnum)
                                        as target_columns
  from pg_constraint as k
 where k.contype in ('c', 'f') and k.conrelid >= 16384
 order by k.conrelid, cardinality(k.conkey) desc, k.conname
