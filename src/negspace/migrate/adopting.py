"""What the history of another tool says is applied, in terms of a folder's migrations.

Read are golang-migrate's, dbmate's, Alembic's, Flyway's and knex's; nothing of theirs is
changed. A history that says that something failed halfway is refused: only a person can tell
what of it is there.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from negspace.database import Connection, translated
from negspace.errors import FileError, InvalidInputError, RefusedError
from negspace.migrate.files import Folder, Migration
from negspace.migrate.histories import HISTORIES
from negspace.migrate.names import is_number, key_of, number_of
from negspace.migrate.queries import query

__all__ = ["TOOLS", "Adopted", "adopted"]

Rows: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True)
class Adopted:
    """The migrations that a tool's history says are applied, in the folder's order."""

    tool: str
    migrations: tuple[Migration, ...]


def adopted(
    connection: Connection,
    folder: Folder,
    *,
    tool: str | None = None,
    revisions: Path | None = None,
) -> Adopted:
    """Read the history of another tool.

    Args:
        connection: Of the database.
        folder: Its migrations, as this runner has them.
        tool: One of ``TOOLS``; None where there is only one tool's history.
        revisions: The folder of Alembic's revision files.

    Raises:
        RefusedError: There is no such history, or several and no tool is named; it says that
            a migration failed or still runs; it names one that the folder has not.
        InvalidInputError: An unknown tool, or Alembic without ``revisions``.
        FileError: Alembic's revision files can't be read.
    """
    found = _found(connection)
    if tool is not None and tool not in TOOLS:
        raise InvalidInputError(f"unknown tool {tool}", hint=f"known are {', '.join(TOOLS)}")
    if tool is None and len(found) > 1:
        raise RefusedError(
            f"there are histories of several tools: {', '.join(found)}", hint="name one"
        )
    name = tool or next(iter(found), None)
    if name is None or name not in found:
        raise RefusedError(
            f"there is no history of {name or 'another tool'}",
            hint="baseline without --adopt recognises the version by the catalog",
        )
    chosen = TOOLS[name](_History(connection, folder, found[name], revisions))
    keys = {migration.key for migration in chosen}
    return Adopted(name, tuple(m for m in folder.migrations if m.key in keys))


@dataclass(frozen=True)
class _History:
    connection: Connection
    folder: Folder
    tables: frozenset[str]
    revisions: Path | None

    def rows(self, text: str) -> Rows:
        with translated():
            return self.connection.execute(text.encode()).fetchall()

    def numbered(self, version: str) -> Migration:
        """The one migration of a number, or the last of several."""
        found = [m for m in self.folder.migrations if _is(m, version)]
        if not found:
            raise _unknown(self.folder, version)
        return found[-1]

    def up_to(self, version: str) -> list[Migration]:
        last = self.numbered(version).key
        return [m for m in self.folder.migrations if m.key <= last]


def _is(migration: Migration, version: str) -> bool:
    return is_number(version) and migration.key[0] == number_of(version)


def _unknown(folder: Folder, version: str) -> RefusedError:
    return RefusedError(
        f"the history has {version} as applied, and {folder.path} has no such migration",
        hint="bring its file into the folder, under the same number and name",
    )


def _found(connection: Connection) -> Mapping[str, frozenset[str]]:
    """The tools whose history is there, and its tables."""
    with translated():
        rows = connection.execute(query("histories"), {"names": list(HISTORIES)}).fetchall()
    found: dict[str, set[str]] = {}
    for row in rows:
        tool = HISTORIES[row["name"]]
        if row["name"] == "schema_migrations":
            tool = "golang-migrate" if "dirty" in row["columns"] else "dbmate"
        found.setdefault(tool.lower(), set()).add(row["name"])
    return {tool: frozenset(tables) for tool, tables in found.items() if tool in TOOLS}


# ── a tool each ──────────────────────────────────────────────────────────────────────────


def _golang_migrate(history: _History) -> Iterable[Migration]:
    """One row: the version that the database is at."""
    for row in history.rows("select version::text, dirty from schema_migrations"):
        if row["dirty"]:
            raise RefusedError(
                f"golang-migrate's history is dirty: version {row['version']} failed halfway",
                hint="see what of it is there, finish or undo it, and migrate force its version",
            )
        return history.up_to(row["version"])
    return ()


def _dbmate(history: _History) -> Iterable[Migration]:
    """A row for each version that is applied; several files may share a number."""
    rows = history.rows("select version::text from schema_migrations")
    wanted = [history.numbered(row["version"]).key[0] for row in rows]
    return [m for m in history.folder.migrations if m.key[0] in wanted]


def _flyway(history: _History) -> Iterable[Migration]:
    """A row for each attempt; repeatable migrations have no version, and are left out."""
    rows = history.rows(
        "select version, type, script, success from flyway_schema_history"
        " where version is not null order by installed_rank"
    )
    found: dict[str, list[Migration]] = {}
    for row in rows:
        if not row["success"]:
            raise RefusedError(
                f"Flyway's history has a failed migration: {row['script']}",
                hint="see what of it is there, finish or undo it, and flyway repair",
            )
        version = row["version"]
        if row["type"].startswith("UNDO") or row["type"] == "DELETE":
            found.pop(version, None)
        elif row["type"].endswith("BASELINE"):  # of a schema that may have had no files
            last = number_of(version)
            found[version] = [m for m in history.folder.migrations if m.key[0] <= last]
        else:
            found[version] = [history.numbered(version)]
    return [migration for migrations in found.values() for migration in migrations]


def _knex(history: _History) -> Iterable[Migration]:
    """A row for each file that is applied, by its name."""
    if "knex_migrations_lock" in history.tables and history.rows(
        "select 1 as held from knex_migrations_lock where is_locked = 1"
    ):
        raise RefusedError(
            "knex's history is locked: a run is under way, or died",
            hint="wait for it, or see what of it is there and knex migrate:unlock",
        )
    by_key = {migration.key: migration for migration in history.folder.migrations}
    found: list[Migration] = []
    for row in history.rows("select name from knex_migrations order by id"):
        migration = by_key.get(key_of(Path(row["name"]).stem))
        if migration is None:
            raise _unknown(history.folder, row["name"])
        found.append(migration)
    return found


def _alembic(history: _History) -> Iterable[Migration]:
    """The heads; what came before them stands in the revision files."""
    if history.revisions is None:
        raise InvalidInputError(
            "Alembic's history needs its revision files",
            hint="name their folder: --revisions alembic/versions",
        )
    before = _revisions(history.revisions)
    left = [row["version_num"] for row in history.rows("select version_num from alembic_version")]
    found: dict[str, Migration] = {}
    while left:
        revision = left.pop()
        if revision in found:
            continue
        if revision not in before:
            raise RefusedError(
                f"the history has revision {revision}, and {history.revisions} has it not",
                hint="name the folder that has all revision files",
            )
        found[revision] = _of_revision(history.folder, revision)
        left += before[revision]
    return found.values()


def _of_revision(folder: Folder, revision: str) -> Migration:
    """The migration that has the revision's id as its number, or as a word of its name."""
    for migration in folder.migrations:
        if _is(migration, revision) or revision in migration.key[1].split("_"):
            return migration
    raise RefusedError(
        f"{folder.path} has no migration of Alembic's revision {revision}",
        hint=f"its file has the id in its name: 001_{revision}_title.up.sql",
    )


