-- Functions, procedures, aggregates, operators, casts and event triggers, a row each.
select 'pg_proc'::regclass::oid as classid,
       p.oid                    as objid,
       case p.prokind when 'p' then 'procedure' else 'function' end as kind,
       format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
                                as name,
       rtrim(pg_get_functiondef(p.oid), E'\n') || ';' as definition,
       obj_description(p.oid, 'pg_proc')              as comment
  from pg_proc as p
  join pg_namespace as n on n.oid = p.pronamespace
 where p.prokind in ('f', 'p', 'w') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'

union all
select 'pg_proc'::regclass, p.oid, 'aggregate',
       format('%I.%I(%s)', n.nspname, p.proname,
              coalesce(nullif(pg_get_function_identity_arguments(p.oid), ''), '*')),
       format(E'create aggregate %I.%I(%s) (\n    sfunc = %s,\n    stype = %s', n.nspname,
              p.proname, coalesce(nullif(pg_get_function_arguments(p.oid), ''), '*'),
              a.aggtransfn::regproc, format_type(a.aggtranstype, null))
       || case when a.aggtransspace <> 0 then E',\n    sspace = ' || a.aggtransspace else '' end
       || case when a.aggfinalfn <> 0 then E',\n    finalfunc = ' || a.aggfinalfn::regproc
               else '' end
       || case when a.aggfinalextra then E',\n    finalfunc_extra' else '' end
       || case when a.aggfinalfn <> 0 then E',\n    finalfunc_modify = ' ||
               case a.aggfinalmodify when 'r' then 'read_only' when 's' then 'shareable'
                    else 'read_write' end else '' end
       || case when a.aggcombinefn <> 0 then E',\n    combinefunc = ' || a.aggcombinefn::regproc
               else '' end
       || case when a.aggserialfn <> 0 then E',\n    serialfunc = ' || a.aggserialfn::regproc
               else '' end
       || case when a.aggdeserialfn <> 0 then E',\n    deserialfunc = '
               || a.aggdeserialfn::regproc else '' end
       || coalesce(E',\n    initcond = ' || quote_literal(a.agginitval), '')
       || case when a.aggmtransfn <> 0 then
               E',\n    msfunc = ' || a.aggmtransfn::regproc
               || E',\n    minvfunc = ' || a.aggminvtransfn::regproc
               || E',\n    mstype = ' || format_type(a.aggmtranstype, null)
               || case when a.aggmfinalfn <> 0 then E',\n    mfinalfunc = '
                       || a.aggmfinalfn::regproc else '' end
               || coalesce(E',\n    minitcond = ' || quote_literal(a.aggminitval), '')
               else '' end
       || case when a.aggsortop <> 0 then E',\n    sortop = operator('
               || a.aggsortop::regoper || ')' else '' end
       || case when a.aggkind = 'h' then E',\n    hypothetical' else '' end
       || case p.proparallel when 's' then E',\n    parallel = safe'
               when 'r' then E',\n    parallel = restricted' else '' end
       || E'\n);',
       obj_description(p.oid, 'pg_proc')
  from pg_proc as p
  join pg_aggregate as a on a.aggfnoid = p.oid
  join pg_namespace as n on n.oid = p.pronamespace
 where n.nspname !~ '^pg_'

union all
select 'pg_operator'::regclass, o.oid, 'operator',
       format('%I.%s (%s, %s)', n.nspname, o.oprname,
              coalesce(nullif(format_type(o.oprleft, null), '-'), 'none'),
              format_type(o.oprright, null)),
       format(E'create operator %I.%s (\n    function = %s', n.nspname, o.oprname,
              o.oprcode::regproc)
       || case when o.oprleft <> 0 then E',\n    leftarg = ' || format_type(o.oprleft, null)
               else '' end
       || E',\n    rightarg = ' || format_type(o.oprright, null)
       || case when o.oprcom <> 0 then E',\n    commutator = operator(' || o.oprcom::regoper || ')'
               else '' end
       || case when o.oprnegate <> 0 then E',\n    negator = operator(' || o.oprnegate::regoper
               || ')' else '' end
       || case when o.oprrest <> 0 then E',\n    restrict = ' || o.oprrest::regproc else '' end
       || case when o.oprjoin <> 0 then E',\n    join = ' || o.oprjoin::regproc else '' end
       || case when o.oprcanhash then E',\n    hashes' else '' end
       || case when o.oprcanmerge then E',\n    merges' else '' end
       || E'\n);',
       obj_description(o.oid, 'pg_operator')
  from pg_operator as o
  join pg_namespace as n on n.oid = o.oprnamespace
 where n.nspname !~ '^pg_' and o.oprcode <> 0

union all
select 'pg_cast'::regclass, c.oid, 'cast',
       format('(%s as %s)', format_type(c.castsource, null), format_type(c.casttarget, null)),
       format('create cast (%s as %s) %s%s;', format_type(c.castsource, null),
              format_type(c.casttarget, null),
              case c.castmethod when 'f' then 'with function ' || c.castfunc::regprocedure
                   when 'i' then 'with inout' else 'without function' end,
              case c.castcontext when 'a' then ' as assignment' when 'i' then ' as implicit'
                   else '' end),
       obj_description(c.oid, 'pg_cast')
  from pg_cast as c
 where c.oid >= 16384

union all
select 'pg_event_trigger'::regclass, e.oid, 'event trigger', quote_ident(e.evtname),
       format('create event trigger %I on %s', e.evtname, e.evtevent)
       || coalesce(E'\n    when tag in (' || (
              select string_agg(quote_literal(tag), ', ') from unnest(e.evttags) as tag) || ')', '')
       || format(E'\n    execute function %s();', e.evtfoid::regproc)
       || case e.evtenabled when 'D' then format(E'\nalter event trigger %I disable;', e.evtname)
               when 'R' then format(E'\nalter event trigger %I enable replica;', e.evtname)
               when 'A' then format(E'\nalter event trigger %I enable always;', e.evtname)
               else '' end,
       obj_description(e.oid, 'pg_event_trigger')
  from pg_event_trigger as e
