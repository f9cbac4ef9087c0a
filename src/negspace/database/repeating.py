"""Trying again, for whoever writes while servers fail over."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from negspace.errors import DatabaseError, NegspaceError, UnavailableError

if TYPE_CHECKING:
    from negspace.database.pool import Database

_FIRST_WAIT: Final = 0.1  # seconds, doubled each time
_LONGEST_WAIT: Final = 2.0

Answer = TypeVar("Answer")


def again(
    step: Callable[[], Answer],
    *,
    of: Database | None = None,
    patience: float = 60.0,
    unless: type[NegspaceError] | tuple[()] = (),
    on_wait: Callable[[NegspaceError], None] | None = None,
) -> Answer:
    """The answer of a step, which is repeated while no server takes it.

    A connection that is lost leaves in doubt whether the last statement was committed. So the
    step has to be one that may be done twice, as asking for the same analysis may.

    Args:
        step: With transactions of its own; a connection of before is of no use.
        of: Its database; each repetition connects anew, and at once. A pool left to itself waits
            before it tries again, twice as long each time.
        patience: Seconds from the first failure until it is given up.
        unless: What it gives up on at once.
        on_wait: Called with the first failure.

    Raises:
        UnavailableError: No server took it in all that time; the last failure.
        NegspaceError: What else the step raises; a transaction that met another one (SQLSTATE
            class 40) is repeated too.
    """
    give_up: float | None = None
    wait = _FIRST_WAIT
    while True:
        try:
            return step()
        except (UnavailableError, DatabaseError) as error:
            may_pass = isinstance(error, UnavailableError) or is_transient(error)
            if not may_pass or isinstance(error, unless):
                raise
            if give_up is None:
                give_up = time.monotonic() + patience
                if on_wait is not None:
                    on_wait(error)
            if of is not None and isinstance(error, UnavailableError):
                of.drop_connections()
            left = give_up - time.monotonic()
            if left <= 0:
                raise
        time.sleep(min(left, wait * random.uniform(0.5, 1.0)))  # noqa: S311  jitter
        wait = min(2 * wait, _LONGEST_WAIT)


def is_transient(error: NegspaceError) -> bool:
    """Whether the same transaction may succeed now: it met another one (SQLSTATE class 40)."""
    return str(error.details.get("sqlstate", "")).startswith("40")
