-- What uses the types and functions that pending migrations drop or rename: by the catalog's
-- dependencies, and by name in the bodies of functions, which the catalog doesn't know.
with wanted as (
    select 'pg_type'::regclass as class, t.oid, t.typname::text as name, t.typnamespace as space
      from pg_type as t
     where t.typname = any (%(types)s)
    union all
    select 'pg_proc'::regclass, p.oid, p.proname::text, p.pronamespace
      from pg_proc as p
     where p.proname = any (%(routines)s)
), named as (
    select w.*, n.nspname::text as schema
      from wanted as w
      join pg_namespace as n on n.oid = w.space
     where n.nspname not in ('pg_catalog', 'information_schema')
), users as (
    select w.schema, w.name, false as in_body, d.classid, d.objid,
           case when d.classid = 'pg_class'::regclass and d.objsubid > 0 then d.objsubid
                else 0 end as part
      from named as w
      join pg_depend as d
        on d.refclassid = w.class and d.deptype = 'n'
       and (d.refobjid = w.oid
            or d.refobjid in (select a.oid from pg_type as a where a.typelem = w.oid))
    union
    select w.schema, w.name, true, 'pg_proc'::regclass, p.oid, 0
      from named as w
      join pg_proc as p
        on p.oid <> w.oid
       and p.prosrc ~* ('\m' || regexp_replace(w.name, '(\W)', '\\\1', 'g') || '\M')
      join pg_language as l on l.oid = p.prolang and l.lanname not in ('c', 'internal')
     where p.pronamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
)
select u.schema, u.name, u.in_body,
       pg_describe_object(u.classid, u.objid, u.part)    as by,
       (select a.object_names
          from pg_identify_object_as_address(u.classid, u.objid, 0) as a) as user_names
  from users as u
 order by 1, 2, 4
