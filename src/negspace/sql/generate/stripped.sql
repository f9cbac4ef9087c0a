-- What is taken off the tables while rows are copied in bulk, and put back after it: foreign
-- keys, indexes (those behind constraints stay), triggers that an INSERT fires, the force of row
-- security. Each row has
-- the statement that takes it off and the one that puts it back as it was.
with given as (
    select t.name, t.place, ('public.' || t.name)::regclass as relation
    from unnest(%(tables)s::text[]) with ordinality as t (name, place)
), relations as (
    select g.name, g.place, g.relation from given g
    union
    select g.name, g.place, p.relid from given g, pg_partition_tree(g.relation) p
), keys as (
    select g.name, g.place, 3 as turn,
           format('alter table %%s drop constraint %%I', g.relation, c.conname) as off,
           format('alter table %%s add constraint %%I %%s', g.relation, c.conname, pg_get_constraintdef(c.oid)) as back,
           format('comment on constraint %%I on %%s is %%L', c.conname, g.relation, obj_description(c.oid, 'pg_constraint')) as said,
           obj_description(c.oid, 'pg_constraint') is not null as has_comment,
           c.conname::text as object
    from given g
    join pg_constraint c on c.conrelid = g.relation and c.contype = 'f' and c.conparentid = 0
), indexes as (
    -- an index of a partition goes and comes with the one above it
    select r.name, r.place, 1 as turn,
           format('drop index %%s', i.indexrelid::regclass),
           replace(pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON '),
           format('comment on index %%s is %%L', i.indexrelid::regclass, obj_description(i.indexrelid, 'pg_class')),
           obj_description(i.indexrelid, 'pg_class') is not null,
           i.indexrelid::regclass::text
    from relations r
    join pg_index i on i.indrelid = r.relation
    where not exists (select from pg_inherits h where h.inhrelid = i.indexrelid)
      and not exists (select from pg_constraint c where c.conindid = i.indexrelid and c.contype in ('p', 'u', 'x'))
), triggers as (
    -- those of partitions too that have not come from above
    select r.name, r.place, 2 as turn,
           case when b.each_row then format('drop trigger %%I on %%s', t.tgname, r.relation)
                else format('alter table %%s disable trigger %%I', r.relation, t.tgname) end,
           case when b.each_row then pg_get_triggerdef(t.oid) || '; ' else '' end
               || format('alter table %%s enable %%s trigger %%I', r.relation,
                         case t.tgenabled when 'A' then 'always' when 'R' then 'replica' else '' end, t.tgname),
           format('comment on trigger %%I on %%s is %%L', t.tgname, r.relation, obj_description(t.oid, 'pg_trigger')),
           b.each_row and obj_description(t.oid, 'pg_trigger') is not null, t.tgname::text
    from relations r
    join pg_trigger t on t.tgrelid = r.relation
    -- with one before each row, even one that is off, COPY writes row by row instead of page by page
    cross join lateral (select t.tgtype & 3 = 3 as each_row) b
    where not t.tgisinternal and t.tgparentid = 0 and t.tgenabled <> 'D' and t.tgtype & 4 = 4
), everything as (
    select * from keys
    union all select * from indexes
    union all select * from triggers
    union all
    -- COPY doesn't go through policies, and the owner is held by forced ones
    select g.name, g.place, 2, format('alter table %%s no force row level security', g.relation),
           format('alter table %%s force row level security', g.relation), '', false, 'row security'
    from given g
    join pg_class c on c.oid = g.relation and c.relforcerowsecurity
    union all
    -- between indexes and keys, which are checked by joins: those want to be planned well
    select name, place, 2, 'select', format('analyze %%s', relation), '', false, '' from given
)
select name as "table", object, off, back, case when has_comment then said end as said
from everything
order by turn, place, object
