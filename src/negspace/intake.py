"""Taking files in: one, or many of which a broken one never stops the rest.

A file is copied and hashed in one pass, looked at where it lies whole and nobody changes it,
put in its place, and only then given its row. A crash in between leaves at most bytes without
a row: ``upkeep.check`` finds them, and the same file taken in again uses them. Every refusal
is an event of the audit trail.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

from negspace import audit, images
from negspace.analysis import reading
from negspace.database import Database, again, only
from negspace.errors import (
    FileError,
    ImageError,
    NegspaceError,
    ReadOnlyServerError,
    UnavailableError,
)
from negspace.images import Image
from negspace.storage import Received, Storage, opened

_SUFFIXES: Final = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/tiff": "tif",
    "image/fits": "fits",
    "application/dicom": "dcm",
    "image/gif": "gif",
    "image/bmp": "bmp",
    "image/webp": "webp",
}


@dataclass(frozen=True)
class Header:
    """What an image's first bytes say about it.

    Attributes:
        mime_type: From the bytes, never from the name.
        dimensions: Width and height in pixels, and channels.
    """

    mime_type: str
    dimensions: dict[str, int]


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        path: The file as it was named.
        image: Its row, or None where it was refused.
        error: Why it was refused, or None.
    """

    path: Path
    image: Image | None = None
    error: NegspaceError | None = None

    @property
    def status(self) -> Literal["taken in", "duplicate", "failed"]:
        """In a word."""
        if self.image is None:
            return "failed"
        return "duplicate" if self.image.is_duplicate else "taken in"


def add(
    database: Database,
    storage: Storage,
    source: Path,
    *,
    user_id: int,
    max_pixels: int,
    metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Image:
    """Take one file in.

    Args:
        database: Where its row goes.
        storage: Where its bytes go.
        source: The file.
        user_id: Whose image it is.
        max_pixels: Larger images are refused by their header, before anything is decoded.
        metadata: Anything else to keep with it.
        progress: Called with the number of bytes after each block.

    Returns:
        Its row: a duplicate of the original where its owner has the same bytes already.

    Raises:
        FileError: It is missing, no regular file, empty, not to be read, or changed while it
            was read; or the storage can't be written.
        ImageError: Its bytes are no image, a broken header, or one that is too large.
        NegspaceError: The database refused it.
    """
    try:
        _see_image(source)
        with storage.receiving(source, progress=progress) as received:
            header = _header_of(source, received, max_pixels)
            with database.transaction() as connection:
                images.hold_file(connection, received.file_hash)
                return images.register(
                    connection,
                    user_id=user_id,
                    original_filename=_shown_name(source),
                    file_path=storage.keep(received, _SUFFIXES[header.mime_type]),
                    file_size=received.file_size,
                    mime_type=header.mime_type,
                    file_hash=received.file_hash,
                    dimensions=header.dimensions,
                    metadata=metadata,
                )
    except UnavailableError:
        raise  # there is no database to tell
    except NegspaceError as error:
        _record_refusal(database, source, user_id, error)
        raise


def add_all(
    database: Database,
    storage: Storage,
    sources: Iterable[Path],
    *,
    user_id: int,
    max_pixels: int,
    recursive: bool = False,
    metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int], object] | None = None,
    patience: float = 0.0,
    on_wait: Callable[[NegspaceError], None] | None = None,
) -> Iterator[Outcome]:
    """Take many files in, one after the other; each has an outcome.

    Args:
        database: See ``add``, here and below.
        storage: As there.
        sources: Files, and folders where ``recursive``.
        user_id: As there.
        max_pixels: As there.
        recursive: Take in all files below a folder, hidden ones left out; otherwise a folder
            is an outcome that failed.
        metadata: As there.
        progress: As there.
        patience: Seconds that a database which goes away is waited for; a file whose row was
            committed just before is not taken in again. 0: it isn't waited for. Only for who
            sees the audit trail.
        on_wait: Called with what was the matter, before it is waited for.

    Yields:
        An outcome per file, as soon as it is known.

    Raises:
        UnavailableError: The database went away; what was yielded before is taken in.
    """
    for path in files_in(sources) if recursive else sources:
        try:
            image = _once(
                database,
                lambda by, path=path: add(
                    by,
                    storage,
                    path,
                    user_id=user_id,
                    max_pixels=max_pixels,
                    metadata=metadata,
                    progress=progress,
                ),
                patience,
                on_wait,
            )
        except UnavailableError:
            raise
        except NegspaceError as error:
            yield Outcome(path, error=error)
        else:
            yield Outcome(path, image)


def _once(
    database: Database,
    take: Callable[[Database], Image],
    patience: float,
    on_wait: Callable[[NegspaceError], None] | None,
) -> Image:
    """What is taken in, once: the event of its row names this request, and so tells of it."""
    if not patience:
        return take(database)
    request = str(uuid4())
    by = database.acting_as(replace(database.actor, request_id=request))
    tries = count()

    def step() -> Image:
        found = _of_request(by, request) if next(tries) else None
        return take(by) if found is None else found

    return again(step, of=by, patience=patience, unless=ReadOnlyServerError, on_wait=on_wait)


def _of_request(database: Database, request: str) -> Image | None:
    """The image that came with a request of this day, or None."""
    query = (
        "select resource_id::bigint as image from security_audit"
        " where action = 'create_image' and status = 'success' and request_id = %s"
        " and timestamp > clock_timestamp() - interval '1 day'"
    )
    with database.transaction(read_only=True) as connection:
        row = only(connection, query, [request])
    return None if row is None else images.find(database, row["image"])


def files_in(sources: Iterable[Path]) -> Iterator[Path]:
    """The files themselves, and those below the folders, by name, hidden ones left out.

    Folders that can't be read come as they are, so that they get an outcome of their own.
    Links to folders are not followed, so that no circle is walked.
    """
    for source in sources:
        if not source.is_dir():
            yield source
            continue
        unreadable: list[Path] = []

        def keep(error: OSError, kept: list[Path] = unreadable) -> None:
            kept.append(Path(error.filename))

        for folder, below, names in os.walk(source, onerror=keep):
            below[:] = sorted(name for name in below if not name.startswith("."))
            yield from (Path(folder, n) for n in sorted(names) if not n.startswith("."))
        yield from unreadable


def _see_image(source: Path) -> None:
    """Refuse by its first bytes what is no image, before all of it is copied."""
    with opened(source) as file:
        head = file.read(reading.HEAD_BYTES)
    if head:  # an empty file is refused with its own word
        reading.sniff(head, name=str(source))


def _header_of(source: Path, received: Received, max_pixels: int) -> Header:
    """Read the header of the copy; errors name the file that it came from."""
    try:
        with reading.open_image(received.path, max_pixels=max_pixels, page=1) as image:
            header = Header(str(image.mime_type), image.dimensions)
            pages = image.pages
    except FileError as error:
        message = error.message.replace(str(received.path), str(source))
        raise type(error)(message, hint=error.hint, **error.details) from error
    if pages > 1:
        raise ImageError(
            f"{source} holds {pages} images, not one",
            hint="save the one that is meant in a file of its own",
        )
    return header


def _record_refusal(database: Database, source: Path, user_id: int, error: NegspaceError) -> None:
    with database.transaction() as connection:
        audit.record(
            connection,
            "create_image",
            "image",
            status="failure",
            error_message=error.message,
            changes_after={"original_filename": _shown_name(source)},
            user_id=user_id,
        )


def _shown_name(source: Path) -> str:
    """The file's name as it can be stored and shown: bytes that are no text become marks."""
    name = os.fsencode(source.name).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\ufffd" for c in name) or str(source)
