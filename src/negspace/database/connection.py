"""One connection: opened, and asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final, LiteralString, TypeAlias

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from negspace.database.watch import CONNECT_TIMEOUT, Watched, answers, parameters_of
from negspace.errors import UnavailableError

Row: TypeAlias = dict[str, Any]
Connection: TypeAlias = psycopg.Connection[Row]
Query: TypeAlias = LiteralString | sql.SQL | sql.Composed


def connect(address: str, *, autocommit: bool = False, **options: Any) -> Connection:
    """Open one connection.

    Args:
        address: A libpq connection string or URL.
        autocommit: No transaction around statements.
        options: Further libpq parameters, such as ``application_name``.

    Returns:
        A psycopg connection whose rows are dictionaries. Prepared statements are off, so
        that PgBouncer in transaction mode may stand in between. A server that is silent for
        too long, and on a new connection too, is given up: see ``watch``.

    Raises:
        UnavailableError: No server, no such database, or not let in.
    """
    try:
        return Watched[Row].connect(
            autocommit=autocommit,
            prepare_threshold=None,
            row_factory=dict_row,
            **(parameters_of(address) | options),
        )
    except psycopg.Error as error:
        raise _unavailable(address, error) from error


def _unavailable(address: str, error: psycopg.Error) -> UnavailableError:
    target = conninfo_to_dict(address)
    said = " ".join(str(error).split()).removeprefix("connection failed: ")
    who = f"database {target.get('dbname')!r} as {target.get('user')!r}"
    return UnavailableError(
        f"can't reach {who} at {_places(target)}: {said}", hint=_way_in(error, target)
    )


def _places(target: Mapping[str, Any]) -> str:
    """The hosts with their ports; one port may be that of all."""
    hosts = str(target.get("host", "localhost")).split(",")
    ports = str(target.get("port", 5432)).split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    return ", ".join(map(":".join, zip(hosts, ports, strict=False)))


def _way_in(error: psycopg.Error, target: Mapping[str, Any]) -> str:
    tried = error.pgconn
    if str(target.get("target_session_attrs", "any")) != "any":
        return (
            "none of the hosts lets these credentials in and is as target_session_attrs asks:"
            " see which is the primary"
        )
    if tried and (tried.needs_password or tried.used_password):
        return (
            "see DB_PASSWORD, DB_USER and DB_NAME, or these parts of DATABASE_URL;"
            " where there are too many connections, lower DB_POOL_MAX or raise the limit"
        )
    if tried and answers((tried.hostaddr or tried.host).decode(), int(tried.port or 5432), 1.0):
        return (
            "the server is there: where it has too many clients, lower DB_POOL_MAX, raise"
            " max_connections or put PgBouncer in between; where it starts or stops, wait"
        )
    return (
        "is the server up? DB_HOST, DB_PORT, DB_NAME or DATABASE_URL name it;"
        " with none of them set, negspace runs its own"
    )


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


# All for one transaction: behind a pooler the session is others' too.
_EXAMINING: Final = (
    "set transaction read only; set local lock_timeout = '2s'; set local statement_timeout = '1min'"
)


def examined(
    connection: Connection, query: Query, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> list[Row]:
    """All rows of a query that looks for faults: it must not wait behind what it looks for.

    Args:
        connection: In autocommit; the query gets a transaction of its own, which only reads.
        query: What is asked.
        parameters: Its parameters.
    """
    with connection.transaction():
        connection.execute(_EXAMINING)
        return rows(connection, query, parameters)


def only(
    connection: Connection, query: Query, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> Row | None:
    """The first row of a query, or None."""
    return connection.execute(query, parameters or None).fetchone()
