"""Which measurements are made, and what is said of them."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.claims import write
from benchmarks.queueing.course import RUNS, Course, DifferentError, Size
from benchmarks.queueing.ground import Ground
from benchmarks.queueing.page import goals, goals_table, heading, systems_table, write_page
from benchmarks.queueing.systems import BARE, BY_HAND, OURS, PEER_SYSTEMS, REFERENCE, install

from negspace import server, settings

# Durable as delivered: fsync, synchronous_commit and full_page_writes stay as they are. No run
# is to be hit by the checkpoint of another.
OPTIONS = {
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "shared_buffers": "1GB",
    "max_connections": "100",
}


def main(description: str) -> None:
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", type=Path)
    options.add_argument("--peers")
    options.add_argument("--only", default=",".join(RUNS), metavar="RUNS")
    options.add_argument("--page", action="store_true")
    given = options.parse_args()
    began = time.monotonic()
    only = given.only.split(",")
    if unknown := set(only) - set(RUNS):
        options.error(f"no run {', '.join(unknown)}; there are {', '.join(RUNS)}")
    names = list(PEER_SYSTEMS) if given.peers is None and not given.quick else []
    if given.peers:
        names = given.peers.split(",")
        if unknown := set(names) - set(PEER_SYSTEMS):
            options.error(f"no peer {', '.join(unknown)}; there are {', '.join(PEER_SYSTEMS)}")
    missing = install(names)
    for name, why in missing.items():
        print(f"{name} can't be installed: {why}")
    systems = [OURS, BARE, BY_HAND, REFERENCE]
    systems += [PEER_SYSTEMS[n] for n in names if n not in missing]
    size = Size(2_000, 1, 20_000, 5_000, 40, 640, 40) if given.quick else Size()
    home = Path(tempfile.mkdtemp(prefix="negspace-queue-"))
    home.chmod(0o711)
    try:
        found = server.ensure(
            settings.load({"NEGSPACE_HOME": str(home)}), progress=print, options=OPTIONS
        )
        course = Course(Ground(found, size.jobs), size, only)
        course.see_same(OURS, BY_HAND)
        results = [course.run(system) for system in systems]
    except DifferentError as error:
        sys.exit(str(error))
    finally:
        server.stop(settings.load({"NEGSPACE_HOME": str(home)}), mode="immediate")
        shutil.rmtree(home)
    lines = goals(results)
    tables = f"{goals_table(lines)}\n\n{systems_table(results)}"
    text = f"{heading(found.version, size, missing, results)}\n\n{tables}"
    write(given.json, lines)
    print(tables)
    print(f"in {(time.monotonic() - began) / 60:.1f} minutes")
    if given.page or (not given.quick and len(only) == len(RUNS)):
        write_page(text)
    missed = [line.name for line in lines if line.holds is False]
    print("all goals hold" if not missed else f"missed: {', '.join(missed)}")
