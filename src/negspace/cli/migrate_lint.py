"""``negspace migrate lint`` and ``validate``: what is risky in files, and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from negspace import migrate
from negspace.cli import output
from negspace.cli.migrate_options import address, folder_option, strip_option

if TYPE_CHECKING:
    from negspace.migrate.lint import Finding, LintResult
    from negspace.migrate.script import Problem

FOUND: Final = 3
_MOST_SHOWN: Final = 10
_MOST_NAMED: Final = 3


@click.command()
@folder_option
@click.option("--offline", is_flag=True, help="Look at the files alone: all of them.")
@click.option("--strict", is_flag=True, help=f"Exit {FOUND} for warnings too.")
@click.option(
    "--large-table",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="MB",
    help="From which size on a table may not be scanned under a lock.",
)
@click.option(
    "--hot-table",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="N",
    help="From how many uses a second on a table's locks need a time-out.",
)
@click.option(
    "--lock-timeout",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="The one that up will be given; 0: none.",
)
@strip_option
@output.json_option
def lint(
    folder: Path,
    offline: bool,
    strict: bool,
    large_table: int,
    hot_table: float,
    lock_timeout: float,
    strip_transaction: bool,
    as_json: bool,
) -> int:
    """Tell what is risky in pending migrations, and the remedy.

    The rules are squawk's and our own, which look at the live tables. A file allows what is
    right as it is: -- negspace: allow RULE because WHY
    """
    from negspace.migrate import lint as linter

    found = linter.lint(
        folder,
        None if offline else address(),
        thresholds=linter.Thresholds(large_bytes=large_table << 20, hot_per_second=hot_table),
        lock_timeout=lock_timeout > 0,
        strip_transaction=strip_transaction,
    )
    if as_json:
        output.show_json({"ok": not found.errors, **output.plain(found)})
    else:
        for finding in found.findings:
            for line in _lines(finding):
                output.show_text(line)
        output.show_text(_summary(found))
    return FOUND if found.errors or (strict and found.findings) else 0


def _lines(finding: Finding) -> list[str]:
    return [
        f"{finding.where}: {finding.severity}: {finding.rule}: {finding.message}",
        *([f"  hint: {finding.remedy}"] if finding.remedy else []),
    ]


def _summary(found: LintResult) -> str:
    if not found.files:
        return "nothing pending"
    errors, left_out = len(found.errors), sum(one.count for one in found.suppressed)
    warnings = len(found.findings) - errors
    said = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    said += f" in {_count(found.files, 'file')}"
    if found.waived:
        said += f"; {len(found.waived)} allowed by the files"
    if left_out:
        said += f"; {left_out} don't apply here (--json says why)"
    return said


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@click.command()
@folder_option
@click.option("--offline", is_flag=True, help="Look at the files alone, reach no database.")
@strip_option
@output.json_option
def validate(folder: Path, offline: bool, strip_transaction: bool, as_json: bool) -> int:
    """Check every file, and what is applied against it."""
    where = None if offline else address()
    problems = migrate.validate(folder, where, strip_transaction=strip_transaction)
    if not problems:
        problems = _errors(folder, where, strip_transaction=strip_transaction)
    if as_json:
        output.show_json([{"where": problem.where, **vars(problem)} for problem in problems])
    else:
        for problem in problems:
            output.show_text(f"{problem.where}: {problem.message}")
            output.show_text(f"  hint: {problem.hint}")
        count = len(problems)
        output.show_text(f"{count} problem{'s' * (count > 1)}" if problems else "valid")
    return FOUND if problems else 0


def _errors(folder: Path, where: str | None, *, strip_transaction: bool) -> tuple[Problem, ...]:
    """Lint's errors, as ``validate`` lists them; its warnings go to stderr."""
    from negspace.migrate.files import read_folder
    from negspace.migrate.lint import lint as linted
    from negspace.migrate.plan import lacks_down
    from negspace.migrate.script import Problem

    say_no_way_down([m.name for m in read_folder(folder).migrations if lacks_down(m)])
    found = linted(folder, where, strip_transaction=strip_transaction)
    if not found.errors:
        say_warnings(found)
    return tuple(
        Problem(one.file, f"{one.rule}: {one.message}", one.remedy, one.line, one.column)
        for one in found.errors
    )


def say_no_way_down(names: Sequence[str]) -> None:
    """In one line, however many they are."""
    if names:
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        output.note(f"no way down: {', '.join(names[:_MOST_NAMED])}{more}")


def say_warnings(found: LintResult) -> None:
    """The first warnings, on stderr."""
    from negspace.migrate.lint_rules import NO_WAY_DOWN

    # Those are said in one line, by ``say_no_way_down``.
    findings = [finding for finding in found.findings if finding.rule != NO_WAY_DOWN]
    for finding in findings[:_MOST_SHOWN]:
        output.note(_lines(finding)[0])
    if len(findings) > _MOST_SHOWN:
        more = len(findings) - _MOST_SHOWN
        output.note(f"… and {_count(more, 'warning')} more: negspace migrate lint")
