"""``negspace cache``: the result cache."""

from __future__ import annotations

import click

from negspace import cache
from negspace.cli import output, session
from negspace.cli.asking import see_wanted
from negspace.errors import InvalidInputError


@click.group("cache")
def group() -> None:
    """The result cache: what was computed is not computed again."""


@group.command()
@output.json_option
def stats(as_json: bool) -> None:
    """Show what it holds, and how often it answered."""
    with session.opened() as opened:
        output.show_fields(cache.stats(opened.database), as_json=as_json)


@group.command()
@click.option("--expired", is_flag=True, help="What answers no more.")
@click.option("--analyzer", help="All answers of that analyser.")
@click.option("--version", help="Only of that version of it.")
@click.option("--all", "everything", is_flag=True, help="All answers.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@output.json_option
def purge(
    expired: bool,
    analyzer: str | None,
    version: str | None,
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove answers; results stay, and answer for their own images as before."""
    if [expired, analyzer is not None, everything].count(True) != 1:
        raise InvalidInputError(
            "what is to be removed?", hint="one of --expired, --analyzer NAME and --all"
        )
    with session.opened() as opened:
        if dry_run:
            found = cache.stats(opened.database)
            count = found.expired if expired else cache.count(opened.database, analyzer, version)
        elif expired:
            count = cache.purge_expired(opened.database)
        else:
            see_wanted(f"{cache.count(opened.database, analyzer, version)} answers", yes=yes)
            count = cache.purge(opened.database, algorithm=analyzer, version=version)
    if as_json:
        output.show_json({"answers": count, "removed": not dry_run})
    else:
        output.show_text(f"{count} answers {'would be' if dry_run else 'were'} removed")
