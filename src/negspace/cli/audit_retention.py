"""``negspace audit hold | release | export | retain | …``: how long the trail is kept."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import click

from negspace import audit, server, settings
from negspace.audit import Exported, Leaving
from negspace.cli import asking, output, session
from negspace.cli.times import past
from negspace.database import Database

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@click.command()
@click.argument("reason")
@click.option("--since", type=past, metavar="TIME", help="From then on; from the first by default.")
@click.option("--until", type=past, metavar="TIME", help="Before then; without end by default.")
@output.json_option
def hold(reason: str, since: datetime | None, until: datetime | None, as_json: bool) -> None:
    """Place a legal hold. What it covers may not leave, whatever its age."""
    with session.opened() as opened:
        number = audit.hold(opened.database, reason, since=since, until=until)
    if as_json:
        output.show_json({"hold": number})
        return
    output.show_text(f"hold {number} is in force")
    output.note(f"next: negspace audit release {number} REASON, once it is over")


@click.command()
@output.json_option
def holds(as_json: bool) -> None:
    """List the legal holds, newest first."""
    with session.opened() as opened:
        found = audit.holds(opened.database)
    columns = ["id", "reason", "since", "until", "placed_at", "released_at"]
    output.show_rows(found, columns, as_json=as_json, empty="no hold was ever placed")


@click.command()
@click.argument("number", type=int)
@click.argument("reason")
@output.json_option
def release(number: int, reason: str, as_json: bool) -> None:
    """Release a legal hold, as the database's owner."""
    with _owner() as database:
        audit.release(database, number, reason)
    if as_json:
        output.show_json({"released": number})
        return
    output.show_text(f"hold {number} is released")


@click.command()
@click.argument("month")
@click.argument("folder", type=_FOLDER)
@output.json_option
def export(month: str, folder: Path, as_json: bool) -> None:
    """Write a month with its seals into a file of FOLDER. MONTH is such as 2026-01."""
    with session.opened() as opened:
        made = audit.export_month(opened.database, month, folder)
    _show(made, as_json=as_json)


@click.command("check-export")
@click.argument("file", type=_FILE)
@output.json_option
def check_export(file: Path, as_json: bool) -> None:
    """Hash an exported month anew; needs no database."""
    _show(audit.check_export(file), as_json=as_json)


@click.command()
@click.option("--before", type=past, required=True, metavar="TIME", help="Keep what is newer.")
@click.option("--anchor", "anchor_file", type=_FILE, required=True, help="The file of anchors.")
@click.option("--folder", type=_FOLDER, required=True, help="Where the exports go.")
@click.option("--dry-run", is_flag=True, help="Show which months are old enough.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@output.json_option
def retain(
    before: datetime, anchor_file: Path, folder: Path, dry_run: bool, yes: bool, as_json: bool
) -> int:
    """Export old months and let them leave, as the owner.

    Those are old that were over by --before. A month stays while it is not sealed, anchored and
    exported, or a hold keeps it; exit status 3 where one does.
    """
    with _owner() as database:
        old = audit.old_months(database, before)
        if dry_run or not old:
            found = [Leaving(month, None, left=False, reason="a dry run") for month in old]
        else:
            what = output.counted(len(old), "month")
            asking.see_wanted(f"{what} of the audit trail, {', '.join(old)},", yes=yes)
            found = audit.retain(database, before, anchor_file, folder)
    columns = ["month", "left", "reason", "file"]
    output.show_rows(found, columns, as_json=as_json, empty="no month is that old")
    return 0 if dry_run or all(month.left for month in found) else 3


@contextmanager
def _owner() -> Generator[Database]:
    """The database as its owner, in the name of who acts."""
    with (
        session.opened() as opened,
        server.open_database(
            settings.load(), owner=True, actor=opened.database.actor, progress=output.note
        ) as database,
    ):
        yield database


def _show(made: Exported, *, as_json: bool) -> None:
    if as_json:
        output.show_json({
            "file": made.file, "month": made.month, "sha256": made.sha256,
            "seals": len(made.seals), "rows": made.rows,
        })  # fmt: skip
        return
    rows, seals = output.counted(made.rows, "row"), output.counted(len(made.seals), "seal")
    output.show_text(f"{made.file}: {rows} of {made.month} in {seals}")
