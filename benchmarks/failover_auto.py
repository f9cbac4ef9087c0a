"""A pair that Debian's pg_auto_failover keeps: a monitor and two nodes on this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import until
from conftest import TestDatabase, migrate_up
from negspace import database
from negspace.errors import NegspaceError, UnavailableError
from negspace.server.postmaster import free_port
from standby import asked, several

PROGRAMS = Path("/usr/lib/postgresql/15/bin")


@dataclass(frozen=True)
class Node:
    """One of its servers, as ``standby`` needs it."""

    folder: Path
    port: int
    password: str
    version: str = "15"

    def url(self, role: str = "operator", *, name: str = "negative_space") -> str:
        users = {"owner": "negspace_owner", "operator": "operator_role", "app": "app_user"}
        user = users.get(role, "postgres")
        return f"postgresql://{user}:{self.password}@127.0.0.1:{self.port}/{name}"


class Auto:
    """What ``failing_over.Pair`` is, but it notices and promotes by itself."""

    def __init__(self, home: Path, say: Callable[[str], None]) -> None:
        if shutil.which("pg_autoctl") is None:
            raise SystemExit("pg_autoctl is not installed: apt install pg-auto-failover-cli"
                             " postgresql-15-auto-failover")  # fmt: skip
        self._home, self._say = home / "auto", say
        self._home.mkdir(mode=0o755)
        if os.geteuid() == 0:
            shutil.chown(self._home, "postgres", "postgres")
        self._running: list[subprocess.Popen[bytes]] = []
        self._password = secrets.token_hex(8)
        monitor = free_port()
        self._create("monitor", monitor)
        self._monitor = f"postgres://autoctl_node@127.0.0.1:{monitor}/pg_auto_failover"
        self.nodes = [self._node(n) for n in (1, 2)]
        self.address = self.superuser = ""
        self.standby: Any = None
        self._prepare()

    @property
    def primary(self) -> Any:
        """Whichever takes writes; the first one where none does."""
        for node in self.nodes:
            try:
                if not asked(node, "select pg_is_in_recovery()"):
                    return node
            except NegspaceError:
                continue
        return self.nodes[0]

    @property
    def database(self) -> TestDatabase:
        urls = [self.primary.url(role) for role in ("owner", "operator", "app", "superuser")]
        return TestDatabase("negative_space", *urls)

    def follow(self) -> None:
        """Wait until both are there, the one a synchronous standby of the other."""

        def settled() -> bool:
            query = (
                "select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum')"
            )
            try:
                return bool(asked(self.primary, query))
            except NegspaceError:
                return False

        until(settled, "the pair is settled")
        first = self.primary
        self.standby = next(node for node in self.nodes if node != first)
        self.address = several(self.nodes)
        self.superuser = several(self.nodes, "superuser")
        self._say(f"the primary is {self.primary.folder.name}")

    def fail_over(self) -> float:
        """Kill the primary, but for its keeper, which notices. When that was, as ``Pair``'s."""
        folder = self.primary.folder
        process = int((folder / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        for number in [process, *map(int, children)]:
            os.kill(number, signal.SIGKILL)
        self.standby = None
        return time.monotonic()

    def close(self) -> None:
        for process in reversed(self._running):
            process.send_signal(signal.SIGQUIT)
            process.wait()

    def _as_postgres(self) -> dict[str, Any]:
        kept = {"PATH": f"{PROGRAMS}:/usr/bin:/bin", "HOME": str(self._home), "LC_ALL": "C.UTF-8"}
        kept |= {"XDG_DATA_HOME": str(self._home), "XDG_CONFIG_HOME": str(self._home)}
        kept |= {"XDG_RUNTIME_DIR": str(self._home)}
        who = {"user": "postgres", "group": "postgres", "extra_groups": []}
        return {"env": kept, "cwd": "/"} | (who if os.geteuid() == 0 else {})

    def _create(self, what: str, port: int, *more: str) -> Path:
        folder = self._home / f"{what}-{port}"
        command = ["pg_autoctl", "create", what, "--pgdata", str(folder), "--pgport", str(port)]
        command += ["--hostname", "127.0.0.1", "--auth", "trust", "--no-ssl", *more]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, **self._as_postgres()
        )
        assert done.returncode == 0, done.stderr[-2000:]
        log = (self._home.parent / f"{folder.name}.log").open("wb")
        run = ["pg_autoctl", "run", "--pgdata", str(folder)]
        self._running.append(subprocess.Popen(run, stdout=log, stderr=log, **self._as_postgres()))
        return folder

    def _node(self, number: int) -> Node:
        port = free_port()
        more = ["--monitor", self._monitor, "--name", f"node{number}"]
        folder = self._create("postgres", port, *more)
        return Node(folder, port, self._password)

    def _prepare(self) -> None:
        """The roles and the database, by the trusted loopback."""
        with database.connect(self.primary.url("superuser", name="postgres"), autocommit=True) as c:
            for role in ("negspace_owner createrole", "app_user", "operator_role"):
                c.execute(f"create role {role} login password '{self._password}'".encode())
            c.execute(f"alter role postgres password '{self._password}'".encode())
            c.execute("create database negative_space owner negspace_owner")
        self._let_in()
        migrate_up(self.database)

    def _let_in(self) -> None:
        for node in self.nodes:
            with (node.folder / "pg_hba.conf").open("a") as file:
                file.write("host all all 127.0.0.1/32 scram-sha-256\n")
            until(lambda node=node: self._reloaded(node), f"{node.folder.name} answers")

    @staticmethod
    def _reloaded(node: Node) -> bool:
        address = node.url("superuser", name="postgres")
        try:
            with database.connect(address, autocommit=True) as connection:
                connection.execute("select pg_reload_conf()")
        except UnavailableError:
            return False
        return True
