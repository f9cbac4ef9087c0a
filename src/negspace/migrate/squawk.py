"""squawk, the linter of PostgreSQL migrations: started on files, its findings as values.

squawk (Apache-2.0 or MIT, https://squawkhq.com) is a program of its own; its wheel puts it
beside the interpreter. It reads copies of the files under plain names, so that neither their
names nor a byte-order mark nor the folder's layout matter to it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from negspace.errors import NegspaceError, NotFoundError
from negspace.migrate.script import MigrationFile

__all__ = ["RULES", "SquawkFinding", "program", "read"]

_LONGEST: Final = 300  # seconds, for a whole folder
_AT_ONCE: Final = 500  # files in one command line
_CONFIG: Final = ".squawk.toml"

# Every rule of squawk 2.70, as --exclude takes them; a test holds it against the program.
_NAMES: Final = """
    adding-field-with-default adding-foreign-key-constraint adding-not-nullable-field
    adding-required-field adding-serial-primary-key-field ban-add-column
    ban-add-composite-attribute ban-add-enum-value ban-alter-database-options
    ban-alter-domain-with-add-constraint ban-alter-extension ban-alter-function-options
    ban-alter-generated-expression ban-alter-identity ban-alter-policy-condition
    ban-alter-policy-roles ban-alter-role-options ban-alter-row-level-security
    ban-alter-sequence-values ban-alter-system-options ban-alter-view-options ban-char-field
    ban-concurrent-index-creation-in-transaction ban-create-domain-with-constraint
    ban-create-policy ban-detach-inheritance ban-disable-trigger ban-drop-column
    ban-drop-constraint ban-drop-database ban-drop-default ban-drop-domain ban-drop-extension
    ban-drop-function ban-drop-generated-expression ban-drop-index ban-drop-not-null
    ban-drop-policy ban-drop-schema ban-drop-sequence ban-drop-table ban-drop-type
    ban-drop-view ban-new-write-restriction ban-replace-view-function ban-replica-identity
    ban-revoke ban-set-default ban-set-schema ban-truncate-cascade
    ban-uncommitted-transaction changing-column-type constraint-missing-not-valid
    disallowed-unique-constraint identifier-too-long prefer-bigint-over-int
    prefer-bigint-over-smallint prefer-identity prefer-repack prefer-robust-stmts
    prefer-text-field prefer-timestamp-tz renaming-column renaming-object renaming-table
    require-concurrent-index-creation require-concurrent-index-deletion
    require-concurrent-partition-detach require-concurrent-reindex
    require-enum-value-ordering require-lock-timeout require-statement-timeout
    require-table-schema require-timeout-settings transaction-nesting unused-ignore
"""
RULES: Final = frozenset(_NAMES.split())


@dataclass(frozen=True)
class SquawkFinding:
    """What squawk says of a place in a file.

    Attributes:
        offset: Where it begins, in characters from 0.
    """

    file: MigrationFile
    offset: int
    rule: str
    message: str
    help: str


def program() -> str:
    """Where squawk is: beside the interpreter, or on the path.

    Raises:
        NotFoundError: Nowhere.
    """
    beside = Path(sys.executable).with_name("squawk")
    found = str(beside) if beside.exists() else shutil.which("squawk")
    if found is None:
        raise NotFoundError(
            "squawk isn't there", hint="install squawk-cli, or lint not at all: --no-lint"
        )
    return found


def read(
    files: Sequence[MigrationFile], *, version: int | None, folder: Path
) -> tuple[SquawkFinding, ...]:
    """What squawk says of some SQL files.

    Args:
        files: Valid ones.
        version: Of the server, as a number: 150004; None for squawk's own guess.
        folder: A ``.squawk.toml`` in it is obeyed.

    Raises:
        NotFoundError: squawk isn't installed.
        NegspaceError: It did not work.
    """
    found: list[SquawkFinding] = []
    for transaction in (True, False):
        those = [file for file in files if file.transaction is transaction]
        for begin in range(0, len(those), _AT_ONCE):
            options = ["--assume-in-transaction"] if transaction else []
            options += [f"--pg-version={version // 10_000}.0"] if version else []
            if (folder / _CONFIG).is_file():
                options.append(f"--config={(folder / _CONFIG).resolve()}")
            found += _run(those[begin : begin + _AT_ONCE], options)
    return tuple(found)


def _run(files: Sequence[MigrationFile], options: Sequence[str]) -> Iterable[SquawkFinding]:
    with tempfile.TemporaryDirectory(prefix="negspace-lint-") as place:
        names = {f"{number}.sql": file for number, file in enumerate(files)}
        for name, file in names.items():
            (Path(place) / name).write_text(file.text, encoding="utf-8", newline="")
        try:
            done = subprocess.run(
                [program(), "--reporter=json", *options, *names],
                cwd=place,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                timeout=_LONGEST,
                check=False,
            )
            said: list[dict[str, Any]] = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise NegspaceError(
                f"squawk failed: {error}", hint="report it, or go without: --no-lint"
            ) from None
    return [_finding(names[Path(one["file"]).name], one) for one in said]


def _finding(file: MigrationFile, said: dict[str, Any]) -> SquawkFinding:
    return SquawkFinding(
        file=file,
        offset=_offset(file.text, said["line"], said["column"]),
        rule=said["rule_name"],
        message=said["message"],
        help=said["help"] or "",
    )


def _offset(text: str, line: int, column: int) -> int:
    """Squawk counts both from 0, and columns in bytes."""
    begin = 0
    for _ in range(line):
        begin = text.find("\n", begin) + 1
    piece = text[begin : begin + column].encode()[:column]
    return begin + len(piece.decode(errors="ignore"))
