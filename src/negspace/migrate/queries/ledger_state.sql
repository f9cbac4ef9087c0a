-- Where each migration stands: its last row, and the last one that applied or undid it.
with settled as (
    select distinct on (name)
           name, id, status = 'success' as applied, batch, checksum, checksum_algorithm,
           bytes_sha256, completed_at, duration_ms
      from public.negspace_migrations
     where status in ('success', 'rolled_back')
     order by name, id desc
), latest as (
    select distinct on (name) name, id, version, status, batch, completed_at, error_message
      from public.negspace_migrations
     order by name, id desc
)
select latest.name,
       latest.version,
       latest.id                          as last_id,
       latest.status                      as last_status,
       latest.error_message               as last_error,
       coalesce(settled.applied, false)   as applied,
       coalesce(settled.id, 0)            as settled_id,
       coalesce(settled.batch, latest.batch) as batch,
       settled.checksum,
       settled.checksum_algorithm,
       settled.bytes_sha256,
       settled.completed_at               as applied_at,
       settled.duration_ms,
       (select coalesce(max(batch), 0) from settled)     as last_batch
  from latest
  left join settled using (name);
