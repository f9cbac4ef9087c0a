-- ALTER DEFAULT PRIVILEGES, a row for each statement.
select format('alter default privileges%s%s %s %s on %s %s %s%s;',
              case when d.defaclrole = (select oid from pg_roles where rolname = current_user)
                   then '' else ' for role ' || quote_ident(pg_get_userbyid(d.defaclrole)) end,
              coalesce(' in schema ' || quote_ident(n.nspname), ''),
              case when x.granted then 'grant' else 'revoke' end,
              string_agg(lower(x.privilege_type), ', ' order by x.privilege_type),
              case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences'
                   when 'f' then 'functions' when 'T' then 'types' when 'n' then 'schemas'
                   else 'large objects' end,
              case when x.granted then 'to' else 'from' end,
              case x.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(x.grantee)) end,
              case when x.is_grantable then ' with grant option' else '' end) as definition
  from pg_default_acl as d
  left join pg_namespace as n on n.oid = d.defaclnamespace
 cross join lateral (
     select grantee, privilege_type, is_grantable, true as granted
       from aclexplode(d.defaclacl)
     except
     select grantee, privilege_type, is_grantable, true
       from aclexplode(acldefault(case d.defaclobjtype when 'S' then 's'
                                       else d.defaclobjtype end, d.defaclrole))
      where d.defaclnamespace = 0
     union all
     (select grantee, privilege_type, is_grantable, false
        from aclexplode(acldefault(case d.defaclobjtype when 'S' then 's'
                                        else d.defaclobjtype end, d.defaclrole))
       where d.defaclnamespace = 0
      except
      select grantee, privilege_type, is_grantable, false from aclexplode(d.defaclacl))
 ) as x
 where x.grantee <> d.defaclrole
 group by d.oid, d.defaclrole, d.defaclobjtype, n.nspname, x.grantee, x.is_grantable, x.granted
