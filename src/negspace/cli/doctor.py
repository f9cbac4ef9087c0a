"""``negspace doctor``: what is wrong, why it matters, what mends it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from negspace import settings
from negspace.cli import output

if TYPE_CHECKING:
    from negspace.doctor import Finding, Report

FOUND: Final = 3
_WORDS: Final = {"well": "well", "found": "FOUND", "unknown": "unknown"}


@click.command("doctor")
@click.option("--deep", is_flag=True, help="Slow checks too: drift, and every image's file.")
@click.option("--security", is_flag=True, help="Try what the services' role must not be able to.")
@output.json_option
def group(deep: bool, security: bool, as_json: bool) -> int:
    """Examine the server, the database and the image files; change nothing.

    Each thing that is found comes with why it matters and the command that mends it. Exit
    status 3 when something is found. With NEGSPACE_OWNER_URL it sees what only the owner may.
    """
    from negspace import doctor

    report = doctor.examine(settings.load(), deep=deep, security=security, progress=output.note)
    if as_json:
        output.show_json({"healthy": report.healthy, "findings": report.findings})
    else:
        _show(report)
    return 0 if report.healthy else FOUND


def _show(report: Report) -> None:
    for finding in report.findings:
        for line in _lines(finding):
            output.show_text(line)
    found = sum(finding.status == "found" for finding in report.findings)
    unknown = sum(finding.status == "unknown" for finding in report.findings)
    checks = len({finding.check for finding in report.findings})
    said = f"{found} found" if found else "all is well"
    also = f", {unknown} couldn't be looked at" if unknown else ""
    output.show_text(f"{checks} checks: {said}{also}")


def _lines(finding: Finding) -> Iterator[str]:
    yield f"{_WORDS[finding.status]:<8} {finding.check:<16} {finding.found or ''}".rstrip()
    if finding.matters:
        yield f"{'':<26}why: {finding.matters}"
    if finding.remedy:
        yield f"{'':<26}do:  {finding.remedy}"
