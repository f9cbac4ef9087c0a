"""The picture of an analysis: what is empty, and which voids it falls into."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage import segmentation

from negspace.analysis import Analysis
from negspace.analysis.image import FloatImage, ImageHandle, Level, MemoryImage, Scale
from negspace.errors import FileError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_BLUE: Final = (40, 110, 255)
_YELLOW: Final = (255, 214, 10)
_GREEN: Final = (60, 220, 90)
_RED: Final = (255, 45, 45)
_WHITE: Final = (255, 255, 255)
_TINT: Final = 0.35
_CIRCLES: Final = 12


def draw(image: ImageHandle | NDArray[Any], analysis: Analysis) -> Picture:
    """The image with its emptiness drawn over it, as large as the analysed grid.

    Empty area is tinted blue; void borders are yellow, those of unusual voids red; the twelve
    largest inscribed circles are green, the largest empty rectangle is white. Values are
    stretched from their 0.1 and 99.9 percentiles for display.

    Args:
        image: What was analysed.
        analysis: What was found in it.

    Returns:
        An RGB picture.
    """
    handle = image if isinstance(image, ImageHandle) else MemoryImage.of(image)
    height, width = analysis.mask.shape
    level = handle.pyramid(_pixels_of(handle, height))
    canvas = _display(level, handle.scale)
    canvas[analysis.mask] = (1 - _TINT) * canvas[analysis.mask] + _TINT * np.array(_BLUE)
    pen = max(1, round(min(height, width) / 700))
    _outline(canvas, analysis, pen)
    picture = Image.fromarray(canvas.round().astype(np.uint8))
    _shapes(ImageDraw.Draw(picture), analysis.negative_space_data, level.factor, pen + 1)
    return picture


def thumbnail(image: ImageHandle, side: int) -> Picture:
    """The image alone, small, its values stretched for display.

    Args:
        image: An open image; files that are read by window are never read whole.
        side: Pixels of the longer side.

    Returns:
        An RGB picture.
    """
    canvas = _display(image.pyramid(4 * side * side), image.scale)
    picture = Image.fromarray(canvas.round().astype(np.uint8))
    picture.thumbnail((side, side))
    return picture


def save(picture: Picture, path: Path) -> None:
    """Write a picture as PNG.

    Raises:
        FileError: The file can't be written there.
    """
    try:
        picture.save(path, format="PNG")
    except OSError as error:
        raise FileError(
            f"{path} can't be written: {error.strerror or error}",
            hint="name a file in a folder that exists and is writable",
        ) from error


def _pixels_of(handle: ImageHandle, grid_height: int) -> int:
    """A ``max_pixels`` that shrinks the handle to a grid of that height."""
    height, width = handle.shape[:2]
    factor = -(-height // grid_height)
    return -(-height * width // factor**2)


def _display(level: Level, scale: Scale) -> FloatImage:
    """(height, width, 3) of 0..255; what isn't valid is black."""
    pixels = level.pixels if level.pixels.ndim == 3 else level.pixels[:, :, None]
    known = pixels[np.isfinite(pixels)]
    low, high = np.percentile(known, (0.1, 99.9)) if known.size else (0.0, 1.0)
    shown = np.clip((pixels - low) / max(high - low, 1e-30), 0, 1)
    shown = np.nan_to_num(1 - shown if scale.inverted else shown) * 255
    return np.broadcast_to(shown, (*shown.shape[:2], 3)).astype(np.float32)


def _outline(canvas: FloatImage, analysis: Analysis, pen: int) -> None:
    if analysis.labels is None:
        return
    odd = np.isin(analysis.labels, [entry["void_id"] for entry in analysis.anomalies])
    inner: Any = segmentation.find_boundaries(analysis.labels, mode="inner")
    canvas[inner] = _YELLOW
    edge: Any = segmentation.find_boundaries(analysis.labels * odd, mode="inner")
    if odd.any():
        thick: Any = ndimage.binary_dilation(edge, iterations=pen)
        edge = thick & odd
    canvas[edge] = _RED


def _shapes(pen: ImageDraw.ImageDraw, data: dict[str, Any], factor: int, width: int) -> None:
    for void in data.get("voids", [])[:_CIRCLES]:
        y, x, r = (void["inscribed"][key] for key in ("cy", "cx", "r"))
        box = [(v + 0.5) / factor - 0.5 for v in (x - r, y - r, x + r, y + r)]
        pen.ellipse(box, outline=_GREEN, width=width)
    rect = data.get("largest_rect")
    if rect is not None:
        left, top = rect["x"] // factor, rect["y"] // factor
        right, bottom = left + rect["w"] // factor - 1, top + rect["h"] // factor - 1
        pen.rectangle((left, top, right, bottom), outline=_WHITE, width=width)
