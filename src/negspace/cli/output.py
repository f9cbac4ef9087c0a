"""How results are shown: one value, as a table or as JSON. The only writer to stdout."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeVar, cast

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_PADDING: Final = re.compile(r" +(?=(\x1b\[0m)?$)")
_WIDEST: Final = 200  # columns of a table; longer cells are folded


def json_option(command: Command) -> Command:
    """The ``--json`` that every verb has."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def limit_option(command: Command) -> Command:
    """The ``--limit`` of what may be long."""
    return click.option(
        "-n",
        "--limit",
        type=click.IntRange(1, 10_000),
        default=50,
        show_default=True,
        help="How many at most.",
    )(command)


def plain(value: object) -> Any:
    """The value as JSON knows it: times in ISO 8601, decimals as numbers, durations in seconds."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def show_json(value: object) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def show_json_line(value: object) -> None:
    """Print a value as JSON on one line, at once: for scripts that read as it comes."""
    click.echo(json.dumps(plain(value), ensure_ascii=False, allow_nan=False))


def show_text(text: str = "") -> None:
    """Print a line of the result."""
    click.echo(text)


def show_part(text: str) -> None:
    """Print a part of the result, as it is."""
    click.echo(text, nl=False)


def note(text: str) -> None:
    """Say something that is not the result, on stderr."""
    click.echo(text, err=True)


@contextmanager
def counting(words: str) -> Generator[Callable[[int], None] | None]:
    """Say on stderr how far something is, as ``words`` have it: ``{:,} rows``.

    Only at a terminal, else None; the line is gone at the end of the block.
    """
    if not sys.stderr.isatty():
        yield None
        return
    try:
        yield lambda count: click.echo(f"\r{words.format(count)} …", nl=False, err=True)
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)


def show_rows(
    rows: Sequence[object],
    columns: Sequence[str],
    *,
    as_json: bool,
    title: str | None = None,
    empty: str = "nothing to show",
) -> None:
    """Print rows as a table of the named columns, or whole as JSON.

    Args:
        rows: Dataclasses or mappings.
        columns: The keys the table shows, in order; ``_`` prints as a space.
        as_json: Print every key of every row as JSON instead.
        title: A line above the table.
        empty: What stands in for a table without rows.
    """
    if as_json:
        show_json(list(rows))
        return
    if not rows:
        click.echo(empty)
        return
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    fields = [_fields(row) for row in rows]
    for column in columns:
        numeric = all(isinstance(r[column], int | float | Decimal | None) for r in fields)
        justify = "right" if numeric else "left"
        table.add_column(column.replace("_", " "), justify=justify, overflow="fold")
    for row in fields:
        table.add_row(*(cell(row[column]) for column in columns))
    show_rich(table)


def csv_option(command: Command) -> Command:
    """The ``--csv`` of what a spreadsheet may want."""
    return click.option("--csv", "as_csv", is_flag=True, help="Print CSV, all columns.")(command)


def show_csv(rows: Sequence[object], columns: Sequence[str]) -> None:
    """Print every column of dataclasses as CSV; what has parts as JSON, nothing as nothing."""
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        fields = plain(row)
        writer.writerow(
            json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
            for value in (fields[column] for column in columns)
        )


def show_columns(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in plain columns, at once: rich takes its time to be imported."""
    texts = [list(heads), *([cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        show_text(line.rstrip())


def show_fields(value: object, *, as_json: bool) -> None:
    """Print one value: a line per field, or JSON."""
    if as_json:
        show_json(value)
        return
    fields = _fields(value)
    width = max(map(len, fields), default=0)
    for name, content in fields.items():
        click.echo(f"{name.replace('_', ' '):<{width}}  {cell(content)}")


def show_rich(renderable: object) -> None:
    """Print something rich can draw, as wide as it needs.

    A terminal that is narrower wraps its lines, which reads better than cells of a few letters.
    """
    from rich.console import Console

    width = max(_WIDEST, shutil.get_terminal_size().columns)
    console = Console(width=width, soft_wrap=False, highlight=False, markup=False)
    with console.capture() as captured:  # rich itself exits where nobody reads any more
        console.print(renderable)
    show_part("".join(f"{_PADDING.sub('', line)}\n" for line in captured.get().splitlines()))


def _fields(value: object) -> dict[str, Any]:
    """The fields of a dataclass, or a mapping, by name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return dict(cast("Mapping[str, Any]", value))


def cell(value: object) -> str:
    """A value as a table shows it; times to the second, in a form that options take."""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    value = plain(value)
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:,.0f}"
    if isinstance(value, list) and all(isinstance(one, str | int) for one in value):
        return ", ".join(map(str, value)) or "–"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and its noun: ``1 job``, ``2 jobs``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
