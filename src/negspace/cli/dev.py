"""``negspace dev``: tools for those who work on negspace, or try it at scale."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from negspace import server, settings
from negspace.cli import output
from negspace.errors import RefusedError

if TYPE_CHECKING:
    from negspace.generate import Generated
    from negspace.settings import Settings


class Count(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """A whole number that may be written as 1e6 or 1_000_000."""

    name = "number"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The number."""
        try:
            number = float(str(value))
            whole = int(number)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no number", param, ctx)
        if whole != number or whole < 0:
            self.fail(f"{value!r} is no whole number of rows", param, ctx)
        return whole


@click.group("dev")
def group() -> None:
    """Tools for those who work on negspace, or try it at scale."""


@group.command()
@click.option(
    "--images", type=Count(), default=10_000, show_default=True, help="Such as 1e6; rows alone."
)
@click.option("--events", type=Count(), help="Audit events; five times the images if not given.")
@click.option("--metrics", type=Count(), help="Metric samples; ten times the images if not given.")
@click.option("--users", type=Count(), help="Accounts; one for a hundred images if not given.")
@click.option("--seed", type=Count(), default=1, show_default=True, help="Of the random numbers.")
@click.option(
    "--until",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="DATE",
    help="The year of data ends where this day begins (UTC); today if not given.",
)
@click.option(
    "--jobs", type=click.IntRange(1, 3), default=3, show_default=True, help="Connections that load."
)
@click.option("--into-existing", is_flag=True, help="Add to the rows that are there.")
@click.option("--yes", is_flag=True, help="Into a database that is not the embedded one.")
@output.json_option
def generate(
    images: int,
    events: int | None,
    metrics: int | None,
    users: int | None,
    seed: int,
    until: datetime | None,
    jobs: int,
    into_existing: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Fill an empty database with a plausible year of rows.

    The same rows for the same seed and day. About as many results and jobs come as images; no
    image files are made. Either all rows come in or none; until then the tables are locked.
    """
    given = _ours(yes=yes)
    from negspace import generate as generator

    plan = generator.Plan(
        images=images,
        events=5 * images if events is None else events,
        metrics=10 * images if metrics is None else metrics,
        users=users,
        seed=seed,
        until=(until or datetime.now(UTC)).date(),
    )
    with server.open_database(given, owner=True, progress=output.note) as database:
        made = generator.generate(
            database, plan, into_existing=into_existing, jobs=jobs, say=output.note
        )
    _show(made, as_json=as_json)


def _ours(*, yes: bool) -> Settings:
    given = settings.load()
    if not given.embedded and not yes:
        raise RefusedError(
            "this database is not the embedded one, and nothing was touched",
            hint="say --yes to fill it with invented rows",
        )
    return given


def _show(made: Generated, *, as_json: bool) -> None:
    if as_json:
        output.show_json(made)
        return
    output.show_rows(made.tables, ["table", "rows", "copy_seconds", "index_seconds"], as_json=False)
    output.show_text(
        f"{made.rows:,} rows in {made.seconds:.1f} s, {made.rows_per_second:,.0f} rows/s"
        f" ({made.vacuum_seconds:.1f} s of it for vacuum);"
        f" seed {made.seed}, year until {made.until}"
    )
    output.note("next: negspace server psql -c 'select * from user_activity_summary limit 10'")
