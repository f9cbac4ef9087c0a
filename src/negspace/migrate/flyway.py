"""Flyway's form of a folder: versioned and undo migrations in SQL, in folders below too. Pure.

``V1.1__name.sql`` applies, ``U1.1__name.sql`` undoes. ``V1.1__name.sql.conf`` beside it may say
``executeInTransaction=false``. What Flyway would do besides, and this runner does not, is an
error: else a folder would be read as less than it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from negspace.migrate.forms import Piece, markers_of, refuse_markers
from negspace.migrate.script import MigrationFile, Problem

__all__ = ["is_flyways", "piece_of_flyway"]

# Compiled when they are needed: other folders know nothing of Flyway.
_FILE: Final = r"(?P<way>[VU])(?P<rest>\d+(?:[._]\d+)*__.+)\.sql"
_REFUSED: Final = (
    (
        r"R__.+\.sql",
        "a repeatable migration of Flyway, which would run at each change",
        "name it as the next version; what changes it later is a migration of its own",
    ),
    (
        r"B\d[\d._]*__.+\.sql",
        "a baseline migration of Flyway",
        "take it out: new databases run the others; negspace migrate squash makes one",
    ),
    (
        r"(?:(?:before|after)[A-Z][A-Za-z]*|createSchema)(?:__.+)?\.sql",
        "a callback of Flyway, which would run at each run",
        "do it in a migration, or before and after negspace migrate up",
    ),
    (
        r"(?:[VUB]\d[\d._]*|R)__.+\.(?:java|kt|groovy|class)",
        "a migration of Flyway that is no SQL",
        "write it in SQL, or as NUMBER_name.py in a folder of our form",
    ),
)
_PLACEHOLDER: Final = r"\$\{[A-Za-z_][\w.:-]*\}"
_SETTINGS: Final = ("executeInTransaction", "placeholderReplacement")


def is_flyways(name: str) -> bool:
    """Whether a file's name is one that Flyway would do something with."""
    if name[0].isdecimal():  # most are, and a folder may have thousands
        return False
    patterns = (_FILE, *(pattern for pattern, _, _ in _REFUSED))
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def piece_of_flyway(
    path: Path, data: bytes, config: bytes | None, strip_transaction: bool
) -> Piece:
    """The way that a file of Flyway holds.

    Args:
        path: The file, one of those of ``is_flyways``.
        data: Its bytes.
        config: Those of the ``.conf`` file beside it, or None.
        strip_transaction: As for ``read_folder``.

    Raises:
        MigrationFileError: It is or asks for something that is not run here.
    """
    for pattern, message, hint in _REFUSED:
        if re.fullmatch(pattern, path.name):
            raise Problem(path, f"{message}: that is not supported", hint).error()
    refuse_markers(path, tuple(markers_of(data)), "V1__name.sql and U1__name.sql")
    said = _settings(path.with_name(f"{path.name}.conf"), config or b"")
    if said.get("placeholderReplacement", True):
        _refuse_placeholders(path, data)
    found = re.fullmatch(_FILE, path.name)
    stem = f"V{found['rest']}" if found else path.stem
    role = "down" if path.name.startswith("U") else "up"
    autocommit = not said.get("executeInTransaction", True)
    return Piece(stem, role, "flyway", MigrationFile(path, data, strip_transaction, autocommit))


def _settings(path: Path, data: bytes) -> dict[str, bool]:
    """What a script's configuration says: ``key=value`` lines, and comments behind ``#``."""
    said: dict[str, bool] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        name, _, value = (part.strip() for part in line.partition("="))
        if not name or name.startswith("#"):
            continue
        name = name.removeprefix("flyway.")
        if name not in _SETTINGS or value.lower() not in {"true", "false"}:
            known = " and ".join(f"{setting}=true or false" for setting in _SETTINGS)
            message = f"{line.strip()!r} is not supported"
            raise Problem(path, message, f"take it out; {known} are known", number).error()
        said[name] = value.lower() == "true"
    return said


def _refuse_placeholders(path: Path, data: bytes) -> None:
    """Those in comments change nothing; where the lexer stops, there is no comment to see."""
    if b"${" not in data:
        return
    from negspace.migrate.lexer import position

    text = data.decode("utf-8-sig", "replace")
    comments = tuple(_comments(text))
    for found in re.finditer(_PLACEHOLDER, text):
        if not any(found.start() in comment for comment in comments):
            line, column = position(text, found.start())
            hint = (
                "write the value into the file; where it is meant as it stands, write"
                f" placeholderReplacement=false into {path.name}.conf"
            )
            message = f"Flyway's placeholder {found[0]} is not supported"
            raise Problem(path, message, hint, line, column).error()


def _comments(text: str) -> Iterator[range]:
    from negspace.migrate.lexer import Kind, LexError, tokenize

    with suppress(LexError):
        for token in tokenize(text):
            if token.kind is Kind.COMMENT:
                yield range(token.start, token.end)
