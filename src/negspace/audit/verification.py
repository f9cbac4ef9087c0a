"""Verification: whether the audit trail is what was sealed, and what was anchored."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, LiteralString, TypeAlias

from negspace.audit import anchors, leaves, seals
from negspace.audit.anchors import Anchor
from negspace.audit.leaves import Hashed, Span
from negspace.audit.seals import Seal
from negspace.database import Connection, Database, only, rows, sql, translated

Kind: TypeAlias = Literal["row", "batch", "seal", "tail", "anchor", "guard"]

_MOST: Final = 20  # problems that are told; the first is what matters
_STEP: Final = 50_000  # rows between two calls of progress
_CHUNK: Final = 1000  # rows that are read at once where no seal says how many
_READERS: Final = 2  # connections that read: the next batch is made while one is hashed
_AHEAD: Final = 4  # batches that are read while one is compared

_GUARDS: Final[LiteralString] = (
    "select c.relname as relation, w.name as trigger from (values"
    " ('security_audit', 'security_audit_append_only'), ('security_audit', 'security_audit_hash'),"
    " ('audit_log_details', 'audit_log_details_append_only'),"
    " ('audit_log_details', 'audit_log_details_hash'),"
    " ('audit_seals', 'audit_seals_append_only')) as w (parent, name)"
    " cross join lateral (select w.parent::regclass as oid union all select i.inhrelid"
    " from pg_inherits i where i.inhparent = w.parent::regclass) r"
    " join pg_class c on c.oid = r.oid"
    " left join pg_trigger t on t.tgrelid = r.oid and t.tgname = w.name"
    " where t.tgenabled is distinct from 'A' order by 1, 2"
)
_LEFT: Final[LiteralString] = (
    "select (extract(epoch from month) * 1000000)::bigint as month from audit_retirements"
)


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was sealed.

    Attributes:
        kind: A ``row`` that was edited; a ``batch`` whose rows are not those that were sealed;
            a ``seal`` that doesn't fit its chain; a ``tail`` that was cut off; an ``anchor``
            that the seals contradict; a ``guard`` of the tables that is switched off.
        message: What and where, in a sentence.
        seal: The seal's number, or None.
        relation: The table, or None.
        row: The row's number, or None.
    """

    kind: Kind
    message: str
    seal: int | None = None
    relation: str | None = None
    row: int | None = None


