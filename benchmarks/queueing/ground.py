"""The server, and a database for each system to be copied for every run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.queueing.meter import Cost, Meter
from benchmarks.queueing.systems import BARE, OURS, PEERS, Driver, DriverError, System

import negspace
from negspace import migrate, server
from negspace.database import Connection, connect, rows, sql

MIGRATIONS = Path(negspace.__file__).parent / "sql/migrations"
BCRYPT = "$2b$04$" + "a" * 53
IMAGES = """
    insert into images (user_id, file_name, original_filename, file_path, file_size, mime_type,
                        file_hash, image_dimensions)
    select u.id, h.hash || '.png', h.hash || '.png', h.hash || '.png', 1, 'image/png', h.hash,
           '{"width": 4000, "height": 3000, "channels": 3}'
    from generate_series(1, %s) n, users u,
         lateral (select encode(sha256(n::text::bytea), 'hex') as hash) h
"""
# Results that are there already, so that jobs without one can be measured.
RESULTS = """
    insert into analysis_results (image_id, user_id, algorithm_version, algorithm_parameters,
                                  negative_space_data, anomalies, confidence_score,
                                  processing_time_ms)
    select image_id, user_id, algorithm_version, algorithm_parameters,
           '{"schema": "negspace.benchmark/1"}', '[]', 0.9, 1
    from processing_queue_hot
"""
STORED = (PEERS / "stored.sql").read_bytes()


class Ground:
    """Where the runs take place."""

    def __init__(self, found: server.Server, jobs: int) -> None:
        self._server = found
        self._numbers = itertools.count()
        self.admin = connect(found.url("superuser", name="postgres"), autocommit=True)
        assert found.process
        self._meter = Meter(found.process, self.admin)
        self._jobs = jobs

    def prepare(self, system: System) -> None:
        """The database that runs of the system are copied from."""
        name = self._template(system)
        if rows(self.admin, "select from pg_database where datname = %s", [name]):
            return
        identifier = sql.Identifier(name)
        self.admin.execute(sql.SQL("create database {} owner negspace_owner").format(identifier))
        if system in (OURS, BARE):
            result = migrate.up(self._server.url("owner", name=name), MIGRATIONS)
            assert result.ok, result.failure
            with self.superuser(name) as connection:
                connection.execute("select ensure_partitions()")
        else:
            driver = Driver(system, "prepare", self._server.url("superuser", name=name))
            driver.answer()
            driver.end()
        if system.images:
            with self.superuser(name) as connection:
                connection.execute(
                    "insert into users (email, password_hash) values ('ada@example.org', %s)",
                    [BCRYPT],
                )
                connection.execute(IMAGES.encode(), [self._jobs])
                connection.execute("vacuum analyze")
        self._wait_until_left(name)

    def prepare_finished(self, system: System, count: int) -> None:
        """The database that dirty runs are copied from: so many jobs have ended."""
        name = f"{self._template(system)}_finished"
        if rows(self.admin, "select from pg_database where datname = %s", [name]):
            return
        self._copy(self._template(system), name)
        with self.superuser(name) as connection:
            if system.finished:
                connection.execute(system.finished.encode(), {"n": count})
                connection.execute("vacuum analyze")
        self._wait_until_left(name)

    def _copy(self, template: str, name: str) -> None:
        self.admin.execute(
            sql.SQL("create database {} template {} owner negspace_owner").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )

    @contextmanager
    def copied(self, system: System, *, finished: bool = False) -> Generator[str]:
        """A fresh copy's name, for one run."""
        name = f"run_{next(self._numbers)}"
        self._copy(self._template(system) + "_finished" * finished, name)
        try:
            yield name
        finally:
            self.admin.execute(
                sql.SQL("drop database {} with (force)").format(sql.Identifier(name))
            )

    def address(self, system: System, name: str) -> str:
        """Where the system's drivers connect: ours as the role of the services."""
        return self._server.url("operator" if system in (OURS, BARE) else "superuser", name=name)

    def superuser_address(self, name: str) -> str:
        """Where what isn't measured connects."""
        return self._server.url("superuser", name=name)

    @contextmanager
    def superuser(self, name: str) -> Generator[Connection]:
        """A connection for what isn't measured."""
        with connect(self.superuser_address(name), autocommit=True) as connection:
            yield connection

    def enqueue(self, system: System, name: str) -> None:
        """The jobs, not measured."""
        self.measure(system, "enqueue", name, self._jobs)
        if system is BARE:
            with self.superuser(name) as connection:
                connection.execute(RESULTS.encode())

    def measure(
        self,
        system: System,
        verb: str,
        name: str,
        count: int,
        *,
        processes: int = 1,
        address: str | None = None,
        patience: float = 25.0,
    ) -> Cost:
        """The cost of what drivers do at once; broken off when patience ends."""
        where = address or self.address(system, name)
        drivers = [Driver(system, verb, where, count) for _ in range(processes)]
        for driver in drivers:
            driver.ready()
        before = self._meter.read(name)  # what they did to get ready is behind them
        for driver in drivers:
            driver.go()
        deadline = time.monotonic() + patience
        answers = [driver.answer_by(deadline) for driver in drivers]
        after = self._meter.read(name)
        for driver in drivers:
            driver.end()
        self._wait_until_left(name)
        last = self._meter.read(name)
        said = [answer for answer in answers if answer]
        jobs = sum(answer["jobs"] for answer in said)
        if len(said) < len(answers):
            jobs = self._done(system, name)
        idle = min((answer.get("idle", 0.0) for answer in said), default=0.0)
        return Cost(
            jobs=jobs,
            seconds=after.at - before.at - idle,
            cpu=last.cpu - before.cpu,  # backends that ended with the work are in it
            wal=after.wal - before.wal,
            commits=last.commits - before.commits,
        )

    def told(self, system: System, verb: str, name: str, count: int) -> dict[str, Any]:
        """What a driver says of what it measured itself; nothing where it takes too long."""
        driver = Driver(system, verb, self.address(system, name), count)
        driver.ready()
        driver.go()
        answer = driver.answer_by(time.monotonic() + 60)
        driver.end()
        return answer or {}

    def stored(self, name: str) -> list[dict[str, Any]]:
        """The kinds of rows that a drain of our tables, or of the same by hand, has stored."""
        with self.superuser(name) as connection:
            return connection.execute(STORED).fetchall()

    def _done(self, system: System, name: str) -> int:
        if not system.done:
            raise DriverError(f"{system.name}: not done when it was broken off")
        with self.superuser(name) as connection:
            given = {"enqueued": self._jobs}
            return rows(connection, system.done.encode(), given)[0]["n"]

    def _wait_until_left(self, name: str) -> None:
        query = (
            "select from pg_stat_activity where datname = %s and backend_type = 'client backend'"
            " and application_name <> 'benchmark snapshot'"
        )
        for _ in range(500):
            if not rows(self.admin, query, [name]):
                return
            time.sleep(0.01)

    @staticmethod
    def _template(system: System) -> str:
        return "template_" + ("ours" if system is BARE else system.name)
