"""The database as the services see it: connections, a pool, transactions, errors.

The only package that imports psycopg. Everything runs in ``Database.transaction()``: it
commits when the block ends, rolls back when it raises, states who acts (for the audit
trail), and turns what PostgreSQL raises into ``negspace.errors``.

    address      what the settings name, as connection strings
    connection   one connection: opened, and asked
    watch        how it notices that nobody is there any more
    failure      what PostgreSQL raised
    pool         transactions of one actor
    repeating    trying again, while servers fail over
"""

from __future__ import annotations

from psycopg import sql
from psycopg.types.json import Jsonb

from negspace.database.address import (
    conninfo,
    in_database,
    libpq_environment,
    replica_conninfo,
    with_password_of,
)
from negspace.database.connection import (
    Answer,
    Connection,
    Query,
    Row,
    connect,
    examined,
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
    Proof,
    program_agent,
)
from negspace.database.repeating import again, is_transient
from negspace.database.watch import CONNECT_TIMEOUT

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
    "Proof",
    "Query",
    "Row",
    "again",
    "attempt",
    "connect",
    "conninfo",
    "diagnosis",
    "examined",
    "execute",
    "in_database",
    "is_transient",
    "libpq_environment",
    "only",
    "ping",
    "program_agent",
    "replica_conninfo",
    "rows",
    "sql",
    "translate",
    "translated",
    "with_password_of",
]
