"""The forms that migrations have in a folder: ours, and those of other tools. Pure.

============== ====================================================================
pairs          ``NUMBER_name.up.sql``, ``NUMBER_name.down.sql`` (golang-migrate too),
               or ``NUMBER_name.py``
folders        ``NUMBER_name/up.sql``, ``NUMBER_name/down.sql`` (diesel);
               ``run_in_transaction = false`` in its ``metadata.toml``
dbmate         ``NUMBER_name.sql`` with ``-- migrate:up`` and ``-- migrate:down``, each with
               ``transaction:false`` where it must be outside a transaction
goose          ``NUMBER_name.sql`` with ``-- +goose Up``, ``Down``, ``NO TRANSACTION`` and
               ``StatementBegin``, ``StatementEnd``
flyway         ``V1.1__name.sql``, ``U1.1__name.sql``: see ``flyway``
============== ====================================================================

A file with both ways becomes two. In each the other way is blank, so that lines and columns
stay those of the file. The markers are lines, as they are for the tools themselves: looking
for them needs no lexer. ``StatementBegin`` and ``StatementEnd`` are there for splitters that
know no dollar quotes; ours does, and only sees that they come in pairs.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from negspace.errors import MigrationFileError
from negspace.migrate.names import NAME
from negspace.migrate.script import MigrationFile, Problem

__all__ = [
    "FORMS",
    "Piece",
    "file_names",
    "markers_of",
    "pieces_of_file",
    "pieces_of_folder",
    "refuse_markers",
    "stem_of",
]

FORMS: Final = "NUMBER_name.up.sql, NUMBER_name.down.sql or NUMBER_name.py"

_SUFFIXES: Final = {
    ".up.sql": "up",
    ".down.sql": "down",
    "_up.sql": "up",
    "_down.sql": "down",
    ".py": "python",
}
_BLANK: Final = re.compile(rb"[^\r\n]")
_MARKER: Final = re.compile(
    rb"^(?:\xef\xbb\xbf)?[ \t]*--+[ \t]*(?P<of>migrate:|\+goose\b)[ \t]*(?P<says>[^\r\n]*)",
    re.MULTILINE,
)
_TOOLS: Final = {b"migrate:": "dbmate", b"+goose": "goose"}


@dataclass(frozen=True)
class Piece:
    """One way of one migration.

    Attributes:
        stem: The migration's name.
        role: ``up``, ``down``, or ``python`` for both.
        form: ``pairs``, ``folders``, ``dbmate``, ``goose`` or ``flyway``.
    """

    stem: str
    role: str
    form: str
    file: MigrationFile


class _Marker(NamedTuple):
    """A line that means something to a tool; ``words`` are what it says, in lower case."""

    tool: str
    words: tuple[str, ...]
    start: int
    line: int


def stem_of(path: Path) -> tuple[str, str | None]:
    """A file's name without its suffix, and the way that the suffix says, or None."""
    for suffix, role in _SUFFIXES.items():
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix), role
    return path.stem, None


def file_names(form: str, stem: str) -> tuple[str, str]:
    """The files of a migration of that name, in its folder: of the way up and of the way down."""
    if form == "folders":
        return f"{stem}/up.sql", f"{stem}/down.sql"
    if form in {"dbmate", "goose"}:
        return f"{stem}.sql", f"{stem}.sql"
    if form == "flyway":
        return f"{stem}.sql", f"U{stem.removeprefix('V')}.sql"
    return f"{stem}.up.sql", f"{stem}.down.sql"


def pieces_of_file(path: Path, data: bytes, strip_transaction: bool) -> tuple[Piece, ...]:
    """The ways that a file holds.

    Raises:
        MigrationFileError: Its name or its markers are not those of a migration.
    """
    stem, role = stem_of(path)
    if NAME.fullmatch(stem) is None or data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        if role is None or NAME.fullmatch(stem) is None:
            raise _unnamed(path).error()
        return (Piece(stem, role, "pairs", MigrationFile(path, data, strip_transaction)),)
    markers = () if role == "python" else tuple(markers_of(data))
    if role is not None:
        refuse_markers(path, markers, "NUMBER_name.up.sql and NUMBER_name.down.sql")
        return (Piece(stem, role, "pairs", MigrationFile(path, data, strip_transaction)),)
    if not markers:
        raise _unnamed(path).error()
    return _sections(path, data, markers, strip_transaction)


def pieces_of_folder(
    path: Path, files: dict[str, bytes], strip_transaction: bool
) -> tuple[Piece, ...]:
    """The ways that a folder of one migration holds.

    Args:
        path: The folder, named as a migration.
        files: The bytes of its ``up.sql``, ``down.sql`` and ``metadata.toml``.
        strip_transaction: As for ``read_folder``.

    Raises:
        MigrationFileError: What it holds is not that of a migration.
    """
    autocommit = _outside(path / "metadata.toml", files.get("metadata.toml"))
    found: list[Piece] = []
    for role in ("up", "down"):
        data = files.get(f"{role}.sql")
        if data is not None:
            file = MigrationFile(path / f"{role}.sql", data, strip_transaction, autocommit)
            refuse_markers(file.path, tuple(markers_of(data)), "up.sql and down.sql")
            found.append(Piece(path.name, role, "folders", file))
    return tuple(found)


def _outside(path: Path, data: bytes | None) -> bool:
    """Whether diesel is told to run the migration outside a transaction."""
    if data is None:
        return False
    import tomllib

    try:
        said = tomllib.loads(data.decode())
    except ValueError as error:
        raise Problem(
            path, f"no TOML: {error}", "correct it, or take the file out"
        ).error() from None
    return said.get("run_in_transaction") is False


