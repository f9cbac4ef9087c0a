-- After each migration in a run's transaction its deferred checks are made, so that they are
-- its own failures, and that no pending event stops a later ALTER TABLE. Then the deferred
-- constraints are deferred again, for the next migration.
set constraints all immediate;
do $$
declare
    deferred record;
begin
    -- Few schemas have any: planning the join below costs more than all the rest.
    if not exists (select from pg_catalog.pg_constraint where condeferred) then
        return;
    end if;
    for deferred in
        select distinct n.nspname, c.conname
          from pg_catalog.pg_constraint as c
          join pg_catalog.pg_namespace as n on n.oid operator(pg_catalog.=) c.connamespace
         where c.condeferred
    loop
        execute pg_catalog.format(
            'set constraints %I.%I deferred', deferred.nspname, deferred.conname
        );
    end loop;
end
$$;
