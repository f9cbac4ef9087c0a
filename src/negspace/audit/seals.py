"""Seals of the audit trail: making them, and what each says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, LiteralString

from negspace.audit import offline
from negspace.database import Connection, Database, Row, only

_BATCHES: Final = 50  # seals a transaction: half a second or less

# Times as microseconds since 1970 and hashes as digits: what the seal's own hash is made of.
COLUMNS: Final[LiteralString] = (
    "s.number, s.relation, (extract(epoch from s.month) * 1000000)::bigint as month, s.lineage,"
    " s.last_xid::text::bigint as last_xid, s.last_id, s.highest_id, s.leaf_count,"
    " encode(s.merkle_root, 'hex') as merkle_root,"
    " encode(s.previous_hash, 'hex') as previous_hash, encode(s.seal_hash, 'hex') as seal_hash,"
    " (extract(epoch from s.sealed_at) * 1000000)::bigint as sealed_at"
)


@dataclass(frozen=True)
class Seal:
    """A batch of rows that can't change any more, as ``audit_seals`` has it.

    Attributes:
        number: From 1, without a gap.
        relation: ``security_audit`` or ``audit_log_details``.
        month: The month of its rows, in microseconds since 1970.
        lineage: From which row number on transactions are counted anew.
        last_xid: The transaction of its last row; rows are in the order of it and their number.
        last_id: The number of its last row.
        highest_id: The highest number of a row in it, or in a seal before it.
        leaf_count: How many rows it holds.
        merkle_root: The root of the tree over their leaves, in hexadecimal digits.
        previous_hash: ``seal_hash`` of the seal before.
        seal_hash: Of everything above.
        sealed_at: When, in microseconds since 1970.
    """

    number: int
    relation: str
    month: int
    lineage: int
    last_xid: int
    last_id: int
    highest_id: int
    leaf_count: int
    merkle_root: str
    previous_hash: str
    seal_hash: str
    sealed_at: int

    @property
    def end(self) -> tuple[int, int]:
        """Where its last row stands in the order of rows."""
        return (self.last_xid, self.last_id)

    def computed_hash(self) -> str:
        """What its hash must be, by what it says."""
        return offline.seal_hash(self.as_dict()).hex()

    def as_dict(self) -> dict[str, Any]:
        """Its fields by their names."""
        return asdict(self)


def seal(database: Database, *, progress: Callable[[int], None] | None = None) -> int:
    """Seal what can't change any more: rows of transactions older than any that still runs.

    Where somebody else is sealing at this moment, nothing is done: theirs will do.

    Args:
        database: Where.
        progress: Called with the number of seals made so far.

    Returns:
        How many seals were made.
    """
    total = 0
    while True:
        with database.transaction() as connection:
            row = only(connection, "select seal_audit(how_many => %s) as made", [_BATCHES])
        made: int = row["made"] if row else 0
        total += made
        if made < _BATCHES:
            return total
        if progress is not None:
            progress(total)


def newest(connection: Connection) -> Seal | None:
    """The newest seal, or None where nothing was sealed."""
    query: LiteralString = (
        "select " + COLUMNS + " from audit_seals s order by s.number desc limit 1"
    )
    row = only(connection, query)
    return None if row is None else Seal(**row)


def after(connection: Connection, number: int) -> Iterator[Seal]:
    """The seals after that number, in order; memory is that of a few."""
    query: LiteralString = (
        "select " + COLUMNS + " from audit_seals s where s.number > %s order by s.number"
    )
    with connection.cursor("negspace_seals") as cursor:
        cursor.itersize = 1000
        cursor.execute(query, [number])
        yield from map(_seal, cursor)


def next_lineage(connection: Connection, seal: Seal) -> int | None:
    """The row number at which the lineage after a seal's own begins, or None."""
    query: LiteralString = (
        "select min(lineage) as first from audit_seals where relation = %s and lineage > %s"
    )
    row = only(connection, query, [seal.relation, seal.lineage])
    return row["first"] if row else None


def _seal(row: Row) -> Seal:
    return Seal(**row)


def root(leaves: list[bytes]) -> bytes:
    """The root of RFC 6962's tree over one leaf or more."""
    sha256 = hashlib.sha256
    while len(leaves) > 1:  # offline.node, a call each for a million rows left out
        pairs = zip(leaves[::2], leaves[1::2], strict=False)
        leaves = [sha256(b"\1" + left + right).digest() for left, right in pairs] + leaves[
            len(leaves) & ~1 :
        ]
    return leaves[0]


def path(leaves: list[bytes], index: int) -> list[dict[str, str]]:
    """The way from a leaf to the root: at each step the other child, and its side."""
    steps: list[dict[str, str]] = []
    while len(leaves) > 1:
        other = index ^ 1
        if other < len(leaves):
            side = "left" if other < index else "right"
            steps.append({"side": side, "hash": leaves[other].hex()})
        pairs = [offline.node(*leaves[at : at + 2]) for at in range(0, len(leaves) - 1, 2)]
        leaves, index = pairs + leaves[len(leaves) & ~1 :], index // 2
    return steps