def _unnamed(path: Path) -> Problem:
    return Problem(
        path,
        "not a migration's name",
        f"{FORMS}; or NUMBER_name.sql with the marks of dbmate or goose in it; or V1__name.sql",
    )


# ── one file with both ways ──────────────────────────────────────────────────────────────


def markers_of(data: bytes) -> Iterator[_Marker]:
    """The marks of dbmate and goose in a file."""
    if b"migrate:" not in data and b"+goose" not in data:
        return
    line, at = 1, 0
    for found in _MARKER.finditer(data):
        line, at = line + data.count(b"\n", at, found.start()), found.start()
        words = found["says"].decode("utf-8", "replace").lower().split()
        yield _Marker(_TOOLS[found["of"]], tuple(words), found.start(), line)


def refuse_markers(path: Path, markers: Sequence[_Marker], form: str) -> None:
    """Refuse marks in a file of a form that has none."""
    if markers:
        raise _problem(
            path,
            markers[0],
            f"a mark of {markers[0].tool} in a file of the form {form}",
            "take the mark out, or name the file NUMBER_name.sql",
        )


def _sections(
    path: Path, data: bytes, markers: Sequence[_Marker], strip_transaction: bool
) -> tuple[Piece, ...]:
    tool = markers[0].tool
    for marker in markers:
        if marker.tool != tool:
            raise _problem(path, marker, f"marks of {tool} and of {marker.tool}", "keep one's")
    ways = _dbmate(path, markers) if tool == "dbmate" else _goose(path, markers)
    starts = _starts(path, tool, [marker for marker, _ in ways])
    _refuse_before(path, data, ways[0][0])
    found: list[Piece] = []
    for (marker, autocommit), end in zip(ways, [*starts[1:], len(data)], strict=True):
        start = 0 if marker is ways[0][0] else marker.start
        role = marker.words[0]
        text = _BLANK.sub(b" ", data[:start]) + data[start:end]
        file = MigrationFile(path, text, strip_transaction, autocommit)
        if role == "up" or not _is_empty(text):
            found.append(Piece(path.stem, role, tool, file))
    return tuple(found)


def _dbmate(path: Path, markers: Sequence[_Marker]) -> list[tuple[_Marker, bool]]:
    """The marks of ways, and whether each is outside a transaction."""
    found: list[tuple[_Marker, bool]] = []
    for marker in markers:
        role, *options = marker.words or ("",)
        unknown = [o for o in options if o not in {"transaction:true", "transaction:false"}]
        if role not in {"up", "down"} or unknown:
            said = "migrate:" + " ".join(marker.words)
            known = "dbmate knows migrate:up and migrate:down, with transaction:false"
            raise _problem(path, marker, f"unknown directive {said!r}", known)
        found.append((marker, "transaction:false" in options))
    return found


def _goose(path: Path, markers: Sequence[_Marker]) -> list[tuple[_Marker, bool]]:
    """The marks of ways, and whether the file is outside a transaction; blocks in pairs."""
    autocommit = any(marker.words == ("no", "transaction") for marker in markers)
    found: list[tuple[_Marker, bool]] = []
    block: _Marker | None = None
    for marker in markers:
        said = " ".join(marker.words)
        if block is not None and said != "statementend":
            raise _problem(path, block, "StatementBegin without StatementEnd", "close the block")
        if said in {"up", "down"}:
            found.append((marker, autocommit))
        elif said == "statementbegin":
            block = marker
        elif said == "statementend" and block is None:
            raise _problem(path, marker, "StatementEnd without StatementBegin", "open the block")
        elif said == "statementend":
            block = None
        elif said.startswith("envsub"):
            hint = "write the values into the file, or set them as parameters of the role"
            raise _problem(path, marker, "goose's ENVSUB is not supported", hint)
        elif said != "no transaction":
            known = "Up, Down, NO TRANSACTION, StatementBegin and StatementEnd are known"
            raise _problem(path, marker, f"unknown directive '+goose {said}'", known)
    if block is not None:
        raise _problem(path, block, "StatementBegin without StatementEnd", "close the block")
    return found


def _starts(path: Path, tool: str, markers: Sequence[_Marker]) -> list[int]:
    """Where the ways begin: one up, and at most one down after it."""
    names = {"dbmate": "migrate:{}", "goose": "+goose {}"}[tool]
    up, down = names.format("up"), names.format("down")
    roles = [marker.words[0] for marker in markers]
    if "up" not in roles:
        raise Problem(path, f"{tool}'s mark {up} is missing", f"write -- {up}").error()
    for at, marker in enumerate(markers):
        if roles[: at + 1] not in (["up"], ["up", "down"]):
            hint = f"one -- {up}, and at most one -- {down} after it"
            raise _problem(path, marker, f"{names.format(roles[at])} is out of place", hint)
    return [marker.start for marker in markers]


def _refuse_before(path: Path, data: bytes, first: _Marker) -> None:
    """Statements before the first mark would be in no way."""
    if not _is_empty(data[: first.start].removeprefix(codecs.BOM_UTF8)):
        message = "something before the first mark that is no -- comment"
        raise _problem(path, first, message, "move it below the mark")


def _is_empty(text: bytes) -> bool:
    lines = (line.strip() for line in text.splitlines())
    return all(not line or line.startswith(b"--") for line in lines)


def _problem(path: Path, marker: _Marker, message: str, hint: str) -> MigrationFileError:
    return Problem(path, message, hint, marker.line).error()
