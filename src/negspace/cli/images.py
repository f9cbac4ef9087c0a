"""``negspace images``: take in, list, show, change and remove images."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from negspace import images, intake, upkeep, users
from negspace.cli import output, session
from negspace.errors import InvalidInputError, RefusedError
from negspace.images import Image
from negspace.intake import Outcome

_NONE: Final = "no images; negspace images add FILE takes one in"


@click.group("images")
def group() -> None:
    """Take in, list and show images. IMAGE is a number."""


@group.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-r", "--recursive", is_flag=True, help="Take in all files below a folder.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Metadata to keep.")
@output.json_option
def add(paths: tuple[Path, ...], recursive: bool, changes: tuple[str, ...], as_json: bool) -> int:
    """Take files in for the acting user (--as, NEGSPACE_USER).

    A file that is refused never stops the others; the exit status is 1 where some were.
    """
    metadata = parsed(changes)
    with session.opened() as opened, _progress() as advance:
        sources = list(intake.files_in(paths)) if recursive else list(paths)
        outcomes: list[Outcome] = []
        for outcome in intake.add_all(
            opened.database,
            opened.storage(),
            sources,
            user_id=opened.acting_user().id,
            max_pixels=opened.settings.max_pixels,
            metadata=metadata,
            patience=opened.settings.patience,
            on_wait=lambda error: session.say_lost(error, opened.settings),
        ):
            outcomes.append(outcome)
            advance(outcome.path.name, len(outcomes), len(sources))
    _show_outcomes(outcomes, as_json=as_json)
    return 1 if any(outcome.error for outcome in outcomes) else 0


@group.command("list")
@click.option("--user", help="Only that account's: e-mail address or number.")
@click.option("--status", type=click.Choice(images.STATUSES))
@click.option("--duplicates/--originals", default=None, help="Only duplicates, or originals.")
@click.option("--before", type=int, metavar="IMAGE", help="Only images with a lower number.")
@output.limit_option
@output.json_option
def list_(
    user: str | None,
    status: str | None,
    duplicates: bool | None,
    before: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """List images, newest first."""
    with session.opened() as opened:
        found = images.list_images(
            opened.database,
            user_id=None if user is None else users.find(opened.database, user).id,
            status=status,
            duplicates=duplicates,
            before=before,
            limit=limit,
        )
    if as_json:
        output.show_json(found)
        return
    columns = ["id", "file", "type", "size", "status", "duplicate_of", "uploaded"]
    output.show_rows(
        [_row(image) for image in found],
        columns,
        as_json=False,
        empty="no such images" if user or status or duplicates is not None else _NONE,
    )
    if len(found) == limit:
        output.note(f"older ones: --before {found[-1].id}")


@group.command()
@click.argument("image", type=int)
@output.json_option
def show(image: int, as_json: bool) -> None:
    """Show one image, and where it stands."""
    with session.opened() as opened:
        found = images.find(opened.database, image)
        stands = images.pipeline(opened.database, image)
    if as_json:
        output.show_json({"image": found, "pipeline": stands})
        return
    output.show_fields(found, as_json=False)
    output.show_text()
    newest = {k: v for k, v in vars(stands).items() if k not in vars(found)}
    output.show_fields(newest, as_json=False)


@group.command("set")
@click.argument("image", type=int)
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE...")
@output.json_option
@session.repeated
def set_(image: int, changes: tuple[str, ...], as_json: bool) -> None:
    """Set keys of an image's metadata. VALUE is JSON, or else a text; null removes the key."""
    with session.opened() as opened:
        changed = images.set_metadata(opened.database, image, parsed(changes))
    output.show_fields({"id": changed.id, "metadata": changed.metadata}, as_json=as_json)


@group.command()
@click.argument("numbers", nargs=-1, required=True, type=int, metavar="IMAGE...")
@output.json_option
@session.repeated
def archive(numbers: tuple[int, ...], as_json: bool) -> None:
    """Take images out of use. Their jobs are cancelled, their results stay."""
    with session.opened() as opened:
        found = [images.archive(opened.database, number) for number in numbers]
    output.show_rows(found, ["id", "original_filename", "analysis_status"], as_json=as_json)


