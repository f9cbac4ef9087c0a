"""The rows of the audit trail as their hashes are made of them, in the order of their seals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString, NamedTuple

from negspace.audit import offline
from negspace.database import Connection

RELATIONS: Final = tuple(offline.FIELDS)

FIRST: Final = (0, -(2**63))  # before every row

# Hash and place, then the fields of the leaf in their order, all as texts.
_SELECT: Final[dict[str, LiteralString]] = {
    "security_audit": (
        "select r.recorded_in::text, encode(r.leaf_hash, 'hex'), r.id, r.user_id, r.api_key_id,"
        " r.action, r.resource_type, r.resource_id, r.status, r.ip_address::text, r.user_agent,"
        " r.request_id, r.error_message, r.changes_before, r.changes_after,"
        ' (extract(epoch from r."timestamp") * 1000000)::bigint from security_audit r'
    ),
    "audit_log_details": (
        "select r.recorded_in::text, encode(r.leaf_hash, 'hex'), r.id, r.audit_id,"
        " (extract(epoch from r.audit_timestamp) * 1000000)::bigint, r.event_name,"
        " r.event_description, r.event_data, r.system_state, r.duration_ms, r.success_count,"
        " r.failure_count, (extract(epoch from r.created_at) * 1000000)::bigint"
        " from audit_log_details r"
    ),
}


class Leaf(NamedTuple):
    """A row: where it stands, and what its hash is made of.

    Attributes:
        place: Transaction and number: rows are in the order of both.
        stored: The leaf hash that was stored with it, in digits; None: before there were seals.
        fields: The values of ``offline.FIELDS``, as texts.
    """

    place: tuple[int, int]
    stored: str | None
    fields: tuple[str | None, ...]


@dataclass(frozen=True)
class Span:
    """Which rows: after one place, up to another, of the numbers of one lineage."""

    after: tuple[int, int] = FIRST
    until: tuple[int, int] | None = None
    lineage: int = 0
    below: int | None = None


def read(connection: Connection, relation: str, span: Span) -> Iterator[Leaf]:
    """The rows of a span, in the order in which they are sealed."""
    last_xid, last_id = span.until or (2**64 - 1, 2**63 - 1)
    query: LiteralString = (
        "copy ("
        + _SELECT[relation]
        + " where (r.recorded_in, r.id) > (%s::text::xid8, %s)"
        + " and (r.recorded_in, r.id) <= (%s::text::xid8, %s)"
        + " and case when r.id >= %s then r.id < %s end order by r.recorded_in, r.id) to stdout"
    )
    first_xid, first_id = span.after
    bounds: Sequence[object] = [
        str(first_xid),
        first_id,
        str(last_xid),
        last_id,
        span.lineage if span.lineage else -(2**63),
        span.below if span.below is not None else 2**63 - 1,
    ]
    with connection.cursor() as cursor, cursor.copy(query, bounds) as copy:
        for row in copy.rows():
            yield Leaf((int(row[0]), int(row[2])), row[1], row[2:])
