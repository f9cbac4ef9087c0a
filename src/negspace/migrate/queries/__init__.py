"""The SQL that the runner itself sends, a file for each query."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["query"]


@cache
def query(name: str) -> bytes:
    """The text of ``NAME.sql`` beside this file."""
    return (Path(__file__).parent / f"{name}.sql").read_bytes()
