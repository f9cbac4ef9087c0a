"""Probes of what must never change: the audit trail, its seals, the migrations' ledger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, LiteralString

from negspace import audit
from negspace.database import Database, PoolSize
from negspace.probes.probing import Ground, Leak, Probe

__all__ = ["PROBES"]

_KEPT: Final = ["security_audit", "audit_log_details", "audit_seals", "audit_retirements"]
_LEDGER: Final = "negspace_migrations"

_GUARDS: Final[LiteralString] = (
    "select t.tgname as name, t.tgrelid::regclass::text as relation"
    " from pg_trigger t join pg_class c on c.oid = t.tgrelid"
    " left join pg_inherits h on h.inhrelid = c.oid"
    " left join pg_class r on r.oid = h.inhparent"
    " where not t.tgisinternal and t.tgenabled in ('D', 'R')"
    " and c.relnamespace = 'public'::regnamespace"
    " and coalesce(r.relname, c.relname) = any (%s) order by 2, 1"
)
# Of every role that can log in and is neither a superuser nor, by membership too, the owner.
_WRITERS: Final[LiteralString] = (
    "select g.rolname as role, c.oid::regclass::text as relation, v.verb"
    " from pg_class c"
    " left join pg_inherits h on h.inhrelid = c.oid"
    " join pg_class r on r.oid = coalesce(h.inhparent, c.oid)"
    " cross join pg_roles g"
    " cross join unnest(array['update', 'delete', 'truncate', 'trigger']) as v (verb)"
    " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')"
    " and r.relname = any (%s) and g.rolcanlogin and not g.rolsuper"
    " and not pg_has_role(g.oid, c.relowner, 'member')"
    " and (has_table_privilege(g.oid, c.oid, v.verb)"
    "      or v.verb = 'update' and has_any_column_privilege(g.oid, c.oid, 'update'))"
    " order by 1, 2, 3"
)


def _guards(ground: Ground) -> Iterator[Leak]:
    for row in ground.rows(_GUARDS, [[*_KEPT, _LEDGER]]):
        yield Leak(
            f"the trigger {row['name']} of {row['relation']} is switched off",
            f"alter table {row['relation']} enable always trigger {row['name']}",
        )


def _writers(ground: Ground) -> Iterator[Leak]:
    for row in ground.rows(_WRITERS, [[*_KEPT, _LEDGER]]):
        yield Leak(
            f"{row['role']} has the right to {row['verb']} {row['relation']}",
            f'revoke {row["verb"]} on {row["relation"]} from public, "{row["role"]}"',
        )


def _seals(ground: Ground) -> Iterator[Leak]:
    with Database(ground.owner, pool=PoolSize(0, 1)) as database:
        found = audit.verify(database)
    for problem in found.problems:
        yield Leak(problem.message)


PROBES: Final = (
    Probe(
        "guards",
        "No trigger that guards the audit trail or the ledger is switched off.",
        "the trail can be changed and nobody sees it",
        "alter table … enable always trigger …",
        _guards,
    ),
    Probe(
        "trail rights",
        "Nobody but the owner may change, remove or empty the audit trail or the ledger.",
        "who did something can undo that it was written down",
        "revoke update, delete, truncate, trigger on it",
        _writers,
    ),
    Probe(
        "seal check",
        "Every row of the audit trail is as it was sealed.",
        "what is written there can't be relied on any more",
        "negspace audit verify --anchor FILE says what was changed; keep the database as it is",
        _seals,
    ),
)
