"""What is risky in migrations that would run: squawk's findings and our own, with remedies.

>>> result = lint(Path("migrations"), address)  # doctest: +SKIP
>>> [finding.where for finding in result.errors]  # doctest: +SKIP
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from negspace.errors import MigrationFileError
from negspace.migrate import squawk
from negspace.migrate.ddl import changes
from negspace.migrate.files import Migration, read_folder
from negspace.migrate.ledger import Ledger
from negspace.migrate.lexer import Statement
from negspace.migrate.lint_facts import Facts, look
from negspace.migrate.lint_rules import NO_WAY_DOWN, RULES, Subject
from negspace.migrate.lint_run import Made, Progress, Thresholds
from negspace.migrate.lint_scope import why_not
from negspace.migrate.lint_waivers import Waiver, waivers
from negspace.migrate.names import Key
from negspace.migrate.plan import Plan, lacks_down
from negspace.migrate.script import MigrationFile
from negspace.migrate.session import open_session
from negspace.migrate.squashed import squashed

__all__ = ["Finding", "LintResult", "Suppressed", "Thresholds", "lint", "linted"]

_KNOWN: Final = {*RULES, NO_WAY_DOWN, *squawk.RULES}


@dataclass(frozen=True)
class Finding:
    """Something risky in a migration.

    Attributes:
        line: From 1.
        column: In characters from 1.
        rule: Its code; ours have a section in docs/lint.md, squawk's a page on squawkhq.com.
        severity: ``error``, which ``up`` refuses, or ``warning``.
        waived: Why the file allows it, or None.
    """

    file: Path
    line: int
    column: int
    rule: str
    severity: str
    message: str
    remedy: str
    waived: str | None = None

    @property
    def where(self) -> str:
        """``file:line:column``, as editors and terminals link it."""
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Suppressed:
    """How often a rule of squawk fired where it does not apply, and why it doesn't."""

    rule: str
    reason: str
    count: int


