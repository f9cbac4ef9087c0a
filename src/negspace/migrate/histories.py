"""The history tables of other tools: they belong to those tools, and to no migration."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from negspace.migrate.catalog import Catalog

__all__ = ["HISTORIES", "without_histories"]

HISTORIES: Final = {
    "schema_migrations": "golang-migrate or dbmate",
    "alembic_version": "Alembic",
    "flyway_schema_history": "Flyway",
    "knex_migrations": "knex",
    "knex_migrations_lock": "knex",
    "goose_db_version": "goose",
    "__diesel_schema_migrations": "diesel",
}
"""The tables by their usual names, and whose they are."""


def without_histories(catalog: Catalog, expected: Catalog) -> Catalog:
    """A catalog without the history tables of other tools, unless a migration made them.

    Args:
        catalog: Of a database.
        expected: What the migrations make: a table of such a name in it stays.
    """
    wanted = {thing.identity for thing in expected.objects}
    tables = {
        thing.identity
        for thing in catalog.objects
        if thing.kind == "table"
        and thing.name.rpartition(".")[2] in HISTORIES
        and thing.identity not in wanted
    }
    owners = [t for t in catalog.objects if t.kind == "sequence owner" and t.parent in tables]
    sequences = {f"sequence {owner.name}" for owner in owners}
    return replace(
        catalog,
        objects=tuple(
            thing
            for thing in catalog.objects
            if thing.parent not in tables and thing.identity not in tables | sequences
        ),
    )
