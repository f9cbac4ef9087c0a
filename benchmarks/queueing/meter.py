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
        """Seconds of the postmaster's children, those that have ended included.

        A child that ends between the looks at it and at the postmaster would be counted twice or
        not at all, so it is looked again until no child has ended meanwhile.
        """
        while True:
            ended = self._ticks(self._postmaster, slice(13, 15))  # that were waited for
            alive = sum(self._ticks(child, slice(11, 13)) for child in self._children())
            if ended == self._ticks(self._postmaster, slice(13, 15)) and not self._zombies():
                return (ended + alive) / TICKS
            time.sleep(0.01)

    def _children(self) -> list[int]:
        found: list[int] = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                fields = _fields(int(folder.name))
                if fields and int(fields[1]) == self._postmaster:
                    found.append(int(folder.name))
        return found

    def _zombies(self) -> bool:
        return any((_fields(child) or "Z")[0] == "Z" for child in self._children())

    @staticmethod
    def _ticks(process: int, which: slice) -> int:
        return sum(map(int, _fields(process)[which]))


def _fields(process: int) -> list[str]:
    """What follows a process's name in its stat; nothing where it has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []
