"""Probes of access and of the audit trail that a live database allows: read, or rolled back.

``negspace doctor --security`` runs them. A new control adds its probes here, in a module of its
own, and their lines to docs/doctor.md.

    probing     what a probe is
    roles       what the services' role is, and may do
    rows        whose rows are seen by whom
    functions   what runs as the owner
    trail       the audit trail and the migrations' ledger: guards, rights, seals
    secrets     passwords, keys and tokens where they don't belong
"""

from __future__ import annotations

from typing import Final

from negspace.probes import functions, roles, rows, secrets, trail
from negspace.probes.probing import Ground, Leak, Probe

__all__ = ["PROBES", "Ground", "Leak", "Probe"]

PROBES: Final[tuple[Probe, ...]] = (
    *roles.PROBES,
    *rows.PROBES,
    *functions.PROBES,
    *trail.PROBES,
    *secrets.PROBES,
)
