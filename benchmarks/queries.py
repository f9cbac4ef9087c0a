"""Runs the queries of the product on generated data, and shows which index each of them uses.

Makes a database of its own on an embedded server. Every index is to be used by a query of
benchmarks/queries.sql, as pg_stat_user_indexes counts it; what is not is printed as missed.

    python benchmarks/queries.py                 300,000 images, 1M events
    python benchmarks/queries.py --quick         10,000 images, 30,000 events, as the tests have
    python benchmarks/queries.py --json out.json the figures as JSON

Both write the plans, without what differs from machine to machine, to benchmarks/plans.txt.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claims import Claim, write
from negspace import database, generate, metrics, migrate, server, settings, summaries
from negspace.database import Connection, Database, only, rows

HERE = Path(__file__).parent
MIGRATIONS = Path(migrate.__file__).parent.parent / "sql/migrations"
FILE, ROWS, PLANS = HERE / "queries.sql", HERE / "queries_rows.sql", HERE / "plans.txt"
QUICK = generate.Plan(10_000, 30_000, 30_000)
FEW = 500  # rows of which a sequential scan is not worth a word

GIVEN = """
    select u.id as user, u.email, i.id as image, i.id::text as image_text, i.file_hash as hash,
           sha256_hex('session ' || u.id) as digest,
           (select min(id) from sessions where user_id = u.id) as session,
           (select api_key_id from security_audit
            where api_key_id is not null order by "timestamp" limit 1) as key,
           (select duplicate_of from images where is_duplicate order by id limit 1) as original,
           (select max(id) from analysis_results) as result,
           (select min(id) from analysis_cache) as entry,
           (select max(id) from processing_queue) as job,
           (select audit_id from audit_log_details order by created_at desc limit 1) as event,
           (select max(id) from performance_metrics) as sample,
           date_trunc('month', now(), 'UTC') - interval '3 months' as month,
           date_trunc('month', now(), 'UTC') - interval '9 days' as span,
           (select date_trunc('day', max(recorded_at), 'UTC') from performance_metrics) as until,
           (select date_trunc('day', max(recorded_at), 'UTC') - interval '1 day'
            from performance_metrics) as since,
           (select date_trunc('day', max(recorded_at), 'UTC') - interval '1 hour'
            from performance_metrics) as hour
    from (select user_id from images group by user_id order by count(*) desc offset 20 limit 1) b
    join users u on u.id = b.user_id
    cross join lateral (select * from images where user_id = u.id order by id limit 1) i"""

# Parts of partitioned indexes count for the whole.
USED = """
    select coalesce(pg_partition_root(i.indexrelid), i.indexrelid)::regclass::text as name,
           bool_or(i.indisunique) as is_key, sum(s.idx_scan)::bigint as scans
    from pg_index i
    join pg_stat_user_indexes s on s.indexrelid = i.indexrelid
    where i.indrelid::regclass::text <> 'negspace_migrations'
    group by 1"""

SMALL = """
    select c.relname as name from pg_class c
    where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace and c.reltuples < %s"""


@dataclass(frozen=True)
class Query:
    """One of benchmarks/queries.sql."""

    name: str
    text: str
    as_owner: bool
    changes: bool


@dataclass(frozen=True)
class Ran:
    """A query with its plan: the kinds of scans, and the milliseconds it took."""

    query: Query
    scans: tuple[str, ...]
    milliseconds: float

    @property
    def sequential(self) -> frozenset[str]:
        """The tables that it reads from end to end."""
        return frozenset(scan.removeprefix("Seq Scan on ") for scan in self.scans
                         if scan.startswith("Seq Scan on "))  # fmt: skip


def queries() -> list[Query]:
    """All of the file, in its order."""
    found: list[Query] = []
    for part in FILE.read_text(encoding="utf-8").split("-- name: ")[1:]:
        head, _, text = part.partition("\n")
        name, *said = head.split(" · ")
        text = re.sub(r"^--.*$", "", text, flags=re.M).strip().rstrip(";")
        found.append(Query(name, text, "as owner" in said, "changes" in said))
    return found


def fill(owner: Database, plan: generate.Plan) -> None:
    """Generated data, the tables that the generator leaves empty, and what workers keep."""
    generate.generate(owner, plan)
    summaries.roll_up(owner)
    metrics.roll_up(owner)
    with owner.transaction() as connection:
        for switch in ("disable", "enable"):  # no event for each of these rows
            for table in ("users", "api_keys", "images", "performance_metrics"):
                connection.execute(f"alter table {table} {switch} trigger user".encode())
            if switch == "disable":
                for statement in ROWS.read_text(encoding="utf-8").split(";\n"):
                    connection.execute(statement.encode(), {})
        connection.execute("select reconcile_queue_counts()")
        connection.execute("analyze")


def given(owner: Database) -> Mapping[str, Any]:
    """The parameters: the busiest user, one of their images, and so on."""
    with owner.transaction() as connection:
        return only(connection, GIVEN) or {}


def scans(node: Mapping[str, Any], small: frozenset[str]) -> Iterator[str]:
    """What a plan reads and how, node by node; a partition stands as its table.

    Reading a table, or a partition, of a few rows from end to end is left out.
    """
    relation = re.sub(r"_[0-9]{6}$", "", node.get("Relation Name", ""))
    index = re.sub(r"^(.*)_[0-9]{6}_", r"\1_", node.get("Index Name", ""))
    if node["Node Type"] == "Seq Scan" and node["Relation Name"] in small:
        pass
    elif index and relation:
        yield f"{node['Node Type']} using {index} on {relation}"
    elif index:
        yield f"{node['Node Type']} on {index}"
    elif relation:
        yield f"{node['Node Type']} on {relation}"
    elif "Function Name" in node:
        yield f"{node['Node Type']} on {node['Function Name']}"
    for child in node.get("Plans", ()):
        yield from scans(child, small)


def run(
    connection: Connection, query: Query, parameters: Mapping[str, Any], small: frozenset[str]
) -> Ran:
    """Explain it, then run it to its last row; what it changes is undone."""
    wanted = {name: v for name, v in parameters.items() if f"%({name})s" in query.text}
    with connection.transaction(force_rollback=True):
        plan = rows(connection, b"explain (format json) " + query.text.encode(), wanted)
        began = time.perf_counter()
        connection.execute(query.text.encode(), wanted).fetchall()
        took = (time.perf_counter() - began) * 1000
    found = sorted(set(scans(plan[0]["QUERY PLAN"][0]["Plan"], small)))
    return Ran(query, tuple(found), took)


def run_all(app: str, owner: str, parameters: Mapping[str, Any]) -> list[Ran]:
    """Every query, as who asks it; the server has counted the scans when this returns."""
    with database.connect(app) as services, database.connect(owner) as master:
        small = frozenset(row["name"] for row in rows(master, SMALL, [FEW]))
        return [run(master if q.as_owner else services, q, parameters, small) for q in queries()]


@dataclass(frozen=True)
class Index:
    """How often it was scanned; ``is_key``: it is there to hold something unique."""

    name: str
    is_key: bool
    scans: int


def counted(owner: str) -> dict[str, Index]:
    """Every index by its name."""
    with database.connect(owner) as connection:
        return {row["name"]: Index(**row) for row in rows(connection, USED)}


def unused(before: Mapping[str, Index], after: Mapping[str, Index]) -> list[Index]:
    """What was not scanned in between."""
    return [now for name, now in sorted(after.items()) if now.scans == before[name].scans]


def text(ran: list[Ran]) -> str:
    """The plans as they are kept."""
    return "\n".join("\n    ".join([one.query.name, *one.scans]) for one in ran) + "\n"


def kept() -> dict[str, tuple[str, ...]]:
    """The plans of benchmarks/plans.txt, by the name of their query."""
    found: dict[str, tuple[str, ...]] = {}
    name = ""
    for line in PLANS.read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            found[name] += (line.strip(),)
        else:
            name = line
            found[name] = ()
    return found


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    plan = QUICK if chosen.quick else generate.Plan(300_000, 1_000_000, 300_000)
    home = Path(tempfile.mkdtemp(prefix="negspace-queries-"))
    home.chmod(0o711)
    try:
        found = server.ensure(settings.load({"NEGSPACE_HOME": str(home)}), progress=print)
        done = migrate.up(found.url("owner"), MIGRATIONS)
        assert done.ok, done.failure
        with Database(found.url("owner")) as owner:
            fill(owner, plan)
            parameters = given(owner)
        before = counted(found.url("owner"))
        # row security keeps the planner from statistics, and him from it (docs/performance.md)
        ran = run_all(found.url("superuser"), found.url("owner"), parameters)
        time.sleep(1)
        after = counted(found.url("owner"))
    finally:
        server.stop(settings.load({"NEGSPACE_HOME": str(home)}), mode="immediate")
        shutil.rmtree(home)
    idle = unused(before, after)
    missed = [index.name for index in idle if not index.is_key]
    for one in ran:
        print(f"{one.milliseconds:9.1f} ms  {one.query.name}: {'; '.join(one.scans)}")
    print(f"{len(after) - len(idle)} of {len(after)} indexes were used by {len(ran)} queries")
    print("not, but they hold a key: " + ", ".join(index.name for index in idle if index.is_key))
    print(f"missed: {', '.join(missed) or 'none'}")
    name = "; ".join(["indexes that no query used", *missed])
    write(
        chosen.json,
        [Claim(f"{one.query.name} (ms): {'; '.join(one.scans)}", one.milliseconds) for one in ran]
        + [Claim(name, len(missed), goal=0, holds=not missed)],
    )
    PLANS.write_text(text(ran), encoding="utf-8")


if __name__ == "__main__":
    main()
