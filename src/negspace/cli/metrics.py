"""``negspace metrics``: how fast everything runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from negspace import metrics
from negspace.cli import output, session
from negspace.cli.images import parsed
from negspace.cli.times import past, span

_NUMBERS = ("sample_count", "mean", "minimum", "p50", "p95", "p99", "maximum")

since_option = click.option(
    "--since", type=past, metavar="TIME", help="From then on: 7d, 12h, or a date; else 24h."
)


@click.group("metrics")
def group() -> None:
    """How fast everything runs. Jobs record job_wait_ms and job_run_ms."""


@group.command("list")
@since_option
@output.json_option
def list_(since: datetime | None, as_json: bool) -> None:
    """List the metrics, each with its mean and percentiles."""
    with session.opened() as opened:
        found = metrics.summary(opened.database, since=since)
    columns = ["metric_name", "unit", *_NUMBERS]
    output.show_rows(found, columns, as_json=as_json, empty="nothing was measured since then")


@group.command()
@click.argument("name")
@since_option
@click.option("--window", type=span, default="1h", show_default=True, metavar="SPAN")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only with it.")
@output.json_option
def show(
    name: str, since: datetime | None, window: timedelta, labels: tuple[str, ...], as_json: bool
) -> None:
    """Show one metric in windows of time."""
    start = since or datetime.now(UTC) - timedelta(days=1)
    with session.opened() as opened:
        found = metrics.aggregate(opened.database, name, window, since=start, labels=parsed(labels))
    columns = ["window_start", *_NUMBERS]
    empty = f"no {name} was measured since then; negspace metrics list shows what was"
    output.show_rows(found, columns, as_json=as_json, empty=empty)


@group.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("value", type=float)
@click.option("--unit", default="", help="Such as ms.")
@click.option("--kind", type=click.Choice(metrics.TYPES), default="histogram", show_default=True)
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE")
@output.json_option
def record(
    name: str,
    value: float,
    unit: str,
    kind: metrics.MetricType,
    labels: tuple[str, ...],
    as_json: bool,
) -> None:
    """Record one sample."""
    sample = metrics.Sample(name, value, unit, kind, parsed(labels))
    with session.opened() as opened:
        metrics.record(opened.database, sample)
    if as_json:
        output.show_json(sample)
    else:
        output.note(f"recorded; next: negspace metrics show {name}")
