"""What a backup says of itself, and what was found when it was tried."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from negspace.errors import BackupError

Kind: TypeAlias = Literal["full", "incremental", "dump"]

FORM: Final = "negspace backup 1"
_MANIFEST: Final = "manifest.json"
_VERIFICATION: Final = "verification.json"


@dataclass(frozen=True)
class Table:
    """The rows of one table.

    Attributes:
        rows: How many.
        digest: The sum of the 64-bit hashes of the rows' texts: the same for the same rows.
    """

    rows: int
    digest: str


@dataclass(frozen=True)
class Facts:
    """What a database holds at one moment.

    Attributes:
        migrations: Those that its ledger has as applied, in order.
        fingerprint: Of its catalog; None where a lock was in the way.
        tables: Each logged table with its partitions, by name.
        seals: How many seals the audit trail has.
        last_seal: The hash of the newest, to which all others lead; None without one.
    """

    migrations: tuple[str, ...]
    fingerprint: str | None
    tables: Mapping[str, Table]
    seals: int
    last_seal: str | None

    @property
    def rows(self) -> int:
        """The rows of all tables."""
        return sum(table.rows for table in self.tables.values())


@dataclass(frozen=True)
class Origin:
    """Where a backup comes from.

    Attributes:
        version: Of its PostgreSQL, such as ``18.6``.
        system: The server's system identifier: the same for a server and its copies.
        database: The database's name.
        superuser: The server's first role.
        embedded: Whether it was negspace's own server.
        roles: All roles of the server, which rights in the database may name.
    """

    version: str
    system: str
    database: str
    superuser: str
    embedded: bool
    roles: tuple[str, ...]

    @property
    def major(self) -> int:
        """The major version, which a physical backup needs again."""
        return int(self.version.partition(".")[0])


@dataclass(frozen=True)
class Position:
    """Where in the server's write-ahead log a physical backup ends; it begins at ``first_wal``.

    Attributes:
        lsn: Every record before it belongs to the backup, none after it.
        timeline: Of the log.
        first_wal: The file of the log with which recovery begins.
    """

    lsn: str
    timeline: int
    first_wal: str


@dataclass(frozen=True)
class Backup:
    """One backup.

    Attributes:
        name: Its folder.
        kind: ``full`` or ``incremental``: the server's files; ``dump``: the database's content.
        parent: The backup that an incremental one builds on.
        why_dump: Why it is no physical one, or None.
        started_at: When it began.
        taken_at: The moment whose state it holds.
        origin: The server.
        position: Its end in the log; None for a dump.
        facts: What the database held at that moment, and a restore must hold again.
        exact: Whether ``facts`` are of exactly that moment: no writer was in between.
        files: How many image files belong to it.
        file_bytes: Their size.
        damaged: Stored files whose bytes were not what their name says; they are not in it.
        checksums: SHA-256 by file of the backup's folder; ``database/backup_manifest`` holds
            those of the server's files.
        program: The negspace that took it.
    """

    name: str
    kind: Kind
    parent: str | None
    why_dump: str | None
    started_at: datetime
    taken_at: datetime
    origin: Origin
    position: Position | None
    facts: Facts
    exact: bool
    files: int
    file_bytes: int
    damaged: tuple[str, ...]
    checksums: Mapping[str, str]
    program: str

    @property
    def log(self) -> Position:
        """Where a physical backup begins and ends in the log.

        Raises:
            BackupError: It is a dump.
        """
        if self.position is None:
            raise BackupError(f"{self.name} is a dump: it has no part of the log")
        return self.position


@dataclass(frozen=True)
class Verification:
    """What came of restoring a backup.

    Attributes:
        name: The backup.
        verified_at: When.
        server: The version of the PostgreSQL that it was restored into.
        tables: How many tables were compared.
        rows: How many rows they hold.
        seals: How many seals of the audit trail were verified.
        files: How many image files were read.
        seconds: How long it took.
        notes: What could not be compared, and why.
        problems: What is wrong; none: the backup is proven.
    """

    name: str
    verified_at: datetime
    server: str | None
    tables: int
    rows: int
    seals: int
    files: int
    seconds: float
    notes: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def fine(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def write_manifest(folder: Path, backup: Backup) -> None:
    """Write what the backup says of itself, with a checksum of its own."""
    content = _plain({"form": FORM, **asdict(backup)})
    _write(folder / _MANIFEST, content | {"checksum": _checksum(content)})


def read_manifest(folder: Path) -> Backup:
    """Read it again.

    Raises:
        BackupError: It is missing, damaged, or of another form.
    """
    path = folder / _MANIFEST
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return _backup(_checked(content))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupError(
            f"{path} can't be read: {error}",
            hint="the backup is not whole: remove its folder, and take another one",
        ) from error


def write_verification(folder: Path, found: Verification) -> None:
    """Write what was found beside the manifest."""
    _write(folder / _VERIFICATION, _plain(asdict(found)))


def read_verification(folder: Path) -> Verification | None:
    """What was found when the backup was last tried; None where it never was."""
    try:
        found = json.loads((folder / _VERIFICATION).read_text(encoding="utf-8"))
        return Verification(
            **found
            | {
                "verified_at": datetime.fromisoformat(found["verified_at"]),
                "notes": tuple(found["notes"]),
                "problems": tuple(found["problems"]),
            }
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says, without what it says of its own form."""
    stated = content.pop("checksum")
    if stated != _checksum(content):
        raise ValueError("its checksum is another")
    form = content.pop("form")
    if form != FORM:
        raise ValueError(f"its form is {form!r}, not {FORM!r}")
    return content


def _backup(content: dict[str, Any]) -> Backup:
    origin, facts, position = content["origin"], content["facts"], content["position"]
    tables = {name: Table(**table) for name, table in facts["tables"].items()}
    read: dict[str, Any] = {
        "started_at": datetime.fromisoformat(content["started_at"]),
        "taken_at": datetime.fromisoformat(content["taken_at"]),
        "origin": Origin(**origin | {"roles": tuple(origin["roles"])}),
        "position": Position(**position) if position else None,
        "damaged": tuple(content["damaged"]),
        "facts": Facts(
            **facts | {"migrations": tuple(facts["migrations"]), "tables": tables},
        ),
    }
    return Backup(**content | read)


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(content, default=lambda value: value.isoformat()))


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write(path: Path, content: Mapping[str, Any]) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
