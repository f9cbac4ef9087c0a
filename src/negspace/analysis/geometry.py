"""What is measured of the emptiness as a whole (step 12).

Box sizes and the distances of the empty-space function are in pixels of the analysed grid;
perimeters, circles and rectangles in full-resolution pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from negspace.analysis.activity import Mask
from negspace.analysis.measures import circle


def minkowski(mask: Mask, valid: Mask, factor: int) -> dict[str, float | int]:
    """The three Minkowski functionals of the plane, which every additive shape measure is made of.

    Returns:
        ``area_fraction`` of the valid pixels; ``perimeter_px`` by Crofton's formula in four
        directions, the image's edge not counted twice; ``euler``: components minus holes,
        pixels that touch at a corner being connected.
    """
    return {
        "area_fraction": fraction(mask, valid),
        "perimeter_px": float(measure.perimeter_crofton(mask, directions=4)) * factor,
        "euler": int(measure.euler_number(mask, connectivity=2)),
    }


def fraction(mask: Mask, valid: Mask) -> float:
    """Empty pixels as a share of the valid ones; 0 where none is valid."""
    return float(np.count_nonzero(mask)) / max(1, int(np.count_nonzero(valid)))


def empty_space(mask: Mask, distance: NDArray[np.float64]) -> dict[str, float]:
    """P(D ≥ r): how many of the empty pixels are at least r from any obstacle.

    r is 1, 2, 4, … up to the largest distance there is.
    """
    inside = distance[mask]
    found: dict[str, float] = {}
    r = 1
    while inside.size and r <= inside.max():
        found[str(r)] = float(np.count_nonzero(inside >= r)) / inside.size
        r *= 2
    return found


def lacunarity(mask: Mask, valid: Mask) -> dict[str, float]:
    """Gliding-box lacunarity E[M²] / E[M]² of the empty mass M of boxes of side 2, 4, … 64.

    1 where every box holds as much emptiness as any other; independent pixels of probability
    p give 1 + (1 − p) / (p b²). Only boxes that lie within the valid area count.

    Sources:
        Allain and Cloitre, Physical Review A 44, 3552 (1991).
    """
    mass, room = _integral(mask), _integral(valid)
    found: dict[str, float] = {}
    for side in (2, 4, 8, 16, 32, 64):
        if side > min(mask.shape):
            break
        full = _box_sums(room, side) == side * side
        masses = _box_sums(mass, side)[full].astype(np.float64)
        mean = float(masses.mean()) if masses.size else 0.0
        if mean > 0:
            found[str(side)] = float((masses * masses).mean()) / mean**2
    return found


def _integral(mask: Mask) -> NDArray[np.int64]:
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int64)
    np.cumsum(np.cumsum(mask, axis=0, dtype=np.int64), axis=1, out=total[1:, 1:])
    return total


def _box_sums(integral: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    return (
        integral[side:, side:]
        - integral[:-side, side:]
        - integral[side:, :-side]
        + integral[:-side, :-side]
    )


def boundary_dimension(mask: Mask) -> float | None:
    """Box-counting dimension of the border between empty and not: 1 smooth, towards 2 ragged.

    Boxes of side 1, 2, 4, … up to a quarter of the image.

    Returns:
        None where there is no border, or the image is too small for three box sizes.
    """
    inner: Any = ndimage.binary_erosion(mask, border_value=1)
    border = mask & ~inner
    sides = [2**n for n in range(16) if 2**n <= min(mask.shape) / 4]
    if len(sides) < 3 or not border.any():
        return None
    counts = [_boxes(border, side) for side in sides]
    return -float(np.polyfit(np.log(sides), np.log(counts), 1)[0])


def _boxes(border: Mask, side: int) -> int:
    padded = np.pad(border, [(0, -length % side) for length in border.shape])
    height, width = padded.shape
    blocks = padded.reshape(height // side, side, width // side, side)
    return int(np.count_nonzero(blocks.any(axis=(1, 3))))


def largest_circle(distance: NDArray[np.float64], factor: int) -> dict[str, float] | None:
    """The largest circle that is empty all over, or None where nothing is empty."""
    centre = np.array(np.unravel_index(int(distance.argmax()), distance.shape))
    radius = float(distance[tuple(centre)])
    return circle(centre, radius, factor) if radius > 0 else None


def largest_rectangle(mask: Mask, factor: int) -> dict[str, int] | None:
    """The upright rectangle of most pixels that is empty all over: room for a text.

    For each pixel, the run of empty pixels above it and how far a rectangle of that height
    reaches to both sides, a row at a time from the row before: O(pixels).

    Returns:
        ``y``, ``x`` (top left), ``h``, ``w``; None where nothing is empty.
    """
    width = mask.shape[1]
    columns = np.arange(width)
    height = np.zeros(width, dtype=np.int64)
    left, right = np.zeros(width, dtype=np.int64), np.full(width, width)
    best, at = 0, (0, 0, 0, 0)
    for y, row in enumerate(mask):
        height = np.where(row, height + 1, 0)
        run_start = np.maximum.accumulate(np.where(row, 0, columns + 1))
        run_end = np.minimum.accumulate(np.where(row, width, columns)[::-1])[::-1]
        left = np.where(row, np.maximum(left, run_start), 0)
        right = np.where(row, np.minimum(right, run_end), width)
        area = height * (right - left)
        x = int(area.argmax())
        if area[x] > best:
            best = int(area[x])
            h = int(height[x])
            at = (y - h + 1, int(left[x]), h, int(right[x] - left[x]))
    if best == 0:
        return None
    return dict(zip(("y", "x", "h", "w"), (value * factor for value in at), strict=True))


def radius_summary(radii: NDArray[np.float64], factor: int) -> dict[str, float] | None:
    """Largest, median and 90th percentile of the inscribed radii, or None without voids."""
    if radii.size == 0:
        return None
    full = radii * factor
    return {
        "max": float(full.max()),
        "median": float(np.median(full)),
        "p90": float(np.percentile(full, 90)),
    }


def radius_histogram(radii: NDArray[np.float64], factor: int) -> dict[str, list[Any]]:
    """How many voids are how large: the bins' edges are powers of the square root of 2.

    The edges don't depend on the image, so that histograms can be added and compared.
    ``edges_px`` has one entry more than ``counts``; a bin includes its lower edge.
    """
    if radii.size == 0:
        return {"edges_px": [], "counts": []}
    full = radii * factor
    first = int(np.floor(2 * np.log2(full.min()) + 1e-9))
    last = int(np.floor(2 * np.log2(full.max()) + 1e-9)) + 1
    edges = 2.0 ** (np.arange(first, last + 1) / 2)
    index = np.floor(2 * np.log2(full) + 1e-9).astype(int) - first
    counts = np.bincount(index, minlength=last - first)
    return {"edges_px": edges.tolist(), "counts": counts.tolist()}
