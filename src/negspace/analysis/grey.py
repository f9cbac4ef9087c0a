"""From pixels to one grey value each, 0 black and 1 white (step 1 of the analysis)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from negspace.analysis.image import FloatImage, ImageHandle, Level, Scale, Window, valid_values

# Luminance of linear RGB after ITU-R BT.709, the weights scikit-image uses.
_LUMINANCE: Final = (0.2125, 0.7154, 0.0721)
_CHANNELS: Final = {"red": 0, "green": 1, "blue": 2}

# Above this, quality is measured in nine full-resolution windows instead of everywhere.
_WHOLE_PIXELS: Final = 16_000_000
_WINDOW_SIDE: Final = 1024


def limits(scale: Scale, level: Level) -> tuple[float, float]:
    """The values that become 0 and 1: the type's range, or that of the valid values."""
    if scale.low is not None and scale.high is not None:
        return scale.low, scale.high
    return level.low, level.high


def grey_of(values: FloatImage, scale: Scale, level: Level, channel: str) -> FloatImage:
    """Grey of 0..1 from valid values; NaN stays NaN.

    Args:
        values: (height, width) or (height, width, 3), as ``valid_values`` returns them.
        scale: What the values mean.
        level: Where the range of physical values comes from.
        channel: ``grey`` (luminance), or ``red``, ``green``, ``blue`` of a colour image.
    """
    if values.ndim == 3:
        if channel in _CHANNELS:
            values = values[:, :, _CHANNELS[channel]]
        else:
            values = values @ np.asarray(_LUMINANCE, dtype=values.dtype)
    low, high = limits(scale, level)
    span = high - low
    grey = (values - low) / span if span > 0 else values * 0.0
    return (1.0 - grey if scale.inverted else grey).astype(np.float32)


def quality_windows(
    image: ImageHandle, level: Level, channel: str
) -> tuple[list[NDArray[np.float32]], float]:
    """Full-resolution grey to measure quality on, and the share of the image it covers.

    An image of up to 16 million pixels is taken whole; of a larger one, nine windows of
    1024 × 1024 spread evenly.
    """
    height, width = image.shape[:2]
    if level.factor == 1:
        return [grey_of(level.pixels, image.scale, level, channel)], 1.0
    if height * width <= _WHOLE_PIXELS:
        windows = [Window(0, 0, height, width)]
    else:
        windows = [
            Window(top, left, min(_WINDOW_SIDE, height), min(_WINDOW_SIDE, width))
            for top in _starts(height)
            for left in _starts(width)
        ]
    greys = [
        grey_of(valid_values(image.read(window)), image.scale, level, channel) for window in windows
    ]
    return greys, sum(g.size for g in greys) / (height * width)


def _starts(length: int) -> list[int]:
    if length < 3 * _WINDOW_SIDE:  # they would overlap
        return [max(0, (length - _WINDOW_SIDE) // 2)]
    spare = length - _WINDOW_SIDE
    return [round(spare * share) for share in (0, 0.5, 1)]
