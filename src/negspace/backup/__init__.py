"""Backups that are proven: taken, restored on trial, restored to a moment, thinned out.

manifest     what a backup says of itself
folder       where backups lie
source       the server, and how it can be backed up
moment       the one moment whose state a backup holds
physical     the server's files and its log
facts        what a database holds: counted and hashed
files        image files
taking, archiving, following, verifying, restoring, pruning: what one does with backups
upgrading    the embedded server on a newer PostgreSQL
"""

from __future__ import annotations

from pathlib import Path

from negspace.backup.archiving import (
    Archiving,
    start_archiving,
    stop_archiving,
    where_archived,
)
from negspace.backup.files import Copied
from negspace.backup.folder import Folder
from negspace.backup.following import Following, follow_log, unfollow_log
from negspace.backup.manifest import Backup, Facts, Table, Verification, read_verification
from negspace.backup.pruning import Pruned, prune
from negspace.backup.restoring import Restored, restore
from negspace.backup.taking import copy_files, create
from negspace.backup.upgrading import Upgraded, upgrade
from negspace.backup.verifying import verify

__all__ = [
    "Archiving",
    "Backup",
    "Copied",
    "Facts",
    "Following",
    "Pruned",
    "Restored",
    "Table",
    "Upgraded",
    "Verification",
    "backups",
    "copy_files",
    "create",
    "follow_log",
    "last_verification",
    "prune",
    "restore",
    "start_archiving",
    "stop_archiving",
    "unfollow_log",
    "upgrade",
    "verify",
    "where_archived",
]


def backups(folder: Path) -> list[Backup]:
    """The backups in a folder, oldest first.

    Raises:
        NotFoundError: There is no such folder.
        BackupError: A manifest is damaged.
    """
    return Folder(folder.absolute()).backups()


def last_verification(folder: Path, backup: Backup) -> Verification | None:
    """What was found when that backup was last verified; None where it never was."""
    return read_verification(Folder(folder.absolute()).of(backup))
