-- What a batch reads is the planner's choice again.

alter function next_audit_seal(audit_seals, bigint, xid8, integer) reset enable_seqscan;
alter function next_audit_seal(audit_seals, bigint, xid8, integer) reset enable_bitmapscan;
alter function next_audit_seal(audit_seals, bigint, xid8, integer) reset enable_sort;
