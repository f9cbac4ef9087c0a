"""A folder of migrations: which there are, in which order, and what is wrong with it. Pure.

``NUMBER_name.up.sql`` with ``NUMBER_name.down.sql`` beside it, or ``NUMBER_name.py`` with
``up(connection)`` and ``down(connection)``; or one of the forms of other tools that
``forms`` knows. The number has any width, a timestamp's too, and may have dashes in it, or
dots where it is Flyway's; files are in order of its value, then of their name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from negspace.errors import FileError, MigrationFileError
from negspace.migrate.flyway import is_flyways, piece_of_flyway
from negspace.migrate.forms import Piece, file_names, pieces_of_file, pieces_of_folder
from negspace.migrate.names import NAME, Key, key_of, version_of
from negspace.migrate.script import MigrationFile, Problem, as_problem

__all__ = ["SQUASHED", "Folder", "Migration", "read_folder"]

SQUASHED: Final = "squashed"
"""The folder inside a folder where replaced migrations lie; never read."""


@dataclass(frozen=True)
class Migration:
    """One migration.

    Attributes:
        name: The file's name without its suffix: ``001_initial_schema``.
        version: The number as it is written: ``001``.
        up: The file that applies it.
        down: The file that undoes it, or None; the same file for Python.
        form: See ``forms``.
    """

    name: str
    version: str
    up: MigrationFile
    down: MigrationFile | None
    form: str = "pairs"

    @cached_property
    def key(self) -> Key:
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
    """A folder of migrations, in order, and what is wrong with their names.

    Attributes:
        form: See ``forms``; ``pairs`` where there are none yet.
    """

    path: Path
    migrations: tuple[Migration, ...]
    problems: tuple[Problem, ...]
    form: str = "pairs"

    def checked(self) -> tuple[Problem, ...]:
        """Everything wrong with the folder and its files, each file read to its end."""
        files = [f for m in self.migrations for f in (m.up, m.down) if f is not None]
        found = [file.problem() for file in dict.fromkeys(files)]
        contradictions = [_contradiction(migration) for migration in self.migrations]
        return (*self.problems, *(p for p in (*found, *contradictions) if p is not None))


def read_folder(path: Path, *, strip_transaction: bool = False) -> Folder:
    """Read a folder of migrations, in the form that it has: see ``forms``.

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
        pieces, problems = _pieces(path, strip_transaction)
    except OSError as error:
        file = error.filename or path
        raise FileError(
            f"{file}: {error.strerror}",
            hint="--dir takes the folder of the migrations"
            if Path(file) == path
            else "make it a file that can be read, or take it out",
            file=str(file),
        ) from None
    problems += _mixed(path, pieces)
    found: dict[Key, dict[str, Piece]] = {}
    for piece in pieces:
        problem = _place(found, piece)
        problems += [problem] if problem else []
    migrations: list[Migration] = []
    _pair_by_number(found)
    for key in sorted(found):
        made = _migration(found[key])
        if isinstance(made, Migration):
            migrations.append(made)
        else:
            problems.append(made)
    form = pieces[0].form if pieces else "pairs"
    return Folder(path, tuple(migrations), tuple(problems), form)


def _pieces(path: Path, strip_transaction: bool) -> tuple[list[Piece], list[Problem]]:
    found: list[Piece] = []
    problems: list[Problem] = []
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    entries.sort(key=lambda entry: entry.name)
    for entry in (*entries, *_below(entries)):
        try:
            if is_flyways(entry.name):
                found.append(_of_flyway(entry, strip_transaction))
            elif entry.suffix == ".sql" or (entry.suffix == ".py" and entry.name[0].isdecimal()):
                found += pieces_of_file(entry, entry.read_bytes(), strip_transaction)
            elif NAME.fullmatch(entry.name) and entry.is_dir():
                files = {name: (entry / name).read_bytes() for name in _parts(entry)}
                found += pieces_of_folder(entry, files, strip_transaction)
            elif entry.suffix == ".go" and NAME.fullmatch(entry.stem):
                problems += _go(entry)
        except MigrationFileError as error:
            file = error.details.get("file")
            problems.append(as_problem(error, Path(str(file or entry))))
    return found, problems


def _of_flyway(entry: Path, strip_transaction: bool) -> Piece:
    config = entry.with_name(f"{entry.name}.conf")
    settings = config.read_bytes() if config.exists() else None
    return piece_of_flyway(entry, entry.read_bytes(), settings, strip_transaction)


def _below(entries: Collection[Path]) -> list[Path]:
    """Flyway's files in the folders below, which Flyway reads too; in a folder of its form."""
    if any(entry.suffix == ".sql" and not is_flyways(entry.name) for entry in entries):
        return []
    folders = [e for e in entries if e.name != SQUASHED and not NAME.fullmatch(e.name)]
    found = (path for folder in folders if folder.is_dir() for path in folder.rglob("*__*"))
    return sorted(path for path in found if is_flyways(path.name))


def _parts(folder: Path) -> list[str]:
    return [n for n in ("up.sql", "down.sql", "metadata.toml") if (folder / n).exists()]


def _go(entry: Path) -> Iterator[Problem]:
    """A migration in Go, which would be left out in silence; tests of such are none."""
    if not entry.stem.endswith("_test"):
        yield Problem(
            entry, "a migration in Go can't be run", "write it in SQL, or as NUMBER_name.py"
        )


def _mixed(path: Path, pieces: Iterable[Piece]) -> Iterator[Problem]:
    """Several forms in one folder: a mistake, or a folder that two tools work on."""
    firsts: dict[str, Piece] = {}
    for piece in pieces:
        firsts.setdefault(piece.form, piece)
    if len(firsts) > 1:
        said = ", ".join(
            f"{piece.file.path.relative_to(path)} ({form})" for form, piece in firsts.items()
        )
        yield Problem(
            path, f"migrations of several forms: {said}", "keep one form in a folder, and run that"
        )


def _place(found: dict[Key, dict[str, Piece]], piece: Piece) -> Problem | None:
    roles = found.setdefault(key_of(piece.stem), {})
    role = piece.role
    same = roles.get(role) or (
        next(iter(roles.values()), None) if "python" in {role, *roles} else None
    )
    if same is not None:
        before = same.file.path
        return Problem(
            piece.file.path,
            f"the same version and name as {same.stem if same.form == 'folders' else before.name}",
            "rename one of the two",
        )
    roles[role] = piece
    return None


def _pair_by_number(found: dict[Key, dict[str, Piece]]) -> None:
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


def _migration(roles: dict[str, Piece]) -> Migration | Problem:
    up = roles.get("up") or roles.get("python")
    if up is None:
        down = roles["down"]
        missing = Path(file_names(down.form, down.stem)[0])
        said = missing.name if down.form == "folders" else missing
        return Problem(down.file.path, f"a down without an up: {said} is missing", "add it")
    back = roles.get("down") or roles.get("python")
    return Migration(up.stem, version_of(up.stem), up.file, back.file if back else None, up.form)


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
