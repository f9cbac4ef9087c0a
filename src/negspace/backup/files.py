"""Image files: into the folder of backups, each once, and out of it again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from negspace.backup.tools import Progress
from negspace.errors import FileError, NotFoundError
from negspace.storage import Storage


@dataclass(frozen=True)
class Copied:
    """What came of copying stored files.

    Attributes:
        files: Their paths below the storage folder.
        file_bytes: Their size together.
        copied: How many were not there yet.
        missing: Those that were nowhere.
        damaged: Those whose bytes are not what their name says.
    """

    files: tuple[str, ...]
    file_bytes: int
    copied: int
    missing: tuple[str, ...]
    damaged: tuple[str, ...]


def copy(
    paths: Iterable[str], sources: Iterable[Storage], target: Storage, progress: Progress
) -> Copied:
    """Copy stored files that the target lacks; each is hashed on its way.

    Args:
        paths: Below the storage folders.
        sources: Where to look for each, in this order.
        target: Where they go.
        progress: Called with how many were looked at, once a second.
    """
    there, missing, damaged = list[str](), list[str](), list[str]()
    size = copied = 0
    looked_in, told = tuple(sources), time.monotonic()
    for number, path in enumerate(paths, start=1):
        if time.monotonic() - told >= 1:
            told = time.monotonic()
            progress(f"image files: {number:,}")
        having = [source for source in looked_in if source.path(path).is_file()]
        fresh = _has(path, having, target)
        if not fresh and any(_taken(path, source, target) for source in having):
            fresh, copied = True, copied + 1
        if fresh:
            there.append(path)
            size += target.path(path).stat().st_size
        elif having:
            damaged.append(path)
        else:
            missing.append(path)
    return Copied(tuple(there), size, copied, tuple(missing), tuple(damaged))


def wrong(paths: Iterable[str], storage: Storage, progress: Progress) -> tuple[int, list[str]]:
    """Read files and compare their bytes with their names.

    Returns:
        How many were read, and what is wrong, a sentence each.
    """
    said: list[str] = []
    number, told = 0, time.monotonic()
    for path in paths:
        number += 1
        if time.monotonic() - told >= 1:
            told = time.monotonic()
            progress(f"image files: {number:,}")
        try:
            storage.verify(path)
        except NotFoundError:
            said.append(f"the image file {path} is missing")
        except FileError:
            said.append(f"the image file {path} is damaged")
    return number, said


def _has(path: str, having: Sequence[Storage], target: Storage) -> bool:
    """Whether the target has the file, since the first that has it does.

    One that went and came again is copied again: by its age it is known when it was needed.
    """
    try:
        own = target.path(path).stat()
    except FileNotFoundError:
        return False
    if not having:
        return True
    its = having[0].path(path).stat()
    return own.st_size == its.st_size and own.st_mtime >= its.st_mtime


def _taken(path: str, source: Storage, target: Storage) -> bool:
    """Copy one; False where its bytes are not what its name says."""
    with target.receiving(source.path(path)) as received:
        if received.file_hash != Path(path).stem:
            return False
        target.keep(received, Path(path).suffix[1:])
        return True
