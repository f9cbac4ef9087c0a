"""A folder of migrations: which there are, in which order, and what is wrong with it. Pure.

``NUMBER_name.up.sql`` with ``NUMBER_name.down.sql`` beside it, or ``NUMBER_name.py`` with
``up(connection)`` and ``down(connection)``. The number has any width, a timestamp's too, and
may have dashes in it; files are in order of its value, then of their name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from negspace.errors import FileError
from negspace.migrate.script import MigrationFile, Problem

__all__ = ["Folder", "Migration", "key_of", "read_folder"]

_NAME: Final = re.compile(r"(?P<number>\d+(?:-\d+)*)[_-](?P<title>.+)")
_SUFFIXES: Final = {
    ".up.sql": "up",
    ".down.sql": "down",
    "_up.sql": "up",
    "_down.sql": "down",
    ".py": "python",
}


@dataclass(frozen=True)
class Migration:
    """One migration.

    Attributes:
        name: The file's name without its suffix: ``001_initial_schema``.
        version: The number as it is written: ``001``.
        up: The file that applies it.
        down: The file that undoes it, or None; the same file for Python.
    """

    name: str
    version: str
    up: MigrationFile
    down: MigrationFile | None

    @property
    def key(self) -> tuple[int, str]:
        """What the order goes by, and what makes it the same migration in the ledger."""
        return key_of(self.name)

    @property
    def reversible(self) -> bool:
        """Whether it has a way down."""
        if self.down is None or not self.down.is_python:
            return self.down is not None
        return self.down.problem() is None and "down" in self.down.functions


@dataclass(frozen=True)
class Folder:
    """A folder of migrations, in order, and what is wrong with their names."""

    path: Path
    migrations: tuple[Migration, ...]
    problems: tuple[Problem, ...]

    def checked(self) -> tuple[Problem, ...]:
        """Everything wrong with the folder and its files, each file read to its end."""
        files = [f for m in self.migrations for f in (m.up, m.down) if f is not None]
        found = [file.problem() for file in dict.fromkeys(files)]
        contradictions = [_contradiction(migration) for migration in self.migrations]
        return (*self.problems, *(p for p in (*found, *contradictions) if p is not None))


def key_of(name: str) -> tuple[int, str]:
    """The value of a migration's number, and its name without it.

    Args:
        name: Such as ``001_initial_schema``; ``1_initial_schema`` gives the same.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return 0, name
    return int(found["number"].replace("-", "")), found["title"]


def read_folder(path: Path, *, strip_transaction: bool = False) -> Folder:
    """Read a folder of migrations.

    Args:
        path: The folder. Files that are no ``.sql`` and no ``NUMBER_….py``, and hidden
            ones, are none of ours and left alone.
        strip_transaction: Leave out the files' own BEGIN and COMMIT.

    Returns:
        The migrations in order, and what is wrong with the files' names.

    Raises:
        FileError: No such folder, or one that can't be read.
    """
    try:
        entries = sorted(entry for entry in path.iterdir() if _is_ours(entry))
        files = {entry: entry.read_bytes() for entry in entries}
    except OSError as error:
        raise FileError(
            f"{error.filename or path}: {error.strerror}",
            hint="--dir takes the folder of the migrations",
            file=str(error.filename or path),
        ) from None
    problems: list[Problem] = []
    found: dict[tuple[int, str], dict[str, MigrationFile]] = {}
    for entry, data in files.items():
        problem = _place(found, MigrationFile(entry, data, strip_transaction))
        if problem is not None:
            problems.append(problem)
    migrations: list[Migration] = []
    _pair_by_number(found)
    for key in sorted(found):
        made = _migration(found[key])
        if isinstance(made, Migration):
            migrations.append(made)
        else:
            problems.append(made)
    return Folder(path, tuple(migrations), tuple(problems))


def _is_ours(entry: Path) -> bool:
    if entry.name.startswith("."):
        return False
    if entry.suffix == ".py":
        return entry.name[0].isdecimal()
    return entry.suffix == ".sql"


def _stem(path: Path) -> tuple[str, str | None]:
    for suffix, role in _SUFFIXES.items():
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix), role
    return path.stem, None


def _place(
    found: dict[tuple[int, str], dict[str, MigrationFile]], file: MigrationFile
) -> Problem | None:
    stem, role = _stem(file.path)
    if role is None or not _NAME.fullmatch(stem):
        return Problem(
            file.path,
            "not a migration's name",
            "NUMBER_name.up.sql, NUMBER_name.down.sql or NUMBER_name.py",
        )
    roles = found.setdefault(key_of(stem), {})
    same = roles.get(role) or (
        next(iter(roles.values()), None) if "python" in {role, *roles} else None
    )
    if same is not None:
        return Problem(
            file.path,
            f"the same version and name as {same.path.name}",
            "rename one of the two",
        )
    roles[role] = file
    return None


def _pair_by_number(found: dict[tuple[int, str], dict[str, MigrationFile]]) -> None:
    """Give a down whose name is not quite its up's to the one up of its number without any.

    Tools that go by the number alone never notice, so such folders are about.
    """
    lone_downs = [key for key, roles in found.items() if set(roles) == {"down"}]
    lone_ups = [key for key, roles in found.items() if set(roles) == {"up"}]
    for number in {number for number, _ in lone_downs}:
        downs = [key for key in lone_downs if key[0] == number]
        ups = [key for key in lone_ups if key[0] == number]
        if len(downs) == len(ups) == 1:
            found[ups[0]]["down"] = found.pop(downs[0])["down"]


def _migration(roles: dict[str, MigrationFile]) -> Migration | Problem:
    up = roles.get("up") or roles.get("python")
    if up is None:
        down = roles["down"]
        missing = f"{_stem(down.path)[0]}.up.sql"
        return Problem(down.path, f"a down without an up: {missing} is missing", "add it")
    name, _ = _stem(up.path)
    found = _NAME.fullmatch(name)
    number = found["number"] if found else ""
    return Migration(name, number, up, roles.get("down") or roles.get("python"))


def _contradiction(migration: Migration) -> Problem | None:
    """A file that says there is no way down, and a way down."""
    if not migration.reversible or migration.up.problem() is not None:
        return None
    if migration.up.directives.irreversible is None:
        return None
    return Problem(
        migration.up.path,
        "declared irreversible, and it has a down",
        "take the directive out, or the down",
    )
