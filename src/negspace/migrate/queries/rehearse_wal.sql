select pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_catalog.pg_lsn as at
