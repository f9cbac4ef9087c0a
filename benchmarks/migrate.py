"""Migration runners side by side: negspace, psql in one transaction, and the peers.

Makes a server of its own, and a new database for each run. The peers are installed the first
time, into .servers/, which git ignores; one that can't be is said so.

    python benchmarks/migrate.py               300 migrations, 3,500 files; medians of 9, peers of 3
    python benchmarks/migrate.py --quick       the same once: under a minute; writes no page
    python benchmarks/migrate.py --only negspace,psql
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from claims import Claim, write
from migrate_tools import OURS, PSQL, Tool, environment, install, tools, ups_only
from negspace import database, server, settings
from negspace.server import Server, binaries

PAGE = Path(__file__).parent.parent / "docs/benchmarks.md"
MIGRATIONS, FILES = 300, 3_500
APPLY_GOAL = 1.8  # times psql
IDLE_GOAL, LIST_GOAL = 0.15, 0.5  # seconds
# As negspace starts it, fsync on; but 3,500 tables made in one transaction are as many locks.
SERVER = {"max_locks_per_transaction": "1024"}
# What any program that talks to PostgreSQL through psycopg takes before it has done anything.
FLOOR = "psycopg, one query"
FLOOR_CODE = """import os, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute("select 1").fetchone()
"""

APPLY, IDLE, STATUS = "apply 300", "nothing to do", "status of 300 applied"
LISTED, LISTED_APPLIED = "list 3,500 pending", "list 3,500 applied"


@dataclass(frozen=True)
class Spent:
    """One run of a command, in seconds; ``cpu`` is user and system, of the client alone."""

    wall: float
    cpu: float


@dataclass
class Results:
    """What was measured, by case and tool."""

    spent: dict[tuple[str, str], list[Spent]] = field(default_factory=dict)

    def add(self, case: str, tool: str, spent: Spent) -> None:
        self.spent.setdefault((case, tool), []).append(spent)

    def median(self, case: str, tool: str) -> float | None:
        runs = self.spent.get((case, tool))
        return statistics.median(run.wall for run in runs) if runs else None

    def cpu(self, case: str, tool: str) -> float | None:
        runs = self.spent.get((case, tool))
        return statistics.median(run.cpu for run in runs) if runs else None

    def spread(self, case: str, tool: str) -> str:
        walls = [run.wall for run in self.spent[case, tool]]
        return f"{min(walls):.2f} … {max(walls):.2f}"


# ── running ──────────────────────────────────────────────────────────────────────────────


def timed(command: Sequence[str | Path], folder: Path, address: str) -> Spent:
    """Run it to its end; an error where it fails."""
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env=environment(address),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{command}: {said.read().decode()[-2000:]}")
    return Spent(wall, used.ru_utime + used.ru_stime)


class Ground:
    """A server, and folders of migrations for each tool."""

    def __init__(self, found: Server, place: Path) -> None:
        self._server, self._place = found, place
        self._numbers = itertools.count()
        self._superuser = found.url("superuser", name="postgres")

    def database(self) -> str:
        """The address of a new database."""
        name = f"bench_{next(self._numbers)}"
        self._execute("create database {} owner negspace_owner", name)
        return self._server.url("owner", name=name) + "?sslmode=disable"

    def drop(self, address: str) -> None:
        self._execute("drop database {} with (force)", address.rpartition("/")[2].split("?")[0])

    def _execute(self, text: str, name: str) -> None:
        with database.connect(self._superuser, autocommit=True) as connection:
            connection.execute(database.sql.SQL(text).format(database.sql.Identifier(name)))

    def folder(self, tool: Tool, count: int) -> Path:
        """Its folder of so many migrations."""
        made = self._place / f"{tool.name.split()[0].strip(',')}-{count}"
        if not made.exists():
            made.mkdir()
            write = ups_only if tool.name == OURS and count == FILES else tool.write
            write(made, count)
        return made


def apply_all(ground: Ground, chosen: Sequence[Tool], rounds: int, results: Results) -> None:
    """The rounds: everybody once in each, in turn; then what is left to do: nothing."""
    peers_rounds = max(rounds // 3, 1)
    for number in range(rounds):
        there = [t for t in chosen if number < peers_rounds or t.name in {OURS, PSQL}]
        turn = number % len(there)
        for tool in (*there[turn:], *there[:turn]):
            folder, address = ground.folder(tool, MIGRATIONS), ground.database()
            up = tool.up(folder, address)
            results.add(APPLY, tool.name, timed(up, folder, address))
            if tool.name != PSQL:
                results.add(IDLE, tool.name, timed(up, folder, address))
            if tool.name == OURS:
                results.add(IDLE, FLOOR, timed((sys.executable, "-c", FLOOR_CODE), folder, address))
                listed = tool.listed(folder, address) if tool.listed else ()
                results.add(STATUS, OURS, timed(listed, folder, address))
            ground.drop(address)
        print(f"round {number + 1} of {rounds}: {_said(results, APPLY)}", flush=True)


def list_all(
    ground: Ground, chosen: Sequence[Tool], rounds: int, results: Results, *, applied: bool
) -> None:
    """A large folder and an empty database; for ours also when all of it is applied."""
    for tool in chosen:
        if tool.listed is None:
            continue
        folder, address = ground.folder(tool, FILES), ground.database()
        command = tool.listed(folder, address)
        for _ in range(rounds if tool.name == OURS else 1):
            results.add(LISTED, tool.name, timed(command, folder, address))
        if tool.name == OURS and applied:
            timed((*tool.up(folder, address), "--no-lint"), folder, address)
            for _ in range(rounds):
                results.add(LISTED_APPLIED, OURS, timed(command, folder, address))
        ground.drop(address)
    print(f"listed: {_said(results, LISTED)}", flush=True)


def _said(results: Results, case: str) -> str:
    found = {tool: runs[-1].wall for (what, tool), runs in results.spent.items() if what == case}
    return " · ".join(f"{tool} {wall:.2f} s" for tool, wall in found.items())


# ── what is told ─────────────────────────────────────────────────────────────────────────


def measured(results: Results, chosen: Sequence[Tool]) -> Iterator[Claim]:
    """Every goal against psql, or the peer that is quickest at it; then the other peers."""
    ours = results.median(APPLY, OURS)
    for tool in chosen:
        reference = results.median(APPLY, tool.name)
        if ours is None or reference is None or tool.name == OURS:
            continue
        goal = APPLY_GOAL if tool.name == PSQL else None
        ratio = ours / reference
        holds = None if goal is None else ratio <= goal
        yield Claim(APPLY, ours, reference, tool.name, ratio, goal, holds)
    idle, floor = results.median(IDLE, OURS), results.median(IDLE, FLOOR)
    if idle is not None and floor is not None:
        yield Claim(IDLE, idle, floor, FLOOR, idle / floor, None, None)
    cases = ((IDLE, IDLE, IDLE_GOAL), (STATUS, IDLE, IDLE_GOAL))
    cases += ((LISTED, LISTED, LIST_GOAL), (LISTED_APPLIED, LISTED, LIST_GOAL))
    for case, against, goal in cases:
        ours = results.median(case, OURS)
        if ours is None:
            continue
        others = {t.name: m for t in chosen if (m := results.median(against, t.name))}
        others.pop(OURS, None)
        peer = min(others, key=lambda name: others[name], default="")
        reference = others.get(peer, float("nan"))
        yield Claim(case, ours, reference, peer, ours / reference, goal, ours <= goal)


def versions(chosen: Sequence[Tool]) -> str:
    """Each tool with its version."""
    said: list[str] = []
    for tool in chosen:
        done = subprocess.run(
            [str(part) for part in tool.version], capture_output=True, text=True, check=True
        )
        number = next((w for w in done.stdout.split() if w.strip("v")[0].isdigit()), "?")
        said.append(f"{tool.name.split(',')[0]} {number.strip('v')}")
    return ", ".join(said)


def table(results: Results, lines: Sequence[Claim], heading: str, chosen: Sequence[Tool]) -> str:
    head = ["tool", "300 applied", "least … most", "× psql", "its CPU", IDLE, "3,500 listed"]
    body = [head, ["---", *["---:"] * 6]]
    psql = results.median(APPLY, PSQL)
    for tool in chosen:
        wall = results.median(APPLY, tool.name)
        if wall is None:
            continue
        body.append(
            [
                tool.name,
                _seconds(wall),
                results.spread(APPLY, tool.name) + " s",
                f"{wall / psql:.2f}" if psql else "",
                _seconds(results.cpu(APPLY, tool.name)),
                _seconds(results.median(IDLE, tool.name)),
                _seconds(results.median(LISTED, tool.name)),
            ]
        )
    goals = [["goal of ours", "measured", "goal", "holds"], ["---", "---:", "---:", "---"]]
    goals += [shown(line) for line in lines if line.goal is not None]
    floor = results.median(IDLE, FLOOR)
    if floor is not None:
        goals.append([f"{IDLE}: {FLOOR}, no negspace", f"{floor:.3f} s", "", ""])
    return "\n\n".join(
        [heading, *("\n".join(f"| {' | '.join(r)} |" for r in t) for t in (body, goals))]
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


def shown(line: Claim) -> list[str]:
    verdict = {None: "", True: "yes", False: "**missed**"}[line.holds]
    goal = "" if line.goal is None else f"{line.goal:g} s"
    if line.peer == PSQL:
        return [f"{line.name}, by psql's time", f"{line.ratio:.2f} ×", f"{line.goal:g} ×", verdict]
    return [line.name, f"{line.ours:.3f} s", goal, verdict]


def write_page(text: str) -> None:
    begin, end = "<!-- migrate -->", "<!-- /migrate -->"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def run(home: Path, chosen: list[Tool], *, quick: bool, rounds: int) -> tuple[Results, str]:
    found = server.ensure(
        settings.load({"NEGSPACE_HOME": str(home)}), progress=print, options=SERVER
    )
    place = home / "benchmark"
    place.mkdir()
    ground, results = Ground(found, place), Results()
    apply_all(ground, chosen, rounds, results)
    list_all(ground, chosen, 3 if quick else rounds, results, applied=not quick)
    heading = (
        f"PostgreSQL {found.version}, as negspace starts it, fsync on; {versions(chosen)}."
        " Ours as it is by default:"
        f" lint, fingerprints of the catalog, lock time-outs. Medians of {rounds}, of the peers"
        f" {max(rounds // 3, 1)}; seconds on the clock, the start of each program included, and"
        f" seconds of the client's processor; load {os.getloadavg()[1]:.1f} on"
        f" {os.cpu_count()} cores at the end."
    )
    return results, heading


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", type=Path)
    options.add_argument(
        "--only", metavar="TOOL,…", help="of all tools these, by their first words"
    )
    options.add_argument("--rounds", type=int)
    given = options.parse_args()
    wanted = given.only.split(",") if given.only else None
    for said in install() if wanted is None else ():
        print(f"not installed: {said}")
    folder = binaries.choose(Path("/nowhere")).folder
    known = [t for t in tools(str(folder / "psql")) if not wanted or t.name.split(",")[0] in wanted]
    chosen = [tool for tool in known if tool.is_there]
    absent = [tool.name for tool in known if not tool.is_there]
    home = Path(tempfile.mkdtemp(prefix="negspace-migrate-"))
    home.chmod(0o711)
    try:
        rounds = given.rounds or (1 if given.quick else 9)
        results, heading = run(home, chosen, quick=given.quick, rounds=rounds)
    finally:
        server.stop(settings.load({"NEGSPACE_HOME": str(home)}), mode="immediate")
        shutil.rmtree(home)
    heading += f" Could not be installed: {', '.join(absent)}." if absent else ""
    lines = list(measured(results, chosen))
    text = table(results, lines, heading, chosen)
    print(text)
    write(given.json, lines)
    if not given.quick and wanted is None:
        write_page(text)
    missed = [line.name for line in lines if line.holds is False]
    print("all goals hold" if not missed else f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
