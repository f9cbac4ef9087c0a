-- What roles other than the owner may do, as far as it differs from what a new object of the
-- kind would let them: grants and, for PUBLIC, revocations. The schema public is said in full
-- for PUBLIC: what it lets them by default changed with PostgreSQL 15.
with held as (
    select 'pg_class'::regclass::oid as classid, oid as objid, null::text as "column",
           case relkind when 'S' then 'sequence' else 'table' end as kind,
           oid::regclass::text as name, relowner as owner, relacl as acl,
           acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner) as usual
      from pg_class
     where relacl is not null and relkind in ('r', 'p', 'v', 'm', 'S', 'f')
    union all
    select 'pg_class'::regclass, a.attrelid, quote_ident(a.attname), 'table',
           a.attrelid::regclass::text, c.relowner, a.attacl, null::aclitem[]
      from pg_attribute as a
      join pg_class as c on c.oid = a.attrelid
     where a.attacl is not null and not a.attisdropped
    union all
    select 'pg_proc'::regclass, oid, null, case prokind when 'p' then 'procedure'
                                                else 'function' end,
           oid::regprocedure::text, proowner, proacl, acldefault('f', proowner)
      from pg_proc
     where proacl is not null
    union all
    select 'pg_type'::regclass, oid, null, case typtype when 'd' then 'domain' else 'type' end,
           oid::regtype::text, typowner, typacl, acldefault('T', typowner)
      from pg_type
     where typacl is not null
    union all
    select 'pg_namespace'::regclass, oid, null, 'schema', quote_ident(nspname), nspowner,
           coalesce(nspacl, acldefault('n', nspowner)),
           case nspname when 'public' then null else acldefault('n', nspowner) end
      from pg_namespace
     where nspname !~ '^pg_' and nspname <> 'information_schema'
), granted as (
    select classid, objid, "column", kind, name, x.grantee, x.privilege_type as privilege,
           bool_or(x.is_grantable) as grantable
      from held, aclexplode(acl) as x
     where x.grantee <> owner
     group by 1, 2, 3, 4, 5, 6, 7
), usual as (
    select classid, objid, "column", kind, name, x.grantee, x.privilege_type as privilege
      from held, aclexplode(usual) as x
     where x.grantee <> owner
    union all
    select 'pg_namespace'::regclass, 'public'::regnamespace, null, 'schema', 'public', 0, p
      from unnest(array['CREATE', 'USAGE']) as p
     where to_regnamespace('public') is not null
)
select coalesce(g.classid, u.classid)     as classid,
       coalesce(g.objid, u.objid)         as objid,
       coalesce(g."column", u."column")   as "column",
       coalesce(g.kind, u.kind)           as kind,
       coalesce(g.name, u.name)           as name,
       case coalesce(g.grantee, u.grantee) when 0 then 'public'
            else quote_ident(pg_get_userbyid(coalesce(g.grantee, u.grantee))) end as grantee,
       lower(coalesce(g.privilege, u.privilege)) as privilege,
       coalesce(g.grantable, false)       as grantable,
       g.privilege is not null            as granted
  from granted as g
  full join usual as u
    on u.classid = g.classid and u.objid = g.objid
   and u."column" is not distinct from g."column"
   and u.grantee = g.grantee and u.privilege = g.privilege
 where g.privilege is null or u.privilege is null or g.grantable
    or (coalesce(g.kind, u.kind) = 'schema' and coalesce(g.name, u.name) = 'public')
