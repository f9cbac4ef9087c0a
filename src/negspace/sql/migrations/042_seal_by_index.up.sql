-- A batch that is sealed is what comes next in the index, whatever the planner thinks of a month
-- that grows faster than its statistics: it would read and sort all that is left, for each batch.


alter function next_audit_seal(audit_seals, bigint, xid8, integer) set enable_seqscan = off;
alter function next_audit_seal(audit_seals, bigint, xid8, integer) set enable_bitmapscan = off;
alter function next_audit_seal(audit_seals, bigint, xid8, integer) set enable_sort = off;
