-- Which migrations a database has, told to the services: their role may not read the ledger,
-- and a program has to see at its start whether the schema is the one that it is for.


create function applied_migrations() returns text[]
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    -- The ledger is the runner's: a schema that psql loaded has none.
    if to_regclass('public.negspace_migrations') is null then
        return null;
    end if;
    return array(
        select s.name
        from (select distinct on (m.name) m.name, m.status
              from public.negspace_migrations m
              where m.status in ('success', 'rolled_back')
              order by m.name, m.id desc) s
        where s.status = 'success'
        order by s.name);
end
$$;
comment on function applied_migrations() is
    'The migrations that are applied, by name; null where the database has no ledger of them.';
revoke execute on function applied_migrations() from public;
grant execute on function applied_migrations() to app_user;
