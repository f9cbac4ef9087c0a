-- Removes the seals and the leaf hashes. Lost with them: the proof that no event was changed;
-- anchor files remain, and have nothing to be compared with. No event is lost.

drop function seal_audit(integer, integer);
drop function seal_audit_relation(text, integer, integer);
drop function next_audit_seal(audit_seals, bigint, xid8, integer);
drop function foreign_audit_rows(audit_seals);
drop function newest_audit_seal(text);
drop function audit_seal_hash(audit_seals);
drop function merkle_root(bytea[]);
drop sequence audit_seals_seen;
drop table audit_seals;

drop trigger audit_log_details_hash on audit_log_details;
drop trigger security_audit_hash on security_audit;
drop function hash_audit_row();
drop function audit_leaf(audit_log_details);
drop function audit_leaf(security_audit);

alter table audit_log_details
    drop column leaf_hash,
    drop column recorded_in;
alter table security_audit
    drop column leaf_hash,
    drop column recorded_in;
