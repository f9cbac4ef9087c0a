"""TIFF and BigTIFF, read by window.

Mapped where the pixels lie plain in the file, else by the strips or tiles a window touches.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import tifffile

from negspace.analysis.image import ImageHandle, Pixels, Scale, Window
from negspace.analysis.reading import raster
from negspace.analysis.reading.guard import chosen, decoding, see_size
from negspace.errors import ImageError

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_ALPHA: Final = frozenset({1, 2})  # associated, unassociated


def open_tiff(path: Path, page: int | None, max_pixels: int) -> ImageHandle:
    """A handle on a page of a TIFF file; smaller copies kept beside a page aren't counted.

    Raises:
        ImageError: It is damaged, too large, of a kind that isn't read, or a page must be
            named.
    """
    with decoding(path):
        file = tifffile.TiffFile(path)
        try:
            listed = cast("Iterable[Any]", file.pages)
            pages = [p for p in listed if not p.is_reduced and not p.is_mask]
            wanted = pages[chosen(path, len(pages), page, "page")]
            see_size(path, wanted.imagewidth, wanted.imagelength, max_pixels)
            if _readable(wanted):
                return TiffImage(path, file, wanted, len(pages))
            number = list(file.pages).index(wanted) + 1 if len(file.pages) > 1 else None
        except BaseException:
            file.close()
            raise
        file.close()
    try:
        return raster.open_raster(path, "image/tiff", number, max_pixels)
    except ImageError as error:
        raise ImageError(
            error.message, hint="with the package imagecodecs installed, more kinds are read"
        ) from error


class TiffImage(ImageHandle):
    """A page that tifffile decodes."""

    def __init__(self, path: Path, file: tifffile.TiffFile, page: Any, pages: int) -> None:
        base = 3 if page.photometric == _RGB else 1
        extra = tuple(page.extrasamples)[:1]
        self._channels = base + (1 if extra and extra[0] in _ALPHA else 0)
        shape = (page.imagelength, page.imagewidth)
        scale = Scale.of_type(page.dtype, bits=page.bitspersample)
        if page.photometric == _WHITE_IS_ZERO:
            scale = Scale(scale.kind, scale.low, scale.high, inverted=True)
        super().__init__(
            shape if self._channels == 1 else (*shape, self._channels),
            page.dtype,
            scale=scale,
            mime_type="image/tiff",
            pages=pages,
        )
        self._path, self._file, self._page = path, file, page

    def read(self, window: Window | None = None) -> Pixels:
        """The pixels of a window, or all of them."""
        where = window or Window(0, 0, *self.shape[:2])
        with decoding(self._path):
            whole = self._mapped(where) if self._page.is_memmappable else self._decoded(where)
        kept = whole[:, :, : self._channels]
        return kept[:, :, 0] if self._channels == 1 else kept

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _mapped(self, where: Window) -> Pixels:
        samples: Any = self._page.asarray(out="memmap")
        if samples.ndim == 2:
            samples = samples[:, :, None]
        elif self._page.planarconfig == 2:
            samples = np.moveaxis(samples, 0, 2)
        part = samples[where.top : where.top + where.height, where.left : where.left + where.width]
        return np.array(part, dtype=self.dtype)

    def _decoded(self, where: Window) -> Pixels:
        page, reader = self._page, self._file.filehandle
        out = np.zeros((where.height, where.width, page.samplesperpixel), dtype=self.dtype)
        arguments: dict[str, Any] = {}
        if page.compression in (6, 7):  # JPEG keeps its tables once for all tiles
            arguments = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        indices = self._touched(where)
        segments: Any = reader.read_segments(
            [page.dataoffsets[i] for i in indices],
            [page.databytecounts[i] for i in indices],
            indices,
        )
        for data, index in segments:
            segment, position, shape = page.decode(data, index, **arguments)
            if segment is not None:  # None: a tile that was never written
                _place(out, where, segment.reshape(shape)[0], position)
        return out

    def _touched(self, where: Window) -> list[int]:
        """The numbers of the strips or tiles under a window."""
        page = self._page
        tall = page.tilelength if page.is_tiled else page.rowsperstrip
        wide = page.tilewidth if page.is_tiled else page.imagewidth
        down, across = -(-page.imagelength // tall), -(-page.imagewidth // wide)
        rows = range(where.top // tall, (where.top + where.height - 1) // tall + 1)
        columns = range(where.left // wide, (where.left + where.width - 1) // wide + 1)
        planes = range(page.samplesperpixel if page.planarconfig == 2 else 1)
        return [(p * down + y) * across + x for p, y, x in product(planes, rows, columns)]


def _readable(page: Any) -> bool:
    """Whether tifffile decodes a page by itself, and negspace knows what its samples mean."""
    if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) or page.imagedepth > 1:
        return False
    bands = page.samplesperpixel - len(page.extrasamples)
    if bands != (3 if page.photometric == _RGB else 1) or page.dtype is None:
        return False
    try:
        if page.compression != 1:
            tifffile.TIFF.DECOMPRESSORS[page.compression]
        if page.predictor != 1:
            tifffile.TIFF.UNPREDICTORS[page.predictor]
    except KeyError:
        return False
    return True


def _place(out: Pixels, where: Window, segment: Pixels, position: tuple[int, ...]) -> None:
    """Copy the part of a segment that lies within the window."""
    plane, _, y, x, _ = position
    top, left = max(y, where.top), max(x, where.left)
    bottom = min(y + segment.shape[0], where.top + where.height)
    right = min(x + segment.shape[1], where.left + where.width)
    if bottom <= top or right <= left:
        return
    part = segment[top - y : bottom - y, left - x : right - x]
    rows = slice(top - where.top, bottom - where.top)
    columns = slice(left - where.left, right - where.left)
    out[rows, columns, plane : plane + part.shape[2]] = part
