-- The number that a table's next row gets.
select case when s.last_value is null then s.start_value else s.last_value + s.increment_by end as next
from pg_sequences s
where format('%%I.%%I', s.schemaname, s.sequencename)::regclass = pg_get_serial_sequence('public.' || %(table)s, 'id')::regclass
