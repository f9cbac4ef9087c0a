"""PostgreSQL's lexical rules: a script's statements and tokens, each with its position.

After the scanner of the server (src/backend/parser/scan.l) and the statement splitting of
psql (psqlscan.l). A statement ends at a semicolon outside parentheses and outside a
``BEGIN ATOMIC … END`` body. psql guesses where such a body ends by counting CASE and END;
here it is exact: by the grammar, the body's END follows its ``ATOMIC`` or a semicolon.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Final, NamedTuple

__all__ = ["Kind", "LexError", "Script", "Statement", "Token", "split", "tokenize"]


class Kind(Enum):
    """What a token is."""

    WORD = "word"  # keyword or identifier without quotes
    QUOTED = "quoted identifier"
    STRING = "string"
    NUMBER = "number"
    PARAMETER = "parameter"
    OPERATOR = "operator"
    OTHER = "other"  # , ( ) [ ] . ; : and what the server will refuse
    COMMENT = "comment"


class Token(NamedTuple):
    """One token: ``script[start:end]``."""

    kind: Kind
    start: int
    end: int


class LexError(ValueError):
    """A script that can't be split; ``offset`` is where the offending piece begins."""

    def __init__(self, message: str, offset: int, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.hint = hint


_START: Final = r"[A-Za-z_\u0080-\U0010ffff]"
_TAG: Final = r"[A-Za-z0-9_\u0080-\U0010ffff]"
_WORD: Final = rf"{_START}(?:{_TAG}|\$)*"
_DIGITS: Final = r"[0-9](?:_?[0-9])*"
_NUMBER: Final = (
    r"0[xX](?:_?[0-9A-Fa-f])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+"
    rf"|(?:{_DIGITS}(?:\.(?!\.)(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][-+]?{_DIGITS})?"
)
_NEXT: Final = re.compile(
    rf"(?P<space>[ \t\n\r\f\v]+)"
    r"|(?P<line>--[^\n\r]*)"
    r"|(?P<block>/\*)"
    r"|(?P<string>(?:[eE]|[bBxX]|[uU]&)?')"
    r"|(?P<quoted>(?:[uU]&)?\")"
    rf"|(?P<word>{_WORD})"
    rf"|(?P<dollar>\$(?:{_START}{_TAG}*)?\$)"
    r"|(?P<parameter>\$[0-9]+)"
    rf"|(?P<number>{_NUMBER})"
    r"|(?P<operator>[~!@#^&|`?+\-*/%<>=]+)"
    r"|(?P<other>::|:=|\.\.|[^\\\x00])"
)
_PLAIN: Final = re.compile(r"[^']*(?:''[^']*)*'")
_BITS: Final = re.compile(r"[^']*'")  # B'' and X'' know no doubled quote
_ESCAPED: Final = re.compile(r"[^'\\]*(?:(?:''|\\[\s\S])[^'\\]*)*'")
_IDENTIFIER: Final = re.compile(r'[^"]*(?:""[^"]*)*"')
# A quote, white space with a line break in it, a quote: the same literal goes on.
_CONTINUED: Final = re.compile(
    r"[ \t\f\v]*(?:--[^\n\r]*)?[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*[\n\r])*'"
)
_NESTING: Final = re.compile(r"/\*|\*/")
# An operator of several characters ends in + or - only if it has one of these in it.
_FREE: Final = frozenset("~!@#%^&|`?")

_KINDS: Final = {
    "word": Kind.WORD,
    "number": Kind.NUMBER,
    "parameter": Kind.PARAMETER,
    "other": Kind.OTHER,
    "line": Kind.COMMENT,
}


def tokenize(text: str, start: int = 0, *, standard_strings: bool = True) -> Iterator[Token]:
    """The tokens of a script, comments among them, white space left out.

    Args:
        text: The script.
        start: Offset to begin at, outside any token.
        standard_strings: The server's ``standard_conforming_strings``: backslashes in plain
            quotes are ordinary characters.

    Raises:
        LexError: An unterminated quote or comment, a psql command, a NUL character.
    """
    at, length = start, len(text)
    while at < length:
        found = _NEXT.match(text, at)
        if found is None:
            raise _unreadable(text, at)
        group, end = found.lastgroup, found.end()
        if group == "space":
            at = end
            continue
        if group in _KINDS:
            kind = _KINDS[group]
        elif group == "string":
            kind, end = Kind.STRING, _string_end(text, at, end, standard_strings)
        else:
            kind, end = _long_token(text, at, end, group)
        yield Token(kind, at, end)
        at = end


def _long_token(text: str, at: int, end: int, group: str | None) -> tuple[Kind, int]:
    if group == "operator":
        return Kind.OPERATOR, _operator_end(text, at, end)
    if group == "dollar":
        close = text.find(text[at:end], end)
        if close < 0:
            raise LexError(
                f"dollar quote {text[at:end]} is never closed", at, f"close it with {text[at:end]}"
            )
        return Kind.STRING, close + end - at
    if group == "quoted":
        closed = _IDENTIFIER.match(text, end)
        if closed is None:
            raise LexError("quoted identifier is never closed", at, 'close it with "')
        return Kind.QUOTED, closed.end()
    return Kind.COMMENT, _comment_end(text, at)


def _unreadable(text: str, at: int) -> LexError:
    if text[at] == "\0":
        return LexError("NUL character", at, "PostgreSQL has no NUL in text: take it out")
    command = re.match(r"\\\S*", text[at:])
    name = command.group() if command else "\\"
    return LexError(
        f"psql command {name}",
        at,
        "a migration goes straight to the server, not through psql: say it in SQL or take it out",
    )


def _string_end(text: str, at: int, opened: int, standard_strings: bool) -> int:
    body = _string_body(text[at], standard_strings)
    while True:
        closed = body.match(text, opened)
        if closed is None:
            raise LexError("string is never closed", at, "close it with '")
        more = _CONTINUED.match(text, closed.end())
        if more is None:
            return closed.end()
        opened = more.end()


def _string_body(first: str, standard_strings: bool) -> re.Pattern[str]:
    if first in "bBxX":
        return _BITS
    return _ESCAPED if first in "eE" or (first == "'" and not standard_strings) else _PLAIN


def _operator_end(text: str, at: int, end: int) -> int:
    operator = text[at:end]
    for comment in ("--", "/*"):
        cut = operator.find(comment)
        if cut > 0:
            operator = operator[:cut]
    if len(operator) > 1 and operator[-1] in "+-" and not _FREE & set(operator):
        operator = operator.rstrip("+-") or operator[0]
    return at + len(operator)


def _comment_end(text: str, at: int) -> int:
    depth = 0
    for mark in _NESTING.finditer(text, at):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    raise LexError("comment is never closed", at, "close it with */; comments nest")


@dataclass(frozen=True)
class Statement:
    """One statement, without the comments before it and without its semicolon.

    Attributes:
        text: As it stands in the script.
        offset: Where it begins in the script, in characters from 0.
        line: The same as a line, from 1.
        column: And a column in that line, in characters from 1.
        tokens: Its tokens as the server understands them: comments left out, words without
            quotes in lower case, continued strings joined, line ends as LF.
    """

    text: str
    offset: int
    line: int
    column: int
    tokens: tuple[str, ...]

    def begins(self, *words: str) -> bool:
        """Whether the statement begins with these words, given in lower case."""
        return self.tokens[: len(words)] == words


@dataclass(frozen=True)
class Script:
    """A script split into its statements and comments."""

    text: str
    statements: tuple[Statement, ...]
    comments: tuple[Token, ...]

    @cached_property
    def _lines(self) -> list[int]:
        return _line_starts(self.text)

    def position(self, offset: int) -> tuple[int, int]:
        """The line and column, both from 1, of an offset."""
        return _position(self._lines, offset)


def _line_starts(text: str) -> list[int]:
    return [0, *(found.end() for found in re.finditer("\n", text))]


def _position(starts: list[int], offset: int) -> tuple[int, int]:
    line = bisect_right(starts, offset)
    return line, offset - starts[line - 1] + 1


def position(text: str, offset: int) -> tuple[int, int]:
    """The line and column, both from 1, of an offset in a text."""
    return _position(_line_starts(text), offset)


def split(text: str, *, standard_strings: bool = True) -> Script:
    """The statements of a script; empty ones are left out.

    A ``SET standard_conforming_strings`` at top level holds for what follows it.

    Args:
        text: The script.
        standard_strings: ``standard_conforming_strings`` at the script's beginning.

    Raises:
        LexError: See ``tokenize``; also a parenthesis or a ``BEGIN ATOMIC`` never closed.
    """
    starts = _line_starts(text)
    statements: list[Statement] = []
    comments: list[Token] = []
    at = 0
    while True:
        tokens, at = _one(text, at, standard_strings, comments)
        if tokens:
            offset = tokens[0].start
            line, column = _position(starts, offset)
            canonical = tuple(_canonical(text, token, standard_strings) for token in tokens)
            body = text[offset : tokens[-1].end]
            statements.append(Statement(body, offset, line, column, canonical))
            standard_strings = _strings_after(canonical, standard_strings)
        if at >= len(text):
            return Script(text, tuple(statements), tuple(comments))


def _one(
    text: str, start: int, standard_strings: bool, comments: list[Token]
) -> tuple[list[Token], int]:
    """The tokens of the statement that begins at ``start``, and where the next begins."""
    tokens: list[Token] = []
    opened: list[int] = []  # offsets of open parentheses
    body = _AtomicBody()
    for token in tokenize(text, start, standard_strings=standard_strings):
        if token.kind is Kind.COMMENT:
            comments.append(token)
            continue
        if token.kind is Kind.WORD:
            body.see(text[token.start : token.end].lower(), token.start, nested=bool(opened))
        else:
            mark = text[token.start : token.end] if token.kind is Kind.OTHER else ""
            if mark == ";" and not opened and body.opened_at is None:
                return tokens, token.end
            body.see(mark, token.start, nested=bool(opened))
            if mark == "(":
                opened.append(token.start)
            elif mark == ")" and opened:
                opened.pop()
        tokens.append(token)
    if body.opened_at is not None:
        raise LexError("BEGIN ATOMIC is never closed", body.opened_at, "close it with END;")
    if opened:
        raise LexError("parenthesis is never closed", opened[-1], "close it with )")
    return tokens, len(text)


class _AtomicBody:
    """Follows one statement and knows whether it is inside ``BEGIN ATOMIC … END``."""

    _heads = (
        ("create", "function"),
        ("create", "procedure"),
        ("create", "or", "replace", "function"),
        ("create", "or", "replace", "procedure"),
    )

    def __init__(self) -> None:
        self.opened_at: int | None = None
        self._head: tuple[str, ...] = ()
        self._creates = True  # a routine, as far as can be told
        self._before = ""

    def see(self, word: str, offset: int, *, nested: bool) -> None:
        """Take the next token in: a word in lower case, a mark, or an empty text."""
        if self.opened_at is not None:
            if word == "end" and self._before in {";", "atomic"} and not nested:
                self.opened_at = None
        elif self._creates and self._head in self._heads:
            if word == "atomic" and self._before == "begin" and not nested:
                self.opened_at = offset
        elif self._creates:
            self._head = (*self._head, word)
            self._creates = any(head[: len(self._head)] == self._head for head in self._heads)
        self._before = word


def _canonical(text: str, token: Token, standard_strings: bool) -> str:
    piece = text[token.start : token.end]
    if token.kind is Kind.WORD:
        # As the server folds: ASCII only, whatever the locale.
        return piece.lower() if piece.isascii() else _fold(piece)
    if token.kind is Kind.STRING:
        return _joined(piece, standard_strings)
    return piece


def _fold(word: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in word)


def _joined(literal: str, standard_strings: bool) -> str:
    """A string with its continued pieces joined and its line ends as LF."""
    if "\n" not in literal and "\r" not in literal:
        return literal
    if not literal.startswith("$"):
        literal = _pieces_joined(literal, standard_strings)
    return literal.replace("\r\n", "\n")


def _pieces_joined(literal: str, standard_strings: bool) -> str:
    quote = literal.index("'")
    body = _string_body(literal[0], standard_strings)
    out, at = literal[: quote + 1], quote + 1
    while (closed := body.match(literal, at)) is not None:
        out += closed.group()[:-1]
        more = _CONTINUED.match(literal, closed.end())
        if more is None:
            break
        at = more.end()
    return out + "'"


def _strings_after(tokens: tuple[str, ...], before: bool) -> bool:
    """``standard_conforming_strings`` after a statement."""
    if tokens[0] not in {"set", "reset"} or "standard_conforming_strings" not in tokens:
        return before
    if tokens[0] == "reset":
        return True
    value = tokens[-1].strip("'")
    return value.lower() not in {"off", "false", "no", "0", "f", "n"}
