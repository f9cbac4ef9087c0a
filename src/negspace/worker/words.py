"""What a computing process says on its standard error, and how much of it is kept.

Foreign code that ends its process says why there, if anywhere: ``free(): invalid pointer``. All of
it is passed on to the worker's own standard error, as if it had been written there.
"""

from __future__ import annotations

import os
import sys
import threading
from multiprocessing.connection import Connection
from typing import IO, Any, Final

from negspace.worker.lines import Line

LINES: Final = 20  # the last of a job that are kept
_BYTES: Final = 16_384
_BEGIN: Final = b"\0"  # one byte, so that it is never cut in two
_PATIENCE: Final = 0.2  # seconds for the rest, which a grandchild may hold back
_STDERR: Final = 2


class Words(threading.Thread):
    """Reads until the process has ended."""

    def __init__(self, descriptor: int) -> None:
        """Make it; the descriptor, where the process writes to, is its own from then on."""
        super().__init__(name="negspace-words", daemon=True)
        self._descriptor = descriptor
        self._kept = b""  # only ever replaced whole

    def run(self) -> None:
        """The thread's life."""
        while said := os.read(self._descriptor, 65_536):
            self._kept = (self._kept + said).rpartition(_BEGIN)[2][-_BYTES:]
            try:
                os.write(_STDERR, said.replace(_BEGIN, b""))
            except OSError:  # the worker has no standard error
                continue
        os.close(self._descriptor)

    def last(self) -> list[Line]:
        """The last lines of the job that was computed, when the process has ended."""
        self.join(_PATIENCE)
        lines = self._kept.decode("utf-8", "replace").splitlines()
        said = [line for line in lines if line.strip()]
        return [Line.now("ERROR", "stderr", line) for line in said[-LINES:]]


def begin() -> None:
    """In a computing process: what is said from now on belongs to another job."""
    os.write(_STDERR, _BEGIN)


def keep_own_stderr() -> None:
    """In a computing process: what is opened on ``sys.stderr`` now stays the worker's own."""
    sys.stderr = _opened(os.dup(_STDERR))


def send_stderr(pipe: Connection[Any, Any]) -> None:
    """In a computing process: whatever writes to standard error writes into the pipe."""
    os.dup2(pipe.fileno(), _STDERR)
    sys.stderr = _opened(_STDERR)


def _opened(descriptor: int) -> IO[str]:
    return os.fdopen(
        descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
