"""How a statement may wait for locks: told from its tokens. Pure.

Whoever waits for a strong lock holds up everybody who comes after it, readers too.
"""

from __future__ import annotations

from enum import Enum
from itertools import pairwise
from typing import Final

from negspace.migrate.lexer import Statement
from negspace.migrate.statements import needs_autocommit

__all__ = ["Manner", "manner_of", "new_table", "sets_lock_timeout"]


class Manner(Enum):
    """How long a statement may wait, and whether it is tried again."""

    FREE = "waits for nobody, or ends the transaction: is left alone"
    NEW = "makes a table, or an index on one so made: waits for nobody, leaves nothing to settle"
    BOUND = "holds up no reader while it waits: only the run's total bounds it"
    EXEMPT = "leaves something half-made when it is stopped: waits as long as it takes"
    SLICED = "makes way after a slice, and is tried again"


# A row lock that is waited for holds up no reader, and to repeat would cost the work done.
_ROWS: Final = frozenset(
    {"insert", "update", "delete", "merge", "select", "with", "copy", "values", "table"}
)
_FREE: Final = frozenset(
    {"savepoint", "release", "rollback", "abort", "begin", "start", "commit", "end", "prepare"}
    | {"set", "reset", "show", "discard", "declare", "fetch", "close", "listen", "notify"}
    | {"deallocate", "checkpoint"}
)
# Outside a transaction these may have committed a part of their work.
_PARTIAL: Final = frozenset({"do", "call", "vacuum", "cluster", "reindex", "analyze"})
_REFERS: Final = frozenset({"references", "inherits", "partition", "like"})


def manner_of(statement: Statement, *, inside: bool, fresh: frozenset[str]) -> Manner:
    """How it may wait.

    Args:
        statement: Any.
        inside: A transaction is open around it.
        fresh: The tables made in the same migration, from ``new_table``.
    """
    first = statement.tokens[0]
    if first in _FREE or "nowait" in statement.tokens:
        return Manner.FREE
    if not inside and needs_autocommit(statement):
        return Manner.EXEMPT
    if first in _ROWS or (not inside and first in _PARTIAL):
        return Manner.BOUND
    if _makes_enum(statement):
        return Manner.BOUND
    if new_table(statement) is not None or _indexed(statement) in fresh:
        return Manner.NEW
    return Manner.SLICED


def _makes_enum(statement: Statement) -> bool:
    """Whether it makes an enum, or adds a value to one, which holds up no reader of a table.

    A slice needs a savepoint, and at one PostgreSQL does not see that the enum was made in the
    same transaction: it would refuse the values that are added (55P04).
    """
    words = statement.tokens
    if statement.begins("create", "type"):
        return "enum" in words
    return statement.begins("alter", "type") and ("add", "value") in pairwise(words)


def new_table(statement: Statement) -> str | None:
    """The table that it makes without a look at any other, or None."""
    if not statement.begins("create", "table") or _REFERS & set(statement.tokens):
        return None
    if _has_query(statement.tokens):
        return None
    words = statement.tokens[2:]
    return _name(words[3:] if words[:3] == ("if", "not", "exists") else words)


def _has_query(words: tuple[str, ...]) -> bool:
    """Whether a CREATE TABLE goes on AS a query; GENERATED … AS stands in parentheses."""
    depth = 0
    for word in words:
        depth += (word == "(") - (word == ")")
        if word == "as" and depth == 0:
            return True
    return False


def _indexed(statement: Statement) -> str | None:
    """The table that a CREATE INDEX is on."""
    unique = statement.begins("create", "unique", "index")
    if not unique and not statement.begins("create", "index"):
        return None
    words = statement.tokens
    return _name(words[words.index("on") + 1 :]) if "on" in words else None


def _name(words: tuple[str, ...]) -> str:
    qualified = words[1:2] == (".",)
    return "".join(words[: 3 if qualified else 1])


def sets_lock_timeout(statement: Statement) -> bool:
    """Whether the file rules its lock timeout itself."""
    return statement.begins("set") and "lock_timeout" in statement.tokens[:3]
