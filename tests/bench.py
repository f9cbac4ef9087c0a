"""A small platform for tests of the queue: users, images in a storage, real worker processes.

The analyser is ``rehearsal`` of tests/plugin, found by its entry point like any other.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from calling import Ran, called
from conftest import TestDatabase, clean_environment
from negspace import jobs, settings
from negspace.database import Database, connect, only, rows
from negspace.storage import Storage

PLUGIN = Path(__file__).parent / "plugin"
PATIENCE = 40.0  # seconds until a condition that must come true is given up
BCRYPT = "$2b$04$" + "a" * 53


def until(condition: Callable[[], Any], what: str) -> Any:
    """The condition's first true value; an error where it stays false for too long."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {PATIENCE} s in vain: {what}")


def png(shade: int, size: tuple[int, int] = (24, 16)) -> bytes:
    """A small picture; another shade, other bytes."""
    content = io.BytesIO()
    Image.new("RGB", size, (shade % 256, shade // 256 % 256, 7)).save(content, format="PNG")
    return content.getvalue()


@dataclass
class WorkerRun:
    """``negspace worker run`` as a process of its own."""

    process: subprocess.Popen[str]
    log: Path

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def ended(self) -> dict[str, Any]:
        """What it printed, once it ended well."""
        out, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, (self.process.returncode, self.said)
        assert "Traceback" not in self.said, self.said
        return json.loads(out)

    @property
    def said(self) -> str:
        return self.log.read_text()


@dataclass
class Bench:
    """One test's platform."""

    database: TestDatabase
    folder: Path
    services: Database
    runs: list[WorkerRun] = field(default_factory=list)
    shades: Any = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.mark = self.folder / "marks"
        self.mark.mkdir()
        self.storage = Storage(self.folder / "storage")
        self.owner = connect(self.database.superuser, autocommit=True)
        self.user = self.add_user("ada@example.org")

    def close(self) -> None:
        for run in self.runs:
            if run.process.poll() is None:
                for worker in self.all("select process_id from workers where stopped_at is null"):
                    self._kill(worker["process_id"])
                self._kill(run.process.pid)
            run.process.communicate()
        self.services.close()
        self.owner.close()

    @staticmethod
    def _kill(process: int) -> None:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            return

    # ── rows ─────────────────────────────────────────────────────────────────────────────

    def all(self, query: Any, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows, read by the superuser."""
        return rows(self.owner, query, parameters)

    def value(self, query: Any, parameters: Sequence[Any] = ()) -> Any:
        """The only value of the first row."""
        row = only(self.owner, query, parameters)
        return None if row is None else next(iter(row.values()))

    def add_user(self, email: str) -> int:
        query = "insert into users (email, password_hash) values (%s, %s) returning id"
        return self.value(query, [email, BCRYPT])

    def add_image(self, content: bytes | None = None, *, user: int | None = None) -> int:
        """An image; of a shade that none before has where no bytes are given."""
        content = png(next(self.shades)) if content is None else content
        path = self.storage.put(content, "png")
        name = Path(path).name
        query = (
            "select id from register_image(%s, %s, %s, %s, %s, 'image/png', %s,"
            ' \'{"width": 24, "height": 16, "channels": 3}\')'
        )
        given = [user or self.user, name, name, path, len(content), Path(path).stem]
        return self.value(query, given)

    def add_images(self, count: int) -> list[int]:
        return [self.add_image() for _ in range(count)]

    def wanted(self, **parameters: Any) -> jobs.Wanted:
        return jobs.wanted("rehearsal", parameters=parameters)

    def enqueue(self, images: int | Sequence[int], *, behave: str = "well", **more: Any) -> Any:
        """Jobs for images; the parameters leave a mark for each computation that begins."""
        names = {n: str(more.pop(n)) for n in ("until",) if n in more}
        names |= {n: more.pop(n) for n in ("ms",) if n in more}
        wanted = self.wanted(behave=behave, mark=str(self.mark), **names)
        if isinstance(images, int):
            return jobs.enqueue(self.services, [images], wanted, **more)[0].job_id
        return [one.job_id for one in jobs.enqueue(self.services, images, wanted, **more)]

    def job(self, job: int) -> jobs.Job:
        return jobs.show(self.services, job)

    def status(self, job: int) -> str:
        return self.value("select status::text from processing_queue where id = %s", [job])

    def computing(self) -> int:
        """The process that computes, or did last."""
        newest = max(self.mark.iterdir(), key=lambda mark: int(mark.name.split("-")[1]))
        return int(newest.name.split("-")[0])

    def begun(self) -> int:
        """How many computations have begun."""
        return len(list(self.mark.iterdir()))

    def audit(self, image: int) -> list[dict[str, Any]]:
        """The run_analysis events of an image."""
        return self.all(
            "select * from security_audit where action = 'run_analysis' and resource_id = %s",
            [str(image)],
        )

    def hurry(self) -> None:
        """Bring forward what waits for its next try."""
        self.owner.execute(
            "update processing_queue set scheduled_at = now()"
            " where status = 'retrying' and scheduled_at > now()"
        )

    # ── processes ────────────────────────────────────────────────────────────────────────

    @property
    def environment(self) -> dict[str, str]:
        return (
            clean_environment(self.folder)
            | self.database.environment
            | {"PYTHONPATH": str(PLUGIN), "NEGSPACE_STORAGE": str(self.storage.folder)}
        )

    def settings(self) -> settings.Settings:
        return settings.load(self.environment)

    def cli(self, *arguments: str, given: str = "") -> Ran:
        """Run a command in this process."""
        return called(self.environment, *arguments, given=given)

    def start(
        self, *options: str, heartbeat: float = 0.3, lease: float = 1.5, **more: str
    ) -> WorkerRun:
        """Start workers; beats are quicker than in production, so that tests are."""
        log = self.folder / f"worker-{len(self.runs)}.log"
        times = ["--heartbeat", str(heartbeat), "--lease", str(lease)]
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "negspace", "worker", "run", "--json", *times, *options],
                env=self.environment | more,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self.runs.append(WorkerRun(process, log))
        return self.runs[-1]

    def drain(self, *options: str) -> dict[str, Any]:
        """Let workers do all there is to do."""
        return self.start("--drain", *options).ended()

    def holder(self, job: int) -> int:
        """The worker that has the job, once one does: its process, not the computing one."""
        self.hurry()
        query = (
            "select w.process_id from processing_queue q join workers w on w.id = q.worker_id"
            " where q.id = %s and q.status = 'processing'"
        )
        return until(lambda: self.value(query, [job]), f"job {job} runs")
