"""Whether the stored files and the rows that name them agree, and removing what nobody names.

A crash between storing bytes and writing their row leaves bytes that no row names. They do no
harm: they take room until they are removed here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Final, LiteralString

from negspace import images
from negspace.database import Database, rows
from negspace.errors import FileError, NotFoundError
from negspace.storage import Storage

# Overlays are stored before their row is written, which takes a moment.
PATIENCE: Final = timedelta(hours=1)
_CHUNK: Final = 1000

_UNNAMED: Final[LiteralString] = (
    "select p.path from unnest(%s::text[], %s::text[]) with ordinality as p (path, hash, place)"
    " where sees_all_rows()"
    " and not exists (select from images i where i.file_hash = p.hash and i.file_path = p.path)"
    " and not exists (select from analysis_results r where r.visualization_path = p.path)"
    " order by p.place"
)


@dataclass(frozen=True)
class Report:
    """What ``check`` found; paths below the storage folder.

    Attributes:
        files: How many files are stored.
        missing: Files that a row names and that aren't there.
        damaged: Files whose bytes have changed; looked for only where asked.
        unnamed: Files that no row names.
        unfinished: Copies that never became whole.
    """

    files: int
    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    unnamed: tuple[str, ...]
    unfinished: tuple[str, ...]

    @property
    def fine(self) -> bool:
        """Whether every row has its bytes, unchanged as far as was looked."""
        return not self.missing and not self.damaged


def check(
    database: Database,
    storage: Storage,
    *,
    read: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Compare the stored files with the rows.

    Args:
        database: Where the rows are.
        storage: Where the files are.
        read: Read every file and compare its bytes with its name, the hash.
        progress: Called with the number of files read so far.
    """
    stored = tuple(storage.files())
    damaged = _damaged(storage, stored, progress) if read else ()
    return Report(
        files=len(stored),
        missing=tuple(_missing(database, storage)),
        damaged=tuple(damaged),
        unnamed=tuple(_unnamed(database, stored)),
        unfinished=tuple(path.name for path in _unfinished(storage, PATIENCE)),
    )


def tidy(database: Database, storage: Storage, *, older_than: timedelta = PATIENCE) -> list[str]:
    """Remove files that no row names, and copies that never became whole.

    Args:
        database: Where the rows are.
        storage: Where the files are.
        older_than: Leave younger ones: their row may be on its way.

    Returns:
        The names of those that went.
    """
    gone: list[str] = []
    for path in _unnamed(database, storage.files()):
        old = _age(storage.path(path)) >= older_than.total_seconds()
        if old and images.remove_unused(database, storage, path):
            gone.append(path)
    for copy in _unfinished(storage, older_than):
        copy.unlink(missing_ok=True)
        gone.append(copy.name)
    return gone


def _damaged(
    storage: Storage, stored: Sequence[str], progress: Callable[[int], None] | None
) -> Iterator[str]:
    for number, path in enumerate(stored, 1):
        if not _whole(storage, path):
            yield path
        if progress is not None:
            progress(number)


def _unnamed(database: Database, stored: Iterator[str] | tuple[str, ...]) -> Iterator[str]:
    left = iter(stored)
    while chunk := list(islice(left, _CHUNK)):
        with database.transaction(read_only=True) as connection:
            found = rows(connection, _UNNAMED, [chunk, [Path(path).stem for path in chunk]])
        yield from (row["path"] for row in found)


def _missing(database: Database, storage: Storage) -> Iterator[str]:
    query: LiteralString = (
        "select id, file_path from images where id > %s and not is_duplicate order by id limit %s"
    )
    last = 0
    while True:
        with database.transaction(read_only=True) as connection:
            chunk = rows(connection, query, [last, _CHUNK])
        if not chunk:
            return
        last = chunk[-1]["id"]
        yield from (
            row["file_path"] for row in chunk if not storage.path(row["file_path"]).is_file()
        )


def _whole(storage: Storage, path: str) -> bool:
    try:
        storage.verify(path)
    except NotFoundError:  # removed meanwhile
        return True
    except FileError:
        return False
    return True


def _unfinished(storage: Storage, older_than: timedelta) -> Iterator[Path]:
    for path in sorted(storage.incoming.glob("*")):
        if _age(path) >= older_than.total_seconds():
            yield path


def _age(path: Path) -> float:
    """Seconds since it changed; none for a file that has just gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
