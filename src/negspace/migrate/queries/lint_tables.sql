-- The tables that pending migrations name, partitions summed up under the table they are of.
select n.nspname::text                                   as schema,
       c.relname::text                                   as name,
       pg_table_is_visible(c.oid)                        as visible,
       sum(pg_table_size(leaf.oid))::bigint              as bytes,
       sum(pg_relation_size(leaf.oid))::bigint           as heap_bytes,
       sum(greatest(p.reltuples, s.n_live_tup, 0))::bigint as rows,
       sum(coalesce(s.n_tup_ins + s.n_tup_upd + s.n_tup_del, 0))::bigint as writes,
       sum(coalesce(s.seq_scan, 0) + coalesce(s.idx_scan, 0))::bigint    as reads
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
 cross join lateral (
       select relid::oid as oid from pg_partition_tree(c.oid) union select c.oid) as leaf
  join pg_class as p on p.oid = leaf.oid
  left join pg_stat_all_tables as s on s.relid = leaf.oid
 where c.relname = any (%(tables)s) and c.relkind in ('r', 'p', 'm')
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
 group by n.nspname, c.relname, c.oid
