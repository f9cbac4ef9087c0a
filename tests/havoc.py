"""Kill workers, processes, connections and the server over running jobs; then count.

Every job must have ended once: one result, one audit event, counted once; none lost, none
stuck. `make chaos` runs the long form, tests/test_worker_chaos.py a short one.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import Bench, WorkerRun
from conftest import programs
from negspace import jobs, server
from negspace.database import connect
from negspace.errors import NegspaceError
from negspace.settings import Settings

HEARTBEAT, LEASE = 0.25, 1.0
REFUSED = 4  # the exit status
VARIATIONS = 46  # naps of 5 to 50 ms, of each image

# How often each kind of kill is drawn.
KINDS = {
    "process killed": 28,
    "process stopped, continued": 14,
    "worker killed": 10,
    "worker stopped, continued": 12,
    "connection terminated": 35,
    "server killed, restarted": 1,
}


@dataclass
class Chaos:
    """One run of it.

    Attributes:
        bench: Its platform, on a server of its own.
        home: The settings that this server was made with.
        options: What the server is started with.
        workers: How many run at a time.
        kills: What was killed, by kind.
    """

    bench: Bench
    home: Settings
    options: dict[str, str]
    workers: int = 2
    processes: int = 2
    kills: Counter[str] = field(default_factory=Counter)
    wave: int = 300  # jobs; another comes when fewer are open
    seed: int = 0
    progress: Callable[[str], None] = lambda line: None
    _later: list[tuple[float, int]] = field(default_factory=list)
    _live: list[WorkerRun] = field(default_factory=list)
    _hurried_at: float = 0.0

    def run(self, kills: int, pause: float) -> dict[str, Any]:
        """So many kills with such pauses, then to the end; what was counted."""
        began, chance = time.monotonic(), random.Random(self.seed)
        bags = [kind for kind, weight in KINDS.items() for _ in range(weight)]
        plan = [chance.choice(bags) for _ in range(kills)]
        plan[kills // 2] = "server killed, restarted"
        for number, kind in enumerate(plan):
            if number % 20 == 0:
                self.progress(f"{time.monotonic() - began:.0f} s: {number} kills")
            while True:
                self._keep_going()
                met = self._kill(kind, chance)
                self._rest(pause * chance.uniform(0.5, 1.5))
                if met:
                    break
            self.kills[kind] += 1
        self.progress(f"{time.monotonic() - began:.0f} s: all kills, now to the end")
        self._finish()
        return self._counted() | {"seconds": round(time.monotonic() - began, 1)}

    # ── what goes on ─────────────────────────────────────────────────────────────────────

    def _keep_going(self) -> None:
        for run in self._live[:]:
            if run.process.poll() is not None:
                assert run.process.returncode != REFUSED, "no worker is let in"
                self._live.remove(run)
        while len(self._live) < self.workers:
            processes = str(self.processes)
            self._live.append(
                self.bench.start("--processes", processes, heartbeat=HEARTBEAT, lease=LEASE)
            )
        if time.monotonic() - self._hurried_at > 0.5:
            self._hurried_at = time.monotonic()
            self.bench.hurry()
            open_now = "select count(*) from processing_queue_hot"
            if self.bench.value(open_now) < self.wave:
                self._enqueue()

    def _enqueue(self) -> None:
        images = [self.bench.add_image() for _ in range(self.wave // VARIATIONS + 1)]
        for ms in range(5, 5 + VARIATIONS):
            wanted = self.bench.wanted(behave="nap", ms=ms)
            priority = random.randint(1, 10)
            jobs.enqueue(self.bench.services, images, wanted, max_retries=100, priority=priority)

    def _rest(self, seconds: float) -> None:
        give_up = time.monotonic() + seconds
        while (left := give_up - time.monotonic()) > 0:
            due = [at for at, _ in self._later]
            time.sleep(max(0.0, min([left, *(at - time.monotonic() for at in due)])))
            self._continue(time.monotonic())

    def _continue(self, now: float) -> None:
        for at, process in [entry for entry in self._later if entry[0] <= now]:
            self._later.remove((at, process))
            self._signal(process, signal.SIGCONT)

    def _finish(self) -> None:
        self._rest(max([0.0, *(at - time.monotonic() + 0.1 for at, _ in self._later)]))
        give_up = time.monotonic() + 120
        left = "select count(*) from processing_queue_hot"
        while self.bench.value(left):
            assert time.monotonic() < give_up, self.bench.all(
                "select id, status, attempt, worker_id, scheduled_at from processing_queue_hot"
            )
            self.bench.hurry()
            time.sleep(0.1)
        for run in self._live:
            run.signal(signal.SIGTERM)
        for run in self._live:
            run.ended()

    # ── kills ────────────────────────────────────────────────────────────────────────────

    def _kill(self, kind: str, chance: random.Random) -> bool:
        """Whether there was something to kill."""
        what, _, how = kind.partition(" ")
        if what == "server":
            self._kill_server()
            return True
        if what == "connection":
            return bool(self._cut_one())
        targets = [run.process.pid for run in self._live]
        if what == "process":
            targets = [process for run in targets for process in computing(run)]
        if not targets:
            return False
        target = chance.choice(targets)
        if how == "killed":
            return self._signal(target, signal.SIGKILL)
        self._later.append((time.monotonic() + chance.uniform(0.02, 1.8 * LEASE), target))
        return self._signal(target, signal.SIGSTOP)

    @staticmethod
    def _signal(process: int, number: int) -> bool:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            return False
        return True

    def _cut_one(self) -> list[dict[str, Any]]:
        return self.bench.all(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where usename = 'operator_role' and datname = current_database()"
            " and pid <> %s order by random() limit 1",
            [self._own_backend()],
        )

    def _own_backend(self) -> int:
        with self.bench.services.transaction() as connection:
            return connection.info.backend_pid

    def _kill_server(self) -> None:
        found = server.ensure(self.home, options=self.options, binaries=programs())
        assert found.process
        self._signal(found.process, signal.SIGKILL)
        _insist(lambda: server.ensure(self.home, options=self.options, binaries=programs()))
        self.bench.services.close()
        self.bench.owner.close()
        self.bench.owner = _insist(lambda: connect(self.bench.database.superuser, autocommit=True))

    # ── what is counted ──────────────────────────────────────────────────────────────────

    def _counted(self) -> dict[str, Any]:
        ask = self.bench.value
        self.bench.owner.execute("select refresh_user_counters()")
        with_one = """
            select count(*) from processing_queue q
            where status = 'completed'
              and 1 = (select count(*) from analysis_results r
                       where r.image_id = q.image_id and r.parameters_hash = q.parameters_hash)
              and 1 = (select count(*) from audit_log_details d
                       join security_audit a on a.id = d.audit_id
                       where d.event_name = 'job_completed' and a.status = 'success'
                         and (d.event_data ->> 'job_id')::bigint = q.id)"""
        return {
            "kills": self.kills.total(),
            "by_kind": dict(self.kills),
            "jobs": ask("select count(*) from processing_queue"),
            "tries": ask("select sum(attempt)::integer from processing_queue"),
            "completed": ask("select count(*) from processing_queue where status = 'completed'"),
            "completed_with_one_result_and_one_event": ask(with_one),
            "given_up_after_three_deaths": ask(
                "select count(*) from processing_queue where status = 'failed'"
                " and (processing_metadata ->> 'deaths')::integer = 3"
            ),
            "results": ask("select count(*) from analysis_results"),
            "success_events": ask(
                "select count(*) from security_audit"
                " where action = 'run_analysis' and status = 'success'"
            ),
            "failure_events": ask(
                "select count(*) from security_audit"
                " where action = 'run_analysis' and status = 'failure'"
            ),
            "counted_by_workers": ask("select sum(jobs_completed)::integer from workers"),
            "measured": ask(
                "select sum(sample_count)::integer from performance_metrics"
                " where metric_name = 'job_run_ms' and labels ->> 'outcome' = 'completed'"
            ),
            "counted_on_the_account": ask(
                "select audit_event_count from users where id = %s", [self.bench.user]
            ),
            "events_of_the_account": ask(
                "select count(*) from security_audit where user_id = %s", [self.bench.user]
            ),
            "images_not_completed": ask(
                "select count(*) from images where analysis_status <> 'completed'"
            ),
        }


def wrong(counted: dict[str, Any]) -> list[str]:
    """What doesn't hold, of what must."""
    done, given_up = counted["completed"], counted["given_up_after_three_deaths"]
    must = {
        "jobs": done + given_up,
        "completed_with_one_result_and_one_event": done,
        "results": done,
        "success_events": done,
        "failure_events": given_up,
        "counted_by_workers": done,
        "measured": done,
        "counted_on_the_account": counted["events_of_the_account"],
    }
    found = [f"{name}: {counted[name]}, not {n}" for name, n in must.items() if counted[name] != n]
    if counted["images_not_completed"] > given_up:
        found.append(f"images_not_completed: {counted['images_not_completed']}")
    return found


def computing(worker: int) -> list[int]:
    """The computing processes of a worker."""
    try:
        children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
        return [
            int(child)
            for child in children
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
    except OSError:  # it has ended meanwhile
        return []


def _insist(step: Callable[[], Any]) -> Any:
    """The server is killed: its memory is freed, and it recovers, in its own time."""
    give_up = time.monotonic() + 60
    while True:
        try:
            return step()
        except NegspaceError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.1)
