"""Accounts, their API keys, and the workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from negspace.generate.plan import DAY, Plan, chosen
from negspace.generate.text import (
    NULL,
    Piece,
    Text,
    either,
    hexadecimal,
    join,
    number,
    pick,
    timestamp,
)

GIVEN: Final = (
    "Ada", "Amara", "Chen", "Diego", "Elif", "Farid", "Grace", "Hana", "Ines", "Jonas", "Kofi",
    "Lena", "Maria", "Nils", "Olga", "Priya", "Rosa", "Sanjay", "Tomas", "Yuki",
)  # fmt: skip
FAMILY: Final = (
    "Adeyemi", "Brandt", "Costa", "Diaz", "Eriksen", "Fischer", "Garcia", "Haddad", "Ivanova",
    "Jensen", "Kowalski", "Lopez", "Mbeki", "Nakamura", "Okafor", "Patel", "Rossi", "Silva",
    "Tanaka", "Wang",
)  # fmt: skip
PLACES: Final = ("observatory", "eye-clinic", "radiology", "cell-lab", "archive", "studio")
ROLES: Final = {"viewer": 45, "analyst": 40, "api_user": 12, "admin": 3}
WORKERS: Final = tuple(f"worker-{n:02}" for n in range(1, 9))
_BCRYPT: Final = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def users(plan: Plan, first: Mapping[str, int]) -> Iterator[dict[str, Piece]]:
    """The accounts, all made before the year begins; nobody knows a password of one."""
    chance, count = plan.chance("users"), plan.accounts
    numbers = first["users"] + np.arange(count)
    given, family = chance.integers(0, len(GIVEN), count), chance.integers(0, len(FAMILY), count)
    place = chance.integers(0, len(PLACES), count)
    made = plan.start - chance.integers(1, 365 * DAY, count)
    seen = plan.end - (chance.exponential(20 * DAY, count).astype(np.int64) + 1)
    seen = np.maximum(seen, plan.start)
    active = chance.random(count) < 0.96
    failures = np.where(chance.random(count) < 0.03, chance.integers(1, 10, count), 0)
    lower = [name.lower() for name in GIVEN], [name.lower() for name in FAMILY]
    who = join(pick(lower[0], given), ".", pick(lower[1], family))
    yield {
        "id": number(numbers),
        "email": join(who, ".", number(numbers), "@", pick(PLACES, place), ".example.org"),
        "password_hash": join("$2b$12$", _letters(chance, count, 53)),
        "full_name": join(pick(GIVEN, given), " ", pick(FAMILY, family)),
        "role": pick(list(ROLES), chosen(chance, list(ROLES.values()), count)),
        "is_active": pick("ft", active.astype(int)),
        "is_email_verified": pick("ft", (chance.random(count) < 0.9).astype(int)),
        "last_login_at": either(chance.random(count) < 0.93, timestamp(seen)),
        "created_at": timestamp(made),
        "updated_at": timestamp(np.maximum(made, seen)),
        "metadata": join('{"institution": "', pick(PLACES, place), '"}'),
        "failed_login_attempts": number(failures),
        "account_locked_until": either(failures >= 8, timestamp(seen + DAY // 24)),
    }


def api_keys(plan: Plan, first: Mapping[str, int]) -> Iterator[dict[str, Piece]]:
    """One key for every tenth account; nobody knows the key of a hash."""
    # other keys where the database has those of another run: a key's hash is unique
    chance, count = plan.chance("api_keys", first["api_keys"]), keys(plan)
    made = plan.start + chance.integers(0, 300 * DAY, count)
    used = np.minimum(made + chance.integers(0, 365 * DAY, count), plan.end - 1)
    scopes = ('["read:images", "read:results"]', '["read:images", "read:results", "write:images"]')
    active = chance.random(count) < 0.9
    yield {
        "id": number(first["api_keys"] + np.arange(count)),
        "user_id": number(first["users"] + key_owner(plan, np.arange(count))),
        "key_hash": hexadecimal(chance.integers(0, 256, (count, 32), np.uint8)),
        "name": pick(("pipeline", "notebook", "telescope control", "export"), _cycle(count, 4)),
        "description": NULL,
        "is_active": pick("ft", active.astype(int)),
        "last_used_at": either(chance.random(count) < 0.8, timestamp(used)),
        "created_at": timestamp(made),
        "expires_at": either(chance.random(count) < 0.7, timestamp(made + 365 * DAY)),
        "scopes": pick(scopes, (chance.random(count) < 0.3).astype(int)),
        "ip_whitelist": either(chance.random(count) < 0.2, '["10.0.0.0/8"]'),
        "rate_limit_per_minute": pick(("60", "100", "600"), chosen(chance, (1, 8, 1), count)),
        "total_requests": number(chance.pareto(1.1, count).clip(0, 1e6) * 100),
    }


def keys(plan: Plan) -> int:
    """How many API keys there are."""
    return max(1, plan.accounts // 10)


def key_owner(plan: Plan, key: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whose a key is; both are counted from 0."""
    return key * 10 % plan.accounts


def workers(plan: Plan, first: Mapping[str, int]) -> Iterator[dict[str, Piece]]:
    """The worker processes of the year; the last two still run."""
    count = len(WORKERS)
    began = plan.start + np.arange(count) * (DAY * 365 // count)
    ended = began + DAY * 365 // count
    run = first["images"]  # further workers, where the database has those of another run
    yield {
        "id": join(pick(WORKERS, np.arange(count)), f"-{run}"),
        "hostname": pick(("node-a", "node-b"), _cycle(count, 2)),
        "process_id": number(1000 + np.arange(count)),
        "algorithms": "{negative_space}",
        "started_at": timestamp(began),
        "heartbeat_at": timestamp(np.minimum(ended, plan.end - 1)),
        "stopped_at": either(np.arange(count) < count - 2, timestamp(ended)),
        "jobs_completed": number(np.full(count, plan.images // count)),
        "jobs_failed": number(np.full(count, plan.images // count // 15)),
        "last_words": either(np.arange(count) < count - 2, "stopped by a signal"),
    }


def _letters(chance: np.random.Generator, count: int, length: int) -> Text:
    alphabet = np.frombuffer(_BCRYPT.encode(), np.uint8)
    return alphabet[chance.integers(0, len(alphabet), (length, count))]


def _cycle(count: int, period: int) -> NDArray[np.int64]:
    return np.arange(count) % period
