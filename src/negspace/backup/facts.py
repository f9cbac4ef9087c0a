"""What a database holds at one moment: counted and hashed, to be found again in a restore."""

from __future__ import annotations

from typing import Final, LiteralString

from negspace.audit import seals
from negspace.backup.manifest import Facts, Table
from negspace.database import Connection, only, rows, sql, translated
from negspace.migrate import fingerprint
from negspace.migrate.ledger import Ledger

# Unlogged tables are empty after a crash, and in a physical copy: nothing is promised of them.
_TABLES: Final[LiteralString] = (
    "select n.nspname as schema, c.relname as name"
    " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
    " where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence = 'p'"
    " and n.nspname !~ '^pg_' and n.nspname <> 'information_schema' order by 1, 2"
)
# Nothing of the server's or the role's settings may change how a row is written.
_PLAIN: Final[LiteralString] = (
    "set local timezone = 'UTC'; set local datestyle = 'ISO'; set local intervalstyle = 'iso_8601';"
    " set local bytea_output = 'hex'; set local extra_float_digits = 1; set local search_path = ''"
)


def read(connection: Connection) -> Facts:
    """Count and hash everything in the connection's transaction, best one of REPEATABLE READ.

    Raises:
        NegspaceError: What PostgreSQL refused.
    """
    with translated():
        migrations = [row.name for row in Ledger(connection).standing().applied]
        printed = fingerprint.of_database(connection)
        last = None
        if _there(connection, "public.audit_seals"):
            last = seals.newest(connection)
        connection.execute(_PLAIN)
        tables = {
            f"{schema}.{name}": _table(connection, schema, name)
            for schema, name in table_names(connection)
        }
    return Facts(
        migrations=tuple(migrations),
        fingerprint=printed,
        tables=tables,
        seals=last.number if last else 0,
        last_seal=last.seal_hash if last else None,
    )


def table_names(connection: Connection) -> list[tuple[str, str]]:
    """The logged tables, partitions left out, as schema and name."""
    return [(row["schema"], row["name"]) for row in rows(connection, _TABLES)]


def file_paths_query(connection: Connection) -> LiteralString | None:
    """The query for the paths of all files that rows name; None where there is no such table."""
    if not _there(connection, "public.analysis_results"):
        return None
    return (
        "select file_path as path from public.images union"
        " select visualization_path from public.analysis_results"
        " where visualization_path is not null"
    )


def differences(expected: Facts, found: Facts) -> list[str]:
    """What a restored database holds otherwise than it should, a sentence each."""
    said: list[str] = []
    if expected.migrations != found.migrations:
        said.append(
            f"the ledger has {len(found.migrations)} migrations as applied,"
            f" not {len(expected.migrations)}"
        )
    for name in sorted({*expected.tables, *found.tables}):
        before, after = expected.tables.get(name), found.tables.get(name)
        if before is None or after is None:
            said.append(f"the table {name} is {'new' if before is None else 'missing'}")
        elif before.rows != after.rows:
            said.append(f"{name} holds {after.rows} rows, not {before.rows}")
        elif before.digest != after.digest:
            said.append(f"the {after.rows} rows of {name} are not the same ones")
    if (expected.seals, expected.last_seal) != (found.seals, found.last_seal):
        said.append(
            f"the audit trail ends with seal {found.seals} and not, as it did,"
            f" with seal {expected.seals}"
        )
    return said


def _there(connection: Connection, name: str) -> bool:
    row = only(connection, "select to_regclass(%s) is not null as there", [name])
    return bool(row and row["there"])


def _table(connection: Connection, schema: str, name: str) -> Table:
    query = sql.SQL(
        "select count(*) as rows, coalesce(sum(hashtextextended(t::text, 0)), 0)::text as digest"
        " from {} as t"
    ).format(sql.Identifier(schema, name))
    row = only(connection, query) or {}
    return Table(row["rows"], row["digest"])
