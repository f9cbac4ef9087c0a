-- What must be there before what: pg_depend, with the parts of an object named as the object.
select 'alias' as sort, classid, objid, refclassid, refobjid
  from (
    select 'pg_attrdef'::regclass::oid as classid, oid as objid,
           'pg_class'::regclass::oid as refclassid, adrelid as refobjid from pg_attrdef
    union all  -- constraints inside their table or domain, and their indexes
    select 'pg_constraint'::regclass, oid, case conrelid when 0 then 'pg_type'::regclass
           else 'pg_class'::regclass end, case conrelid when 0 then contypid else conrelid end
      from pg_constraint where contype not in ('f', 't') and convalidated
    union all
    select 'pg_class'::regclass, conindid, 'pg_class'::regclass, conrelid
      from pg_constraint where contype in ('p', 'u', 'x')
    union all
    select 'pg_rewrite'::regclass, oid, 'pg_class'::regclass, ev_class
      from pg_rewrite where rulename = '_RETURN'
    union all  -- row types, arrays, multiranges
    select 'pg_type'::regclass, t.oid, 'pg_class'::regclass, t.typrelid
      from pg_type as t join pg_class as c on c.oid = t.typrelid and c.relkind <> 'c'
    union all
    select 'pg_class'::regclass, t.typrelid, 'pg_type'::regclass, t.oid
      from pg_type as t join pg_class as c on c.oid = t.typrelid and c.relkind = 'c'
    union all
    select 'pg_type'::regclass, typarray, 'pg_type'::regclass, oid
      from pg_type where typarray <> 0
    union all
    select 'pg_type'::regclass, rngmultitypid, 'pg_type'::regclass, rngtypid from pg_range
    union all  -- identity sequences
    select 'pg_class'::regclass, objid, refclassid, refobjid
      from pg_depend
     where deptype = 'i' and classid = 'pg_class'::regclass and refclassid = 'pg_class'::regclass
  ) as aliases
 where objid >= 16384

union all
select case when d.deptype = 'e' or (d.deptype = 'i' and d.classid in (
                'pg_proc'::regclass, 'pg_cast'::regclass))  -- a range type's own functions
            then 'made with' else 'needs' end, d.classid, d.objid,
       d.refclassid, d.refobjid
  from pg_depend as d
 where d.objid >= 16384 and (d.refobjid >= 16384 or d.deptype = 'e')
   and not (d.deptype = 'a' and d.classid = 'pg_class'::regclass
            and exists (select from pg_class as s where s.oid = d.objid and s.relkind = 'S'))

union all
select 'needs', 'pg_class'::regclass, inhrelid, 'pg_class'::regclass, inhparent
  from pg_inherits
 where inhrelid >= 16384
