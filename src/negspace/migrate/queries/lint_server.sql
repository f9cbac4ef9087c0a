-- What the rules need of the server: how long its counters run, and whose lock time-out holds.
select extract(epoch from now() - coalesce(
           (select stats_reset from pg_stat_database where datname = current_database()),
           pg_postmaster_start_time()))::float8          as seconds,
       current_setting('lock_timeout') <> '0'            as lock_timeout,
       current_setting('server_version_num')::int        as version
