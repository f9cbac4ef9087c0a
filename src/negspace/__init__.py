"""negspace: the PostgreSQL system of record for image-analysis platforms."""

from __future__ import annotations

__version__ = "0.1.0"
