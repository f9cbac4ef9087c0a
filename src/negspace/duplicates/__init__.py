"""Images that are there twice: the same file, the same pixels, or nearly so. docs/duplicates.md.

Exact duplicates are facts. Near ones are proposals, and a person decides: different slices of one
scan look alike to a perceptual hash too. Only images of one owner are compared, so that nobody
learns what others have; the same pixels under another owner are an alert of the audit trail.

    exact      the same file, the same pixels
    near       perceptual hashes that are near
    reviewing  pairs as they are kept, and what people decided
    page       groups with their pictures, as HTML
"""

from __future__ import annotations

from negspace.duplicates.exact import Duplicates, mark, report
from negspace.duplicates.near import NearPair, groups, near
from negspace.duplicates.page import write
from negspace.duplicates.reviewing import (
    DECISIONS,
    Decision,
    Group,
    Pair,
    Scanned,
    decide,
    pairs,
    review,
    scan,
    scan_new,
)

__all__ = [
    "DECISIONS",
    "Decision",
    "Duplicates",
    "Group",
    "NearPair",
    "Pair",
    "Scanned",
    "decide",
    "groups",
    "mark",
    "near",
    "pairs",
    "report",
    "review",
    "scan",
    "scan_new",
    "write",
]
