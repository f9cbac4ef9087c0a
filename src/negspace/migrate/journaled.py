"""Runs a file outside the run's transaction, part by part, so that a crash loses nothing.

Whatever takes a transaction gets one, with its row of the journal in it: after a crash that
row says exactly whether it was done. For the others the catalog is asked (leftovers.py), and
where the catalog can't tell, a person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from negspace.database import Connection
from negspace.migrate import failure as failed
from negspace.migrate import leftovers
from negspace.migrate.failure import Failure, in_statement
from negspace.migrate.journal import Answer, Journal, Record, of_step
from negspace.migrate.ledger import RunLock, hold_transaction
from negspace.migrate.lexer import Statement, split
from negspace.migrate.perform import Performer
from negspace.migrate.plan import Step
from negspace.migrate.python_step import run_python
from negspace.migrate.units import Unit, Way, is_setting, units_of

__all__ = ["MARK", "Journaled"]

MARK = "/* negspace migrate, run %s */ "
"""Before each statement that no transaction takes: the next run sees whether it still works."""

_NEEDS_AUTOCOMMIT = "25001"


class _Failed(Exception):  # noqa: N818  no error of anybody's: it ends a transaction
    """Carries a failure out of the transaction that it ends."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _under_way(past: Sequence[Record]) -> Record | None:
    """The statement at which an earlier run ended, as it began it; failed, if it was seen to."""
    if not past or past[-1].event == "done":
        return None
    begun = next(record for record in reversed(past) if record.event == "begun")
    return replace(begun, event=past[-1].event)


