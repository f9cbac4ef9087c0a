-- What gives an empty table new files in this transaction, which COPY needs to write frozen rows;
-- no row where it is none of its own (its rows lie in partitions). CLUSTER keeps what there is, if there should be something.
select format('cluster %%s using %%I', c.oid::regclass, x.relname) as renew,
       format('alter table %%s set without cluster', c.oid::regclass) as forget
from pg_class c
join pg_index i on i.indrelid = c.oid and i.indisprimary
join pg_class x on x.oid = i.indexrelid
where c.oid = to_regclass(%(name)s) and c.relkind = 'r'
