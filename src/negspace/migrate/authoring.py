"""New files in a folder of migrations: in its form, numbered after its last."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from negspace.errors import AlreadyExistsError, FileError, InvalidInputError
from negspace.migrate.files import Folder, read_folder
from negspace.migrate.forms import file_names

__all__ = ["Blank", "blank", "new"]

_TIMESTAMP: Final = 8  # digits from which on a number is taken for a date

_MARKS: Final = {
    "dbmate": ("-- migrate:up\n", "\n-- migrate:down\n"),
    "goose": ("-- +goose Up\n", "\n-- +goose Down\n"),
}
_SAYS: Final = ("what it does, and why", "undo it, wholly")


@dataclass(frozen=True)
class Blank:
    """The files of a migration that isn't there yet, in the form of its folder.

    Attributes:
        up: The file that applies it.
        down: The file that undoes it; the same one where the form has both in one.
        marks: What stands before each way in such a file; nothing elsewhere.
    """

    up: Path
    down: Path
    marks: tuple[str, str] = ("", "")

    def texts(self, up: str, down: str | None) -> dict[Path, str]:
        """What the files are to say; None: without a way down."""
        if self.up == self.down:
            before, between = self.marks
            return {self.up: before + up + ("" if down is None else between + down)}
        return {self.up: up} | ({} if down is None else {self.down: down})


def blank(folder: Folder, number: str, title: str) -> Blank:
    """Where a migration of that number and title would stand."""
    stem = f"V{number}__{title}" if folder.form == "flyway" else f"{number}_{title}"
    up, down = (folder.path / name for name in file_names(folder.form, stem))
    return Blank(up, down, _MARKS.get(folder.form, ("", "")))


def new(folder: Path, name: str) -> tuple[Path, Path]:
    """Make an empty migration, in the folder's form and numbered as the folder numbers.

    Args:
        folder: Made where it isn't there.
        name: Words; what is no letter or digit becomes ``_``.

    Returns:
        The up and the down file: the same one where the form has both in one.

    Raises:
        InvalidInputError: Nothing of the name is left.
        AlreadyExistsError: One of the files is there.
        FileError: The folder can't be written.
    """
    title = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not title:
        raise InvalidInputError(f"{name!r} has no letter in it", hint="name what it does")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = read_folder(folder)
        number = _next_number(there)
        made = blank(there, number, title)
        up, down = (f"-- {number}_{title}: {says}\n" for says in _SAYS)
        for path, text in made.texts(up, down).items():
            path.parent.mkdir(exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except FileExistsError as error:
        raise AlreadyExistsError(f"{error.filename} exists", hint="choose another name") from None
    except OSError as error:
        raise FileError(
            f"{error.filename}: {error.strerror}", hint="choose a folder that can be written"
        ) from None
    return made.up, made.down


def _next_number(folder: Folder) -> str:
    if not folder.migrations:
        return "001"
    last = folder.migrations[-1]
    first, *parts = re.split(r"[-.]", last.version)
    now = datetime.now(UTC)
    if parts and len(first) == len("2024"):
        return now.strftime("%Y.%m.%d.%H%M%S" if "." in last.version else "%Y-%m-%d-%H%M%S")
    if len(first) >= _TIMESTAMP:
        return now.strftime("%Y%m%d%H%M%S")
    return str(last.key[0][0] + 1).zfill(len(first))
