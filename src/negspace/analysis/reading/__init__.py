"""Opening image files: what they are by their bytes, how large by their header.

Nothing is decoded before the size is known to be within the limit, and nothing is believed
because of a file's name.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from negspace.analysis.reading.kinds import HEAD_BYTES, sniff
from negspace.errors import FileError, ImageError

if TYPE_CHECKING:
    from negspace.analysis.image import ImageHandle

__all__ = ["MAX_PIXELS", "open_image", "sniff"]

MAX_PIXELS: Final = 500_000_000


def open_image(
    path: Path | str, *, max_pixels: int = MAX_PIXELS, page: int | None = None
) -> ImageHandle:
    """A handle on the image of a file; use it in a ``with`` block.

    Only the header is read here: type, size and number of pages. Pixels are decoded when they
    are read: PNG, JPEG, GIF, BMP, WebP and DICOM whole; TIFF and FITS by window.

    Args:
        path: The file.
        max_pixels: Images of more pixels (width × height) are refused before decoding.
        page: Which image of a file with several (TIFF pages, frames of DICOM, GIF, WebP and
            animated PNG, planes of FITS), from 1. Without it such a file is refused.

    Returns:
        Pixels are as shown: the orientation a JPEG states is applied, palettes are looked
        up, CMYK becomes RGB. Rows are in the order of the file, also for FITS.

    Raises:
        FileError: The file is missing, unreadable, or no regular file.
        ImageError: It is no image of a supported kind, is damaged, too large, or holds
            several images and ``page`` doesn't say which.
    """
    path = Path(path)
    mime_type = sniff(_head(path), name=str(path))
    if mime_type == "image/tiff":
        from negspace.analysis.reading import tiff

        return tiff.open_tiff(path, page, max_pixels)
    if mime_type == "image/fits":
        from negspace.analysis.reading import fits

        return fits.open_fits(path, page, max_pixels)
    if mime_type == "application/dicom":
        from negspace.analysis.reading import dicom

        return dicom.open_dicom(path, page, max_pixels)
    from negspace.analysis.reading import raster

    return raster.open_raster(path, mime_type, page, max_pixels)


def _head(path: Path) -> bytes:
    """The first bytes of a regular file that isn't empty."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise FileError(f"{path} is {kind}", hint="name an image file")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        raise FileError(f"{path} isn't there", hint="see how the name is spelt") from None
    except PermissionError:
        raise FileError(
            f"{path} may not be read", hint=f"give user {os.geteuid()} the right to read it"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise FileError(f"{str(path)!r} can't be read: {error}") from error
    if not head:
        raise ImageError(f"{path} is empty: 0 bytes", hint="copy or upload it again")
    return head
