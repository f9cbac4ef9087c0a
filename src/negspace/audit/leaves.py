"""The rows of the audit trail as their hashes are made of them, in the order of their seals."""

from __future__ import annotations

import hashlib
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


# The text under a leaf as the server writes it, the zero byte before it: the same as
# ``offline.leaf`` makes of the fields, in a third of the time. It is hashed here.
_TEXT: Final[dict[str, LiteralString]] = {
    "security_audit": (
        "concat(E'negspace security_audit 1\\nid=', r.id,"
        " E'\\nuser_id=', coalesce(r.user_id::text, '-'),"
        " E'\\napi_key_id=', coalesce(r.api_key_id::text, '-'),"
        " E'\\naction=', r.action,"
        " E'\\nresource_type=', length(r.resource_type), ':', r.resource_type,"
        " E'\\nresource_id=', coalesce(length(r.resource_id) || ':' || r.resource_id, '-'),"
        " E'\\nstatus=', r.status,"
        " E'\\nip_address=', coalesce(r.ip_address::text, '-'),"
        " E'\\nuser_agent=', coalesce(length(r.user_agent) || ':' || r.user_agent, '-'),"
        " E'\\nrequest_id=', coalesce(length(r.request_id) || ':' || r.request_id, '-'),"
        " E'\\nerror_message=', coalesce(length(r.error_message) || ':' || r.error_message, '-'),"
        " E'\\nchanges_before=', coalesce(length(c.before) || ':' || c.before, '-'),"
        " E'\\nchanges_after=', coalesce(length(c.after) || ':' || c.after, '-'),"
        " E'\\ntimestamp=', (extract(epoch from r.\"timestamp\") * 1000000)::bigint) as content"
        " from public.security_audit r cross join lateral ("
        "select r.changes_before::text as before, r.changes_after::text as after offset 0) c"
    ),
    "audit_log_details": (
        "concat(E'negspace audit_log_details 1\\nid=', r.id,"
        " E'\\naudit_id=', r.audit_id,"
        " E'\\naudit_timestamp=', (extract(epoch from r.audit_timestamp) * 1000000)::bigint,"
        " E'\\nevent_name=', length(r.event_name), ':', r.event_name,"
        " E'\\nevent_description=',"
        " coalesce(length(r.event_description) || ':' || r.event_description, '-'),"
        " E'\\nevent_data=', length(c.data), ':', c.data,"
        " E'\\nsystem_state=', length(c.state), ':', c.state,"
        " E'\\nduration_ms=', coalesce(r.duration_ms::text, '-'),"
        " E'\\nsuccess_count=', r.success_count,"
        " E'\\nfailure_count=', r.failure_count,"
        " E'\\ncreated_at=', (extract(epoch from r.created_at) * 1000000)::bigint) as content"
        " from public.audit_log_details r cross join lateral ("
        "select r.event_data::text as data, r.system_state::text as state offset 0) c"
    ),
}
_SPAN: Final[LiteralString] = (
    " where (r.recorded_in, r.id) > (%s::text::xid8, %s)"
    " and (r.recorded_in, r.id) <= (%s::text::xid8, %s)"
    " and case when r.id >= %s then r.id < %s end order by r.recorded_in, r.id"
)


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


@dataclass(frozen=True)
class Hashed:
    """Rows of a span, hashed anew.

    Attributes:
        ids: Their numbers, in the order in which they are sealed.
        stored: The leaf hash that was stored with each; None: there is none, and should be;
            empty: of a row that was there before rows were hashed.
        computed: The hash of what each holds now.
        end: Where the last of them stands; None where there are none.
    """

    ids: Sequence[int]
    stored: Sequence[bytes | None]
    computed: list[bytes]
    end: tuple[int, int] | None


def hashed(connection: Connection, relation: str, span: Span, most: int) -> Hashed:
    """The first rows of a span, hashed here: thousands at once, in one answer of the server."""
    query: LiteralString = (
        "select array_agg(s.id) as ids, array_agg(s.stored) as stored,"
        " array_agg('\\x00'::bytea || convert_to(s.content, 'UTF8')) as contents,"
        " (array_agg(s.recorded_in))[count(*)]::text as last_xid from ("
        "select r.id, r.recorded_in, case when r.leaf_hash is null and r.recorded_in = '0'"
        " then ''::bytea else r.leaf_hash end as stored, "
        + _TEXT[relation]
        + _SPAN
        + " limit %s) s"
    )
    with connection.cursor(binary=True) as cursor:
        row = cursor.execute(query, [*_bounds(span), most]).fetchone()
    if row is None or row["ids"] is None:
        return Hashed((), (), [], None)
    sha256 = hashlib.sha256
    computed = [sha256(content).digest() for content in row["contents"]]
    return Hashed(row["ids"], row["stored"], computed, (int(row["last_xid"]), row["ids"][-1]))


def read(connection: Connection, relation: str, span: Span) -> Iterator[Leaf]:
    """The rows of a span, in the order in which they are sealed."""
    query: LiteralString = "copy (" + _SELECT[relation] + _SPAN + ") to stdout"
    with connection.cursor() as cursor, cursor.copy(query, _bounds(span)) as copy:
        for row in copy.rows():
            yield Leaf((int(row[0]), int(row[2])), row[1], row[2:])


def _bounds(span: Span) -> list[object]:
    """What ``_SPAN`` takes."""
    first_xid, first_id = span.after
    last_xid, last_id = span.until or (2**64 - 1, 2**63 - 1)
    return [
        str(first_xid),
        first_id,
        str(last_xid),
        last_id,
        span.lineage if span.lineage else -(2**63),
        span.below if span.below is not None else 2**63 - 1,
    ]
