"""A month of the audit trail as a file: whole, with its seals, to be checked without a database.

Lines of JSON, compressed: what it is, then a line for each seal with its rows, each row as the
values under its hash.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, LiteralString

from negspace.audit import leaves, offline, seals
from negspace.audit.leaves import Span
from negspace.audit.seals import Seal
from negspace.database import Connection, Database, only, rows
from negspace.errors import AlreadyExistsError, FileError, InvalidInputError, RefusedError

FORM: Final = "negspace audit export 1"

# Each seal of the month with the place where the one before it, of the same rows, ends.
_SEALS: Final[LiteralString] = (
    "select " + seals.COLUMNS + ", b.xid as before_xid, b.id as before_id"
    " from audit_seals s left join lateral (select p.last_xid::text::bigint as xid, p.last_id as id"
    " from audit_seals p where p.relation = s.relation and p.lineage = s.lineage"
    " and p.number < s.number order by p.number desc limit 1) b on true"
    " where s.month = %s order by s.number"
)


@dataclass(frozen=True)
class Exported:
    """A file with a month of the audit trail.

    Attributes:
        file: The file.
        month: The month, such as ``2026-01``.
        sha256: The file's SHA-256.
        seals: The hashes of its seals by their numbers.
        rows: How many rows it holds, events and details.
    """

    file: Path
    month: str
    sha256: str
    seals: dict[int, str]
    rows: int


def beginning(month: str) -> datetime:
    """The time at which a month such as ``2026-01`` begins.

    Raises:
        InvalidInputError: It is no month.
    """
    try:
        return datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise InvalidInputError(f"{month!r} is no month", hint="such as 2026-01") from None


def export_month(database: Database, month: str, folder: Path) -> Exported:
    """Write a month of the audit trail into a file of a folder, and check what was written.

    Args:
        database: Where.
        month: Such as ``2026-01``; it is over, and all of it is sealed.
        folder: Where to.

    Raises:
        AlreadyExistsError: The file is there.
        FileError: It can't be written.
        RefusedError: Rows of the month are not sealed, or are not what was sealed.
    """
    target = folder / f"audit-{month}.jsonl.gz"
    if target.exists():
        raise AlreadyExistsError(
            f"{target} is there already", hint="negspace audit check-export tells what it holds"
        )
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with database.transaction(read_only=True) as connection:
            _write(connection, month, fresh)
        made = check_export(fresh)
        fresh.rename(target)
    except OSError as error:
        raise FileError(
            f"can't write {target}: {error.strerror or error}",
            hint="name a folder that is writable, with room",
        ) from error
    finally:
        fresh.unlink(missing_ok=True)
    return Exported(target, made.month, made.sha256, made.seals, made.rows)


def check_export(file: Path) -> Exported:
    """Read an export and hash all of it anew.

    Raises:
        FileError: It can't be read.
        InvalidInputError: It is no export, or is not what was sealed.
    """
    found: dict[int, str] = {}
    count, month = 0, ""
    try:
        for number, line in enumerate(_lines(file)):
            if number == 0:
                if line["form"] != FORM:
                    raise ValueError("it is no export of form 1")  # noqa: TRY301
                month = line["month"]
                continue
            seal = Seal(**line["seal"])
            hashes = [offline.leaf(seal.relation, values) for values in line["rows"]]
            whole = len(hashes) == seal.leaf_count and seals.root(hashes).hex() == seal.merkle_root
            if not whole or seal.computed_hash() != seal.seal_hash:
                raise ValueError(f"seal {seal.number} holds other rows")  # noqa: TRY301
            found[seal.number] = seal.seal_hash
            count += len(hashes)
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except gzip.BadGzipFile as error:
        raise InvalidInputError(f"{file}: not what was exported ({error})") from None
    except OSError as error:
        raise FileError(
            f"can't read {file}: {error.strerror or error}",
            hint="negspace audit export and retain write such files",
        ) from error
    except (ValueError, KeyError, TypeError, IndexError, EOFError, zlib.error) as error:
        raise InvalidInputError(
            f"{file}: not what was exported ({error})", hint="take another copy of the file"
        ) from None
    if not month:
        raise InvalidInputError(f"{file}: it is empty", hint="take another copy of the file")
    return Exported(file, month, digest, found, count)


def _lines(file: Path) -> Iterator[Any]:
    with gzip.open(file, "rt", encoding="utf-8") as opened:
        for line in opened:
            yield json.loads(line)


def _write(connection: Connection, month: str, target: Path) -> None:
    begins = beginning(month)
    _see_sealed(connection, month, begins)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as raw:
        with gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as file:
            file.write(json.dumps({"form": FORM, "month": month}).encode() + b"\n")
            for row in rows(connection, _SEALS, [begins]):
                after = (row.pop("before_xid"), row.pop("before_id"))
                seal = Seal(**row)
                start = leaves.FIRST if after[1] is None else after
                below = seals.next_lineage(connection, seal)
                span = Span(start, seal.end, seal.lineage, below)
                values = [leaf.fields for leaf in leaves.read(connection, seal.relation, span)]
                line = {"seal": seal.as_dict(), "rows": values}
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        raw.flush()
        os.fsync(raw.fileno())


def _see_sealed(connection: Connection, month: str, begins: datetime) -> None:
    query: LiteralString = (
        'select (select count(*) from security_audit where "timestamp" >= %(month)s'
        " and \"timestamp\" < %(month)s + interval '1 month')"
        " + (select count(*) from audit_log_details where created_at >= %(month)s"
        " and created_at < %(month)s + interval '1 month')"
        " - (select coalesce(sum(leaf_count), 0) from audit_seals where month = %(month)s) as left"
    )
    row = only(connection, query, {"month": begins})
    if row is None or row["left"] != 0:
        raise RefusedError(
            f"rows of {month} are not sealed yet, or sealed ones are gone",
            hint="negspace audit seal; then negspace audit verify",
        )
