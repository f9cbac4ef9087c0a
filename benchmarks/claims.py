"""What the benchmarks write with ``--json``: a list of claims, alike for all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Claim:
    """One figure of ours, beside what it is compared with.

    Attributes:
        name: What was measured, with its unit.
        ours: The figure.
        reference: The other's figure, or None where there is none beside it.
        peer: Whose that is, or nothing.
        ratio: Of ours to the reference, or None.
        goal: What the ratio is held to, or ours where there is no ratio; None: no goal.
        holds: Whether it is met; None where there is no goal.
    """

    name: str
    ours: float
    reference: float | None = None
    peer: str = ""
    ratio: float | None = None
    goal: float | None = None
    holds: bool | None = None


def write(file: Path | None, claims: Iterable[Claim]) -> None:
    """Write them where ``--json`` says, if it says anything."""
    if file is not None:
        told = json.dumps([asdict(claim) for claim in claims], indent=2)
        file.write_text(told + "\n", encoding="utf-8")
