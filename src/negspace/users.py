"""Accounts: who may use the system, in which role, and how a password is checked.

Passwords are hashed with bcrypt here, in the client's process: a clear password never reaches
the database, whose statements may be logged. Accounts are switched off, never removed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, LiteralString, NoReturn, TypeAlias, get_args

from negspace import attempts, passwords
from negspace.database import Database, Row, only, rows
from negspace.errors import AccessError, AlreadyExistsError, InvalidInputError, NotFoundError

Role: TypeAlias = Literal["admin", "analyst", "viewer", "api_user"]
ROLES: Final[tuple[str, ...]] = get_args(Role)

COST: Final = passwords.COST
hash_password: Final = passwords.hashed

_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@.\s]+")  # as the table's own check


@dataclass(frozen=True)
class User:
    """An account, without its password's hash."""

    id: int
    email: str
    full_name: str | None
    role: Role
    is_active: bool
    is_email_verified: bool
    last_login_at: datetime | None
    failed_login_attempts: int
    account_locked_until: datetime | None
    created_at: datetime
    updated_at: datetime
    metadata: Mapping[str, Any]


_COLUMNS: Final[LiteralString] = (
    "id, email, full_name, role::text, is_active, is_email_verified, last_login_at,"
    " failed_login_attempts, account_locked_until, created_at, updated_at, metadata"
)


def add(
    database: Database,
    email: str,
    password: str,
    *,
    role: str = "viewer",
    full_name: str | None = None,
    cost: int = COST,
) -> User:
    """Make an account.

    Args:
        database: Where.
        email: Its address; letters' case is kept, and ignored when it is looked up.
        password: 8 characters to 72 bytes; hashed here.
        role: One of ``ROLES``.
        full_name: As the person writes it.
        cost: bcrypt's rounds as a power of two.

    Raises:
        InvalidInputError: The address, password or role isn't valid.
        AlreadyExistsError: The address has an account.
    """
    if not _EMAIL.fullmatch(email) or len(email) > 254:
        raise InvalidInputError(f"{email!r} is no e-mail address", hint="such as ada@example.org")
    _known_role(role)
    hashed = hash_password(password, cost=cost)
    query: LiteralString = (
        "insert into users (email, password_hash, role, full_name)"
        " values (%s, %s, %s::user_role, %s) returning " + _COLUMNS
    )
    try:
        act = attempts.recorded(database, "permission_change", "user", None)
        with act, database.transaction() as connection:
            return _user(only(connection, query, [email, hashed, role, full_name]), email)
    except AlreadyExistsError:
        raise AlreadyExistsError(
            f"{email} has an account already", hint=f"see: negspace users show {email}"
        ) from None


def list_users(
    database: Database,
    *,
    role: str | None = None,
    active: bool | None = None,
    after: int = 0,
    limit: int = 1000,
) -> list[User]:
    """Accounts by number.

    Args:
        database: Where.
        role: Only that role.
        active: Only those that may be used, or only those that may not.
        after: Only numbers above this one: the last of the page before.
        limit: How many at most.
    """
    if role is not None:
        _known_role(role)
    query: LiteralString = (
        "select " + _COLUMNS + " from users where id > %(after)s"
        " and (%(role)s::user_role is null or role = %(role)s::user_role)"
        " and (%(active)s::boolean is null or is_active = %(active)s::boolean)"
        " order by id limit %(limit)s"
    )
    given = {"after": after, "role": role, "active": active, "limit": limit}
    with database.transaction(read_only=True) as connection:
        return [User(**row) for row in rows(connection, query, given)]


def find(database: Database, who: str | int) -> User:
    """The account with that e-mail address or number.

    Raises:
        NotFoundError: There is none.
    """
    query: LiteralString = "select " + _COLUMNS + " from users where id = %s or lower(email) = %s"
    with database.transaction(read_only=True) as connection:
        return _user(only(connection, query, _named(who)), who)


def set_role(database: Database, who: str | int, role: str) -> User:
    """Give an account another role; the audit trail keeps the one before.

    Its API keys are checked against the role at every use, so they lose what it loses.

    Raises:
        NotFoundError: There is no such account.
        InvalidInputError: There is no such role.
    """
    _known_role(role)
    query: LiteralString = (
        "update users set role = %s::user_role where id = %s or lower(email) = %s returning "
        + _COLUMNS
    )
    act = attempts.recorded(database, "permission_change", "user", who)
    with act, database.transaction() as connection:
        return _user(only(connection, query, [role, *_named(who)]), who)


