"""What a statement means to whoever runs it: transactions, the client, the whole server. Pure."""

from __future__ import annotations

from typing import Final

from negspace.migrate.autocommit import command
from negspace.migrate.lexer import Statement

__all__ = [
    "copies",
    "ends_transaction",
    "is_cluster_wide",
    "is_frame",
    "needs_autocommit",
]

_ENDS: Final = (
    ("begin",),
    ("start", "transaction"),
    ("commit",),
    ("end",),
    ("abort",),
    ("rollback",),
    ("prepare", "transaction"),
)
_FRAME: Final = {"begin", "start", "commit", "end"}

_CLUSTER: Final = ("role", "user", "group", "database", "tablespace")


def ends_transaction(statement: Statement) -> bool:
    """Whether it begins or ends a transaction, and so the one that it runs in."""
    if not any(statement.begins(*words) for words in _ENDS):
        return False
    return not (statement.tokens[0] == "rollback" and "to" in statement.tokens[1:3])


def is_frame(statement: Statement) -> bool:
    """Whether it is the BEGIN or COMMIT of a file that has a transaction of its own."""
    if statement.begins("commit", "prepared"):
        return False
    return ends_transaction(statement) and statement.tokens[0] in _FRAME


def needs_autocommit(statement: Statement) -> bool:
    """Whether PostgreSQL refuses it inside a transaction."""
    return command(statement) is not None


def copies(statement: Statement) -> bool:
    """Whether it is a COPY with the client's standard input or output."""
    return statement.begins("copy") and any(
        pair in {("from", "stdin"), ("to", "stdout")}
        for pair in zip(statement.tokens, statement.tokens[1:], strict=False)
    )


def is_cluster_wide(statement: Statement) -> bool:
    """Whether it changes what all databases of a server share: roles, settings, tablespaces."""
    verb, rest = statement.tokens[0], statement.tokens[1:3]
    if verb in {"create", "alter", "drop"} and rest:
        if rest == ("user", "mapping"):  # of a foreign server, in one database
            return False
        return rest[0] == "system" or rest[0] in _CLUSTER
    # Of a role to a role; a privilege is granted ON something.
    return verb in {"grant", "revoke"} and "on" not in statement.tokens