@dataclass(frozen=True)
class LintResult:
    """What was found.

    Attributes:
        findings: In the order of the files; those that the files allow are not among them.
        waived: Those.
        files: How many files were read.
        server_version: Of the live server, as a number; None offline.
    """

    findings: tuple[Finding, ...]
    waived: tuple[Finding, ...]
    suppressed: tuple[Suppressed, ...]
    files: int
    server_version: int | None

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that a run refuses."""
        return tuple(finding for finding in self.findings if finding.severity == "error")


@dataclass(frozen=True)
class _Target:
    """One file to lint."""

    file: MigrationFile
    is_down: bool = False
    lacks_down: bool = False


def lint(
    folder: Path,
    address: str | None = None,
    *,
    thresholds: Thresholds | None = None,
    lock_timeout: bool = True,
    strip_transaction: bool = False,
) -> LintResult:
    """Lint a folder of migrations: what is pending on a database, or all of it without one.

    Args:
        folder: The migrations.
        address: Of the database; None leaves out what only the live catalog can tell.
        thresholds: From when on a table is large, or hot.
        lock_timeout: The run will set one, as ``up`` does unless it is told not to.
        strip_transaction: Files' own BEGIN and COMMIT will be left out.

    Raises:
        FileError: The folder can't be read.
        NotFoundError: squawk isn't installed.
        UnavailableError: No database was reached.
    """
    there = read_folder(folder, strip_transaction=strip_transaction)
    done: set[Key] = set()
    if address is not None:
        with open_session(address) as connection:
            standing = Ledger(connection).standing()
        done = {key for key, row in standing.by_key.items() if row.applied}
        done |= squashed(there, standing).aside
    targets = [t for m in there.migrations if m.key not in done for t in _targets(m)]
    return _Linting(targets, thresholds or Thresholds(), lock_timeout).result(folder, address)


def linted(
    address: str,
    folder: Path,
    *,
    lock_timeout: bool = True,
    on_warnings: Callable[[LintResult], None] | None = None,
) -> Callable[[Plan], None]:
    """A guard for ``up``: it lints what is about to run, before anything is touched.

    Args:
        address: Of the database.
        folder: The migrations.
        lock_timeout: The run sets one.
        on_warnings: Called with what was found, where there is something and no error.

    Returns:
        A function that raises MigrationFileError where there are errors.
    """

    def guard(plan: Plan) -> None:
        targets = [_Target(step.file) for step in plan.steps if step.direction == "up"]
        found = _Linting(targets, Thresholds(), lock_timeout).result(folder, address)
        if found.errors:
            first = found.errors[0]
            more = len(found.errors) - 1
            raise MigrationFileError(
                f"{first.where}: {first.rule}: {first.message}"
                + (f"; and {more} more: negspace migrate lint" if more else ""),
                hint=f"{first.remedy}; where it is right as it is, say so above the statement:"
                f" -- negspace: allow {first.rule} because …",
                file=str(first.file),
                line=first.line,
                column=first.column,
            )
        if found.findings and on_warnings is not None:
            on_warnings(found)

    return guard


def _targets(migration: Migration) -> Iterator[_Target]:
    up, down = migration.up, migration.down
    yield _Target(up, lacks_down=lacks_down(migration))
    if down is not None and down != up:
        yield _Target(down, is_down=True)


class _Linting:
    """One pass over some files, in the order in which they run."""

    def __init__(
        self, targets: Sequence[_Target], thresholds: Thresholds, lock_timeout: bool
    ) -> None:
        self._targets = targets
        self._sound = [t for t in targets if t.file.problem() is None]
        self._thresholds = thresholds
        self._lock_timeout = lock_timeout
        self._findings: list[Finding] = []
        self._waived: list[Finding] = []
        self._suppressed: Counter[tuple[str, str]] = Counter()
        self._facts: Facts | None = None

    def result(self, folder: Path, address: str | None) -> LintResult:
        """Look, read, judge."""
        whole, said = self._read(folder, address)
        version = self._facts.version if self._facts else None
        by_file: dict[MigrationFile, list[squawk.SquawkFinding]] = {}
        for one in said:
            by_file.setdefault(one.file, []).append(one)
        run = Progress(whole)
        for target in self._targets:
            self._file(target, run, by_file.get(target.file, []))
        return LintResult(
            tuple(self._findings),
            tuple(self._waived),
            tuple(
                Suppressed(rule, reason, count)
                for (rule, reason), count in sorted(self._suppressed.items())
            ),
            len(self._targets),
            version,
        )

    def _read(
        self, folder: Path, address: str | None
    ) -> tuple[tuple[Made, ...], tuple[squawk.SquawkFinding, ...]]:
        """What the run changes, and what squawk says, which reads on a core of its own."""
        files = [t.file for t in self._sound if not t.file.is_python]
        with ThreadPoolExecutor(1) as beside, ExitStack() as stack:
            connection = version = None
            if address is not None and self._targets:
                connection = stack.enter_context(open_session(address))
                version = connection.info.server_version
            said = beside.submit(squawk.read, files, version=version, folder=folder)
            whole = tuple(self._changes())
            if connection is not None:
                self._facts = look(connection, [made.change for made in whole])
            return whole, said.result()

    def _changes(self) -> Iterator[Made]:
        for target in self._sound:
            if not target.is_down:
                for statement in target.file.statements:
                    for change in changes(statement):
                        yield Made(target.file, statement, change)

    def _file(self, target: _Target, run: Progress, said: list[squawk.SquawkFinding]) -> None:
        file, found = target.file, list[Finding]()
        problem = file.problem()
        if problem is not None:
            place = problem.line or 1, problem.column or 1
            self._findings.append(
                Finding(file.path, *place, "invalid-file", "error", problem.message, problem.hint)
            )
            return
        allowed = waivers(file)
        found += [_unknown(file, waiver) for waiver in allowed if waiver.rule not in _KNOWN]
        if target.lacks_down:
            found.append(_no_way_down(file))
        # Offline nobody knows which files run together: each knows what it made itself.
        run.enter(one_run=self._facts is not None)
        run = run.branch() if target.is_down else run
        for statement in file.statements:
            subjects = [
                Subject(
                    file,
                    statement,
                    change,
                    run,
                    self._facts,
                    self._thresholds,
                    self._lock_timeout,
                )
                for change in changes(statement)
            ]
            found += self._of_squawk(target, statement, subjects, said)
            for subject in subjects:
                if not target.is_down:
                    found += _own(subject)
                run.add(Made(file, statement, subject.change))
            run.lock_timeout |= "lock_timeout" in statement.tokens[:3]
        # A statement of several changes says the same of each.
        for finding in sorted(set(found), key=lambda f: (f.line, f.column, f.rule, f.message)):
            self._keep(finding, allowed)

    def _of_squawk(
        self,
        target: _Target,
        statement: Statement,
        subjects: list[Subject],
        said: list[squawk.SquawkFinding],
    ) -> Iterator[Finding]:
        """What squawk says up to the statement's end; it is taken off the list."""
        end = statement.offset + len(statement.text)
        last = statement is target.file.statements[-1]
        for one in [one for one in said if last or one.offset < end]:
            said.remove(one)
            reason = why_not(one.rule, target.is_down, subjects)
            if reason is not None:
                self._suppressed[one.rule, reason] += 1
                continue
            line, column = target.file.script.position(one.offset)
            yield Finding(
                target.file.path, line, column, one.rule, "warning", one.message, one.help
            )

    def _keep(self, finding: Finding, allowed: Sequence[Waiver]) -> None:
        for waiver in allowed:
            if waiver.rule == finding.rule and waiver.covers(finding.line):
                self._waived.append(replace(finding, waived=waiver.reason))
                return
        self._findings.append(finding)


def _own(subject: Subject) -> Iterator[Finding]:
    at = subject.statement
    for name, rule in RULES.items():
        for said in rule(subject):
            yield Finding(
                subject.file.path,
                at.line,
                at.column,
                name,
                said.severity,
                said.message,
                said.remedy,
            )


def _unknown(file: MigrationFile, waiver: Waiver) -> Finding:
    return Finding(
        file.path,
        waiver.line,
        1,
        "unknown-rule",
        "error",
        f"allows {waiver.rule}, and there is no such rule",
        "take the name from what negspace migrate lint prints",
    )


def _no_way_down(file: MigrationFile) -> Finding:
    return Finding(
        file.path,
        1,
        1,
        NO_WAY_DOWN,
        "warning",
        "there is no way down, and nothing says why",
        "write its down, or say -- negspace: irreversible WHY",
    )
