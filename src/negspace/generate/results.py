"""What analyses found, in the shape of the reference analyser, and the jobs that found it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from negspace.generate.images import (
    COMPLETED,
    FAILED,
    PENDING,
    PROCESSING,
    REASONS,
    Facts,
    facts,
)
from negspace.generate.people import WORKERS
from negspace.generate.plan import DAY, Plan, chosen, lognormal
from negspace.generate.text import (
    NULL,
    Numbers,
    Piece,
    Text,
    decimal,
    either,
    hexadecimal,
    join,
    number,
    pick,
    timestamp,
)

VERSIONS: Final = ("1.0.0", "1.1.0")  # an image that was analysed twice has one of each
_MODES: Final = ("bright", "texture", "ridge", "dark", "dark")  # one per profile
_METHODS: Final = ("otsu", "otsu", "otsu", "background", "otsu")
PARAMETERS: Final = tuple(
    json.dumps({"mode": mode, "threshold": method, "sigma_px": 1.0, "min_area_px": 64,
                "min_radius_px": 3.0, "saddle_ratio": 0.75, "valid_area": "all",
                "max_pixels": 2_000_000})
    for mode, method in zip(_MODES, _METHODS, strict=True)
)  # fmt: skip
_PROVENANCE: Final = '{"numpy": "2.2.0", "scipy": "1.15.0", "scikit-image": "0.25.0"}'
_JOBS: Final = ("queued", "processing", "retrying", "completed", "failed", "cancelled")
_QUEUED, _RUNNING, _RETRYING, _DONE, _FAILED, _CANCELLED = range(6)
_CANCELLED_SHARE: Final = 0.15  # of the failed images: somebody took the job back


def analysis_results(plan: Plan, first: Mapping[str, int]) -> Iterator[dict[str, Piece]]:
    """The rows of ``analysis_results``."""
    begin = first["analysis_results"]
    for piece in range(plan.slices):
        known = facts(plan, first, piece)
        image = np.repeat(np.arange(len(known.number)), known.results)
        if not len(image):
            continue
        numbers = begin + np.arange(len(image))
        begin += len(image)
        yield _result(plan, first, known, image, numbers, plan.chance("results", piece))


def _result(
    plan: Plan, first: Mapping[str, int], known: Facts, image: Numbers, numbers: Numbers,
    chance: np.random.Generator,
) -> dict[str, Piece]:  # fmt: skip
    count = len(image)
    again = np.concatenate([[False], image[1:] == image[:-1]])
    kind, profile = known.kind[image], known.kind[image]
    made = np.where(
        again,
        np.minimum(known.processed[image] + chance.integers(DAY, 30 * DAY, count), plan.end),
        known.processed[image],
    )
    hit = known.repeats[image]
    voids = lognormal(chance, 40, 1.0, count).astype(np.int64) + 1
    fraction = chance.beta(3, 2, count)
    radius = lognormal(chance, 20, 0.5, count)
    unusual = chance.random(count) < 0.12
    time = timestamp(made)
    return {
        "id": number(numbers),
        "image_id": number(known.number[image]),
        "user_id": number(first["users"] + known.owner[image]),
        "algorithm_name": "negative_space",
        "algorithm_version": pick(VERSIONS, again.astype(int)),
        "algorithm_parameters": pick(PARAMETERS, profile),
        "negative_space_data": _measured(known, image, kind, voids, fraction, radius),
        "anomalies": either(unusual, _anomaly(chance, radius), "[]"),
        "confidence_score": decimal(np.sqrt(chance.beta(8, 2, count)), 6),
        "processing_time_ms": number(known.ran[image]),
        "quality_metrics": _quality(chance, count),
        "provenance": _PROVENANCE,
        "visualization_path": NULL,
        "notes": either(chance.random(count) < 0.01, "seen by a second reader"),
        "created_at": time,
        "updated_at": time,
        "cache_hit": pick("ft", hit.astype(int)),
        "cached_at": time,
        "performance_stats": join('{"decode_ms": ', number(known.ran[image] // 8), "}"),
    }


def _measured(
    known: Facts, image: Numbers, kind: Numbers, voids: Numbers, fraction: Numbers,
    radius: Numbers,
) -> Text:  # fmt: skip
    width, height = known.width[image], known.height[image]
    shrink = np.ceil(np.sqrt(width * height / 2e6)).astype(np.int64)
    y, x = (height * fraction).astype(np.int64), (width * (1 - fraction)).astype(np.int64)
    share, wide = decimal(fraction, 4), decimal(radius, 2)
    centre_y, centre_x = number(y), number(x)
    return join(
        '{"schema": "negspace.negative_space/1", "grid": {"height": ', number(height // shrink),
        ', "width": ', number(width // shrink), ', "shrink": ', number(shrink),
        ', "valid_fraction": 1.0}, "mode": "', pick(_MODES, kind),
        '", "threshold": {"method": "', pick(_METHODS, kind), '", "value": ',
        decimal(fraction / 4, 4), '}, "flags": [], "negative_fraction": ', share,
        ', "components": ', number(voids // 8 + 1), ', "void_count": ', number(voids),
        ', "minkowski": {"area_fraction": ', share, ', "perimeter_px": ',
        decimal(radius * voids * 6.3, 1), ', "euler": -', number(voids * 3),
        '}, "void_radius_px": {"max": ', wide, ', "median": ', decimal(radius * 0.4, 2),
        ', "p90": ', decimal(radius * 0.7, 2), '}, "largest_circle": {"cy": ', centre_y,
        ', "cx": ', centre_x, ', "r": ', wide, '}, "largest_rect": {"y": ', centre_y, ', "x": ',
        centre_x, ', "h": ', number((radius * 2.5).astype(np.int64) + 1), ', "w": ',
        number((radius * 1.5).astype(np.int64) + 1), '}, "voids": [{"id": 1, "area_px": ',
        number((3.5 * radius**2).astype(np.int64) + 64), ', "centroid": [', decimal(y, 1), ", ",
        decimal(x, 1), '], "inscribed": {"cy": ', centre_y, ', "cx": ', centre_x, ', "r": ', wide,
        '}, "solidity": ', decimal(0.5 + fraction / 2, 3), ', "touches_border": false}]}',
    )  # fmt: skip


def _anomaly(chance: np.random.Generator, radius: Numbers) -> Text:
    kinds = pick(("size", "shape", "depth"), chosen(chance, (6, 2, 2), len(radius)))
    score = decimal(3.5 + chance.exponential(2, len(radius)), 2)
    return join(
        '[{"void_id": 1, "type": "', kinds, '", "z": ', score, ', "r": ', decimal(radius, 2), "}]"
    )


def _quality(chance: np.random.Generator, count: int) -> Text:
    return join(
        '{"sharpness_var_laplacian": ', decimal(lognormal(chance, 300, 0.8, count), 1),
        ', "noise_sigma": ', decimal(lognormal(chance, 0.012, 0.6, count), 5),
        ', "snr_db": ', decimal(20 + 20 * chance.random(count), 2),
        ', "entropy_bits": ', decimal(4 + 3.5 * chance.random(count), 3), "}",
    )  # fmt: skip


def processing_queue(plan: Plan, first: Mapping[str, int]) -> Iterator[dict[str, Piece]]:
    """The jobs: what waits and runs, and the newest of every image that ended.

    A duplicate was answered from the cache when it came, without a job.
    """
    begin = first["processing_queue"]
    for piece in range(plan.slices):
        known = facts(plan, first, piece)
        image = np.flatnonzero(~(known.repeats & (known.results > 0)))
        if not len(image):
            continue
        numbers = begin + np.arange(len(image))
        begin += len(image)
        yield _job(plan, first, known, image, numbers, plan.chance("jobs", piece))


def _state(chance: np.random.Generator, status: Numbers) -> NDArray[np.int64]:
    draw = chance.random(len(status))
    return np.select(
        [status == PENDING, status == PROCESSING, status == FAILED],
        [
            np.full(len(status), _QUEUED),
            np.where(draw < 0.7, _RUNNING, _RETRYING),
            np.where(draw < _CANCELLED_SHARE, _CANCELLED, _FAILED),
        ],
        _DONE,
    )


def _job(
    plan: Plan, first: Mapping[str, int], known: Facts, image: Numbers, numbers: Numbers,
    chance: np.random.Generator,
) -> dict[str, Piece]:  # fmt: skip
    count, asked = len(image), known.uploaded[image]
    state = _state(chance, known.status[image])
    began = np.minimum(asked + known.waited[image], plan.end)
    ended = known.status[image] >= COMPLETED
    live = state == _RUNNING
    tried = np.where(state == _QUEUED, 0, 1 + chosen(chance, (94, 4, 2), count))
    retries = np.where((state == _RETRYING) & (tried == 1), 1, np.maximum(tried - 1, 0))
    failed = (state == _FAILED) | (state == _RETRYING)
    reason = either(
        state == _CANCELLED, "cancelled", pick(REASONS, chosen(chance, (5, 3, 1, 1), count))
    )
    started, stopped, made = timestamp(began), timestamp(known.processed[image]), timestamp(asked)
    worker = chance.integers(0, len(WORKERS), count)
    return {
        "id": number(numbers),
        "image_id": number(known.number[image]),
        "user_id": number(first["users"] + known.owner[image]),
        "algorithm_version": VERSIONS[0],
        "algorithm_parameters": pick(PARAMETERS, known.kind[image]),
        "status": pick(_JOBS, state),
        "priority": number(np.array((1, 3, 5, 8, 10))[chosen(chance, (5, 10, 70, 10, 5), count)]),
        "retry_count": number(np.minimum(retries, 3)),
        "error_message": either(failed | (state == _CANCELLED), reason),
        "last_error_at": either(failed, either(ended, stopped, started)),
        "created_at": made,
        "scheduled_at": either(state == _RETRYING, timestamp(began + 60_000), made),
        "started_at": either(state == _QUEUED, NULL, started),
        "completed_at": either(ended, stopped),
        "estimated_completion_at": either(live, timestamp(began + 2000)),
        "worker_id": either(
            state == _QUEUED, NULL, join(pick(WORKERS, worker), f"-{first['images']}")
        ),
        "complexity_score": decimal(known.width[image] * known.height[image] / 1e6, 4),
        "attempt": number(tried),
        "lease_token": either(live, hexadecimal(chance.integers(0, 256, (count, 16), np.uint8))),
    }
