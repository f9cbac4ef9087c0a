"""A run of the worker, from its first sign of life to its last."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from negspace import analysis, fit, server, upkeep
from negspace.database import Database
from negspace.errors import AnalysisError, NegspaceError, UnavailableError
from negspace.settings import Settings
from negspace.storage import Storage
from negspace.worker import housekeeping, registry
from negspace.worker.foreman import Foreman
from negspace.worker.options import Options
from negspace.worker.process import Setup
from negspace.worker.reach import Identity

log = logging.getLogger("negspace.worker")


@dataclass(frozen=True)
class Ran:
    """How a run of the worker went.

    Attributes:
        completed: Jobs it completed.
        failed: Tries of jobs that failed.
        restarts: Computing processes that were started in place of one that died or was ended.
        stopped: It was told to stop.
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
    """Run a worker until it is told to stop, or, draining, nothing is left.

    Call it in the main thread: it takes over SIGTERM and SIGINT while it runs.

    Args:
        settings: Which database and storage; which analysers.
        options: How many processes compute, and how the worker behaves.
        prepare: Called first in each computing process, to set up logging; a function of a
            module, so that it can be pickled.
        progress: Called with a line at a time while the embedded server starts.

    Raises:
        UnavailableError: No database was reached at the start. One that goes away later is
            waited for.
        AnalysisError: No analyser can be used.
        NegspaceError: Processes can't be started, again and again.
    """
    began = time.monotonic()
    options = options or Options()
    algorithms = _algorithms(settings)
    # the name says where it runs, and no other worker ever had it
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    storage = Storage(server.storage_folder(settings))
    setup = Setup(storage, settings, prepare)
    with server.open_database(settings, progress=progress) as database:
        fit.see_operator(database)
        identity = Identity(name, algorithms, database.address, options)
        upkeep.ensure_partitions(database)
        registry.register(database, name, identity.hostname, os.getpid(), algorithms)
        log.info("worker %s runs %s", name, ", ".join(algorithms))
        foreman = Foreman(identity, setup)
        _stay(foreman, identity, database, storage)
        completed, failed = _counted(database, name)
    return Ran(completed, failed, foreman.restarts, foreman.told > 0, time.monotonic() - began)


def _stay(foreman: Foreman, identity: Identity, database: Database, storage: Storage) -> None:
    """Keep house while the worker runs, and say how it ended."""
    database.close()  # not needed meanwhile; and a new pool sees at once where no server is there
    housekeeper = housekeeping.Housekeeper(identity.open_database(), storage)
    housekeeper.start()
    words = "ended by an error, which its log says"
    try:
        with _signals(foreman):
            foreman.stay()
        words = "told to stop" if foreman.told else "nothing left to do"
    finally:
        housekeeper.end()
        try:
            registry.stop(database, identity.worker, words)
        except UnavailableError as error:
            log.warning("the database doesn't hear that we stop: %s", error.message)


@contextmanager
def _signals(foreman: Foreman) -> Generator[None]:
    """SIGTERM and SIGINT tell the foreman to stop, inside the block."""

    def tell(number: int, frame: object) -> None:
        del number, frame
        foreman.tell()

    before = [signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


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


def _counted(database: Database, name: str) -> tuple[int, int]:
    try:
        return registry.counted(database, [name])
    except NegspaceError as error:
        log.warning("how many jobs were done can't be read: %s", error.message)
        return 0, 0
