"""The reference analyser: which part of an image is empty, and into which voids it falls.

Light to import: the steps, and with them numpy, scipy and scikit-image, are loaded when an
image is analysed. The method is described in docs/analysis.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from negspace.analysis import Analysis
from negspace.analysis import parameters as rules

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from negspace.analysis.image import ImageHandle

_MODES: Final = ("dark", "bright", "texture", "ridge")
_METHODS: Final = ("otsu", "background", "li", "triangle")


def _number(default: float, low: float, high: float, meaning: str) -> dict[str, Any]:
    return {
        "type": "number",
        "default": float(default),
        "minimum": low,
        "maximum": high,
        "description": meaning,
    }


def _count(default: int, low: int, high: int, meaning: str) -> dict[str, Any]:
    return _number(default, low, high, meaning) | {"type": "integer", "default": default}


def _choice(options: tuple[str, ...], meaning: str) -> dict[str, Any]:
    return {
        "type": "string",
        "default": options[0],
        "enum": list(options),
        "description": meaning,
    }


_SCHEMA: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Parameters of negative_space 1",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "mode": _choice(_MODES, "what counts as activity: light, darkness, texture, dark lines"),
        "threshold": _choice(_METHODS, "how the threshold is found"),
        "channel": _choice(("grey", "red", "green", "blue"), "what of a colour image is used"),
        "valid_area": _choice(("all", "auto"), "auto leaves out black padding at the border"),
        "sigma_px": _number(1, 0, 50, "smoothing, in pixels of the analysed grid"),
        "texture_window_px": _count(15, 3, 255, "side of the window of the local deviation, px"),
        "ridge_scales_px": {
            "type": "array",
            "items": {"type": "integer", "minimum": 1, "maximum": 100},
            "minItems": 1,
            "maxItems": 8,
            "uniqueItems": True,
            "default": [2, 4],
            "description": "radii of the black top-hats, px",
        },
        "background_k": _number(3, 0.5, 20, "background threshold: median + k σ"),
        "clean_radius_px": _count(2, 0, 50, "disc of opening and closing, px; 1 for ridge"),
        "min_area_px": _count(64, 1, 10**9, "smaller empty components are dropped, px²"),
        "min_radius_px": _number(3, 1, 10**5, "voids with a smaller circle are left out, px"),
        "saddle_ratio": _number(0.75, 0.01, 1, "neck over radius from which two voids are one"),
        "max_pixels": _count(2_000_000, 64, 100_000_000, "size of the analysed grid, px"),
        "max_voids": _count(100, 1, 100_000, "how many voids are stored"),
        "anomaly_z": _number(3.5, 0.1, 1000, "modified z-score from which a void is unusual"),
        "anomaly_min_voids": _count(8, 3, 10**6, "with fewer voids none is unusual"),
        "stability_delta": _number(0.05, 0.001, 0.5, "shift of the threshold, of p1..p99"),
    },
}

_PROFILES: Final[dict[str, dict[str, Any]]] = {
    "astronomy": {"mode": "dark", "threshold": "background"},
    "fundus": {
        "mode": "ridge",
        "threshold": "otsu",
        "channel": "green",
        "ridge_scales_px": [4, 8],
        "valid_area": "auto",
    },
    "radiology": {"mode": "dark", "threshold": "otsu"},
    "photo": {"mode": "texture", "threshold": "otsu"},
    "document": {"mode": "bright", "threshold": "otsu"},
}


class NegativeSpace:
    """The analyser ``negative_space``."""

    name = "negative_space"
    version = "1.0.0"
    summary = "Empty area, its voids, how large and how unusual they are."

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the parameters."""
        return _SCHEMA

    @property
    def profiles(self) -> Mapping[str, Mapping[str, Any]]:
        """Named sets of parameters; the rest keep their default."""
        return _PROFILES

    def resolve(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters, checked; equal sets give equal JSON.

        Raises:
            InvalidInputError: A parameter is unknown or has a value that isn't allowed.
        """
        given = dict(parameters)
        if given.get("mode") == "ridge":  # vessels are thin: a larger disc would close them
            given.setdefault("clean_radius_px", 1)
        return rules.resolve(_SCHEMA, given, owner=self.name)

    def analyze(self, image: ImageHandle, parameters: Mapping[str, Any]) -> Analysis:
        """Analyse one image.

        Args:
            image: Any size; more than ``max_pixels`` is analysed shrunk.
            parameters: What differs from the defaults.

        Raises:
            InvalidInputError: A parameter is unknown or not allowed.
            ImageError: The pixels can't be decoded.
        """
        from negspace.analysis import pipeline

        resolved = self.resolve(parameters)
        return pipeline.run(image, resolved, name=self.name, version=self.version)


def analyze(
    image: NDArray[Any],
    parameters: Mapping[str, Any] | None = None,
    *,
    valid: NDArray[np.bool_] | None = None,
) -> Analysis:
    """Analyse an array: the same pixels and parameters always give the same result.

    Args:
        image: (height, width) or (height, width, 1 to 4): grey, grey and alpha, RGB, RGBA;
            booleans, integers or floats. It isn't changed.
        parameters: What differs from the defaults; see ``NegativeSpace.schema``.
        valid: (height, width), false where a pixel is to be left out, or None.

    Returns:
        Coordinates in it are (y, x) of the full-resolution image, origin top left.

    Raises:
        InvalidInputError: A parameter is unknown or not allowed, or ``valid`` doesn't fit.
        ImageError: The array is no image of these kinds.
    """
    from negspace.analysis.image import MemoryImage

    return NegativeSpace().analyze(MemoryImage.of(image, valid=valid), parameters or {})
