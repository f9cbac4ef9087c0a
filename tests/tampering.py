"""Sealing for tests, and what somebody with every right can do to an audit trail."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import LiteralString

from negspace import audit
from negspace import database as db
from negspace.database import Connection, Database
from schema_waiting import DEADLINE

TABLES: tuple[LiteralString, ...] = ("security_audit", "audit_log_details", "audit_seals")


def settle(database: Database) -> None:
    """Wait until no older transaction runs: other tests have some, in other databases."""
    with database.transaction() as connection:
        row = db.only(connection, "select pg_current_xact_id()::text as xid")
    done = "select pg_snapshot_xmin(pg_current_snapshot()) > %s::text::xid8 as done"
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        with database.transaction() as connection:
            found = db.only(connection, done, [row["xid"] if row else None])
        if found and found["done"]:
            return
        time.sleep(0.02)
    raise TimeoutError("an older transaction runs and runs")


def seal_all(database: Database) -> int:
    """Seal everything that is committed."""
    settle(database)
    return audit.seal(database)


@contextmanager
def master(address: str) -> Generator[Connection]:
    """A superuser's connection for which no trigger of the audit trail fires."""
    with db.connect(address) as connection:
        for table in TABLES:
            connection.execute("alter table " + table + " disable trigger user")
        yield connection
        for table in TABLES:
            connection.execute("alter table " + table + " enable trigger user")
        for row in db.rows(
            connection,
            "select format('alter table %s enable always trigger %I', c.oid::regclass, t.tgname)"
            " as again from pg_trigger t join pg_class c on c.oid = t.tgrelid"
            " where (c.relname like 'security_audit%' or c.relname like 'audit_%')"
            " and t.tgname ~ '(_append_only|_no_truncate|_hash)$'",
        ):
            connection.execute(row["again"].encode())


def rewrite(connection: Connection) -> None:
    """Forget all seals, and hash every row as it is now: all fits again."""
    connection.execute("delete from audit_seals")
    connection.execute("update security_audit a set leaf_hash = audit_leaf(a)")
    connection.execute("update audit_log_details d set leaf_hash = audit_leaf(d)")
    connection.execute("select setval('audit_seals_seen', 0)")
