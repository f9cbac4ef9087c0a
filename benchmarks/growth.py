"""What an operation costs when there are 10,000, 100,000 and a million of everything.

Makes one database after another on an embedded server, fills each with the data generator, and
measures what the server's process computes for one operation: its CPU time, as the kernel counts
it, which other work on the machine changes little, the time that passes, and the blocks it touches,
which nothing else changes. The server keeps a quarter of the machine's memory for blocks, and has
them there when it is measured, as one that has run for a day.

    python benchmarks/growth.py                  10,000, 100,000 and 1,000,000 of all, and ten
                                                 million events and samples beside a million images
    python benchmarks/growth.py --quick          1,000, 10,000 and 30,000: half a minute
    python benchmarks/growth.py --json out.json  the figures as JSON

The full run writes docs/benchmarks.md and docs/growth.svg.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from claims import Claim, write
from negspace import database, generate, metrics, migrate, server, settings, summaries
from negspace.database import Connection, Database, only, rows

HERE = Path(__file__).parent
MIGRATIONS = Path(migrate.__file__).parent.parent / "sql/migrations"
PAGE, PLOT = HERE.parent / "docs/benchmarks.md", HERE.parent / "docs/growth.svg"
RUNS, BATCH = 21, 20
# log(1,000,000) / log(100,000) is 1.2, an exponent of 0.08; the rest is what measuring is off by.
STEEPEST = 0.15
WEEK = timedelta(hours=168)
IMAGES = 10**6  # and no more of them
# What reads or writes audit events or samples, of which there are ten million as well.
APPLIES = {
    "audited insert", "recent_audit_events", "audit_summary_by_user, one user",
    "user_activity_summary, one user", "percentiles of a week by hour",
}  # fmt: skip

SAMPLES = """
    insert into performance_metrics (metric_name, value, unit, recorded_at)
    select 'growth_ms',
           round(exp(3 + sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()))::numeric, 4), 'ms',
           %(since)s + (%(until)s - %(since)s) * (n / %(rows)s::double precision)
    from generate_series(0, %(rows)s - 1) as n"""

REGISTER = """
    select id from register_image(
        %(user)s, 'a.png', %(hash)s || '.png', 'aa/' || %(hash)s || '.png',
        1, 'image/png', %(hash)s)"""
FINISH = """
    select * from complete_jobs(jsonb_build_array(jsonb_build_object(
        'job', %(id)s::bigint, 'attempt', %(attempt)s::integer, 'token', %(token)s::uuid,
        'negative_space_data', '{}'::jsonb, 'anomalies', '[]'::jsonb,
        'confidence_score', 0.5, 'processing_time_ms', 1)))"""

ENQUEUE = "select * from enqueue_jobs(%s, algorithm_version => '9.0.0', use_cache => false)"
CLAIM = "select id, attempt, lease_token as token from claim_jobs('w', %s)"
Parameters = Mapping[str, Any] | list[Any]

# One row's, one page's and the whole table's; %(user)s is an account like most.
READS = {
    "user_activity_summary, one user": "user_activity_summary where user_id = %(user)s",
    "queue_status_summary": "queue_status_summary",
    "image_analysis_status, newest 50": "image_analysis_status order by uploaded_at desc limit 50",
    "recent_audit_events": "recent_audit_events",
    "analysis_performance_summary, newest 50":
        "analysis_performance_summary order by created_at desc limit 50",
    "audit_summary_by_user, one user": "audit_summary_by_user where user_id = %(user)s",
    "duplicate_images_report, one user": "duplicate_images_report where user_id = %(user)s",
    "percentiles of a week by hour":
        "aggregate_performance_metrics('growth_ms', '1 hour', %(since)s, %(until)s)",
    "near duplicates of an image": "near_images(%(image)s, 8)",
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What one operation takes.

    Attributes:
        cpu: Of the server's process, in milliseconds.
        passed: Milliseconds.
        blocks: That it touches, in memory or not.
        read: Those of them that were not in the server's memory.
    """

    cpu: float
    passed: float
    blocks: float
    read: float


@dataclass(frozen=True)
class Line:
    """One operation over the sizes."""

    name: str
    sizes: tuple[int, ...]
    costs: tuple[Cost, ...]

    @property
    def exponent(self) -> float:
        """p of cost = size ^ p, between the last two sizes."""
        (small, large), (before, after) = self.sizes[-2:], self.costs[-2:]
        return math.log(after.cpu / before.cpu) / math.log(large / small)

    @property
    def holds(self) -> bool:
        return self.exponent <= STEEPEST

    def claim(self) -> Claim:
        """Its growth between the last two sizes; the table has the rest."""
        small, large = self.sizes[-2:]
        return Claim(
            f"{self.name}: exponent from {small:,} to {large:,}",
            self.exponent,
            goal=STEEPEST,
            holds=self.holds,
        )

    def row(self, columns: int) -> str:
        cells = [f"{cost.cpu:,.2f} ms, {cost.blocks:,.0f}" for cost in self.costs]
        cells += ["–"] * (columns - len(cells))
        verdict = "yes" if self.holds else "**missed**"
        return f"| {self.name} | {' | '.join(cells)} | {self.exponent:+.2f} | {verdict} |"


