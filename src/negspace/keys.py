"""API keys: ``nsk_<number>_<secret><checksum>``, shown once, stored as a SHA-256 alone.

The secret is 190 random bits, so a plain hash is as good as a slow one, and a check costs
microseconds. The checksum lets a mistyped key be refused without asking the database, and
scanners of leaked secrets be sure of what they found. Which scopes there are, and which role
may have them, says the database's function ``role_scopes``.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
import string
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, LiteralString, TypeAlias

from negspace import attempts, users
from negspace.database import Connection, Database, Jsonb, Row, only, rows
from negspace.errors import InvalidInputError, NotFoundError
from negspace.refusals import Refusals
from negspace.settings import Secret

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

DEFAULT_SCOPES: Final = ("read:images", "read:results")
RATE_LIMIT_REACHED: Final = "rate limit reached"  # the reason of an answer that has retry_after

_BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_LENGTH: Final = 32  # characters: 32 × log2(62) = 190 bits
_CHECK_LENGTH: Final = 6  # 62 to the 6th is more than 2 to the 32nd
_LARGEST: Final = 2**63 - 1  # a bigint
_KEY: Final = re.compile(r"nsk_([1-9][0-9]{0,18})_[0-9A-Za-z]{38}")
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_ANY_IPV6: Final = ipaddress.IPv6Network("::/0")


@dataclass(frozen=True)
class ApiKey:
    """A key as it is stored, without its hash; ``ip_whitelist`` None means any address."""

    id: int
    user_id: int
    name: str
    description: str | None
    is_active: bool
    scopes: Sequence[str]
    ip_whitelist: Sequence[str] | None
    rate_limit_per_minute: int
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    total_requests: int
    usage_stats: Mapping[str, Any]


@dataclass(frozen=True)
class NewKey:
    """A key that was just made; ``text`` is what its owner keeps, and nobody has it again."""

    key: ApiKey
    text: Secret


@dataclass(frozen=True)
class Answer:
    """Whether a key may be used.

    Attributes:
        accepted: It may.
        reason: Why it may not, or None.
        api_key_id: Its number, where it is known.
        user_id: Whose it is, where it is known.
        remaining: How many more requests the limit would take at this moment; None where it
            was not asked.
        retry_after: Refused for the limit: seconds until it takes the next request.
    """

    accepted: bool
    reason: str | None
    api_key_id: int | None = None
    user_id: int | None = None
    remaining: int | None = None
    retry_after: float | None = None


_REFUSED: Final = Refusals[Answer]()

# As one value, since each column costs the server and psycopg a microsecond or more, and a row of
# a function in FROM is stored before it is sent. Short, for it is parsed anew each time.
_VERIFY: Final[LiteralString] = "select verify_api_key(%s, %s, %s, %s)::text"

_COLUMNS: Final[LiteralString] = (
    "id, user_id, name, description, is_active, scopes, ip_whitelist, rate_limit_per_minute,"
    " created_at, expires_at, last_used_at, total_requests, usage_stats"
)


def create(
    database: Database,
    owner: str | int,
    name: str,
    *,
    scopes: Sequence[str] = DEFAULT_SCOPES,
    networks: Sequence[str] | None = None,
    expires_at: datetime | None = None,
    rate_limit_per_minute: int = 100,
    description: str | None = None,
) -> NewKey:
    """Make a key.

    Args:
        database: Where.
        owner: Whose, by e-mail address or number.
        name: What its owner calls it.
        scopes: What it may do; no more than the owner's role.
        networks: Where it may be used from, as CIDR; None for anywhere.
        expires_at: When it ends by itself; None for never.
        rate_limit_per_minute: Requests a minute.
        description: What it is for.

    Returns:
        The key and its text, which is stored nowhere.

    Raises:
        NotFoundError: There is no such account.
        InvalidInputError: A scope, network or time isn't valid.
    """
    query: LiteralString = (
        "insert into api_keys (id, user_id, key_hash, name, description, scopes, ip_whitelist,"
        " expires_at, rate_limit_per_minute) overriding system value"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s) returning " + _COLUMNS
    )
    with attempts.recorded(database, "permission_change", "api_key", None):
        user = users.find(database, owner)
        if expires_at is not None and expires_at <= datetime.now(UTC):
            raise InvalidInputError(f"{expires_at.isoformat()} is past", hint="give a time to come")
        if not name or rate_limit_per_minute < 1:
            raise InvalidInputError("a key needs a name, and a rate limit of 1 or more")
        listed = None if networks is None else Jsonb(canonical_networks(networks))
        with database.transaction() as connection:
            number, text = _drawn(connection)
            given = [number, user.id, key_hash(text), name, description]
            given += [Jsonb(list(dict.fromkeys(scopes))), listed, expires_at, rate_limit_per_minute]
            return NewKey(_key(only(connection, query, given), number), Secret(text))


def list_keys(
    database: Database, *, owner: str | int | None = None, active: bool | None = None
) -> list[ApiKey]:
    """Keys by number, of one account or of all.

    Raises:
        NotFoundError: There is no such account.
    """
    user_id = None if owner is None else users.find(database, owner).id
    query: LiteralString = (
        "select " + _COLUMNS + " from api_keys"
        " where (%(user_id)s::bigint is null or user_id = %(user_id)s)"
        " and (%(active)s::boolean is null or is_active = %(active)s) order by id"
    )
    with database.transaction(read_only=True) as connection:
        found = rows(connection, query, {"user_id": user_id, "active": active})
    return [ApiKey(**row) for row in found]


def revoke(database: Database, key_id: int) -> ApiKey:
    """Switch a key off for good; again is no error.

    Raises:
        NotFoundError: There is no such key.
    """
    query: LiteralString = (
        "update api_keys set is_active = false where id = %s returning " + _COLUMNS
    )
    act = attempts.recorded(database, "permission_change", "api_key", key_id)
    with act, database.transaction() as connection:
        return _key(only(connection, query, [key_id]), key_id)


def rotate(database: Database, key_id: int, *, overlap: timedelta = timedelta(days=1)) -> NewKey:
    """Make a key's successor, which may do what the key may, and end the key after the overlap.

    Each of the two has a rate limit of its own. The successor lives as long from now as the
    key was made to live.

    Args:
        database: Where.
        key_id: The key.
        overlap: How long both are accepted, 0 to 90 days; 0 revokes the key at once.

    Raises:
        NotFoundError: There is no such key.
        RefusedError: It has ended.
        InvalidInputError: The overlap is out of range.
    """
    query: LiteralString = "select " + _COLUMNS + " from rotate_api_key(%s, %s, %s, %s)"
    act = attempts.recorded(database, "permission_change", "api_key", key_id)
    with act, database.transaction() as connection:
        number, text = _drawn(connection)
        made = only(connection, query, [key_id, number, key_hash(text), overlap])
        return NewKey(_key(made, number), Secret(text))


def verify(database: Database, text: str, *, scope: str | None = None) -> Answer:
    """Say whether a key may be used, and take one request from its limit where it may.

    One statement, which is a transaction of its own, for key, owner, expiry, scope, address
    and rate limit. It writes no event: for a request whose act is an event itself. Who was
    refused for the limit is refused for a tenth of a second more without asking.

    Args:
        database: ``database.acting_as(Actor(ip_address=…))`` says where the request is from;
            without an address, keys bound to networks are refused.
        text: The key.
        scope: What it is to be used for; None asks about the key alone.

    Raises:
        InvalidInputError: The actor's address is none.
    """
    number = number_of(text)
    if number is None:
        return Answer(accepted=False, reason="malformed key")
    origin = database.actor.ip_address
    asked = [number, key_hash(text), scope, None if origin is None else _canonical(origin)]
    question = (database.address, *asked)
    refused = _REFUSED.find(question)
    if refused is not None:
        return replace(refused[0], retry_after=refused[1])
    answer = _answer(database, database.ask_value(_VERIFY, asked))
    if answer.retry_after is not None:
        _REFUSED.keep(question, answer, answer.retry_after)
    return answer


def _answer(database: Database, told: str) -> Answer:
    """The answer in a row of ``verify_api_key``, written as PostgreSQL writes rows."""
    key_id, user_id, accepted, reason, remaining, wait = told[1:-1].split(",")
    return Answer(
        accepted=accepted == "t",
        reason=reason.strip('"') or None,
        api_key_id=int(key_id) if key_id else None,
        user_id=int(user_id) if user_id else None,
        remaining=int(remaining) if remaining else None,
        retry_after=_seconds(database, wait) if wait else None,
    )


def _seconds(database: Database, wait: str) -> float:
    """An interval as seconds; it has an hour or is written otherwise only on odd servers."""
    if wait.startswith("00:00:"):
        return float(wait.removeprefix("00:00:"))
    return database.ask_value("select date_part('epoch', %s::interval)", [wait])


def check(database: Database, text: str, *, scope: str | None = None) -> Answer:
    """``verify``, and an ``api_call`` event for the answer.

    There is no event for a text that is no key, nor for a request beyond the rate limit: a
    flood of them costs the database no write.
    """
    answer = verify(database, text, scope=scope)
    if answer.reason not in ("malformed key", RATE_LIMIT_REACHED):
        with database.transaction() as connection:
            connection.execute(
                "select record_event('api_call', 'api_key', %s::bigint::text,"
                " (case when %s then 'success' else 'failure' end)::audit_status,"
                " changes_after => jsonb_build_object('scope', %s::text),"
                " error_message => %s, user_id => %s::bigint)",
                [answer.api_key_id, answer.accepted, scope, answer.reason, answer.user_id],
            )
    return answer


def count_uses(database: Database) -> int:
    """Carry what keys were used for to their rows: housekeeping.

    Returns:
        How many keys were used since the last time.
    """
    with database.transaction() as connection:
        counted = only(connection, "select count_api_key_uses() as keys")
    return counted["keys"] if counted else 0


def well_formed(text: str) -> bool:
    """Whether a text has a key's form and its checksum is right."""
    return number_of(text) is not None


