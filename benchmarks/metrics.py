"""p50, p95 and p99 of a week by the hour: from roll-ups, and by percentile_cont from the samples.

Makes a database of its own on an embedded server.

    python benchmarks/metrics.py                  1M and 10M rows; writes docs/benchmarks.md
    python benchmarks/metrics.py --quick          200,000 rows
    python benchmarks/metrics.py --json out.json  the figures as JSON
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from claims import Claim, write
from negspace import database, metrics, migrate, server, settings
from negspace.database import Database, rows

HERE = Path(__file__).parent
MIGRATIONS = Path(migrate.__file__).parent.parent / "sql/migrations"
PAGE = HERE.parent / "docs/benchmarks.md"
WEEK = timedelta(hours=168)
GOAL, WORST = 30, 0.01

FILL = """
    insert into performance_metrics (metric_name, value, unit, labels, recorded_at)
    select 'run_ms',
           round(exp(3 + sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()))::numeric, 4), 'ms',
           jsonb_build_object('outcome', (array['completed', 'failed'])[1 + (random() < 0.1)::int]),
           %(since)s + (%(until)s - %(since)s) * (n / %(rows)s::double precision)
    from generate_series(0, %(rows)s - 1) as n"""

OURS = """
    select p50, p95, p99
    from aggregate_performance_metrics('run_ms', '1 hour', %(since)s, %(until)s)"""
SAMPLES = """
    select percentile_cont(array[0.5, 0.95, 0.99])
               within group (order by value::double precision) as p
    from performance_metrics
    where metric_name = 'run_ms' and recorded_at >= %(since)s and recorded_at < %(until)s
    group by date_bin('1 hour', recorded_at, timestamptz '2000-01-01 00:00:00+00')
    order by date_bin('1 hour', recorded_at, timestamptz '2000-01-01 00:00:00+00')"""


@dataclass(frozen=True)
class Measured:
    """One size: milliseconds of ours and of percentile_cont, and how far ours is off."""

    rows: int
    ours: float
    reference: float
    worst: float
    rolled_per_second: float

    @property
    def ratio(self) -> float:
        return self.reference / self.ours

    @property
    def goal(self) -> float | None:
        return GOAL if self.rows >= 10**7 else None

    @property
    def holds(self) -> bool:
        return self.worst <= WORST and self.ratio >= (self.goal or 0)

    def line(self) -> str:
        goal = f"{self.goal} ×" if self.goal else ""
        return (
            f"| {self.rows:,} | {self.ours:,.1f} ms | {self.reference:,.0f} ms"
            f" | {self.ratio:,.0f} × | {goal} | {self.worst:.2%}"
            f" | {'yes' if self.holds else '**missed**'} | {self.rolled_per_second:,.0f} |"
        )

    def claim(self) -> Claim:
        return Claim(
            f"168 hours over {self.rows:,} rows",
            self.ours,
            self.reference,
            "percentile_cont",
            self.ratio,
            self.goal,
            self.holds,
        )


def timed(connection: database.Connection, query: str, given: dict[str, object], runs: int):
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        found = rows(connection, query.encode(), given)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000, found


def measure(count: int, home: Path) -> Measured:
    found = server.ensure(settings.load({"NEGSPACE_HOME": str(home)}))
    until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    given = {"since": until - WEEK, "until": until, "rows": count}
    done = migrate.up(found.url("owner"), MIGRATIONS)
    assert done.ok, done.failure
    with Database(found.url("owner")) as owner:
        with owner.transaction() as connection:
            connection.execute("select ensure_partitions(oldest => %s)", [given["since"]])
            connection.execute("alter table performance_metrics disable trigger user")
            connection.execute(FILL.encode(), given)
            connection.execute("alter table performance_metrics enable trigger user")
            connection.execute("analyze performance_metrics")
        began = time.perf_counter()
        assert metrics.roll_up(owner) >= 168
        rolled = count / (time.perf_counter() - began)
    with database.connect(found.url("operator"), autocommit=True) as connection:
        ours, answers = timed(connection, OURS, given, 5)
        theirs, exact = timed(connection, SAMPLES, given, 1)
    worst = max(
        abs(answer[column] - truth["p"][place]) / truth["p"][place]
        for answer, truth in zip(answers, exact, strict=True)
        for place, column in enumerate(("p50", "p95", "p99"))
    )
    return Measured(count, ours, theirs, worst, rolled)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    found = []
    for count in (2e5,) if given.quick else (1e6, 1e7):
        home = Path(tempfile.mkdtemp(prefix="negspace-metrics-"))
        home.chmod(0o711)
        try:
            found.append(measure(int(count), home))
        finally:
            server.stop(settings.load({"NEGSPACE_HOME": str(home)}), mode="immediate")
            shutil.rmtree(home)
        print(found[-1].line(), flush=True)
    write(given.json, [one.claim() for one in found])
    if not given.quick:
        write_page([*HEAD, *(one.line() for one in found)])


HEAD = (
    "| rows in a week | roll-ups | percentile_cont | ratio | goal | worst error | holds |"
    " rows/s rolled up |",
    "| ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
)


def write_page(lines: list[str]) -> None:
    begin, end = "<!-- metrics -->", "<!-- /metrics -->"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    text = "\n".join([begin, *lines, end]) + rest.partition(end)[2]
    PAGE.write_text(before + text, encoding="utf-8")


if __name__ == "__main__":
    main()
