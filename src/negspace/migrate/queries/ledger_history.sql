-- The newest rows first; a running row that a later row of its run closed says nothing more.
select id, run_id, batch, version, name, direction, status, duration_ms, error_message,
       sqlstate, started_at, completed_at, rolled_back_at, executed_by, host, tool_version,
       checksum, checksum_algorithm, metadata
  from public.negspace_migrations as entry
 where status <> 'running'
    or not exists (
        select from public.negspace_migrations as later
         where later.run_id = entry.run_id and later.name = entry.name and later.id > entry.id
    )
 order by id desc
 limit %(count)s
