"""What the audit trail costs, and how fast it is sealed and verified.

Makes a server of its own, with fsync on. The same INSERTs and UPDATEs go into three tables like
images: unaudited; with our triggers (statement level, changed keys, a leaf hash each); and
with a row trigger that stores whole rows as JSON. Then a trail is sealed and verified.

    python benchmarks/audit.py                 50,000 rows in bulk, 12 s with 8 clients
    python benchmarks/audit.py --quick         10,000 rows, 3 s
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

from claims import Claim, write
from negspace import audit, database, migrate, server, settings
from negspace.database import Connection, Database

PAGE = Path(__file__).parent.parent / "docs/benchmarks.md"
HERE = Path(__file__).parent
MIGRATIONS = HERE.parent / "src/negspace/sql/migrations"
CLIENTS = 8
ROUNDS = 3

COPIES: LiteralString = """
    create table unaudited (like images including all);
    create table rowwise_images (like images including all);
    alter table unaudited
        add foreign key (user_id) references users,
        add foreign key (duplicate_of) references unaudited;
    alter table rowwise_images
        add foreign key (user_id) references users,
        add foreign key (duplicate_of) references rowwise_images;
    -- What images does besides on insert, so that what differs is the trail alone.
    create trigger keep_fingerprints after insert on unaudited referencing new table as new_rows
        for each statement execute function keep_image_fingerprints();
    create trigger keep_fingerprints after insert on rowwise_images
        referencing new table as new_rows
        for each statement execute function keep_image_fingerprints();
    create trigger keep after insert or update or delete on rowwise_images
        for each row execute function rowwise.keep();
