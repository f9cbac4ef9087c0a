-- What is there and not rendered, so that nothing is left out in silence.
select kind, name
  from (
    select 'pg_class'::regclass::oid as classid, c.oid as objid, case c.relkind
           when 'f' then 'foreign table' else 'typed table' end as kind,
           c.oid::regclass::text as name
      from pg_class as c
     where c.relkind = 'f' or c.reloftype <> 0
    union all select 'pg_foreign_server'::regclass, oid, 'server', srvname from pg_foreign_server
    union all select 'pg_foreign_data_wrapper'::regclass, oid, 'foreign data wrapper', fdwname
                from pg_foreign_data_wrapper
    union all select 'pg_collation'::regclass, oid, 'collation', oid::regcollation::text
                from pg_collation
    union all select 'pg_opclass'::regclass, oid, 'operator class', opcname from pg_opclass
    union all select 'pg_opfamily'::regclass, oid, 'operator family', opfname from pg_opfamily
    union all select 'pg_conversion'::regclass, oid, 'conversion', conname from pg_conversion
    union all select 'pg_language'::regclass, oid, 'language', lanname from pg_language
    union all select 'pg_am'::regclass, oid, 'access method', amname from pg_am
    union all select 'pg_transform'::regclass, oid, 'transform', trftype::regtype::text
                from pg_transform
    union all select 'pg_ts_config'::regclass, oid, 'text search configuration',
                     oid::regconfig::text from pg_ts_config
    union all select 'pg_ts_dict'::regclass, oid, 'text search dictionary',
                     oid::regdictionary::text from pg_ts_dict
    union all select 'pg_type'::regclass, t.oid, 'base type', t.oid::regtype::text
                from pg_type as t where t.typtype in ('b', 'p') and t.typelem = 0
    union all select 'pg_type'::regclass, rngtypid, 'range type with a canonical function',
                     rngtypid::regtype::text from pg_range where rngcanonical <> 0
    union all select 'pg_publication_rel'::regclass, r.oid, 'publication with filters',
                     p.pubname
                from pg_publication_rel as r join pg_publication as p on p.oid = r.prpubid
               where to_jsonb(r) ->> 'prqual' is not null or to_jsonb(r) ->> 'prattrs' is not null
    union all select 'pg_constraint'::regclass, k.oid, 'not-null constraint not yet valid',
                     format('%I on %s', k.conname, k.conrelid::regclass)
                from pg_constraint as k where k.contype = 'n' and not k.convalidated
    union all select 'pg_seclabel'::regclass, s.objoid, 'security label', s.label
                from pg_seclabel as s
  ) as found
 where objid >= 16384
   and not exists (
       select from pg_depend as d
        where d.classid = found.classid and d.objid = found.objid and d.deptype = 'e')
 order by kind, name
