"""Tokens sent by e-mail, each for one use: to verify an address, or to set a password anew.

Sending is the platform's: these functions give the token and the address. Stored is the
token's SHA-256. The next token for the same purpose makes the one before void, and so does
another address of the account.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, TypeAlias

from negspace import passwords, users
from negspace.database import Database, only
from negspace.errors import NotFoundError
from negspace.sessions import new_token, token_hash
from negspace.settings import Secret
from negspace.users import User

Purpose: TypeAlias = Literal["verify_email", "reset_password"]

LIFETIMES: Final[dict[Purpose, timedelta]] = {
    "verify_email": timedelta(days=3),
    "reset_password": timedelta(hours=1),
}


@dataclass(frozen=True)
class Mail:
    """What is to be sent."""

    email: str
    purpose: Purpose
    token: Secret


def purge(database: Database) -> int:
    """Remove tokens that expired 90 days ago or longer: housekeeping.

    Returns:
        How many.
    """
    with database.transaction() as connection:
        done = only(connection, "select purge_account_tokens() as purged")
    return done["purged"] if done else 0


def issue(database: Database, who: str | int, purpose: Purpose) -> Mail:
    """Make a token.

    Whoever asks for a new password without being logged in must hear the same whether the
    account exists or not: catch ``NotFoundError`` and answer alike.

    Raises:
        NotFoundError: There is no such account, or it is switched off.
    """
    user = users.find(database, who)
    if not user.is_active:
        raise NotFoundError(f"there is no active user {who}")
    token = new_token()
    with database.transaction() as connection:
        done = only(
            connection,
            "select issue_account_token(%s, %s, %s, %s) as email",
            [user.id, purpose, token_hash(token), LIFETIMES[purpose]],
        )
    return Mail(done["email"] if done else user.email, purpose, Secret(token))


def verify_email(database: Database, token: str) -> User:
    """Use a token: its account's address is verified.

    Raises:
        AccessError: It is unknown, used, void or expired.
    """
    return _redeemed(database, token, "verify_email", None)


def reset_password(
    database: Database, token: str, password: str, *, cost: int = users.COST
) -> User:
    """Use a token: its account has the new password, no session any more, and no lock.

    Raises:
        AccessError: It is unknown, used, void or expired.
        InvalidInputError: The password is too short or too long; the token is not used.
    """
    return _redeemed(database, token, "reset_password", passwords.hashed(password, cost=cost))


def _redeemed(database: Database, token: str, purpose: Purpose, hashed: str | None) -> User:
    with database.transaction() as connection:
        done = only(
            connection,
            "select redeem_account_token(%s, %s, %s) as user_id",
            [token_hash(token), purpose, hashed],
        )
    return users.find(database, done["user_id"] if done else 0)
