"""What a statement that runs outside a transaction left in the catalog, and what follows.

PostgreSQL documents what each leaves when it dies halfway: CREATE INDEX CONCURRENTLY an
invalid index; REINDEX CONCURRENTLY one whose name ends in ``_ccnew`` (not yet swapped) or
``_ccold`` (swapped already); DETACH PARTITION CONCURRENTLY a pending one, which FINALIZE ends;
DROP INDEX CONCURRENTLY the index, invalid. What was there before is looked at before the
statement runs; the difference tells. Where nothing can tell, a person is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from negspace.database import Connection, only, rows, sql
from negspace.errors import RefusedError
from negspace.migrate import autocommit
from negspace.migrate.lexer import Statement
from negspace.migrate.queries import query

__all__ = ["Verdict", "clear_the_way", "decide", "look"]

Before = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What to do about a statement that was under way when its run ended.

    Attributes:
        outcome: ``done``, ``redo``, or ``ask``: the catalog can't tell.
        because: What was seen, and what was done about it.
    """

    outcome: Literal["done", "redo", "ask"]
    because: str


_REPEATABLE: Final = frozenset(
    {
        "VACUUM",
        "ALTER SYSTEM",
        "CLUSTER",
        "REINDEX SCHEMA",
        "REINDEX DATABASE",
        "REINDEX SYSTEM",
        "ALTER DATABASE SET TABLESPACE",
        "ALTER SUBSCRIPTION",
        "DISCARD ALL",
    }
)


def look(connection: Connection, statement: Statement) -> dict[str, Any] | None:
    """What the catalog holds of the statement's object before it runs.

    Returns:
        A value for ``decide``; None where the catalog will not be able to tell.
    """
    kind = autocommit.command(statement)
    if kind is None:
        return None
    if kind in _REPEATABLE:
        return {}
    looker = _handler(kind)
    return looker[0](connection, statement) if looker else None


def decide(connection: Connection, statement: Statement, before: Before | None) -> Verdict:
    """What became of a statement that was under way, its connection gone; leftovers are removed.

    Args:
        connection: In autocommit, its search path as the statement had it.
        statement: As it was sent.
        before: From ``look``, just before it was sent.

    Raises:
        RefusedError: What it left is being worked on by another session.
    """
    kind = autocommit.command(statement)
    if kind is None or before is None:
        return Verdict("ask", "nothing in the catalog tells whether it was done")
    if kind in _REPEATABLE:
        return Verdict("redo", f"{kind} may run twice")
    handler = _handler(kind)
    if handler is None:
        return Verdict("ask", "nothing in the catalog tells whether it was done")
    return handler[1](connection, statement, before)


Look = Callable[[Connection, Statement], dict[str, Any] | None]
Decide = Callable[[Connection, Statement, Before], Verdict]


def _handler(kind: str) -> tuple[Look, Decide] | None:
    if kind.startswith("REINDEX"):
        return _look_reindex, _decide_reindex
    return _HANDLERS.get(kind)


# ── names ────────────────────────────────────────────────────────────────────────────────


def _name(tokens: tuple[str, ...], at: int) -> str | None:
    """The name that begins at a token, with its schema, as SQL writes it."""
    out = ""
    for place, piece in enumerate(tokens[at:]):
        if (place % 2 == 0) != (piece != "."):
            break
        out += piece
    return out or None


def _skip(tokens: tuple[str, ...], at: int, *words: str) -> int:
    """The index after those words, where they stand there."""
    return at + len(words) if tokens[at : at + len(words)] == words else at


def _bare(token: str) -> str:
    """A name as the catalog has it: without quotes, cut to 63 bytes."""
    plain = token[1:-1].replace('""', '"') if token.startswith('"') else token
    return plain.encode()[:63].decode(errors="ignore")


# ── CREATE INDEX CONCURRENTLY ────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _NewIndex:
    """What CREATE INDEX CONCURRENTLY names; ``name`` is None where PostgreSQL chooses it."""

    name: str | None
    table: str | None
    if_not_exists: bool


