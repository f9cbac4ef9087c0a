-- The roles that objects name in grants, policies and default privileges.
select distinct d.classid, d.objid, r.rolname as name, quote_ident(r.rolname) as quoted,
       r.rolcanlogin as login
  from pg_shdepend as d
  join pg_roles as r on r.oid = d.refobjid
 where d.refclassid = 'pg_authid'::regclass
   and d.dbid = (select oid from pg_database where datname = current_database())
   and (d.deptype in ('a', 'r') or d.classid = 'pg_default_acl'::regclass)
   and r.rolname !~ '^pg_'
   and r.rolname <> current_user
