"""Runs a plan: all of it in one transaction, or nothing; a failure is a value.

A file that is declared ``no-transaction`` splits the run: what comes before it is committed
first. Between two migrations the session is put back as a new one would be (settle.sql), so
that a file does the same alone and in a run of three hundred.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from negspace.database import Connection, translated
from negspace.errors import NegspaceError
from negspace.migrate import failure as failed
from negspace.migrate.failure import Failure
from negspace.migrate.journal import Journal, name_of
from negspace.migrate.journaled import Journaled
from negspace.migrate.ledger import Ledger, NewEntry, RunLock, hold_session, hold_transaction
from negspace.migrate.outcome import RunResult, StepResult, outcome
from negspace.migrate.perform import Patience, Performer, recorded
from negspace.migrate.plan import Plan, Step
from negspace.migrate.python_step import run_python
from negspace.migrate.queries import query
from negspace.migrate.rehearse import Rehearser
from negspace.migrate.session import Options, open_session
from negspace.migrate.watch import Watch

__all__ = ["Run"]

logger = logging.getLogger(__name__)


class _Stopped(Exception):  # noqa: N818  no error of anybody's: it ends a transaction
    """Carries a failure out of the transaction that it ends."""

    def __init__(self, failure: Failure, result: StepResult) -> None:
        super().__init__(failure.message)
        self.failure, self.result = failure, result


class Run:
    """One run of a plan.

    Args:
        address: Of the database: what fails is written there on a connection of its own.
        connection: From ``open_session``.
        lock: Held.
        plan: Its steps.
        options: How.
    """

    def __init__(
        self, address: str, connection: Connection, lock: RunLock, plan: Plan, options: Options
    ) -> None:
        self._address = address
        self._connection = connection
        self._ledger = Ledger(connection)
        self._lock = lock
        self._plan = plan
        self._options = options
        self._done: list[StepResult] = []
        self._journal = Journal(connection, self._ledger.run_id)
        self._recovered: list[str] = []
        self._rehearser = Rehearser(connection) if options.dry_run else None
        self._watch = Watch(address, options.on_blocked)
        patience = Patience(options.lock_timeout, options.lock_wait)
        self._performer = Performer(connection, patience, self._watch, self._rehearser)

    def result(self) -> RunResult:
        """Run it; ``failure`` says why it stopped."""
        began = time.monotonic()
        failure: Failure | None = None
        with translated():
            self._connection.execute(query("new_session"))
            hold_session(self._connection)
        with self._watch:
            for group in self._plan.groups():
                failure = self._group(group)
                if failure is not None:
                    break
        left = self._plan.steps[len(self._done) :]
        return RunResult(
            direction=self._plan.direction,
            batch=self._plan.batch,
            dry_run=self._options.dry_run,
            steps=(*self._done, *(outcome(step, "not run") for step in left)),
            failure=failure,
            duration_ms=_since(began),
            lock_wait_ms=self._lock.waited_ms,
            rehearsal=self._rehearser.result() if self._rehearser else None,
        )

    def _group(self, group: tuple[Step, ...]) -> Failure | None:
        before = len(self._done)
        try:
            with translated():
                if self._options.dry_run and self._beyond_rehearsal(group):
                    for step in group:
                        self._tell(outcome(step, "not rehearsed"))
                elif group[0].transaction:
                    self._together(group)
                else:
                    self._alone(group[0])
        except _Stopped as stopped:
            return self._undo(group, before, stopped.failure, stopped.result)
        except (NegspaceError, KeyboardInterrupt) as error:
            step = group[min(len(self._done) - before, len(group) - 1)]
            failure = failed.in_run(step.name, step.file, error)
            del self._done[before + group.index(step) :]
            failure = self._undo(group, before, failure, outcome(step, "failed"))
            if isinstance(error, KeyboardInterrupt):
                raise
            return failure
        return None

    def _beyond_rehearsal(self, group: tuple[Step, ...]) -> bool:
        """What runs outside a transaction can't be rolled back, nor what builds on it."""
        if not group[0].transaction or group[0].after_commit:
            return True
        return any(done.status == "not rehearsed" for done in self._done)

    def _together(self, group: tuple[Step, ...]) -> None:
        with self._connection.transaction(force_rollback=self._options.dry_run):
            hold_transaction(self._connection)
            self._ledger.create()
            self._watch.follow(self._connection, self._options.lock_timeout)
            if self._rehearser is not None:
                self._rehearser.begin()
            before, rows = self._catalog("catalog_before"), list[NewEntry]()
            for step in group:
                result = self._step(step)
                after = self._catalog("catalog_after") if step is group[-1] else {}
                rows.append(_entry(step, result, metadata=before | after))
                before = {}
                status = "rehearsed" if self._options.dry_run else result.status
                self._tell(replace(result, status=status))
            self._write(self._ledger, rows)
            if self._rehearser is not None:
                self._rehearser.end()
            self._lock.see_alive()
            self._at("before commit")
        self._at("after commit")

    def _alone(self, step: Step) -> None:
        with self._connection.transaction():
            self._ledger.create()
            self._journal.create()
            before = self._catalog("catalog_before")
            running = _entry(step, outcome(step, "running"), metadata=before)
            self._write(self._ledger, [running])
        self._watch.follow(self._connection, self._options.lock_timeout)
        result = self._step(step)
        self._connection.execute(query("new_session"))
        self._lock.see_alive()
        with self._connection.transaction():
            after = self._catalog("catalog_after")
            self._write(self._ledger, [_entry(step, result, metadata=before | after)])
            self._journal.write(step.name, step.direction, "settled")
            self._at("before commit")
        self._at("after commit")
        self._tell(result)

    def _catalog(self, name: str) -> dict[str, object]:
        """The catalog's fingerprint for the ledger, under that name."""
        if self._options.dry_run or not self._options.fingerprint:
            return {}
        from negspace.migrate.fingerprint import of_database

        return {name: of_database(self._connection)}

    # ── one step ─────────────────────────────────────────────────────────────────────────

    def _step(self, step: Step) -> StepResult:
        began = time.monotonic()
        self._set_timeout()
        ran, failure = self._guarded(step)
        if failure is None and step.transaction:
            said = self._performer.settle(query("settle") + query("new_session"))
            failure = failed.in_run(step.name, step.file, said) if said else None
        status = "success" if step.direction == "up" else "rolled_back"
        result = replace(
            outcome(step, status),
            duration_ms=_since(began),
            statements=ran,
            recovered=() if step.transaction else tuple(self._recovered),
            details=tuple(self._performer.results),
        )
        if failure is not None:
            raise _Stopped(failure, replace(result, status="failed"))
        return result

    def _at(self, point: str) -> None:
        if self._options.at is not None:
            self._options.at(point)

    def _guarded(self, step: Step) -> tuple[int, Failure | None]:
        """Run the file, and see that it left the transaction that it began in."""
        if step.transaction and not step.file.is_python:  # its statements were looked through
            return self._execute(step)
        start = self._transaction_start()
        ran, failure = self._execute(step)
        if failure is None and self._transaction_start() != start:
            failure = failed.ended(step.name, step.file, transaction=step.transaction)
        return ran, failure

    def _execute(self, step: Step) -> tuple[int, Failure | None]:
        if not step.transaction:
            return self._journaled(step).run()
        if self._rehearser is not None:
            self._rehearser.step(step.name)
        if step.file.is_python:
            self._performer.begin(())
            return 0, self._performer.whole(
                lambda: run_python(self._connection, step), step.file.path.name
            )
        self._performer.begin(step.file.statements)
        left_out = self._options.left_out
        for ran, statement in enumerate(step.file.statements):
            if left_out is not None and left_out(statement):
                continue
            self._at("before statement")
            said = self._performer.statement(statement)
            self._at("after statement")
            if said is not None:
                return ran, failed.in_statement(step.name, step.file, statement, said)
        return len(step.file.statements), None

    def _journaled(self, step: Step) -> Journaled:
        self._recovered.clear()
        return Journaled(
            self._connection,
            self._lock,
            self._journal,
            step,
            run_id=str(self._ledger.run_id),
            answer=self._options.answers.get(name_of(step.name)),
            performer=self._performer,
            tell=self._recovered.append,
            left_out=self._options.left_out,
            at=self._at,
        )

    def _transaction_start(self) -> object:
        """What tells one transaction from the next; None outside of any."""
        if self._connection.info.transaction_status.name == "IDLE":
            return None
        if self._connection.info.transaction_status.name != "INTRANS":
            return "aborted"
        row = self._connection.execute("select transaction_timestamp() as at").fetchone()
        return row and row["at"]

    def _set_timeout(self) -> None:
        seconds = self._options.statement_timeout
        if seconds is not None:
            self._connection.execute(
                "select set_config('statement_timeout', %s, false)", [f"{round(seconds * 1000)}ms"]
            )

    # ── what is told ─────────────────────────────────────────────────────────────────────

    def _tell(self, result: StepResult) -> None:
        self._done.append(result)
        if self._options.progress is not None:
            self._options.progress(result)

    def _undo(
        self, group: tuple[Step, ...], before: int, failure: Failure, result: StepResult
    ) -> Failure:
        """Nothing of the group stayed: say so in the result, and in the ledger."""
        self._done[before:] = [replace(done, status="undone") for done in self._done[before:]]
        undone = [done.name for done in self._done[before:]]
        self._tell(result)
        if not self._options.dry_run:
            wanted = (result.name, result.direction)
            step = next(step for step in group if (step.name, step.direction) == wanted)
            self._write_failure(step, result, failure, undone)
        return failure

    def _write(self, ledger: Ledger, rows: Sequence[NewEntry]) -> None:
        self._at("before ledger")
        ledger.write(rows)
        self._at("after ledger")

    def _write_failure(
        self, step: Step, result: StepResult, failure: Failure, undone: list[str]
    ) -> None:
        metadata: dict[str, object] = {
            "line": failure.line,
            "column": failure.column,
            "statement": failure.statement,
            "detail": failure.detail,
            "undone_with_it": undone,
        }
        self._connection.close()  # rolls back what a no-transaction file may have left open
        try:
            with open_session(self._address) as connection, connection.transaction():
                ledger = Ledger(connection, self._ledger.run_id)
                ledger.create()
                row = _entry(step, result, metadata=metadata, failure=failure)
                self._write(ledger, [row])
        except NegspaceError as error:
            logger.warning("the failure can't be written to the ledger: %s", error.message)


def _entry(
    step: Step,
    result: StepResult,
    *,
    metadata: Mapping[str, object],
    failure: Failure | None = None,
) -> NewEntry:
    """What the ledger is to say of a step."""
    found: dict[str, object] = {"file": step.file.path.name, **metadata}
    if result.status != "running":
        found |= {"statements": result.statements, **recorded(result.details)}
    if result.recovered:
        found["recovered"] = list(result.recovered)
    return NewEntry(
        step.name,
        step.version,
        step.file,
        step.batch,
        step.direction,
        result.status,
        result.duration_ms or 0.0,
        failure.message if failure else None,
        failure.sqlstate if failure else None,
        found | {"transaction": step.transaction},
    )


def _since(began: float) -> float:
    return (time.monotonic() - began) * 1000
