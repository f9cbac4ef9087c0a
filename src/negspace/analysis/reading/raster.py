"""PNG, JPEG, GIF, BMP and WebP, and TIFF that tifffile alone can't decode; with Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.Image import Image as Picture

from negspace.analysis.image import MemoryImage, Pixels
from negspace.analysis.reading.guard import chosen, decoding, see_size, see_unchanged

# The plug-ins themselves, not Image.open: that guesses the kind anew, and has a limit of its
# own on the size that is a global variable.
_PLUGINS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "image/png": PngImagePlugin.PngImageFile,
    "image/jpeg": JpegImagePlugin.JpegImageFile,
    "image/gif": GifImagePlugin.GifImageFile,
    "image/bmp": BmpImagePlugin.BmpImageFile,
    "image/webp": WebPImagePlugin.WebPImageFile,
    "image/tiff": TiffImagePlugin.TiffImageFile,
}
_AS_THEY_ARE: Final = {
    "1": np.dtype(bool),
    "L": np.dtype(np.uint8),
    "LA": np.dtype(np.uint8),
    "RGB": np.dtype(np.uint8),
    "RGBA": np.dtype(np.uint8),
    "I;16": np.dtype(np.uint16),
    "I;16L": np.dtype(np.uint16),
    "I;16B": np.dtype(np.uint16),
    "I": np.dtype(np.int32),
    "F": np.dtype(np.float32),
}
_TRANSPARENT: Final = {"L": "LA", "RGB": "RGBA", "P": "RGBA", "PA": "RGBA", "La": "LA"}
_CHANNELS: Final = {"LA": 2, "RGB": 3, "RGBA": 4}
_ORIENTATION: Final = 0x0112
_TURNED: Final = frozenset({5, 6, 7, 8})


def open_raster(path: Path, mime_type: str, page: int | None, max_pixels: int) -> MemoryImage:
    """A handle on a file that Pillow decodes.

    Raises:
        ImageError: The header is damaged or the image too large, or a page must be named.
    """
    with decoding(path), path.open("rb") as file:
        picture = _opened(file, mime_type)
        see_size(path, *picture.size, max_pixels)
        pages = int(getattr(picture, "n_frames", 1))
        index = chosen(path, pages, page, "page" if mime_type == "image/tiff" else "frame")
        if index:
            picture.seek(index)
            see_size(path, *picture.size, max_pixels)
        shape, dtype = _shape_of(picture)

    def decode() -> Pixels:
        pixels = _decoded(path, mime_type, index, max_pixels)
        see_unchanged(path, (shape, dtype), (pixels.shape, pixels.dtype))
        return pixels

    return MemoryImage(shape, dtype, decode, mime_type=mime_type, pages=pages)


def _opened(file: BinaryIO, mime_type: str) -> ImageFile.ImageFile:
    return _PLUGINS[mime_type](file)


def _decoded(path: Path, mime_type: str, index: int, max_pixels: int) -> Pixels:
    with decoding(path), path.open("rb") as file:
        picture = _opened(file, mime_type)
        see_size(path, *picture.size, max_pixels)  # it may be another file by now
        if index:
            picture.seek(index)
        mode = _mode_of(picture)
        upright: Picture = picture
        if _orientation(picture) > 1:
            upright = ImageOps.exif_transpose(picture)
        if upright.mode != mode:
            upright = upright.convert(mode)
        pixels: Pixels = np.array(upright)
        return pixels.astype(_AS_THEY_ARE[mode], copy=False)


def _shape_of(picture: ImageFile.ImageFile) -> tuple[tuple[int, ...], np.dtype[Any]]:
    width, height = picture.size
    if _orientation(picture) in _TURNED:
        width, height = height, width
    mode = _mode_of(picture)
    channels = _CHANNELS.get(mode)
    return (height, width, *([channels] if channels else [])), _AS_THEY_ARE[mode]


def _mode_of(picture: ImageFile.ImageFile) -> str:
    """The mode the pixels are wanted in: their own, or grey, RGB or RGBA that loses nothing."""
    if picture.has_transparency_data and picture.mode in _TRANSPARENT:
        return _TRANSPARENT[picture.mode]
    if picture.mode == "RGBa":
        return "RGBA"
    return picture.mode if picture.mode in _AS_THEY_ARE else "RGB"


def _orientation(picture: ImageFile.ImageFile) -> int:
    """How a camera was held, from 1; other formats than JPEG keep pixels as they are shown."""
    if not isinstance(picture, JpegImagePlugin.JpegImageFile):
        return 1
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block is no reason to refuse the picture
        return 1
