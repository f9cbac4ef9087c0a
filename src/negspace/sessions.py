"""Logins that last: a session is a token, given out once and stored as its SHA-256.

Who fails again and again is locked out, in the network it comes from, for 30 seconds after the
fifth failure and twice as long after each further one, an hour at most. Failures from many
networks lock an account outside those it has logged in from. A try while it is locked counts as
none. The database decides: ``finish_login``.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, LiteralString

from negspace import users
from negspace.database import Database, only, rows
from negspace.errors import AccessError, InvalidInputError
from negspace.settings import Secret
from negspace.users import Role

LIFETIME: Final = timedelta(hours=12)
LONGEST: Final = timedelta(days=30)


@dataclass(frozen=True)
class Session:
    """A session as it is stored, without its token's hash."""

    id: int
    user_id: int
    ip_address: str | None
    user_agent: str | None
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class NewSession:
    """A session that has just begun; ``token`` is what its holder keeps."""

    session_id: int
    user_id: int
    token: Secret


@dataclass(frozen=True)
class Holder:
    """Who holds a token, and what the account may do now."""

    session_id: int
    user_id: int
    role: Role
    expires_at: datetime


_COLUMNS: Final[LiteralString] = (
    "id, user_id, host(ip_address) as ip_address, user_agent, created_at, expires_at, ended_at"
)


def login(
    database: Database,
    email: str,
    password: str,
    *,
    lifetime: timedelta = LIFETIME,
    cost: int = users.COST,
) -> NewSession:
    """Begin a session.

    Args:
        database: Its actor's address decides on lock-outs and enters the event.
        email: Whose.
        password: As it was typed.
        lifetime: How long it lasts at most, up to 30 days; use doesn't prolong it.
        cost: What new hashes cost; an older hash of a lower cost is replaced.

    Raises:
        AccessError: Not let in; says the same whatever the reason.
        InvalidInputError: The lifetime is out of range.
    """
    if not timedelta() < lifetime <= LONGEST:
        raise InvalidInputError("a session lasts up to 30 days", hint="12 hours are usual")
    token = new_token()
    done = users.try_login(
        database, email, password, cost=cost, token_hash=token_hash(token), lifetime=lifetime
    )
    if done.session_id is None:
        raise AccessError("no session was begun", hint="log in again")
    return NewSession(done.session_id, done.user_id, Secret(token))


def check(database: Database, token: str) -> Holder:
    """Who holds a token: one statement, which writes nothing.

    Raises:
        AccessError: There is no such session, or it has ended, or its account is switched off.
    """
    query: LiteralString = (
        "select session_id, user_id, role::text, expires_at from verify_session(%s)"
    )
    found = database.ask(query, [token_hash(token)])
    if found is None or found["session_id"] is None:
        raise AccessError("there is no such session, or it has ended", hint="log in again")
    return Holder(**found)


def logout(database: Database, token: str) -> None:
    """End a session, with a ``logout`` event; one that has ended is no error."""
    with database.transaction() as connection:
        connection.execute("select end_session(%s)", [token_hash(token)])


def list_sessions(database: Database, who: str | int, *, ended: bool = False) -> list[Session]:
    """An account's sessions, newest first; those that have ended too where asked.

    Raises:
        NotFoundError: There is no such account.
    """
    query: LiteralString = (
        "select " + _COLUMNS + " from sessions where user_id = %s"
        " and (%s or (ended_at is null and expires_at > now())) order by created_at desc, id desc"
    )
    user = users.find(database, who)
    with database.transaction(read_only=True) as connection:
        return [Session(**row) for row in rows(connection, query, [user.id, ended])]


def end_all(database: Database, who: str | int) -> int:
    """End all of an account's sessions, and return how many there were.

    Raises:
        NotFoundError: There is no such account.
    """
    user = users.find(database, who)
    with database.transaction() as connection:
        done = only(connection, "select end_sessions(%s) as ended", [user.id])
    return done["ended"] if done else 0


def new_token() -> str:
    """256 random bits as text."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What stands for a token in the database: a random text needs no slow hash."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
