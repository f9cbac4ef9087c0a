"""Reaching the database, and waiting for it: what the worker's threads have in common."""

from __future__ import annotations

import logging
import random
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from negspace.database import Actor, Database, PoolSize, is_transient
from negspace.errors import DatabaseError, UnavailableError
from negspace.worker.options import Options

log = logging.getLogger("negspace.worker")

_FIRST_WAIT: Final = 0.2  # seconds before a lost server is tried again, doubled each time
_LONGEST_WAIT: Final = 5.0
_LONGEST_AGAIN: Final = 0.5  # seconds before a transaction that met another is tried again

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Identity:
    """Who the worker is.

    Attributes:
        worker: Its name, as ``workers.id`` has it.
        algorithms: The analysers it has, as ``name@version``.
        address: The database.
        options: How it behaves.
    """

    worker: str
    algorithms: tuple[str, ...]
    address: str
    options: Options

    @property
    def hostname(self) -> str:
        """The machine it runs on."""
        return socket.gethostname()

    def open_database(self) -> Database:
        """A pool of one connection, for one thread."""
        actor = Actor(user_agent=f"negspace worker {self.worker}")
        return Database(self.address, actor=actor, pool=PoolSize(1, 1, acquire_timeout=5.0))


class Reach:
    """A thread's way to the database: tries again, with jitter, until it is told to end."""

    def __init__(self, identity: Identity, what: str) -> None:
        """Make a way; ``what`` says in the log what has to wait."""
        self.database = identity.open_database()
        self.ended = threading.Event()
        self._what = what
        self._waits = 0

    def insist(self, step: Callable[[], Answer]) -> Answer:
        """The step's answer, however often the server goes away meanwhile.

        Raises:
            UnavailableError: No server, and told to end.
            NegspaceError: What else the step raises; a transaction that met another one
                (SQLSTATE class 40) is tried again.
        """
        again = 0
        while True:
            try:
                answer = step()
                self._waits = 0
                return answer
            except UnavailableError as error:
                self.wait_for_server(error)
                if self.ended.is_set():
                    raise
            except DatabaseError as error:
                if not is_transient(error):
                    raise
                again += 1
                self.ended.wait(_jittered(min(_LONGEST_AGAIN, 0.01 * 2**again)))

    def wait_for_server(self, error: UnavailableError) -> None:
        """Wait before the next try, longer each time."""
        if self._waits == 0:
            log.warning("no database: %s; %s waits for it", error.message, self._what)
        self.database.drop_connections()  # of broken ones, it would take its time to notice
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(self._waits, 10))
        self._waits += 1
        self.ended.wait(_jittered(longest))

    def reached(self) -> None:
        """The server answers."""
        self._waits = 0


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311  not a secret
