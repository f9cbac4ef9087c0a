"""``negspace cache``: the result cache."""

from __future__ import annotations

import click

from negspace import cache
from negspace.cli import output, session
from negspace.cli.asking import see_wanted
from negspace.database import Database
from negspace.errors import InvalidInputError


@click.group("cache")
def group() -> None:
    """The caches: what was computed is not computed again."""


@group.command()
@output.json_option
def stats(as_json: bool) -> None:
    """Show what it holds, and how often it answered."""
    with session.opened() as opened:
        found = vars(cache.stats(opened.database)) | vars(cache.value_stats(opened.database))
    output.show_fields(found, as_json=as_json)


@group.command()
@click.option("--expired", is_flag=True, help="What answers no more.")
@click.option("--analyzer", help="All answers of that analyser.")
@click.option("--version", help="Only of that version of it.")
@click.option("--all", "everything", is_flag=True, help="All answers of analyses.")
@click.option("--values", metavar="PREFIX", help="Values whose keys begin so; '' for all.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@output.json_option
def purge(
    expired: bool,
    analyzer: str | None,
    version: str | None,
    everything: bool,
    values: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove answers. Results stay, and answer for their own images as before."""
    if [expired, analyzer is not None, everything, values is not None].count(True) != 1:
        raise InvalidInputError(
            "what is to be removed?", hint="one of --expired, --analyzer, --all and --values"
        )
    with session.opened() as opened:
        database = opened.database
        if expired:
            count = _expired(database, dry_run=dry_run)
        elif values is not None:
            count = cache.count_values(database, values)
            if count and not dry_run:
                see_wanted(output.counted(count, "value"), yes=yes)
                count = cache.purge_values(database, values)
        else:
            count = cache.count(database, analyzer, version)
            if count and not dry_run:
                see_wanted(output.counted(count, "answer"), yes=yes)
                count = cache.purge(database, algorithm=analyzer, version=version)
    if as_json:
        output.show_json({"answers": count, "removed": not dry_run})
    else:
        noun = "answer" if values is None else "value"
        verb = "would remove" if dry_run else "removed"
        output.show_text(f"{verb} {output.counted(count, noun)}")


def _expired(database: Database, *, dry_run: bool) -> int:
    if not dry_run:
        return cache.purge_expired(database) + cache.remove_expired_values(database)
    return cache.stats(database).expired + cache.value_stats(database).expired_values
