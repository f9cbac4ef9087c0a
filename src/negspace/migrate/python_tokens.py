"""Python migrations: their comments, and their tokens as every Python version gives them.

Python 3.12 splits an f-string into tokens where 3.11 gives one, so such a string is taken
whole, as it stands in the file: a checksum must not depend on who computes it.
"""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterator
from typing import Final

__all__ = ["canonical", "comments"]

_LAYOUT: Final = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
_NAMES: Final = {tokenize.NEWLINE: "\n", tokenize.INDENT: "\t", tokenize.DEDENT: "\b"}


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(text.replace("\r\n", "\n")).readline)


def comments(text: str) -> Iterator[tuple[int, str]]:
    """The line, from 1, and text of each comment."""
    return ((t.start[0], t.string) for t in _tokens(text) if t.type == tokenize.COMMENT)


def canonical(text: str) -> Iterator[str]:
    """The tokens without comments, blank lines and the width of indentation."""
    lines = text.replace("\r\n", "\n").splitlines(keepends=True)
    depth, began = 0, (0, 0)
    for token in _tokens(text):
        name = tokenize.tok_name[token.type]
        if name in {"FSTRING_START", "TSTRING_START"}:
            began = began if depth else token.start
            depth += 1
        elif name in {"FSTRING_END", "TSTRING_END"}:
            depth -= 1
            if depth == 0:
                yield _between(lines, began, token.end)
        elif depth == 0 and token.type not in _LAYOUT:
            yield _NAMES.get(token.type, token.string)


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    (first, left), (last, right) = start, end
    if first == last:
        return lines[first - 1][left:right]
    return "".join([lines[first - 1][left:], *lines[first : last - 1], lines[last - 1][:right]])
