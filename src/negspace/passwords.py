"""Passwords: bcrypt in this process, a few at a time, with the same work for every comparison.

A hash costs about a fifth of a second of a core, on purpose. A flood of logins would take all
cores from everything else, so no more run at once than ``SLOTS``; the rest wait.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from negspace.errors import InvalidInputError, UnavailableError

COST: Final = 12  # bcrypt's rounds as a power of two: about 0.2 s a password
SHORTEST: Final = 8  # characters
LONGEST: Final = 72  # bytes; bcrypt takes no more
SLOTS: Final = max(1, (os.cpu_count() or 2) // 2)
PATIENCE: Final = 30.0  # seconds to wait for a slot

# Nobody's: what the password of an unknown account is compared with, so that it takes as long.
_NOBODY: Final = "WofuPS9ij5W3if1E8wVn2Oh8fD7z2BnX6owoABj4e/hq3o7uMNnB2"
_slots: Final = threading.BoundedSemaphore(SLOTS)


def hashed(password: str, *, cost: int = COST) -> str:
    """The bcrypt hash of a password.

    Raises:
        InvalidInputError: It is too short, too long, or holds a NUL.
        UnavailableError: Too many are hashed at once.
    """
    import bcrypt

    if len(password) < SHORTEST:
        raise InvalidInputError(
            "the password is too short", hint=f"take {SHORTEST} characters or more"
        )
    if not _usable(password):
        raise InvalidInputError(
            "the password is too long, or holds a NUL or a broken character",
            hint=f"bcrypt takes {LONGEST} bytes of UTF-8 at most",
        )
    with _slot():
        return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


def fits(password: str, kept: str | None, *, cost: int = COST) -> bool:
    """Whether a password is that of a hash, after the work of a hash of ``cost``.

    The work is the same where there is no hash, where the password can be none, and where the
    hash is an older one of a lower cost: 2^c + (2^c + … + 2^(cost - 1)) = 2^cost rounds.

    Args:
        password: As it was typed.
        kept: The account's hash; None where there is no account.
        cost: That of new hashes, as a power of two.

    Raises:
        UnavailableError: Too many are compared at once.
    """
    import bcrypt

    usable = _usable(password)
    given = password.encode() if usable else b"unusable"
    compared = kept or f"$2b${cost:02}${_NOBODY}"
    with _slot():
        same = bcrypt.checkpw(given, compared.encode())
        for missing in range(cost_of(compared), cost):
            bcrypt.checkpw(given, f"$2b${missing:02}${_NOBODY}".encode())
    return same and usable and kept is not None


def cost_of(kept: str) -> int:
    """The cost of a hash, as a power of two."""
    return int(kept.split("$")[2])


@contextmanager
def _slot() -> Generator[None]:
    if not _slots.acquire(timeout=PATIENCE):
        raise UnavailableError(
            f"too many passwords at once: none of {SLOTS} slots free within {PATIENCE:g} s",
            hint="try again in a while",
        )
    try:
        yield
    finally:
        _slots.release()


def _usable(password: str) -> bool:
    try:
        encoded = password.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return len(encoded) <= LONGEST and b"\0" not in encoded
