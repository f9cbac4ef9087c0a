"""``negspace results``: what the analyses found."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import click

from negspace import results, users
from negspace.cli import output, session
from negspace.cli.times import past
from negspace.errors import FileError
from negspace.results import Result, Selection

_CSV = (
    "result_id",
    "image_id",
    "original_filename",
    "algorithm_name",
    "algorithm_version",
    "negative_fraction",
    "void_count",
    "anomaly_count",
    "confidence_score",
    "processing_time_ms",
    "cache_hit",
    "created_at",
    "algorithm_parameters",
)

purpose_option = click.option(
    "--purpose", required=True, metavar="TEXT", help="What for; the audit trail keeps it."
)
algorithm_option = click.option("--analyzer", "algorithm", help="Only of that analyser.")
since_option = click.option(
    "--since", type=past, metavar="TIME", help="Only from then on: 7d, 12h, or a date."
)
user_option = click.option(
    "--user", help="Only what that account asked for: e-mail address or number."
)
image_option = click.option("--image", type=int, help="Only of that image.")


@click.group("results")
def group() -> None:
    """What the analyses found. IMAGE is a number."""


@group.command("list")
@image_option
@user_option
@algorithm_option
@since_option
@click.option("--before", type=int, metavar="RESULT", help="Only results with a lower number.")
@output.limit_option
@output.json_option
def list_(
    image: int | None,
    user: str | None,
    algorithm: str | None,
    since: datetime | None,
    before: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """List which results there are, newest first."""
    with session.opened() as opened:
        chosen = Selection(image, _user(opened, user), algorithm, since)
        found = results.list_results(opened.database, chosen, before=before, limit=limit)
    output.show_rows(
        found,
        [
            "result_id",
            "image_id",
            "original_filename",
            "algorithm_name",
            "algorithm_version",
            "confidence_score",
            "processing_time_ms",
            "performance_category",
        ],
        as_json=as_json,
        empty="no results; negspace worker run makes them from the queue",
    )
    if len(found) == limit and not as_json:
        output.note(f"older ones: --before {found[-1].result_id}")


@group.command()
@click.argument("image", type=int)
@purpose_option
@output.json_option
def show(image: int, purpose: str, as_json: bool) -> None:
    """Show an image's results, newest first. An event of the audit trail says who read them."""
    with session.opened() as opened:
        found = results.read(opened.database, image, purpose)
        storage = opened.storage()
    if as_json:
        output.show_json(found)
        return
    if not found:
        output.show_text(f"image {image} has no result yet")
        output.note(f"next: negspace jobs enqueue {image}")
    for result in found:
        shown = _flat("", result)
        shown |= {"created_at": result.created_at, "quality": result.quality_metrics}
        if result.visualization_path is not None:
            shown["overlay"] = storage.path(result.visualization_path)
        shown |= {f"suggestion {n}": s for n, s in enumerate(result.optimization_suggestions, 1)}
        output.show_fields({k: v for k, v in shown.items() if v not in ("", None)}, as_json=False)
        output.show_text()


@group.command()
@purpose_option
@click.option(
    "--format", "form", type=click.Choice(["csv", "json"]), default="csv", show_default=True
)
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A new file; else stdout.",
)
@image_option
@user_option
@algorithm_option
@since_option
@output.json_option
def export(
    purpose: str,
    form: str,
    target: Path | None,
    image: int | None,
    user: str | None,
    algorithm: str | None,
    since: datetime | None,
    as_json: bool,
) -> None:
    """Take results out: a table as CSV, or all there is of them as JSON.

    --json is --format json.
    """
    with session.opened() as opened:
        chosen = Selection(image, _user(opened, user), algorithm, since)
        exported = results.export(opened.database, purpose, chosen)
        lines = _json_lines(exported) if as_json or form == "json" else _csv_lines(exported)
        with _writer(target) as write:
            for line in lines:
                write(line)
    if target is not None:
        output.note(f"written to {target}")


def _user(opened: session.Session, user: str | None) -> int | None:
    return None if user is None else users.find(opened.database, user).id


def _flat(name: str, result: Result) -> dict[str, Any]:
    data = result.negative_space_data
    return {
        "result_id": result.id,
        "image_id": result.image_id,
        "original_filename": name,
        "algorithm_name": result.algorithm_name,
        "algorithm_version": result.algorithm_version,
        "negative_fraction": data.get("negative_fraction"),
        "void_count": data.get("void_count"),
        "anomaly_count": len(result.anomalies),
        "confidence_score": result.confidence_score,
        "processing_time_ms": result.processing_time_ms,
        "cache_hit": result.cache_hit,
        "created_at": result.created_at.isoformat(),
        "algorithm_parameters": json.dumps(dict(result.algorithm_parameters), sort_keys=True),
    }


def _csv_lines(exported: Iterator[tuple[str, Result]]) -> Iterator[str]:
    line = io.StringIO()
    table: csv.DictWriter[str] = csv.DictWriter(line, _CSV, lineterminator="\n")
    table.writeheader()
    for name, result in exported:
        yield line.getvalue()
        line.seek(0)
        line.truncate()
        # a spreadsheet would take a name that begins so for a formula
        safe = f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
        table.writerow(_flat(safe, result))
    yield line.getvalue()


def _json_lines(exported: Iterator[tuple[str, Result]]) -> Iterator[str]:
    before = "[\n"
    for name, result in exported:
        entry = {"original_filename": name} | output.plain(result)
        yield before + json.dumps(entry, ensure_ascii=False, allow_nan=False)
        before = ",\n"
    yield "\n]\n" if before == ",\n" else "[]\n"


@contextmanager
def _writer(out: Path | None) -> Generator[Callable[[str], object]]:
    """What takes the lines: stdout, or a file that wasn't there."""
    if out is None:
        yield output.show_part
        return
    try:
        file: IO[str] = out.open("x", encoding="utf-8", newline="")
    except OSError as error:
        raise FileError(
            f"{out} can't be written: {error.strerror or error}",
            hint="name a new file in a folder that exists",
        ) from error
    with file:
        yield file.write
