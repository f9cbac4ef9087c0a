"""Archiving the log of the embedded server: what restores to any moment are made of."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, LiteralString

from negspace import database, server
from negspace.backup.folder import Folder, writing
from negspace.backup.tools import Progress
from negspace.database import Connection, only, sql, translated
from negspace.errors import BackupError, RefusedError, ServerError
from negspace.server import account, logs
from negspace.server.layout import Layout, layout_of
from negspace.settings import Settings

_SCRIPT: Final = "archive-wal.sh"
_LONGEST: Final = 30.0  # seconds for the first file to be archived
_LOOK: Final = 0.1
_TIMEOUT: Final = "60s"  # a file of the log is archived at least that often, where one writes

_STATE: Final[LiteralString] = (
    "select current_setting('archive_mode') as mode, current_setting('archive_command') as command,"
    " a.archived_count as archived, a.failed_count as failed, a.last_archived_wal as last,"
    " a.last_archived_time as at from pg_stat_archiver a"
)


@dataclass(frozen=True)
class Archiving:
    """Where the log goes.

    Attributes:
        folder: The archive, or None where nothing is archived.
        restarted: Whether the server had to be restarted for it.
        last: The last file of the log that was archived, or None.
    """

    folder: Path | None
    restarted: bool
    last: str | None


def start_archiving(
    settings: Settings, folder: Path, *, progress: Progress | None = None
) -> Archiving:
    """Archive the embedded server's log into a folder of backups, from now on.

    Only what follows a backup taken afterwards can be restored from it. The server is restarted
    where nothing was archived yet: that cuts its connections.

    Args:
        settings: Which server.
        folder: Of backups; made where there is none.
        progress: Called with a line at a time.

    Raises:
        RefusedError: The server isn't the embedded one.
        BackupError: The first file could not be archived; the log says why.
    """
    say = progress or _silent
    there, layout = Folder(folder.absolute()), _embedded(settings)
    address = server.ensure(settings, progress=say).socket_address("superuser")
    there.make()
    _prepare(settings, layout, there)
    script = layout.server / _SCRIPT
    command = " ".join(
        [
            "sh",
            shlex.quote(str(script)).replace("%", "%%"),
            "%p",
            "%f",
            shlex.quote(str(there.archive)).replace("%", "%%"),
        ]
    )
    with translated(), database.connect(address, autocommit=True) as connection:
        restart = _state(connection)["mode"] == "off"
        _set(connection, {"archive_mode": "on", "archive_command": command})
        _set(connection, {"archive_timeout": _TIMEOUT})
        connection.execute("select pg_reload_conf()")
    if restart:
        say("restarting the server …")
        server.stop(settings, progress=say)
        address = server.ensure(settings, progress=say).socket_address("superuser")
    last = _see_it_work(address, layout)
    return Archiving(there.archive, restart, last)


def stop_archiving(settings: Settings, *, progress: Progress | None = None) -> Archiving:
    """Archive no more; the next restart of the server takes the rest of it back.

    Raises:
        RefusedError: The server isn't the embedded one.
    """
    _embedded(settings)
    address = server.ensure(settings, progress=progress or _silent).socket_address("superuser")
    with translated(), database.connect(address, autocommit=True) as connection:
        # Without a restart archive_mode stays on, and needs a command that succeeds.
        _set(connection, {"archive_mode": "off", "archive_command": "true"})
        connection.execute("alter system reset archive_timeout")
        connection.execute("select pg_reload_conf()")
        return Archiving(None, restarted=False, last=_state(connection)["last"])


def where_archived(settings: Settings) -> Archiving:
    """Whether the embedded server's log is archived, and where.

    Raises:
        RefusedError: The server isn't the embedded one.
        ServerError: It doesn't run.
    """
    _embedded(settings)
    found = server.status(settings)
    with translated(), database.connect(found.socket_address("superuser")) as connection:
        state = _state(connection)
    words = shlex.split(state["command"]) if state["mode"] == "on" else []
    ours = len(words) == 5 and words[1].endswith(_SCRIPT)
    folder = Path(words[4].replace("%%", "%")) if ours else None
    return Archiving(folder, restarted=False, last=state["last"])


def _silent(_: str) -> None:
    """No progress wanted."""


def _embedded(settings: Settings) -> Layout:
    if not settings.embedded:
        raise RefusedError(
            "the archive of another server is its administrator's",
            hint="negspace backup archive DIR follows its log while it runs",
        )
    return layout_of(settings)


def _prepare(settings: Settings, layout: Layout, there: Folder) -> None:
    """The archive, and the script that fills it, for whom the server runs as."""
    runs_as = account.account_for(settings, layout)
    try:
        account.make_folder(runs_as, there.archive, layout)
    except ServerError as error:
        raise BackupError(
            error.message,
            hint=f"let it pass through the folders above, or choose one that it can reach"
            f" instead of {there.path}",
        ) from error
    script = layout.server / _SCRIPT
    fresh = script.with_suffix(f".{os.getpid()}")
    with writing(layout.server):
        shutil.copyfile(Path(__file__).with_name(_SCRIPT), fresh)
        fresh.chmod(0o500)
        runs_as.own(fresh)
        fresh.replace(script)


def _set(connection: Connection, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        change = sql.SQL("alter system set {} = {}")
        connection.execute(change.format(sql.Identifier(name), sql.Literal(value)))


def _state(connection: Connection) -> database.Row:
    return only(connection, _STATE) or {}


def _see_it_work(address: str, layout: Layout) -> str | None:
    """Let one file of the log be archived.

    Raises:
        BackupError: It wasn't.
    """
    with translated(), database.connect(address, autocommit=True) as connection:
        before = _state(connection)
        connection.execute("select pg_logical_emit_message(true, 'negspace', 'archive')")
        connection.execute("select pg_switch_wal()")
        patience = time.monotonic() + _LONGEST
        while time.monotonic() < patience:
            now = _state(connection)
            if now["archived"] > before["archived"]:
                return now["last"]
            if now["failed"] > before["failed"]:
                break
            time.sleep(_LOOK)
    raise BackupError(
        "the server can't archive its log",
        hint=f"{logs.newest(layout)} says why; negspace backup archive --stop ends it",
    )
