-- The condition that sends a row of a partitioned table to each of its leaves.
select p.oid                                        as relation,
       pg_get_partition_constraintdef(leaf.relid)   as expression
  from pg_class as p
 cross join lateral pg_partition_tree(p.oid) as leaf
 where p.relkind = 'p' and not p.relispartition and leaf.isleaf and leaf.relid >= 16384
   and leaf.relid <> p.oid
 order by p.oid, leaf.relid
