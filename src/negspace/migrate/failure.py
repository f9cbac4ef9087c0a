"""What went wrong in a migration, as a value: file, line, column, statement, caret."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from negspace.database import Diagnosis, diagnosis
from negspace.errors import MigrationError, NegspaceError
from negspace.migrate.lexer import Statement
from negspace.migrate.script import MigrationFile

__all__ = ["Failure", "ended", "excerpt", "in_python", "in_run", "in_statement"]

_HINTS: Final = {
    "55P04": "a new enum value can be used after its transaction has committed: declare the"
    " file that adds it with -- negspace: no-transaction",
    "25001": "this statement runs outside a transaction only: put it into a file of its own"
    " that says -- negspace: no-transaction",
    "55P03": "somebody else holds the lock: try again, or wait longer (--lock-wait)",
}


@dataclass(frozen=True)
class Failure:
    """Why a migration failed, and where.

    Attributes:
        line: In the file, from 1; None where no line is to blame.
        column: In that line, in characters from 1.
        statement: The statement that failed, whole.
        excerpt: The line and a caret under the place, ready to print; empty without a line.
        context: PostgreSQL's call stack, where a function failed.
    """

    name: str
    file: Path
    message: str
    line: int | None = None
    column: int | None = None
    statement: str | None = None
    excerpt: str = ""
    sqlstate: str | None = None
    detail: str | None = None
    hint: str | None = None
    context: str | None = None

    @property
    def where(self) -> str:
        """``file:line:column``, as far as known."""
        return ":".join(str(p) for p in (self.file, self.line, self.column) if p is not None)

    def lines(self) -> list[str]:
        """The failure as it is printed."""
        out = [f"{self.where}: {self.message}"]
        out += [f"  {line}" for line in self.excerpt.splitlines()]
        said = {"SQLSTATE": self.sqlstate, "detail": self.detail, "context": self.context}
        out += [f"  {name}: " + text.replace("\n", "\n    ") for name, text in said.items() if text]
        return [*out, f"  hint: {self.hint}"] if self.hint else out

    def error(self) -> MigrationError:
        """The same, to raise."""
        return MigrationError(
            f"{self.where}: {self.message}",
            hint=self.hint,
            file=str(self.file),
            line=self.line,
            column=self.column,
            statement=self.statement,
            sqlstate=self.sqlstate,
            detail=self.detail,
        )


def in_statement(name: str, file: MigrationFile, statement: Statement, said: Diagnosis) -> Failure:
    """The failure of one statement of a SQL file."""
    offset = statement.offset
    if said.position is not None and said.position <= len(statement.text):
        offset += said.position - 1
    line, column = file.script.position(offset)
    return Failure(
        name=name,
        file=file.path,
        message=said.message,
        line=line,
        column=column,
        statement=statement.text,
        excerpt=excerpt(file.text, line, column),
        sqlstate=said.sqlstate,
        detail=said.detail,
        hint=said.hint or _HINTS.get(said.sqlstate or ""),
        context=said.context,
    )


def in_python(name: str, file: MigrationFile, error: BaseException) -> Failure:
    """The failure of a Python migration, at the line of the file that was running."""
    said = _said(error)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file.path)]
    line = lines[-1] if lines else None
    return Failure(
        name=name,
        file=file.path,
        message=said.message,
        line=line,
        excerpt=excerpt(file.text, line, None) if line else "",
        sqlstate=said.sqlstate,
        detail=said.detail,
        hint=said.hint or _HINTS.get(said.sqlstate or ""),
        context=said.context,
    )


def in_run(name: str, file: MigrationFile, error: BaseException | Diagnosis) -> Failure:
    """A failure that no statement is to blame for: a deferred check, a lost connection."""
    said = error if isinstance(error, Diagnosis) else _said(error)
    return Failure(
        name=name,
        file=file.path,
        message=said.message,
        sqlstate=said.sqlstate,
        detail=said.detail,
        hint=said.hint,
        context=said.context,
    )


def ended(name: str, file: MigrationFile, *, transaction: bool) -> Failure:
    """The failure of a migration that did not leave the transaction that it began in."""
    if transaction:
        message = "the migration ended the run's transaction itself; what it committed stays"
        hint = "take its COMMIT or ROLLBACK out: a run is one transaction"
    else:
        message = "the file ends inside a transaction of its own, which was rolled back"
        hint = "end it with COMMIT"
    return Failure(name, file.path, message, hint=hint)


def _said(error: BaseException) -> Diagnosis:
    said = diagnosis(error)
    if said is not None:
        return said
    if isinstance(error, NegspaceError):
        state = error.details.get("sqlstate")
        return Diagnosis(error.message, state if isinstance(state, str) else None, hint=error.hint)
    if isinstance(error, KeyboardInterrupt):
        return Diagnosis("interrupted")
    return Diagnosis(f"{type(error).__name__}: {error}")


_WIDTH: Final = 96  # characters of a line that an excerpt shows


def excerpt(text: str, line: int, column: int | None) -> str:
    """One line of a file with its number, and a caret under a column.

    A long line is cut around the column; a tab before the caret stays a tab, so that the two
    line up in any terminal.
    """
    lines = text.splitlines()
    shown = lines[line - 1].rstrip() if line <= len(lines) else ""
    left = 0
    if column is not None and column > _WIDTH:
        left = column - _WIDTH // 2
    piece = shown[left : left + _WIDTH]
    head, tail = ("…" if left else ""), ("…" if left + _WIDTH < len(shown) else "")
    number = f"{line} | "
    first = f"{number}{head}{piece}{tail}"
    if column is None:
        return first
    before = head + shown[left : column - 1]
    pad = "".join("\t" if c == "\t" else " " for c in before)
    return f"{first}\n{' ' * (len(number) - 2)}| {pad}^"
