"""The parent of the worker processes: starts them, replaces those that die, passes signals on.

It analyses nothing, so it hears a signal at once. The first SIGTERM or SIGINT lets every
worker finish its job; a second one makes them give their jobs back and stop at once.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.synchronize import Event
from typing import Any, Final

from negspace import analysis, server
from negspace.database import Database
from negspace.errors import AnalysisError, NegspaceError
from negspace.settings import Settings
from negspace.storage import Storage
from negspace.worker import housekeeping, registry
from negspace.worker.keeper import DROPPED
from negspace.worker.options import Options
from negspace.worker.process import Assignment, main

log = logging.getLogger("negspace.worker")

_LONGEST_BACKOFF: Final = 30.0  # seconds before a worker that keeps dying is started again
_FAILED_STARTS: Final = 5  # in a row, before the run gives up


@dataclass(frozen=True)
class Ran:
    """How a run of workers went.

    Attributes:
        completed: Jobs they completed.
        failed: Tries of jobs that failed.
        restarts: Workers that were started in place of one that died or dropped its job.
        stopped: They were told to stop.
        seconds: How long it lasted.
    """

    completed: int
    failed: int
    restarts: int
    stopped: bool
    seconds: float


def run(
    settings: Settings,
    options: Options | None = None,
    *,
    prepare: Callable[[], None] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Ran:
    """Run worker processes until they are told to stop, or, draining, nothing is left.

    Call it in the main thread: it takes over SIGTERM and SIGINT while it runs.

    Args:
        settings: Which database and storage; which analysers.
        options: How many, and how they behave.
        prepare: Called first in each worker process, to set up logging; a function of a
            module, so that it can be pickled.
        progress: Called with a line at a time while the embedded server starts.

    Raises:
        UnavailableError: No database was reached at the start. One that goes away later is
            waited for.
        AnalysisError: No analyser can be used.
        NegspaceError: The workers can't be started, again and again.
    """
    began = time.monotonic()
    options = options or Options()
    algorithms = _algorithms(settings)
    storage = Storage(server.storage_folder(settings))
    with server.open_database(settings, progress=progress) as database:

        def assignment(worker: str) -> Assignment:
            address = database.address
            return Assignment(worker, algorithms, address, storage, settings, options, prepare)

        pool = _Pool(options, assignment)
        _stay(pool, database)
        completed, failed = _counted(database, pool.names)
    return Ran(completed, failed, pool.restarts, pool.told > 0, time.monotonic() - began)


def _stay(pool: _Pool, database: Database) -> None:
    """Keep house while the workers run."""
    housekeeping.ensure_partitions(database)
    housekeeper = housekeeping.Housekeeper(database)
    housekeeper.start()
    try:
        with _signals(pool):
            pool.stay()
    finally:
        housekeeper.end()


@dataclass
class _Place:
    """Where one worker process runs, and the next after it dies."""

    process: SpawnProcess | None = None
    ready: Event | None = None
    failed_starts: int = 0
    start_at: float = 0.0  # by the monotonic clock


@dataclass
class _Pool:
    """The worker processes of a run."""

    options: Options
    assignment: Callable[[str], Assignment]
    names: list[str] = field(default_factory=list[str])
    restarts: int = 0
    told: int = 0
    _places: list[_Place] = field(default_factory=list[_Place])
    _context: SpawnContext = field(default_factory=lambda: multiprocessing.get_context("spawn"))
    wake: socket.socket | None = None

    def stay(self) -> None:
        """Start the workers, and return when all have ended."""
        self._places = [_Place() for _ in range(self.options.processes)]
        try:
            while self._places:
                for place in self._places:
                    self._fill(place)
                self._wait()
                self._places = [place for place in self._places if not self._has_ended(place)]
        except BaseException:
            self.told = 2
            self._pass_on()
            raise

    def tell(self) -> None:
        """Told to stop, once or again."""
        self.told += 1
        if self.told == 1:
            log.warning("stopping: running jobs are finished; once more gives them back at once")
        self._pass_on()

    def _pass_on(self) -> None:
        """Tell the workers what we were told; telling one again changes nothing."""
        number = signal.SIGTERM if self.told == 1 else signal.SIGUSR2
        for place in self._places:
            if place.process is not None and place.process.pid is not None:
                try:
                    os.kill(place.process.pid, number)
                except ProcessLookupError:
                    continue

    def _fill(self, place: _Place) -> None:
        if place.process is not None or self.told or time.monotonic() < place.start_at:
            return
        # the name says where it runs, and no other worker ever had it
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.names.append(name)
        place.ready = self._context.Event()
        place.process = self._context.Process(
            target=main, args=(self.assignment(name), place.ready), name=name
        )
        # A terminal's SIGINT goes to all; it is ours, so workers never get it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            place.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        if self.told:  # a signal came while it started
            self._pass_on()

    def _wait(self) -> None:
        sources: list[Any] = [self.wake] if self.wake is not None else []
        sources += [p.process.sentinel for p in self._places if p.process is not None]
        due = [p.start_at for p in self._places if p.process is None]
        timeout = max(0.0, min(due) - time.monotonic()) if due and not self.told else None
        if due and self.told:
            return
        for source in connection.wait(sources, timeout):
            if source is self.wake and self.wake is not None:
                self.wake.recv(64)

    def _has_ended(self, place: _Place) -> bool:
        """Whether the place is given up; a worker that died is started again in it."""
        process = place.process
        if process is None:
            return self.told > 0
        status = process.exitcode
        if status is None:
            return False
        process.join()
        place.process = None
        if status == 0 or self.told:
            return True
        self._plan_restart(place, process.name, status)
        return False

    def _plan_restart(self, place: _Place, name: str, status: int) -> None:
        self.restarts += 1
        started = place.ready is not None and place.ready.is_set()
        place.failed_starts = 0 if started else place.failed_starts + 1
        if place.failed_starts >= _FAILED_STARTS:
            raise NegspaceError(
                f"worker processes can't be started: {_FAILED_STARTS} in a row died",
                hint="their log lines say why",
            )
        if status == DROPPED:
            return
        backoff = min(_LONGEST_BACKOFF, 0.5 * 2**place.failed_starts)
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        log.warning("worker %s %s; another starts in %.1f s", name, how, backoff)
        place.start_at = time.monotonic() + backoff


@contextmanager
def _signals(pool: _Pool) -> Generator[None]:
    """SIGTERM and SIGINT go to the pool inside the block."""
    ear, mouth = socket.socketpair()
    ear.setblocking(False)
    mouth.setblocking(False)
    pool.wake = ear

    def tell(number: int, frame: object) -> None:
        del number, frame
        pool.tell()

    told = [signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)]
    woken = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGTERM, told[0])
        signal.signal(signal.SIGINT, told[1])
        ear.close()
        mouth.close()


def _algorithms(settings: Settings) -> tuple[str, ...]:
    """The analysers there are, as ``name@version``; those that can't be used are logged."""
    usable: list[str] = []
    for found in analysis.found(settings.analyzers):
        if found.problem is None:
            usable.append(f"{found.name}@{found.version}")
        else:
            log.warning("the analyser %s is left out: %s", found.name, found.problem)
    if not usable:
        raise AnalysisError(
            "no analyser can be used, so no job can be done",
            hint="see NEGSPACE_ANALYZERS, and the log for analysers that can't be loaded",
        )
    return tuple(usable)


def _counted(database: Database, names: list[str]) -> tuple[int, int]:
    try:
        return registry.counted(database, names)
    except NegspaceError as error:
        log.warning("how many jobs were done can't be read: %s", error.message)
        return 0, 0
