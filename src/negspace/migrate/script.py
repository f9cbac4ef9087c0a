"""What one migration file says: its directives, its statements, its checksum. Pure.

The checksum is taken over the tokens, so that comments, white space, line ends, a licence
header and the case of keywords may change after a file was applied, and nothing else. The
algorithm's name is stored beside it, so that a later version may use another.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from negspace.errors import MigrationFileError

if TYPE_CHECKING:
    from negspace.migrate.lexer import Script, Statement

__all__ = [
    "PYTHON_ALGORITHM",
    "SQL_ALGORITHM",
    "Directives",
    "MigrationFile",
    "Problem",
    "as_problem",
    "check_waiver",
]

SQL_ALGORITHM: Final = "negspace-tokens-1"
PYTHON_ALGORITHM: Final = "negspace-python-1"

_DIRECTIVE: Final = re.compile(r"^(?:--|#)\s*negspace\s*:\s*(\S*)[ \t]*(.*?)\s*$")


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file; line and column count from 1, None for the file as a whole."""

    file: Path
    message: str
    hint: str
    line: int | None = None
    column: int | None = None

    @property
    def where(self) -> str:
        """``file:line:column``, as editors and terminals link it."""
        return ":".join(str(p) for p in (self.file, self.line, self.column) if p is not None)

    def error(self) -> MigrationFileError:
        """The same, to raise."""
        return MigrationFileError(
            f"{self.where}: {self.message}",
            hint=self.hint,
            file=str(self.file),
            line=self.line,
            column=self.column,
        )


@dataclass(frozen=True)
class Directives:
    """What the comments ask of the runner.

    Attributes:
        transaction: False where the file's statements run one by one, outside the run's
            transaction (``no-transaction``).
        strip_transaction: The file's own BEGIN and COMMIT are left out
            (``strip-transaction``).
        irreversible: Why there is no way down, or None (``irreversible WHY``).
        replaces: The migrations that this one is a squash of, a line each: ``replaces NAME``,
            or ``replaces NAME, NAME, …`` where the first is itself a squash of the others.
    """

    transaction: bool = True
    strip_transaction: bool = False
    irreversible: str | None = None
    replaces: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class MigrationFile:
    """One file, read once; what it says is worked out when it is asked for.

    Attributes:
        strip_transaction: Leave the file's own BEGIN and COMMIT out, as its directive
            ``strip-transaction`` would.
        autocommit: Another tool's mark says what the directive ``no-transaction`` would.

    Reading is cheap and lexing is not: a folder whose files are all applied and unchanged to
    the byte is never lexed, nor is the lexer imported.
    """

    path: Path
    data: bytes
    strip_transaction: bool = False
    autocommit: bool = False

    @property
    def is_python(self) -> bool:
        """Whether this is a ``.py`` migration."""
        return self.path.suffix == ".py"

    @cached_property
    def bytes_checksum(self) -> str:
        """SHA-256 of the bytes, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def algorithm(self) -> str:
        """The name of the algorithm of ``checksum``."""
        return PYTHON_ALGORITHM if self.is_python else SQL_ALGORITHM

    @cached_property
    def text(self) -> str:
        """The file as text; a UTF-8 byte-order mark is left out.

        Raises:
            MigrationFileError: Not UTF-8; the message has the line.
        """
        if self.data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise Problem(self.path, "UTF-16, not UTF-8", "save the file as UTF-8", 1).error()
        try:
            return self.data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = self.data.count(b"\n", 0, error.start) + 1
            byte = self.data[error.start]
            raise Problem(
                self.path, f"byte 0x{byte:02x} is not UTF-8", "save the file as UTF-8", line
            ).error() from None

    @cached_property
    def script(self) -> Script:
        """The statements of a SQL file.

        Raises:
            MigrationFileError: It can't be split into statements.
        """
        from negspace.migrate.lexer import LexError, position, split

        try:
            return split(self.text)
        except LexError as error:
            line, column = position(self.text, error.offset)
            raise Problem(self.path, error.message, error.hint, line, column).error() from None

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        """What runs of a SQL file; nothing of a Python file."""
        if self.is_python:
            return ()
        found = self.script.statements
        if self.transaction and (self.strip_transaction or self.directives.strip_transaction):
            from negspace.migrate.statements import is_frame

            return tuple(statement for statement in found if not is_frame(statement))
        return found

    @cached_property
    def transaction(self) -> bool:
        """Whether it runs inside the run's transaction.

        It does not where it says so, and where PostgreSQL would refuse one of its statements
        there: CREATE INDEX CONCURRENTLY, VACUUM, ALTER SYSTEM and the like.
        """
        if self.is_python or not self.directives.transaction:
            return self.directives.transaction
        from negspace.migrate.statements import needs_autocommit

        return not any(needs_autocommit(statement) for statement in self.script.statements)

    @cached_property
    def directives(self) -> Directives:
        """What the comments ask of the runner.

        Raises:
            MigrationFileError: A directive that is unknown or lacks its reason.
        """
        found = _directives(self.path, self.comments())
        return replace(found, transaction=False) if self.autocommit else found

    @property
    def replaces(self) -> tuple[tuple[str, ...], ...]:
        """See ``Directives``; empty where the file is no squash, which needs no reading of it."""
        if b"replaces" not in self.data or self.problem() is not None:
            return ()
        return self.directives.replaces

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over the tokens, in hexadecimal.

        Raises:
            MigrationFileError: The file can't be read as what it is.
        """
        digest = hashlib.sha256()
        for piece in self._canonical():
            data = piece.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
        return digest.hexdigest()

    @cached_property
    def functions(self) -> frozenset[str]:
        """The names of a Python file's top-level functions; none of a SQL file.

        Raises:
            MigrationFileError: A syntax error.
        """
        if not self.is_python:
            return frozenset()
        import ast

        try:
            tree = ast.parse(self.text, str(self.path))
        except SyntaxError as error:
            raise Problem(
                self.path, f"no Python: {error.msg}", "correct it", error.lineno, error.offset
            ).error() from None
        return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))

    def problem(self) -> Problem | None:
        """What is wrong with the file by itself, or None."""
        try:
            if self.is_python and "up" not in self.functions:
                return Problem(self.path, "no function up(connection)", "define it")
            _ = self.directives, self.checksum
        except MigrationFileError as error:
            return as_problem(error, self.path)
        return None

    def comments(self) -> Iterable[tuple[int, str]]:
        """The comments, each with its line."""
        if self.is_python:
            _ = self.functions  # a syntax error is said as one
            from negspace.migrate.python_tokens import comments

            return comments(self.text)
        script = self.script
        return (
            (script.position(token.start)[0], script.text[token.start : token.end])
            for token in script.comments
        )

    def _canonical(self) -> Iterable[str]:
        if self.is_python:
            _ = self.functions
            from negspace.migrate.python_tokens import canonical

            return canonical(self.text)
        return (piece for statement in self.script.statements for piece in (*statement.tokens, ";"))


