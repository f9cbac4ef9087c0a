"""What a database's catalog holds, as sorted lines that two databases can be compared by."""

from __future__ import annotations

from negspace import database
from negspace.database import Connection

# Rights as (who, what), whatever their order; defaults written out, so that they compare.
_RIGHTS = """
    select coalesce(string_agg(g.grantee::regrole::text || '=' || g.privilege_type, ' '
                               order by g.grantee::regrole::text, g.privilege_type), '')
    from aclexplode"""

_SNAPSHOT = f"""
    with relation as (
        select c.*, c.oid::regclass::text as name from pg_class c
        where c.relnamespace = 'public'::regnamespace
    )
    select 'schema' as kind, n.nspname::text as name,
           ({_RIGHTS} (coalesce(n.nspacl, acldefault('n', n.nspowner))) g) as definition
    from pg_namespace n where n.nspname = 'public'
    union all
    select 'relation', name,
           concat_ws(' ', relkind, relpersistence, relowner::regrole, reloptions,
                     relrowsecurity, relforcerowsecurity,
                     pg_get_expr(relpartbound, oid), pg_get_partkeydef(oid),
                     obj_description(oid, 'pg_class'),
                     ({_RIGHTS} (coalesce(relacl, acldefault('r', relowner))) g))
    from relation where relkind <> 't'
    union all
    select 'column', r.name || '.' || a.attname,
           concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
                     a.attgenerated, a.attstorage, pg_get_expr(d.adbin, d.adrelid),
                     col_description(r.oid, a.attnum),
                     ({_RIGHTS} (a.attacl) g))
    from relation r join pg_attribute a on a.attrelid = r.oid
    left join pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
    where r.relkind in ('r', 'p', 'v') and a.attnum > 0 and not a.attisdropped
    union all
    select 'index', c.name, pg_get_indexdef(c.oid) from relation c where relkind in ('i', 'I')
    union all
    select 'view', c.name, pg_get_viewdef(c.oid) from relation c where relkind = 'v'
    union all
    select 'constraint', conrelid::regclass::text || '.' || conname,
           concat_ws(' ', pg_get_constraintdef(oid), convalidated, obj_description(oid))
    from pg_constraint where connamespace = 'public'::regnamespace and contype <> 't'
    union all
    select 'trigger', r.name || '.' || t.tgname,
           concat_ws(' ', pg_get_triggerdef(t.oid), t.tgenabled, obj_description(t.oid))
    from pg_trigger t join relation r on r.oid = t.tgrelid where not t.tgisinternal
    union all
    select 'policy', r.name || '.' || p.polname,
           concat_ws(' ', p.polcmd, p.polpermissive, p.polroles::regrole[],
                     pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid),
                     obj_description(p.oid, 'pg_policy'))
    from pg_policy p join relation r on r.oid = p.polrelid
    union all
    select 'function', p.oid::regprocedure::text,
           concat_ws(' ', pg_get_functiondef(p.oid), p.proowner::regrole,
                     obj_description(p.oid, 'pg_proc'),
                     ({_RIGHTS} (coalesce(p.proacl, acldefault('f', p.proowner))) g))
    from pg_proc p where p.pronamespace = 'public'::regnamespace
    union all
    select 'type', t.typname,
           concat_ws(' ', obj_description(t.oid, 'pg_type'),
                     (select string_agg(enumlabel, ',' order by enumsortorder)
                      from pg_enum where enumtypid = t.oid))
    from pg_type t where t.typnamespace = 'public'::regnamespace
    union all
    select 'extension', extname, '' from pg_extension
    union all
    select 'schema', nspname, '' from pg_namespace
    where nspname !~ '^pg_(toast_)?temp' and nspname <> 'public'"""


def snapshot(connection: Connection) -> list[tuple[str, str, str]]:
    """Every object of the schema with its definition, comment, owner and rights."""
    connection.execute("set local timezone to 'UTC'")
    found = database.rows(connection, _SNAPSHOT)
    return sorted((row["kind"], row["name"], row["definition"]) for row in found)