class Journaled:
    """One step outside the run's transaction.

    Args:
        connection: In autocommit.
        lock: Held; seen alive before each unit.
        journal: Its table is there.
        step: Not transactional.
        answer: What the operator said of it, or None.
        performer: Executes its statements.
        tell: Called with what was found out about an earlier run.
        left_out: Which statements not to run, or None: all run.
        at: Called at each point where a crash would find something else.
    """

    def __init__(
        self,
        connection: Connection,
        lock: RunLock,
        journal: Journal,
        step: Step,
        *,
        run_id: str,
        answer: Answer | None,
        performer: Performer,
        tell: Callable[[str], None],
        left_out: Callable[[Statement], bool] | None,
        at: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._lock = lock
        self._journal = journal
        self._step = step
        self._mark = MARK % run_id
        self._answer = answer
        self._performer = performer
        self._tell = tell
        self._left_out = left_out
        self._at = at
        self._units = units_of(step)

    def run(self) -> tuple[int, Failure | None]:
        """Run what is left to do.

        Returns:
            How many statements are done, those of earlier runs included, and why it stopped.
        """
        self._performer.begin(() if self._step.file.is_python else self._step.file.statements)
        past = of_step(self._journal.unfinished(), self._step)
        done = max((record.unit for record in past if record.event == "done"), default=0)
        last = _under_way(past)
        failure = self._changed(past)
        if past and failure is None:
            parts = "part" if done == 1 else "parts"
            self._tell(f"goes on with run {past[-1].run_id}, which had done {done} {parts}")
        ran = 0
        for unit in self._units:
            if failure is None and last is not None and unit.number == last.unit:
                failure, done = self._settle(unit, last, done)
            if failure is not None:
                break
            failure = self._replay(unit) if 0 < unit.number <= done else self._unit(unit)
            ran += len(unit.statements) if failure is None else 0
        return ran, failure

    # ── what an earlier run left ─────────────────────────────────────────────────────────

    def _changed(self, past: Sequence[Record]) -> Failure | None:
        """A part that an earlier run has done, and that says something else now."""
        by_number = {unit.number: unit for unit in self._units if unit.number}
        for record in past:
            unit = by_number.get(record.unit)
            if unit is None or (record.event == "done" and record.checksum != unit.checksum):
                return self._question(
                    unit,
                    f"part {record.unit} of the file changed after an earlier run"
                    f" had {'done' if record.event == 'done' else 'begun'} it",
                    "put it back as it was; or undo what it did by hand, and say"
                    f" --restart {self._step.name}",
                )
        return None

    def _settle(self, unit: Unit, last: Record, done: int) -> tuple[Failure | None, int]:
        """Find out what became of the statement that was under way: failure, units done."""
        self._at("look after a crash")
        place = f"line {unit.statements[0].line}" if unit.statements else "the file"
        verdict = self._verdict(last)
        decided_by = "catalog"
        if verdict.outcome == "ask" and last.event == "failed":
            verdict = replace(verdict, outcome="redo", because="it had failed")
        elif verdict.outcome == "ask" and self._answer in {"done", "redo"}:
            outcome = "done" if self._answer == "done" else "redo"
            verdict = replace(verdict, outcome=outcome, because="so said the operator")
            decided_by = "operator"
        if verdict.outcome == "ask":
            message = f"was running when its run ended, and {verdict.because}"
            name = self._step.name
            hint = f"look whether it was done, and say --done {name} or --redo {name}"
            return self._question(unit, message, hint), done
        self._tell(f"{place}: {verdict.because}: {verdict.outcome}")
        if verdict.outcome == "redo":
            return None, done
        self._journal.write(
            self._step.name,
            self._step.direction,
            "done",
            unit=unit.number,
            checksum=last.checksum,
            decided_by=decided_by,
        )
        return self._changed([replace(last, event="done")]), unit.number

    def _verdict(self, last: Record) -> leftovers.Verdict:
        statements = split(last.statement).statements if last.statement else ()
        if len(statements) != 1:
            return leftovers.Verdict("ask", "nothing in the catalog tells whether it was done")
        return leftovers.decide(self._connection, statements[0], last.before)

    def _question(self, unit: Unit | None, message: str, hint: str) -> Failure:
        step, line, column, text = self._step, None, None, None
        if unit is not None and unit.statements:
            text, line, column = (
                unit.statements[0].text,
                unit.statements[0].line,
                unit.statements[0].column,
            )
        shown = failed.excerpt(step.file.text, line, column) if line else ""
        return Failure(
            step.name, step.file.path, message, line, column, text, excerpt=shown, hint=hint
        )

    def _replay(self, unit: Unit) -> Failure | None:
        """What a part that is done had set for the session is set again."""
        return self._all(s for s in unit.statements if is_setting(s))

    # ── a unit ───────────────────────────────────────────────────────────────────────────

    def _unit(self, unit: Unit) -> Failure | None:
        self._lock.see_alive()
        self._performer.part()
        if unit.way is Way.SESSION:
            return self._all(unit.statements)
        if unit.way is Way.ALONE:
            return self._alone(unit)
        if unit.way is Way.BLOCK:
            return self._block(unit)
        try:
            self._in_transaction(unit)
        except _Failed as stopped:
            if stopped.failure.sqlstate == _NEEDS_AUTOCOMMIT and len(unit.statements) == 1:
                self._performer.part()
                self._performer.results.pop()
                return self._alone(unit)  # only the server knew that it takes no transaction
            return stopped.failure
        return None

    def _in_transaction(self, unit: Unit) -> None:
        with self._connection.transaction():
            hold_transaction(self._connection)
            failure = self._all((*unit.local, *unit.statements))
            if failure is not None:
                raise _Failed(failure)
            self._write(unit, "done")
            self._at("before commit")
        self._at("after commit")

    def _block(self, unit: Unit) -> Failure | None:
        failure = self._all(unit.statements[:-1])
        if failure is None:
            self._write(unit, "done")
            failure = self._all(unit.statements[-1:])
        return failure

    def _alone(self, unit: Unit) -> Failure | None:
        """A statement that no transaction takes, a CALL, a Python file."""
        only = unit.statements[0] if len(unit.statements) == 1 else None
        if only is not None:
            cleared = leftovers.clear_the_way(self._connection, only)
            if cleared is not None:
                self._tell(f"line {only.line}: {cleared}")
        before = leftovers.look(self._connection, only) if only is not None else None
        self._write(unit, "begun", statement=only and only.text, before=before)
        if self._step.file.is_python:
            failure = self._python()
        else:
            failure = self._all(unit.statements, mark=self._mark)
        status = self._connection.info.transaction_status.name
        if status != "IDLE":  # lost, or in a transaction that the file did not end: not known
            return failure
        self._write(unit, "done" if failure is None else "failed")
        return failure

    def _python(self) -> Failure | None:
        self._at("before statement")
        failure = self._performer.whole(
            lambda: run_python(self._connection, self._step), self._step.file.path.name
        )
        self._at("after statement")
        return failure

    def _all(self, statements: Iterable[Statement], *, mark: str = "") -> Failure | None:
        for statement in statements:
            if self._left_out is not None and self._left_out(statement):
                continue
            self._at("before statement")
            said = self._performer.statement(statement, mark)
            self._at("after statement")
            if said is not None:
                return in_statement(self._step.name, self._step.file, statement, said)
        return None

    def _write(self, unit: Unit, event: str, **more: Any) -> None:
        self._at(f"before {event} in the journal")
        self._journal.write(
            self._step.name,
            self._step.direction,
            event,
            unit=unit.number,
            checksum=unit.checksum,
            **more,
        )
        self._at(f"after {event} in the journal")
