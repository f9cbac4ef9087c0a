"""The server's files: pg_basebackup, and the log up to the moment that the backup holds.

pg_receivewal follows the log from before pg_basebackup begins until it has the marked moment.
So recovery can stop exactly there, later than where pg_basebackup itself ends.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, LiteralString

from negspace import database
from negspace.backup.manifest import Position
from negspace.backup.moment import Moment
from negspace.backup.source import Source
from negspace.backup.tools import Progress, Tools, failed
from negspace.database import only, translated
from negspace.errors import BackupError

_START: Final = re.compile(r"START WAL LOCATION: \S+ \(file ([0-9A-F]{24})\)")
_TIMELINE: Final = re.compile(r"START TIMELINE: (\d+)")
_LOOK: Final = 0.05  # seconds between two looks at how far the log is received
_LONGEST: Final = 120.0  # seconds for the log to arrive


@contextmanager
def following_log(source: Source, wal: Path) -> Generator[Log]:
    """Receive the server's log into a folder while the block runs."""
    wal.mkdir(mode=0o700)
    name = f"negspace_{secrets.token_hex(8)}"
    arguments = ["-D", str(wal), "--synchronous", "--no-loop", "--status-interval=1", "-w"]
    with (
        translated(),
        database.connect(source.address, autocommit=True) as connection,
    ):
        # It keeps the log on the server as long as this connection lives, and no longer.
        connection.execute("set idle_session_timeout = 0")
        connection.execute("select pg_create_physical_replication_slot(%s, true, true)", [name])
        with source.tools.running("pg_receivewal", *arguments, PGAPPNAME=name) as process:
            log = Log(source, process, name, wal)
            log.wait_for_begin()
            yield log


class Log:
    """A log that is being received."""

    def __init__(
        self, source: Source, process: subprocess.Popen[str], name: str, folder: Path
    ) -> None:
        self._source = source
        self._process = process
        self._name = name
        self._folder = folder

    def wait_for_begin(self) -> None:
        """Return once it arrives.

        Raises:
            BackupError: It doesn't.
        """
        self._wait_until("r.state = 'streaming'", "")

    def end_after(self, moment: Moment) -> None:
        """Wait until the moment has arrived, and end.

        Raises:
            BackupError: It didn't arrive.
        """
        self._wait_until("r.flush_lsn >= %s::pg_lsn", moment.after)
        self._process.send_signal(signal.SIGINT)
        said = self._process.communicate()[1]
        if self._process.returncode not in (0, -signal.SIGINT):
            raise self._failed(said)
        for partial in self._folder.glob("*.partial"):
            partial.rename(partial.with_suffix(""))
            _sync(partial.with_suffix(""))

    def _wait_until(self, condition: LiteralString, lsn: str) -> None:
        """Wait for something that the server knows of its sender."""
        query: LiteralString = (
            "select from pg_stat_replication r where r.application_name = %s and " + condition
        )
        asked = [self._name, lsn] if lsn else [self._name]
        patience = time.monotonic() + _LONGEST
        with translated(), database.connect(self._source.address, autocommit=True) as connection:
            while only(connection, query, asked) is None:
                if self._process.poll() is not None:
                    raise self._failed(self._process.communicate()[1])
                if time.monotonic() > patience:
                    raise BackupError(
                        f"the server's log didn't arrive within {_LONGEST:.0f} s",
                        hint="is the network or the disk slow? try again",
                    )
                time.sleep(_LOOK)

    def _failed(self, said: str) -> BackupError:
        return failed("pg_receivewal", self._source.tools.binaries, said)


def copy_server(source: Source, target: Path, parent: Path | None, progress: Progress) -> None:
    """Copy the server's files with pg_basebackup.

    Args:
        source: The server.
        target: A folder that isn't there yet.
        parent: The ``backup_manifest`` of the backup that an incremental one builds on.
        progress: Called with how far it is.

    Raises:
        BackupError: pg_basebackup failed.
    """
    options = ["-D", str(target), "-X", "none", "-c", "fast", "-P", "-w"]
    options += ["--manifest-checksums=SHA256"]
    if parent is not None:
        options.append(f"--incremental={parent}")
    source.tools.run("pg_basebackup", *options, progress=progress)


def begin_of(folder: Path) -> tuple[int, str]:
    """The timeline and the file of the log with which the recovery of copied files begins."""
    label = (folder / "backup_label").read_text(encoding="utf-8", errors="replace")
    start, timeline = _START.search(label), _TIMELINE.search(label)
    if start is None or timeline is None:
        raise BackupError(f"{folder / 'backup_label'} says not where recovery begins")
    return int(timeline[1]), start[1]


def position(folder: Path, moment: Moment) -> Position:
    """Where in the log a copy of the server's files begins and ends."""
    timeline, first = begin_of(folder)
    return Position(moment.lsn, timeline, first)


def summarize_log(source: Source) -> None:
    """Let a server of 17 and newer keep what incremental backups need, where we may say so."""
    if source.origin.major < 17 or not source.settings.embedded:
        return
    with translated(), database.connect(source.address, autocommit=True) as connection:
        row = only(connection, "select current_setting('summarize_wal') as on")
        if row and row["on"] == "off":
            connection.execute("alter system set summarize_wal = on")
            connection.execute("select pg_reload_conf()")


def verify_copy(tools: Tools, folder: Path) -> None:
    """Compare every copied file with the checksum that was made as it was sent.

    Raises:
        BackupError: One differs, is missing, or is too many.
    """
    # The log lies beside; that it is whole, the recovery shows.
    tools.run("pg_verifybackup", "--no-parse-wal", "--quiet", folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
