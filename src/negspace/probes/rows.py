"""Probes of row security: whose rows are seen by whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from negspace.probes.probing import Ground, Leak, Probe

__all__ = ["PROBES"]


def _forced(ground: Ground) -> Iterator[Leak]:
    found = ground.rows(
        "select c.oid::regclass::text as name, c.relrowsecurity as is_on"
        " from pg_class c where c.relnamespace = 'public'::regnamespace"
        " and c.relkind in ('r', 'p') and not (c.relrowsecurity and c.relforcerowsecurity)"
        " and (c.relrowsecurity or exists (select from pg_policy p where p.polrelid = c.oid))"
        " order by 1"
    )
    for row in found:
        name, state = row["name"], "not forced" if row["is_on"] else "off, in spite of its policies"
        yield Leak(
            f"row security of {name} is {state}",
            f"alter table {name} enable row level security, force row level security",
        )


PROBES: Final = (
    Probe(
        "row security",
        "Where rows have policies, these hold for the owner's functions too.",
        "rows are shown to people they don't belong to",
        "negspace migrate drift, and make it as the migrations have it",
        _forced,
    ),
)
