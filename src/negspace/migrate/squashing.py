"""Squash: one migration in place of the first ones, proven to make the same database."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from negspace.database import Connection, sql, translated
from negspace.errors import AlreadyExistsError, FileError, InvalidInputError, MigrationError
from negspace.migrate.authoring import blank
from negspace.migrate.catalog import Catalog
from negspace.migrate.catalog_tables import quoted
from negspace.migrate.files import SQUASHED, Folder, Migration, read_folder
from negspace.migrate.meaning import differences
from negspace.migrate.plan import check, find
from negspace.migrate.printed import Printed
from negspace.migrate.queries import query
from negspace.migrate.rows import Snapshot
from negspace.migrate.schema_file import in_order, render
from negspace.migrate.shadow import Ground
from negspace.migrate.shape import Shape
from negspace.migrate.trial import Trial

__all__ = ["Squash", "squash"]


@dataclass(frozen=True)
class Squash:
    """A squash that was written.

    Attributes:
        file: Of the new migration.
        replaces: The names of those that it stands for, in order.
        moved_to: Where their files are now, or None: they stayed.
        rows: How many rows the replaced migrations put in, and so does this one.
    """

    file: Path
    replaces: tuple[str, ...]
    moved_to: Path | None
    rows: int


def squash(
    place: Ground,
    folder: Path,
    *,
    to: str,
    name: str = "baseline",
    keep: bool = False,
    strip_transaction: bool = False,
) -> Squash:
    """Write one migration that does what all up to a version do, and has no way down.

    Both ways are run on shadow databases: catalogs and rows have to be the same.

    Args:
        place: Where shadows are made.
        folder: The migrations.
        to: The last version to go into it.
        name: Of the new migration, after its number, which is that of ``to``.
        keep: Leave the replaced files; else they are moved to ``squashed`` in the folder.
        strip_transaction: Leave out the files' own BEGIN and COMMIT.

    Returns:
        What was written and moved.

    Raises:
        MigrationError: One of them fails, or the two databases would differ: nothing was written.
        InvalidInputError: There is no such version, or nothing to squash.
        FileError: The folder can't be written.
    """
    there = read_folder(folder, strip_transaction=strip_transaction)
    check(there)
    replaced = _first(there, to)
    made = blank(there, replaced[-1].version, name)
    file = _free(made.up)
    with Trial(place, replaced) as trial:
        trial.start(len(replaced), filled=False)
        catalog, rows = trial.catalog(), trial.rows()
        text = made.texts(_script(replaced, catalog, trial.read(_inserts)), None)[file]
    _prove_equal(place, file.relative_to(folder), text, catalog, rows)
    moved = _write(folder, file, text, () if keep else replaced)
    count = sum(len(table.rows) for table in rows.values())
    return Squash(file, tuple(migration.name for migration in replaced), moved, count)


def _free(file: Path) -> Path:
    if file.exists():
        raise AlreadyExistsError(f"{file} exists", hint="choose another --name")
    return file


def _first(folder: Folder, to: str) -> tuple[Migration, ...]:
    last = find(folder, to)
    replaced = folder.migrations[: folder.migrations.index(last) + 1]
    if len(replaced) == 1:
        raise InvalidInputError(f"{last.name} is the only one up to {to}", hint="nothing to squash")
    return replaced


def _script(replaced: tuple[Migration, ...], catalog: Catalog, inserts: str) -> str:
    if catalog.not_covered:
        raise MigrationError(
            f"the squash would lack {', '.join(catalog.not_covered)}",
            hint="squash up to the migration before the one that makes it",
        )
    names = [
        ", ".join([m.name, *(name for names in m.up.replaces for name in _leaves(names))])
        for m in replaced
    ]
    head = [
        f"-- What {replaced[0].name} to {replaced[-1].name} did, in one.",
        "-- negspace: irreversible it is where the history of new databases begins",
        *(f"-- negspace: replaces {name}" for name in names),
    ]
    # The run has a transaction: that of a script for psql is left out.
    schema = render(catalog).partition("\nbegin;\n")[2].rpartition("\ncommit;\n")[0]
    if inserts:
        filled = (thing for thing in in_order(catalog.objects) if thing.populated)
        inserts += "".join(f"\nrefresh materialized view {thing.name};\n" for thing in filled)
    return "\n".join([*head, "", schema.strip("\n"), inserts])


def _leaves(names: tuple[str, ...]) -> tuple[str, ...]:
    """What was replaced in the end: a squash's own, or the one migration."""
    return names[1:] or names


