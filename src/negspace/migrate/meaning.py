"""Two catalogs compared by meaning: what only looks like a difference is none.

Beyond ``catalog.compare``, which knows no order of columns: the name that PostgreSQL gave to
the sequence of a serial column, the comments and white space in a routine's body, and the
moment at which an object was made, where its text holds that: ``'now'::timestamp`` in a view.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from negspace.migrate.catalog import Catalog, Difference, Object, compare
from negspace.migrate.lexer import Kind, LexError, tokenize

__all__ = ["differences"]

_ROUTINES: Final = {"function", "procedure"}
# A view's option that says what holds without it.
_OFF: Final = re.compile(r" with \(security_(?:invoker|barrier) = 'false'\)")
# A moment to the microsecond: nobody writes one, PostgreSQL puts it in place of 'now'.
_MOMENT: Final = re.compile(r"'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+[^']*'::timestamp")


def differences(left: Catalog, right: Catalog) -> tuple[Difference, ...]:
    """The objects that two catalogs don't have alike, in order of their identity."""
    found = compare(left, right)
    if not found:
        return ()
    found = compare(left, _with_sequences_of(left, right))
    return tuple(difference for difference in found if not _says_the_same(difference))


# ── sequences that PostgreSQL named ──────────────────────────────────────────────────────


def _owners(catalog: Catalog) -> Mapping[str, str]:
    """The column that each owned sequence belongs to."""
    said = (thing for thing in catalog.objects if thing.kind == "sequence owner")
    return {thing.definition.rpartition(" owned by ")[2]: thing.name for thing in said}


def _with_sequences_of(left: Catalog, right: Catalog) -> Catalog:
    """The right catalog with the left one's names for the sequences of the same columns."""
    theirs = _owners(left)
    names = {
        name: theirs[column]
        for column, name in _owners(right).items()
        if column in theirs and theirs[column] != name
    }
    if not names:
        return right
    either = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    pattern = re.compile(rf'(?<![\w."$])(?:{either})(?![\w"$])')

    def renamed(text: str) -> str:
        return pattern.sub(lambda found: names[found.group()], text)

    def of(thing: Object) -> Object:
        return replace(thing, name=renamed(thing.name), canonical=renamed(thing.canonical))

    return replace(right, objects=tuple(of(thing) for thing in right.objects))


# ── bodies ───────────────────────────────────────────────────────────────────────────────


def _says_the_same(difference: Difference) -> bool:
    if difference.left is None or difference.right is None:
        return False
    left, right = (_MOMENT.sub("'now'::timestamp", t) for t in (difference.left, difference.right))
    if difference.identity.startswith("view "):
        left, right = _OFF.sub("", left), _OFF.sub("", right)
    if left == right:
        return True
    if difference.identity.split(" ", 1)[0] not in _ROUTINES:
        return False
    try:
        return list(_words(left)) == list(_words(right))
    except LexError:  # a body in another language
        return False


def _words(text: str) -> Iterator[str]:
    """The tokens without comments, those of dollar-quoted bodies too."""
    for token in tokenize(text):
        piece = text[token.start : token.end]
        if token.kind is Kind.STRING and piece.startswith("$"):
            tag = piece[: piece.index("$", 1) + 1]
            yield from _words(piece[len(tag) : -len(tag)])
        elif token.kind is not Kind.COMMENT:
            yield piece
