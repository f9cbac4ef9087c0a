"""A read of the cache beside a bare look-up by primary key; one computation for many who ask.

Makes a server of its own. Both reads go through the same pool and return the same value; they
take turns, in blocks, so that whatever else the machine does falls on both.

    python benchmarks/cache.py                 40 blocks of 500 reads each
    python benchmarks/cache.py --quick         4 blocks of 100
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from claims import Claim, write
from negspace import migrate, server, settings
from negspace.cache import Cache
from negspace.database import Database
from negspace.fit import MIGRATIONS

PAGE = Path(__file__).parent.parent / "docs/benchmarks.md"
GOAL = 1.3
KEYS = 1000


@dataclass(frozen=True)
class Measured:
    """One line of the table; times in microseconds, medians of blocks."""

    value_bytes: int
    bare_us: float
    cache_us: float
    ratio: float
    goal: float
    holds: bool

    def claim(self) -> Claim:
        return Claim(
            f"a read of {self.value_bytes} bytes (µs)",
            self.cache_us,
            self.bare_us,
            "SELECT by primary key",
            self.ratio,
            self.goal,
            self.holds,
        )


def block(read: Callable[[str], object], reads: int, first: int) -> float:
    """Microseconds a read."""
    began = time.perf_counter()
    for number in range(first, first + reads):
        assert read(f"key:{number * 7 % KEYS}") is not None
    return (time.perf_counter() - began) / reads * 1e6


def measure(database: Database, size: int, blocks: int, reads: int) -> Measured:
    """Blocks of both in turn; the ratio is the median of those of neighbours."""
    with Cache(database) as cache:
        for number in range(KEYS):
            cache.get_or_compute(
                f"key:{number}", lambda: {"text": "v" * size}, ttl=timedelta(hours=1)
            )

        def bare(key: str) -> object:
            return database.ask("select value from cached_values where key = %s", [key])

        pairs: list[tuple[float, float]] = []
        for number in range(blocks):
            first = number * reads
            if number % 2:
                other = block(cache.get, reads, first)
                pairs.append((block(bare, reads, first), other))
            else:
                pairs.append((block(bare, reads, first), block(cache.get, reads, first)))
    ratio = statistics.median(mine / theirs for theirs, mine in pairs)
    return Measured(
        size,
        statistics.median(theirs for theirs, _ in pairs),
        statistics.median(mine for _, mine in pairs),
        ratio,
        GOAL,
        ratio <= GOAL,
    )


def shown(line: Measured) -> list[str]:
    verdict = "yes" if line.holds else "**missed**"
    times = [f"{line.bare_us:.0f} µs", f"{line.cache_us:.0f} µs"]
    size = f"{line.value_bytes:,} B"
    return [size, *times, f"{line.ratio:.2f} ×", f"{line.goal:g} ×", verdict]


def table(lines: list[Measured], version: str, blocks: int, reads: int) -> str:
    heading = (
        f"PostgreSQL {version}; {KEYS:,} values, {blocks} blocks of {reads} reads of each in turn;"
        " medians."
    )
    head = ["value", "bare look-up", "`Cache.get`", "ratio", "goal", "holds"]
    body = [head, ["---:", "---:", "---:", "---:", "---:", "---"], *map(shown, lines)]
    return heading + "\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in body)


def write_page(text: str) -> None:
    begin, end = "<!-- cache -->", "<!-- /cache -->"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def run(home: Path, blocks: int, reads: int) -> tuple[list[Measured], str]:
    found = server.ensure(settings.load({"NEGSPACE_HOME": str(home)}), progress=print)
    done = migrate.up(found.url("owner"), MIGRATIONS)
    assert done.ok, done.failure
    lines: list[Measured] = []
    for size in (200, 20_000):
        with Database(found.url("operator")) as opened:
            opened.ask("select purge_cached_values('', 10000)")
            lines.append(measure(opened, size, blocks, reads))
        print(" · ".join(shown(lines[-1])), flush=True)
    return lines, str(found.version)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    blocks, reads = (4, 100) if given.quick else (40, 500)
    home = Path(tempfile.mkdtemp(prefix="negspace-cache-"))
    home.chmod(0o711)
    try:
        lines, version = run(home, blocks, reads)
    finally:
        server.stop(settings.load({"NEGSPACE_HOME": str(home)}), mode="immediate")
        shutil.rmtree(home)
    write(given.json, [line.claim() for line in lines])
    if not given.quick:
        write_page(table(lines, version, blocks, reads))
    missed = [line.value_bytes for line in lines if not line.holds]
    print("all goals hold" if not missed else f"missed: {missed}")


if __name__ == "__main__":
    main()
