-- Hours that are rolled up already and got samples.
insert into metric_changes (hour)
select distinct date_trunc('hour', m.recorded_at, 'UTC')
from rollup_progress p
join performance_metrics m on m.id >= %(first)s and m.recorded_at < p.closed_through
where p.table_name = 'performance_metrics'
