"""Near duplicates of one image among a million: by the bands' indexes, and by a full scan.

Makes a server of its own. One owner has all the hashes: half of them at random, half in clusters of
ten that differ in 0 to 8 bits. Answers are compared with those of the scan. The goal is held
against the processor's time of the server process, which other work on the machine doesn't change.

    python benchmarks/duplicates.py                 a million hashes, 60 searches
    python benchmarks/duplicates.py --quick         20,000 hashes, 20 searches
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from claims import Claim, write
from negspace import database, migrate, server, settings
from negspace.database import Connection
from negspace.fit import MIGRATIONS

PAGE = Path(__file__).parent.parent / "docs/benchmarks.md"
GOAL_MS = 10.0
DISTANCES = (0, 4, 8, 10)
SCAN = (
    "select image_id, bit_count((perceptual_hash # %s)::bit(64))::integer as bits"
    " from image_fingerprints where user_id = 1"
    " and bit_count((perceptual_hash # %s)::bit(64)) <= %s order by 1"
)


@dataclass(frozen=True)
class Measured:
    """One line of the table; milliseconds of a search, recall from 0 to 1; cpu: the server's."""

    distance: int
    found: int
    recall: float
    cpu_ms: float
    median_ms: float
    buffers: float
    scan_cpu_ms: float
    scan_ms: float
    goal_ms: float | None
    holds: bool | None

    def claim(self) -> Claim:
        return Claim(
            f"distance ≤ {self.distance}, recall {self.recall:g} (ms of CPU)",
            self.cpu_ms,
            self.scan_cpu_ms,
            "full scan",
            self.cpu_ms / self.scan_cpu_ms,
            self.goal_ms,
            self.holds,
        )


def hashes(count: int, chance: random.Random) -> Iterator[int]:
    while count > 0:
        centre = chance.getrandbits(64)
        for _ in range(1 if chance.random() < 0.9 else 10):
            hash_ = centre
            for bit in chance.sample(range(64), chance.randint(0, 8)):
                hash_ ^= 1 << bit
            yield hash_ - (1 << 64) if hash_ >= 1 << 63 else hash_
            count -= 1


def fill(connection: Connection, count: int) -> list[int]:
    """Rows of the search alone: what images hold besides is not looked at."""
    connection.execute("alter table image_fingerprints disable trigger all")
    made = list(hashes(count, random.Random(1)))[:count]
    with connection.cursor().copy(
        "copy image_fingerprints (image_id, user_id, perceptual_hash, algorithm) from stdin"
    ) as copy:
        for number, hash_ in enumerate(made):
            copy.write_row((number, 1, hash_, "dct-phash-64/1"))
    connection.commit()
    connection.autocommit = True
    connection.execute("vacuum (analyze) image_fingerprints")
    return made


def measure(connection: Connection, made: list[int], distance: int, searches: int) -> Measured:
    chance = random.Random(distance)
    server_process = connection.info.backend_pid
    search = "select * from near_hashes(1, %s, %s) order by 1"
    chosen = [chance.choice(made) for _ in range(searches)]
    database.rows(connection, search, [chosen[0], distance])  # plans it
    before = cpu_ms(server_process)
    times: list[float] = []
    scans: list[float] = []
    found = there = 0
    for hash_ in chosen:
        began = time.perf_counter()
        database.rows(connection, search, [hash_, distance])
        times.append((time.perf_counter() - began) * 1000)
    cpu = (cpu_ms(server_process) - before) / searches
    few = chosen[: max(5, searches // 10)]
    before = cpu_ms(server_process)
    for hash_ in few:
        began = time.perf_counter()
        all_of_them = database.rows(connection, SCAN, [hash_, hash_, distance])
        scans.append((time.perf_counter() - began) * 1000)
        near = database.rows(connection, search, [hash_, distance])
        there += len(all_of_them)
        found += sum(row in near for row in all_of_them)
        assert len(near) == len(all_of_them)
    scan_cpu = (cpu_ms(server_process) - before) / len(few) - cpu
    buffers = [pages(connection, hash_, distance) for hash_ in few]
    goal = GOAL_MS if distance == 8 else None
    return Measured(
        distance,
        found,
        found / there,
        cpu,
        statistics.median(times),
        statistics.mean(buffers),
        scan_cpu,
        statistics.median(scans),
        goal,
        None if goal is None else cpu <= goal and found == there,
    )


def cpu_ms(process: int) -> float:
    """Milliseconds of processor time that a process has used; Linux counts in hundredths."""
    fields = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 10


def pages(connection: Connection, hash_: int, distance: int) -> int:
    """Pages of 8 kB that a search looks at, which no load of the machine changes."""
    explain = "explain (analyze, buffers, format json) select * from near_hashes(1, %s, %s)"
    (row,) = database.rows(connection, explain, [hash_, distance])
    plan = row["QUERY PLAN"][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def shown(line: Measured) -> list[str]:
    verdict = {None: "", True: "yes", False: "**missed**"}[line.holds]
    return [
        str(line.distance),
        f"{line.recall:.4f}",
        f"{line.cpu_ms:.1f} ms",
        f"{line.median_ms:.1f} ms",
        f"{line.buffers:,.0f}",
        f"{line.scan_cpu_ms:.0f} ms",
        f"{line.scan_ms:.0f} ms",
        "" if line.goal_ms is None else f"{line.goal_ms:g} ms",
        verdict,
    ]


def table(lines: list[Measured], version: str, count: int, searches: int) -> str:
    heading = f"PostgreSQL {version}; {count:,} hashes of one owner, {searches} searches a line."
    head = ["bits", "recall", "cpu", "median", "pages", "scan's cpu", "its median", "goal", "holds"]
    body = [head, ["---:"] * 8 + ["---"], *map(shown, lines)]
    return heading + "\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in body)


def write_page(text: str) -> None:
    begin, end = "<!-- duplicates -->", "<!-- /duplicates -->"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def run(home: Path, count: int, searches: int) -> tuple[list[Measured], str]:
    found = server.ensure(settings.load({"NEGSPACE_HOME": str(home)}), progress=print)
    done = migrate.up(found.url("owner"), MIGRATIONS)
    assert done.ok, done.failure
    lines: list[Measured] = []
    with database.connect(found.url("superuser")) as connection:
        made = fill(connection, count)
        for distance in DISTANCES:
            lines.append(measure(connection, made, distance, searches))
            print(" · ".join(filter(None, shown(lines[-1]))), flush=True)
    return lines, str(found.version)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    count, searches = (20_000, 20) if given.quick else (1_000_000, 60)
    home = Path(tempfile.mkdtemp(prefix="negspace-duplicates-"))
    home.chmod(0o711)
    try:
        lines, version = run(home, count, searches)
    finally:
        server.stop(settings.load({"NEGSPACE_HOME": str(home)}), mode="immediate")
        shutil.rmtree(home)
    write(given.json, [line.claim() for line in lines])
    if not given.quick:
        write_page(table(lines, version, count, searches))
    missed = [line.distance for line in lines if line.holds is False]
    print("all goals hold" if not missed else f"missed: {missed}")


if __name__ == "__main__":
    main()
