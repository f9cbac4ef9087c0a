"""The database as the services see it: connections, a pool, transactions, errors.

The only package that imports psycopg. Everything runs in ``Database.transaction()``: it
commits when the block ends, rolls back when it raises, states who acts (for the audit
trail), and turns what PostgreSQL raises into ``negspace.errors``.

    address      what the settings name, as connection strings
    connection   one connection: opened, and asked
    failure      what PostgreSQL raised
    pool         transactions of one actor
"""

from __future__ import annotations

from psycopg import sql
from psycopg.types.json import Jsonb

from negspace.database.address import (
    conninfo,
    in_database,
    libpq_environment,
    with_password_of,
)
from negspace.database.connection import (
    CONNECT_TIMEOUT,
    Answer,
    Connection,
    Query,
    Row,
    connect,
    only,
    ping,
    rows,
)
from negspace.database.failure import (
    Diagnosis,
    Executed,
    attempt,
    diagnosis,
    execute,
    translate,
    translated,
)
from negspace.database.pool import (
    Actor,
    Database,
    PoolSize,
    program_agent,
)

__all__ = [
    "CONNECT_TIMEOUT",
    "Actor",
    "Answer",
    "Connection",
    "Database",
    "Diagnosis",
    "Executed",
    "Jsonb",
    "PoolSize",
    "Query",
    "Row",
    "attempt",
    "connect",
    "conninfo",
    "diagnosis",
    "execute",
    "in_database",
    "libpq_environment",
    "only",
    "ping",
    "program_agent",
    "rows",
    "sql",
    "translate",
    "translated",
    "with_password_of",
]
