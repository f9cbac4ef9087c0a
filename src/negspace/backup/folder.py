"""The folder that backups lie in.

DIR/
  20261122T230501Z/     one backup: manifest.json, verification.json, and
    database/           the server's files, or
    database.dump       the database's content
    wal/                the write-ahead log from the backup's begin to its end
    files.txt           the image files that belong to it
  files/                image files of all backups, each once, under their hashes
  archive/              the write-ahead log, where it is archived
  lock                  held by who changes something here
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from negspace.backup.manifest import Backup, read_manifest
from negspace.errors import BackupError, NotFoundError, RefusedError
from negspace.storage import Storage

_NAME: Final = "%Y%m%dT%H%M%SZ"
_UNFINISHED: Final = ".taking-"
_BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class Folder:
    """A folder of backups."""

    path: Path

    @property
    def files(self) -> Storage:
        """The image files of all backups."""
        return Storage(self.path / "files")

    @property
    def archive(self) -> Path:
        """The archived write-ahead log."""
        return self.path / "archive"

    def of(self, backup: Backup) -> Path:
        """The folder of one backup."""
        return self.path / backup.name

    def backups(self) -> list[Backup]:
        """Every finished backup, oldest first.

        Raises:
            BackupError: A manifest is damaged.
            NotFoundError: There is no such folder.
        """
        return [read_manifest(folder) for folder in self._folders()]

    def readable(self) -> list[Backup]:
        """Those whose manifest is whole: a damaged one is in nobody's way."""
        found: list[Backup] = []
        for folder in self._folders():
            with suppress(BackupError):
                found.append(read_manifest(folder))
        return found

    def find(self, name: str | None) -> Backup:
        """The backup of that name, or the newest.

        Raises:
            NotFoundError: There is none.
            BackupError: Its manifest is damaged.
        """
        for folder in reversed(self._folders()):
            if name is None or folder.name == name:
                return read_manifest(folder)
        what = f"no backup {name}" if name else "no backup"
        raise NotFoundError(f"{what} in {self.path}", hint=f"negspace backup list {self.path}")

    def _folders(self) -> list[Path]:
        if not self.path.is_dir():
            raise NotFoundError(
                f"there is no folder {self.path}",
                hint="see how it is spelt; negspace backup create makes one",
            )
        return sorted(path.parent for path in self.path.glob("[0-9]*/manifest.json"))

    def chain(self, backup: Backup) -> list[Backup]:
        """What restores a backup: the full one first, then each incremental one, itself last."""
        found = [backup]
        while found[0].parent is not None:
            found.insert(0, self.find(found[0].parent))
        return found

    def file_list(self, backup: Backup) -> Iterator[str]:
        """The image files of a backup, as paths below ``files``."""
        with (self.of(backup) / "files.txt").open(encoding="utf-8") as lines:
            yield from map(str.rstrip, lines)

    def make(self) -> None:
        """Make the folder, closed to others.

        Root's lets others pass through, for the account that archives into it.
        """
        with writing(self.path):
            if not self.path.is_dir():
                self.path.mkdir(parents=True)
                self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
            if not (self.path / "lock").exists():
                self._see_empty()
                (self.path / "lock").touch(0o600)
            self.files.folder.mkdir(mode=0o700, exist_ok=True)

    def _see_empty(self) -> None:
        strange = [path.name for path in sorted(self.path.iterdir()) if path.name[0] != "."]
        if strange:
            raise RefusedError(
                f"{self.path} is no folder of backups: it holds {strange[0]}",
                hint="name a new or an empty folder",
            )

    @contextmanager
    def locked(self) -> Generator[None]:
        """Be the only one who changes something here.

        Raises:
            RefusedError: Somebody else does.
        """
        with writing(self.path):
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RefusedError(
                    f"another negspace is at work in {self.path}", hint="try again when it is done"
                ) from None
            for left in (*self.path.glob(f"{_UNFINISHED}*"), *self.path.glob(".scratch-*")):
                shutil.rmtree(left)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def new(self, now: datetime) -> Generator[Path]:
        """A folder for a backup that is being taken; gone at the end unless ``keep`` was called."""
        path = self.path / f"{_UNFINISHED}{now.strftime(_NAME)}"
        with writing(self.path):
            path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def name_for(self, now: datetime) -> str:
        """A name that no backup here has."""
        name = now.strftime(_NAME)
        number = 1
        while (self.path / name).exists():
            number += 1
            name = f"{now.strftime(_NAME)}-{number}"
        return name

    def keep(self, taken: Path, name: str) -> None:
        """Give a backup that is whole and on the disk its place."""
        with writing(self.path):
            sync_folder(taken)
            taken.rename(self.path / name)
            sync_folder(self.path)


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def writing(folder: Path) -> Generator[None]:
    """Raise ``BackupError`` for what the file system refuses inside the block."""
    try:
        yield
    except OSError as error:
        raise BackupError(
            f"can't write {error.filename or folder}: {error.strerror or error}",
            hint="make room or give this user the permission, or name another folder",
        ) from error
