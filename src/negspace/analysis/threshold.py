"""Where emptiness ends: the threshold, and how far it can be trusted (steps 7 and 8)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from skimage import filters

# What Otsu reaches on pure noise: of a normal distribution cut at its mean, between-class over
# total variance is 2/π. The top-hat of noise is skewed and reaches 0.66 to 0.68 (measured).
_ETA_OF_NOISE: Final = 2 / math.pi
_ETA_OF_NOISE_IN_RIDGES: Final = 0.68
# The smallest spread a background can have: one grey level of 256, evenly spread.
_LEAST_SIGMA: Final = 1 / 255 / math.sqrt(12)
_MAD_TO_SIGMA: Final = 1.4826
_METHODS: Final[dict[str, Any]] = {
    "otsu": filters.threshold_otsu,
    "li": filters.threshold_li,
    "triangle": filters.threshold_triangle,
}


@dataclass(frozen=True)
class Threshold:
    """The value up to which activity is empty.

    Attributes:
        value: In units of the activity map.
        eta: Between-class over total variance of the two classes, 0..1.
        separability: How far the classes stand apart beyond what noise would give, 0..1.
        stability: The smaller area ratio of the masks a little below and above, 0..1.
    """

    value: float
    eta: float
    separability: float
    stability: float

    @property
    def confidence(self) -> float:
        """sqrt(separability × stability): a rank, no probability."""
        return math.sqrt(self.separability * self.stability)


def find(values: NDArray[np.floating[Any]], parameters: dict[str, Any]) -> Threshold | None:
    """The threshold of the valid activity values.

    Args:
        values: One dimension.
        parameters: All, resolved.

    Returns:
        None where all values are equal, so that nothing can be told apart.
    """
    if float(values.max() - values.min()) < 1e-6:
        return None
    method, k = parameters["threshold"], parameters["background_k"]
    if method == "background":
        value, spread = _background(values, k)
    else:
        value, spread = float(_METHODS[method](values)), values
    eta = _eta(values, value)
    if method == "background":
        separability = _beyond_tail(values, value, k, _patch(parameters))
    else:
        chance = _ETA_OF_NOISE_IN_RIDGES if parameters["mode"] == "ridge" else _ETA_OF_NOISE
        separability = (eta - chance) / (1 - chance)
    p1, p99 = np.percentile(spread, (1, 99))
    delta = parameters["stability_delta"] * float(p99 - p1)
    return Threshold(
        value=value,
        eta=eta,
        separability=min(1.0, max(0.0, separability)),
        stability=_stability(values, value, delta),
    )


def _background(
    values: NDArray[np.floating[Any]], k: float
) -> tuple[float, NDArray[np.floating[Any]]]:
    """Median + k σ of what is left when values 3 σ from the median are clipped away.

    Also what is left: against its range the stability is measured, because bright figures
    would widen that of all values to many σ.
    """
    kept, median, sigma = values, 0.0, _LEAST_SIGMA
    for _ in range(10):
        median = float(np.median(kept))
        sigma = max(_LEAST_SIGMA, _MAD_TO_SIGMA * float(np.median(np.abs(kept - median))))
        inside = kept[np.abs(kept - median) <= 3 * sigma]
        if inside.size == kept.size:
            break
        kept = inside
    return median + k * sigma, kept


def _beyond_tail(values: NDArray[np.floating[Any]], value: float, k: float, patch: float) -> float:
    """1 − Q(k) / f: the share of what lies above that a normal background doesn't explain.

    Q is raised by two standard errors, so that a few chance pixels more earn nothing. As the
    filters make neighbours alike, ``patch`` pixels count as one independent sample.
    """
    above = float(np.count_nonzero(values > value)) / values.size
    tail = 0.5 * math.erfc(k / math.sqrt(2))
    tail += 2 * math.sqrt(tail * patch / values.size)
    return 1 - tail / above if above > 0 else 0.0


def _patch(parameters: dict[str, Any]) -> float:
    """How many pixels of the activity map are about one independent sample."""
    if parameters["mode"] == "texture":
        return float(parameters["texture_window_px"] ** 2)
    return 1 + 4 * math.pi * parameters["sigma_px"] ** 2


def _eta(values: NDArray[np.floating[Any]], value: float) -> float:
    lower = values <= value
    share = float(np.count_nonzero(lower)) / values.size
    total = float(np.var(values, dtype=np.float64))
    if share in (0.0, 1.0) or total == 0:
        return 0.0
    gap = float(values[lower].mean(dtype=np.float64) - values[~lower].mean(dtype=np.float64))
    return min(1.0, share * (1 - share) * gap * gap / total)


def _stability(values: NDArray[np.floating[Any]], value: float, delta: float) -> float:
    counts = [int(np.count_nonzero(values <= value + step)) for step in (-delta, 0, delta)]
    if counts[0] == 0:
        return 0.0
    return min(counts[0] / counts[1], counts[1] / counts[2])
