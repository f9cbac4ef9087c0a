-- Removes holds and retention. Lost with them: which holds were placed, and which months have
-- left; their events stay in the audit trail. What has left does not come back.

drop function retire_audit_month(timestamptz, bigint, bytea, text);
drop function refuse_audit_retirement(timestamptz, bigint, bytea);
drop function release_audit_hold(bigint, text);
drop function hold_audit(text, timestamptz, timestamptz);
drop table audit_retirements;
drop table audit_holds;
