"""Folders of migrations for tests, and what became of them."""

from __future__ import annotations

from pathlib import Path

from negspace import migrate
from negspace.database import connect, rows
from negspace.migrate.catalog import Catalog, read
from negspace.migrate.session import open_session

FIVE = {
    f"{n}_t{n}.{way}.sql": sql
    for n in range(1, 6)
    for way, sql in (("up", f"create table t{n} (id int)"), ("down", f"drop table t{n}"))
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def tables(address: str) -> list[str]:
    with connect(address) as connection:
        return [
            row["name"]
            for row in rows(
                connection,
                "select relname as name from pg_class where relnamespace = 'public'::regnamespace"
                " and relkind = 'r' and relname not like 'negspace_migrations%' order by 1",
            )
        ]


def states(address: str, folder: Path) -> dict[str, str]:
    return {row.name: row.state for row in migrate.status(address, folder)}


def catalog(address: str) -> Catalog:
    with open_session(address) as connection:
        return read(connection)


def ledger(address: str) -> list[tuple[str, str, str, int]]:
    """The rows, oldest first: name, direction, status, batch."""
    return [(e.name, e.direction, e.status, e.batch) for e in migrate.history(address)][::-1]
