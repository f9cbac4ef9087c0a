"""One worker process: claim a job, analyse, complete, again."""

from __future__ import annotations

import logging
import os
import random
import socket
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Final, TypeVar

from negspace.database import Actor, Database, PoolSize
from negspace.errors import DatabaseError, LeaseLostError, NegspaceError, UnavailableError
from negspace.settings import Settings
from negspace.storage import Storage
from negspace.worker import leases, registry, work
from negspace.worker.keeper import Keeper
from negspace.worker.leases import Claimed
from negspace.worker.listener import Listener
from negspace.worker.options import Options

log = logging.getLogger("negspace.worker")

_FIRST_POLL: Final = 0.05  # seconds; doubled up to Options.poll while there is nothing to do
_LONGEST_WAIT: Final = 5.0  # seconds between two attempts to reach a lost server

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Assignment:
    """What the parent gives a worker process.

    Attributes:
        worker: Its name.
        algorithms: The analysers it has, as ``name@version``.
        address: The database.
        storage: The image files.
        settings: For the analysers.
        options: How it behaves.
        prepare: Called first; sets up logging.
    """

    worker: str
    algorithms: tuple[str, ...]
    address: str
    storage: Storage
    settings: Settings
    options: Options
    prepare: Callable[[], None] | None = None

    def register(self, database: Database) -> None:
        """Say that the worker is there."""
        registry.register(database, self.worker, socket.gethostname(), os.getpid(), self.algorithms)

    def open_database(self) -> Database:
        """A pool of one connection, for one thread."""
        actor = Actor(user_agent=f"negspace worker {self.worker}")
        return Database(self.address, actor=actor, pool=PoolSize(1, 1, acquire_timeout=10.0))


class Hands:
    """What the worker holds at the moment; its threads look at it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._job: Claimed | None = None
        self._computes = False

    def take(self, job: Claimed) -> None:
        """It holds this job."""
        with self._lock:
            self._job = job

    @contextmanager
    def computing(self) -> Generator[None]:
        """Inside the block it computes, and nothing is lost when that is broken off."""
        with self._lock:
            self._computes = True
        try:
            yield
        finally:
            with self._lock:
                self._computes = False

    def free(self) -> None:
        """It holds nothing."""
        with self._lock:
            self._job = None

    @property
    def job(self) -> Claimed | None:
        """The job it holds."""
        with self._lock:
            return self._job

    def computes(self, job: Claimed) -> bool:
        """Whether it computes for this job: before and after, the database says what holds."""
        with self._lock:
            return self._job is job and self._computes


def main(assignment: Assignment, ready: Event) -> None:
    """The worker process's whole life; called by the parent in a new process.

    Args:
        assignment: What to do.
        ready: Set once the worker is registered.
    """
    if assignment.prepare is not None:
        assignment.prepare()
    hands, stop = Hands(), threading.Event()
    Listener(assignment, hands, stop).start()  # first: signals must find it
    worker = _Process(assignment, hands, stop)
    try:
        if worker.register():
            ready.set()
            worker.run()
    except NegspaceError as error:
        log.critical("worker %s ends: %s", assignment.worker, error.message)
        sys.exit(1)


class _Process:
    """The main thread of a worker process."""

    def __init__(self, assignment: Assignment, hands: Hands, stop: threading.Event) -> None:
        self._assignment = assignment
        self._options = assignment.options
        self._hands = hands
        self._stop = stop
        self._database = assignment.open_database()
        self._algorithms = assignment.algorithms
        self._waits = 0

    def register(self) -> bool:
        """Say that it is there; False where it is told to stop before a server answers."""
        while not self._stop.is_set():
            try:
                self._assignment.register(self._database)
                return True
            except UnavailableError as error:
                self._wait_for_server(error)
        return False

    def run(self) -> None:
        """Work until told to stop, or, draining, until nothing is left."""
        keeper = Keeper(self._assignment, self._hands)
        keeper.start()
        log.info("worker %s runs %s", self._assignment.worker, ", ".join(self._algorithms))
        try:
            self._work()
        finally:
            keeper.end()
            self._say_goodbye()

    def _work(self) -> None:
        pause = _FIRST_POLL
        while not self._stop.is_set():
            try:
                job = leases.claim(self._database, self._assignment.worker, self._algorithms)
                self._waits = 0
                if job is not None:
                    pause = _FIRST_POLL
                    self._do(job)
                    continue
                if self._options.drain and leases.is_drained(self._database, self._algorithms):
                    return
            except UnavailableError as error:
                self._wait_for_server(error)
            except DatabaseError as error:
                if not is_transient(error):
                    raise
            self._stop.wait(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter
            pause = min(2 * pause, self._options.poll)

    def _do(self, job: Claimed) -> None:
        self._hands.take(job)
        fields = {"job_id": job.id, "image_id": job.image_id, "attempt": job.attempt}
        try:
            self._perform(job, fields)
        except LeaseLostError:
            log.warning("job %s: no longer ours, the work is dropped", job.id, extra=fields)
        finally:
            self._hands.free()

    def _perform(self, job: Claimed, fields: dict[str, int]) -> None:
        if self._insist(lambda: leases.complete_from_cache(self._database, job)) is not None:
            log.info("job %s: answered from the cache", job.id, extra=fields)
            return
        try:
            with self._hands.computing():
                done = work.analyse(job, self._assignment.storage, self._assignment.settings)
            result = self._insist(lambda: leases.complete(self._database, job, done))
        except (LeaseLostError, UnavailableError):
            raise
        except Exception as error:  # an analyser's own errors are of any class
            self._fail(job, error, fields)
            return
        log.info(
            "job %s: image %s analysed in %s ms",
            job.id,
            job.image_id,
            done.processing_time_ms,
            extra=fields | {"result_id": result},
        )

    def _fail(self, job: Claimed, error: Exception, fields: dict[str, int]) -> None:
        reason = work.reason(error, job, self._assignment.storage)
        again = work.may_help(error)
        status = self._insist(lambda: leases.fail(self._database, job, reason, again=again))
        log.warning("job %s: image %s %s: %s", job.id, job.image_id, status, reason, extra=fields)
        log.debug("job %s: where it failed", job.id, exc_info=error)

    def _insist(self, step: Callable[[], Answer]) -> Answer:
        """The step's answer, however often the server goes away meanwhile.

        Once the worker is told to stop it insists no more: the lease runs out, and another
        worker does the job again.
        """
        while True:
            try:
                answer = step()
                self._waits = 0
                return answer
            except UnavailableError as error:
                if self._stop.is_set():
                    raise
                self._wait_for_server(error)
            except DatabaseError as error:
                if not is_transient(error):
                    raise

    def _wait_for_server(self, error: UnavailableError) -> None:
        if self._waits == 0:
            log.warning("no database: %s; waiting for it", error.message)
        self._database.close()  # a pool of broken connections would take its time to notice
        longest = min(_LONGEST_WAIT, 0.2 * 2 ** min(self._waits, 10))
        self._waits += 1
        self._stop.wait(longest * random.uniform(0.5, 1.0))  # noqa: S311  jitter

    def _say_goodbye(self) -> None:
        words = "told to stop" if self._stop.is_set() else "nothing left to do"
        try:
            registry.stop(self._database, self._assignment.worker, words)
        except UnavailableError as error:
            log.warning("the database doesn't hear that we stop: %s", error.message)
        self._database.close()


def is_transient(error: DatabaseError) -> bool:
    """Whether the same transaction may succeed now: it met another one (SQLSTATE class 40)."""
    return str(error.details.get("sqlstate", "")).startswith("40")
