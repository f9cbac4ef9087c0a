"""Two accounts of each role with rows of their own, and connections on which they act."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from negspace import database as db
from negspace import keys, sessions
from negspace.database import Connection
from schema_rows import add

ROLES = ("admin", "analyst", "viewer", "api_user")


@dataclass(frozen=True)
class Person:
    """An account and what proves it.

    Attributes:
        token: Of its session.
        key: The text of its API key, which has every scope that its role may have.
        rows: Relation → the number of its row there.
    """

    id: int
    role: str
    token: str
    key: str
    rows: dict[str, int]

    @property
    def proof(self) -> tuple[str, Sequence[Any]]:
        """The call that proves it: by session, for a program by its key."""
        if self.role == "api_user":
            return by_key(self.key)
        return "select act_with_session(%s)", [sessions.token_hash(self.token)]


def by_key(text: str, scope: str | None = None) -> tuple[str, Sequence[Any]]:
    given = [keys.number_of(text), keys.key_hash(text), scope]
    return "select act_with_key(%s, %s, %s, null)", given


def join(owner: Connection, role: str) -> Person:
    """An account of that role with an image, a result, a job, a session and a key."""
    user = add(owner, "users", role=role)["id"]
    token = sessions.new_token()
    image = add(owner, "images", user_id=user)["id"]
    session = add(owner, "sessions", user_id=user, token_hash=sessions.token_hash(token))["id"]
    scopes = db.rows(owner, "select role_scopes(%s::user_role) as s", [role])[0]["s"]
    number = db.rows(owner, "select nextval('api_keys_id_seq') as id")[0]["id"]
    text = keys._new_text(number)  # what keys.create gives out, without its services
    add(owner, "api_keys", id=number, user_id=user, key_hash=keys.key_hash(text), scopes=scopes)
    # asked for by somebody else: whose image it is decides
    other = add(owner, "users")["id"]
    event = add(owner, "security_audit", user_id=user)
    rows = {
        "users": user,
        "images": image,
        "analysis_results": add(owner, "analysis_results", image_id=image, user_id=other)["id"],
        "processing_queue": add(owner, "processing_queue", image_id=image, user_id=other)["id"],
        "analysis_cache": add(owner, "analysis_cache", image_id=image)["id"],
        "sessions": session,
        "api_keys": number,
        "security_audit": event["id"],
        "audit_log_details": add(owner, "audit_log_details", audit_id=event["id"])["id"],
    }
    return Person(user, role, token, text, rows)


@contextmanager
def acting(address: str, person: Person | None) -> Generator[Connection]:
    """A connection of the services' role in whose transaction the person acts; rolled back."""
    with db.connect(address) as connection:
        if person is not None:
            query, given = person.proof
            connection.execute(query, given)  # pyright: ignore[reportArgumentType]
        yield connection
        connection.rollback()
