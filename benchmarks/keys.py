"""The whole check of an API key on one hot key, against what it can't be quicker than, and peers.

Makes a server of its own. Eight clients ask for one key, a statement a transaction: once as
services do, eight processes with the library, and once as pgbench does, which leaves the server
alone with the work. Rounds take turns, so that what else the machine does meets all alike; a
speed is the median of its rounds, a ratio the median of the ratios within a round.

    python benchmarks/keys.py                 7 rounds of 1 s each
    python benchmarks/keys.py --quick         1 round of 1 s each
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import LiteralString

from claims import Claim, write
from negspace import database, keys, migrate, server, settings, users
from negspace.database import Actor, Database, PoolSize
from negspace.server import Server, binaries

PAGE = Path(__file__).parent.parent / "docs/benchmarks.md"
MIGRATIONS = Path(migrate.__file__).parent.parent / "sql/migrations"
CLIENTS = 8
OFTEN, ONCE = 60_000_000, 1  # requests a minute: never used up, and used up at once
SCOPE, HERE, NETWORKS = "read:images", "192.0.2.7", ("198.51.100.0/24", "192.0.2.0/24")

# What others do, with the same meaning: so many requests a minute, without any other check.
PEERS = """
    create unlogged table bare (id int primary key, n bigint not null) with (fillfactor = 20);
    create unlogged table upserted (id int primary key, since timestamptz, n int) with (fillfactor = 20);
    create unlogged table windows (id int, minute timestamptz, n int, primary key (id, minute)) with (fillfactor = 20);
    insert into bare values (1, 0);
    grant all on bare, upserted, windows to app_user;
"""  # noqa: E501
BARE: LiteralString = "update bare set n = n + 1 where id = 1 returning n"
NAMED: LiteralString = "update bare set n = n + 1 where id = %s returning n"
UPSERT: LiteralString = """
    insert into upserted as u values (1, now(), 1) on conflict (id) do update set
        n = case when u.since < now() - interval '1 minute' then 1 else u.n + 1 end,
        since = case when u.since < now() - interval '1 minute' then now() else u.since end
    returning n <= """
WINDOW: LiteralString = """
    insert into windows as w values (1, date_trunc('minute', now()), 1)
    on conflict (id, minute) do update set n = w.n + 1 returning n <= """
STATEMENTS: dict[str, LiteralString] = {
    "bare update … returning": BARE,
    "bare update, its row a parameter": NAMED,
    "whole check: granted": "",
    "whole check: denied": "",
    "upsert limiter: granted": UPSERT + "2147483647",
    "upsert limiter: denied": UPSERT + "1",
    "fixed window: granted": WINDOW + "2147483647",
    "fixed window: denied": WINDOW + "1",
}


@dataclass(frozen=True)
class Measured:
    """One line of the table: a second, and by the bare update whose row is a parameter."""

    what: str
    library: float
    library_ratio: float
    server: float
    server_ratio: float
    goal: str
    holds: bool | None

    def claims(self, bare: Measured) -> list[Claim]:
        """By the library and by pgbench, beside the bare update by parameter."""
        kinds = (
            ("the library", self.library, bare.library, self.library_ratio),
            ("pgbench", self.server, bare.server, self.server_ratio),
        )
        return [
            Claim(
                f"{self.what}, with {kind} (a second)",
                ours,
                theirs,
                bare.what,
                ratio,
                0.8 if self.what == "whole check: granted" and kind == "the library" else None,
                self.holds if kind == "the library" else None,
            )
            for kind, ours, theirs, ratio in kinds
        ]


def client(address: str, what: str, text: str, seconds: float, gate: Barrier) -> int:
    """One process: how often it was answered."""
    size = PoolSize(minimum=1, maximum=1)
    with Database(address, actor=Actor(ip_address=HERE), pool=size) as opened:
        statement = STATEMENTS[what]
        opened.ask("select 1")
        gate.wait()
        answered, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            if statement:
                opened.ask(statement, [1] if statement is NAMED else [])
            else:
                keys.verify(opened, text, scope=SCOPE)
            answered += 1
    return answered


class Library:
    """Eight processes that wait for what to ask."""

    def __init__(self, address: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._address = address
        self._gate = spawn.Manager().Barrier(CLIENTS)
        self._pool = spawn.Pool(CLIENTS)

    def ask(self, what: str, text: str, seconds: float) -> float:
        """Answers a second, of all together."""
        given = [(self._address, what, text, seconds, self._gate)] * CLIENTS
        return sum(self._pool.starmap(client, given, chunksize=1)) / seconds


def by_pgbench(found: Server, what: str, text: str, script: Path, seconds: float) -> float:
    call = f"select * from verify_api_key({text.split('_')[1]}, '{keys.key_hash(text)}', :scope, '{HERE}')"  # noqa: E501
    script.write_text(" ".join((STATEMENTS[what] or call).replace("%s", ":row").split()) + ";\n")
    ran = subprocess.run(
        [next(binaries.installed()).program("pgbench"), "-n", "-M", "prepared", "-D",
         f"scope={SCOPE}", "-D", "row=1", "-c", str(CLIENTS), "-j", "2", "-T", f"{seconds:.0f}",
         "-f", script],
        env=os.environ | database.libpq_environment(found.url("operator")),
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    told = re.search(r"tps = ([0-9.]+)", ran.stdout)
    assert told is not None, ran.stderr
    return float(told[1])


def measure(found: Server, folder: Path, *, rounds: int, seconds: float) -> list[Measured]:
    migrate.up(found.url("owner"), MIGRATIONS)
    with database.connect(found.url("owner")) as connection:
        connection.execute(PEERS)
    texts: dict[str, str] = {}
    with Database(found.url("operator"), actor=Actor(ip_address=HERE)) as opened:
        ada = users.add(opened, "ada@example.org", "correct horse", role="analyst", cost=4)
        for name, limit in (("granted", OFTEN), ("denied", ONCE)):
            made = keys.create(opened, ada.id, name, networks=NETWORKS, rate_limit_per_minute=limit)
            texts[name] = made.text.reveal()
            assert keys.verify(opened, texts[name], scope=SCOPE).accepted
    library = Library(found.url("operator"))
    speeds: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for number in range(rounds):
        for what in STATEMENTS:
            if what == "whole check: denied":  # a limit of one a minute, used up again
                with Database(found.url("operator"), actor=Actor(ip_address=HERE)) as opened:
                    keys.verify(opened, texts["denied"], scope=SCOPE)
            text = texts["denied" if "denied" in what else "granted"]
            speeds[what][0].append(library.ask(what, text, seconds))
            speeds[what][1].append(by_pgbench(found, what, text, folder / "s.sql", seconds))
            last = [f"{kind[-1]:,.0f}/s" for kind in speeds[what]]
            print(f"round {number + 1}: {what}: {', '.join(last)}", flush=True)
    return judged(speeds)


def judged(speeds: dict[str, tuple[list[float], list[float]]]) -> list[Measured]:
    """The lines of the table; ``speeds`` are each statement's rounds, by library and pgbench."""

    def ratio(what: str, other: str, kind: int) -> float:
        rounds = zip(speeds[what][kind], speeds[other][kind], strict=True)
        return statistics.median(one / another for one, another in rounds)

    named, granted, denied = list(STATEMENTS)[1:4]
    goals = {
        granted: ("0.8 × bare, by parameter", ratio(granted, named, 0) >= 0.8),
        denied: (
            "quicker than granted, by both",
            ratio(denied, granted, 0) > 1 and ratio(denied, granted, 1) > 1,
        ),
    }
    return [
        Measured(
            *(what, statistics.median(services), ratio(what, named, 0)),
            *(statistics.median(alone), ratio(what, named, 1)),
            *goals.get(what, ("", None)),
        )
        for what, (services, alone) in speeds.items()
    ]


