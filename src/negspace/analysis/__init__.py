"""Analysers: the protocol they follow, what they return, and how they are found.

An analyser is a light class that a distribution names under the entry-point group
``negspace.analyzers``. It gets an image and parameters, and returns an ``Analysis``; it has no
access to the database. Nothing here imports numpy until an image is analysed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, cast, runtime_checkable

from negspace.errors import (
    AnalysisError,
    InvalidInputError,
    NegspaceError,
    NotFoundError,
    RefusedError,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    import numpy as np
    from numpy.typing import NDArray

    from negspace.analysis.image import ImageHandle

GROUP: Final = "negspace.analyzers"
_DIGITS: Final = 6


@dataclass(frozen=True, eq=False)
class Analysis:
    """What an analyser found. Made with ``Analysis.checked``, which validates it.

    Attributes:
        negative_space_data: Plain JSON with a key ``schema`` that names it and its version.
        anomalies: Plain JSON objects, the strangest first.
        confidence_score: 0..1; a rank within one method, no probability.
        quality_metrics: Plain JSON: how good the image is, whatever it shows.
        mask: (height, width) of the analysed grid, true where empty.
        labels: The same shape: the number of the void of each pixel, 0 outside; None where
            the analyser knows no voids.
        provenance: Names and versions of the analyser and of the libraries it used.
    """

    negative_space_data: dict[str, Any]
    anomalies: list[dict[str, Any]]
    confidence_score: float
    quality_metrics: dict[str, Any]
    mask: NDArray[np.bool_] = field(repr=False)
    labels: NDArray[np.int32] | None = field(repr=False, default=None)
    provenance: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def checked(
        cls,
        *,
        negative_space_data: Mapping[str, Any],
        anomalies: Iterable[Mapping[str, Any]],
        confidence_score: float,
        quality_metrics: Mapping[str, Any],
        mask: NDArray[np.bool_],
        labels: NDArray[np.int32] | None = None,
        provenance: Mapping[str, str],
    ) -> Self:
        """An analysis as it is stored: validated, floats of 6 significant digits.

        Raises:
            AnalysisError: Something in it isn't plain JSON, isn't finite, or is missing.
        """
        data = cast("dict[str, Any]", rounded(negative_space_data, "negative_space_data"))
        if not isinstance(data.get("schema"), str):
            raise AnalysisError("negative_space_data has no schema", hint="name and version it")
        confidence = rounded(confidence_score, "confidence_score")
        if not isinstance(confidence, int | float) or not 0 <= confidence <= 1:
            raise AnalysisError(f"confidence_score is {confidence!r}", hint="0 to 1 is allowed")
        if mask.ndim != 2 or mask.dtype != bool:
            raise AnalysisError(f"the mask is {mask.ndim}-dimensional {mask.dtype}, not a plane")
        return cls(
            negative_space_data=data,
            anomalies=[cast("dict[str, Any]", rounded(entry, "anomalies")) for entry in anomalies],
            confidence_score=float(confidence),
            quality_metrics=cast("dict[str, Any]", rounded(quality_metrics, "quality_metrics")),
            mask=mask,
            labels=labels,
            provenance=dict(provenance),
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything but the mask, as JSON knows it."""
        return {
            "negative_space_data": self.negative_space_data,
            "anomalies": self.anomalies,
            "confidence_score": self.confidence_score,
            "quality_metrics": self.quality_metrics,
            "provenance": self.provenance,
        }


