insert into public.negspace_migrations_journal
       (run_id, migration, direction, unit, event, checksum, statement, before, decided_by)
values (%(run_id)s, %(migration)s, %(direction)s, %(unit)s, %(event)s, %(checksum)s,
        %(statement)s, %(before)s, %(decided_by)s)
