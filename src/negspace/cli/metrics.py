"""``negspace metrics``: how fast everything runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import click

from negspace import metrics, queue_metrics, server, settings
from negspace.cli import output, session
from negspace.cli.asking import see_wanted
from negspace.cli.images import parsed
from negspace.cli.times import lasting, past, span

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
@click.option(
    "--window", type=span, default="1h", show_default=True, metavar="SPAN", help="How long one is."
)
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only samples that have it."
)
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw into a .png or .html.",
)
@output.json_option
def show(
    name: str,
    since: datetime | None,
    window: timedelta,
    labels: tuple[str, ...],
    file: Path | None,
    as_json: bool,
) -> None:
    """Show one metric in windows of time, drawn and as numbers."""
    from negspace.cli import metrics_chart

    start = since or datetime.now(UTC) - timedelta(days=1)
    with session.opened() as opened:
        found = metrics.aggregate(opened.database, name, window, since=start, labels=parsed(labels))
    columns = ["window_start", *_NUMBERS]
    empty = f"no {name} was measured since then; negspace metrics list shows what was"
    if found:
        chart = metrics_chart.Chart(f"{name} per {lasting(window.total_seconds())}, UTC", found)
        if file is not None:
            metrics_chart.save(chart, file)
            output.note(f"drawn into {file}")
        elif not as_json:
            output.show_text(metrics_chart.terminal(chart) + "\n")
    output.show_rows(found, columns, as_json=as_json, empty=empty)


@group.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("value", type=float)
@click.option("--unit", default="", help="Such as ms.")
@click.option(
    "--kind",
    type=click.Choice(metrics.TYPES),
    default="histogram",
    show_default=True,
    help="What becomes of it: a percentile, the newest value, or a sum.",
)
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="What series are told apart by."
)
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


@group.command()
@click.option(
    "--span",
    "of",
    type=span,
    default="1h",
    show_default=True,
    metavar="SPAN",
    help="Quantiles are of this last stretch of time.",
)
@output.json_option
def export(of: timedelta, as_json: bool) -> None:
    """Print the queue and every metric in the text format of Prometheus."""
    with session.opened() as opened:
        text = queue_metrics.exposition(opened.database, span=of)
    if as_json:
        output.show_json({"text": text})
    else:
        output.show_part(text)


@group.command()
@output.json_option
@session.repeated
def rollup(as_json: bool) -> None:
    """Roll up what is closed; workers do it every minute."""
    with session.opened() as opened:
        hours = metrics.roll_up(opened.database)
    if as_json:
        output.show_json({"hours": hours})
    else:
        output.show_text(f"rolled up {output.counted(hours, 'hour')}")


@group.command()
@click.option(
    "--keep",
    type=span,
    default="400d",
    show_default=True,
    metavar="SPAN",
    help="Younger samples stay.",
)
@click.option(
    "--keep-minutes",
    type=span,
    default="30d",
    show_default=True,
    metavar="SPAN",
    help="Younger roll-ups by minute stay.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@output.json_option
def purge(
    keep: timedelta, keep_minutes: timedelta, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Drop the months whose samples are old and rolled up, as the owner. Hours and days stay."""
    drop = partial(metrics.purge, keep_samples=keep, keep_minutes=keep_minutes)
    with server.open_database(settings.load(), owner=True, progress=output.note) as database:
        gone = drop(database, dry_run=True)
        if not dry_run:
            if gone:
                see_wanted(f"{output.counted(len(gone), 'month')}, {', '.join(gone)},", yes=yes)
            gone = drop(database)
    if as_json:
        output.show_json({"dropped": gone, "dry_run": dry_run})
        return
    output.show_text(f"{'would drop' if dry_run else 'dropped'} {', '.join(gone) or 'nothing'}")
