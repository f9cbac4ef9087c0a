"""Which statements PostgreSQL refuses inside a transaction, by their words. Pure.

After the calls of ``PreventInTransactionBlock`` in the server's sources. What hangs on the
catalog (REINDEX of a partitioned table) can't be told from the words: declare it.
"""

from __future__ import annotations

import re
from typing import Final

from negspace.migrate.lexer import Statement

__all__ = ["command", "controls_transactions", "options_end"]

_ALWAYS: Final = (
    ("vacuum",),
    ("alter", "system"),
    ("create", "database"),
    ("drop", "database"),
    ("create", "tablespace"),
    ("drop", "tablespace"),
    ("commit", "prepared"),
    ("rollback", "prepared"),
    ("discard", "all"),
)
_INDEXES: Final = (
    ("create", "index", "concurrently"),
    ("create", "unique", "index", "concurrently"),
    ("drop", "index", "concurrently"),
)
_OFF: Final = frozenset({"false", "off", "0", "'false'", "'off'", "'0'", "none"})


def command(statement: Statement) -> str | None:
    """What the statement is, where it runs outside a transaction only; else None.

    Returns:
        Its leading words, such as ``CREATE INDEX CONCURRENTLY``.
    """
    for words in (*_ALWAYS, *_INDEXES):
        if statement.begins(*words):
            return " ".join(words).upper()
    first, second = (*statement.tokens[:2], "")[:2]
    if first == "reindex":
        return _reindex(statement.tokens)
    if first == "cluster":
        at = options_end(statement.tokens)
        return "CLUSTER" if set(statement.tokens[at:]) <= {"verbose"} else None
    if second == "subscription":
        return _subscription(statement.tokens)
    if first == "alter" and second == "database" and _follow(statement, "set", "tablespace"):
        return "ALTER DATABASE SET TABLESPACE"
    if first == "alter" and second == "table" and _detaches_concurrently(statement.tokens):
        return "ALTER TABLE DETACH PARTITION CONCURRENTLY"
    return None


def options_end(tokens: tuple[str, ...]) -> int:
    """Where the words go on after ``REINDEX (…)``, ``CLUSTER (…)``."""
    return tokens.index(")") + 1 if tokens[1:2] == ("(",) and ")" in tokens else 1


def _reindex(tokens: tuple[str, ...]) -> str | None:
    at = options_end(tokens)
    options = tokens[1:at]
    kind = tokens[at] if at < len(tokens) else ""
    concurrent = tokens[at + 1 : at + 2] == ("concurrently",)
    if "concurrently" in options:
        after = options[options.index("concurrently") + 1]
        concurrent = after not in _OFF
    if concurrent:
        return f"REINDEX {kind.upper()} CONCURRENTLY"
    return f"REINDEX {kind.upper()}" if kind in {"schema", "database", "system"} else None


def _subscription(tokens: tuple[str, ...]) -> str | None:
    """Those that make or drop a slot on the publisher, or copy from it."""
    text = " ".join(tokens)
    if tokens[0] == "create":
        off = re.search(r"\b(connect|create_slot) = ('?)(false|off|0)\b", text)
        return None if off else "CREATE SUBSCRIPTION"
    if tokens[0] == "drop":
        return "DROP SUBSCRIPTION"
    if tokens[0] == "alter" and re.search(
        r" refresh\b| (set|add|drop) publication\b| set \([^)]*\b(failover|two_phase)\b", text
    ):
        return "ALTER SUBSCRIPTION"
    return None


def _follow(statement: Statement, *words: str) -> bool:
    return any(
        statement.tokens[at : at + len(words)] == words for at in range(len(statement.tokens))
    )


def _detaches_concurrently(tokens: tuple[str, ...]) -> bool:
    return tokens[-1] == "concurrently" and "detach" in tokens


_CONTROLS: Final = re.compile(r"\b(?:commit|rollback)\b", re.IGNORECASE)


def controls_transactions(statement: Statement) -> bool:
    """Whether the statement may commit by itself: CALL, and DO with a COMMIT in its body."""
    if statement.begins("call"):
        return True
    return statement.begins("do") and any(_CONTROLS.search(token) for token in statement.tokens)
