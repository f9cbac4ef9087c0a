-- The times are the server's: the run's clock may differ.
insert into public.negspace_migrations (
    run_id, batch, version, name, direction, status, checksum, checksum_algorithm,
    bytes_sha256, started_at, completed_at, rolled_back_at, duration_ms, error_message,
    sqlstate, host, tool_version, metadata
) select
    %(run_id)s, entry.batch, entry.version, entry.name, entry.direction, entry.status,
    entry.checksum, entry.checksum_algorithm, entry.bytes_sha256,
    ended.at - entry.duration_ms * interval '1 millisecond',
    case when entry.status <> 'running' then ended.at end,
    case when entry.status = 'rolled_back' then ended.at end,
    case when entry.status <> 'running' then entry.duration_ms end,
    entry.error_message, entry.sqlstate, %(host)s, %(tool_version)s, entry.metadata
  from (select clock_timestamp() as now) as clock,
       rows from (
           jsonb_to_recordset(%(rows)s) as (
               batch integer, version text, name text, direction text, status text,
               checksum text, checksum_algorithm text, bytes_sha256 text,
               duration_ms double precision, ago_ms double precision, error_message text,
               sqlstate text, metadata jsonb
           )
       ) with ordinality as entry,
       lateral (select clock.now - entry.ago_ms * interval '1 millisecond' as at) as ended
 order by entry.ordinality
