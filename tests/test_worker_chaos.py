"""Workers, processes, connections and the server are killed; every job ends exactly once."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from bench import PLUGIN, Bench
from conftest import Postgres, at, migrate_up, programs
from havoc import Chaos, wrong
from negspace import server
from negspace.database import Database, PoolSize

# Processes are killed, no machine: what was written to the system's memory is still there.
OPTIONS = {"fsync": "off", "shared_buffers": "32MB", "jit": "off"}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
def test_every_job_ends_exactly_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))
    found = server.ensure(at(home), options=OPTIONS, binaries=programs())
    database = Postgres(found, (f"chaos_{n}" for n in itertools.count())).create()
    migrate_up(database)
    bench = Bench(database, tmp_path, Database(database.app, pool=PoolSize(0, 2)))
    try:
        counted = Chaos(bench, at(home), OPTIONS, wave=100).run(kills=40, pause=0.08)
    finally:
        bench.close()
    assert wrong(counted) == [], counted
    assert counted["kills"] == 40
    assert counted["tries"] > counted["jobs"], "some were interrupted"