class Meter:
    """Measures what the server's process for one connection computes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        pid = only(connection, "select pg_backend_pid() as pid")
        self._clock = Path(f"/proc/{pid['pid'] if pid else 0}/schedstat")

    def cpu(self) -> float:
        """Milliseconds so far."""
        return int(self._clock.read_text().split()[0]) / 1e6

    def cost(self, query: str, given: Callable[[], Parameters], each: int = 1) -> Cost:
        """The least of some runs, which other work disturbed least; each is of many operations."""
        found: list[tuple[float, float]] = []
        for _ in range(RUNS):
            parameters = given()
            cpu, began = self.cpu(), time.perf_counter()
            rows(self.connection, query.encode(), parameters)
            passed = (time.perf_counter() - began) * 1000
            found.append(((self.cpu() - cpu) / each, passed / each))
        touched = [self._blocks(query, given()) for _ in range(3)]
        return Cost(
            min(cpu for cpu, _ in found),
            min(passed for _, passed in found),
            statistics.median(sum(one) for one in touched) / each,
            statistics.median(read for _, read in touched) / each,
        )

    def _blocks(self, query: str, parameters: Parameters) -> tuple[int, int]:
        """Blocks found in the server's memory, and read."""
        explain = f"explain (analyze, buffers, format json) {query}"
        row = only(self.connection, explain.encode(), parameters)
        plan = row["QUERY PLAN"][0]["Plan"] if row else {}
        return plan["Shared Hit Blocks"], plan["Shared Read Blocks"]


def fill(owner: Database, size: int) -> Mapping[str, Any]:
    """Data of that size, kept as workers keep it; returns what the queries name."""
    generate.generate(owner, generate.Plan(min(size, IMAGES), size, 0))
    until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    span = {"since": until - WEEK, "until": until, "rows": size}
    with owner.transaction() as connection:
        connection.execute("alter table performance_metrics disable trigger user")
        connection.execute(SAMPLES.encode(), span)
        connection.execute("alter table performance_metrics enable trigger user")
        found = only(
            connection,
            "select user_id as user, max(image_id) as image from image_fingerprints"
            " group by user_id order by abs(count(*) - 100), user_id limit 1",
        )
        connection.execute("delete from processing_queue where status in ('queued', 'retrying')")
        connection.execute("insert into workers (id, hostname, process_id) values ('w', 'here', 1)")
    summaries.roll_up(owner)
    metrics.roll_up(owner)
    with database.connect(owner.address, autocommit=True) as connection:
        connection.execute("vacuum analyze")
        connection.execute(
            "select pg_prewarm(oid) from pg_class where relkind in ('r', 'i', 't')"
            " and relnamespace in ('public'::regnamespace, 'pg_toast'::regnamespace)"
            " and pg_has_role(relowner, 'usage')"
        )
    return {**(found or {}), **span}


def waiting(connection: Connection) -> Iterator[list[int]]:
    """Images that wait for nothing, some at a time."""
    last = 0
    while True:
        found = rows(
            connection,
            "select id from images where id > %s and analysis_status in ('completed', 'failed')"
            " order by id limit %s",
            [last, BATCH],
        )
        last = found[-1]["id"]
        yield [row["id"] for row in found]


def measure(app: str, owner: Database, size: int) -> dict[str, Cost]:
    """Every operation at that size."""
    given = fill(owner, size)
    with database.connect(app, autocommit=True) as connection:
        meter, images = Meter(connection), waiting(connection)
        lots = iter([next(images) for _ in range(RUNS + 3)])
        costs = {"enqueue": meter.cost(ENQUEUE, lambda: [next(lots)], each=BATCH)}
        costs["claim"] = meter.cost(CLAIM, lambda: [BATCH], each=BATCH)
        held = rows(connection, "select id, attempt, lease_token as token from processing_queue"
                    " where status = 'processing' and worker_id = 'w'")  # fmt: skip
        jobs, numbers = iter(held), iter(range(10**6))
        costs["finish"] = meter.cost(FINISH, lambda: dict(next(jobs)))
        costs["audited insert"] = meter.cost(
            REGISTER, lambda: {**given, "hash": f"{next(numbers):064x}"}
        )
        for name, query in READS.items():
            wanted = {key: value for key, value in given.items() if f"%({key})s" in query}
            costs[name] = meter.cost(f"select * from {query}", lambda wanted=wanted: wanted)
    return costs


