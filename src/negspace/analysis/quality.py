"""How good the image itself is, whatever it shows (step 2)."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# The difference of two Laplacians: it sees noise but neither slopes nor edges along the axes.
_IMMERKAER: Final = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)
_NAMES: Final = (
    "sharpness_var_laplacian",
    "noise_sigma",
    "snr_db",
    "saturated_low_fraction",
    "saturated_high_fraction",
    "dynamic_range",
    "contrast_p1_p99",
    "entropy_bits",
    "median",
)


def metrics(windows: list[NDArray[np.float32]]) -> dict[str, float | None]:
    """Quality of full-resolution grey.

    Args:
        windows: Grey of 0..1, NaN where not valid: the whole image, or parts of it.

    Returns:
        ``sharpness_var_laplacian`` (grey levels of 0..255, squared); ``noise_sigma``,
        ``dynamic_range`` (p0.1–p99.9), ``contrast_p1_p99`` and ``median`` in units of the
        grey scale; ``snr_db`` = 20 log10(contrast / noise), None without noise or contrast;
        the fractions of pixels at either end of the scale; ``entropy_bits`` of 256 levels,
        0..8. All None where no pixel is valid.

    Sources:
        Noise: Immerkær, Computer Vision and Image Understanding 64, 300 (1996), with the
        median of the absolute response instead of its mean, which edges would raise.
    """
    values = _finite(windows)
    if values.size == 0:
        return dict.fromkeys(_NAMES)
    low, p1, median, p99, high = (float(p) for p in np.percentile(values, (0.1, 1, 50, 99, 99.9)))
    noise = noise_sigma(windows)
    laplacian = _finite([ndimage.laplace(w, mode="nearest") for w in windows])
    levels = np.clip(values * 256, 0, 255).astype(np.uint8)
    shares = np.bincount(levels, minlength=256) / values.size
    return {
        "sharpness_var_laplacian": float(np.var(laplacian, dtype=np.float64)) * 255**2
        if laplacian.size
        else None,
        "noise_sigma": noise,
        "snr_db": 20 * math.log10((p99 - p1) / noise) if noise and p99 > p1 else None,
        "saturated_low_fraction": float(np.count_nonzero(values <= 0)) / values.size,
        "saturated_high_fraction": float(np.count_nonzero(values >= 1)) / values.size,
        "dynamic_range": high - low,
        "contrast_p1_p99": p99 - p1,
        "entropy_bits": float(-np.sum(shares[shares > 0] * np.log2(shares[shares > 0]))) + 0.0,
        "median": median,
    }


def noise_sigma(windows: list[NDArray[np.float32]]) -> float | None:
    """Standard deviation of the noise, in units of the grey scale; None under 3 × 3 pixels."""
    large = [w for w in windows if min(w.shape) >= 3]
    response = _finite([ndimage.convolve(w, _IMMERKAER)[1:-1, 1:-1] for w in large])
    if response.size == 0:
        return None
    return float(np.median(np.abs(response))) / 0.6745 / 6


def _finite(windows: list[Any]) -> NDArray[np.float32]:
    parts = [w[np.isfinite(w)] for w in windows]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
