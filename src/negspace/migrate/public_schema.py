"""The schema public: what everybody may do there depends on who made the database, and when.

initdb lets PUBLIC create in it up to PostgreSQL 14 and no more from 15 on, a database that
was upgraded keeps what it had, and many a server's administrator closes it before anything
else. So a database may differ there from an empty one without anybody having changed it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from negspace.database import Connection, only, translated
from negspace.migrate.catalog import Catalog, Object

__all__ = ["RIGHTS", "everybodys_rights", "is_of_unknown_origin", "with_rights"]

RIGHTS: Final = frozenset({"create", "usage"})

_IDENTITY: Final = "schema public"
_EVERYBODYS: Final = re.compile(r"(?:grant|revoke) .+ on schema public (?:to|from) public;")
_CLOSED_SINCE: Final = 150_000


def everybodys_rights(connection: Connection) -> frozenset[str]:
    """Which of ``RIGHTS`` PUBLIC has in the schema public; none where there is no such schema."""
    with translated():
        found = connection.execute(
            "select lower(x.privilege_type) as name from pg_catalog.pg_namespace as n,"
            " pg_catalog.aclexplode(coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner)))"
            " as x where n.nspname = 'public' and x.grantee = 0"
        ).fetchall()
    return frozenset(row["name"] for row in found)


def is_of_unknown_origin(connection: Connection) -> bool:
    """Whether nothing tells any more what PUBLIC might do in a database's schema public at first.

    From PostgreSQL 15 on initdb gives the schema to ``pg_database_owner``, and closed. One that
    the server's first superuser owns came from an older version.
    """
    if connection.info.server_version < _CLOSED_SINCE:
        return True
    with translated():
        return (
            only(
                connection,
                "select from pg_catalog.pg_namespace where nspname = 'public' and nspowner = 10",
            )
            is not None
        )


def with_rights(catalog: Catalog, rights: frozenset[str]) -> Catalog:
    """The same catalog with PUBLIC having those rights in the schema public."""
    said = [
        f"grant {', '.join(sorted(rights))} on schema public to public;",
        f"revoke {', '.join(sorted(RIGHTS - rights))} on schema public from public;",
    ]
    said = [line for line, some in zip(said, (rights, RIGHTS - rights), strict=True) if some]
    return replace(
        catalog,
        objects=tuple(
            _with_lines(one, said) if one.identity == _IDENTITY else one for one in catalog.objects
        ),
    )


def _with_lines(schema: Object, said: list[str]) -> Object:
    others = [line for line in schema.definition.splitlines() if not _EVERYBODYS.fullmatch(line)]
    text = "\n".join([*others, *said])
    return replace(schema, definition=text, canonical=text)
