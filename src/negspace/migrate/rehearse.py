"""What a dry run sees: times, locks and how long they are held, rewrites, rows, WAL.

PostgreSQL keeps a lock to the end of the transaction. So what a statement takes is seen by
looking at the run's own locks before and after it, and counts as held from the statement's
beginning to the end of the run: the longest that it can have been.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from negspace.database import Connection
from negspace.migrate.perform import StatementResult
from negspace.migrate.queries import query

__all__ = [
    "MODES",
    "LockHeld",
    "LockTaken",
    "Rehearsal",
    "Rehearser",
    "StatementRehearsal",
]

# In PostgreSQL's own order (src/include/storage/lockdefs.h), the strongest last.
MODES: Final = (
    "access_share",
    "row_share",
    "row_exclusive",
    "share_update_exclusive",
    "share",
    "share_row_exclusive",
    "exclusive",
    "access_exclusive",
)
_BLOCKS: Final = {
    "access_exclusive": "reads and writes",
    "exclusive": "writes",
    "share_row_exclusive": "writes",
    "share": "writes",
    "share_update_exclusive": "schema changes and vacuum",
    "row_exclusive": "schema changes",
    "row_share": "schema changes",
    "access_share": "what needs the table alone",
}
_SPELLED: Final = {mode.replace("_", "") + "lock": mode for mode in MODES}
_KINDS: Final = {
    "r": "table", "p": "table", "m": "materialized view", "v": "view", "f": "foreign table",
    "i": "index", "I": "index", "S": "sequence", "c": "type",
}  # fmt: skip


@dataclass(frozen=True)
class LockTaken:
    """The strongest lock that a statement took on one relation.

    Attributes:
        table: Its name, with the schema.
        kind: ``table``, ``index``, ``view`` …
        mode: One of ``MODES``.
        new: The run itself made the relation: nobody waits for it.
    """

    table: str
    kind: str
    mode: str
    new: bool


@dataclass(frozen=True)
class StatementRehearsal:
    """What one statement did.

    Attributes:
        migration: The name of its migration.
        line: Where it begins in its file; None for a Python migration, which is one.
        rows: Inserted, updated and deleted, by triggers and functions too.
        wal_bytes: Written by the whole server in that time; None where it can't be told.
        locks: What it took that the run did not hold yet, the strongest of each relation.
        rewrites: The relations whose file it replaced.
    """

    migration: str
    line: int | None
    statement: str
    duration_ms: float
    lock_wait_ms: float
    rows: int | None
    wal_bytes: int | None
    locks: tuple[LockTaken, ...]
    rewrites: tuple[str, ...]


@dataclass(frozen=True)
class LockHeld:
    """A lock of the run.

    Attributes:
        migration, line: The statement that took it.
        held_ms: From that statement's beginning to the end of the run.
        blocks: What others can't do meanwhile.
        new: The run itself made the relation: nobody waits for it.
    """

    table: str
    kind: str
    mode: str
    migration: str
    line: int | None
    held_ms: float
    blocks: str
    new: bool


@dataclass(frozen=True)
class Rehearsal:
    """What the whole run did before it was rolled back.

    Attributes:
        statements: In the order in which they ran.
        locks: One per relation and mode, held longest first; what the run itself made last.
        rewrites: The relations whose file was replaced.
        notes: What could not be measured, and what a number means here.
    """

    statements: tuple[StatementRehearsal, ...]
    locks: tuple[LockHeld, ...]
    duration_ms: float
    rows: int
    wal_bytes: int | None
    rewrites: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _State:
    """The run's locks, every relation, and the WAL's end, at one moment."""

    locks: frozenset[tuple[int, str]]
    relations: dict[int, dict[str, Any]]
    wal: int | None


@dataclass(frozen=True)
class _Taken:
    oid: int
    mode: str
    migration: str
    line: int | None
    at: float


class Rehearser:
    """Looks at the database before and after each statement of a run."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._migration = ""
        self._began = self._ended = self._statement_began = 0.0
        self._there: dict[int, dict[str, Any]] = {}
        self._known: dict[int, dict[str, Any]] = {}
        self._state: _State | None = None
        self._taken: dict[tuple[int, str], _Taken] = {}
        self._statements: list[StatementRehearsal] = []
        self._wal = self._counts = True

    def begin(self) -> None:
        """The transaction has begun."""
        means = self._connection.execute(query("rehearse_means")).fetchone() or {}
        self._wal, self._counts = bool(means.get("wal")), bool(means.get("counts"))
        self._there = self._look().relations
        self._began = time.monotonic()

    def step(self, migration: str) -> None:
        """A migration begins; what lies between two is not its statements' doing."""
        self._migration = migration
        self._state = None

    def before(self) -> None:
        """A statement comes."""
        self._state = self._state or self._look()
        self._known |= self._state.relations
        self._statement_began = time.monotonic()

    def after(self, text: str, result: StatementResult) -> None:
        """It has succeeded."""
        was, now = self._state or self._look(), self._look()
        self._state = now
        self._known |= now.relations
        new_locks = now.locks - was.locks
        for oid, mode in new_locks:
            taken = _Taken(oid, mode, self._migration, result.line, self._statement_began)
            self._taken.setdefault((oid, mode), taken)
        self._statements.append(
            StatementRehearsal(
                migration=self._migration,
                line=result.line,
                statement=text,
                duration_ms=result.duration_ms,
                lock_wait_ms=result.lock_wait_ms,
                rows=_written(was, now) if self._counts else result.rows,
                wal_bytes=None if was.wal is None or now.wal is None else now.wal - was.wal,
                locks=self._strongest(new_locks),
                rewrites=self._rewritten(was, now),
            )
        )

    def end(self) -> None:
        """The transaction is about to be rolled back."""
        self._ended = time.monotonic()

    def result(self) -> Rehearsal:
        """All that was seen; up to the failure, where one ended the run."""
        ended = self._ended or time.monotonic()
        locks = [self._held(taken, ended) for taken in self._taken.values()]
        locks.sort(key=lambda lock: (lock.new, -lock.held_ms, -MODES.index(lock.mode), lock.table))
        wal = [one.wal_bytes for one in self._statements if one.wal_bytes is not None]
        return Rehearsal(
            statements=tuple(self._statements),
            locks=tuple(locks),
            duration_ms=(ended - self._began) * 1000 if self._began else 0.0,
            rows=sum(one.rows or 0 for one in self._statements),
            wal_bytes=sum(wal) if self._wal else None,
            rewrites=tuple(
                dict.fromkeys(name for one in self._statements for name in one.rewrites)
            ),
            notes=tuple(self._notes()),
        )

    # ── what was seen ────────────────────────────────────────────────────────────────────

    def _look(self) -> _State:
        locks = self._connection.execute(query("rehearse_locks")).fetchall()
        relations = self._connection.execute(query("rehearse_relations")).fetchall()
        found = {row["oid"]: row for row in relations}
        known = found.keys() | self._known.keys()
        return _State(
            frozenset(
                (row["oid"], _SPELLED[row["mode"].lower()])
                for row in locks
                if row["oid"] in known and row["mode"].lower() in _SPELLED
            ),
            found,
            self._wal_end(),
        )

    def _wal_end(self) -> int | None:
        if not self._wal:
            return None
        row = self._connection.execute(query("rehearse_wal")).fetchone()
        return int(row["at"]) if row else None

    def _strongest(self, locks: frozenset[tuple[int, str]]) -> tuple[LockTaken, ...]:
        strongest = dict(sorted(locks, key=lambda lock: MODES.index(lock[1])))
        return tuple(
            LockTaken(self._name(oid), self._kind(oid), mode, oid not in self._there)
            for oid, mode in sorted(strongest.items(), key=lambda one: -MODES.index(one[1]))
        )

    def _rewritten(self, was: _State, now: _State) -> tuple[str, ...]:
        return tuple(
            self._name(oid)
            for oid, row in now.relations.items()
            if oid in self._there and oid in was.relations
            and row["file"] != was.relations[oid]["file"]
        )  # fmt: skip

    def _held(self, taken: _Taken, ended: float) -> LockHeld:
        return LockHeld(
            table=self._name(taken.oid),
            kind=self._kind(taken.oid),
            mode=taken.mode,
            migration=taken.migration,
            line=taken.line,
            held_ms=(ended - taken.at) * 1000,
            blocks=_BLOCKS[taken.mode],
            new=taken.oid not in self._there,
        )

    def _name(self, oid: int) -> str:
        """As it was before the run, where it was there: that is what others know it by."""
        return (self._there.get(oid) or self._known[oid])["name"]

    def _kind(self, oid: int) -> str:
        return _KINDS.get(self._known[oid]["kind"], "relation")

    def _notes(self) -> list[str]:
        if self._wal:
            notes = ["WAL is the whole server's while the statement ran: others' is in it"]
        else:
            notes = ["WAL is not known: the role may not call pg_current_wal_insert_lsn()"]
        if not self._counts:
            notes.append("rows are the commands' own: track_counts is off, so that triggers'"
                         " and functions' are not known")  # fmt: skip
        return notes


def _written(was: _State, now: _State) -> int:
    """Rows written between two moments; a table that is gone tells no more."""
    return sum(
        max((row["written"] or 0) - (was.relations.get(oid, {}).get("written") or 0), 0)
        for oid, row in now.relations.items()
    )
