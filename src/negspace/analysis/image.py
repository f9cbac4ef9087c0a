"""An image as analysers see it: a handle that reads windows and shrinks without a full copy."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from negspace.errors import ImageError, InvalidInputError

Pixels: TypeAlias = NDArray[Any]
FloatImage: TypeAlias = NDArray[np.floating[Any]]

# Formats without a NaN of their own mark missing pixels with values near the type's limit
# (GeoTIFF: -3.4e38, netCDF: 9.97e36); no measured intensity comes near.
FILL_VALUE: Final = 1e30
_STRIP_PIXELS: Final = 4_000_000


class Window(NamedTuple):
    """A rectangle of full-resolution pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Scale:
    """What pixel values mean, and which of them count as black and white.

    Attributes:
        kind: ``integer`` (the range of the type), or ``physical`` (measured values).
        low: The value that becomes 0; None for physical values, where it is the smallest.
        high: The value that becomes 1; None for physical values, where it is the largest.
        unit: The unit of physical values where the file states one, such as HU.
        inverted: The smallest value is shown white (DICOM MONOCHROME1, TIFF WhiteIsZero).
    """

    kind: str
    low: float | None = None
    high: float | None = None
    unit: str | None = None
    inverted: bool = False

    @classmethod
    def of_type(cls, dtype: np.dtype[Any], *, bits: int | None = None) -> Scale:
        """The scale of plain pixels: booleans, 8 and 16 bit by their range, others physical.

        Args:
            dtype: The type of the pixels.
            bits: How many bits of an unsigned integer are used, where the file says so.
        """
        if dtype.kind == "b":
            return cls("integer", 0.0, 1.0)
        if dtype.kind == "u" and dtype.itemsize <= 2:
            return cls("integer", 0.0, float(2 ** (bits or 8 * dtype.itemsize) - 1))
        return cls("physical")


@dataclass(frozen=True, eq=False)
class Level:
    """An image shrunk by block means.

    Attributes:
        pixels: (height, width) or (height, width, 3), float, without alpha; NaN where no
            pixel of a block is valid.
        factor: Full-resolution pixels along the side of a block.
        low: The smallest valid full-resolution value; NaN where none is valid.
        high: The largest.
    """

    pixels: FloatImage
    factor: int
    low: float
    high: float


