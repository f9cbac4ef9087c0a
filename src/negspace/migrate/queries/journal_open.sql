-- What migrations that never ended have got done, in the order it happened.
select entry.id, entry.run_id, entry.migration, entry.direction, entry.unit, entry.event,
       entry.checksum, entry.statement, entry.before, entry.decided_by, entry.at
  from public.negspace_migrations_journal as entry
 where entry.event <> 'settled'
   and not exists (
        select from public.negspace_migrations_journal as later
         where later.migration = entry.migration and later.event = 'settled'
           and later.id > entry.id
    )
 order by entry.id