"""
TABLES: dict[str, LiteralString] = {
    "unaudited": "unaudited",
    "ours": "images",
    "row trigger": "rowwise_images",
}
COLUMNS: LiteralString = (
    "user_id, file_name, original_filename, file_path, file_size, mime_type, file_hash, metadata"
)
ONE: dict[str, LiteralString] = {
    name: "insert into " + table + " (" + COLUMNS + ") values (1, 'a.png', 'a.png', 'a/a.png', 1,"
    " 'image/png', sha256_hex(gen_random_uuid()::text), '{\"instrument\": \"ACS\"}')"
    for name, table in TABLES.items()
}
MANY: dict[str, LiteralString] = {
    name: "insert into " + table + " (" + COLUMNS + ") select 1, 'a.png', 'a.png', 'a/a.png', 1,"
    " 'image/png', sha256_hex(gen_random_uuid()::text), '{\"instrument\": \"ACS\"}'"
    " from generate_series(1, %s)"
    for name, table in TABLES.items()
}


@dataclass(frozen=True)
class Measured:
    """One line of the table; rates in rows a second."""

    what: str
    rate: float
    unaudited: float | None
    ratio: float | None
    goal: float | None
    holds: bool | None

    def claim(self) -> Claim:
        peer = "" if self.unaudited is None else "the same table, unaudited"
        return Claim(
            f"{self.what} (rows/s)",
            self.rate,
            self.unaudited,
            peer,
            self.ratio,
            self.goal,
            self.holds,
        )


def singly(address: str, query: LiteralString, seconds: float) -> float:
    """Rows a second, each inserted in a transaction of its own, by all clients together."""
    over = threading.Event()
    counts: list[int] = []

    def client() -> None:
        done = 0
        with database.connect(address, autocommit=True) as connection:
            while not over.is_set():
                connection.execute(query)
                done += 1
        counts.append(done)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    over.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def at_once(address: str, query: LiteralString, count: int) -> float:
    """Rows a second, inserted by one statement."""
    with database.connect(address) as connection:
        began = time.perf_counter()
        connection.execute(query, [count])
        connection.commit()
        return count / (time.perf_counter() - began)


def compared(what: str, rate: Callable[[str], float], goal: float | None) -> list[Measured]:
    """The three in turn, several times: the median of each, and ratios to the unaudited one."""
    rates: dict[str, list[float]] = {name: [] for name in TABLES}
    for _ in range(ROUNDS):
        for name in TABLES:
            rates[name].append(rate(name))
    middle = {name: statistics.median(found) for name, found in rates.items()}
    lines: list[Measured] = []
    for name in ("ours", "row trigger"):
        ratio = middle[name] / middle["unaudited"]
        own = goal if name == "ours" else None
        lines.append(
            Measured(
                f"{what}, {name}",
                middle[name],
                middle["unaudited"],
                ratio,
                own,
                None if own is None else ratio >= own,
            )
        )
    return lines


def alone(what: str, rate: float, goal: float | None) -> Measured:
    return Measured(what, rate, None, None, goal, None if goal is None else rate >= goal)


def sealed_and_verified(address: str) -> list[Measured]:
    with Database(address) as opened:
        began = time.perf_counter()
        audit.seal(opened)
        took = time.perf_counter() - began
        began, computed = time.perf_counter(), time.process_time()
        found = audit.verify(opened)
        checked, computed = time.perf_counter() - began, time.process_time() - computed
    assert found.fine, found.problems
    assert found.unsealed == 0
    return [
        alone("sealing", found.rows / took, None),
        alone("verifying", found.rows / checked, 100_000),
        alone("verifying, by the client's processor time", found.rows / computed, None),
    ]


def shown(line: Measured) -> list[str]:
    return [
        line.what,
        f"{line.rate:,.0f}",
        "" if line.unaudited is None else f"{line.unaudited:,.0f}",
        "" if line.ratio is None else f"{line.ratio:.2f} ×",
        "" if line.goal is None else f"≥ {line.goal:,g}" + (" ×" if line.ratio else ""),
        {None: "", True: "yes", False: "**missed**"}[line.holds],
    ]


def table(lines: list[Measured], version: str) -> str:
    head = ["", "rows/s", "unaudited rows/s", "ratio", "goal", "holds"]
    body = [head, ["---", "---:", "---:", "---:", "---:", "---"], *map(shown, lines)]
    heading = f"PostgreSQL {version}; {CLIENTS} clients; medians of {ROUNDS} rounds in turn."
    return heading + "\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in body)


def write_page(text: str) -> None:
    begin, end = "<!-- audit -->", "<!-- /audit -->"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def prepare(connection: Connection) -> None:
    connection.execute((HERE / "audit_rowwise.sql").read_bytes())
    connection.execute(COPIES)
    connection.execute(
        "insert into users (email, password_hash)"
        " values ('a@example.org', '$2b$12$' || repeat('a', 53))"
    )


def run(home: Path, *, quick: bool) -> tuple[list[Measured], str]:
    found = server.ensure(settings.load({"NEGSPACE_HOME": str(home)}), progress=print)
    address = found.url("owner")
    result = migrate.up(address, MIGRATIONS)
    assert result.ok, result.failure
    with database.connect(address) as connection:
        prepare(connection)
    count, seconds = (10_000, 3.0) if quick else (50_000, 12.0)
    lines = compared(
        "inserts, one by one", lambda name: singly(address, ONE[name], seconds / ROUNDS), 0.7
    )
    lines += compared("inserts in bulk", lambda name: at_once(address, MANY[name], count), None)
    lines += sealed_and_verified(address)
    for line in lines:
        print(" · ".join(filter(None, shown(line))), flush=True)
    return lines, str(found.version)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    home = Path(tempfile.mkdtemp(prefix="negspace-audit-"))
    home.chmod(0o711)
    try:
        lines, version = run(home, quick=given.quick)
    finally:
        server.stop(settings.load({"NEGSPACE_HOME": str(home)}), mode="immediate")
        shutil.rmtree(home)
    write(given.json, [line.claim() for line in lines])
    if not given.quick:
        write_page(table(lines, version))
    missed = [line.what for line in lines if line.holds is False]
    print("all goals hold" if not missed else f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
