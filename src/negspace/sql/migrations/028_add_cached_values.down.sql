-- The cached values and how often they answered are lost.

drop function analyze_parent(text);
drop function end_upkeep(text, uuid, bigint, text);
drop function begin_upkeep(text, interval, interval, text);
drop table upkeep_steps;
drop function purge_cached_values(text, integer);
drop function trim_cache(bigint, integer);
drop function trim_cached_values(bigint, integer);
drop function cleanup_cached_values(integer);
drop function count_cached_value_uses(text[], bigint[], bigint, bigint);
drop function renew_cached_value(text, uuid, interval);
drop function store_cached_value(text, uuid, jsonb, interval, interval);
drop function find_cached_value(text, interval, interval, text);
drop table cached_value_uses;
drop table cached_value_leases;
drop table cached_values;
