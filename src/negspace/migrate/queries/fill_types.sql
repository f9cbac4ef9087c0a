-- All types, as deep as values of them are made.
select t.oid,
       t.typname::text                  as name,
       t.oid::regtype::text             as type,
       t.typtype::text                  as kind,
       t.typcategory::text              as category,
       t.typelem                        as element,
       t.typlen = -1 and t.typcategory = 'A' as is_array,
       t.typbasetype                    as base,
       coalesce(r.rngsubtype, m.rngtypid, 0) as subtype,
       (select array_agg(e.enumlabel::text order by e.enumsortorder desc)
          from pg_enum as e where e.enumtypid = t.oid) as labels,
       (select array_agg(a.atttypid order by a.attnum)
          from pg_attribute as a
         where t.typtype = 'c' and a.attrelid = t.typrelid
           and a.attnum > 0 and not a.attisdropped) as attributes,
       (select string_agg(pg_get_constraintdef(k.oid), ' ')
          from pg_constraint as k where k.contypid = t.oid) as checks
  from pg_type as t
  left join pg_range as r on r.rngtypid = t.oid
  left join pg_range as m on m.rngmultitypid = t.oid
 where t.typtype <> 'c'
    or exists (select from pg_class as c where c.oid = t.typrelid and c.oid >= 16384)