def _revisions(folder: Path) -> dict[str, tuple[str, ...]]:
    """Each revision of Alembic, and the ones before it; the files are read, not run."""
    found: dict[str, tuple[str, ...]] = {}
    try:
        for path in sorted(folder.glob("*.py")):
            said = dict(_assigned(ast.parse(path.read_bytes(), str(path))))
            revision = said.get("revision")
            if isinstance(revision, str):
                down, depends = said.get("down_revision"), said.get("depends_on")
                found[revision] = (*_names(down), *_names(depends))
    except OSError as error:
        raise FileError(f"{error.filename}: {error.strerror}", hint="name another folder") from None
    except (SyntaxError, ValueError) as error:
        raise FileError(
            f"{folder}: a revision file is no Python: {error}", hint="mend it"
        ) from None
    return found


def _assigned(tree: ast.Module) -> Iterator[tuple[str, object]]:
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and target.id in _WANTED:
                yield target.id, ast.literal_eval(value)


_WANTED: Final = {"revision", "down_revision", "depends_on"}


def _names(said: object) -> tuple[str, ...]:
    if isinstance(said, str):
        return (said,)
    return tuple(str(one) for one in said) if isinstance(said, list | tuple) else ()  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


TOOLS: Final[Mapping[str, Callable[[_History], Iterable[Migration]]]] = {
    "golang-migrate": _golang_migrate,
    "dbmate": _dbmate,
    "alembic": _alembic,
    "flyway": _flyway,
    "knex": _knex,
}
