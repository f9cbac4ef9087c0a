"""The worker's main thread: what it holds, who computes it, and how each job ends.

It neither computes nor waits for the database: other threads do, and post here what happened,
as calls that this thread makes one after the other. Nothing else changes what is held, so
there is nothing to lock.
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from multiprocessing.context import SpawnProcess
from typing import Any, Final
from uuid import UUID

from negspace.errors import NegspaceError
from negspace.worker.claimer import Claimer
from negspace.worker.finisher import Finisher
from negspace.worker.keeper import Keeper
from negspace.worker.leases import Claimed, End, How, Outcome
from negspace.worker.limits import megabytes
from negspace.worker.lines import Line
from negspace.worker.place import Death, Place, Task, Verdict
from negspace.worker.process import Began, Broke, Done, Message, Ready, Said, Setup
from negspace.worker.reach import Identity
from negspace.worker.stock import Content, Stock, content_of

log = logging.getLogger("negspace.worker")

_TICK: Final = 0.1  # seconds between two looks at limits while something is computed
_IDLE_TICK: Final = 1.0
_PATIENCE: Final = 5.0  # seconds to tell the database what is given back at once
_FAILED_STARTS: Final = 5  # in a row, before the run gives up
_STOPPED: Final = "given back: its worker was stopped"
_LATE: Final = "its deadline passed before it could begin"
_DROPPED: Final = Verdict("no longer ours", "Lost", again=True)


class Foreman:
    """Runs the worker until it is told to stop, or nothing is left.

    Attributes:
        restarts: Processes that were started in place of one that died or was ended.
        told: How often it was told to stop.
    """

    def __init__(self, identity: Identity, setup: Setup) -> None:
        self._identity = identity
        self._options = identity.options
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._known: dict[UUID, int] = {}  # all it holds: in stock, computed, or ending
        self._begun: dict[UUID, int] = {}  # … and what of it is computed
        self._stock = Stock(self._options.processes)
        self._busy: dict[UUID, Content] = {}  # computed or ending
        self._ending: set[UUID] = set()
        context = multiprocessing.get_context("spawn")
        self._places = [
            Place(context, setup, self._later_heard, self._later_gone)
            for _ in range(self._options.processes)
        ]
        post = self._inbox.put
        self._finisher = Finisher(identity, lambda end, how: post(partial(self._ended, end, how)))
        self._claimer = Claimer(
            identity,
            lambda jobs: post(partial(self._claimed, jobs)),
            lambda: post(self._drain),
            lambda error: post(partial(self._fail, error)),
        )
        self._keeper = Keeper(
            identity, self._known, self._begun, lambda tokens: post(partial(self._lost, tokens))
        )
        self._drained = False
        self._looked_at = self._noted_at = 0.0
        self.restarts = 0
        self.told = 0

    # ── what others call ─────────────────────────────────────────────────────────────────

    def tell(self) -> None:
        """Told to stop, once or again; may be called in a signal handler."""
        self._inbox.put(self._stop)

    def stay(self) -> None:
        """Work; returns when everything that was held has ended or was given back.

        Raises:
            NegspaceError: Claims are refused, or processes can't be started.
        """
        for thread in (self._finisher, self._keeper, self._claimer):
            thread.start()
        try:
            try:
                while not self._is_over():
                    self._step()
            except BaseException:
                self.told = 1
                self._stop()
                while not self._is_over():
                    self._step()
                raise
        finally:
            self._claimer.stop()
            self._claimer.join()
            self._finisher.end()
            self._keeper.end()
            for place in self._places:
                place.kill()
                place.bury()

    # ── the loop ─────────────────────────────────────────────────────────────────────────

    def _is_over(self) -> bool:
        if self.told:
            quiet = not self._claimer.is_alive() and self._inbox.empty()
            return quiet and not self._known
        return self._drained and not self._known

    def _step(self) -> None:
        self._fill_places()
        self._hand_out()
        computing = any(place.tasks for place in self._places)
        try:
            self._inbox.get(timeout=_TICK if computing else _IDLE_TICK)()
            while not self._inbox.empty():
                self._inbox.get()()
        except queue.Empty:
            pass
        if time.monotonic() - self._looked_at >= _TICK:
            self._looked_at = time.monotonic()
            self._look()

    def _fill_places(self) -> None:
        for place in self._places:
            if self.told or place.process is not None or time.monotonic() < place.start_at:
                continue
            if place.failed_starts >= _FAILED_STARTS:
                raise NegspaceError(
                    f"computing processes can't be started: {_FAILED_STARTS} in a row died",
                    hint="their log lines say why",
                )
            place.start()

    def _hand_out(self) -> None:
        ahead = self._stock.ahead
        for depth in range(1, ahead + 1):
            for place in self._places:
                if place.process is None or place.verdict or len(place.tasks) >= depth:
                    continue
                job = self._next()
                if job is None:
                    break
                self._busy[job.token] = content_of(job)
                place.give(job)
        if not self.told:
            self._claimer.want(self._stock.wanted(sum(len(p.tasks) for p in self._places)))

    def _next(self) -> Claimed | None:
        while (job := self._stock.take(self._busy.values())) is not None:
            if not job.is_overdue():
                return job
            self._put([End(job, "fail", reason=_LATE, error="DeadlinePassed", again=False)])
        return None

    def _look(self) -> None:
        for place in self._places:
            place.see_limits(self._options)
            if place.process is not None and place.has_died_silently():
                self._gone(place, place.process)
        self._give_back(self._stock.take_overdue(), "given back: slow jobs were before it")
        if time.monotonic() - self._noted_at >= self._options.heartbeat:
            self._noted_at = time.monotonic()
            for task in [task for place in self._places for task in place.tasks.values()]:
                self._note(task)

    # ── what happened to jobs ────────────────────────────────────────────────────────────

    def _claimed(self, jobs: Sequence[Claimed]) -> None:
        self._known.update((job.token, job.id) for job in jobs)
        if self.told:
            self._give_back(jobs, _STOPPED)
            return
        self._stock.add(job for job in jobs if not job.answered)
        self._put(End(job, "ask") for job in jobs if job.answered)

    def _give_back(self, jobs: Iterable[Claimed], why: str) -> None:
        self._put(End(job, "give_back", reason=why) for job in jobs)

    def _put(self, ends: Iterable[End]) -> None:
        given = list(ends)
        self._ending.update(end.job.token for end in given)
        self._finisher.put(given)

    def _ended(self, end: End, outcome: Outcome) -> None:
        if end.how == "note":
            return
        job = end.job
        self._ending.discard(job.token)
        content = self._busy.pop(job.token, None)
        if outcome == "held":  # the cache has no answer
            if self.told:
                self._give_back([job], _STOPPED)
            else:
                self._stock.put_back([job])
            return
        self._known.pop(job.token, None)
        _say(end, outcome)
        if content is not None and outcome == "completed":
            self._put(End(twin, "ask") for twin in self._stock.take_same(content))
        if not self._known:
            self._claimer.wake()  # draining, it sees at once that nothing is left

    def _lost(self, tokens: frozenset[UUID]) -> None:
        """Cancelled, or taken by another worker while this one was not heard of."""
        for job in self._stock.remove(tokens):
            self._known.pop(job.token, None)
        for place in self._places:
            for token in tokens & place.tasks.keys():
                task = place.tasks.pop(token)
                self._known.pop(token, None)
                self._begun.pop(token, None)
                self._busy.pop(token, None)
                log.warning("job %s: no longer ours, the work is dropped", task.job.id)
                if task.began is not None:
                    self._note(task)
                    place.kill(_DROPPED)

    def _note(self, task: Task) -> None:
        said = task.log(self._identity.worker)
        if said is not None:
            self._finisher.put([End(task.job, "note", log=said)])

    def _drain(self) -> None:
        self._drained = True

    def _fail(self, error: NegspaceError) -> None:
        raise error

    def _stop(self) -> None:
        self.told += 1
        self._claimer.stop()
        self._give_back(self._stock.take_all(), _STOPPED)
        if self.told == 1:
            log.warning("stopping: running jobs are finished; once more gives them back at once")
            self._finisher.hurry(self._options.lease)  # then nothing is ours any more
        else:
            self._finisher.hurry(_PATIENCE)
            for place in self._places:
                place.kill()

    # ── what happened in processes ───────────────────────────────────────────────────────

    def _later_heard(self, place: Place, message: Message) -> None:
        self._inbox.put(partial(self._heard, place, message))

    def _later_gone(self, place: Place, process: SpawnProcess) -> None:
        self._inbox.put(partial(self._gone, place, process))

    def _heard(self, place: Place, message: Message) -> None:
        match message:
            case Ready():
                place.ready = True
            case Began(token):
                if token in place.tasks:
                    place.tasks[token].began = time.monotonic()
                    self._begun[token] = place.tasks[token].job.id
                else:  # lost while it waited in the pipe
                    place.kill(_DROPPED)
            case Said(line):
                if place.computing is not None:
                    place.computing.lines.add([line])
            case Done(token, completion):
                self._answered(place, token, "complete", completion=completion)
            case Broke(token, reason, error, again):
                self._answered(place, token, "fail", reason=reason, error=error, again=again)

    def _answered(self, place: Place, token: UUID, how: How, **more: Any) -> None:
        task = place.tasks.pop(token, None)
        self._begun.pop(token, None)
        if task is None:
            return
        if task.began is not None:
            self._stock.learn(time.monotonic() - task.began)
        log_lines = task.log(self._identity.worker)
        self._put([End(task.job, how, log=log_lines, **more)])

    def _gone(self, place: Place, process: SpawnProcess) -> None:
        """A process has ended: what it computed ends with it, what it was given waits again."""
        if place.process is not process:
            return
        verdict = place.verdict
        death = place.bury()
        tasks = list(place.tasks.values())
        place.tasks.clear()
        if self.told < 2:
            self.restarts += 1
            if verdict is None:
                log.warning("a computing process %s", _told(death))
        for task in tasks:
            self._begun.pop(task.job.token, None)
            if self.told < 2 and task.began is not None:
                self._end_with_process(task, verdict, death)
            elif self.told:
                self._give_back([task.job], _STOPPED)
            else:
                self._busy.pop(task.job.token, None)
                self._stock.put_back([task.job])

    def _end_with_process(self, task: Task, verdict: Verdict | None, death: Death) -> None:
        last = task.lines.kept[-1:]
        memory = f", {megabytes(task.peak)} of memory at its peak" if task.peak else ""
        end = f"the process {death.how}{memory}"
        task.lines.add([*death.lines, Line.now("CRITICAL", "negspace.worker", end)])
        log_lines = task.log(self._identity.worker)
        if verdict is not None:
            reason = verdict.reason + (f", when it was in {death.where}" if death.where else "")
            kind, again = verdict.error, verdict.again
            self._put([End(task.job, "fail", None, reason, kind, again, log_lines)])
            return
        said = f"; its last words: {last[0].message}" if last else ""
        on_stderr = f"; on stderr: {death.stderr}" if death.stderr else ""
        reason = f"its process {_told(death)}{memory}{said}{on_stderr}"
        self._put([End(task.job, "die", reason=reason, error="ProcessDied", log=log_lines)])


def _told(death: Death) -> str:
    return death.how + (f", in {death.where}" if death.where else "")


def _say(end: End, outcome: Outcome) -> None:
    job = end.job
    fields = {"job_id": job.id, "image_id": job.image_id, "attempt": job.attempt}
    if outcome == "lost":
        log.warning("job %s: no longer ours, the work is dropped", job.id, extra=fields)
    elif outcome == "unstored":
        log.warning("job %s: what became of it couldn't be stored", job.id, extra=fields)
    elif end.completion is not None and outcome == "completed":
        took = end.completion.processing_time_ms
        log.info("job %s: image %s analysed in %s ms", job.id, job.image_id, took, extra=fields)
    elif outcome == "completed":
        log.info("job %s: answered from the cache", job.id, extra=fields)
    elif end.how == "give_back":
        log.info("job %s: %s", job.id, end.reason, extra=fields)
    else:
        log.warning(
            "job %s: image %s %s: %s", job.id, job.image_id, outcome, end.reason, extra=fields
        )
