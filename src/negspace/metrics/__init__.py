"""Metrics: how fast everything runs, as samples over time and their percentiles.

Jobs record ``job_wait_ms`` and ``job_run_ms`` by themselves. docs/metrics.md.
"""

from negspace.metrics.prometheus import exposition
from negspace.metrics.reading import Summary, Window, aggregate, summary
from negspace.metrics.recording import Recorder, record
from negspace.metrics.rollups import purge, roll_up
from negspace.metrics.samples import TYPES, MetricType, Sample, batch

__all__ = [
    "TYPES",
    "MetricType",
    "Recorder",
    "Sample",
    "Summary",
    "Window",
    "aggregate",
    "batch",
    "exposition",
    "purge",
    "record",
    "roll_up",
    "summary",
]
