"""What a failover costs: the primary is killed while workers work and enqueuers enqueue.

Makes a primary and a synchronous standby of its own. All of the primary's processes get SIGKILL;
a second later the standby is promoted, and everybody finds it by the same address, which names
both. Nothing that was acknowledged may be missing at the end, and no job may have ended twice.

    python benchmarks/failover.py              5 failovers, 3 workers, 4 enqueuers: minutes
    python benchmarks/failover.py --quick      1 failover, 1 worker, 2 enqueuers
    python benchmarks/failover.py --auto       the same with Debian's pg_auto_failover, which
                                               notices and promotes by itself
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/plugin"), str(ROOT)]

from benchmarks.claims import Claim, write  # noqa: E402
from benchmarks.failover_auto import Auto  # noqa: E402

from conftest import at  # noqa: E402
from failing_over import UNNOTICED, Counted, Pair, course  # noqa: E402
from negspace import server  # noqa: E402

PAGE = ROOT / "docs/failover.md"


def table(counted: Counted, version: str, how: str) -> str:
    gaps = sorted(counted.gaps)
    rows = [
        ("failovers", f"{counted.failovers}"),
        ("jobs acknowledged to enqueuers", f"{counted.acknowledged:,}"),
        ("enqueues that met a failover and were repeated", f"{counted.in_doubt}"),
        ("tries of jobs", f"{counted.tries:,}"),
        ("**acknowledged work lost**", f"**{counted.lost}**"),
        ("**done twice**", f"**{counted.doubled}**"),
        ("longest silence after a kill, in seconds: least", f"{gaps[0]:.1f}"),
        ("in the middle", f"{gaps[len(gaps) // 2]:.1f}"),
        ("most", f"{gaps[-1]:.1f}"),
    ]
    lines = [f"| {what} | {count} |" for what, count in rows]
    return "\n".join([f"PostgreSQL {version}; {how}.", "", "| | |", "| --- | ---: |", *lines])


def write_page(text: str, mark: str) -> None:
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def claims(counted: Counted) -> list[Claim]:
    """The counts; nothing acknowledged may be lost, and nothing done twice."""
    counts = {name: count for name, count in asdict(counted).items() if name != "gaps"}
    never = ("lost", "doubled")
    return [
        *(Claim(name, count) for name, count in counts.items() if name not in never),
        *(Claim(name, counts[name], goal=0, holds=not counts[name]) for name in never),
        *(Claim("silence after a kill (s)", gap) for gap in sorted(counted.gaps)),
    ]


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--quick", action="store_true")
    options.add_argument("--auto", action="store_true")
    options.add_argument("--failovers", type=int, default=5)
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
    home = Path(tempfile.mkdtemp(prefix="negspace-failover-"))
    home.chmod(0o711)
    work = home / "work"
    work.mkdir()
    pair = Auto(home, print) if given.auto else Pair(home, print)
    try:
        counted = course(
            pair,
            work,
            failovers=1 if given.quick else given.failovers,
            workers=1 if given.quick else 3,
            enqueuers=2 if given.quick else 4,
            between=3.0,
        )
        version = str(pair.primary.version)
    finally:
        pair.close()
        for state in home.rglob("state.json"):
            server.stop(at(state.parent), mode="immediate")
        shutil.rmtree(home)
    how = "pg_auto_failover" if given.auto else f"promoted {UNNOTICED:g} s after the kill"
    text = table(counted, version, how)
    print(text)
    write(given.json, claims(counted))
    if not given.quick:
        write_page(text, "auto" if given.auto else "failover")
    sys.exit(1 if counted.lost or counted.doubled else 0)


if __name__ == "__main__":
    main()
