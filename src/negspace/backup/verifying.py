"""Proving a backup: it is restored into a server of its own, and looked at."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from negspace import audit, server
from negspace.backup import facts, files, physical, restoring
from negspace.backup.folder import Folder, writing
from negspace.backup.manifest import Backup, Facts, Verification, write_verification
from negspace.backup.moment import snapshot
from negspace.backup.tools import Progress, Tools, programs
from negspace.database import Database, PoolSize, rows, translated
from negspace.errors import BackupError, NegspaceError
from negspace.settings import Settings


@dataclass
class _Found:
    """What one verification has found so far."""

    problems: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    server: str | None = None
    facts: Facts | None = None
    files: int = 0


def verify(
    settings: Settings,
    folder: Path,
    *,
    name: str | None = None,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Restore a backup into a scratch server, compare all of it, and write down the result.

    Compared are the checksum of each file of the backup, the ledger, the catalog's fingerprint,
    the number and the content of each table's rows, the audit trail with its seals, and the
    bytes of each image file that a row names.

    Args:
        settings: For whom the scratch server runs as, under root.
        folder: Of backups.
        name: The backup; None: the newest.
        scratch: Where the scratch server lies for that time; in the folder of backups if None.
        progress: Called with a line at a time.

    Returns:
        What was found, which ``verification.json`` beside the manifest says as well.

    Raises:
        NotFoundError: There is no such backup.
        RefusedError: Another negspace is at work in the folder.
    """
    there, say, began = Folder(folder.absolute()), progress or _silent, time.monotonic()
    backup = there.find(name)
    with there.locked():
        found = _Found()
        try:
            _see_checksums(there, backup, say)
            with _scratch(settings, there, scratch) as target:
                found.server = restoring.bring_up(there, backup, target, None, say)
                _compare(there, backup, target, found, say)
        except NegspaceError as error:
            hint = f" ({error.hint})" if error.hint else ""
            found.problems.append(f"it can't be restored: {error.message}{hint}")
        result = Verification(
            name=backup.name,
            verified_at=datetime.now(UTC),
            server=found.server,
            tables=len(found.facts.tables) if found.facts else 0,
            rows=found.facts.rows if found.facts else 0,
            seals=found.facts.seals if found.facts else 0,
            files=found.files,
            seconds=round(time.monotonic() - began, 1),
            notes=tuple(found.notes),
            problems=tuple(found.problems),
        )
        with writing(there.path):
            write_verification(there.of(backup), result)
    return result


def _silent(_: str) -> None:
    """No progress wanted."""


def _see_checksums(there: Folder, backup: Backup, say: Progress) -> None:
    say(f"reading {backup.name} …")
    restoring.see_whole(there, backup)
    if backup.kind == "dump":
        return
    tools = programs(backup.origin.major)
    if tools is None:
        return  # what comes next says so
    for one in there.chain(backup):
        physical.verify_copy(Tools(tools), there.of(one) / "database")


@contextmanager
def _scratch(settings: Settings, there: Folder, scratch: Path | None) -> Generator[Settings]:
    """Settings of a home that is gone after the block, its server with it."""
    with writing(scratch or there.path):
        place = Path(tempfile.mkdtemp(prefix=".scratch-", dir=scratch or there.path))
        place.chmod(there.path.stat().st_mode & 0o711 | 0o700)
    target = restoring.at_home(settings, place / "home")
    try:
        yield target
    finally:
        server.stop(target, mode="immediate")
        shutil.rmtree(place, ignore_errors=True)


def _compare(there: Folder, backup: Backup, target: Settings, found: _Found, say: Progress) -> None:
    address = server.status(target).socket_address("superuser")
    say("counting and hashing the rows …")
    with snapshot(address) as reader:
        now = found.facts = facts.read(reader)
        query = facts.file_paths_query(reader)
        named = sorted(row["path"] for row in rows(reader, query)) if query else []
    if backup.exact:
        found.problems += facts.differences(backup.facts, now)
    else:
        found.notes.append("rows were not compared: somebody always wrote while it was taken")
    _compare_catalogs(backup, now, found)
    found.files, wrong = files.wrong(named, there.files, say)
    found.problems += wrong
    if now.seals or "public.audit_seals" in now.tables:
        say("verifying the audit trail …")
        with translated(), Database(address, pool=PoolSize(0, 1)) as database:
            told = audit.verify(database)
        found.problems += [f"audit trail: {problem.message}" for problem in told.problems]


def _compare_catalogs(backup: Backup, now: Facts, found: _Found) -> None:
    if found.server is None or int(found.server.partition(".")[0]) != backup.origin.major:
        found.notes.append(
            f"the catalog's fingerprint was not compared: PostgreSQL {found.server} prints it"
            f" otherwise than {backup.origin.version}"
        )
    elif backup.facts.fingerprint is None or now.fingerprint is None:
        found.notes.append("the catalog's fingerprint was not taken: a table was locked")
    elif backup.facts.fingerprint != now.fingerprint:
        found.problems.append("the catalog's fingerprint is another: the schema is not the same")


def see_proven(found: Verification) -> None:
    """Raise where a backup is not proven.

    Raises:
        BackupError: It isn't; the first problem says why.
    """
    if not found.fine:
        raise BackupError(
            f"the backup {found.name} is not proven: {found.problems[0]}",
            hint="nothing was changed; take another backup",
        )
