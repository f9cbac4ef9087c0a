"""``negspace migrate drift``: what the database is against what its migrations make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from negspace.cli import output
from negspace.cli.migrate_options import address, folder_option, settings, strip_option

if TYPE_CHECKING:
    from negspace.migrate.drifting import Drift

FOUND: Final = 3
_SIGNS: Final = {"added": "+", "missing": "-", "changed": "~"}


@click.command()
@folder_option
@strip_option
@output.json_option
def drift(folder: Path, strip_transaction: bool, as_json: bool) -> int:
    """Compare the database with what its applied migrations make.

    Each object that differs comes with the statements that would explain it. Exit status 3
    when there is one. The database is only read; the migrations run on a shadow database.
    """
    from negspace.migrate import drifting, shadow

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
    applied = output.counted(len(found.applied), "applied migration")
    if found.ok:
        output.show_text(f"no drift: the database is what its {applied} make")
    else:
        differing = output.counted(len(found.objects), "object differs", "objects differ")
        output.show_text(
            f"{differing} from what {applied} make;"
            " write a migration that says so, or undo it by hand"
        )


@click.command()
@click.argument("version", required=False)
@folder_option
@click.option(
    "--adopt",
    is_flag=False,
    flag_value="",
    metavar="[TOOL]",
    help="Take it from another tool's history: golang-migrate, dbmate, alembic, flyway, knex.",
)
@click.option(
    "--revisions", type=click.Path(path_type=Path), help="Folder of Alembic's revision files."
)
@click.option("--unchecked", is_flag=True, help="Don't compare the database with that version.")
@click.option("--dry-run", is_flag=True, help="Say what would be recorded; write nothing.")
@strip_option
@output.json_option
def baseline(
    version: str | None,
    folder: Path,
    adopt: str | None,
    revisions: Path | None,
    unchecked: bool,
    dry_run: bool,
    strip_transaction: bool,
    as_json: bool,
) -> None:
    """Record what a database has that was made without this runner.

    Without VERSION it is recognised: the migrations run on a shadow database one by one, until
    the two are alike. Nothing but the ledger is written.
    """
    from negspace.migrate import baselining, shadow

    found = baselining.baseline(
        lambda: shadow.ground(settings()),
        address(),
        folder,
        version=version,
        adopt=adopt is not None,
        tool=adopt or None,
        revisions=revisions,
        unchecked=unchecked,
        dry_run=dry_run,
        strip_transaction=strip_transaction,
    )
    if as_json:
        output.show_json(found)
        return
    if not found.migrations:
        output.show_text("nothing recorded: none of the migrations is there; negspace migrate up")
        return
    recorded = output.counted(len(found.migrations), "migration")
    whose = f" from the history of {found.tool}" if found.tool else ""
    verb = "would record" if dry_run else "recorded"
    output.show_text(f"{verb} {recorded} as applied{whose}, to {found.migrations[-1]}")