def _prove_equal(place: Ground, name: Path, text: str, catalog: Catalog, rows: Snapshot) -> None:
    with tempfile.TemporaryDirectory() as made:
        scratch = Path(made)
        _put(scratch / name, text)
        alone = read_folder(scratch)
        check(alone)
        with Trial(place, alone.migrations) as trial:
            trial.start(1, filled=False)
            unlike = [difference.identity for difference in differences(catalog, trial.catalog())]
            there = trial.rows()
    unlike += [f"the rows of {table}" for table in rows if not _same(rows, there, table)]
    if unlike:
        raise MigrationError(
            f"the squash would differ in {', '.join(unlike)}",
            hint="squash fewer, or write that part by hand",
        )


def _same(left: Snapshot, right: Snapshot, table: str) -> bool:
    columns = list(left[table].types)
    return table in right and left[table].projected(columns) == right[table].projected(columns)


def _put(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8", newline="\n")


def _write(folder: Path, file: Path, text: str, replaced: tuple[Migration, ...]) -> Path | None:
    """Write the squash; where the files are now that it replaces, or None: they stayed."""
    try:
        _put(file, text)
        return _move(folder, replaced) if replaced else None
    except OSError as error:
        raise FileError(f"{error.filename}: {error.strerror}", hint="make it writable") from None


def _move(folder: Path, replaced: tuple[Migration, ...]) -> Path:
    target = folder / SQUASHED
    target.mkdir(exist_ok=True)
    for path in {path for migration in replaced for path in _paths(migration)}:
        goal = target / path.relative_to(folder)
        goal.parent.mkdir(parents=True, exist_ok=True)
        path.rename(goal)
    return target


def _paths(migration: Migration) -> Iterator[Path]:
    """Its folder, where it has one, or its files, and Flyway's settings for them."""
    for file in (migration.up, migration.down):
        if file is None:
            continue
        if file.path.parent.name == migration.name:
            yield file.path.parent
        else:
            yield file.path
            config = file.path.with_name(f"{file.path.name}.conf")
            yield from [config] if config.exists() else []


# ── rows that migrations put in ──────────────────────────────────────────────────────────


def _inserts(connection: Connection) -> str:
    """The statements that put the rows of all tables back, and the sequences where they were."""
    with translated(), connection.transaction(force_rollback=True):
        connection.execute(query("catalog_settings"))
        shape = Shape(connection)
        lines = [
            _insert(connection, shape, table["oid"], table["name"]) for table in shape.in_order()
        ]
        sequences = connection.execute(query("squash_sequences")).fetchall()
    lines += [row["statement"] for row in sequences]
    return "".join(f"\n{line}\n" for line in lines if line)


def _insert(connection: Connection, shape: Shape, table: int, name: str) -> str:
    columns = shape.columns(table)
    texts = sql.SQL(", ").join(sql.SQL("{}::text").format(c.printed) for c in columns)
    found = connection.execute(
        sql.SQL("select array[{}]::text[] as found from {}").format(texts, Printed(name))
    ).fetchall()
    if not found:
        return ""
    rows = [
        "    (" + ", ".join("null" if v is None else quoted(v) for v in row["found"]) + ")"
        for row in found
    ]
    names = ", ".join(column.name for column in columns)
    return (
        f"alter table {name} disable trigger user;\n"
        f"insert into {name} ({names}) overriding system value values\n"
        + ",\n".join(rows)
        + f";\nalter table {name} enable trigger user;"
    )
