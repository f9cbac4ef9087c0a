"""``negspace migrate prove`` and ``squash``: what works on shadow databases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from negspace.cli import output
from negspace.cli.migrate_options import folder_option, settings, strip_option
from negspace.errors import InvalidInputError

if TYPE_CHECKING:
    from negspace.migrate.catalog import Difference
    from negspace.migrate.failure import Failure
    from negspace.migrate.files import Folder
    from negspace.migrate.proof import MigrationProof, Proof

FOUND: Final = 3


@click.command()
@folder_option
@click.option("--last", type=click.IntRange(min=1), help="Only the newest so many.")
@click.option("--only", metavar="VERSION", multiple=True, help="Only that one; may be repeated.")
@strip_option
@output.json_option
def prove(
    folder: Path,
    last: int | None,
    only: tuple[str, ...],
    strip_transaction: bool,
    as_json: bool,
) -> int:
    """Try every down on a shadow database with rows, and grade it.

    exact: all is as it was before the up. loses data: it is, but for the data that is named.
    lies: objects differ. broken: it fails. irreversible: there is none.
    """
    from negspace.migrate import proof, shadow
    from negspace.migrate.files import read_folder

    wanted = _wanted(read_folder(folder), last, only)
    found = proof.prove(
        shadow.ground(settings()),
        folder,
        only=wanted,
        strip_transaction=strip_transaction,
        progress=say_proven,
    )
    if as_json:
        output.show_json({"ok": found.ok, **output.plain(found)})
    else:
        _show(found)
    return 0 if found.ok else FOUND


@click.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the migrations.",
)
@click.option("--to", metavar="VERSION", required=True, help="The last version to go into it.")
@click.option("--name", default="baseline", show_default=True, help="Its name after the number.")
@click.option("--keep", is_flag=True, help="Leave the replaced files where they are.")
@strip_option
@output.json_option
def squash(
    folder: Path, to: str, name: str, keep: bool, strip_transaction: bool, as_json: bool
) -> None:
    """Write one migration in place of all up to a version. It is proven to make the same database.

    Databases that have the replaced ones need nothing; new ones run the squash alone.
    """
    from negspace.migrate import shadow, squashing

    made = squashing.squash(
        shadow.ground(settings()),
        folder,
        to=to,
        name=name,
        keep=keep,
        strip_transaction=strip_transaction,
    )
    if as_json:
        output.show_json(made)
        return
    squashed = output.counted(len(made.replaces), "migration")
    output.show_text(f"wrote {made.file}: {squashed}, {output.counted(made.rows, 'row')} in one")
    if made.moved_to is not None:
        output.show_text(
            f"moved the replaced files to {made.moved_to}; they are needed as long as a"
            " database has only some of them"
        )


def _wanted(folder: Folder, last: int | None, only: tuple[str, ...]) -> set[str] | None:
    from negspace.migrate.plan import find

    if last is not None and only:
        raise InvalidInputError("--last and --only exclude each other", hint="give one")
    if last is not None:
        return {migration.name for migration in folder.migrations[-last:]}
    return {find(folder, version).name for version in only} if only else None


def say_proven(found: MigrationProof) -> None:
    """A line of progress, on stderr."""
    output.note(f"  proved {found.name}  {found.grade} {found.duration_ms:.0f} ms")


# ── the table ────────────────────────────────────────────────────────────────────────────


def _show(found: Proof) -> None:
    if not found.migrations:
        output.show_text("no migrations")
        return
    output.show_columns(
        ["version", "grade", "what"],
        [
            (proof.version if i == 0 else "", proof.grade if i == 0 else "", line)
            for proof in found.migrations
            for i, line in enumerate(_said(proof))
        ],
    )
    for line in _footnotes(found):
        output.show_text(line)
    grades = [proof.grade for proof in found.migrations]
    counts = ", ".join(f"{grades.count(grade)} {grade}" for grade in dict.fromkeys(sorted(grades)))
    spent = f"{found.duration_ms / 1000:.1f} s"
    output.show_text(f"{len(grades)} proven in {spent}: {counts}")


_MOST_SHOWN: Final = 6


def _said(proof: MigrationProof) -> list[str]:
    """What a row of the table says beside the grade, a line each; at least one."""
    name = proof.name.removeprefix(proof.version)[1:]
    lines = [name]
    if proof.irreversible is not None:
        lines.append(proof.irreversible)
    lines += _shortened(
        [f"{_KINDS[loss.kind]} {loss.name} ({loss.count})" for loss in proof.losses]
    )
    for when, found in (("down", proof.after_down), ("second up", proof.after_second_up)):
        lines += _shortened([f"after the {when}, {_differs(difference)}" for difference in found])
    if proof.failure is not None:
        lines.append(f"{proof.failed_at} fails: {_failed(proof.failure)}")
    if proof.up_refuses is not None:
        lines.append(f"up needs empty tables: {_failed(proof.up_refuses)}")
    if proof.down_refuses is not None:
        lines.append(f"down refuses rows that came after the up: {_failed(proof.down_refuses)}")
    lines += [f"not filled: {table.table}: {table.reason}" for table in proof.unfilled]
    return lines


def _differs(difference: Difference) -> str:
    if difference.left is None:
        return f"{difference.identity} is left"
    if difference.right is None:
        return f"{difference.identity} is not restored"
    before, after = difference.left.splitlines(), difference.right.splitlines()
    lines = [f"- {line}" for line in before if line not in after]
    lines += [f"+ {line}" for line in after if line not in before]
    said = " ".join(lines)
    said = said if len(said) <= _WIDEST else f"{said[:_WIDEST]}…"
    return f"{difference.identity} differs: {said}"


_WIDEST: Final = 100
_KINDS: Final = {
    "table": "loses table",
    "column": "loses column",
    "rows": "loses rows of",
    "values": "changes values of",
}


def _shortened(lines: list[str]) -> list[str]:
    if len(lines) <= _MOST_SHOWN:
        return lines
    return [
        *lines[: _MOST_SHOWN - 1],
        f"… and {len(lines) - _MOST_SHOWN + 1} more (--json has all)",
    ]


def _failed(failure: Failure) -> str:
    place = ":".join(str(p) for p in (failure.file.name, failure.line, failure.column) if p)
    return f"{place}: {failure.message}"


def _footnotes(found: Proof) -> list[str]:
    lines = [f"not proven: {name}" for name in found.unproven]
    lines += [
        f"not run, it would change the whole server: {one.file}:{one.line}: {one.statement} …"
        for one in found.left_aside
    ]
    lines += [f"not compared: {what}" for what in found.not_compared]
    return [*lines, found.note] if found.note else lines