@dataclass(frozen=True)
class Verification:
    """What ``verify`` found.

    Attributes:
        seals: How many seals there are.
        rows: How many sealed rows were hashed anew.
        unsealed: How many rows wait for their seal; hashed anew as well.
        retired: How many seals hold rows of months that have left by retention.
        anchored: The newest seal that was compared with an anchor, or None.
        problems: What is wrong, the first first; at most 20.
    """

    seals: int
    rows: int
    unsealed: int
    retired: int
    anchored: int | None
    problems: tuple[Problem, ...]

    @property
    def fine(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(
    database: Database,
    anchor_file: Path | None = None,
    *,
    key: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Verification:
    """Hash every row of the audit trail anew and compare it with its seal, and that with anchors.

    Without an anchor file, whoever may change everything (a superuser) can rewrite rows and
    seals so that they fit; with one, the first seal that differs from what was signed is named.

    Args:
        database: Where.
        anchor_file: What ``anchor`` wrote, kept elsewhere.
        key: The public key that must have signed it; None: whichever did.
        progress: Called with the number of rows done, now and then.

    Raises:
        InvalidInputError: The anchor file is damaged.
        RefusedError: Another key signed it.
    """
    anchored = anchors.read(anchor_file, key) if anchor_file is not None else {}
    with ExitStack() as opened, translated():
        connections = [opened.enter_context(_moment(database))]
        connections += _same_moment(database, connections[0], opened)
        return _Verifier(connections, anchored, progress).verify()


@contextmanager
def _moment(database: Database) -> Generator[Connection]:
    """One moment of the database, for all of it; nobody waits for this."""
    with database.reading.connect(autocommit=True) as connection:
        connection.execute("begin isolation level repeatable read read only")
        yield connection
        connection.execute("rollback")


def _same_moment(database: Database, first: Connection, opened: ExitStack) -> list[Connection]:
    """More connections that see what the first one does."""
    row = only(first, "select pg_export_snapshot() as snapshot")
    found: list[Connection] = []
    for _ in range(_READERS - 1):
        connection = opened.enter_context(_moment(database))
        query = sql.SQL("set transaction snapshot {}")
        connection.execute(query.format(sql.Literal(row["snapshot"] if row else "")))
        found.append(connection)
    for connection in (first, *found):
        connection.execute("set local search_path = pg_catalog, public")
    return found


def _read(connection: Connection, relation: str, span: Span, most: int) -> Hashed:
    with translated():
        return leaves.hashed(connection, relation, span, most)


@dataclass
class _Verifier:
    """One verification: the chain of seals, then the rows of each relation."""

    connections: Sequence[Connection]
    anchored: Mapping[int, Anchor]
    progress: Callable[[int], None] | None
    by_relation: dict[str, list[Seal]] = field(default_factory=dict[str, list[Seal]])
    problems: list[Problem] = field(default_factory=list[Problem])
    sealed: int = 0
    unsealed: int = 0
    retired: int = 0
    done: int = 0
    left: frozenset[int] = frozenset()  # months, as seals have them

    def verify(self) -> Verification:
        self.left = frozenset(row["month"] for row in rows(self.connection, _LEFT))
        count = self._chain()
        for relation in leaves.RELATIONS:
            self._rows(relation)
        for row in rows(self.connection, _GUARDS):
            self._tell(
                "guard",
                f"the trigger {row['trigger']} of {row['relation']} is missing or switched off",
                relation=row["relation"],
            )
        return Verification(
            seals=count,
            rows=self.sealed,
            unsealed=self.unsealed,
            retired=self.retired,
            anchored=max((n for n in self.anchored if n <= count), default=None),
            problems=tuple(self.problems),
        )

    def _tell(
        self,
        kind: Kind,
        message: str,
        *,
        seal: int | None = None,
        relation: str | None = None,
        row: int | None = None,
    ) -> None:
        if len(self.problems) < _MOST:
            self.problems.append(Problem(kind, message, seal, relation, row))

    @property
    def connection(self) -> Connection:
        """For what is read in one go."""
        return self.connections[0]

    # ── the chain ────────────────────────────────────────────────────────────────────────

    def _chain(self) -> int:
        """Check the seals themselves, and return how many there are."""
        number, previous = 0, bytes(32).hex()
        for seal in seals.after(self.connection, 0):
            number += 1
            if seal.number != number:
                self._tell("seal", f"seal {number} is missing", seal=number)
                number = seal.number
            elif seal.computed_hash() != seal.seal_hash or seal.previous_hash != previous:
                self._tell("seal", f"seal {number} was changed, or the one before it", seal=number)
            anchor = self.anchored.get(number)
            if anchor is not None and anchor.hash != seal.seal_hash:
                words = f"seal {number} is not the one that was anchored at {anchor.anchored_at}"
                self._tell("anchor", words, seal=number)
            previous = seal.seal_hash
            self.by_relation.setdefault(seal.relation, []).append(seal)
        self._tail(number)
        return number

    def _tail(self, last: int) -> None:
        seen = only(self.connection, "select last_value as number from audit_seals_seen")
        told = seen["number"] if seen else 0
        known = max(told, max(self.anchored, default=0))
        if known > last:
            words = f"the trail is cut off after seal {last}: there were {known}"
            self._tell("tail", words, seal=last + 1)

    # ── the rows ─────────────────────────────────────────────────────────────────────────

    def _rows(self, relation: str) -> None:
        found = self.by_relation.get(relation, [])
        lineages = sorted({0, *(seal.lineage for seal in found)})
        for lineage, below in zip(lineages, [*lineages[1:], None], strict=True):
            own = [seal for seal in found if seal.lineage == lineage]
            self._lineage(relation, own, Span(lineage=lineage, below=below))

    def _lineage(self, relation: str, found: list[Seal], span: Span) -> None:
        """The batches of its seals, and what came after them; the next is read meanwhile."""
        starts = [leaves.FIRST, *(seal.end for seal in found)]
        spans = [
            replace(span, after=start, until=seal.end)
            for start, seal in zip(starts, found, strict=False)
        ]
        with ExitStack() as readers:
            by = [
                (readers.enter_context(ThreadPoolExecutor(1)), connection)
                for connection in self.connections
            ]
            ahead: deque[Future[Hashed]] = deque()
            for number, seal in enumerate(found):
                for wanted in range(number + len(ahead), min(number + _AHEAD, len(found))):
                    reader, connection = by[wanted % len(by)]
                    most = found[wanted].leaf_count + _CHUNK
                    ahead.append(reader.submit(_read, connection, relation, spans[wanted], most))
                rows = ahead.popleft().result()
                self._compare(relation, rows, seal)
                self._batch(seal, rows.computed)
                self._advance(len(rows.ids))
        self._tail_of(relation, replace(span, after=starts[-1]))

    def _tail_of(self, relation: str, span: Span) -> None:
        """What is not sealed yet."""
        while (rows := _read(self.connection, relation, span, _CHUNK)).end is not None:
            self._compare(relation, rows, None)
            self.unsealed += len(rows.ids)
            self._advance(len(rows.ids))
            span = replace(span, after=rows.end)

    def _advance(self, count: int) -> None:
        before, self.done = self.done, self.done + count
        if self.progress is not None and before // _STEP != self.done // _STEP:
            self.progress(self.done)

    def _compare(self, relation: str, rows: Hashed, seal: Seal | None) -> None:
        """Tell of rows whose content is not that of the hash they were stored with."""
        if rows.stored == rows.computed:
            return
        where = f" (seal {seal.number})" if seal else ""
        for row, stored, computed in zip(rows.ids, rows.stored, rows.computed, strict=True):
            # of one from before rows were hashed its batch is all there is
            if stored not in (computed, b""):
                self._tell(
                    "row",
                    f"{relation} {row} was changed since it was written{where}",
                    seal=seal.number if seal else None,
                    relation=relation,
                    row=row,
                )

    def _batch(self, seal: Seal, batch: list[bytes]) -> None:
        if seal.month in self.left and not batch:
            self.retired += 1
            return
        self.sealed += len(batch)
        if len(batch) != seal.leaf_count:
            words = f"seal {seal.number} holds {seal.leaf_count} rows of {seal.relation},"
            words += f" and {len(batch)} are there, up to row {seal.last_id}"
        elif seals.root(batch).hex() != seal.merkle_root:
            words = f"the {seal.leaf_count} rows of {seal.relation} in seal {seal.number},"
            words += f" up to row {seal.last_id}, are not those that were sealed, or not in order"
        else:
            return
        self._tell("batch", words, seal=seal.number, relation=seal.relation)
