-- An index that no query uses, as benchmarks/queries.py shows.

-- A relation's newest seal is one of the last few seals, whichever the relation: read backwards,
-- the primary key has it at once, and the planner never chose this one.
-- negspace: allow require-concurrent-index-deletion because seals are few, one for a thousand rows
drop index audit_seals_relation_number_idx;

comment on index audit_seals_pkey is 'One seal; the newest ones, of a relation too: seal_audit().';
