"""A worker's steps, made one by one by a test."""

from __future__ import annotations

from typing import Any

import queue_singly as leases
from bench import Bench
from negspace.worker import registry
from negspace.worker.leases import Claimed, Completion

ALL = ("rehearsal@1.0.0",)


def enlist(bench: Bench, worker: str = "w1") -> str:
    registry.register(bench.services, worker, "here", 1, ALL)
    return worker


def claimed(bench: Bench, worker: str = "w1") -> Claimed:
    job = leases.claim(bench.services, worker, ALL)
    assert job is not None
    return job


def completion(**changes: Any) -> Completion:
    given: dict[str, Any] = {
        "negative_space_data": {"schema": "rehearsal/1"},
        "anomalies": [],
        "confidence_score": 0.5,
        "quality_metrics": {},
        "provenance": {},
        "pixel_hash": "a" * 64,
        "perceptual_hash": -5,
        "perceptual_hash_algorithm": "test",
        "processing_time_ms": 12,
        "visualization_path": None,
        "performance_stats": {},
        "optimization_suggestions": [],
    }
    return Completion(**given | changes)