def number_of(text: str) -> int | None:
    """The number in the text of a key, or None where it is not well formed."""
    found = _KEY.fullmatch(text)
    # Whether the checksum is right is no secret: a plain comparison will do.
    if found is None or _checksum(text[:-_CHECK_LENGTH]) != text[-_CHECK_LENGTH:]:
        return None
    number = int(found[1])
    return number if number <= _LARGEST else None


def key_hash(text: str) -> str:
    """What stands for a key in the database: SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def canonical_networks(networks: Sequence[str]) -> list[str]:
    """Networks as they are stored: CIDR, each once, IPv4 written as IPv6 folded to IPv4.

    Raises:
        InvalidInputError: One is none, has bits beyond its prefix, or would hold some of the
            IPv4 addresses that are written as IPv6; or there are none.
    """
    if not networks:
        raise InvalidInputError(
            "an empty list of networks would shut everybody out", hint="leave it out for any"
        )
    return list(dict.fromkeys(str(_canonical_network(text)) for text in networks))


def canonical_address(text: str) -> Address:
    """An address; ``::ffff:a.b.c.d`` is folded to a.b.c.d.

    Raises:
        InvalidInputError: It is none, or has a zone.
    """
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidInputError(f"{text!r} is no IP address", hint="such as 192.0.2.7") from None
    if isinstance(found, ipaddress.IPv4Address):
        return found
    if found.scope_id is not None:
        raise InvalidInputError(f"{text!r} has a zone", hint="leave out what follows the %")
    return found.ipv4_mapped or found


@lru_cache(maxsize=1000)
def _canonical(text: str) -> str:
    """``canonical_address`` as it is sent; requests come from few addresses again and again."""
    return str(canonical_address(text))


def _canonical_network(text: str) -> Network:
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        hint = "such as 192.0.2.0/24"
        if "host bits" in str(error):
            hint = f"did you mean {ipaddress.ip_network(text, strict=False)}?"
        raise InvalidInputError(f"{text!r} is no network", hint=hint) from None
    if isinstance(found, ipaddress.IPv4Network) or found == _ANY_IPV6:
        return found
    if "%" in text:
        raise InvalidInputError(f"{text!r} has a zone", hint="leave out what follows the %")
    if found.subnet_of(_MAPPED):
        inner = int(found.network_address) & 0xFFFF_FFFF
        return ipaddress.IPv4Network((inner, found.prefixlen - 96))
    if found.overlaps(_MAPPED):
        raise InvalidInputError(
            f"{text!r} holds every IPv4 address, written as IPv6",
            hint="say 0.0.0.0/0 for those, and the IPv6 networks apart",
        )
    return found


def _drawn(connection: Connection) -> tuple[int, str]:
    """The number and the text of a key to be made."""
    drawn = only(connection, "select nextval('public.api_keys_id_seq') as id")
    number = drawn["id"] if drawn else 0
    return number, _new_text(number)


def _new_text(number: int) -> str:
    secret = "".join(secrets.choice(_BASE62) for _ in range(_SECRET_LENGTH))
    body = f"nsk_{number}_{secret}"
    return body + _checksum(body)


def _checksum(body: str) -> str:
    """CRC-32 as 6 digits of base 62."""
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK_LENGTH):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits


def _key(row: Row | None, key_id: int) -> ApiKey:
    if row is None:
        raise NotFoundError(
            f"there is no API key {key_id}", hint="negspace keys list shows those there are"
        )
    return ApiKey(**row)
