-- Views, materialized views and sequences, a row each; tables have queries of their own.
select 'pg_class'::regclass::oid as classid,
       c.oid                     as objid,
       case c.relkind when 'v' then 'view' else 'materialized view' end as kind,
       format('%I.%I', n.nspname, c.relname) as name,
       format('create %s %I.%I', case c.relkind when 'v' then 'view'
                                      else 'materialized view' end, n.nspname, c.relname)
       || case when am.amname <> 'heap' then ' using ' || quote_ident(am.amname) else '' end
       || coalesce(' with (' || (
              select string_agg(o.option_name || ' = ' || quote_literal(o.option_value), ', '
                                order by o.option_name)
                from pg_options_to_table(c.reloptions) as o
               where o.option_name <> 'security_invoker') || ')', '')
       || E' as\n' || rtrim(rtrim(pg_get_viewdef(c.oid, true)), ';')
       || case c.relkind when 'm' then E'\nwith no data;' else ';' end
       -- An option that PostgreSQL 14 lacks: the view loads there all the same.
       || coalesce((
              select format(E'\ndo $do$ begin if current_setting(''server_version_num'')::integer '
                            '>= 150000 then alter view %I.%I set (security_invoker = %L); '
                            'end if; end $do$;', n.nspname, c.relname, o.option_value)
                from pg_options_to_table(c.reloptions) as o
               where o.option_name = 'security_invoker'), '') as definition,
       obj_description(c.oid, 'pg_class') as comment,
       c.relkind = 'm' and c.relispopulated as populated
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  left join pg_am as am on am.oid = c.relam
 where c.relkind in ('v', 'm') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'

union all
select 'pg_class'::regclass, c.oid, 'sequence', format('%I.%I', n.nspname, c.relname),
       format('create %ssequence %I.%I as %s', case c.relpersistence when 'u' then 'unlogged '
              else '' end, n.nspname, c.relname, format_type(s.seqtypid, null))
       || case when s.seqincrement <> 1 then ' increment by ' || s.seqincrement else '' end
       || case when s.seqmin <> case when s.seqincrement > 0 then 1 else bounds.low end
               then ' minvalue ' || s.seqmin else '' end
       || case when s.seqmax <> case when s.seqincrement > 0 then bounds.high else -1 end
               then ' maxvalue ' || s.seqmax else '' end
       || case when s.seqstart <> case when s.seqincrement > 0 then s.seqmin else s.seqmax end
               then ' start with ' || s.seqstart else '' end
       || case when s.seqcache <> 1 then ' cache ' || s.seqcache else '' end
       || case when s.seqcycle then ' cycle' else '' end || ';',
       obj_description(c.oid, 'pg_class'), false
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  join pg_sequence as s on s.seqrelid = c.oid
 cross join lateral (
     select case s.seqtypid when 'int2'::regtype then -32768
                            when 'int4'::regtype then -2147483648
                            else -9223372036854775808 end,
            case s.seqtypid when 'int2'::regtype then 32767
                            when 'int4'::regtype then 2147483647
                            else 9223372036854775807 end
 ) as bounds (low, high)
 where n.nspname !~ '^pg_'
   and not exists (
       select from pg_depend as d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'i')

union all
select 'pg_publication'::regclass, p.oid, 'publication', quote_ident(p.pubname),
       format('create publication %I%s with (publish = %L%s);', p.pubname,
              case when p.puballtables then ' for all tables' else coalesce(' for table ' || (
                  select string_agg(r.prrelid::regclass::text, ', '
                                    order by r.prrelid::regclass::text collate "C")
                    from pg_publication_rel as r where r.prpubid = p.oid), '') end,
              concat_ws(', ', case when p.pubinsert then 'insert' end,
                        case when p.pubupdate then 'update' end,
                        case when p.pubdelete then 'delete' end,
                        case when p.pubtruncate then 'truncate' end),
              case when p.pubviaroot then ', publish_via_partition_root = true' else '' end),
       obj_description(p.oid, 'pg_publication'), false
  from pg_publication as p
