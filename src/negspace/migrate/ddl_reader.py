"""Reads a statement's tokens from left to right: words, names, groups in parentheses. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Name", "Reader", "identifier", "parts"]


class Name(NamedTuple):
    """The name of an object, as the server folds it; no schema where none is said."""

    schema: str | None
    name: str

    def __str__(self) -> str:
        return self.name if self.schema is None else f"{self.schema}.{self.name}"


def identifier(token: str) -> str:
    """What a token names: quotes taken off."""
    return token[1:-1].replace('""', '"') if token.startswith('"') else token


class Reader:
    """A place in a list of tokens; past its end every token is empty."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self._tokens = tokens
        self._at = 0

    def peek(self, ahead: int = 0) -> str:
        """The next token, or one after it."""
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else ""

    def next(self) -> str:
        """Take the next token, whatever it is."""
        token = self.peek()
        self._at += 1
        return token

    def take(self, *words: str) -> bool:
        """Take these words if they come next."""
        found = self._tokens[self._at : self._at + len(words)] == words
        if found:
            self._at += len(words)
        return found

    def take_any(self, *words: str) -> bool:
        """Take the next token if it is one of these."""
        return self.peek() in words and bool(self.next())

    def identifier(self) -> str:
        """Take a name of one part."""
        return identifier(self.next())

    def name(self) -> Name:
        """Take a name that may have a schema; a database before it is left out."""
        pieces = [self.identifier()]
        while self.take("."):
            pieces.append(self.identifier())
        return Name(pieces[-2] if len(pieces) > 1 else None, pieces[-1])

    def group(self) -> tuple[str, ...]:
        """Take a group in parentheses; what is inside. Nothing where none begins."""
        if self.peek() != "(":
            return ()
        begin, depth = self._at + 1, 0
        while self._at < len(self._tokens):
            depth += _depth(self.next())
            if depth == 0:
                return self._tokens[begin : self._at - 1]
        return self._tokens[begin:]

    def until(self, *words: str) -> tuple[str, ...]:
        """Take everything before the first of these words outside parentheses."""
        begin, depth = self._at, 0
        while self._at < len(self._tokens):
            if depth == 0 and self.peek() in words:
                break
            depth += _depth(self.next())
        return self._tokens[begin : self._at]

    def skip_to(self, word: str) -> bool:
        """Go on after this word outside parentheses; False at the end."""
        self.until(word)
        return self.take(word)

    def rest(self) -> tuple[str, ...]:
        """Take everything left."""
        begin, self._at = self._at, len(self._tokens)
        return self._tokens[begin:]

    def ends(self, word: str) -> bool:
        """Whether the last token is this word."""
        return self._tokens[-1:] == (word,)


def _depth(token: str) -> int:
    return (token in {"(", "["}) - (token in {")", "]"})


def parts(tokens: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The pieces between the commas that stand outside parentheses."""
    reader = Reader(tokens)
    while reader.peek():
        yield reader.until(",")
        reader.take(",")
