"""Hashes of what an image shows: equal pixels, and pictures that look alike."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft

from negspace.analysis.image import ImageHandle, Pixels, valid_values

ALGORITHM: Final = "dct-phash-64/1"
_SIDE: Final = 32
_KEPT: Final = 8
# Above this, the picture is shrunk by block means first: its bits may then differ in one or
# two places from those of the whole.
_WHOLE_PIXELS: Final = 16_000_000


@dataclass(frozen=True)
class ImageHashes:
    """The hashes of one image.

    Attributes:
        pixel_sha256: SHA-256 of the decoded pixels, in hexadecimal.
        perceptual: 64 bits as a signed integer, for a bigint column; None for an image of one
            brightness, which looks like any other such.
        algorithm: What computed the perceptual hash; only hashes of one algorithm compare.
    """

    pixel_sha256: str
    perceptual: int | None
    algorithm: str = ALGORITHM


def of_image(image: ImageHandle) -> ImageHashes:
    """Both hashes of an image; memory is that of a strip for files read by window.

    Raises:
        ImageError: The pixels can't be decoded.
    """
    digest = hashlib.sha256(_header(image.shape, image.dtype))
    for strip in image.strips():
        digest.update(_canonical(strip))
    height, width = image.shape[:2]
    small = height * width <= _WHOLE_PIXELS
    pixels = image.read() if small else image.pyramid(_WHOLE_PIXELS).pixels
    low, high = image.scale.low, image.scale.high
    limits = None if low is None or high is None else (low, high)
    return ImageHashes(digest.hexdigest(), perceptual_hash(pixels, limits=limits))


def pixel_sha256(pixels: Pixels) -> str:
    """SHA-256 of pixels whatever file they came from: shape, type and little-endian values.

    Args:
        pixels: (height, width) or (height, width, channels).

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(_header(pixels.shape, pixels.dtype))
    digest.update(_canonical(pixels))
    return digest.hexdigest()


def perceptual_hash(pixels: Pixels, *, limits: tuple[float, float] | None = None) -> int | None:
    """A 64-bit hash that stays close when an image is resized, re-compressed or brightened.

    Luma of 8 bits, shrunk to 32 × 32 (Lanczos), its discrete cosine transform, the 8 × 8
    lowest frequencies, each a 1 where above their median; the first is the highest bit. For
    8-bit images these are the bits that ``imagehash.phash`` gives. Alpha is ignored.

    Args:
        pixels: (height, width) or (height, width, 1 to 4).
        limits: The values that are black and white, for other than 8-bit pixels; by default
            the 0.1 and 99.9 percentiles, where the type has no range of its own.

    Returns:
        A signed integer, or None where the shrunk image has one brightness.
    """
    luma = Image.fromarray(_eight_bits(pixels, limits)).convert("L")
    shrunk = np.asarray(luma.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))
    if shrunk.min() == shrunk.max():
        return None
    transformed: Any = fft.dct(fft.dct(shrunk.astype(np.float64), axis=0), axis=1)
    low: NDArray[np.float64] = transformed[:_KEPT, :_KEPT]
    bits = np.packbits(low > np.median(low))
    return int.from_bytes(bits.tobytes(), "big", signed=True)


def distance(one: int, other: int) -> int:
    """In how many of the 64 bits two perceptual hashes differ: alike up to 8, unlike from 20."""
    return ((one ^ other) & 0xFFFF_FFFF_FFFF_FFFF).bit_count()


def _eight_bits(pixels: Pixels, limits: tuple[float, float] | None) -> NDArray[np.uint8]:
    """(height, width) or (height, width, 3) of 0..255; what isn't valid is black."""
    if pixels.dtype == np.uint8:
        colours = pixels[:, :, :3] if pixels.ndim == 3 and pixels.shape[2] > 2 else pixels
        return np.ascontiguousarray(colours if colours.shape[2:] in ((), (3,)) else colours[..., 0])
    values = valid_values(pixels)
    if limits is None and pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        limits = (0.0, 65535.0)
    if limits is None:
        known = values[np.isfinite(values)]
        low, high = np.percentile(known, (0.1, 99.9)) if known.size else (0.0, 0.0)
        limits = (float(low), float(high))
    low, high = limits
    share = (values - low) / (high - low) if high > low else values * 0
    return np.round(np.clip(np.nan_to_num(share), 0, 1) * 255).astype(np.uint8)


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    size = " × ".join(map(str, shape))
    return f"negspace pixels/1 {size} {dtype.newbyteorder('<').str}\n".encode()


def _canonical(pixels: Pixels) -> bytes:
    return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).tobytes()
