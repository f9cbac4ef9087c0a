"""Probes of functions that run as their owner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, LiteralString

from negspace.probes.probing import Ground, Leak, Probe

__all__ = ["PROBES"]

_DEFINERS: Final[LiteralString] = (
    "select p.oid::regprocedure::text as name,"
    " coalesce(array_to_string(p.proconfig, ';') ~ 'search_path=.*pg_temp(;|$)', false)"
    "  as pinned,"
    " exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g"
    "         where g.grantee = 0 and g.privilege_type = 'EXECUTE') as everybodys"
    " from pg_proc p where p.prosecdef and p.pronamespace = 'public'::regnamespace order by 1"
)


def _definers(ground: Ground) -> Iterator[Leak]:
    for row in ground.rows(_DEFINERS):
        name = row["name"]
        if not row["pinned"]:
            yield Leak(
                f"{name} runs as its owner and searches the caller's temporary objects",
                f"alter function {name} set search_path = pg_catalog, public, pg_temp",
            )
        if row["everybodys"]:
            yield Leak(
                f"{name} runs as its owner, and everybody may call it",
                f"revoke execute on function {name} from public",
            )


PROBES: Final = (
    Probe(
        "functions",
        "What runs as the owner has a fixed search path, and is not everybody's.",
        "a caller can make the owner run the caller's code",
        "negspace migrate drift, and make it as the migrations have it",
        _definers,
    ),
)
