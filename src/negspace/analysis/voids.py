"""One connected emptiness as a catalogue of voids (steps 9 and 10).

A watershed of the distance map cuts the emptiness at its narrow places; neighbours are then
merged where the neck between them is nearly as wide as the smaller of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import feature, segmentation

from negspace.analysis.activity import Mask

# Flattens the pixel steps of the distance map, which would each be a peak.
_SMOOTHING_PX: Final = 2.0
# A peak this deep inside a larger circle, as a share of its radius, is no void of its own.
_SUPPRESSION: Final = 0.8
# Distances run to the centre of the obstacle's pixel, half a pixel behind its edge.
_HALF: Final = 0.5


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The voids of a mask, the largest inscribed circle first.

    Attributes:
        labels: (height, width) of the grid: 1 for the first void, 0 outside all.
        centres: (count, 2): (y, x) of the inscribed circles, in pixels of the grid.
        radii: (count,): their radii.
    """

    labels: NDArray[np.int32]
    centres: NDArray[np.intp]
    radii: NDArray[np.float64]


def distances(mask: Mask) -> NDArray[np.float64]:
    """For each empty pixel, how far the nearest obstacle is, in pixels of the grid.

    The image's edge is an obstacle, so a circle of that radius lies inside the image.
    """
    found: Any = ndimage.distance_transform_edt(np.pad(mask, 1))
    return found[1:-1, 1:-1]


def find(
    mask: Mask, distance: NDArray[np.float64], *, min_radius: float, saddle_ratio: float
) -> Catalogue:
    """The voids of a mask.

    Args:
        mask: True where empty.
        distance: What ``distances`` returns for it.
        min_radius: Voids whose inscribed circle is smaller are left out.
        saddle_ratio: Two neighbours become one void where the half-width of the neck between
            them is at least this share of the smaller one's radius.
    """
    smooth = ndimage.gaussian_filter(distance, _SMOOTHING_PX)
    peaks = _peaks(smooth, distance, min_radius)
    markers = np.zeros(mask.shape, dtype=np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    basins: NDArray[np.int32] = segmentation.watershed(-smooth, markers, mask=mask)
    centres, radii = _inscribed(basins, distance, len(peaks))
    labels = _merged(basins, distance, radii, saddle_ratio)[basins]
    return _by_size(labels, centres, radii)


def _peaks(
    smooth: NDArray[np.float64], distance: NDArray[np.float64], min_radius: float
) -> NDArray[np.intp]:
    """Peaks of the distance map, largest first, none deep inside the circle of another."""
    found = feature.peak_local_max(smooth, min_distance=1, exclude_border=False)
    radii = distance[tuple(found.T)]
    order = np.lexsort((found[:, 1], found[:, 0], -smooth[tuple(found.T)]))
    covered = np.zeros(distance.shape, dtype=bool)
    kept: list[NDArray[np.intp]] = []
    for index in order:
        y, x = found[index]
        if radii[index] < min_radius or covered[y, x]:
            continue
        kept.append(found[index])
        _cover(covered, int(y), int(x), _SUPPRESSION * float(radii[index]))
    return np.array(kept, dtype=np.intp).reshape(-1, 2)


def _cover(covered: Mask, y: int, x: int, radius: float) -> None:
    reach = int(radius)
    top, left = max(0, y - reach), max(0, x - reach)
    part = covered[top : y + reach + 1, left : x + reach + 1]
    rows = np.arange(top, top + part.shape[0])[:, None] - y
    columns = np.arange(left, left + part.shape[1]) - x
    part |= rows * rows + columns * columns <= radius * radius


def _inscribed(
    labels: NDArray[np.int32], distance: NDArray[np.float64], count: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Centre and radius of the largest circle of each label; the first in reading order."""
    if count == 0:
        return np.zeros((0, 2), dtype=np.intp), np.zeros(0)
    radii = np.zeros(count + 1)
    np.maximum.at(radii, labels.ravel(), distance.ravel())
    largest = np.flatnonzero((distance == radii[labels]) & (labels > 0))
    _, first = np.unique(labels.ravel()[largest], return_index=True)
    centres = np.stack(np.unravel_index(largest[first], labels.shape), axis=1)
    return centres, radii[1:]


def _merged(
    basins: NDArray[np.int32],
    distance: NDArray[np.float64],
    radii: NDArray[np.float64],
    saddle_ratio: float,
) -> NDArray[np.int32]:
    """For each basin the one it becomes part of, the highest saddle merged first."""
    parent = list(range(len(radii) + 1))

    def root(label: int) -> int:
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    for first, second, height in _saddles(basins, distance):
        one, other = root(first), root(second)
        if one == other:
            continue
        if radii[one - 1] < radii[other - 1]:
            one, other = other, one
        if height - _HALF >= saddle_ratio * (radii[other - 1] - _HALF):
            parent[other] = one
    return np.array([root(label) for label in range(len(parent))], dtype=np.int32)


def _saddles(
    basins: NDArray[np.int32], distance: NDArray[np.float64]
) -> list[tuple[int, int, float]]:
    """(label, label, height) of each pair of neighbours, the highest first."""
    pairs: list[NDArray[np.int32]] = []
    heights: list[NDArray[np.float64]] = []
    for one, other in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
        (np.s_[:-1, 1:], np.s_[1:, :-1]),
    ):
        a, b = basins[one], basins[other]
        border = (a != b) & (a > 0) & (b > 0)
        pairs.append(np.sort(np.stack([a[border], b[border]], axis=1), axis=1))
        heights.append(np.minimum(distance[one][border], distance[other][border]))
    pair, height = np.concatenate(pairs), np.concatenate(heights)
    order = np.lexsort((pair[:, 1], pair[:, 0], -height))
    unique = dict[tuple[int, int], float]()
    for (a, b), h in zip(pair[order].tolist(), height[order].tolist(), strict=True):
        unique.setdefault((a, b), h)
    return [(a, b, h) for (a, b), h in unique.items()]


def _by_size(
    labels: NDArray[np.int32], centres: NDArray[np.intp], radii: NDArray[np.float64]
) -> Catalogue:
    """Only the labels in use, renumbered by falling radius."""
    used = np.unique(labels[labels > 0])
    index = used - 1
    order = np.lexsort((centres[index, 1], centres[index, 0], -radii[index]))
    index = index[order]
    numbers = np.zeros(len(radii) + 1, dtype=np.int32)
    numbers[index + 1] = np.arange(1, len(index) + 1)
    return Catalogue(numbers[labels], centres[index], radii[index])
