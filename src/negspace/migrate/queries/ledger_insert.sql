-- The times are the server's: the run's clock may differ.
insert into public.negspace_migrations (
    run_id, batch, version, name, direction, status, checksum, checksum_algorithm,
    bytes_sha256, started_at, completed_at, rolled_back_at, duration_ms, error_message,
    sqlstate, host, tool_version, metadata
) select
    %(run_id)s, %(batch)s, %(version)s, %(name)s, %(direction)s, %(status)s, %(checksum)s,
    %(checksum_algorithm)s, %(bytes_sha256)s,
    clock.now - %(duration_ms)s * interval '1 millisecond',
    case when %(status)s <> 'running' then clock.now end,
    case when %(status)s = 'rolled_back' then clock.now end,
    case when %(status)s <> 'running' then %(duration_ms)s end,
    %(error_message)s, %(sqlstate)s, %(host)s, %(tool_version)s, %(metadata)s
  from (select clock_timestamp() as now) as clock
