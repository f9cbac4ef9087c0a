"""Where one computing process runs, and the next after it dies: the process seen from outside."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Final
from uuid import UUID

from negspace.worker.leases import Claimed, Log
from negspace.worker.limits import megabytes, memory_in_use, oom_kills, peak_memory
from negspace.worker.lines import Line, Lines
from negspace.worker.options import Options
from negspace.worker.process import DUMP, Message, Setup, main
from negspace.worker.words import Words

log = logging.getLogger("negspace.worker")

LONGEST_BACKOFF: Final = 30.0  # seconds before a process that keeps dying is started again
_TO_SPEAK: Final = 0.1  # seconds that a hanging process gets to say where it is
_TO_BE_READ: Final = 2.0  # seconds until what it sent before it died has surely been read
_MOST_DUMPED: Final = 65_536  # bytes
_FRAME: Final = re.compile(r'File "(?:.*[/\\])?([^"/\\]+)", line (\d+) in (\S+)')


@dataclass
class Task:
    """A job that a computing process was given."""

    job: Claimed
    lines: Lines = field(default_factory=Lines)
    began: float | None = None  # by the monotonic clock; None: it waits in the pipe
    lines_stored: int = 0
    peak: int | None = None  # bytes that its process had at most, as far as was looked

    def log(self, worker: str) -> Log | None:
        """What it said so far; None where that is stored, or nothing."""
        if self.lines.count == self.lines_stored:
            return None
        self.lines_stored = self.lines.count
        kept = self.lines.kept
        return Log(worker, kept, self.lines.count - len(kept))


@dataclass(frozen=True)
class Verdict:
    """Why the worker ended a process: what to say of the job, and whether to try it again."""

    reason: str
    error: str
    again: bool


@dataclass(frozen=True)
class Death:
    """How a process ended.

    Attributes:
        how: ``was killed by SIGKILL``, ``exited with 1``.
        where: The function it was in, where it could say so.
        lines: Its last words: its standard error, and where it was.
        stderr: The last line of its standard error; empty where it said nothing.
    """

    how: str
    where: str
    lines: Sequence[Line]
    stderr: str


class Place:
    """One process at a time. Its methods are called by the worker's main thread alone."""

    def __init__(
        self,
        context: SpawnContext,
        setup: Setup,
        hear: Callable[[Place, Message], None],
        gone: Callable[[Place, SpawnProcess], None],
    ) -> None:
        """Make a place; ``hear`` and ``gone`` are called in a thread that reads the pipe."""
        self._context = context
        self._setup = setup
        self._hear = hear
        self._gone = gone
        self.process: SpawnProcess | None = None
        self.ready = False
        self.tasks: dict[UUID, Task] = {}  # in the order given
        self.verdict: Verdict | None = None
        self.failed_starts = 0
        self.start_at = 0.0  # by the monotonic clock
        self._asked_at = 0.0
        self._ended_at = 0.0

    def start(self) -> None:
        """Start a process."""
        self._pipe, theirs = self._context.Pipe()
        self._dumped, their_dump = self._context.Pipe(duplex=False)
        stderr, their_stderr = self._context.Pipe(duplex=False)
        self.process = self._context.Process(
            target=main,
            args=(self._setup, theirs, their_dump, their_stderr),
            name="negspace-computing",
        )
        # What a terminal or a service manager sends to all is ours; it comes to ignore them.
        signals = [signal.SIGINT, signal.SIGTERM]
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        self._words = Words(os.dup(stderr.fileno()))
        for end in (theirs, their_dump, their_stderr, stderr):
            end.close()
        self._words.start()
        self._oom_kills = oom_kills()
        self.ready, self.verdict = False, None
        self._asked_at = self._ended_at = 0.0
        threading.Thread(
            target=self._read, args=(self._pipe, self.process), name="negspace-reader", daemon=True
        ).start()

    def give(self, job: Claimed) -> None:
        """Send a job; a process that has died says so otherwise."""
        self.tasks[job.token] = Task(job)
        try:
            self._pipe.send(job)
        except OSError:
            log.debug("job %s: given to a process that has just ended", job.id)

    @property
    def computing(self) -> Task | None:
        """What it computes at the moment."""
        for task in self.tasks.values():
            return task if task.began is not None else None
        return None

    def see_limits(self, options: Options) -> None:
        """End the process where its job takes too long or too much."""
        task = self.computing
        if task is None or task.began is None or self.process is None or self.process.pid is None:
            return
        task.peak = peak_memory(self.process.pid) or task.peak
        if task.job.is_overdue():
            self._end_hanging(Verdict("not done by its deadline", "DeadlinePassed", again=False))
        elif time.monotonic() - task.began > options.time_limit:
            reason = f"not done within the {options.time_limit:g} s allowed"
            self._end_hanging(Verdict(reason, "TimeLimit", again=True))
        elif options.memory_limit is not None:
            used = memory_in_use(self.process.pid)
            if used is not None and used > options.memory_limit:
                words = f"{megabytes(used)} of memory in use, more than the"
                reason = f"{words} {megabytes(options.memory_limit)} allowed"
                self.kill(Verdict(reason, "MemoryLimit", again=False))

    def _end_hanging(self, verdict: Verdict) -> None:
        """First let it say where it is; foreign code doesn't come back for more."""
        now = time.monotonic()
        if self._asked_at == 0.0 and self.process is not None and self.process.pid is not None:
            self._asked_at = now
            os.kill(self.process.pid, DUMP)  # not reaped yet: the number is still its own
        elif now - self._asked_at > _TO_SPEAK:
            self.kill(verdict)

    def has_died_silently(self) -> bool:
        """Whether it ended a while ago, and a process of its own keeps the pipe open."""
        if self.process is None or self.process.exitcode is None:
            return False
        self._ended_at = self._ended_at or time.monotonic()
        return time.monotonic() - self._ended_at > _TO_BE_READ

    def kill(self, verdict: Verdict | None = None) -> None:
        """End the process now; ``gone`` tells when it has ended."""
        self.verdict = self.verdict or verdict
        if self.process is not None:
            self.process.kill()

    def bury(self) -> Death:
        """What a process that is gone died of, and the words it left; the place is free."""
        process, self.process = self.process, None
        if process is None:
            return Death("", "", (), "")
        process.kill()  # its pipe is closed: whatever lives on there computes for nobody
        process.join()
        status = process.exitcode or 0
        process.close()
        dump = _read_dump(self._dumped.fileno())
        self._dumped.close()
        self._pipe.close()
        self._plan_start()
        frame = _FRAME.search(dump)
        said = self._words.last()
        where = [Line.now("CRITICAL", "faulthandler", line) for line in dump.splitlines()]
        return Death(
            self._how(status),
            f"{frame[3]} ({frame[1]}:{frame[2]})" if frame else "",
            said + where,
            said[-1].message if said else "",
        )

    def _how(self, status: int) -> str:
        if status >= 0:
            return f"exited with {status}"
        starved = status == -signal.SIGKILL and oom_kills() != self._oom_kills
        why = ", while the kernel killed processes for want of memory" if starved else ""
        return f"was killed by {_signal_name(-status)}{why}"

    def _plan_start(self) -> None:
        self.failed_starts = 0 if self.ready else self.failed_starts + 1
        backoff = min(LONGEST_BACKOFF, 0.5 * 2**self.failed_starts) if self.failed_starts else 0.0
        self.start_at = time.monotonic() + backoff

    def _read(self, pipe: Connection[Any, Any], process: SpawnProcess) -> None:
        try:
            while True:
                self._hear(self, pipe.recv())
        except (EOFError, OSError):
            pass  # it has ended
        except Exception as error:  # cut off in the midst of a message
            log.debug("a computing process sent what can't be read: %s", error)
        self._gone(self, process)


def _read_dump(dumped: int) -> str:
    os.set_blocking(dumped, False)
    try:
        return os.read(dumped, _MOST_DUMPED).decode("utf-8", "replace").strip()
    except BlockingIOError:  # a grandchild holds the other end, and said nothing
        return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
