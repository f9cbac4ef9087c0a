"""One connection: opened, and asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final, LiteralString, TypeAlias

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from negspace.errors import UnavailableError

Row: TypeAlias = dict[str, Any]
Connection: TypeAlias = psycopg.Connection[Row]
Query: TypeAlias = LiteralString | sql.SQL | sql.Composed

CONNECT_TIMEOUT: Final = 10  # seconds to wait for a server that doesn't answer


def connect(address: str, *, autocommit: bool = False, **options: Any) -> Connection:
    """Open one connection.

    Args:
        address: A libpq connection string or URL.
        autocommit: No transaction around statements.
        options: Further libpq parameters, such as ``application_name``.

    Returns:
        A psycopg connection whose rows are dictionaries. Prepared statements are off, so
        that PgBouncer in transaction mode may stand in between.

    Raises:
        UnavailableError: No server, no such database, or not let in.
    """
    options.setdefault("connect_timeout", CONNECT_TIMEOUT)
    options.setdefault("application_name", "negspace")
    try:
        return psycopg.Connection[Row].connect(
            address,
            autocommit=autocommit,
            prepare_threshold=None,
            row_factory=dict_row,
            **options,
        )
    except psycopg.Error as error:
        raise _unavailable(address, error) from error


def _unavailable(address: str, error: psycopg.Error) -> UnavailableError:
    target = conninfo_to_dict(address)
    where = f"{target.get('host', 'localhost')}:{target.get('port', 5432)}"
    said = " ".join(str(error).split()).removeprefix("connection failed: ")
    who = f"database {target.get('dbname')!r} as {target.get('user')!r}"
    refused = bool(error.pgconn and (error.pgconn.needs_password or error.pgconn.used_password))
    hint = (
        "see DB_PASSWORD, DB_USER and DB_NAME, or these parts of DATABASE_URL"
        if refused
        else "is the server up? DB_HOST, DB_PORT, DB_NAME or DATABASE_URL name it;"
        " with none of them set, negspace runs its own"
    )
    return UnavailableError(f"can't reach {who} at {where}: {said}", hint=hint)


class Answer(Enum):
    """What a server says when one knocks."""

    READY = "takes connections"
    BUSY = "starts, recovers or stops"
    NONE = "nobody there"


def ping(**parameters: str | int) -> Answer:
    """Knock at a server; no password is needed, none is sent.

    Args:
        parameters: libpq's, at least ``host`` and ``port``.

    Returns:
        Its answer; NONE too where it is silent for ``CONNECT_TIMEOUT``.
    """
    address = make_conninfo("", connect_timeout=CONNECT_TIMEOUT, sslmode="disable", **parameters)
    answers = {pq.Ping.OK: Answer.READY, pq.Ping.REJECT: Answer.BUSY}
    return answers.get(pq.Ping(pq.PGconn.ping(address.encode())), Answer.NONE)


def rows(
    connection: Connection, query: Query, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> list[Row]:
    """All rows of a query."""
    return connection.execute(query, parameters or None).fetchall()


def only(
    connection: Connection, query: Query, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> Row | None:
    """The first row of a query, or None."""
    return connection.execute(query, parameters or None).fetchone()
