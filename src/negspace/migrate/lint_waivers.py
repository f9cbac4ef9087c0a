"""What a file allows: ``-- negspace: allow RULE [in this file] because WHY``. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from negspace.migrate.script import MigrationFile, check_waiver

__all__ = ["Waiver", "waivers"]

_COMMENT: Final = re.compile(r"^(?:--|#)\s*negspace\s*:\s*allow\s+(.*?)\s*$")


@dataclass(frozen=True)
class Waiver:
    """A rule that may be broken, and why.

    Attributes:
        line: Of the comment.
        last_line: Of the statement that it stands above or in; None: the whole file.
    """

    rule: str
    reason: str
    line: int
    first_line: int
    last_line: int | None

    def covers(self, line: int) -> bool:
        """Whether a finding in that line is allowed."""
        return self.last_line is None or self.first_line <= line <= self.last_line


def waivers(file: MigrationFile) -> tuple[Waiver, ...]:
    """The waivers of a valid file, in its order.

    Raises:
        MigrationFileError: One without a rule or a reason.
    """
    return tuple(
        _waiver(file, line, found[1])
        for line, comment in file.comments()
        if (found := _COMMENT.match(comment))
    )


def _waiver(file: MigrationFile, line: int, said: str) -> Waiver:
    rule, in_file = check_waiver(file.path, line, said)
    reason = said.partition("because")[2].strip()
    first, last = (1, None) if in_file or file.is_python else _statement(file, line)
    return Waiver(rule, reason, line, first, last)


def _statement(file: MigrationFile, line: int) -> tuple[int, int]:
    """The lines of the statement that a comment in a line stands above or in."""
    for statement in file.script.statements:
        last, _ = file.script.position(statement.offset + len(statement.text) - 1)
        if last >= line:
            return min(line, statement.line), last
    return line, line
