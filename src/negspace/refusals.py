"""Refusals for a rate limit, remembered for a moment: a flood isn't asked about again and again.

A limit that is used up stays so until its next request is due, whatever else comes. Only
somebody who raises the limit, or a crash that empties it, can free it sooner; so what is
remembered is forgotten after a tenth of a second.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

_Answer = TypeVar("_Answer")

LASTING: Final = 0.1  # seconds
_AT_MOST: Final = 1000  # questions; each has a few hundred bytes


class Refusals(Generic[_Answer]):
    """Answers by question, of one process; safe to share between threads.

    Args:
        lasting: For how many seconds one is remembered at most.
    """

    def __init__(self, lasting: float = LASTING) -> None:
        self._lasting = lasting
        self._kept: dict[Hashable, tuple[float, float, _Answer]] = {}

    def keep(self, question: Hashable, answer: _Answer, retry_after: float) -> None:
        """Remember an answer that was just given, and that can't change for so many seconds."""
        now = time.monotonic()
        if len(self._kept) >= _AT_MOST:
            self._kept = {}  # whoever was in it is asked about once more
        self._kept[question] = (now + min(retry_after, self._lasting), now + retry_after, answer)

    def find(self, question: Hashable) -> tuple[_Answer, float] | None:
        """The answer and the seconds until its end, or None where it must be asked for."""
        kept = self._kept.get(question)
        if kept is None:
            return None
        until, free_at, answer = kept
        now = time.monotonic()
        if now < until:
            return answer, free_at - now
        self._kept.pop(question, None)
        return None
