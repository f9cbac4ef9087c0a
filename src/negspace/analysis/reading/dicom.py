"""DICOM, with pydicom: measured values for grey images, RGB for coloured ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian

from negspace.analysis.image import MemoryImage, Pixels, Scale
from negspace.analysis.reading.guard import chosen, decoding, see_size, see_unchanged
from negspace.errors import ImageError

_GREY: Final = frozenset({"MONOCHROME1", "MONOCHROME2"})


def open_dicom(path: Path, page: int | None, max_pixels: int) -> MemoryImage:
    """A handle on a frame of a DICOM file.

    Grey values have the modality's rescaling or look-up table applied (HU for CT), padding
    is NaN, and MONOCHROME1 is marked as inverted.

    Raises:
        ImageError: It is damaged, too large, holds no image, or a frame must be named.
    """
    with decoding(path):
        header = _header(path)
        rows, columns = int(header.Rows), int(header.Columns)
        see_size(path, columns, rows, max_pixels)
        pages = int(header.get("NumberOfFrames") or 1)
        index = chosen(path, pages, page, "frame")
        grey = header.PhotometricInterpretation in _GREY
        shape = (rows, columns) if grey else (rows, columns, 3)
        dtype = np.dtype(np.float64 if grey else f"u{_colour_bits(header) // 8}")

    def decode() -> Pixels:
        with decoding(path):
            pixels = _decoded(path, index if pages > 1 else None)
        see_unchanged(path, (shape, dtype), (pixels.shape, pixels.dtype))
        return pixels

    return MemoryImage(
        shape,
        dtype,
        decode,
        scale=_scale(header) if grey else None,
        mime_type="application/dicom",
        pages=pages,
    )


def _header(path: Path) -> Any:
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        # The whole file would be inflated before its size is known.
        raise ImageError(f"{path} is deflated DICOM, which isn't read", hint="save it uncompressed")
    header: Any = pydicom.dcmread(path, stop_before_pixels=True)
    if "Rows" not in header or "Columns" not in header:
        raise ImageError(
            f"{path} is DICOM without an image",
            hint="structured reports, plans and the like aren't read",
        )
    return header


def _colour_bits(header: Any) -> int:
    """Bits of a colour value: a palette's own, else those of the pixel."""
    if header.PhotometricInterpretation == "PALETTE COLOR":
        return 8 if int(header.RedPaletteColorLookupTableDescriptor[2]) <= 8 else 16
    return max(8, int(header.BitsAllocated))


def _decoded(path: Path, index: int | None) -> Pixels:
    data: Any = pydicom.dcmread(path)
    stored = _stored(path, data, index)
    kind = data.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        looked_up: Any = apply_color_lut(stored, data)
        return looked_up
    if kind not in _GREY:
        return stored
    values = np.asarray(apply_modality_lut(stored, data)).astype(np.float64)
    values[_padding(stored, data)] = np.nan
    return values


def _stored(path: Path, data: Any, index: int | None) -> Any:
    syntax = data.file_meta.TransferSyntaxUID
    try:
        return pixel_array(data, index=index)
    except Exception as error:
        if not syntax.is_compressed:
            raise
        raise ImageError(
            f"{path} can't be decoded: {syntax.name}", hint="save it uncompressed"
        ) from error


def _padding(stored: Any, data: Any) -> Any:
    """Pixels the scanner never measured: of the padding value, or within its range."""
    first = data.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    last = data.get("PixelPaddingRangeLimit")
    last = first if last is None else last
    return (stored >= min(first, last)) & (stored <= max(first, last))


def _scale(header: Any) -> Scale:
    unit = header.get("RescaleType") or ("HU" if header.get("Modality") == "CT" else None)
    return Scale(
        "physical",
        unit=str(unit) if unit and unit != "US" else None,
        inverted=header.PhotometricInterpretation == "MONOCHROME1",
    )
