-- Schemas, extensions, enums, domains, composite and range types, a row each.
select 'pg_namespace'::regclass::oid as classid,
       n.oid                         as objid,
       'schema'                      as kind,
       quote_ident(n.nspname)        as name,
       case n.nspname when 'public' then ''
            else format('create schema %I;', n.nspname) end as definition,
       case n.nspname when 'public' then null
            else obj_description(n.oid, 'pg_namespace') end as comment
  from pg_namespace as n
 where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'

union all
select 'pg_extension'::regclass, e.oid, 'extension', quote_ident(e.extname),
       format('create extension if not exists %I with schema %I;', e.extname, n.nspname), null
  from pg_extension as e
  join pg_namespace as n on n.oid = e.extnamespace
 where e.extname <> 'plpgsql'

union all
select 'pg_type'::regclass, t.oid, 'type', format('%I.%I', n.nspname, t.typname),
       format(E'create type %I.%I as enum (\n    %s\n);', n.nspname, t.typname, (
           select string_agg(quote_literal(e.enumlabel), E',\n    ' order by e.enumsortorder)
             from pg_enum as e where e.enumtypid = t.oid)),
       obj_description(t.oid, 'pg_type')
  from pg_type as t
  join pg_namespace as n on n.oid = t.typnamespace
 where t.typtype = 'e' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'

union all
select 'pg_type'::regclass, t.oid, 'domain', format('%I.%I', n.nspname, t.typname),
       format('create domain %I.%I as %s', n.nspname, t.typname,
              format_type(t.typbasetype, t.typtypmod))
       || coalesce((
              select format(' collate %I.%I', cn.nspname, c.collname)
                from pg_collation as c
                join pg_namespace as cn on cn.oid = c.collnamespace
                join pg_type as b on b.oid = t.typbasetype
               where c.oid = t.typcollation and t.typcollation <> b.typcollation), '')
       || coalesce(' default ' || coalesce(pg_get_expr(t.typdefaultbin, 0, true),
                                           quote_literal(t.typdefault)), '')
       || case when t.typnotnull then ' not null' else '' end
       || coalesce((
              select string_agg(format(E'\n    constraint %I %s', c.conname,
                                       pg_get_constraintdef(c.oid, true)), '' order by c.conname)
                from pg_constraint as c where c.contypid = t.oid and c.contype = 'c'
                 and c.convalidated), '')
       || ';'
       || coalesce((
              select string_agg(format(E'\nalter domain %I.%I add constraint %I %s;', n.nspname,
                                       t.typname, c.conname, pg_get_constraintdef(c.oid, true)),
                                '' order by c.conname)
                from pg_constraint as c where c.contypid = t.oid and c.contype = 'c'
                 and not c.convalidated), ''),
       obj_description(t.oid, 'pg_type')
  from pg_type as t
  join pg_namespace as n on n.oid = t.typnamespace
 where t.typtype = 'd' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'

union all
select 'pg_type'::regclass, t.oid, 'type', format('%I.%I', n.nspname, t.typname),
       format(E'create type %I.%I as (%s);', n.nspname, t.typname, (
           select string_agg(
                      format(E'\n    %I %s', a.attname, format_type(a.atttypid, a.atttypmod))
                      || coalesce((
                             select format(' collate %I.%I', cn.nspname, c.collname)
                               from pg_collation as c
                               join pg_namespace as cn on cn.oid = c.collnamespace
                               join pg_type as b on b.oid = a.atttypid
                              where c.oid = a.attcollation
                                and a.attcollation <> b.typcollation), ''),
                      ',' order by a.attnum) || E'\n'
             from pg_attribute as a
            where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped)),
       obj_description(t.oid, 'pg_type')
  from pg_type as t
  join pg_namespace as n on n.oid = t.typnamespace
  join pg_class as r on r.oid = t.typrelid and r.relkind = 'c'
 where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'

union all
select 'pg_type'::regclass, t.oid, 'type', format('%I.%I', n.nspname, t.typname),
       format(E'create type %I.%I as range (\n    subtype = %s', n.nspname, t.typname,
              format_type(r.rngsubtype, null))
       || case when not o.opcdefault then
              format(E',\n    subtype_opclass = %I.%I', on_.nspname, o.opcname) else '' end
       || coalesce((
              select format(E',\n    collation = %I.%I', cn.nspname, c.collname)
                from pg_collation as c
                join pg_namespace as cn on cn.oid = c.collnamespace
                join pg_type as b on b.oid = r.rngsubtype
               where c.oid = r.rngcollation and r.rngcollation <> b.typcollation), '')
       || case when r.rngsubdiff <> 0 then
              E',\n    subtype_diff = ' || r.rngsubdiff::regproc::text else '' end
       || format(E',\n    multirange_type_name = %I.%I\n);', mn.nspname, m.typname),
       obj_description(t.oid, 'pg_type')
  from pg_range as r
  join pg_type as t on t.oid = r.rngtypid
  join pg_namespace as n on n.oid = t.typnamespace
  join pg_type as m on m.oid = r.rngmultitypid
  join pg_namespace as mn on mn.oid = m.typnamespace
  join pg_opclass as o on o.oid = r.rngsubopc
  join pg_namespace as on_ on on_.oid = o.opcnamespace
 where r.rngcanonical = 0 and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
