"""``negspace duplicates``: images that are there twice."""

from __future__ import annotations

import click

from negspace import duplicates, users
from negspace.cli import output, session

user_option = click.option("--user", help="Only that account's: e-mail address or number.")


@click.group("duplicates")
def group() -> None:
    """Images that are there twice: exactly, or nearly so."""


@group.command()
@user_option
@output.json_option
def report(user: str | None, as_json: bool) -> None:
    """List each original with its exact duplicates."""
    with session.opened() as opened:
        user_id = None if user is None else users.find(opened.database, user).id
        found = duplicates.report(opened.database, user_id=user_id)
    output.show_rows(
        found,
        ["original_id", "original_filename", "duplicate_ids", "duplicate_filenames", "file_size"],
        as_json=as_json,
        empty="no duplicates",
    )


@group.command()
@output.json_option
def mark(as_json: bool) -> None:
    """Mark images whose pixels their owner has already in another file."""
    with session.opened() as opened:
        marked = duplicates.mark(opened.database)
    output.show_fields({"marked": marked}, as_json=as_json)
    output.note("next: negspace duplicates report")


@group.command()
@user_option
@click.option(
    "--distance",
    type=click.IntRange(0, 32),
    default=8,
    show_default=True,
    help="Bits of 64 in which the perceptual hashes may differ.",
)
@output.json_option
def near(user: str | None, distance: int, as_json: bool) -> None:
    """List pairs that look alike: proposals, a person decides.

    Only images that were analysed have a perceptual hash.
    """
    with session.opened() as opened:
        user_id = None if user is None else users.find(opened.database, user).id
        found = duplicates.near(opened.database, user_id=user_id, distance=distance)
    output.show_rows(
        found,
        ["first_id", "first_filename", "second_id", "second_filename", "distance"],
        as_json=as_json,
        empty="no near duplicates",
    )
