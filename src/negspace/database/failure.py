"""What PostgreSQL raised: as errors of ours, or as values for SQL that was not written here."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from negspace.database.connection import Connection, Row
from negspace.errors import InvalidInputError, NegspaceError, from_sqlstate


def translate(error: psycopg.Error) -> NegspaceError:
    """The error of ours that says what PostgreSQL raised."""
    diagnosis = error.diag
    message = diagnosis.message_primary or " ".join(str(error).split()) or "connection lost"
    if isinstance(error, psycopg.DataError) and error.sqlstate is None:
        return InvalidInputError(message)  # psycopg itself refused it: a NUL in a text, say
    return from_sqlstate(
        error.sqlstate,
        message,
        hint=diagnosis.message_hint,
        constraint=diagnosis.constraint_name,
        detail=diagnosis.message_detail,
    )


@contextmanager
def translated() -> Generator[None]:
    """Raise ``NegspaceError`` for what psycopg raises inside the block."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error


@dataclass(frozen=True)
class Diagnosis:
    """All that PostgreSQL said about a failure, for whoever wrote the statement.

    Attributes:
        position: Where in the statement, in characters from 1, or None.
        context: The call stack of functions, or None.
    """

    message: str
    sqlstate: str | None = None
    detail: str | None = None
    hint: str | None = None
    position: int | None = None
    context: str | None = None


def diagnosis(error: BaseException) -> Diagnosis | None:
    """What PostgreSQL said, or None where ``error`` did not come from a database."""
    if not isinstance(error, psycopg.Error):
        return None
    said = error.diag
    return Diagnosis(
        message=said.message_primary or " ".join(str(error).split()) or "connection lost",
        sqlstate=error.sqlstate,
        detail=said.message_detail,
        hint=said.message_hint,
        position=int(said.statement_position) if said.statement_position else None,
        context=said.context,
    )


@dataclass(frozen=True)
class Executed:
    """What became of SQL that was not written here.

    Attributes:
        rows: How many it inserted, updated, deleted or copied; None where it tells none.
        failure: What PostgreSQL said against it, or None.
    """

    rows: int | None = None
    failure: Diagnosis | None = None


def execute(connection: Connection, statement: bytes) -> Executed:
    """Execute SQL that was not written here, as it stands.

    Args:
        connection: Its client encoding is that of ``statement``.
        statement: One statement, or several without parameters.
    """
    try:
        cursor = connection.execute(statement)
    except psycopg.Error as error:
        return Executed(failure=diagnosis(error))
    counts = [_touched(cursor)]
    while cursor.nextset():
        counts.append(_touched(cursor))
    told = [count for count in counts if count is not None]
    return Executed(sum(told) if told else None)


def _touched(cursor: psycopg.Cursor[Row]) -> int | None:
    """The rows that the command wrote; those of a SELECT only where it made a table of them."""
    command = (cursor.statusmessage or "").partition(" ")[0]
    writes = command in {"INSERT", "UPDATE", "DELETE", "MERGE", "COPY"}
    if writes or (command == "SELECT" and cursor.description is None):
        return max(cursor.rowcount, 0)
    return None


def attempt(connection: Connection, statement: bytes) -> Diagnosis | None:
    """``execute``, where only the failure matters: None where it succeeded."""
    return execute(connection, statement).failure
