"""What every reader does: keep decoders quiet, put failures in words, see sizes and pages."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from negspace.errors import FileError, ImageError, NegspaceError

# Without a handler of their own, what these say about odd files would appear on stderr.
for _name in ("tifffile", "pydicom", "PIL"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


@contextmanager
def decoding(path: Path) -> Generator[None]:
    """A block in which a library decodes foreign bytes.

    Raises:
        ImageError: For whatever the library raised; its warnings are dropped.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except NegspaceError:
            raise
        except MemoryError as error:
            raise ImageError(
                f"{path} needs more memory to decode than there is",
                hint="save it as tiled TIFF, which is read in parts, or make it smaller",
            ) from error
        except Exception as error:  # decoders raise anything at damaged bytes
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ImageError(
                f"{path} can't be decoded: {reason}",
                hint="it is damaged or of a rare kind; save it anew as PNG or TIFF",
            ) from error


def see_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Refuse an image that is too large, or has no pixels.

    Raises:
        ImageError: It has none, or more than ``max_pixels``.
    """
    if width < 1 or height < 1:
        raise ImageError(
            f"{path} has no pixels: it says {width} × {height}", hint="copy or upload it again"
        )
    if width * height > max_pixels:
        raise ImageError(
            f"{path} says it is {width:,} × {height:,} pixels; the limit is {max_pixels:,}",
            hint="NEGSPACE_MAX_PIXELS raises the limit",
        )


def chosen(path: Path, pages: int, page: int | None, noun: str) -> int:
    """The index, from 0, of the page that was asked for.

    Raises:
        ImageError: There are several and none was named, or there are not so many.
    """
    if pages == 0:
        raise ImageError(f"{path} holds no image", hint="tables and thumbnails aren't read")
    if page is None:
        if pages > 1:
            raise ImageError(
                f"{path} holds {pages} {noun}s, not one image",
                hint=f"choose one: page 1 (--page 1) is the first {noun}",
            )
        return 0
    if not 1 <= page <= pages:
        raise ImageError(f"{path} has no {noun} {page}", hint=f"it has 1 to {pages}")
    return page - 1


def see_unchanged(path: Path, expected: object, found: object) -> None:
    """Refuse pixels that don't fit the header read before.

    Raises:
        FileError: They don't.
    """
    if expected != found:
        raise FileError(
            f"{path} changed while it was read: {expected} became {found}",
            hint="wait until it is written, then try again",
        )
