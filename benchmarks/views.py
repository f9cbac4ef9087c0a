"""The seven views against naive definitions that join and group, on the same data.

Makes a database of its own on the embedded server, fills it with the data generator, and
measures, as the role of the services, medians of the time until the last row is there.

    python benchmarks/views.py                 1M images and results, 5M audit events
    python benchmarks/views.py --quick         10,000 and 50,000: under a minute
    python benchmarks/views.py --home DIR      keep the server there; measure what it holds
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from claims import Claim, write
from negspace import database, generate, migrate, server, settings, summaries
from negspace.database import Database, only, rows
from negspace.errors import NegspaceError

HERE = Path(__file__).parent
MIGRATIONS = Path(migrate.__file__).parent.parent / "sql/migrations"
PAGE = HERE.parent / "docs/benchmarks.md"
NAIVE = HERE / "naive_views.sql"
PATIENCE, QUICK_PATIENCE = 60, 2  # seconds for one query

ROWS, ALL_USERS = 50.0, 1000.0  # goals in milliseconds


@dataclass(frozen=True)
class Case:
    """One query of a view; {schema} is public or naive, parameters come by name."""

    view: str
    what: str
    query: str
    goal: float | None  # milliseconds

    @property
    def name(self) -> str:
        return f"{self.view}: {self.what}"


def case(view: str, what: str, tail: str, goal: float | None, select: str = "*") -> Case:
    return Case(view, what, f"select {select} from {{schema}}.{view} {tail}", goal)


CASES = (
    case("user_activity_summary", "busiest user", "where user_id = %(user)s", ROWS),
    case("user_activity_summary", "page of users", "order by user_id limit 50", ROWS),
    case("user_activity_summary", "all users", "", ALL_USERS),
    case("queue_status_summary", "whole", "", ROWS),
    case("queue_status_summary", "what waits",
         "where status in ('queued', 'processing', 'retrying')", ROWS),
    case("image_analysis_status", "one image", "where image_id = %(image)s", ROWS),
    case("image_analysis_status", "busiest user's newest 50",
         "where user_id = %(user)s order by uploaded_at desc limit 50", ROWS),
    case("image_analysis_status", "newest 50", "order by uploaded_at desc limit 50", ROWS),
    case("image_analysis_status", "whole, by status", "group by analysis_status", None,
         "analysis_status, count(*), avg(confidence_score)"),
    case("recent_audit_events", "whole", "", ROWS),
    case("recent_audit_events", "busiest user's", "where user_id = %(user)s", ROWS),
    case("analysis_performance_summary", "busiest user's newest 50",
         "where user_id = %(user)s order by created_at desc limit 50", ROWS),
    case("analysis_performance_summary", "newest 50", "order by created_at desc limit 50", ROWS),
    case("analysis_performance_summary", "whole, by category", "group by performance_category",
         None, "performance_category, count(*)"),
    case("audit_summary_by_user", "busiest user", "where user_id = %(user)s", ROWS),
    case("audit_summary_by_user", "page of users", "order by user_id limit 50", ROWS),
    case("audit_summary_by_user", "all users", "", ALL_USERS),
    case("duplicate_images_report", "busiest user's newest 50",
         "where user_id = %(user)s order by original_id desc limit 50", ROWS),
    case("duplicate_images_report", "top 20", "order by duplicate_count desc, original_id limit 20",
         ROWS),
)  # fmt: skip


def timed(connection: database.Connection, query: str, given: dict[str, int]) -> tuple[float, int]:
    """Milliseconds of the query, and how many rows it gave."""
    began = time.perf_counter()
    found = connection.execute(query.encode(), given).fetchall()
    return (time.perf_counter() - began) * 1000, len(found)


def median(connection: database.Connection, query: str, given: dict[str, int]) -> tuple[float, int]:
    """The median of so many runs as fit into seconds, the first of which warms the caches."""
    first, count = timed(connection, query, given)
    runs = 9 if first < 500 else 3 if first < 3000 else 0
    times = [timed(connection, query, given)[0] for _ in range(runs)] or [first]
    return statistics.median(times), count


def patient(
    connection: database.Connection, query: str, given: dict[str, int], patience: int
) -> tuple[float, int | None]:
    """The median and how many rows; the patience and None where it ran out."""
    connection.execute(f"set statement_timeout = '{patience}s'".encode())
    try:
        with database.translated():
            return median(connection, query, given)
    except NegspaceError as error:
        if error.details.get("sqlstate") != "57014":
            raise
        return patience * 1000, None


def measure(
    connection: database.Connection, case: Case, given: dict[str, int], patience: int
) -> Claim:
    ours, count = patient(connection, case.query.format(schema="public"), given, patience)
    reference, same = patient(connection, case.query.format(schema="naive"), given, patience)
    # groups of nothing are no rows to one who groups
    agree = None in (same, count) or same == count or "status_summary" in case.view
    assert agree, (case.name, count, same)
    stopped = [who for who, n in (("ours", count), ("naive", same)) if n is None]
    peer = "joins and groups"
    if stopped:
        peer += f"; stopped after {patience} s: {' and '.join(stopped)}"
    holds = None if case.goal is None else ours <= case.goal
    return Claim(case.name, ours, reference, peer, reference / ours, case.goal, holds)


def shown(line: Claim) -> list[str]:
    ours, naive = ("> " if who in line.peer else "" for who in ("ours", "naive"))
    verdict = {None: "", True: "yes", False: "**missed**"}[line.holds]
    ratio = "" if ours else f"{naive}{line.ratio:,.{0 if line.ratio >= 10 else 2}f} ×"
    goal = "" if line.goal is None else f"{line.goal:,.0f} ms"
    times = f"{ours}{line.ours:,.1f} ms", f"{naive}{line.reference:,.1f} ms"
    return [line.name, *times, ratio, goal, verdict]


def table(lines: list[Claim], heading: str) -> str:
    head = ["view", "ours", "naive", "ratio", "goal", "holds"]
    body = [head, ["---", "---:", "---:", "---:", "---:", "---"], *map(shown, lines)]
    return heading + "\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in body)


def write_page(text: str) -> None:
    begin, end = "<!-- views -->", "<!-- /views -->"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def prepare(found: server.Server, plan: generate.Plan) -> None:
    """The schema, the data, the sums that workers keep and the naive views: what is missing."""
    done = migrate.up(found.url("owner"), MIGRATIONS)
    assert done.ok, done.failure
    with Database(found.url("owner")) as owner:
        with owner.transaction() as connection:
            filled = rows(connection, "select from images limit 1")
        if not filled:
            generate.generate(owner, plan, say=print)
        summaries.roll_up(owner)
        with owner.transaction() as connection:
            connection.execute("drop schema if exists naive cascade")
            connection.execute(NAIVE.read_bytes())


def counted(connection: database.Connection) -> str:
    found = rows(
        connection,
        """select relid::regclass::text as name, n from (values
               ('users'::regclass, (select count(*) from users)),
               ('images', (select count(*) from images)),
               ('analysis_results', (select count(*) from analysis_results)),
               ('processing_queue', (select count(*) from processing_queue)),
               ('security_audit', (select count(*) from security_audit)),
               ('audit_log_details', (select count(*) from audit_log_details))
           ) as t (relid, n)""",
    )
    version = rows(connection, "show server_version")[0]["server_version"]
    sizes = ", ".join(f"{row['n']:,} {row['name'].replace('_', ' ')}" for row in found)
    return (
        f"PostgreSQL {version}; {sizes}. Medians, as `operator_role`, until the last row is there;"
        " a worker has kept the sums."
    )


def run(home: Path, plan: generate.Plan, patience: int) -> tuple[list[Claim], str]:
    found = server.ensure(settings.load({"NEGSPACE_HOME": str(home)}), progress=print)
    prepare(found, plan)
    lines: list[Claim] = []
    with database.connect(found.url("operator"), autocommit=True) as connection:
        heading = counted(connection)
        busiest = only(
            connection,
            "select user_id, max(id) as image from images"
            " group by user_id order by count(*) desc limit 1",
        )
        given = {"user": busiest["user_id"], "image": busiest["image"]} if busiest else {}
        for each in CASES:
            lines.append(measure(connection, each, given, patience))
            print(" · ".join(filter(None, shown(lines[-1]))), flush=True)
    return lines, heading


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--images", type=float, default=1e6)
    options.add_argument("--events", type=float, default=5e6)
    options.add_argument("--metrics", type=float, default=0)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", type=Path)
    options.add_argument("--home", type=Path)
    given = options.parse_args()
    images, events = (1e4, 5e4) if given.quick else (given.images, given.events)
    plan = generate.Plan(int(images), int(events), int(given.metrics))
    home = given.home or Path(tempfile.mkdtemp(prefix="negspace-views-"))
    home.chmod(0o711)
    try:
        lines, heading = run(home, plan, QUICK_PATIENCE if given.quick else PATIENCE)
    finally:
        if given.home is None:
            server.stop(settings.load({"NEGSPACE_HOME": str(home)}), mode="immediate")
            shutil.rmtree(home)
    write(given.json, lines)
    if not given.quick:
        write_page(table(lines, heading))
    missed = [line.name for line in lines if line.holds is False]
    print("all goals hold" if not missed else f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
