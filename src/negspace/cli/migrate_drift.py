"""``negspace migrate drift``: what the database is against what its migrations make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from negspace.cli import output
from negspace.cli.migrate_options import address, folder_option, settings, strip_option

if TYPE_CHECKING:
    from negspace.migrate.drift import Drift

FOUND: Final = 3
_SIGNS: Final = {"added": "+", "missing": "-", "changed": "~"}


@click.command()
@folder_option
@strip_option
@output.json_option
def drift(folder: Path, strip_transaction: bool, as_json: bool) -> int:
    """Compare the database with what its applied migrations make of an empty one.

    Each object that differs comes with the statements that would explain it. Exit status 3
    when there is one. The database is only read; the migrations run on a shadow database.
    """
    from negspace.migrate import drift as drifting
    from negspace.migrate import shadow

    where = address()
    found = drifting.drift(
        shadow.ground(settings()), where, folder, strip_transaction=strip_transaction
    )
    if as_json:
        output.show_json({"ok": found.ok, **output.plain(found)})
    else:
        _show(found)
    return 0 if found.ok else FOUND


def _show(found: Drift) -> None:
    for one in found.objects:
        output.show_text(f"{_SIGNS[one.state]} {one.identity}  {one.state}")
        for statement in one.statements:
            for line in statement.splitlines():
                output.show_text(f"    {line}")
    for what in found.not_compared:
        output.show_text(f"not compared: {what}")
    if found.note:
        output.show_text(found.note)
    count = len(found.applied)
    noun = "migration" if count == 1 else "migrations"
    if found.ok:
        output.show_text(f"no drift: the database is what its {count} applied {noun} make")
    else:
        objects = "object differs" if len(found.objects) == 1 else "objects differ"
        output.show_text(
            f"{len(found.objects)} {objects} from what {count} applied {noun} make;"
            " write a migration that says so, or undo it by hand"
        )
