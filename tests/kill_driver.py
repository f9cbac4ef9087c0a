"""Runs ``migrate.up`` in processes of their own, each killed at a point that it is told.

A line of JSON on standard input is one run: its address, its folder, the number of the point
at which it is killed or the name of the first such point (neither: it runs to its end), answers,
and whether the catalog's fingerprint is kept (yes where it doesn't say). Each run is a fork, so
that the interpreter starts once and not for each of hundreds of runs. A line comes back for each:
how it ended, and at which points it came by.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from negspace import migrate
from negspace.errors import NegspaceError
from negspace.migrate import Options


def run(job: dict, pipe: int) -> int:
    count = 0

    def at(point: str) -> None:
        nonlocal count
        count += 1
        os.write(pipe, f"{point}\n".encode())
        if count == job.get("kill") or point == job.get("kill_first"):
            os.kill(os.getpid(), signal.SIGKILL)

    options = Options(
        at=at, answers=job.get("answers", {}), fingerprint=job.get("fingerprint", True)
    )
    try:
        result = migrate.up(job["address"], Path(job["folder"]), options=options)
    except NegspaceError as error:
        os.write(pipe, f"error: {error.message}\n".encode())
        return 2
    if result.failure is not None:
        os.write(pipe, ("\n".join(result.failure.lines()) + "\n").encode())
    return 0 if result.ok else 1


def fork(job: dict) -> tuple[int, str]:
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        os._exit(run(job, writes))
    os.close(writes)
    with os.fdopen(reads) as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def main() -> None:
    for line in sys.stdin:
        status, said = fork(json.loads(line))
        print(json.dumps({"status": status, "points": said.splitlines()}), flush=True)


if __name__ == "__main__":
    main()
