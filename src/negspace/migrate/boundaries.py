"""Where a run must commit because of a new enum value. Pure.

``ALTER TYPE … ADD VALUE`` gives a value that can't be used before its transaction commits;
from PostgreSQL 17 on it can, where the type itself was made in the same transaction. So a later
statement that has the value as a literal needs a commit before it. What is looked at are
literals and the bodies that run or are parsed at once (DO, and functions in SQL); a use that no
literal shows fails with SQLSTATE 55P04.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from negspace.migrate.lexer import Kind, LexError, Statement, tokenize
from negspace.migrate.script import MigrationFile

__all__ = ["Boundary", "Values"]


@dataclass(frozen=True)
class Boundary:
    """A commit that an enum value needs.

    Attributes:
        at: Index of the statement of its file that needs it; 0 is before the file.
        line: Of the statement that uses the value.
    """

    at: int
    line: int | None
    type: str
    value: str

    @property
    def reason(self) -> str:
        """Why, in words."""
        where = f" in line {self.line}" if self.line else ""
        return f"new value '{self.value}' of {self.type} is used{where}"


_SEES_ITS_OWN_TYPES: Final = 170_000


@dataclass
class Values:
    """The enum values that the present transaction has added, and the types it has made."""

    server_version: int
    added: dict[str, str] = field(default_factory=dict)  # value → type
    made: set[str] = field(default_factory=set)

    def committed(self) -> None:
        """The transaction is over: everything in it can be used."""
        self.added.clear()
        self.made.clear()

    def boundaries(self, file: MigrationFile) -> tuple[Boundary, ...]:
        """Where a file must be preceded, or interrupted, by a commit; it is then run.

        A value of an earlier file is committed before this file: a file is cut only where
        it adds a value and uses it itself.
        """
        if file.is_python:
            return self._python(file)
        if not self.added and "add" not in file.text.lower():
            self._make(file.statements)
            return ()
        before = self._first_use(file) if self.added else None
        if before is not None:
            self.committed()
        return (*((before,) if before else ()), *self._inside(file))

    def _first_use(self, file: MigrationFile) -> Boundary | None:
        """The first use of a value that was added before the file."""
        for statement in file.statements:
            used = self._used(statement)
            if used is not None:
                return Boundary(0, statement.line, self.added[used], used)
        return None

    def _inside(self, file: MigrationFile) -> Iterator[Boundary]:
        for at, statement in enumerate(file.statements):
            used = self._used(statement)
            if used is not None:
                yield Boundary(at, statement.line, self.added[used], used)
                self.committed()
            self._see(statement)

    def _python(self, file: MigrationFile) -> tuple[Boundary, ...]:
        used = next((v for v in self.added if f"'{v}'" in file.text or f'"{v}"' in file.text), None)
        if used is None:
            return ()
        found = Boundary(0, None, self.added[used], used)
        self.committed()
        return (found,)

    def _used(self, statement: Statement) -> str | None:
        if not self.added or _addition(statement) is not None:
            return None
        return next((text for text in _literals(statement) if text in self.added), None)

    def _see(self, statement: Statement) -> None:
        added = _addition(statement)
        if added is not None:
            name, value = added
            if name not in self.made or self.server_version < _SEES_ITS_OWN_TYPES:
                self.added[value] = name
        self._make((statement,))

    def _make(self, statements: tuple[Statement, ...]) -> None:
        for statement in statements:
            if statement.begins("create", "type") and "enum" in statement.tokens:
                self.made.add(_last_name(statement.tokens[2 : statement.tokens.index("as")]))


def _addition(statement: Statement) -> tuple[str, str] | None:
    """The type and the value of ``ALTER TYPE … ADD VALUE``."""
    tokens = statement.tokens
    if not statement.begins("alter", "type") or ("add", "value") not in pairwise(tokens):
        return None
    at = tokens.index("add", 2)
    value = next((_content(token) for token in tokens[at:] if _is_literal(token)), None)
    return None if value is None else (_last_name(tokens[2:at]), value)


def _last_name(tokens: tuple[str, ...]) -> str:
    name = tokens[-1]
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _is_literal(token: str) -> bool:
    return token.endswith("'") or (token.startswith("$") and token.endswith("$"))


def _content(token: str) -> str:
    if token.startswith("$"):
        tag = token[: token.index("$", 1) + 1]
        return token[len(tag) : -len(tag)]
    return token[token.index("'") + 1 : -1].replace("''", "'")


_PARSED_AT_ONCE: Final = frozenset({"sql", "'sql'"})


def _literals(statement: Statement) -> Iterator[str]:
    """The contents of its literals, and of those in a body that PostgreSQL reads at once."""
    tokens = statement.tokens
    body = statement.begins("do") or (
        tokens[0] == "create"
        and any(pair[0] == "language" and pair[1] in _PARSED_AT_ONCE for pair in pairwise(tokens))
    )
    for token in tokens:
        if not _is_literal(token):
            continue
        content = _content(token)
        yield content
        if body:
            yield from _nested(content)


def _nested(body: str) -> Iterator[str]:
    try:
        for token in tokenize(body):
            if token.kind is Kind.STRING:
                yield _content(body[token.start : token.end])
    except LexError:
        return  # no SQL: a body in another language
