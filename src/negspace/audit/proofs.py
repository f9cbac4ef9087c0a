"""Proofs: one event with its way to the root of its seal, to be checked without a database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, LiteralString

from negspace.audit import leaves, offline, seals
from negspace.audit.leaves import Span
from negspace.audit.seals import Seal
from negspace.database import Connection, Database, only, rows
from negspace.errors import NotFoundError, RefusedError

FORM: Final = "negspace audit proof 1"

# The batch of a row: the first of its relation and lineage that ends at or after it.
_SEAL: Final[LiteralString] = (
    "select " + seals.COLUMNS + " from audit_seals s where s.relation = %(relation)s"
    " and s.lineage = (select coalesce(max(l.lineage), 0) from audit_seals l"
    " where l.relation = %(relation)s and l.lineage <= %(id)s)"
    " and (s.last_xid, s.last_id) >= (%(xid)s::text::xid8, %(id)s)"
    " order by s.last_xid, s.last_id limit 1"
)
_BEFORE: Final[LiteralString] = (
    "select " + seals.COLUMNS + " from audit_seals s where s.relation = %s and s.lineage = %s"
    " and s.number < %s order by s.number desc limit 1"
)


@dataclass(frozen=True)
class Proof:
    """A proof of one event and its details, as JSON knows it.

    Attributes:
        form: Which form of proof it is.
        rows: The event, then its details: each with its fields as texts, the way from its hash
            to the root, and the seal that holds the root.
    """

    form: str
    rows: tuple[Mapping[str, Any], ...]


def prove(database: Database, event_id: int) -> Proof:
    """A proof that an event, and what is said of it, were sealed as they are.

    Args:
        database: Where.
        event_id: The event.

    Raises:
        NotFoundError: There is no such event.
        RefusedError: It is not sealed yet, or is not what was sealed.
    """
    details: LiteralString = (
        "select recorded_in::text as xid, id from audit_log_details where audit_id = %s order by id"
    )
    event: LiteralString = "select recorded_in::text as xid, id from security_audit where id = %s"
    with database.transaction(read_only=True) as connection:
        found = only(connection, event, [event_id])
        if found is None:
            raise NotFoundError(
                f"there is no audit event {event_id}", hint="negspace audit list shows them"
            )
        proven = [_row(connection, "security_audit", found)]
        for detail in rows(connection, details, [event_id]):
            proven.append(_row(connection, "audit_log_details", detail))  # noqa: PERF401
    return Proof(FORM, tuple(proven))


def checking_page() -> str:
    """The program that checks a proof, for Python's standard library alone."""
    return Path(offline.__file__).read_text(encoding="utf-8")


def _row(connection: Connection, relation: str, place: Mapping[str, Any]) -> Mapping[str, Any]:
    number = place["id"]
    row = only(connection, _SEAL, {"relation": relation, "xid": place["xid"], "id": number})
    if row is None:
        raise RefusedError(
            f"{relation} {number} is not sealed yet",
            hint="negspace audit seal does it, once no older transaction runs",
        )
    seal = Seal(**row)
    batch = list(_batch(connection, seal))
    hashes = [offline.leaf(relation, leaf.fields) for leaf in batch]
    index = next((n for n, leaf in enumerate(batch) if leaf.place[1] == number), None)
    if index is None or seals.root(hashes).hex() != seal.merkle_root:
        raise RefusedError(
            f"the rows of seal {seal.number} are not those that were sealed",
            hint="negspace audit verify tells more",
        )
    return {
        "fields": dict(zip(offline.FIELDS[relation], batch[index].fields, strict=True)),
        "path": seals.path(hashes, index),
        "seal": seal.as_dict(),
    }


def _batch(connection: Connection, seal: Seal) -> Iterator[leaves.Leaf]:
    before = only(connection, _BEFORE, [seal.relation, seal.lineage, seal.number])
    after = leaves.FIRST if before is None else Seal(**before).end
    below = seals.next_lineage(connection, seal)
    return leaves.read(connection, seal.relation, Span(after, seal.end, seal.lineage, below))