def _new_index(statement: Statement) -> _NewIndex:
    tokens = statement.tokens
    start = tokens.index("concurrently") + 1
    at = _skip(tokens, start, "if", "not", "exists")
    name = None if tokens[at] == "on" else _bare(tokens[at])
    on = tokens.index("on", at)
    return _NewIndex(name, _name(tokens, _skip(tokens, on + 1, "only")), at > start)


def _indexes(connection: Connection, table: str | None) -> list[dict[str, Any]]:
    return connection.execute(query("leftover_indexes"), {"table": table}).fetchall()


def _look_create(connection: Connection, statement: Statement) -> dict[str, Any]:
    there = _indexes(connection, _new_index(statement).table)
    return {"indexes": [index["oid"] for index in there]}


def _decide_create(connection: Connection, statement: Statement, before: Before) -> Verdict:
    wanted = _new_index(statement)
    there = _indexes(connection, wanted.table)
    fresh = [index for index in there if index["oid"] not in before["indexes"]]
    if wanted.name is None and len(fresh) > 1:
        names = ", ".join(index["name"] for index in fresh)
        return Verdict("ask", f"the table has several new indexes: {names}")
    found = fresh if wanted.name is None else [i for i in there if i["name"] == wanted.name]
    if not found:
        return Verdict("redo", "it left no index")
    index = found[0]
    if index["valid"]:
        if index in fresh:
            return Verdict("done", f"index {index['name']} is there and valid")
        return Verdict("redo", f"index {index['name']} was there before")
    if index in fresh or wanted.if_not_exists:
        _drop(connection, index)
        return Verdict("redo", f"dropped the invalid index {index['name']}")
    return Verdict("redo", f"index {index['name']} was there before, invalid")


def clear_the_way(connection: Connection, statement: Statement) -> str | None:
    """Drop an invalid index that would make CREATE INDEX … IF NOT EXISTS do nothing, and succeed.

    Returns:
        What was done, or None.

    Raises:
        RefusedError: Another session builds that index just now.
    """
    if autocommit.command(statement) not in _CREATES:
        return None
    wanted = _new_index(statement)
    if not wanted.if_not_exists:
        return None
    for index in _indexes(connection, wanted.table):
        if index["name"] == wanted.name and not index["valid"]:
            _drop(connection, index)
            return f"dropped the invalid index {index['name']}, which IF NOT EXISTS took for made"
    return None


def _drop(connection: Connection, index: Mapping[str, Any]) -> None:
    if index["builder"] is not None:
        raise RefusedError(
            f"index {index['name']} is being built by another session (pid {index['builder']})",
            hint="wait until it has ended, and try again",
        )
    name = sql.Identifier(index["schema"], index["name"])
    connection.execute(sql.SQL("drop index concurrently if exists {}").format(name))


# ── DROP INDEX CONCURRENTLY ──────────────────────────────────────────────────────────────


def _look_drop(connection: Connection, statement: Statement) -> dict[str, Any]:
    name = _name(statement.tokens, _skip(statement.tokens, 3, "if", "exists"))
    found = only(connection, "select to_regclass(%s)::oid::bigint as oid", [name])
    return {"oid": found and found["oid"]}


def _decide_drop(connection: Connection, _: Statement, before: Before) -> Verdict:
    there = only(connection, "select from pg_class where oid = %s::bigint::oid", [before["oid"]])
    if before["oid"] is None or there is not None:
        return Verdict(
            "redo", "the index is still there" if there is not None else "none was there"
        )
    return Verdict("done", "the index is gone")


# ── REINDEX CONCURRENTLY ─────────────────────────────────────────────────────────────────


def _reindexed(connection: Connection, statement: Statement) -> list[int]:
    """The indexes that REINDEX INDEX or TABLE names; none for a schema or more."""
    tokens = statement.tokens
    at = autocommit.options_end(tokens)
    if tokens[at] not in {"index", "table"}:
        return []
    name = _name(tokens, _skip(tokens, at + 1, "concurrently"))
    found = connection.execute(query("leftover_reindexed"), {"name": name})
    return [row["oid"] for row in found]