def table(lines: list[Measured], version: str) -> str:
    verdict = {None: "", True: "yes", False: "**missed**"}
    rows = [
        f"| {line.what} | {line.library:,.0f} | {line.library_ratio:.2f} × | {line.server:,.0f}"
        f" | {line.server_ratio:.2f} × | {line.goal} | {verdict[line.holds]} |"
        for line in lines
    ]
    return "\n".join(
        [
            f"PostgreSQL {version}; {CLIENTS} clients on one key; statements a second, and their"
            " ratio to the bare update by parameter, the median of the rounds'.",
            "",
            "| | with the library | | pgbench | | goal (library) | holds |",
            "| --- | ---: | ---: | ---: | ---: | --- | --- |",
            *rows,
        ]
    )


def write_page(text: str) -> None:
    begin, end = "<!-- keys -->", "<!-- /keys -->"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    home = Path(tempfile.mkdtemp(prefix="negspace-keys-"))
    home.chmod(0o711)
    rounds, seconds = (1, 1.0) if given.quick else (7, 1.0)
    try:
        found = server.ensure(settings.load({"NEGSPACE_HOME": str(home)}), progress=print)
        lines = measure(found, home, rounds=rounds, seconds=seconds)
    finally:
        server.stop(settings.load({"NEGSPACE_HOME": str(home)}), mode="immediate")
        shutil.rmtree(home)
    print(table(lines, str(found.version)))
    write(given.json, [claim for line in lines for claim in line.claims(lines[1])])
    if not given.quick:
        write_page(table(lines, str(found.version)))
    missed = [line.what for line in lines if line.holds is False]
    print("all goals hold" if not missed else f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