class ImageHandle(ABC):
    """One two-dimensional image, read when asked.

    Attributes:
        shape: (height, width) or (height, width, channels).
        dtype: The type of what ``read`` returns.
        scale: What the values mean.
        mime_type: What the file is, or None for an array.
        pages: How many images the file holds.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        scale: Scale | None = None,
        mime_type: str | None = None,
        pages: int = 1,
    ) -> None:
        _see_supported(shape, dtype)
        self.shape = shape
        self.dtype = dtype
        self.scale = scale or Scale.of_type(dtype)
        self.mime_type = mime_type
        self.pages = pages

    @property
    def channels(self) -> int:
        """How many values a pixel has: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha."""
        return self.shape[2] if len(self.shape) == 3 else 1

    @property
    def dimensions(self) -> dict[str, int]:
        """Width, height and channels, as the column ``image_dimensions`` holds them."""
        return {"width": self.shape[1], "height": self.shape[0], "channels": self.channels}

    @abstractmethod
    def read(self, window: Window | None = None) -> Pixels:
        """The pixels of a window, or all of them, as the file holds them.

        Raises:
            ImageError: They can't be decoded.
        """

    def close(self) -> None:  # noqa: B027  most have nothing to close
        """Give back the file, if one is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def strips(self, multiple: int = 1) -> Iterator[Pixels]:
        """The image from top to bottom, a few rows at a time.

        Args:
            multiple: Each strip but the last has a multiple of so many rows.
        """
        height, width = self.shape[:2]
        rows = max(multiple, _STRIP_PIXELS // width // multiple * multiple)
        for top in range(0, height, rows):
            yield self.read(Window(top, 0, min(rows, height - top), width))

    def pyramid(self, max_pixels: int) -> Level:
        """The image shrunk to about ``max_pixels`` pixels, never enlarged.

        The factor is ceil(sqrt(N / max_pixels)); blocks at the right and lower edge may be
        partial. A block's mean is that of its valid pixels. Memory: one strip and the result.

        Raises:
            ImageError: The pixels can't be decoded.
        """
        height, width = self.shape[:2]
        factor = max(1, math.ceil(math.sqrt(height * width / max_pixels)))
        parts: list[FloatImage] = []
        low, high = math.inf, -math.inf
        for strip in self.strips(factor):
            values = valid_values(strip)
            if not np.isnan(values).all():
                low = min(low, float(np.nanmin(values)))
                high = max(high, float(np.nanmax(values)))
            parts.append(_block_means(values, factor))
        if low > high:
            low = high = math.nan
        return Level(np.concatenate(parts), factor, low, high)


class MemoryImage(ImageHandle):
    """An image that is decoded whole, when it is first read."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        decode: Callable[[], Pixels],
        *,
        scale: Scale | None = None,
        mime_type: str | None = None,
        pages: int = 1,
    ) -> None:
        super().__init__(shape, dtype, scale=scale, mime_type=mime_type, pages=pages)
        self._decode = decode
        self._pixels: Pixels | None = None

    @classmethod
    def of(cls, pixels: Pixels, *, valid: NDArray[np.bool_] | None = None) -> MemoryImage:
        """A handle on an array.

        Args:
            pixels: (height, width) or (height, width, 1 to 4): booleans, integers or floats.
            valid: (height, width); pixels where it is false are left out of everything.

        Raises:
            InvalidInputError: The array is no such image, or ``valid`` has another shape.
        """
        array = np.asarray(pixels)
        _see_supported(array.shape, array.dtype)
        scale = Scale.of_type(array.dtype)
        if valid is not None:
            if valid.shape != array.shape[:2]:
                raise InvalidInputError(
                    f"the mask of valid pixels is {valid.shape}, the image {array.shape[:2]}",
                    hint="give one boolean per pixel",
                )
            array = valid_values(array)
            array[~valid] = np.nan
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[:, :, 0]
        return cls(array.shape, array.dtype, lambda: array, scale=scale)

    def read(self, window: Window | None = None) -> Pixels:
        """The pixels of a window, or all of them."""
        if self._pixels is None:
            self._pixels = self._decode()
        if window is None:
            return self._pixels
        rows = slice(window.top, window.top + window.height)
        return self._pixels[rows, window.left : window.left + window.width]

    def close(self) -> None:
        """Let go of the pixels."""
        self._pixels = None


def valid_values(pixels: Pixels) -> FloatImage:
    """Floats without the alpha channel; NaN where a pixel is no measurement.

    Not valid are: values that aren't finite, fill values of 1e30 or more, and pixels whose
    alpha is 0. Half-transparent pixels keep their colour: alpha is no intensity.

    Args:
        pixels: (height, width) or (height, width, 1 to 4).

    Returns:
        A new array, (height, width) or (height, width, 3): float32 where that is exact,
        else float64.
    """
    alpha = None
    if pixels.ndim == 3:
        count = pixels.shape[2]
        if count in (2, 4):
            alpha = pixels[:, :, -1]
            count -= 1
        pixels = pixels[:, :, 0] if count == 1 else pixels[:, :, :3]
    exact = np.float64 if pixels.dtype.itemsize > 2 and pixels.dtype != np.float32 else np.float32
    with np.errstate(over="ignore"):  # wider floats than float64: infinite is not valid below
        values: FloatImage = pixels.astype(exact)
    if pixels.dtype.kind == "f":
        bad = ~(np.abs(values) < FILL_VALUE)
        values[bad.any(axis=2) if values.ndim == 3 else bad] = np.nan
    if alpha is not None:
        values[alpha == 0] = np.nan
    return values


def _block_means(values: FloatImage, factor: int) -> FloatImage:
    if factor == 1:
        return values
    height, width = values.shape[:2]
    rest = values.shape[2:]
    margin = [(0, -height % factor), (0, -width % factor)] + [(0, 0)] * len(rest)
    padded = np.pad(values, margin, constant_values=np.nan)
    blocks = padded.reshape(
        padded.shape[0] // factor, factor, padded.shape[1] // factor, factor, *rest
    )
    valid = ~np.isnan(blocks)
    count = valid.sum(axis=(1, 3))
    total = np.where(valid, blocks, 0).sum(axis=(1, 3), dtype=np.float64)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means.astype(values.dtype)


def _see_supported(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if len(shape) not in (2, 3) or (len(shape) == 3 and not 1 <= shape[2] <= 4):
        raise ImageError(
            f"an image of shape {shape} is none that can be analysed",
            hint="height × width, with 1 to 4 channels last: grey, grey and alpha, RGB, RGBA",
        )
    if 0 in shape:
        raise ImageError(f"an image of shape {shape} has no pixels", hint="give it at least one")
    if dtype.kind not in "buif":
        raise ImageError(
            f"pixels of type {dtype} can't be analysed",
            hint="booleans, integers and floating-point numbers can",
        )
