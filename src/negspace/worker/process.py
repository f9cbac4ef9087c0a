"""A computing process, from inside: a job comes through a pipe, its result goes back.

It has no connection to the database and knows no lease: whatever a job does to its process,
the worker that watches it goes on beating, and says how the job ended.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from negspace.errors import NegspaceError
from negspace.settings import Settings
from negspace.storage import Storage
from negspace.worker import words as spoken
from negspace.worker import work
from negspace.worker.leases import Claimed, Completion
from negspace.worker.lines import Catcher, Line

log = logging.getLogger("negspace.worker")

DUMP: Final = signal.SIGUSR1  # writes where the process is, even out of foreign code
_SIGNAL_ON_PARENTS_DEATH: Final = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Setup:
    """What a computing process is given.

    Attributes:
        storage: The image files.
        settings: For the analysers.
        prepare: Called first; sets up logging.
    """

    storage: Storage
    settings: Settings
    prepare: Callable[[], None] | None = None


@dataclass(frozen=True)
class Ready:
    """It waits for its first job."""


@dataclass(frozen=True)
class Began:
    """It computes this job now."""

    token: UUID


@dataclass(frozen=True)
class Said:
    """A line that was logged."""

    line: Line


@dataclass(frozen=True)
class Done:
    """A job's result."""

    token: UUID
    completion: Completion


@dataclass(frozen=True)
class Broke:
    """Why a job failed, and whether another try may help."""

    token: UUID
    reason: str
    error: str
    again: bool


Message = Ready | Began | Said | Done | Broke


def main(
    setup: Setup,
    pipe: Connection[Any, Any],
    words: Connection[Any, Any],
    stderr: Connection[Any, Any],
) -> None:
    """The whole life of a computing process; called in a new process.

    Args:
        setup: What it works with.
        pipe: Jobs come, messages go.
        words: Where its last words go, when it crashes or is asked where it is.
        stderr: Where its standard error goes, all but what is logged.
    """
    _outlive_nobody()
    faulthandler.enable(words.fileno(), all_threads=False)
    faulthandler.register(DUMP, words.fileno(), all_threads=False)
    spoken.keep_own_stderr()
    if setup.prepare is not None:
        setup.prepare()
    spoken.send_stderr(stderr)
    speaking = threading.Lock()  # an analyser may log in threads of its own

    def send(message: Message) -> None:
        with speaking:
            pipe.send(message)

    catcher = _catch_lines(lambda line: send(Said(line)))
    _load_libraries()
    send(Ready())
    while True:
        try:
            job: Claimed = pipe.recv()
            catcher.begin()
            spoken.begin()
            send(Began(job.token))
            send(_answer(setup, job, send))
        except (EOFError, ConnectionError):  # the worker has ended
            return


def _answer(setup: Setup, job: Claimed, send: Callable[[Message], None]) -> Done | Broke:
    try:
        return Done(job.token, work.analyse(job, setup.storage, setup.settings))
    except BaseException as error:  # an analyser's own errors are of any class, exits too
        if not isinstance(error, NegspaceError) or error.__cause__ is not None:
            for line in "".join(traceback.format_exception(error)).splitlines():
                send(Said(Line.now("ERROR", "negspace.worker", line)))
        reason = work.reason(error, job, setup.storage)
        return Broke(job.token, reason, type(error).__name__, work.may_help(error))


def _load_libraries() -> None:
    """What every job needs, before the first one's time begins."""
    from negspace.analysis import hashes, reading

    del hashes, reading


def _catch_lines(send: Callable[[Line], None]) -> Catcher:
    """Hear what every logger says; what is printed stays as ``prepare`` has it."""
    logging.captureWarnings(capture=True)
    catcher = Catcher(send)
    root = logging.getLogger()
    root.addHandler(catcher)
    root.setLevel(min(root.level, logging.INFO))
    ours = logging.getLogger("negspace")
    if not ours.propagate:
        ours.addHandler(catcher)
    return catcher


def _outlive_nobody() -> None:
    """End with the worker, leave signals to it, and be the first whom a full memory costs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # and a service manager this one
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
    threading.Thread(target=_end_with_parent, name="negspace-parent", daemon=True).start()
    if sys.platform == "linux":  # foreign code may keep that thread from running
        ctypes.CDLL(None).prctl(_SIGNAL_ON_PARENTS_DEATH, signal.SIGKILL)
        try:
            Path("/proc/self/oom_score_adj").write_text("500")
        except OSError:  # a sandbox may forbid it, and nothing depends on it
            log.debug("the kernel's choice when memory is full is left as it is")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    os._exit(0)
