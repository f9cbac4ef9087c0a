-- @finished
insert into pgboss.job (name, data, state, started_on, completed_on, policy)
select 'nothing', '{}', 'completed', now() - interval '1 minute', now() - interval '1 minute', 'standard'
from generate_series(1, %(n)s)
-- @dead
insert into pgboss.job (name, data, policy) select 'nothing', '{}', 'standard' from generate_series(1, %(n)s)
-- @dead
delete from pgboss.job where state = 'created'
-- @done
select count(*) as n from pgboss.job where state = 'completed' and completed_on > now() - interval '1 minute'
