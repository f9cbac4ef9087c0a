"""Taking a backup: the database first, then every stored file, as one unit.

A row never names bytes that aren't stored, and while a backup is taken no stored file is
removed. So whoever copies the files after the moment of the database has all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from negspace import __version__, server
from negspace.backup import facts, files, moment, physical
from negspace.backup.files import Copied
from negspace.backup.folder import Folder, sha256, sync_folder, writing
from negspace.backup.manifest import Backup, Facts, Kind, Position, write_manifest
from negspace.backup.moment import Moment
from negspace.backup.source import Form, Source, look
from negspace.backup.tools import Progress
from negspace.database import Connection, rows
from negspace.errors import RefusedError
from negspace.settings import Settings
from negspace.storage import Storage

_KINDS: Final[dict[Kind, str]] = {
    "dump": "a dump",
    "full": "a full backup",
    "incremental": "an incremental backup",
}


@dataclass(frozen=True)
class _Taken:
    """The database's part of a backup."""

    moment: Moment
    position: Position | None
    facts: Facts


def create(
    settings: Settings,
    folder: Path,
    *,
    form: Form | None = None,
    incremental: bool = False,
    patience: float = moment.PATIENCE,
    progress: Progress | None = None,
) -> Backup:
    """Take a backup of the settings' database and of the image files.

    Args:
        settings: Which database, and where its files are.
        folder: Of backups; made where there is none.
        form: ``physical``, ``dump``, or None: physically where the server allows that.
        incremental: Only what changed since the newest physical backup of that server.
        patience: Seconds in which a moment without writers is looked for; see ``Backup.exact``.
        progress: Called with a line at a time.

    Raises:
        RefusedError: Another backup is being taken, or there is nothing to build on.
        BackupError: A program of PostgreSQL failed, or the folder can't be written.
        FileError: An image file can't be read.
        NegspaceError: The server can't be reached, or refused.
    """
    say = progress or _silent
    there = Folder(folder.absolute())
    source = look(settings, form, say)
    there.make()
    with there.locked():
        parent = _parent(there, source) if incremental else None
        see_same_server(there, source)
        started = datetime.now(UTC)
        with there.new(started) as work, moment.files_held(source.address):
            kind: Kind = "dump" if source.form == "dump" else "incremental" if parent else "full"
            say(f"taking {_KINDS[kind]} of {source.origin.database} …")
            if kind == "dump":
                taken = _dump(source, work, say)
            else:
                taken = _copy(source, work, patience, there.of(parent) if parent else None, say)
            copied = _copy_files(settings, there, work, say)
            base = parent.name if parent else None
            made = _described(there.name_for(started), kind, base, started, source, taken, copied)
            made = replace(made, checksums=_checksums(work))
            with writing(there.path):
                write_manifest(work, made)
            there.keep(work, made.name)
    return made


def copy_files(settings: Settings, folder: Path, *, progress: Progress | None = None) -> Copied:
    """Copy new image files alone: what an archived log has rows of since the newest backup.

    Args:
        settings: Where the files are.
        folder: Of backups, as ``create`` made it.
        progress: Called with a line at a time.

    Raises:
        NotFoundError: There is no such folder.
        FileError: A file can't be read or written.
    """
    there = Folder(folder.absolute())
    there.readable()  # or there is no such folder
    with there.locked():
        storage = Storage(server.storage_folder(settings))
        return files.copy(storage.files(), [storage], there.files, progress or _silent)


def _described(
    name: str,
    kind: Kind,
    parent: str | None,
    started: datetime,
    source: Source,
    taken: _Taken,
    copied: Copied,
) -> Backup:
    return Backup(
        name=name,
        kind=kind,
        parent=parent,
        why_dump=source.why_dump,
        started_at=started,
        taken_at=taken.moment.taken_at,
        origin=source.origin,
        position=taken.position,
        facts=taken.facts,
        exact=taken.moment.exact,
        files=len(copied.files),
        file_bytes=copied.file_bytes,
        damaged=copied.damaged,
        checksums={},
        program=__version__,
    )


def _silent(_: str) -> None:
    """No progress wanted."""


def _parent(there: Folder, source: Source) -> Backup:
    """The backup that an incremental one builds on.

    Raises:
        RefusedError: There is none, or the server makes no incremental backups.
    """
    if source.form == "dump":
        raise RefusedError(
            f"a dump can't be incremental, and a dump it would be: {source.why_dump}",
            hint="leave --incremental out",
        )
    if source.origin.major < 17:
        raise RefusedError(
            f"PostgreSQL {source.origin.major} takes no incremental backups; 17 and newer do",
            hint="leave --incremental out",
        )
    for backup in reversed(there.readable()):
        if backup.kind != "dump" and backup.origin.system == source.origin.system:
            return backup
    raise RefusedError(
        f"{there.path} has no physical backup of this server to build on",
        hint="leave --incremental out for the first one",
    )


def see_same_server(there: Folder, source: Source) -> None:
    """Refuse to mix servers: their logs and their moments in time would be mixed, too."""
    for backup in there.readable():
        if backup.origin.system != source.origin.system:
            raise RefusedError(
                f"{there.path} holds backups of another server, {backup.name} for one",
                hint="name another folder: each server has its own",
            )


def _copy(
    source: Source, work: Path, patience: float, parent: Path | None, say: Progress
) -> _Taken:
    physical.summarize_log(source)
    manifest = parent / "database/backup_manifest" if parent else None
    with physical.following_log(source, work / "wal") as log:
        physical.copy_server(source, work / "database", manifest, say)
        with moment.snapshot(source.address) as reader:
            now = moment.mark(source.address, reader, patience)
            log.end_after(now)
            found = _facts(reader, say)
    return _Taken(now, physical.position(work / "database", now), found)


def _dump(source: Source, work: Path, say: Progress) -> _Taken:
    with moment.snapshot(source.address) as reader:
        row = rows(
            reader,
            "select pg_export_snapshot() as name, clock_timestamp() as now,"
            " pg_current_wal_insert_lsn()::text as lsn",
        )[0]
        options = ["--format=custom", f"--snapshot={row['name']}", "--no-password"]
        options += ["--enable-row-security"]  # held by it, an owner is shown all rows all the same
        source.tools.run("pg_dump", *options, "--file", work / "database.dump")
        return _Taken(Moment(row["now"], row["lsn"], row["lsn"], True), None, _facts(reader, say))


def _facts(reader: Connection, say: Progress) -> Facts:
    say("counting and hashing the rows …")
    return facts.read(reader)


def _copy_files(settings: Settings, there: Folder, work: Path, say: Progress) -> Copied:
    storage = Storage(server.storage_folder(settings))
    copied = files.copy(storage.files(), [storage], there.files, say)
    with writing(there.path), (work / "files.txt").open("w", encoding="utf-8") as listed:
        listed.writelines(f"{path}\n" for path in copied.files)
    return copied


def _checksums(work: Path) -> dict[str, str]:
    """Of what the backup's folder holds, all brought to the disk."""
    found = [work / "files.txt", work / "database.dump", work / "database/backup_manifest"]
    found += sorted((work / "wal").glob("*"))
    for folder in (work / "wal", work):
        if folder.is_dir():
            sync_folder(folder)
    return {str(path.relative_to(work)): sha256(path) for path in found if path.is_file()}
