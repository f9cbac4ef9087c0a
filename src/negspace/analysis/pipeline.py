"""The steps of ``negative_space`` in their order, from an image to its analysis."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version as version_of
from typing import Any, Final

import numpy as np
import scipy
from numpy.typing import NDArray

from negspace.analysis import Analysis, activity, geometry, grey, measures, quality, voids
from negspace.analysis import threshold as thresholds
from negspace.analysis.activity import Mask
from negspace.analysis.image import FloatImage, ImageHandle, Level
from negspace.analysis.threshold import Threshold

SCHEMA: Final = "negspace.negative_space/1"
_LOW_CONFIDENCE: Final = 0.3


@dataclass(frozen=True, eq=False)
class _Grid:
    """The analysed grid.

    Attributes:
        factor: Full-resolution pixels along the side of one of its pixels.
        valid: Which pixels count.
        activity: How much is going on at each, or None where all are equal.
        threshold: Up to which activity a pixel is empty, or None where nothing can be told.
    """

    factor: int
    valid: Mask
    activity: NDArray[np.float32] | None
    threshold: Threshold | None


def run(image: ImageHandle, parameters: dict[str, Any], *, name: str, version: str) -> Analysis:
    """Analyse an image with resolved parameters."""
    level = image.pyramid(parameters["max_pixels"])
    windows, share = grey.quality_windows(image, level, parameters["channel"])
    shrunk = grey.grey_of(level.pixels, image.scale, level, parameters["channel"])
    grid, flags = _prepared(shrunk, level.factor, parameters)
    if image.channels < 3 and parameters["channel"] != "grey":
        flags.append("channel_absent")
    mask, components = _mask(grid, parameters)
    distance = voids.distances(mask)
    catalogue, data, odd = _catalogued(grid, mask, distance, parameters, flags)
    confidence = grid.threshold.confidence if grid.threshold and mask.any() else 0.0
    if confidence < _LOW_CONFIDENCE:
        flags.append("low_confidence")
    metrics: dict[str, Any] = quality.metrics(windows)
    return Analysis.checked(
        negative_space_data={
            "schema": SCHEMA,
            "grid": _described(shrunk, grid),
            "scale": _scale(image, level),
            "mode": parameters["mode"],
            "threshold": {
                "method": parameters["threshold"],
                "value": grid.threshold.value if grid.threshold else None,
            },
            "flags": flags,
            "negative_fraction": geometry.fraction(mask, grid.valid),
            "components": components,
        }
        | _whole(grid, mask, distance)
        | data,
        anomalies=odd,
        confidence_score=confidence,
        quality_metrics=metrics if share == 1 else metrics | {"sampled_fraction": share},
        mask=mask,
        labels=catalogue.labels,
        provenance=_provenance(name, version),
    )


def _prepared(
    shrunk: FloatImage, factor: int, parameters: dict[str, Any]
) -> tuple[_Grid, list[str]]:
    """Steps 4 to 7, and why they stopped early, where they did."""
    valid = activity.valid_area(shrunk, parameters["valid_area"])
    if not valid.any():
        return _Grid(factor, valid, None, None), ["no_valid_pixels"]
    normal = activity.normalise(shrunk, valid)
    if normal is None:
        return _Grid(factor, valid, None, None), ["constant"]
    found = activity.activity(normal, parameters)
    threshold = thresholds.find(found[valid], parameters)
    return _Grid(factor, valid, found, threshold), [] if threshold else ["uniform_activity"]


def _mask(grid: _Grid, parameters: dict[str, Any]) -> tuple[Mask, int]:
    """Step 8: what is empty, and in how many pieces. All of it where nothing can be told apart."""
    if grid.activity is None or grid.threshold is None:
        return grid.valid, activity.without_specks(grid.valid, 1)[1]
    below = (grid.activity <= grid.threshold.value) & grid.valid
    cleaned = activity.clean(below, parameters["clean_radius_px"]) & grid.valid
    return activity.without_specks(cleaned, parameters["min_area_px"])


def _catalogued(
    grid: _Grid,
    mask: Mask,
    distance: NDArray[np.float64],
    parameters: dict[str, Any],
    flags: list[str],
) -> tuple[voids.Catalogue, dict[str, Any], list[dict[str, Any]]]:
    """Steps 10 and 11: the voids, what is stored of them, and the unusual ones."""
    if grid.activity is None or grid.threshold is None:
        searched, floor, value = np.zeros_like(mask), np.zeros(mask.shape, np.float32), 0.0
    else:
        searched, floor, value = mask, grid.activity, grid.threshold.value
    catalogue = voids.find(
        searched,
        distance * searched,
        min_radius=parameters["min_radius_px"],
        saddle_ratio=parameters["saddle_ratio"],
    )
    described, features = measures.of_voids(
        catalogue, floor, value, factor=grid.factor, most=parameters["max_voids"]
    )
    odd: list[dict[str, Any]] = []
    if len(catalogue.radii) >= parameters["anomaly_min_voids"]:
        odd = measures.anomalies(described, features, limit=parameters["anomaly_z"])
    elif len(catalogue.radii) == 0:
        flags.append("no_voids")
    else:
        flags.append("too_few_voids_for_anomalies")
    data = {
        "void_count": len(catalogue.radii),
        "void_radius_px": geometry.radius_summary(catalogue.radii, grid.factor),
        "void_radius_histogram": geometry.radius_histogram(catalogue.radii, grid.factor),
        "voids": described,
    }
    return catalogue, data, odd


def _whole(grid: _Grid, mask: Mask, distance: NDArray[np.float64]) -> dict[str, Any]:
    """Step 12: the emptiness as a whole, and how well it stands apart."""
    threshold = grid.threshold
    return {
        "minkowski": geometry.minkowski(mask, grid.valid, grid.factor),
        "empty_space": geometry.empty_space(mask, distance),
        "lacunarity": geometry.lacunarity(mask, grid.valid),
        "boundary_box_dimension": geometry.boundary_dimension(mask),
        "largest_circle": geometry.largest_circle(distance, grid.factor),
        "largest_rect": geometry.largest_rectangle(mask, grid.factor),
        "separation": {
            "eta": threshold.eta if threshold else 0.0,
            "separability": threshold.separability if threshold else 0.0,
            "stability": threshold.stability if threshold else 0.0,
        },
    }


def _described(shrunk: FloatImage, grid: _Grid) -> dict[str, Any]:
    return {
        "height": shrunk.shape[0],
        "width": shrunk.shape[1],
        "shrink": grid.factor,
        "valid_fraction": float(np.count_nonzero(grid.valid)) / grid.valid.size,
    }


def _scale(image: ImageHandle, level: Level) -> dict[str, Any]:
    low, high = grey.limits(image.scale, level)
    return {
        "kind": image.scale.kind,
        "low": low if np.isfinite(low) else None,
        "high": high if np.isfinite(high) else None,
        "unit": image.scale.unit,
        "inverted": image.scale.inverted,
    }


def _provenance(name: str, version: str) -> dict[str, str]:
    return {
        "analyzer": name,
        "version": version,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "scikit-image": version_of("scikit-image"),
    }
