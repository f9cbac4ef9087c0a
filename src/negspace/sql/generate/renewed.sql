-- What gives a table new files in this transaction, without which COPY writes no frozen rows; no
-- row where its rows lie in partitions. CLUSTER loses nothing, should there be rows after all.
select format('cluster %%s using %%I', c.oid::regclass, x.relname) as renew,
       format('alter table %%s set without cluster', c.oid::regclass) as forget
from pg_class c
join pg_index i on i.indrelid = c.oid and i.indisprimary
join pg_class x on x.oid = i.indexrelid
where c.oid = to_regclass(%(name)s) and c.relkind = 'r'
