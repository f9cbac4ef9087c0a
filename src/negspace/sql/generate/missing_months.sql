-- Monthly partitions that ensure_partitions() left out: retention has let them go, or they are far ahead.
select format('%%s_%%s', p.parent, to_char(m.month, 'YYYYMM')) as name
from unnest(array['security_audit', 'audit_log_details', 'performance_metrics', 'processing_queue_ended']) as p (parent)
cross join generate_series(date_trunc('month', %(since)s at time zone 'UTC'), %(until)s at time zone 'UTC', interval '1 month') as m (month)
where to_regclass(format('public.%%s_%%s', p.parent, to_char(m.month, 'YYYYMM'))) is null
order by 1
