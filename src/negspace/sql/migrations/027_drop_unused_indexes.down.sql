-- The index as it was.

-- negspace: allow require-concurrent-index-creation because the table has a row per thousand events
create index audit_seals_relation_number_idx on audit_seals (relation, number desc);
comment on index audit_seals_relation_number_idx is 'Where a relation''s newest seal ends; seal_audit().';

comment on index audit_seals_pkey is 'One seal; the newest one.';
