"""Runs the statements of a migration as a good neighbour, and measures them.

A statement that may wait for a strong lock has a short ``lock_timeout``. When that has passed
it is rolled back to a savepoint, the queue that stood behind it flows, and it is tried again
after a pause of random length; what the run did before is kept. ``manners`` says which
statements wait in this way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

from negspace.database import Connection, Diagnosis, attempt, execute
from negspace.migrate.lexer import Statement
from negspace.migrate.manners import Manner, manner_of, new_table, sets_lock_timeout
from negspace.migrate.watch import Blocker, Watch

__all__ = ["Patience", "Performer", "Recorder", "StatementResult", "recorded"]

_LOCK_NOT_AVAILABLE: Final = "55P03"
_LONGEST_PAUSE: Final = 2.0  # seconds between two slices
_SHORTEST: Final = 0.001  # seconds: a lock_timeout of 0 would be none


class _Said(Protocol):
    @property
    def sqlstate(self) -> str | None: ...


Said = TypeVar("Said", bound=_Said)


@dataclass(frozen=True)
class StatementResult:
    """What became of one statement.

    Attributes:
        line: Where it begins in its file; None for a Python migration, which is one.
        rows: How many it inserted, updated or deleted, or None where it tells none.
        lock_wait_ms: How long it was seen waiting for locks, pauses between slices included.
        tries: How many slices it took.
        blockers: Whom it was seen waiting for.
    """

    line: int | None
    duration_ms: float
    rows: int | None = None
    lock_wait_ms: float = 0.0
    tries: int = 1
    blockers: tuple[Blocker, ...] = ()


class Recorder(Protocol):
    """What looks at the database before and after each statement."""

    def before(self) -> None:
        """A statement comes."""
        ...

    def after(self, text: str, result: StatementResult) -> None:
        """It has succeeded."""
        ...


@dataclass
class Patience:
    """How long a run waits for locks.

    Attributes:
        slice_seconds: The longest a statement waits before it makes way; None: no slices.
        left_seconds: What is left of the run's total; None: no bound.
    """

    slice_seconds: float | None
    left_seconds: float | None

    def setting(self, manner: Manner, tries: int) -> bytes:
        """The lock timeout of the next try, as SQL after SET or SET LOCAL."""
        if manner is Manner.EXEMPT:
            return b"lock_timeout = 0;"
        limits = [] if self.left_seconds is None else [self.left_seconds]
        if manner is Manner.SLICED and self.slice_seconds is not None:
            # Not always the same, so that two runs don't meet in the same moment again.
            jitter = 1.0 if tries == 1 else random.uniform(0.5, 1.0)  # noqa: S311
            limits.append(self.slice_seconds * jitter)
        if not limits:
            return _SERVERS_OWN
        return b"lock_timeout = %d;" % max(round(min(limits) * 1000), 1)

    @property
    def over(self) -> bool:
        """Whether the total is used up."""
        return self.left_seconds is not None and self.left_seconds <= _SHORTEST

    def spend(self, seconds: float) -> None:
        """Take a wait off the total."""
        if self.left_seconds is not None:
            self.left_seconds = max(self.left_seconds - seconds, _SHORTEST)

    def pause(self) -> float:
        """Seconds between two slices, in which others come through."""
        pause = (self.slice_seconds or 0) * random.uniform(0.5, 1.5)  # noqa: S311
        return min(pause, _LONGEST_PAUSE, self.left_seconds or _LONGEST_PAUSE)


_SERVERS_OWN: Final = b"lock_timeout to default;"


class Performer:
    """Executes what a migration consists of, on the run's connection.

    Args:
        connection: The run's.
        patience: How long it may wait, for the whole run.
        watch: Sees whom it waits for.
        recorder: Measures more, in a rehearsal.
    """

    def __init__(
        self,
        connection: Connection,
        patience: Patience,
        watch: Watch,
        recorder: Recorder | None = None,
    ) -> None:
        self._connection = connection
        self._patience = patience
        self._watch = watch
        self._recorder = recorder
        self._setting: bytes | None = _SERVERS_OWN
        self._fresh: frozenset[str] = frozenset()
        self._unsettled = False
        self.results: list[StatementResult] = []

    def begin(self, statements: tuple[Statement, ...]) -> None:
        """A migration begins, in a session that is as new.

        One that sets its lock timeout itself keeps it, and is tried again all the same.
        """
        own = any(map(sets_lock_timeout, statements))
        self._setting = None if own else _SERVERS_OWN
        self._fresh = frozenset()
        self._unsettled = False
        self.results = []

    def part(self) -> None:
        """A part of a migration begins; what came before is committed, or was rolled back.

        So its tables are no longer its own, and what comes between two parts waits as long as
        the server says.
        """
        self._fresh = frozenset()
        if self._setting not in {None, _SERVERS_OWN}:
            self._connection.execute(b"set " + _SERVERS_OWN)
            self._setting = _SERVERS_OWN

    def statement(self, statement: Statement, mark: str = "") -> Diagnosis | None:
        """Execute one; what PostgreSQL said against it, its position within the statement.

        Args:
            statement: Any.
            mark: A comment that is sent in front of it, for others to see.
        """
        rows: list[int | None] = [None]

        def work(prefix: bytes) -> Diagnosis | None:
            prefix = mark.encode() + prefix
            done = execute(self._connection, prefix + statement.text.encode())
            rows[0] = done.rows
            said = done.failure
            if said is None or said.position is None:
                return said
            return replace(said, position=said.position - len(prefix))

        manner = manner_of(statement, inside=self._inside(), fresh=self._fresh)
        said = self._measured(
            work, manner, statement.line, statement.text, lambda: rows[0], new_table(statement)
        )
        return self._with_blockers(said) if said else None

    def _with_blockers(self, said: Diagnosis) -> Diagnosis:
        blockers = "; ".join(map(str, self._watch.blockers))
        if said.sqlstate != _LOCK_NOT_AVAILABLE or not blockers:
            return said
        return replace(
            said, hint=f"try again when it has ended, or raise the lock wait: {blockers}"
        )

    def whole(self, work: Callable[[], Said | None], text: str) -> Said | None:
        """The same for what is no statement of a file; it is repeated as a whole."""

        def prefixed(prefix: bytes) -> Said | None:
            if prefix:
                self._connection.execute(prefix)
            return work()

        manner = Manner.SLICED if self._inside() else Manner.BOUND
        return self._measured(prefixed, manner, None, text, lambda: None, None)

    def settle(self, script: bytes) -> Diagnosis | None:
        """The checks at the end of a migration, which may wait too; none where it left nothing.

        New tables and their indexes run nobody's code, set nothing and defer no check.
        """
        if not self._unsettled:
            return None
        said, *_ = self._patiently(
            lambda prefix: attempt(self._connection, prefix + script), Manner.BOUND
        )
        return said

    def _inside(self) -> bool:
        return self._connection.info.transaction_status.name == "INTRANS"

    def _measured(
        self,
        work: Callable[[bytes], Said | None],
        manner: Manner,
        line: int | None,
        text: str,
        rows: Callable[[], int | None],
        made: str | None,
    ) -> Said | None:
        if self._recorder is not None:
            self._recorder.before()
        began = time.monotonic()
        said, waited, tries = self._patiently(work, manner)
        result = StatementResult(
            line,
            (time.monotonic() - began) * 1000,
            rows(),
            waited * 1000,
            tries,
            self._watch.blockers,
        )
        self.results.append(result)
        if said is None:
            self._fresh |= {made} if made else frozenset()
            if self._recorder is not None:
                self._recorder.after(text, result)
        return said

    # ── slices ───────────────────────────────────────────────────────────────────────────

    def _patiently(
        self, work: Callable[[bytes], Said | None], manner: Manner
    ) -> tuple[Said | None, float, int]:
        """Try until it is done, has failed, or may not wait longer: seconds waited, tries."""
        self._unsettled |= manner is not Manner.NEW
        sliced = manner is Manner.SLICED and self._patience.slice_seconds is not None
        inside = self._inside()
        waited, tries = 0.0, 0
        self._watch.begin()
        while True:
            tries += 1
            prefix = self._prefix(manner, tries, savepoint=sliced and inside and tries == 1)
            began = time.monotonic()
            self._watch.again()
            said = work(prefix)
            self._watch.end()
            blocked = said is not None and said.sqlstate == _LOCK_NOT_AVAILABLE
            seen = time.monotonic() if blocked else self._watch.seen_at
            waited += self._spent(max(seen - began, 0.0))
            if not (blocked and sliced) or self._patience.over:
                break
            if inside:
                self._connection.execute(b"rollback to savepoint negspace_statement")
            pause = self._patience.pause()
            time.sleep(pause)
            waited += self._spent(pause)
        if said is None and sliced and inside and self._inside():
            # Where a migration has ended the transaction the run says so itself.
            attempt(self._connection, b"release savepoint negspace_statement")
        return said, waited, tries

    def _spent(self, seconds: float) -> float:
        self._patience.spend(seconds)
        return seconds

    def _prefix(self, manner: Manner, tries: int, *, savepoint: bool) -> bytes:
        """What is sent in front of a statement, in the same round trip where that may be."""
        prefix = b"savepoint negspace_statement;" if savepoint else b""
        if self._setting is None or manner in {Manner.FREE, Manner.NEW}:
            return prefix
        setting = self._patience.setting(manner, tries)
        if setting == self._setting:
            return prefix
        self._setting = setting
        if self._inside():
            return b"set local " + setting + prefix  # behind a pooler the session is not ours
        # Two statements in one message would be a transaction.
        self._connection.execute(b"set " + setting)
        return prefix


def recorded(results: tuple[StatementResult, ...]) -> dict[str, object]:
    """What the ledger keeps of a migration's statements."""
    rows = [result.rows for result in results if result.rows is not None]
    blockers = [vars(blocker) for result in results for blocker in result.blockers]
    found: dict[str, object] = {
        "rows": sum(rows) if rows else None,
        "lock_wait_ms": round(sum(result.lock_wait_ms for result in results), 3),
        "statement_times": [
            {"line": one.line, "ms": round(one.duration_ms, 3), "rows": one.rows} for one in results
        ],
    }
    if blockers:
        found["blockers"] = blockers
    return found