@runtime_checkable
class Analyzer(Protocol):
    """What a plug-in offers. Heavy imports belong into ``analyze``."""

    name: str
    version: str
    """Semantic: patch, the same numbers; minor, new keys; major, other numbers."""

    @property
    def schema(self) -> Mapping[str, Any]:
        """The JSON Schema of the parameters."""
        ...

    @property
    def profiles(self) -> Mapping[str, Mapping[str, Any]]:
        """Named sets of parameters."""
        ...

    def resolve(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The full set of parameters, checked; equal sets give equal JSON."""
        ...

    def analyze(self, image: ImageHandle, parameters: Mapping[str, Any]) -> Analysis:
        """Analyse one image."""
        ...


@dataclass(frozen=True)
class Found:
    """An analyser that some distribution offers.

    Attributes:
        name: What it is asked for by.
        version: Its version, or None where it is broken.
        distribution: Who offers it.
        profiles: The names of its profiles.
        problem: Why it can't be used, or None.
    """

    name: str
    version: str | None
    distribution: str
    profiles: tuple[str, ...] = ()
    problem: str | None = None


def found(allowed: Iterable[str] | None = None) -> list[Found]:
    """Every analyser that is installed, broken and forbidden ones with the reason.

    Args:
        allowed: The names that may be used, or None for all. Others are not even loaded.
    """
    allow = None if allowed is None else frozenset(allowed)
    return [_described(name, points, allow) for name, points in sorted(_entry_points().items())]


def get(name: str, allowed: Iterable[str] | None = None) -> Analyzer:
    """The analyser of that name.

    Args:
        name: As its entry point is called.
        allowed: The names that may be used, or None for all.

    Raises:
        NotFoundError: No distribution offers it.
        RefusedError: It is not in the allow-list.
        AnalysisError: It is there and can't be loaded.
    """
    points = _entry_points()
    if name not in points:
        raise NotFoundError(
            f"no analyser is called {name!r}", hint=f"there are {', '.join(sorted(points))}"
        )
    if allowed is not None and name not in allowed:
        raise RefusedError(
            f"the analyser {name!r} is not allowed here", hint="see NEGSPACE_ANALYZERS"
        )
    return _load(name, points[name])


def parameters_of(
    analyzer: Analyzer, profile: str | None, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """What a profile and changes to it resolve to; that is what is stored.

    Raises:
        InvalidInputError: The profile or a parameter is unknown, or a value isn't allowed.
    """
    if profile is not None and profile not in analyzer.profiles:
        names = ", ".join(analyzer.profiles) or "none"
        raise InvalidInputError(
            f"{analyzer.name} has no profile {profile!r}", hint=f"there are {names}"
        )
    base = analyzer.profiles[profile] if profile is not None else {}
    return analyzer.resolve({**base, **changes})


def run(analyzer: Analyzer, image: ImageHandle, parameters: Mapping[str, Any]) -> Analysis:
    """What an analyser finds, validated, with its failures put in words.

    Raises:
        NegspaceError: What the analyser raised of these kinds, such as ``ImageError``.
        AnalysisError: It raised anything else, or returned what can't be stored.
    """
    try:
        found = analyzer.analyze(image, parameters)
        return Analysis.checked(**{each.name: getattr(found, each.name) for each in fields(found)})
    except NegspaceError:
        raise
    except MemoryError as error:
        raise AnalysisError(
            f"{analyzer.name} needs more memory than there is", hint="lower max_pixels"
        ) from error
    except Exception as error:  # foreign code: whatever it raises must stop nothing else
        raise AnalysisError(
            f"{analyzer.name} {analyzer.version} failed: {type(error).__name__}: {error}",
            hint="report it to those who made the analyser, with the image",
        ) from error


def canonical_json(value: object) -> str:
    """The one text of a JSON value: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def rounded(value: object, where: str = "value") -> Any:
    """The value as plain JSON with floats of 6 significant digits.

    Raises:
        AnalysisError: Something in it is not finite or no JSON; the message says where.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise AnalysisError(f"{where} is {value}", hint="use None for what has no value")
        return float(f"{value:.{_DIGITS}g}") + 0.0  # −0.0 becomes 0.0
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(key): rounded(item, f"{where}.{key}") for key, item in items}
    if isinstance(value, list | tuple):
        members = cast("list[object]", value)
        return [rounded(item, f"{where}[{i}]") for i, item in enumerate(members)]
    raise AnalysisError(
        f"{where} is a {type(value).__name__}, no JSON", hint="give plain numbers and texts"
    )


def _entry_points() -> dict[str, list[EntryPoint]]:
    from importlib.metadata import entry_points

    points: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        if point not in points.setdefault(point.name, []):
            points[point.name].append(point)
    return points


def _load(name: str, points: list[EntryPoint]) -> Analyzer:
    if len(points) > 1:
        offers = ", ".join(sorted(point.value for point in points))
        raise AnalysisError(
            f"several distributions offer an analyser {name!r}: {offers}",
            hint="uninstall all but one",
        )
    try:
        analyzer = points[0].load()()
    except Exception as error:  # foreign code: whatever it raises must stop nothing else
        raise AnalysisError(
            f"the analyser {name!r} can't be loaded: {type(error).__name__}: {error}",
            hint=f"repair or uninstall what provides {points[0].value}",
        ) from error
    if not isinstance(analyzer, Analyzer):
        raise AnalysisError(
            f"the analyser {name!r} lacks a part of the protocol",
            hint="it needs name, version, schema, profiles, resolve and analyze",
        )
    return analyzer


def _described(name: str, points: list[EntryPoint], allow: frozenset[str] | None) -> Found:
    dist = points[0].dist
    origin = f"{dist.name} {dist.version}" if dist is not None else "unknown"
    if allow is not None and name not in allow:
        return Found(name, None, origin, problem="not in the allow-list")
    try:
        analyzer = _load(name, points)
        return Found(name, analyzer.version, origin, tuple(analyzer.profiles))
    except AnalysisError as error:
        return Found(name, None, origin, problem=error.message)
