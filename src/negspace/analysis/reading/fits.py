"""FITS, read by window; plain and tile-compressed images. Values are physical."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits

from negspace.analysis.image import ImageHandle, Pixels, Scale, Window
from negspace.analysis.reading.guard import chosen, decoding, see_size


def open_fits(path: Path, page: int | None, max_pixels: int) -> ImageHandle:
    """A handle on a plane of a FITS file.

    The planes of all image HDUs are counted in the order of the file; tables and spectra
    aren't.

    Raises:
        ImageError: It is damaged, too large, holds no image, or a plane must be named.
    """
    with decoding(path):
        stream = path.open("rb")  # ours to close: fits.open leaves it open when it fails
        try:
            # Sections are read from the file, not mapped: scaled values can't be.
            file: Any = fits.open(stream, memmap=False)
            planes = [plane for hdu in file for plane in _planes_of(hdu)]
            hdu, place = planes[chosen(path, len(planes), page, "plane")]
            see_size(path, hdu.shape[-1], hdu.shape[-2], max_pixels)
            return FitsImage(path, stream, hdu, place, len(planes))
        except BaseException:
            stream.close()
            raise


class FitsImage(ImageHandle):
    """One plane of an image HDU."""

    def __init__(
        self, path: Path, stream: BinaryIO, hdu: Any, place: tuple[int, ...], pages: int
    ) -> None:
        self._path, self._stream, self._section, self._place = path, stream, hdu.section, place
        sample = self._part(Window(0, 0, 1, 1))
        super().__init__(
            tuple(hdu.shape[-2:]),
            sample.dtype,
            scale=Scale("physical", unit=str(hdu.header.get("BUNIT", "")).strip() or None),
            mime_type="image/fits",
            pages=pages,
        )

    def read(self, window: Window | None = None) -> Pixels:
        """The physical values of a window, or all of them; BLANK pixels are NaN."""
        with decoding(self._path):
            return self._part(window or Window(0, 0, *self.shape[:2]))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _part(self, where: Window) -> Pixels:
        rows = slice(where.top, where.top + where.height)
        columns = slice(where.left, where.left + where.width)
        values = np.array(self._section[(*self._place, rows, columns)])
        return values.astype(values.dtype.newbyteorder("="), copy=False)


def _planes_of(hdu: Any) -> list[tuple[Any, tuple[int, ...]]]:
    """(HDU, index of the plane in it) for each two-dimensional plane."""
    shape: tuple[int, ...] = tuple(hdu.shape) if hdu.is_image else ()
    if len(shape) < 2 or math.prod(shape) == 0:
        return []
    return [(hdu, place) for place in np.ndindex(shape[:-2])]