@group.command()
@click.argument("numbers", nargs=-1, required=True, type=int, metavar="IMAGE...")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@output.json_option
def delete(numbers: tuple[int, ...], dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove images with their jobs and results. Events of the audit trail stay."""
    with session.opened() as opened:
        found = [images.find(opened.database, number) for number in dict.fromkeys(numbers)]
        if dry_run:
            _show_images(found, as_json=as_json)
            output.note("nothing was removed (--dry-run)")
            return
        _confirmed(found, yes=yes)
        storage = opened.storage()
        gone = [images.delete(opened.database, storage, image.id) for image in found]
    output.show_rows(gone, ["image_id", "file_removed", "problem"], as_json=as_json)


@group.command()
@click.argument("image", type=int)
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--purpose", required=True, metavar="TEXT", help="What for; the audit trail keeps it."
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@output.json_option
def export(image: int, target: Path, purpose: str, overwrite: bool, as_json: bool) -> None:
    """Copy an image's bytes to a file or folder. The audit trail has it."""
    with session.opened() as opened:
        written = images.export(
            opened.database, opened.storage(), image, target, purpose, overwrite=overwrite
        )
    output.show_fields({"image": image, "file": written}, as_json=as_json)


@group.command()
@click.option("--read", is_flag=True, help="Read every stored file and compare it with its hash.")
@click.option("--tidy", is_flag=True, help="Remove files that no image or result names.")
@output.json_option
def check(read: bool, tidy: bool, as_json: bool) -> int:
    """Compare the stored files with the rows. Exit status 3 where bytes are missing or damaged."""
    with session.opened() as opened, output.counting("{:,} files read") as progress:
        storage = opened.storage()
        found = upkeep.check(opened.database, storage, read=read, progress=progress)
        removed = upkeep.tidy(opened.database, storage) if tidy else []
    shown = output.plain(found) | {"removed": removed}
    if as_json:
        output.show_json(shown)
    else:
        output.show_fields(
            {k: v if isinstance(v, int) else len(v) for k, v in shown.items()}, as_json=False
        )
        for kind in ("missing", "damaged"):
            for path in shown[kind]:
                output.show_text(f"{kind}: {path}")
    return 0 if found.fine else 3


def parsed(changes: Sequence[str]) -> dict[str, object]:
    """``KEY=VALUE`` texts as a mapping; a value that is no JSON is a text.

    Raises:
        InvalidInputError: One has no ``=``.
    """
    found: dict[str, object] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not key or not equals:
            raise InvalidInputError(f"{change!r} sets nothing", hint="such as instrument=HST")
        try:
            found[key] = json.loads(text, parse_constant=str)  # NaN is no JSON
        except (ValueError, RecursionError):
            found[key] = text
    return found


def _confirmed(found: Sequence[Image], *, yes: bool) -> None:
    """Return where removing them is wanted.

    Raises:
        RefusedError: It isn't, or nobody can be asked.
    """
    if yes:
        return
    count = output.counted(len(found), "image")
    if not sys.stdin.isatty():
        raise RefusedError(f"{count} would be removed, and nobody can be asked", hint="add --yes")
    _show_images(found, as_json=False)
    if not click.confirm(f"Remove {count}, jobs and results included?", err=True):
        raise RefusedError("nothing was removed")


def _show_outcomes(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    if as_json:
        output.show_json(
            [
                {
                    "path": outcome.path,
                    "status": outcome.status,
                    "image": outcome.image,
                    "error": outcome.error and outcome.error.as_dict(),
                }
                for outcome in outcomes
            ]
        )
        return
    table = [
        {
            "file": outcome.path,
            "status": outcome.status,
            "image": outcome.image and outcome.image.id,
            "reason": _reason(outcome),
        }
        for outcome in outcomes
    ]
    output.show_rows(
        table, ["file", "status", "image", "reason"], as_json=False, empty="no files there"
    )
    for hint in dict.fromkeys(o.error.hint for o in outcomes if o.error and o.error.hint):
        output.note(f"hint: {hint}")
    numbers = [outcome.image.id for outcome in outcomes if outcome.image]
    if numbers:
        output.note(f"next: negspace jobs enqueue {' '.join(map(str, numbers[:10]))}")


def _reason(outcome: Outcome) -> str | None:
    if outcome.error is not None:
        return outcome.error.message
    if outcome.image is not None and outcome.image.is_duplicate:
        return f"the same file as image {outcome.image.duplicate_of}"
    return None


def _show_images(found: Sequence[Image], *, as_json: bool) -> None:
    output.show_rows(found, ["id", "original_filename", "analysis_status"], as_json=as_json)


def _row(image: Image) -> dict[str, object]:
    size = image.image_dimensions
    return {
        "id": image.id,
        "file": image.original_filename,
        "type": image.mime_type,
        "size": size and f"{size['width']}×{size['height']}×{size['channels']}",
        "status": image.analysis_status,
        "duplicate_of": image.duplicate_of,
        "uploaded": image.uploaded_at,
    }


def _unseen(name: str, done: int, total: int) -> None:
    """No terminal, no progress."""


@contextmanager
def _progress() -> Generator[Callable[[str, int, int], object]]:
    """A progress bar on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield _unseen
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("taking in")
        yield lambda name, done, total: progress.update(
            task, description=name, completed=done, total=total
        )