def as_problem(error: MigrationFileError, path: Path) -> Problem:
    """A ``MigrationFileError`` as a value again."""
    line, column = error.details.get("line"), error.details.get("column")
    problem = Problem(
        path,
        error.message,
        error.hint or "",
        line if isinstance(line, int) else None,
        column if isinstance(column, int) else None,
    )
    return replace(problem, message=error.message.removeprefix(f"{problem.where}: "))


_ALLOW: Final = re.compile(r"(?P<rule>[a-z][a-z0-9-]*)(?P<file>\s+in this file)?\s+because\s+\S.*")


def check_waiver(path: Path, line: int, said: str) -> tuple[str, bool]:
    """What an ``allow`` directive allows: the lint rule, and whether in the whole file.

    Args:
        path: Of the file.
        line: Of the directive, from 1.
        said: What follows ``allow``.

    Raises:
        MigrationFileError: No rule, or no reason.
    """
    found = _ALLOW.fullmatch(said)
    if found is None:
        raise Problem(
            path,
            f"allow without a rule or a reason: {said!r}",
            "-- negspace: allow RULE because WHY; negspace migrate lint names the rules",
            line,
        ).error()
    return found["rule"], found["file"] is not None


def _directives(path: Path, comments: Iterable[tuple[int, str]]) -> Directives:
    flags: set[str] = set()
    replaces: list[tuple[str, ...]] = []
    irreversible = None
    for line, comment in comments:
        found = _DIRECTIVE.match(comment)
        if found is None:
            continue
        name, rest = found.groups()
        if name in {"no-transaction", "strip-transaction"} and not rest:
            flags.add(name)
        elif name == "irreversible":
            if not rest:
                raise Problem(
                    path, "irreversible without a reason", "-- negspace: irreversible WHY", line
                ).error()
            irreversible = rest
        elif name == "replaces" and rest:
            replaces.append(tuple(part.strip() for part in rest.split(",")))
        elif name == "allow":
            check_waiver(path, line, rest)
        else:
            raise Problem(
                path,
                f"unknown directive {' '.join((name, rest)).strip()!r}",
                "negspace knows no-transaction, strip-transaction, irreversible WHY,"
                " replaces NAME and allow RULE because WHY",
                line,
            ).error()
    return Directives(
        transaction="no-transaction" not in flags,
        strip_transaction="strip-transaction" in flags,
        irreversible=irreversible,
        replaces=tuple(replaces),
    )
