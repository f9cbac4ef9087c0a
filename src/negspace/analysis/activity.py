"""How much is going on at each pixel, 0 where it is empty (steps 4 to 6)."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import morphology

from negspace.analysis.image import FloatImage

Mask = NDArray[np.bool_]

# Black padding as fundus cameras add it: below this share of the image's range.
_NEAR_BLACK: Final = 0.06
# Local standard deviations are told apart on a logarithmic scale down to this one, a quarter
# of a grey level of 256.
_TEXTURE_FLOOR: Final = 0.001


def valid_area(grey: FloatImage, mode: str) -> Mask:
    """The pixels that count: finite, and with ``auto`` not in black padding at the border.

    Args:
        grey: The analysed grid, NaN where not valid.
        mode: ``all`` or ``auto``.
    """
    valid = np.isfinite(grey)
    if mode == "all" or not valid.any():
        return valid
    low, high = np.percentile(grey[valid], (0.1, 99.9))
    black = ~valid | (np.nan_to_num(grey) <= low + _NEAR_BLACK * (high - low))
    labels, _ = _components(black)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    padding = np.isin(labels, border[border > 0])
    if padding.all() or not padding.any():
        return valid
    # The rim of a round image is a ramp, neither padding nor picture: leave some of it out.
    rim = max(1, round(0.004 * math.sqrt(grey.size)))
    away: Any = ndimage.distance_transform_edt(~padding)
    return valid & (away > rim)


def normalise(grey: FloatImage, valid: Mask) -> NDArray[np.float32] | None:
    """Grey stretched from its 0.1 and 99.9 percentiles to 0..1, clipped.

    Where fewer than one pixel in a thousand differ (one star in a black frame), the range is
    that of all values.

    Returns:
        The grid, with pixels that aren't valid set to their nearest valid one, so that
        filters see no edge there; None where all valid values are equal.
    """
    values = grey[valid]
    low, high = np.percentile(values, (0.1, 99.9))
    if not high > low:
        low, high = values.min(), values.max()
    if not high > low:
        return None
    stretched = np.clip((grey - low) / (high - low), 0, 1).astype(np.float32)
    if not valid.all():
        nearest: Any = ndimage.distance_transform_edt(
            ~valid, return_distances=False, return_indices=True
        )
        stretched = stretched[tuple(nearest)]
    return stretched


def activity(grid: NDArray[np.float32], parameters: dict[str, Any]) -> NDArray[np.float32]:
    """The activity map of a normalised grid.

    Args:
        grid: 0..1, no NaN.
        parameters: ``mode`` and what it needs: ``sigma_px`` (dark, bright),
            ``texture_window_px``, ``ridge_scales_px``.

    Returns:
        ``dark``: the smoothed grey. ``bright``: 1 − the smoothed grey. ``texture``:
        log(1 + s / 0.001) of the local standard deviation s. ``ridge``: the largest black
        top-hat over the scales, so dark lines up to that wide.
    """
    mode = parameters["mode"]
    if mode == "texture":
        return _texture(grid, parameters["texture_window_px"])
    smooth: Any = ndimage.gaussian_filter(grid, parameters["sigma_px"])
    if mode == "ridge":
        return _ridges(smooth, parameters["ridge_scales_px"])
    return 1 - smooth if mode == "bright" else smooth


def _texture(grid: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    wide = grid.astype(np.float64)  # the difference of two near-equal means needs the digits
    mean = ndimage.uniform_filter(wide, side)
    square = ndimage.uniform_filter(wide * wide, side)
    deviation = np.sqrt(np.maximum(square - mean * mean, 0))
    return np.log1p(deviation / _TEXTURE_FLOOR).astype(np.float32)


def _ridges(grid: NDArray[np.float32], scales: list[int]) -> NDArray[np.float32]:
    strongest = np.zeros_like(grid)
    for scale in scales:
        disc = morphology.disk(scale, decomposition="sequence")
        lines: Any = morphology.black_tophat(grid, disc)
        np.maximum(strongest, lines, out=strongest)
    return strongest


def clean(mask: Mask, radius: int) -> Mask:
    """Opened, then closed, by a disc; outside the image counts as more of the same."""
    if radius == 0:
        return mask
    disc = morphology.disk(radius)
    grid: Any = ndimage.binary_erosion(mask, disc, border_value=1)
    grid = ndimage.binary_dilation(grid, disc)
    grid = ndimage.binary_dilation(grid, disc)
    cleaned: Any = ndimage.binary_erosion(grid, disc, border_value=1)
    return cleaned


def without_specks(mask: Mask, min_area: int) -> tuple[Mask, int]:
    """The mask without components under ``min_area`` pixels, and how many are left.

    Pixels that touch at a corner belong together.
    """
    labels, count = _components(mask)
    large = np.bincount(labels.ravel(), minlength=count + 1) >= min_area
    large[0] = False
    kept: Mask = large[labels]
    return kept, int(large.sum())


def _components(mask: Mask) -> tuple[NDArray[np.int32], int]:
    found: Any = ndimage.label(mask, np.ones((3, 3), dtype=bool))
    return found
