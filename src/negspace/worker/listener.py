"""The thread that hears signals, and the end of the parent.

Python runs signal handlers in the main thread, between two instructions: a long call into a
library would keep them waiting. Here the signal's number arrives through a socket, so this
thread hears it at once, whatever the main thread does.

SIGTERM: finish the running job, then stop; so does the end of the parent. SIGUSR2: give the
running job back and stop at once.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, Final

from negspace.errors import NegspaceError
from negspace.worker import leases, registry

if TYPE_CHECKING:
    from negspace.worker.process import Assignment, Hands

log = logging.getLogger("negspace.worker")

_PATIENCE: Final = 5.0  # seconds to tell the database that a job is given back


class Listener(threading.Thread):
    """Hears until the process ends. Make it in the main thread."""

    def __init__(self, assignment: Assignment, hands: Hands, stop: threading.Event) -> None:
        super().__init__(name="negspace-listener", daemon=True)
        self._assignment = assignment
        self._hands = hands
        self._stop_asked = stop
        self._ear, mouth = socket.socketpair()
        mouth.setblocking(False)
        self._mouth = mouth
        signal.signal(signal.SIGTERM, _nothing)  # a handler of Python's, so that it is written
        signal.signal(signal.SIGUSR2, _nothing)
        signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)

    def run(self) -> None:
        """The thread's life."""
        parent = multiprocessing.parent_process()
        sources: list[Any] = [self._ear] + ([parent.sentinel] if parent else [])
        while True:
            heard = connection.wait(sources)
            if self._ear in heard:
                for number in self._ear.recv(64):
                    self._hear(number)
            if parent and parent.sentinel in heard:
                log.warning("the parent of worker %s is gone: stopping", self._assignment.worker)
                sources.remove(parent.sentinel)
                self._stop_asked.set()

    def _hear(self, number: int) -> None:
        if number == signal.SIGTERM:
            self._stop_asked.set()
        elif number == signal.SIGUSR2:
            self._stop_asked.set()
            telling = threading.Thread(target=self._give_back, daemon=True)
            telling.start()
            telling.join(_PATIENCE)
            os._exit(0)

    def _give_back(self) -> None:
        database = self._assignment.open_database()
        try:
            job = self._hands.job
            if job is not None:
                leases.give_back(database, job.id, job.token, "given back: its worker was stopped")
                log.warning("job %s: given back", job.id)
            registry.stop(database, self._assignment.worker, "told to stop at once")
        except NegspaceError as error:  # it ended just now, or no server: its lease runs out
            log.warning("nothing given back: %s", error.message)


def _nothing(number: int, frame: object) -> None:
    """The number is already on its way to the thread."""
    del number, frame
