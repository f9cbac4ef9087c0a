"""The longest stall of a reader while a migration waits for the table: with slices and without.

Makes a server of its own. A report reads a table and stays in its transaction for some seconds;
meanwhile a migration wants to ALTER the table, and readers come one after another.

    python benchmarks/locks.py                 8 s of the report, slices of 0.25, 0.5 and 1 s
    python benchmarks/locks.py --quick         2 s, slices of 0.25 s
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from claims import Claim, write
from negspace import database, migrate, server, settings

PAGE = Path(__file__).parent.parent / "docs/benchmarks.md"
READERS = 2
TOLERANCE = 0.1  # seconds for the machine


@dataclass(frozen=True)
class Measured:
    """One line of the table; seconds."""

    waits: str
    report: float
    longest_stall: float
    reads: int
    waited: float
    goal: float | None
    holds: bool | None

    def claim(self) -> Claim:
        return Claim(
            f"longest stall of a reader while a migration waits {self.waits} (s)",
            self.longest_stall,
            goal=self.goal,
            holds=self.holds,
        )


class Reader(threading.Thread):
    """Reads again and again, and remembers its longest stall."""

    def __init__(self, address: str, over: threading.Event) -> None:
        super().__init__()
        self.longest, self.reads = 0.0, 0
        self._address, self._over = address, over

    def run(self) -> None:
        with database.connect(self._address, autocommit=True) as connection:
            while not self._over.is_set():
                began = time.perf_counter()
                connection.execute("select id from hot where id = 1")
                self.longest = max(self.longest, time.perf_counter() - began)
                self.reads += 1
                time.sleep(0.002)


def measure(address: str, folder: Path, seconds: float, slices: float | None) -> Measured:
    """One run: the report, the migration, the readers."""
    with database.connect(address) as connection:
        connection.execute("drop table if exists hot, public.negspace_migrations")
        connection.execute("create table hot (id int primary key)")
        connection.execute("insert into hot select generate_series(1, 1000)")
    over = threading.Event()
    readers = [Reader(address, over) for _ in range(READERS)]
    options = migrate.Options(lock_timeout=slices, lock_wait=None)
    results: list[migrate.RunResult] = []
    run = threading.Thread(
        target=lambda: results.append(migrate.up(address, folder, options=options))
    )
    with database.connect(address) as report:
        report.execute("select count(*) from hot")
        for thread in (*readers, run):
            thread.start()
        time.sleep(seconds)
        report.rollback()
    run.join()
    over.set()
    for reader in readers:
        reader.join()
    assert results[0].ok, results[0].failure
    longest = max(reader.longest for reader in readers)
    goal = None if slices is None else slices + TOLERANCE
    return Measured(
        waits="in one piece" if slices is None else f"in slices of {slices:g} s",
        report=seconds,
        longest_stall=longest,
        reads=sum(reader.reads for reader in readers),
        waited=results[0].steps[0].details[0].lock_wait_ms / 1000,
        goal=goal,
        holds=None if goal is None else longest <= goal,
    )


def shown(line: Measured) -> list[str]:
    verdict = {None: "", True: "yes", False: "**missed**"}[line.holds]
    goal = "" if line.goal is None else f"{line.goal:.2f} s"
    return [
        line.waits,
        f"{line.longest_stall:.2f} s",
        f"{line.reads:,}",
        f"{line.waited:.1f} s",
        goal,
        verdict,
    ]


def table(lines: list[Measured], version: str) -> str:
    heading = f"PostgreSQL {version}; a report of {lines[0].report:g} s, {READERS} readers."
    head = ["the migration waits", "longest stall", "reads", "it waited", "goal", "holds"]
    body = [head, ["---", "---:", "---:", "---:", "---:", "---"], *map(shown, lines)]
    return heading + "\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in body)


def write_page(text: str) -> None:
    begin, end = "<!-- locks -->", "<!-- /locks -->"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def run(home: Path, *, quick: bool) -> tuple[list[Measured], str]:
    found = server.ensure(settings.load({"NEGSPACE_HOME": str(home)}), progress=print)
    folder = home / "benchmark"
    folder.mkdir()
    (folder / "1_alter.up.sql").write_text("alter table hot add column name text")
    lines: list[Measured] = []
    for slices in (None, 0.25) if quick else (None, 1.0, 0.5, 0.25):
        lines.append(measure(found.url("owner"), folder, 2.0 if quick else 8.0, slices))
        print(" · ".join(filter(None, shown(lines[-1]))), flush=True)
    return lines, str(found.version)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    home = Path(tempfile.mkdtemp(prefix="negspace-locks-"))
    home.chmod(0o711)
    try:
        lines, version = run(home, quick=given.quick)
    finally:
        server.stop(settings.load({"NEGSPACE_HOME": str(home)}), mode="immediate")
        shutil.rmtree(home)
    write(given.json, [line.claim() for line in lines])
    if not given.quick:
        write_page(table(lines, version))
    missed = [line.waits for line in lines if line.holds is False]
    print("all goals hold" if not missed else f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
