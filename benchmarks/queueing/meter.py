"""What a run costs the server: time, CPU of all its processes, WAL, commits."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from negspace.database import Connection, rows

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """One run of so many jobs."""

    jobs: int
    seconds: float
    cpu: float  # seconds
    wal: int  # bytes
    commits: int

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return self.jobs / self.seconds if self.seconds else 0.0

    def each(self) -> str:
        """Per job."""
        if not self.jobs:
            return ""
        cpu, wal = self.cpu / self.jobs * 1e6, self.wal / self.jobs
        return f"{cpu:,.0f} µs, {wal:,.0f} B, {self.commits / self.jobs:.3f}"


@dataclass(frozen=True)
class Reading:
    """The counters at a moment; none ever falls."""

    at: float
    cpu: float
    wal: int
    commits: int


class Meter:
    """Reads the counters of a server."""

    def __init__(self, postmaster: int, admin: Connection) -> None:
        self._postmaster = postmaster
        self._admin = admin

    def read(self, database: str) -> Reading:
        row = rows(
            self._admin,
            "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint as wal,"
            " xact_commit as commits from pg_stat_database where datname = %s",
            [database],
        )[0]
        return Reading(time.perf_counter(), self._cpu(), row["wal"], row["commits"])

    def _cpu(self) -> float:
        """Seconds of the postmaster's children, those that have ended included."""
        ticks = 0
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                fields = (folder / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue  # ended meanwhile
            if int(folder.name) == self._postmaster:
                ticks += sum(map(int, fields[13:15]))  # children that were waited for
            elif int(fields[1]) == self._postmaster:
                ticks += sum(map(int, fields[11:13]))
        return ticks / TICKS
