"""The image files: content-addressed, written whole or not at all.

A file lies under its SHA-256, ``ab/cd/<hash>.<suffix>``, once however often it comes. It is
copied and hashed in one pass into ``incoming/``, in the same file system, brought to the disk,
and then renamed: whoever looks sees a whole file or none.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

from negspace.errors import FileError, InvalidInputError, NotFoundError

_BLOCK: Final = 1 << 20
# Time stamps of files are no finer than this on some file systems: a file that changed more
# recently may change again without showing it.
_COARSE_NS: Final = 2_000_000_000
_STORED: Final = re.compile(r"([0-9a-f]{2})/([0-9a-f]{2})/(\1\2[0-9a-f]{60})\.[a-z0-9]{1,16}")
_SUFFIX: Final = re.compile(r"[a-z0-9]{1,16}")


@dataclass(frozen=True)
class Received:
    """A file that lies in ``incoming/``, whole and on the disk, not yet kept.

    Attributes:
        path: Where it lies; nobody else writes there.
        file_hash: SHA-256, 64 hexadecimal digits.
        file_size: In bytes.
    """

    path: Path
    file_hash: str
    file_size: int


class Storage:
    """The files below one folder.

    Raises:
        FileError: Wherever a file can't be read, or the folder not written; says which.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def incoming(self) -> Path:
        """Where files lie that are not yet whole; in the same file system."""
        return self.folder / "incoming"

    @contextmanager
    def receiving(
        self, source: Path, *, progress: Callable[[int], object] | None = None
    ) -> Generator[Received]:
        """Copy a file in. It is gone at the end of the block, unless ``keep`` was called.

        Args:
            source: A regular file, or a symbolic link to one.
            progress: Called with the number of bytes after each block.

        Raises:
            FileError: It is missing, no regular file, empty, not to be read, or changed while
                it was read; or the storage can't be written.
        """
        with opened(source) as file:
            before = os.fstat(file.fileno())
            fresh = time.time_ns() - before.st_mtime_ns < _COARSE_NS
            with self._new() as (path, copy):
                try:
                    received = self._copied(source, file, path, copy, progress)
                    _see_unchanged(source, file, before, received, again=fresh)
                    yield received
                finally:
                    path.unlink(missing_ok=True)

    def keep(self, received: Received, suffix: str) -> str:
        """Put a received file in its place; the same bytes again change nothing.

        A file that is there already is replaced by the fresh copy, which has the same hash:
        where the one on the disk was damaged, that mends it.

        Args:
            received: From ``receiving``.
            suffix: What follows the dot, such as ``png``.

        Returns:
            The path below the storage folder.

        Raises:
            InvalidInputError: The suffix isn't lower-case letters and digits.
        """
        relative = relative_path(received.file_hash, suffix)
        target = self.folder / relative
        with _writing(self.folder):
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            received.path.replace(target)
            for folder in (target.parent, target.parent.parent, self.folder):
                _bring_to_disk(folder)
        return relative

    def put(self, content: bytes, suffix: str) -> str:
        """Store bytes that are at hand, an overlay for instance; returns the path below."""
        with self._new() as (path, file):
            try:
                with _writing(self.folder):
                    _write(file, content)
                    os.fsync(file.fileno())
                digest = hashlib.sha256(content).hexdigest()
                return self.keep(Received(path, digest, len(content)), suffix)
            finally:
                path.unlink(missing_ok=True)

    def path(self, relative: str) -> Path:
        """Where a stored file lies.

        Args:
            relative: As ``keep`` returned it and the database has it; anything else is refused,
                so that no path leads out of the folder.

        Raises:
            InvalidInputError: It is no path of a stored file.
        """
        if not _STORED.fullmatch(relative):
            raise InvalidInputError(
                f"{relative!r} is no path in the image storage",
                hint="such paths are ab/cd/<hash>.<suffix>; nothing else is opened",
            )
        return self.folder / relative

    def existing(self, relative: str) -> Path:
        """Where a stored file lies, which is there.

        Raises:
            InvalidInputError: It is no path of a stored file.
            NotFoundError: It isn't there.
        """
        path = self.path(relative)
        if not path.exists():
            raise NotFoundError(
                f"the stored file {relative} is missing from {self.folder}",
                hint="restore it from a backup, or take the same image in again",
            )
        return path

    @contextmanager
    def open(self, relative: str) -> Generator[FileIO]:
        """Open a stored file for reading.

        Raises:
            NotFoundError: It isn't there.
        """
        with opened(self.existing(relative)) as file:
            yield file

    def verify(self, relative: str) -> None:
        """See that a stored file is there and its bytes are those of its name.

        Raises:
            NotFoundError: It isn't there.
            FileError: Its bytes have changed.
        """
        with self.open(relative) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != Path(relative).stem:
            raise FileError(
                f"the stored file {relative} is damaged: its SHA-256 is {digest}",
                hint="restore it from a backup, or take the same image in again",
            )

    def remove(self, relative: str) -> bool:
        """Remove a stored file, and say whether it was there.

        The caller sees to it that nobody needs it: ``images.delete`` does.
        """
        path = self.path(relative)
        with _writing(self.folder):
            try:
                path.unlink()
            except FileNotFoundError:
                return False
            _bring_to_disk(path.parent)
        return True

    def files(self) -> Iterator[str]:
        """Every stored file, as its path below the folder, sorted."""
        for path in sorted(self.folder.glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*")):
            relative = path.relative_to(self.folder).as_posix()
            if _STORED.fullmatch(relative):
                yield relative

    def _copied(
        self,
        source: Path,
        file: FileIO,
        path: Path,
        copy: FileIO,
        progress: Callable[[int], object] | None,
    ) -> Received:
        digest, size = hashlib.sha256(), 0
        most = os.fstat(file.fileno()).st_size
        while block := _read(source, file):
            digest.update(block)
            size += len(block)
            if size > most:  # it grows: reading on might never end
                raise _changed(source)
            with _writing(self.folder):
                _write(copy, block)
            if progress is not None:
                progress(len(block))
        with _writing(self.folder):
            os.fsync(copy.fileno())
        if size == 0:
            raise FileError(f"{source} is empty", hint="was it copied or downloaded to its end?")
        return Received(path, digest.hexdigest(), size)

    @contextmanager
    def _new(self) -> Generator[tuple[Path, FileIO]]:
        """A new file in ``incoming/``, open for writing; who uses it removes or renames it."""
        path = self.incoming / secrets.token_hex(16)
        with _writing(self.folder):
            self.incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with FileIO(descriptor, "w") as file:
            yield path, file


def relative_path(file_hash: str, suffix: str) -> str:
    """Where a file with that hash and suffix lies, below the storage folder.

    Raises:
        InvalidInputError: The suffix isn't lower-case letters and digits.
    """
    if not _SUFFIX.fullmatch(suffix):
        raise InvalidInputError(f"{suffix!r} is no suffix of a file", hint="such as png")
    return f"{file_hash[:2]}/{file_hash[2:4]}/{file_hash}.{suffix}"


@contextmanager
def opened(path: Path) -> Generator[FileIO]:
    """Open a regular file for reading.

    Raises:
        FileError: It is missing, a folder or no regular file, or may not be read.
    """
    try:
        # a pipe without a writer would block for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError:  # a NUL in it
        raise FileError(f"{str(path)!r} is no name of a file", hint="it holds a NUL") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise FileError(f"{path} is a folder", hint="name its files, or take it --recursive")
        raise FileError(f"{path} is no regular file", hint="pipes and devices are not read")
    with FileIO(descriptor, "r") as file:
        yield file


def _read(path: Path, file: FileIO) -> bytes:
    try:
        return file.read(_BLOCK)
    except OSError as error:
        raise _unreadable(path, error) from error


def _write(file: FileIO, content: bytes) -> None:
    """Write all of it: unbuffered, so that nothing is left to fail when the file is closed."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _unreadable(path: Path, error: OSError) -> FileError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return FileError(f"{path} is not there", hint="is the path right?")
    if isinstance(error, PermissionError):
        return FileError(f"{path} may not be read", hint="give this user the permission to read it")
    return FileError(f"{path} can't be read: {error.strerror or error}")


def _see_unchanged(
    path: Path, file: FileIO, before: os.stat_result, received: Received, *, again: bool
) -> None:
    """Raise where the file changed while it was read.

    Size and time of change tell, except where it changed so recently that its time stamp may
    be too coarse to: then it is read ``again``, from memory for the most part.
    """
    after = os.fstat(file.fileno())
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if same and again:
        file.seek(0)
        digest = hashlib.sha256()
        while block := _read(path, file):
            digest.update(block)
        same = digest.hexdigest() == received.file_hash
    if not same or received.file_size != after.st_size:
        raise _changed(path)


def _changed(path: Path) -> FileError:
    return FileError(
        f"{path} changed while it was read", hint="wait until it is whole, then try again"
    )


@contextmanager
def _writing(folder: Path) -> Generator[None]:
    """Raise ``FileError`` for what the file system refuses inside the block."""
    try:
        yield
    except OSError as error:
        raise FileError(
            f"can't write to the image storage {folder}: {error.strerror or error}",
            hint="make room or give this user the permission, or let NEGSPACE_STORAGE name"
            " another folder",
        ) from error


def _bring_to_disk(folder: Path) -> None:
    """Bring a folder's entries to the disk: a renamed file is safe only then."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
