"""``negspace backup``: take, prove, restore, list and thin out backups."""

from __future__ import annotations

import signal
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from negspace import settings
from negspace.cli import asking, output
from negspace.cli.times import past, span

if TYPE_CHECKING:
    from negspace.backup import Backup, Verification
    from negspace.backup.source import Form
    from negspace.settings import Settings

_DIR = click.Path(path_type=Path, file_okay=False)
_HERE = click.Path(path_type=Path, file_okay=False, exists=True)
_SHOWN = 10

name_option = click.option("--backup", "name", metavar="NAME", help="Which one; else the newest.")


@click.group("backup")
def group() -> None:
    """Take, prove and restore backups: database and image files as one unit.

    They lie in a folder DIR, on another disk or machine if you can. The database is the one
    that the settings name; another server is asked as NEGSPACE_OWNER_URL says.
    """


@group.command()
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--incremental", is_flag=True, help="What changed since the last (PostgreSQL 17+).")
@click.option(
    "--form",
    type=click.Choice(["physical", "dump"]),
    help="The server's files, or the database's content; files where the server allows it.",
)
@output.json_option
def create(folder: Path, incremental: bool, form: str | None, as_json: bool) -> int:
    """Take a backup into DIR. Exit status 3 where a stored image file is damaged."""
    from negspace import backup

    made = backup.create(
        settings.load(),
        folder,
        form=cast("Form | None", form),
        incremental=incremental,
        progress=output.note,
    )
    output.show_fields(_made(made), as_json=as_json)
    for path in made.damaged:
        output.note(f"damaged, and not in the backup: {path}")
    if not as_json:
        output.note(f"next: negspace backup verify {folder}")
    return 3 if made.damaged else 0


@group.command()
@click.argument("folder", metavar="DIR", type=_DIR, required=False)
@click.option("--stop", is_flag=True, help="Archive no more.")
@output.json_option
def archive(folder: Path | None, stop: bool, as_json: bool) -> None:
    """Archive the server's log, to restore to any moment.

    The embedded server does it by itself; the first time it is restarted. Another server's log
    is followed until this command is stopped. Take a backup into DIR afterwards. Without DIR,
    show where the embedded server's log goes.
    """
    from negspace import backup

    given = settings.load()
    if not given.embedded and (stop or folder is not None):
        _follow(None if stop else folder, given, as_json=as_json)
        return
    if stop:
        found = backup.stop_archiving(given, progress=output.note)
    elif folder is not None:
        found = backup.start_archiving(given, folder, progress=output.note)
    else:
        found = backup.where_archived(given)
    output.show_fields(found, as_json=as_json)
    if folder is not None and not stop and not as_json:
        output.note(f"next: negspace backup create {folder}")


def _follow(folder: Path | None, given: Settings, *, as_json: bool) -> None:
    """Follow another server's log until a signal comes; without a folder, never again."""
    from negspace import backup

    if folder is None:
        backup.unfollow_log(given)
        output.show_fields({"folder": None}, as_json=as_json)
        return
    with backup.follow_log(given, folder, progress=output.note) as following:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, following.stop)
        output.note(f"next, beside this: negspace backup create {folder}")
        following.wait()
    output.show_fields({"folder": following.folder}, as_json=as_json)


@group.command()
@click.argument("folder", metavar="DIR", type=_DIR)
@output.json_option
def files(folder: Path, as_json: bool) -> int:
    """Copy new image files alone, between two backups. For cron, where the log is archived."""
    from negspace import backup

    copied = backup.copy_files(settings.load(), folder, progress=output.note)
    output.show_fields(
        {"files": len(copied.files), "new": copied.copied, "damaged": list(copied.damaged)},
        as_json=as_json,
    )
    return 3 if copied.damaged else 0


@group.command()
@click.argument("folder", metavar="DIR", type=_DIR)
@name_option
@click.option("--scratch", type=_HERE, help="Where the scratch server lies; in DIR by default.")
@output.json_option
def verify(folder: Path, name: str | None, scratch: Path | None, as_json: bool) -> int:
    """Restore into a scratch server and compare everything.

    The result is written beside its manifest. Exit status 3 where something is wrong.
    """
    from negspace import backup

    found = backup.verify(settings.load(), folder, name=name, scratch=scratch, progress=output.note)
    if as_json:
        output.show_json({"fine": found.fine, **output.plain(found)})
    else:
        _show_verification(found)
    return 0 if found.fine else 3


