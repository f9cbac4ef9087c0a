"""One job, from the image's file to what is stored of it. No database here."""

from __future__ import annotations

import io
import math
import os
import resource
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from negspace import analysis
from negspace.errors import (
    AnalysisError,
    ConstraintError,
    ImageError,
    InvalidInputError,
    NegspaceError,
    RefusedError,
)
from negspace.settings import Settings
from negspace.storage import Storage
from negspace.worker.leases import Claimed, Completion

if TYPE_CHECKING:
    from negspace.analysis import Analysis
    from negspace.analysis.image import ImageHandle

SLOW_MS: Final = 5000  # where analysis_performance_summary begins to say slow

# The same image and parameters give these again, however often one tries.
_FOR_GOOD: Final = (
    ImageError,
    InvalidInputError,
    ConstraintError,
    RefusedError,
)


class _Steps:
    """How long each step took, in milliseconds."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Generator[None]:
        began = time.perf_counter()
        yield
        self.ms[name] = round((time.perf_counter() - began) * 1000, 3)

    @property
    def total(self) -> float:
        return math.fsum(self.ms.values())


def analyse(job: Claimed, storage: Storage, settings: Settings) -> Completion:
    """Read the image, hash its pixels, analyse it, and draw what was found.

    Args:
        job: What to do.
        storage: Where the image lies, and the picture will.
        settings: The largest image, and the analysers that are allowed.

    Raises:
        NotFoundError, FileError: The file isn't there, or can't be read.
        ImageError: It is no image, too large, or can't be decoded.
        InvalidInputError, AnalysisError: The analyser refuses the parameters, or fails.
    """
    from negspace.analysis import hashes, reading

    analyzer = analysis.get(job.algorithm_name, settings.analyzers)
    parameters = analyzer.resolve(job.algorithm_parameters)
    steps = _Steps()
    with steps("open"):
        file = storage.existing(job.file_path)
        image = reading.open_image(file, max_pixels=settings.max_pixels)
    with image:
        with steps("decode_and_hash"):
            known = hashes.of_image(image)
        with steps("analyze"):
            found = analysis.run(analyzer, image, parameters)
        with steps("draw"):
            picture = _draw(image, found, storage)
    return Completion(
        negative_space_data=found.negative_space_data,
        anomalies=found.anomalies,
        confidence_score=found.confidence_score,
        quality_metrics=found.quality_metrics,
        provenance=_provenance(job, parameters, found),
        pixel_hash=known.pixel_sha256,
        perceptual_hash=known.perceptual,
        perceptual_hash_algorithm=None if known.perceptual is None else known.algorithm,
        processing_time_ms=round(steps.total),
        visualization_path=picture,
        **_advice(steps, image, parameters, found),
    )


def _provenance(job: Claimed, parameters: dict[str, Any], found: Analysis) -> dict[str, Any]:
    if parameters == job.algorithm_parameters:
        return dict(found.provenance)
    # enqueued unresolved, by other means than ours
    return {**found.provenance, "resolved_parameters": parameters}


def _advice(
    steps: _Steps, image: ImageHandle, parameters: dict[str, Any], found: Analysis
) -> dict[str, Any]:
    """How fast it was, and what would make it faster."""
    megapixels = image.shape[0] * image.shape[1] / 1e6
    grid = found.negative_space_data.get("grid")
    shrink = int(grid.get("shrink", 1)) if isinstance(grid, dict) else 1
    return {
        "performance_stats": {
            "steps_ms": steps.ms,
            "megapixels": round(megapixels, 4),
            "process_max_rss_bytes": _max_rss(),
        },
        "optimization_suggestions": suggestions(steps.ms, megapixels, parameters, shrink),
    }


def may_help(error: BaseException) -> bool:
    """Whether another try may end otherwise: it may where foreign code raised something."""
    if isinstance(error, AnalysisError):
        return error.__cause__ is not None
    return not isinstance(error, _FOR_GOOD)


def reason(error: BaseException, job: Claimed, storage: Storage) -> str:
    """What is stored as the reason of a failure: for people, who know the file by its name."""
    if isinstance(error, NegspaceError):
        text = f"{error.message} ({error.hint})" if error.hint else error.message
    else:
        text = f"{type(error).__name__}: {error}"
    folder = str(storage.folder)
    text = text.replace(str(storage.folder / job.file_path), job.original_filename)
    return text.replace(folder + os.sep, "").replace(folder, "the image storage")


def suggestions(
    steps_ms: dict[str, float], megapixels: float, parameters: dict[str, Any], shrink: int
) -> list[str]:
    """What would make a slow job faster, as sentences; empty where nothing is slow.

    Args:
        steps_ms: How long the steps took.
        megapixels: Size of the image.
        parameters: What it was analysed with.
        shrink: Full-resolution pixels along the side of an analysed pixel.
    """
    told: list[str] = []
    analyse_ms = steps_ms["analyze"]
    if analyse_ms >= SLOW_MS and "max_pixels" in parameters:
        most = min(parameters["max_pixels"], round(megapixels * 1e6))
        told.append(
            f"the analysis took {analyse_ms / 1000:.1f} s: a max_pixels below {most} shortens it"
        )
    read_ms = steps_ms["open"] + steps_ms["decode_and_hash"]
    if read_ms >= SLOW_MS and read_ms > analyse_ms and shrink > 1:
        told.append(
            f"reading {megapixels:.1f} megapixels took {read_ms / 1000:.1f} s, and they were"
            f" shrunk {shrink} times: a smaller file is as good for these parameters"
        )
    return told


def _draw(image: ImageHandle, found: Analysis, storage: Storage) -> str | None:
    """Draw the result and store the picture; its path below the storage folder."""
    if not str(found.negative_space_data["schema"]).startswith("negspace.negative_space/"):
        return None  # another analyser's result: we don't know how to draw it
    from negspace.analysis import overlay

    content = io.BytesIO()
    overlay.draw(image, found).save(content, format="PNG")
    return storage.put(content.getvalue(), "png")


def _max_rss() -> int:
    """The most memory this process ever had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
