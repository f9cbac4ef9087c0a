"""Who acts, proven to the database: what a service for people does with each request.

Such a service logs in as ``app_user``, which sees no row of anybody by itself. It names the
session or the API key that a request brought; the database verifies it at the begin of each
transaction and shows what that account may see, by row security. A connection that comes back
to the pool brings nothing along. docs/security.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import LiteralString

from negspace import keys, sessions
from negspace.database import Database, Proof, only
from negspace.errors import AccessError
from negspace.users import Role


@dataclass(frozen=True)
class Acting:
    """Who is proven to act.

    Attributes:
        user_id: The account.
        role: What it is.
        session_id: By which session, or None.
        api_key_id: By which API key, or None.
        scopes: What the transaction may do, such as ``read:images``.
    """

    user_id: int
    role: Role
    session_id: int | None
    api_key_id: int | None
    scopes: Sequence[str]


def with_session(database: Database, token: str) -> Database:
    """A view of the same pool in which the holder of a session acts.

    Args:
        database: As ``app_user``; its actor's address and program enter the audit trail.
        token: The session's, as ``sessions.login`` gave it out.

    Returns:
        A database whose every transaction verifies the session; it raises ``AccessError``
        where that has ended, or never was.
    """
    query: LiteralString = "select act_with_session(%s)"
    return _proven(database, Proof(query, [sessions.token_hash(token)]))


def with_key(database: Database, text: str, *, scope: str | None = None) -> Database:
    """A view of the same pool in which the owner of an API key acts, as far as its scopes reach.

    It takes nothing from the key's rate limit: ``keys.verify`` does, once a request.

    Args:
        database: As ``app_user``; its actor says where the request is from. Without an
            address, keys bound to networks are refused.
        text: The key.
        scope: What it is to be used for; None asks about the key alone.

    Returns:
        A database whose every transaction verifies the key; it raises ``AccessError`` where
        the key may not be used.

    Raises:
        AccessError: The text is no key.
        InvalidInputError: The actor's address is none.
    """
    number = keys.number_of(text)
    if number is None:
        raise AccessError("the API key may not be used for this", hint="it is malformed")
    origin = database.actor.ip_address
    address = None if origin is None else str(keys.canonical_address(origin))
    query: LiteralString = "select act_with_key(%s, %s, %s, %s::inet)"
    given = [number, keys.key_hash(text), scope, address]
    return _proven(database, Proof(query, given))


def who(database: Database) -> Acting | None:
    """Who is proven to act in this database's transactions; None where nobody is.

    Raises:
        AccessError: The session or key that it was opened with is refused.
    """
    query: LiteralString = (
        "select user_id, role::text, session_id, api_key_id, scopes from acting()"
    )
    with database.transaction(read_only=True) as connection:
        found = only(connection, query)
    return Acting(**found) if found and found["user_id"] is not None else None


def _proven(database: Database, proof: Proof) -> Database:
    # What was stated without proof gives way to what is proven.
    actor = replace(database.actor, user_id=None, api_key_id=None)
    return database.acting_as(actor, proof=proof)