def table(lines: list[Line], version: str) -> str:
    sizes = max((line.sizes for line in lines), key=len)
    head = f"| one | {' | '.join(f'{size:,}' for size in sizes)} | exponent | holds |"
    rule = "| --- |" + " ---: |" * (len(sizes) + 1) + " --- |"
    said = (
        f"PostgreSQL {version}, {memory()} of shared buffers; milliseconds of CPU, the"
        f" least of {RUNS}, and blocks touched."
    )
    return "\n".join([said, "", head, rule, *(line.row(len(sizes)) for line in lines)])


def plot(lines: list[Line]) -> str:
    """Cost over size, both logarithmic, as SVG; straight and level is what is wanted."""
    width, height, left, top, right = 860, 460, 60, 20, 330
    longest = max((line.sizes for line in lines), key=len)
    sizes = [math.log10(size) for size in longest]
    costs = [math.log10(cost.cpu) for line in lines for cost in line.costs]
    low, high = math.floor(min(costs)), math.ceil(max(costs))
    if low == high:
        high += 1

    def x(size: float) -> float:
        return left + (size - sizes[0]) / (sizes[-1] - sizes[0]) * (width - left - right)

    def y(cost: float) -> float:
        return top + (high - cost) / (high - low) * (height - top - 40)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    parts += [
        f'<path d="M{left} {y(power):.1f}H{width - right}" stroke="#ddd"/>'
        f'<text x="{left - 6}" y="{y(power) + 4:.1f}" text-anchor="end">{10.0**power:g} ms</text>'
        for power in range(low, high + 1)
    ]
    for size in longest:
        at = x(math.log10(size))
        parts.append(
            f'<path d="M{at:.1f} {top}V{height - 40}" stroke="#ddd"/>'
            f'<text x="{at:.1f}" y="{height - 20}" text-anchor="middle">{size:,}</text>'
        )
    ends = sorted(lines, key=lambda line: -line.costs[-1].cpu)
    for place, line in enumerate(ends):
        colour = f"hsl({place * 360 // len(ends)} 65% 42%)"
        points = [(x(s), y(math.log10(c.cpu))) for s, c in zip(sizes, line.costs, strict=False)]
        label = top + 10 + place * (height - top - 60) / max(1, len(ends) - 1)
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<path d="M{points[-1][0]:.1f} {points[-1][1]:.1f}L{width - right + 22} {label:.1f}"'
            f' stroke="{colour}" stroke-width="0.5"/>'
            f'<text x="{width - right + 26}" y="{label + 4:.1f}" fill="{colour}">'
            f"{line.name}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def write_page(text: str) -> None:
    begin, end = "<!-- growth -->", "<!-- /growth -->"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def memory() -> str:
    """A quarter of the machine's memory, as docs/performance.md advises."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    return f"{pages // 2**20}MB"


def remember(given: settings.Settings) -> server.Server:
    """The server, with so much memory for blocks."""
    made = server.ensure(given)
    with database.connect(made.url("superuser"), autocommit=True) as connection:
        connection.execute("create extension if not exists pg_prewarm")
        connection.execute(f"alter system set shared_buffers = '{memory()}'".encode())
    server.stop(given)
    return server.ensure(given)


def run(sizes: tuple[int, ...]) -> tuple[list[Line], str]:
    found: list[dict[str, Cost]] = []
    version = ""
    for size in sizes:
        home = Path(tempfile.mkdtemp(prefix="negspace-growth-"))
        home.chmod(0o711)
        try:
            made = remember(settings.load({"NEGSPACE_HOME": str(home)}))
            version = str(made.version)
            done = migrate.up(made.url("owner"), MIGRATIONS)
            assert done.ok, done.failure
            with Database(made.url("owner")) as owner:
                costs = measure(made.url("operator"), owner, size)
                found.append({n: c for n, c in costs.items() if size <= IMAGES or n in APPLIES})
        finally:
            server.stop(settings.load({"NEGSPACE_HOME": str(home)}), mode="immediate")
            shutil.rmtree(home)
        for name, cost in found[-1].items():
            print(
                f"{size:>9,}  {name}: {cost.cpu:.2f} ms CPU, {cost.passed:.2f} ms,"
                f" {cost.blocks:,.0f} blocks, {cost.read:,.1f} of them read",
                flush=True,
            )
    lines: list[Line] = []
    for name in found[0]:
        costs = tuple(one[name] for one in found if name in one)
        lines.append(Line(name, sizes[: len(costs)], costs))
    return lines, version


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    lines, version = run((1_000, 10_000, 30_000) if given.quick else (10**4, 10**5, 10**6, 10**7))
    print(text := table(lines, version))
    write(given.json, [line.claim() for line in lines])
    if not given.quick:
        write_page(text)
        PLOT.write_text(plot(lines), encoding="utf-8")
    missed = [line.name for line in lines if not line.holds]
    print("all goals hold" if not missed else f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