def _look_reindex(connection: Connection, statement: Statement) -> dict[str, Any]:
    left = connection.execute(query("leftover_reindex")).fetchall()
    return {"indexes": _reindexed(connection, statement), "left": [row["oid"] for row in left]}


def _decide_reindex(connection: Connection, _: Statement, before: Before) -> Verdict:
    """Done when each index has been swapped for a new one, which has another oid."""
    dropped: list[str] = []
    for index in connection.execute(query("leftover_reindex")).fetchall():
        if index["oid"] not in before["left"]:
            _drop(connection, index)
            dropped.append(index["name"])
    said = f"dropped what REINDEX left: {', '.join(dropped)}; " if dropped else ""
    old = rows(
        connection,
        "select from pg_class where oid = any (%s::bigint[]::oid[])",
        [before["indexes"]],
    )
    if before["indexes"] and not old:
        return Verdict("done", f"{said}every index has been rebuilt")
    return Verdict("redo", f"{said}REINDEX may run twice")


# ── DETACH PARTITION CONCURRENTLY ────────────────────────────────────────────────────────


def _detached(statement: Statement) -> tuple[str | None, str | None]:
    """The table and its partition."""
    tokens = statement.tokens
    at = _skip(tokens, _skip(tokens, 2, "if", "exists"), "only")
    return _name(tokens, at), _name(tokens, tokens.index("partition") + 1)


def _pending(connection: Connection, statement: Statement) -> bool | None:
    """Whether the partition is being detached; None where it isn't attached."""
    table, partition = _detached(statement)
    found = only(
        connection,
        "select inhdetachpending as pending from pg_inherits"
        " where inhparent = to_regclass(%s) and inhrelid = to_regclass(%s)",
        [table, partition],
    )
    return bool(found["pending"]) if found else None


def _look_detach(connection: Connection, statement: Statement) -> dict[str, Any]:
    return {"attached": _pending(connection, statement) is not None}


def _decide_detach(connection: Connection, statement: Statement, before: Before) -> Verdict:
    pending = _pending(connection, statement)
    if pending is None and before["attached"]:
        return Verdict("done", "the partition is detached")
    if not pending:
        return Verdict("redo", "the partition is attached still")
    # The statement itself, FINALIZE instead of CONCURRENTLY.
    text = statement.text.rstrip()[: -len("concurrently")] + "finalize"
    connection.execute(text.encode())
    return Verdict("done", "the detaching was pending: finalized")


# ── what is there, or isn't ──────────────────────────────────────────────────────────────


def _exists(connection: Connection, statement: Statement) -> bool:
    tokens = statement.tokens
    at = _skip(tokens, 2, "if", "exists")
    found = connection.execute(
        query("leftover_object"),
        {"kind": tokens[1], "name": _bare(tokens[at]), "gid": tokens[at].strip("'")},
    ).fetchone()
    return bool(found and found["there"])


def _look_object(connection: Connection, statement: Statement) -> dict[str, Any]:
    return {"there": _exists(connection, statement)}


def _decide_object(connection: Connection, statement: Statement, before: Before) -> Verdict:
    there = _exists(connection, statement)
    said = "it is there" if there else "it isn't there"
    if there == before["there"]:
        return Verdict("redo", f"{said}, as before")
    return Verdict("done", f"{said}, other than before")


_CREATES: Final = frozenset({"CREATE INDEX CONCURRENTLY", "CREATE UNIQUE INDEX CONCURRENTLY"})
_OBJECTS: Final = (
    "CREATE DATABASE",
    "DROP DATABASE",
    "CREATE TABLESPACE",
    "DROP TABLESPACE",
    "CREATE SUBSCRIPTION",
    "DROP SUBSCRIPTION",
    "COMMIT PREPARED",
    "ROLLBACK PREPARED",
)
_HANDLERS: Final[dict[str, tuple[Look, Decide]]] = {
    **dict.fromkeys(_CREATES, (_look_create, _decide_create)),
    "DROP INDEX CONCURRENTLY": (_look_drop, _decide_drop),
    "ALTER TABLE DETACH PARTITION CONCURRENTLY": (_look_detach, _decide_detach),
    **dict.fromkeys(_OBJECTS, (_look_object, _decide_object)),
}
