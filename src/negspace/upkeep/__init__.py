"""What must happen now and then, and whether the stored files and their rows agree.

Workers do it, and ``negspace maintain``: docs/maintain.md. A new duty is one more entry of
``steps.STEPS``.

    steps        the table: what is done, how often, by what right
    duties       those steps that are more than a call
    keeping      what they work on, and how long what is kept
    maintaining  going through the table: one does a step, others say so
    files        files that no row names, rows whose file is missing
"""

from __future__ import annotations

from negspace.upkeep.duties import ensure_partitions, purge_job_logs
from negspace.upkeep.files import PATIENCE, Report, check, tidy
from negspace.upkeep.keeping import Keeping, Policy
from negspace.upkeep.maintaining import Outcome, maintain
from negspace.upkeep.steps import STEPS, Step

__all__ = [
    "PATIENCE",
    "STEPS",
    "Keeping",
    "Outcome",
    "Policy",
    "Report",
    "Step",
    "check",
    "ensure_partitions",
    "maintain",
    "purge_job_logs",
    "tidy",
]
