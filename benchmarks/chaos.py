"""A thousand kills over running workers, and what became of their jobs.

Makes a server of its own, durable as in production. Workers, their computing processes,
connections and the server itself are killed, or stopped and continued, while jobs of 5 to
50 ms run; at the end every job must have ended exactly once.

    python benchmarks/chaos.py                 1,000 kills, about ten minutes
    python benchmarks/chaos.py --quick         60 kills
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/plugin"), str(ROOT)]

from benchmarks.claims import Claim, write  # noqa: E402

from bench import Bench  # noqa: E402
from conftest import Postgres, at, migrate_up  # noqa: E402
from havoc import KINDS, Chaos, wrong  # noqa: E402
from negspace import server  # noqa: E402
from negspace.database import Database, PoolSize  # noqa: E402

PAGE = ROOT / "docs/benchmarks.md"


def run(home: Path, kills: int, seed: int) -> tuple[dict[str, Any], str]:
    found = server.ensure(at(home), progress=print)
    database = Postgres(found, (f"chaos_{n}" for n in itertools.count())).create()
    migrate_up(database)
    (home / "work").mkdir()
    bench = Bench(database, home / "work", Database(database.app, pool=PoolSize(0, 2)))
    try:
        chaos = Chaos(bench, at(home), {}, seed=seed, progress=print)
        return chaos.run(kills, pause=0.25), str(found.version)
    finally:
        bench.close()


def table(counted: dict[str, Any], version: str) -> str:
    kinds = counted["by_kind"]
    lines = ["| what | count |", "| --- | ---: |"]
    lines += [f"| {kind} | {kinds.get(kind, 0):,} |" for kind in KINDS]
    shown = [
        ("jobs", "jobs"),
        ("tries of them", "tries"),
        ("completed", "completed"),
        ("with one result and one event", "completed_with_one_result_and_one_event"),
        ("given up after three deaths", "given_up_after_three_deaths"),
    ]
    lines += [f"| {text} | {counted[name]:,} |" for text, name in shown]
    found = wrong(counted)
    lines.append(f"| **lost, stuck, or done twice** | **{'; '.join(found) or 0}** |")
    heading = f"PostgreSQL {version}; {counted['kills']:,} kills in {counted['seconds']:,.0f} s."
    return heading + "\n\n" + "\n".join(lines)


def claims(counted: dict[str, Any]) -> list[Claim]:
    """The counts, and that nothing is wrong with them."""
    found = wrong(counted)
    counts = {**counted["by_kind"], **counted}
    plain = [Claim(name, count) for name, count in counts.items() if isinstance(count, int)]
    name = "; ".join(["lost, stuck, or done twice", *found])
    return [*plain, Claim(name, len(found), goal=0, holds=not found)]


def write_page(text: str) -> None:
    begin, end = "<!-- chaos -->", "<!-- /chaos -->"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--quick", action="store_true")
    options.add_argument("--kills", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    home = Path(tempfile.mkdtemp(prefix="negspace-chaos-"))
    home.chmod(0o711)
    try:
        counted, version = run(home, 60 if given.quick else given.kills, given.seed)
    finally:
        server.stop(at(home), mode="immediate")
        shutil.rmtree(home)
    text = table(counted, version)
    print(text)
    write(given.json, claims(counted))
    if not given.quick:
        write_page(text)
    sys.exit(1 if wrong(counted) else 0)


if __name__ == "__main__":
    main()
