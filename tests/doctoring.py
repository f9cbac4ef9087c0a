"""What the tests of the doctor share: one check, run on a database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from negspace import database, doctor, settings
from negspace.doctor import Finding, Limits, examining

CHECKS = {check.name: check for check in doctor.CHECKS}


def look(
    name: str,
    environment: Mapping[str, str],
    *,
    deep: bool = False,
    ahead: float = 0.0,
    **limits: Any,
) -> list[Finding]:
    """What one check says; this machine's clock put ahead by some seconds."""
    given = settings.load(environment)
    with doctor.reached(given, Limits(**limits), deep=deep) as patient:
        behind = replace(patient, now=lambda: patient.now() + ahead)
        return examining.run(CHECKS[name], behind)


def well(name: str, environment: Mapping[str, str], **options: Any) -> bool:
    return look(name, environment, **options) == [Finding(name, "well")]


def faults(name: str, environment: Mapping[str, str], **options: Any) -> list[str]:
    """What is wrong, for a check that found something; each with its why and remedy."""
    found = look(name, environment, **options)
    assert {one.status for one in found} == {"found"}, found
    assert all(one.matters and one.remedy for one in found)
    return [one.found or "" for one in found]


def change(address: str, *statements: str) -> None:
    with database.connect(address, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())
