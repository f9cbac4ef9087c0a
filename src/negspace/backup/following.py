"""Following the log of somebody else's server into a folder of backups, with pg_receivewal.

What was written a moment ago is there a moment later, not only once a file of the log is full.
A replication slot lets the server keep what was not received yet: while nobody follows, its log
grows.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from negspace import database
from negspace.backup.folder import Folder, writing
from negspace.backup.source import Source, look
from negspace.backup.taking import see_same_server
from negspace.backup.tools import Progress, failed
from negspace.database import only, translated
from negspace.errors import RefusedError
from negspace.settings import Settings

SLOT: Final = "negspace_archive"
_ENDED: Final = (0, -signal.SIGINT)


@dataclass(frozen=True)
class Following:
    """A log that is being followed.

    Attributes:
        folder: Where it goes.
    """

    folder: Path
    _source: Source
    _process: subprocess.Popen[str]
    _say: Progress

    def wait(self) -> None:
        """Return when it was stopped. A server that goes away is waited for.

        Raises:
            BackupError: pg_receivewal gave up; what it said last.
        """
        last = ""
        for line in self._process.stderr or ():
            last = line
            self._say(line.rstrip())
        if self._process.wait() not in _ENDED:
            raise failed("pg_receivewal", self._source.tools.binaries, last)

    def stop(self, *_: object) -> None:
        """Let it end; may be a signal's handler."""
        self._process.send_signal(signal.SIGINT)


@contextmanager
def follow_log(
    settings: Settings, folder: Path, *, progress: Progress | None = None
) -> Generator[Following]:
    """Follow the log of the settings' server while the block runs, from where it was left.

    Only what follows a backup taken afterwards can be restored from it.

    Args:
        settings: Which server; as NEGSPACE_OWNER_URL says, whose role may replicate.
        folder: Of backups; made where there is none.
        progress: Called with what pg_receivewal says, a line at a time.

    Raises:
        RefusedError: The server lets nobody replicate, its log is followed already, or the folder
            has backups of another server.
        BackupError: No programs of its version are here, or the folder can't be written.
    """
    say, there = progress or _silent, Folder(folder.absolute())
    source = look(settings, "physical", say)
    there.make()
    see_same_server(there, source)
    with writing(there.archive):
        there.archive.mkdir(mode=0o700, exist_ok=True)
    _reserve(source)
    arguments = ["-D", there.archive, "--slot", SLOT, "--synchronous", "--no-password", "--verbose"]
    with source.tools.running("pg_receivewal", *arguments, PGAPPNAME=SLOT) as process:
        yield Following(there.archive, source, process, say)


def unfollow_log(settings: Settings) -> None:
    """Let the server keep its log for nobody any more.

    Raises:
        RefusedError: Somebody follows it.
    """
    address = database.conninfo(settings, owner=True)
    with translated(), database.connect(address, autocommit=True) as connection:
        if _has_slot(connection):
            connection.execute("select pg_drop_replication_slot(%s)", [SLOT])


def _silent(_: str) -> None:
    """No progress wanted."""


def _reserve(source: Source) -> None:
    with translated(), database.connect(source.address, autocommit=True) as connection:
        if not _has_slot(connection):
            connection.execute("select pg_create_physical_replication_slot(%s, true)", [SLOT])


def _has_slot(connection: database.Connection) -> bool:
    """Whether the server keeps its log for who follows it.

    Raises:
        RefusedError: Somebody follows it.
    """
    query = "select active_pid from pg_replication_slots where slot_name = %s"
    row = only(connection, query, [SLOT])
    if row is not None and row["active_pid"] is not None:
        raise RefusedError(
            "the log of this server is followed already",
            hint="end the other negspace backup archive, or wait: what was cut off is noticed"
            " after wal_sender_timeout",
        )
    return row is not None
