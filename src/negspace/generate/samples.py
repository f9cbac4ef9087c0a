"""Metric samples: latencies, sizes, levels and counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from negspace.generate.plan import Plan, chosen, lognormal
from negspace.generate.text import Piece, decimal, either, join, number, pick, timestamp

_LARGEST: Final = 1e10  # numeric(15,4) holds ten times that


@dataclass(frozen=True)
class Metric:
    """One metric; values are lognormal with that median."""

    name: str
    kind: str
    unit: str
    median: float
    sigma: float
    share: float
    labels: tuple[str, ...] = ("{}",)


def _labelled(name: str, *values: str) -> tuple[str, ...]:
    return tuple(f'{{"{name}": "{value}"}}' for value in values)


_JOB: Final = tuple(
    f'{{"algorithm": "negative_space", "outcome": "{outcome}"}}'
    for outcome in ("completed", "completed", "completed", "completed", "failed")
)
METRICS: Final = (
    Metric("job_run_ms", "histogram", "ms", 1500, 0.9, 20, _JOB),
    Metric("job_wait_ms", "histogram", "ms", 900, 1.4, 20, _JOB),
    Metric("api_request_ms", "histogram", "ms", 12, 1.0, 35,
           _labelled("route", "/images", "/results", "/jobs", "/upload")),
    Metric("upload_bytes", "histogram", "B", 2e6, 1.1, 8, _labelled("type", "png", "jpg", "fits")),
    Metric("queue_depth", "gauge", "jobs", 40, 1.2, 8, _labelled("status", "queued", "retrying")),
    Metric("cache_hits", "counter", "", 20, 0.8, 5),
    Metric("worker_memory_bytes", "gauge", "B", 3e8, 0.4, 4, _labelled("host", "node-a", "node-b")),
)  # fmt: skip
_BATCH: Final = 0.02  # of the rows stand for many samples


def performance_metrics(plan: Plan, first: Mapping[str, int]) -> Iterator[dict[str, Piece]]:
    """The rows of ``performance_metrics``."""
    labels = [label for metric in METRICS for label in metric.labels]
    sizes = np.array([len(metric.labels) for metric in METRICS])
    offsets = np.cumsum(sizes) - sizes
    medians = np.array([metric.median for metric in METRICS])
    sigmas = np.array([metric.sigma for metric in METRICS])
    for piece in range(plan.slices):
        chance = plan.chance("metrics", piece)
        begin, end = plan.part(plan.metrics, piece)
        if end == begin:
            continue
        count = end - begin
        which = chosen(chance, [metric.share for metric in METRICS], count)
        label = offsets[which] + chance.integers(0, sizes[which])
        value = medians[which] * lognormal(chance, 1, 1, count) ** sigmas[which]
        value = np.minimum(value, _LARGEST / 10)
        batch = (chance.random(count) < _BATCH) & (which < 4)
        samples = np.where(batch, chance.integers(2, 500, count), 1)
        yield {
            "id": number(first["performance_metrics"] + np.arange(begin, end)),
            "metric_name": pick([metric.name for metric in METRICS], which),
            "metric_type": pick([metric.kind for metric in METRICS], which),
            "value": decimal(value, 4),
            "unit": pick([metric.unit for metric in METRICS], which),
            "labels": pick(labels, label),
            "context": either(
                which < 2, join('{"job_id": ', number(chance.integers(1, 10**6, count)), "}"), "{}"
            ),
            "recorded_at": timestamp(plan.times(chance, plan.metrics, piece)),
            "sample_count": number(samples),
            "percentile_p50": either(batch, decimal(value * 0.8, 4)),
            "percentile_p95": either(batch, decimal(value * 2.1, 4)),
            "percentile_p99": either(batch, decimal(value * 3.4, 4)),
        }
