"""``negspace maintain``: what must happen now and then."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta

import click

from negspace import server, upkeep
from negspace.cli import output, session
from negspace.settings import Settings

FAILED = 1


@click.command("maintain")
@click.option("--due", is_flag=True, help="Leave out what anybody did of late, as workers do.")
@click.option(
    "--keep-jobs", type=click.IntRange(1), metavar="DAYS", help="Drop older months of ended jobs."
)
@click.option(
    "--keep-samples",
    type=click.IntRange(31),
    metavar="DAYS",
    default=upkeep.Policy.samples.days,
    show_default=True,
    help="Drop older months of metrics' samples, as the owner.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@output.json_option
def group(due: bool, keep_jobs: int | None, keep_samples: int, dry_run: bool, as_json: bool) -> int:
    """Keep house: partitions, expired and old things, counters, roll-ups, seals, statistics.

    Safe to call at any time and by many at once: one does a step, the others say so. Workers
    do the same. Exit status 1 when a step failed; the others are done all the same.
    """
    policy = upkeep.Policy(
        jobs=None if keep_jobs is None else timedelta(days=keep_jobs),
        samples=timedelta(days=keep_samples),
    )
    with ExitStack() as stack:
        opened = stack.enter_context(session.opened())
        owner = None
        if _owner_known(opened.settings):
            owner = stack.enter_context(server.open_database(opened.settings, owner=True))
        keeping = upkeep.Keeping(opened.database, opened.storage(), owner, policy)
        done = upkeep.maintain(keeping, due_only=due, dry_run=dry_run)
    if as_json:
        output.show_json(done)
    else:
        output.show_columns(["step", "", "", ""], [_row(one) for one in done])
    failed = any(one.state == "failed" for one in done)
    if failed:
        output.note("next: negspace doctor")
    return FAILED if failed else 0


def _owner_known(settings: Settings) -> bool:
    return settings.embedded or settings.owner_url is not None


def _row(one: upkeep.Outcome) -> list[str]:
    count = "" if one.count is None else f"{one.count} {one.counts}"
    if one.state == "would be done" and one.count is not None:
        count = f"{one.count} wait"
    return [one.step, one.state, count or one.said or "", one.said if count and one.said else ""]
