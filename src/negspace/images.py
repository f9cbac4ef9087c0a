"""Images: their rows, and what happens to the stored bytes with them.

Taking files in is ``intake.py``. The bytes of one content are stored once however many rows
name them; a row never names bytes that aren't there: they are stored before it is written,
and removed after the last row that names them is gone.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, LiteralString, TypeAlias, get_args

from negspace import attempts
from negspace.database import Connection, Database, Jsonb, Row, only, rows
from negspace.errors import (
    AlreadyExistsError,
    FileError,
    InvalidInputError,
    NotFoundError,
)
from negspace.storage import Storage

Status: TypeAlias = Literal["pending", "processing", "completed", "failed", "archived"]
STATUSES: Final[tuple[str, ...]] = get_args(Status)


@dataclass(frozen=True)
class Image:
    """A row of ``images``; its columns say what each is."""

    id: int
    user_id: int
    original_filename: str
    mime_type: str
    image_dimensions: Mapping[str, int] | None
    file_size: int
    file_hash: str
    file_name: str
    file_path: str
    analysis_status: Status
    is_duplicate: bool
    duplicate_of: int | None
    uploaded_at: datetime
    processed_at: datetime | None
    failure_reason: str | None
    analysis_retry_count: int
    last_retry_at: datetime | None
    processing_history: Sequence[Mapping[str, Any]]
    pixel_hash: str | None
    perceptual_hash: int | None
    perceptual_hash_algorithm: str | None
    metadata: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Pipeline:
    """Where an image stands: its newest job and its newest result, a row of the view."""

    image_id: int
    user_id: int
    original_filename: str
    analysis_status: Status
    uploaded_at: datetime
    processed_at: datetime | None
    job_id: int | None
    job_status: str | None
    priority: int | None
    retry_count: int | None
    worker_id: str | None
    job_started_at: datetime | None
    job_completed_at: datetime | None
    error_message: str | None
    result_id: int | None
    algorithm_name: str | None
    algorithm_version: str | None
    confidence_score: float | None
    processing_time_ms: int | None
    analysed_at: datetime | None


@dataclass(frozen=True)
class Deleted:
    """What ``delete`` did.

    Attributes:
        image_id: The image that is gone, with its jobs and results.
        file_removed: Whether the stored bytes went too; not while another image has them.
        problem: Why the bytes could not be removed, or None; ``check`` finds them later.
    """

    image_id: int
    file_removed: bool
    problem: str | None = None


# Held alone by who takes a backup: see backup/taking.py.
_NO_BACKUP: Final[LiteralString] = (
    "select where pg_try_advisory_xact_lock_shared(hashtextextended('negspace.backup', 0))"
)
_COLUMNS: Final[LiteralString] = (
    "id, user_id, original_filename, mime_type, image_dimensions, file_size, file_hash,"
    " file_name, file_path, analysis_status::text, is_duplicate, duplicate_of, uploaded_at,"
    " processed_at, failure_reason, analysis_retry_count, last_retry_at, processing_history,"
    " pixel_hash, perceptual_hash, perceptual_hash_algorithm, metadata, created_at, updated_at"
)


def register(
    connection: Connection,
    *,
    user_id: int,
    original_filename: str,
    file_path: str,
    file_size: int,
    mime_type: str,
    file_hash: str,
    dimensions: Mapping[str, int] | None,
    metadata: Mapping[str, Any] | None = None,
) -> Image:
    """Write the row of an image whose bytes are stored, in a transaction that is under way.

    Returns:
        The row: a duplicate of the original where its owner has the same file already.

    Raises:
        NotFoundError: There is no active user of that number.
    """
    found = only(
        connection,
        "select " + _COLUMNS + " from register_image(%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            user_id,
            original_filename,
            Path(file_path).name,
            file_path,
            file_size,
            mime_type,
            file_hash,
            None if dimensions is None else Jsonb(dimensions),
            Jsonb(metadata or {}),
        ],
    )
    return _image(found, None)


def list_images(
    database: Database,
    *,
    user_id: int | None = None,
    status: str | None = None,
    duplicates: bool | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Image]:
    """Images, newest first.

    Args:
        database: Where.
        user_id: Only that account's.
        status: Only those that stand so, one of ``STATUSES``.
        duplicates: Only duplicates, or only originals.
        before: Only numbers below this one: the last of the page before.
        limit: How many at most.

    Raises:
        InvalidInputError: There is no such status.
    """
    if status is not None and status not in STATUSES:
        raise InvalidInputError(
            f"there is no status {status!r}", hint=f"one of {', '.join(STATUSES)}"
        )
    query: LiteralString = (
        "select " + _COLUMNS + " from images where"
        " (%(user_id)s::bigint is null or user_id = %(user_id)s)"
        " and (%(status)s::analysis_status is null"
        " or analysis_status = %(status)s::analysis_status)"
        " and (%(duplicates)s::boolean is null or is_duplicate = %(duplicates)s)"
        " and (%(before)s::bigint is null or id < %(before)s)"
        " order by id desc limit %(limit)s"
    )
    given = {
        "user_id": user_id,
        "status": status,
        "duplicates": duplicates,
        "before": before,
        "limit": limit,
    }
    with database.transaction(read_only=True) as connection:
        return [Image(**row) for row in rows(connection, query, given)]


def find(database: Database, image_id: int) -> Image:
    """One image.

    Raises:
        NotFoundError: There is none of that number.
    """
    query: LiteralString = "select " + _COLUMNS + " from images where id = %s"
    with database.transaction(read_only=True) as connection:
        return _image(only(connection, query, [image_id]), image_id)


def pipeline(database: Database, image_id: int) -> Pipeline:
    """Where an image stands, with its newest job and result.

    Raises:
        NotFoundError: There is none of that number.
    """
    query: LiteralString = (
        "select image_id, user_id, original_filename, analysis_status::text, uploaded_at,"
        " processed_at, job_id, job_status::text, priority, retry_count, worker_id,"
        " job_started_at, job_completed_at, error_message, result_id, algorithm_name,"
        " algorithm_version, confidence_score::double precision, processing_time_ms, analysed_at"
        " from image_analysis_status where image_id = %s"
    )
    with database.transaction(read_only=True) as connection:
        found = only(connection, query, [image_id])
    if found is None:
        raise _missing(image_id)
    return Pipeline(**found)


def set_metadata(database: Database, image_id: int, changes: Mapping[str, Any]) -> Image:
    """Set keys of an image's metadata; a value of None removes its key. It is audited.

    Raises:
        NotFoundError: There is no such image.
    """
    kept = {key: value for key, value in changes.items() if value is not None}
    gone = [key for key in changes if key not in kept]
    query: LiteralString = (
        "update images set metadata = (metadata || %s) - %s::text[] where id = %s returning "
        + _COLUMNS
    )
    act = attempts.recorded(database, "config_change", "image", image_id)
    with act, database.transaction() as connection:
        return _image(only(connection, query, [Jsonb(kept), gone, image_id]), image_id)


def archive(database: Database, image_id: int) -> Image:
    """Take an image out of use: its jobs are cancelled, its results stay.

    Raises:
        NotFoundError: There is no such image.
    """
    act = attempts.recorded(database, "config_change", "image", image_id)
    with act, database.transaction() as connection:
        connection.execute("select archive_image(%s)", [image_id])
    return find(database, image_id)


def delete(database: Database, storage: Storage, image_id: int) -> Deleted:
    """Remove an image with its jobs and results, and its bytes where no image has them any more.

    The oldest duplicate of an original takes its place.

    Raises:
        NotFoundError: There is no such image.
    """
    act = attempts.recorded(database, "delete_image", "image", image_id)
    with act, database.transaction() as connection:
        row = only(connection, "select delete_image(%s) as path", [image_id])
    path = row["path"] if row else None
    if path is None:
        return Deleted(image_id, file_removed=False)
    try:
        return Deleted(image_id, file_removed=remove_unused(database, storage, path))
    except FileError as error:
        return Deleted(image_id, file_removed=False, problem=error.message)


def remove_unused(database: Database, storage: Storage, path: str) -> bool:
    """Remove a stored file that no row names, and say whether it went.

    While a backup is taken none goes: rows that it has may name it.
    """
    with database.transaction() as connection:
        if only(connection, _NO_BACKUP) is None:
            return False
        hold_file(connection, Path(path).stem, alone=True)
        used = only(
            connection,
            "select from images where file_hash = %s and file_path = %s"
            " union all select from analysis_results where visualization_path = %s limit 1",
            [Path(path).stem, path, path],
        )
        return used is None and storage.remove(path)


def hold_file(connection: Connection, file_hash: str, *, alone: bool = False) -> None:
    """Hold a content until the transaction ends.

    Who stores bytes and writes their row holds it with others; who removes unused bytes holds
    it ``alone``, so that nothing is removed that somebody has just put there again.
    """
    lock: LiteralString = (
        "select pg_advisory_xact_lock(hashtextextended(%s, 0))"
        if alone
        else "select pg_advisory_xact_lock_shared(hashtextextended(%s, 0))"
    )
    connection.execute(lock, [f"negspace.file:{file_hash}"])


def export(
    database: Database,
    storage: Storage,
    image_id: int,
    target: Path,
    purpose: str,
    *,
    overwrite: bool = False,
) -> Path:
    """Copy an image's bytes out, checked against their hash; an ``export_data`` event tells.

    Args:
        database: Where its row is.
        storage: Where its bytes are.
        image_id: Which.
        target: The file to write, or a folder, where it gets its name in the storage.
        purpose: What for, in a few words.
        overwrite: Replace a file that is there.

    Returns:
        The file written.

    Raises:
        NotFoundError: There is no such image, or its bytes are missing.
        InvalidInputError: No purpose is given.
        AlreadyExistsError: The file is there, and ``overwrite`` is false.
        FileError: The bytes are damaged, or the file can't be written.
    """
    with attempts.recorded(database, "export_data", "image", image_id):
        return _export(database, storage, image_id, target, purpose, overwrite=overwrite)


def _export(
    database: Database,
    storage: Storage,
    image_id: int,
    target: Path,
    purpose: str,
    *,
    overwrite: bool,
) -> Path:
    image = find(database, image_id)
    if target.is_dir():
        target = target / image.file_name
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        _copy_checked(storage, image, fresh)
        with database.transaction() as connection:  # before the copy is where it was asked for
            connection.execute("select record_export('image', %s, %s)", [str(image_id), purpose])
        if not overwrite:
            target.touch(mode=0o600, exist_ok=False)  # taken, or FileExistsError
        fresh.replace(target)
    except FileExistsError:
        raise AlreadyExistsError(f"{target} is there already", hint="--overwrite") from None
    except OSError as error:
        raise FileError(f"can't write {target}: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)
    return target


def _copy_checked(storage: Storage, image: Image, target: Path) -> None:
    digest = hashlib.sha256()
    with storage.open(image.file_path) as source, target.open("xb") as file:
        while block := source.read(1 << 20):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != image.file_hash:
        raise FileError(
            f"the stored file of image {image.id} is damaged",
            hint="restore it from a backup, or take the same image in again",
        )


def _image(row: Row | None, image_id: int | None) -> Image:
    if row is None:
        raise _missing(image_id)
    return Image(**row)


def _missing(image_id: int | None) -> NotFoundError:
    return NotFoundError(
        f"there is no image {image_id}", hint="negspace images list shows those there are"
    )
