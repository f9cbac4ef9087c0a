"""Checks of access: the probes, as the doctor runs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from negspace.doctor.examining import Check, Fault, Patient
from negspace.probes import PROBES, Ground, Probe

__all__ = ["CHECKS"]


def _check(probe: Probe) -> Check:
    def look(patient: Patient) -> Iterator[Fault]:
        ground = Ground(patient.reached, patient.operator or patient.services, patient.services)
        for leak in probe.run(ground):
            yield Fault(leak.what, leak.mends or probe.mends)

    look.__doc__ = probe.title
    return Check(probe.name, probe.why, look, "security")


CHECKS: Final = tuple(_check(probe) for probe in PROBES)
