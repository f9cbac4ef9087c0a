"""``negspace duplicates``: images that are there twice."""

from __future__ import annotations

from pathlib import Path

import click

from negspace import duplicates, users
from negspace.cli import output, session
from negspace.errors import InvalidInputError, NotFoundError

user_option = click.option("--user", help="Only that account's: e-mail address or number.")


@click.group("duplicates")
def group() -> None:
    """Images that are there twice: exactly, or nearly so."""


@group.command()
@user_option
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with thumbnails, near ones too.",
)
@output.json_option
def report(user: str | None, html: Path | None, as_json: bool) -> None:
    """List originals with their duplicates, or write a page."""
    with session.opened() as opened:
        user_id = None if user is None else users.find(opened.database, user).id
        if html is not None:
            owner = opened.acting_user().id if user_id is None else user_id
            duplicates.write(opened.database, opened.storage(), html, user_id=owner)
        found = duplicates.report(opened.database, user_id=user_id)
    if html is not None and not as_json:
        output.show_text(f"{html} is written")
        return
    output.show_rows(
        found,
        ["original_id", "original_filename", "duplicate_ids", "duplicate_filenames", "file_size"],
        as_json=as_json,
        empty="no duplicates",
    )


@group.command()
@output.json_option
@session.repeated
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


@group.command()
@output.json_option
@session.repeated
def scan(as_json: bool) -> None:
    """Mark exact duplicates, and look for the like of new images."""
    with session.opened() as opened:
        found = duplicates.scan(opened.database)
    output.show_fields(found, as_json=as_json)
    output.note("next: negspace duplicates review")


@group.command()
@click.argument("group_id", metavar="[GROUP]", type=int, required=False)
@user_option
@click.option("--all", "everything", is_flag=True, help="Groups that are decided too.")
@click.option("--decide", type=click.Choice(duplicates.DECISIONS), help="What you say of them.")
@click.option(
    "--pair", nargs=2, type=int, metavar="ID ID", help="Decide on these two, not on a whole group."
)
@click.option("--note", help="Why, in a few words.")
@output.json_option
def review(
    group_id: int | None,
    user: str | None,
    everything: bool,
    decide: str | None,
    pair: tuple[int, int] | None,
    note: str | None,
    as_json: bool,
) -> None:
    """Show groups that look alike, or decide on one.

    What is decided is kept with who decided and is an event; nothing is merged by it.
    """
    with session.opened() as opened:
        user_id = None if user is None else users.find(opened.database, user).id
        wanted = everything or decide is not None or group_id is not None
        groups = duplicates.review(opened.database, user_id=user_id, everything=wanted)
        if group_id is not None:
            groups = [_named(groups, group_id)]
        if decide is not None:
            if (group_id is None) == (pair is None):
                raise InvalidInputError("decide on what?", hint="a GROUP, or --pair ID ID")
            still_open = [p for g in groups for p in g.pairs if p.decision == "undecided"]
            of_group = still_open or [p for g in groups for p in g.pairs]
            chosen = [(p.first_id, p.second_id) for p in of_group]
            _decide(opened, decide, [pair] if pair else chosen, note, as_json)
            return
    lines = [_line(one) for one in groups]
    shown = ["group", "images", "names", "nearest_bits", "undecided_pairs"]
    output.show_rows(
        groups if as_json else lines, shown, as_json=as_json, empty="nothing to review"
    )


def _decide(
    opened: session.Session,
    decision: str,
    chosen: list[tuple[int, int]],
    note: str | None,
    as_json: bool,
) -> None:
    person = opened.acting_user().id
    count = duplicates.decide(opened.database, decision, chosen, note=note, user_id=person)
    output.show_fields({"pairs": count, "decision": decision}, as_json=as_json)


def _named(groups: list[duplicates.Group], group_id: int) -> duplicates.Group:
    for one in groups:
        if group_id in one.image_ids:
            return one
    raise NotFoundError(
        f"no group has image {group_id}", hint="negspace duplicates review shows those there are"
    )


def _line(one: duplicates.Group) -> dict[str, object]:
    names = {p.first_id: p.first_filename for p in one.pairs}
    names |= {p.second_id: p.second_filename for p in one.pairs}
    return {
        "group": one.id,
        "images": ", ".join(map(str, one.image_ids)),
        "names": ", ".join(names[i] for i in one.image_ids),
        "nearest_bits": one.pairs[0].bits,
        "undecided_pairs": one.undecided,
    }
