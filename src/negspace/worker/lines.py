"""The log lines of a try: caught where it computes, kept where it is watched.

A line crosses to the watching process as soon as it is written, so that a process that is
killed leaves its last words.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

FIRST: Final = 50  # lines of a try that are kept from its beginning
LAST: Final = 150  # and from its end
LONGEST: Final = 1000  # characters of a line
_AT_ONCE: Final = 1000  # lines of a try that cross; of those beyond, 20 a second
_PAUSE: Final = 0.05  # seconds


@dataclass(frozen=True)
class Line:
    """One line that was logged while a job was computed."""

    logged_at: datetime
    level: str
    logger: str
    message: str

    @classmethod
    def now(cls, level: str, logger: str, message: str) -> Line:
        """A line of this moment, cut where it is too long."""
        text = message if len(message) <= LONGEST else message[: LONGEST - 1] + "…"
        return cls(datetime.now(UTC), level, logger, text)


class Lines:
    """A try's lines: its first, its last, and how many between them were left out."""

    def __init__(self) -> None:
        self._first: list[Line] = []
        self._last: deque[Line] = deque(maxlen=LAST)
        self._count = 0

    def add(self, lines: Iterable[Line]) -> None:
        """Keep lines."""
        for line in lines:
            self._count += 1
            if len(self._first) < FIRST:
                self._first.append(line)
            else:
                self._last.append(line)

    @property
    def kept(self) -> list[Line]:
        """Those that are kept, in order."""
        return [*self._first, *self._last]

    @property
    def count(self) -> int:
        """How many there were."""
        return self._count


class Catcher(logging.Handler):
    """Passes on what is logged, from INFO on, by whatever library, while a job is computed."""

    def __init__(self, send: Callable[[Line], None]) -> None:
        super().__init__(logging.INFO)
        self._send = send
        self._sent = 0
        self._sent_at = 0.0

    def begin(self) -> None:
        """Another job begins."""
        self._sent = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on one record."""
        now = time.monotonic()
        if self._sent >= _AT_ONCE and now - self._sent_at < _PAUSE:
            return  # what an endless loop says again and again
        self._sent, self._sent_at = self._sent + 1, now
        try:
            self._send(Line.now(record.levelname, record.name, self.format(record)))
        except Exception:  # a broken format string of foreign code, as logging has it
            self.handleError(record)
