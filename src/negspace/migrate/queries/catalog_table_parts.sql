-- What hangs on a table: constraints, indexes, triggers, rules, policies, statistics, the
-- sequences that columns own. What a partition has from its parent is left out: its names
-- are the server's.
select 'pg_constraint'::regclass::oid as classid,
       k.oid                          as objid,
       k.conrelid                     as relation,
       case when k.contype = 'f' then 'foreign key' else 'constraint' end as kind,
       quote_ident(k.conname)         as name,
       k.contype <> 'f' and k.convalidated as inline,
       pg_get_constraintdef(k.oid, true)   as body,
       format('alter table %s add constraint %I %s;', k.conrelid::regclass, k.conname,
              pg_get_constraintdef(k.oid, true)) as definition,
       format('constraint %I on %s', k.conname, k.conrelid::regclass) as target,
       obj_description(k.oid, 'pg_constraint') as comment
  from pg_constraint as k
  join pg_namespace as n on n.oid = k.connamespace
 where k.contype in ('p', 'u', 'c', 'x', 'f') and k.conrelid <> 0 and k.conparentid = 0
   and (k.conislocal or k.coninhcount = 0)
   and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'

union all
select 'pg_class'::regclass, i.indexrelid, i.indrelid, 'index',
       format('%I.%I', n.nspname, c.relname), false, '',
       case when k.oid is null then replace(pg_get_indexdef(i.indexrelid, 0, true),
                 format(' %I ON ONLY ', c.relname), format(' %I ON ', c.relname)) || ';'
            else format('alter index %I.%I set (%s);', n.nspname, c.relname,
                        array_to_string(c.reloptions, ', ')) end
       || case when i.indisvalid or t.relkind = 'p' then '' else ' -- invalid' end
       || coalesce((
              select string_agg(
                         format(E'\nalter index %I.%I alter column %s set statistics %s;',
                                n.nspname, c.relname, a.attnum, a.attstattarget), ''
                         order by a.attnum)
                from pg_attribute as a
               where a.attrelid = i.indexrelid and a.attstattarget >= 0), ''),
       format('index %I.%I', n.nspname, c.relname),
       obj_description(i.indexrelid, 'pg_class')
  from pg_index as i
  join pg_class as c on c.oid = i.indexrelid
  join pg_class as t on t.oid = i.indrelid
  join pg_namespace as n on n.oid = c.relnamespace
  left join pg_constraint as k on k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x')
 where (k.oid is null or c.reloptions is not null)
   and not exists (select from pg_inherits as h where h.inhrelid = i.indexrelid)
   and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'

union all
select 'pg_trigger'::regclass, g.oid, g.tgrelid, 'trigger', quote_ident(g.tgname), false, '',
       pg_get_triggerdef(g.oid, true) || ';'
       || case g.tgenabled when 'O' then '' else format(
              E'\nalter table %s %s trigger %I;', g.tgrelid::regclass,
              case g.tgenabled when 'D' then 'disable' when 'R' then 'enable replica'
                               else 'enable always' end, g.tgname) end,
       format('trigger %I on %s', g.tgname, g.tgrelid::regclass),
       obj_description(g.oid, 'pg_trigger')
  from pg_trigger as g
 where not g.tgisinternal and g.tgparentid = 0

union all
select 'pg_rewrite'::regclass, r.oid, r.ev_class, 'rule', quote_ident(r.rulename), false, '',
       pg_get_ruledef(r.oid, true)
       || case r.ev_enabled when 'O' then '' else format(
              E'\nalter table %s %s rule %I;', r.ev_class::regclass,
              case r.ev_enabled when 'D' then 'disable' when 'R' then 'enable replica'
                                else 'enable always' end, r.rulename) end,
       format('rule %I on %s', r.rulename, r.ev_class::regclass),
       obj_description(r.oid, 'pg_rewrite')
  from pg_rewrite as r
  join pg_class as c on c.oid = r.ev_class
  join pg_namespace as n on n.oid = c.relnamespace
 where r.rulename <> '_RETURN' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'

union all
select 'pg_policy'::regclass, p.oid, p.polrelid, 'policy', quote_ident(p.polname), false, '',
       format('create policy %I on %s', p.polname, p.polrelid::regclass)
       || case when p.polpermissive then '' else ' as restrictive' end
       || case p.polcmd when 'r' then ' for select' when 'a' then ' for insert'
               when 'w' then ' for update' when 'd' then ' for delete' else '' end
       || case when p.polroles = '{0}' then '' else ' to ' || (
              -- the owner as whoever loads it, as owners are left to him
              select string_agg(case role when 0 then 'public' when c.relowner then 'current_user'
                                          else quote_ident(pg_get_userbyid(role)) end, ', '
                                order by role = c.relowner, pg_get_userbyid(role))
                from unnest(p.polroles) as role) end
       || coalesce(E'\n    using (' || pg_get_expr(p.polqual, p.polrelid, true) || ')', '')
       || coalesce(E'\n    with check (' || pg_get_expr(p.polwithcheck, p.polrelid, true) || ')',
                   '') || ';',
       format('policy %I on %s', p.polname, p.polrelid::regclass),
       obj_description(p.oid, 'pg_policy')
  from pg_policy as p
  join pg_class as c on c.oid = p.polrelid

union all
select 'pg_statistic_ext'::regclass, s.oid, s.stxrelid, 'statistics',
       format('%I.%I', n.nspname, s.stxname), false, '',
       pg_get_statisticsobjdef(s.oid) || ';'
       || case when s.stxstattarget >= 0 then format(
              E'\nalter statistics %I.%I set statistics %s;', n.nspname, s.stxname,
              s.stxstattarget) else '' end,
       format('statistics %I.%I', n.nspname, s.stxname),
       obj_description(s.oid, 'pg_statistic_ext')
  from pg_statistic_ext as s
  join pg_namespace as n on n.oid = s.stxnamespace

union all
select 0::oid, d.objid, d.refobjid, 'sequence owner', d.objid::regclass::text,
       false, '',
       format('alter sequence %s owned by %s.%I;', d.objid::regclass, d.refobjid::regclass,
              a.attname), '', null
  from pg_depend as d
  join pg_class as s on s.oid = d.objid and s.relkind = 'S'
  join pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
 where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
   and d.deptype = 'a'