def set_active(database: Database, who: str | int, active: bool) -> User:
    """Switch an account on or off; off, it can't log in and its API keys are refused.

    Raises:
        NotFoundError: There is no such account.
    """
    query: LiteralString = (
        "update users set is_active = %s where id = %s or lower(email) = %s returning " + _COLUMNS
    )
    act = attempts.recorded(database, "permission_change", "user", who)
    with act, database.transaction() as connection:
        return _user(only(connection, query, [active, *_named(who)]), who)


def set_password(database: Database, who: str | int, password: str, *, cost: int = COST) -> User:
    """Give an account another password; its sessions end.

    Raises:
        NotFoundError: There is no such account.
        InvalidInputError: The password is too short or too long.
    """
    hashed = hash_password(password, cost=cost)
    with attempts.recorded(database, "permission_change", "user", who):
        user = find(database, who)
        with database.transaction() as connection:
            connection.execute("select change_password(%s, %s)", [user.id, hashed])
    return find(database, user.id)


@dataclass(frozen=True)
class Login:
    """A login that was accepted; ``session_id`` None where no session was asked for."""

    user_id: int
    session_id: int | None


def authenticate(database: Database, email: str, password: str, *, cost: int = COST) -> User:
    """``try_login`` without a session.

    Raises:
        AccessError: Not let in.
    """
    return find(database, try_login(database, email, password, cost=cost).user_id)


def try_login(
    database: Database,
    email: str,
    password: str,
    *,
    cost: int = COST,
    token_hash: str | None = None,
    lifetime: timedelta | None = None,
) -> Login:
    """Check a password, and write the login into the audit trail, accepted or not.

    An unknown account, a wrong password and an account that is switched off or locked cost
    the same work of bcrypt and the same writes, and say the same to whoever tries; only the
    audit trail knows which it was. An accepted password whose hash is of a lower cost is hashed
    anew.

    Args:
        database: Where; its actor's address decides on lock-outs and enters the event.
        email: Whose.
        password: As it was typed.
        cost: bcrypt's rounds as a power of two.
        token_hash: Of a session to begin; None for none.
        lifetime: Of that session.

    Raises:
        AccessError: Not let in.
    """
    with database.transaction(read_only=True) as connection:
        found = only(
            connection, "select password_hash from users where lower(email) = lower(%s)", [email]
        )
    kept = found["password_hash"] if found else None
    fits = passwords.fits(password, kept, cost=cost)
    query: LiteralString = (
        "select user_id, accepted, session_id"
        " from finish_login(%s, %s, %s, coalesce(%s, interval '12 hours'))"
    )
    with database.transaction() as connection:
        done = only(connection, query, [email, kept if fits else None, token_hash, lifetime])
    if done is None or not done["accepted"]:
        raise AccessError(
            "the e-mail address or the password is wrong, or the account may not be used",
            hint="an administrator sees why: negspace audit list --action login",
        )
    if kept is not None and passwords.cost_of(kept) < cost:
        _rehash(database, done["user_id"], kept, password, cost)
    return Login(done["user_id"], done["session_id"])


def _rehash(database: Database, user_id: int, kept: str, password: str, cost: int) -> None:
    """Replace an older hash, once its password was let in: before, its time would tell."""
    if len(password) < passwords.SHORTEST:  # of a time when shorter ones were taken
        return
    query: LiteralString = (
        "update users set password_hash = %s where id = %s and password_hash = %s"
    )
    given = [hash_password(password, cost=cost), user_id, kept]
    with database.transaction() as connection:
        connection.execute(query, given)


def unlock(database: Database, who: str | int) -> User:
    """Let an account log in again from everywhere, whatever failed before.

    Raises:
        NotFoundError: There is no such account.
    """
    with attempts.recorded(database, "permission_change", "user", who):
        user = find(database, who)
        with database.transaction() as connection:
            connection.execute("select unlock_account(%s)", [user.id])
    return find(database, user.id)


def refresh_login_counters(database: Database) -> int:
    """Bring failed logins and locks of the accounts up to date: housekeeping.

    Returns:
        How many accounts changed.
    """
    with database.transaction() as connection:
        changed = only(connection, "select refresh_login_counters() as accounts")
    return changed["accounts"] if changed else 0


def _named(who: str | int) -> list[int | str | None]:
    """Number and address, of which one is None."""
    if isinstance(who, int):
        return [who, None]
    return [int(who), None] if who.isascii() and who.isdecimal() else [None, who.lower()]


def _user(row: Row | None, who: str | int) -> User:
    return User(**row) if row is not None else _missing(who)


def _missing(who: str | int) -> NoReturn:
    raise NotFoundError(f"there is no user {who}", hint="negspace users list shows the accounts")


def _known_role(role: str) -> None:
    if role not in ROLES:
        raise InvalidInputError(f"there is no role {role!r}", hint=f"one of {', '.join(ROLES)}")
