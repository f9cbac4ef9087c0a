"""What is measured of each void, and which voids are unusual (step 11).

Lengths, areas and coordinates are of the full-resolution image: the grid's, times its shrink
factor. A pixel's coordinate is that of its centre.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from skimage import measure

from negspace.analysis.voids import Catalogue

# Differences smaller than these are the pixel grid's, not the voids': the least spread that
# a feature is taken to have (logarithm of pixels, the same squared, shares of 1).
_LEAST_SPREAD: Final = {"size": 0.05, "area": 0.1, "solidity": 0.03, "depth": 0.03}
# Which way is unusual. Small voids are what min_radius_px cuts the tail of, and being convex
# is nothing odd, so these count in one direction only.
_DIRECTIONS: Final = {"size": (1,), "area": (1,), "solidity": (-1,), "depth": (-1, 1)}


def upscaled(coordinate: float, factor: int) -> float:
    """The full-resolution coordinate of the centre of a grid pixel."""
    return (coordinate + 0.5) * factor - 0.5


def of_voids(
    catalogue: Catalogue,
    activity: NDArray[np.float32],
    threshold: float,
    *,
    factor: int,
    most: int,
) -> tuple[list[dict[str, Any]], dict[str, NDArray[np.float64]]]:
    """Each void in full, for the ``most`` largest, and the features of all.

    Args:
        catalogue: The voids on the grid.
        activity: The activity map of the grid.
        threshold: The value below which it is empty.
        factor: Full-resolution pixels along the side of a grid pixel.
        most: How many voids are described; solidity is measured for these alone.

    Returns:
        The descriptions (``id`` from 1, the largest inscribed circle first), and by feature
        (size, area, solidity, depth) one value per void; NaN where it wasn't measured.
    """
    count = len(catalogue.radii)
    if count == 0:
        return [], {name: np.zeros(0) for name in _LEAST_SPREAD}
    regions: list[Any] = measure.regionprops(catalogue.labels)
    labels = catalogue.labels.ravel()
    areas = np.bincount(labels)[1:]
    means = np.bincount(labels, activity.ravel())[1:] / areas
    depth = np.clip(1 - means / threshold, 0, 1) if threshold > 0 else np.zeros(count)
    solidity = np.full(count, np.nan)
    solidity[:most] = [_solidity(region) for region in regions[:most]]
    described = [
        _described(region, catalogue, factor)
        | {"solidity": float(s), "depth": float(d)}
        | {"touches_border": _touches(region.bbox, catalogue.labels.shape)}
        for region, s, d in zip(regions[:most], solidity[:most], depth[:most], strict=True)
    ]
    return described, {
        "size": np.log(catalogue.radii * factor),
        "area": np.log(areas * float(factor) ** 2),
        "solidity": solidity,
        "depth": depth,
    }


def _described(region: Any, catalogue: Catalogue, factor: int) -> dict[str, Any]:
    index = region.label - 1
    top, left, bottom, right = region.bbox
    return {
        "id": region.label,
        "area_px": float(region.area) * factor**2,
        "eq_diameter_px": float(region.equivalent_diameter_area) * factor,
        "centroid": [upscaled(float(c), factor) for c in region.centroid],
        "inscribed": circle(catalogue.centres[index], float(catalogue.radii[index]), factor),
        "bbox": [top * factor, left * factor, bottom * factor, right * factor],
        "eccentricity": float(region.eccentricity),
    }


def circle(centre: NDArray[np.intp], radius: float, factor: int) -> dict[str, float]:
    """A circle of the grid as results state it: full-resolution centre and radius."""
    return {
        "cy": upscaled(float(centre[0]), factor),
        "cx": upscaled(float(centre[1]), factor),
        "r": float(radius) * factor,
    }


def _solidity(region: Any) -> float:
    """Area over that of the convex hull; 1 where a void is too thin to have a hull."""
    height, width = region.image.shape
    if min(height, width) < 3 or region.area < 9:
        return 1.0
    return min(1.0, float(region.area) / float(region.area_convex))


def _touches(bbox: tuple[int, int, int, int], shape: tuple[int, ...]) -> bool:
    return bbox[0] == 0 or bbox[1] == 0 or bbox[2] == shape[0] or bbox[3] == shape[1]


def anomalies(
    described: list[dict[str, Any]],
    features: dict[str, NDArray[np.float64]],
    *,
    limit: float,
) -> list[dict[str, Any]]:
    """The described voids that differ from the others, the strangest first.

    The modified z-score of Iglewicz and Hoaglin (1993), 0.6745 (x − median) / MAD, per
    feature over all voids: large, ragged (low solidity), shallow or deep ones. Median and
    MAD, because mean and standard deviation hide outliers behind themselves.

    Args:
        described: The voids that are stored.
        features: Of all voids, as ``of_voids`` returns them.
        limit: From which |z| a void is an anomaly.

    Returns:
        One entry per void, with its strongest feature first and as ``type``.
    """
    scores = {name: _modified_z(values, _LEAST_SPREAD[name]) for name, values in features.items()}
    found: list[dict[str, Any]] = []
    for void in described:
        strong = _unusual({name: float(z[void["id"] - 1]) for name, z in scores.items()}, limit)
        if strong:
            kind, z = next(iter(strong.items()))
            entry = {"void_id": void["id"], "type": kind, "z": z, "features": strong}
            place = {"centroid": void["centroid"], "r": void["inscribed"]["r"]}
            found.append(entry | place)
    return sorted(found, key=lambda entry: (-abs(entry["z"]), entry["void_id"]))


def _unusual(scores: dict[str, float], limit: float) -> dict[str, float]:
    """The scores that reach the limit in a direction that counts, the strongest first."""
    strong = {
        feature: z
        for feature, z in scores.items()
        if any(z * direction >= limit for direction in _DIRECTIONS[feature])
    }
    return dict(sorted(strong.items(), key=lambda item: -abs(item[1])))


def _modified_z(values: NDArray[np.float64], least_spread: float) -> NDArray[np.float64]:
    measured = values[np.isfinite(values)]
    middle = np.median(measured)
    spread = max(float(np.median(np.abs(measured - middle))), 0.6745 * least_spread)
    return np.nan_to_num(0.6745 * (values - middle) / spread)
