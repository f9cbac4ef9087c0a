"""One readable ``schema.sql`` from a catalog: the same bytes for the same schema.

Objects come in an order that loads: an object after what it needs, by PostgreSQL's own
``pg_depend``; among those that could come, by kind and name. What hangs on a table follows
it; foreign keys come last, when all tables are there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Final, TypeAlias

from negspace.migrate.catalog import Catalog, Object, Role
from negspace.migrate.catalog_tables import quoted

__all__ = ["in_order", "render"]

_Rank: TypeAlias = tuple[int, str, str]

_RANKS: Final = {
    kind: rank
    for rank, kinds in enumerate(
        (
            ("schema",),
            ("extension",),
            ("type", "domain"),
            ("sequence",),
            ("function", "procedure", "aggregate"),
            ("operator", "cast"),
            ("table",),
            # What hangs on a table, where it could not follow it at once:
            ("sequence owner",),
            ("constraint", "index", "statistics"),
            ("trigger", "rule", "policy"),
            ("view", "materialized view"),
            ("foreign key",),
            ("event trigger",),
            ("publication",),
            ("default privileges",),
        )
    )
    for kind in kinds
}
_LAST: Final = {"foreign key"}

_HEAD: Final = """\
-- The whole schema, made by negspace migrate dump; change it by a migration, not here.
-- psql -v ON_ERROR_STOP=1 -f loads it into an empty database of PostgreSQL 14 to 18.

begin;

set local check_function_bodies = off;
set local client_min_messages = warning;
set local search_path = '';
"""


def render(catalog: Catalog) -> str:
    """The schema as a script for psql.

    Args:
        catalog: From ``catalog.read``.

    Returns:
        The text. Roles that the schema names are made where they are missing, without a
        password; owners are left to whoever loads it. What the catalog does not cover is
        listed at the end.
    """
    ordered = in_order(catalog.objects)
    blocks = [_HEAD, *_roles(catalog.roles), *_blocks(ordered)]
    refreshed = [f"refresh materialized view {thing.name};" for thing in ordered if thing.populated]
    blocks += ["\n".join(refreshed)] if refreshed else []
    text = "\n\n".join(block.strip("\n") for block in blocks if block)
    left_out = "".join(f"-- not covered: {what}\n" for what in catalog.not_covered)
    return f"{text}\n\ncommit;\n" + (f"\n{left_out}" if left_out else "")


def _roles(roles: Sequence[Role]) -> list[str]:
    if not roles:
        return []
    lines = ["do $roles$", "begin"]
    for role in roles:
        name = quoted(role.quoted)
        login = " login" if role.login else ""
        lines += [
            f"    if to_regrole({name}) is null then",
            f"        create role {role.quoted}{login};",
            "    end if;",
        ]
    return ["\n".join([*lines, "end", "$roles$;"])]


def _blocks(ordered: Iterable[Object]) -> list[str]:
    """A block for each object; what hangs on a table is one with what comes before it."""
    blocks: list[str] = []
    before: Object | None = None
    for thing in ordered:
        if not thing.definition:
            continue
        lone = thing.kind in {"trigger", "rule", "policy"} or "\n" in thing.definition
        table = before and (before.parent or before.identity)
        same = thing.parent is not None and table == thing.parent
        together = same and before is not None and before.kind == thing.kind and not lone
        foreign = thing.kind == "foreign key" and before is not None and before.kind == thing.kind
        if blocks and (together or foreign):
            blocks[-1] += f"\n{thing.definition}"
        else:
            blocks.append(thing.definition)
        before = thing
    return blocks


@dataclass
class _Queue:
    """Objects whose needs are met, smallest rank first; what hangs on a table right after it."""

    objects: dict[str, Object]
    missing: dict[str, set[str]]
    wanted_by: dict[str, list[str]]
    ready: list[tuple[_Rank, str]] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    order: list[Object] = field(default_factory=list)

    def take(self, identity: str) -> None:
        """Put an object into the order, and after it what hangs on it and can follow."""
        if identity in self.done:
            return
        self.done.add(identity)
        self.order.append(self.objects[identity])
        freed: list[str] = []
        for other in self.wanted_by[identity]:
            self.missing[other].discard(identity)
            if not self.missing[other]:
                freed.append(other)
        hanging = [o for o in freed if self._hangs(o, identity)]
        # Partitions come after what the table itself has.
        for other in sorted(hanging, key=lambda o: (o.startswith("table "), self._rank(o))):
            self.take(other)
        for other in freed:
            if other not in self.done:
                heappush(self.ready, (self._rank(other), other))

    def _rank(self, identity: str) -> _Rank:
        return _rank(self.objects[identity])

    def _hangs(self, identity: str, table: str) -> bool:
        thing = self.objects[identity]
        return thing.parent == table and thing.kind not in _LAST


def _rank(thing: Object) -> _Rank:
    return _RANKS[thing.kind], thing.parent or "", thing.identity


def in_order(objects: Iterable[Object]) -> list[Object]:
    """The objects, each after what it needs.

    Objects that need each other in a circle, as two views can, come in the order of their
    rank: such a schema does not load, and what it needs is a migration.
    """
    by_identity = {thing.identity: thing for thing in objects}
    wanted_by: dict[str, list[str]] = defaultdict(list)
    missing = {identity: set(thing.needs) for identity, thing in by_identity.items()}
    for identity, needs in missing.items():
        for other in needs:
            wanted_by[other].append(identity)
    queue = _Queue(by_identity, missing, wanted_by)
    queue.ready = [(_rank(by_identity[i]), i) for i, needs in missing.items() if not needs]
    heapify(queue.ready)
    while len(queue.done) < len(by_identity):
        if queue.ready:
            queue.take(heappop(queue.ready)[1])
        else:
            left = (i for i in by_identity if i not in queue.done)
            queue.take(min(left, key=lambda i: _rank(by_identity[i])))
    return queue.order
