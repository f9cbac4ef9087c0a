"""Thinning out: which backups may go, and what goes with them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from negspace.backup.folder import Folder
from negspace.backup.manifest import Backup, read_verification
from negspace.errors import InvalidInputError


@dataclass(frozen=True)
class Pruned:
    """What went, or would go.

    Attributes:
        removed: The backups.
        kept: The others.
        files: How many image files that no other backup has.
        log: How many files of the archived log that recovery needs no more.
    """

    removed: tuple[str, ...]
    kept: tuple[str, ...]
    files: int
    log: int


def prune(
    folder: Path,
    *,
    keep: int | None = None,
    older_than: timedelta | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Remove old backups, the image files that only they have, and the log before the others.

    The newest backup that was proven stays always, and so does what a staying one builds on.
    Where the log is archived, every moment since the oldest staying physical backup can still be
    restored, and every moment of ``older_than``.

    Args:
        folder: Of backups.
        keep: So many of the newest stay.
        older_than: Younger ones stay. With ``keep``: only what neither lets stay goes.
        dry_run: Remove nothing.

    Raises:
        InvalidInputError: Neither was said.
        NotFoundError: There is no such folder.
        RefusedError: Another negspace is at work in it.
    """
    if (keep is None and older_than is None) or (keep is not None and keep < 1):
        raise InvalidInputError(
            "which backups may go was not said", hint="--keep 7, or --older-than 30d, or both"
        )
    there = Folder(folder.absolute())
    there.backups()
    with there.locked():
        backups = there.backups()
        stay = _staying(there, backups, keep, older_than)
        gone = [backup for backup in backups if backup.name not in stay]
        left = [backup for backup in backups if backup.name in stay]
        unused = _unused_files(there, left) if gone else []
        log = _old_log(there, left) if gone else []
        if not dry_run:
            for backup in reversed(gone):  # what others build on goes last
                shutil.rmtree(there.of(backup))
            for path in unused:
                there.files.remove(path)
            for path in log:
                path.unlink()
    return Pruned(
        removed=tuple(backup.name for backup in gone),
        kept=tuple(backup.name for backup in left),
        files=len(unused),
        log=len(log),
    )


def _staying(
    there: Folder, backups: list[Backup], keep: int | None, older_than: timedelta | None
) -> set[str]:
    stay = list[Backup]()
    if keep is not None:
        stay += backups[-keep:]
    if older_than is not None:
        since = datetime.now(UTC) - older_than
        stay += [one for one in backups if one.taken_at >= since]
        if there.archive.is_dir():  # each moment since then is restored from one before it
            stay += [one for one in backups if one.taken_at < since and one.kind != "dump"][-1:]
    proven = [one for one in backups if _proven(there, one)]
    stay += proven[-1:] or backups[-1:]
    return {part.name for one in stay for part in there.chain(one)}


def _proven(there: Folder, backup: Backup) -> bool:
    found = read_verification(there.of(backup))
    return found is not None and found.fine


def _unused_files(there: Folder, left: Iterable[Backup]) -> list[str]:
    """Files that no backup has, and that came before the oldest of them began.

    What came later, rows in the archived log may name.
    """
    listed: set[str] = set()
    oldest = datetime.now(UTC)
    for backup in left:
        listed.update(there.file_list(backup))
        oldest = min(oldest, backup.started_at)
    return [
        path
        for path in there.files.files()
        if path not in listed and there.files.path(path).stat().st_mtime < oldest.timestamp()
    ]


def _old_log(there: Folder, left: Iterable[Backup]) -> list[Path]:
    """The archived log before the first file that a backup needs; all of it without any."""
    needed = [one.position.first_wal[8:24] for one in left if one.position is not None]
    if not there.archive.is_dir() or not needed:
        return []
    return [
        path
        for path in sorted(there.archive.iterdir())
        if not path.name.endswith(".history") and path.name[8:24] < min(needed)
    ]
