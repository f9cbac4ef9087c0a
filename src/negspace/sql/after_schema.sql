
-- The partitions of the months are made by a function and are no part of the schema; without
-- this month's, nothing can be inserted.
select public.ensure_partitions();

-- Views show what their reader may see; on PostgreSQL 14 they are the operator's.
select public.guard_views();

-- The key under the seal of who acts, of this database alone.
select public.renew_context_secret();

-- What operator_role is: the rights of app_user, on all rows.
do $$
begin
    if not pg_catalog.pg_has_role('operator_role', 'app_user', 'usage') then
        grant app_user to operator_role;
    end if;
end
$$;