def _show_verification(found: Verification) -> None:
    output.show_text(
        f"{found.name}: {found.tables} tables, {output.counted(found.rows, 'row')},"
        f" {output.counted(found.seals, 'seal')}, {output.counted(found.files, 'image file')}"
    )
    for note in found.notes:
        output.show_text(f"note: {note}")
    for problem in found.problems:
        output.show_text(f"PROBLEM: {problem}")
    output.show_text("proven" if found.fine else "NOT PROVEN")


@group.command("list")
@click.argument("folder", metavar="DIR", type=_DIR)
@output.json_option
def list_(folder: Path, as_json: bool) -> None:
    """List the backups in DIR, and whether they are proven."""
    from negspace import backup

    rows: list[dict[str, object]] = []
    for one in backup.backups(folder):
        found = backup.last_verification(folder, one)
        proven = "not tried" if found is None else "proven" if found.fine else "NOT PROVEN"
        rows.append({**_made(one), "verified": proven})
    columns = ["name", "kind", "parent", "PostgreSQL", "migrations", "rows", "files", "verified"]
    output.show_rows(rows, columns, as_json=as_json, empty="no backup")


def _made(made: Backup) -> dict[str, object]:
    return {
        "name": made.name,
        "kind": made.kind,
        "parent": made.parent,
        "why_dump": made.why_dump,
        "taken_at": made.taken_at,
        "exact": made.exact,
        "PostgreSQL": made.origin.version,
        "migrations": len(made.facts.migrations),
        "tables": len(made.facts.tables),
        "rows": made.facts.rows,
        "seals": made.facts.seals,
        "files": made.files,
        "file_bytes": made.file_bytes,
    }


def _target(text: str) -> datetime | Literal["latest"]:
    return "latest" if text == "latest" else past(text)


@group.command()
@click.argument("folder", metavar="DIR", type=_DIR)
@click.argument("home", metavar="HOME", type=_DIR)
@name_option
@click.option(
    "--to",
    type=_target,
    metavar="TIME",
    help="As of that time, such as '2026-01-31 12:00:00+01', or latest: all that was archived.",
)
@click.option("--wal", type=_HERE, metavar="FOLDER", help="pg_wal of the crashed server.")
@click.option("--storage", type=_HERE, metavar="FOLDER", help="Where newer image files lie.")
@output.json_option
def restore(
    folder: Path,
    home: Path,
    name: str | None,
    to: datetime | Literal["latest"] | None,
    wal: Path | None,
    storage: Path | None,
    as_json: bool,
) -> int:
    """Restore into a new HOME; nothing is ever overwritten.

    Without --to, the backup's own moment. With it, the newest backup before TIME and the
    archived log: every transaction that had committed by then and none after. Exit status 3
    where image files that rows name are missing.
    """
    from negspace import backup

    done = backup.restore(
        settings.load(),
        folder,
        home,
        name=name,
        to=to,
        wal=wal,
        storage=storage,
        progress=output.note,
    )
    shown = vars(done) | {"missing": len(done.missing)}
    if isinstance(done.to, datetime):
        shown["to"] = str(done.to)  # to the microsecond: what committed within that second counts
    output.show_fields(done if as_json else shown, as_json=as_json)
    for path in done.missing[:_SHOWN]:
        output.note(f"missing or damaged: {path}")
    if not as_json:
        output.note(f"next: NEGSPACE_HOME={done.home} negspace server start")
    return 3 if done.missing else 0


@group.command()
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="So many newest stay.")
@click.option("--older-than", type=span, metavar="SPAN", help="Younger ones stay; such as 30d.")
@click.option("--dry-run", is_flag=True, help="Show what would go.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@output.json_option
def prune(
    folder: Path,
    keep: int | None,
    older_than: timedelta | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove old backups and what only they need.

    With them go image files and archived log that no other needs. The newest proven one stays
    always, and what a staying one builds on.
    """
    from negspace import backup

    found = backup.prune(folder, keep=keep, older_than=older_than, dry_run=True)
    if found.removed and not dry_run:
        what = output.counted(len(found.removed), "backup")
        asking.see_wanted(f"{what}, {', '.join(found.removed)},", yes=yes)
        found = backup.prune(folder, keep=keep, older_than=older_than)
    output.show_fields(found, as_json=as_json)
