"""A metric over time as a drawing: in the terminal, as PNG, or as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from negspace.errors import FileError, InvalidInputError
from negspace.metrics import Window

COLUMNS: Final = {"p50": "#1f77b4", "p95": "#ff7f0e", "p99": "#d62728"}
_WIDTH, _HEIGHT = 960, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 20, 40, 40


@dataclass(frozen=True)
class Chart:
    """One metric's percentiles over time; windows in the order of time, at least one."""

    title: str
    windows: Sequence[Window]

    def runs(self, column: str) -> Iterator[list[tuple[float, float]]]:
        """The points of a line in the drawing; a window without samples ends a line."""
        run: list[tuple[float, float]] = []
        before: Window | None = None
        for window in self.windows:
            if before is not None and window.window_start > before.window_end:
                yield run
                run = []
            run.append((self._x(window.window_start), self._y(getattr(window, column))))
            before = window
        yield run

    def levels(self) -> list[tuple[float, str]]:
        """Heights of the grid, each with what it stands for."""
        low, high = self._bounds()
        values = [low + (high - low) * part / 4 for part in range(5)]
        return [(self._y(value), f"{value:,.4g}") for value in values]

    def moments(self) -> list[tuple[float, str]]:
        """Places along the time axis, each with its time in UTC."""
        first, last = self.windows[0].window_start, self.windows[-1].window_end
        step = (last - first) / 4
        return [(self._x(first + step * n), f"{first + step * n:%m-%d %H:%M}") for n in range(5)]

    def _bounds(self) -> tuple[float, float]:
        values = [getattr(w, column) for w in self.windows for column in COLUMNS]
        low, high = min(0.0, *values), max(values)
        return low, high if high > low else low + 1

    def _x(self, at: datetime) -> float:
        first, last = self.windows[0].window_start, self.windows[-1].window_end
        share = (at - first) / max(last - first, timedelta(microseconds=1))
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def _y(self, value: float) -> float:
        low, high = self._bounds()
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def terminal(chart: Chart, *, width: int = 72, height: int = 14) -> str:
    """The drawing in Braille dots, without colour."""
    import plotille

    figure = plotille.Figure()
    figure.width, figure.height, figure.color_mode = width, height, "names"
    figure.with_colors = False
    figure.y_label, figure.x_label = chart.title, "UTC"
    first, last = chart.windows[0].window_start, chart.windows[-1].window_end
    figure.set_x_limits(first, last)
    figure.register_label_formatter(float, _number)
    figure.register_label_formatter(datetime, _time)
    for column in COLUMNS:
        values = [float(getattr(window, column)) for window in chart.windows]
        figure.plot([window.window_start for window in chart.windows], values, label=column)
    return str(figure.show(legend=True))


def _number(val: float, chars: int, delta: float, left: bool = False) -> str:
    del delta
    return f"{val:.4g}".ljust(chars) if left else f"{val:.4g}".rjust(chars)


def _time(val: datetime, chars: int, delta: timedelta, left: bool = False) -> str:
    del delta
    text = f"{val:%m-%d %H:%M}"
    return text.ljust(chars) if left else text.rjust(chars)


def save(chart: Chart, path: Path) -> None:
    """Write the drawing; the suffix says how.

    Raises:
        InvalidInputError: The suffix is neither .png nor .html.
        FileError: The file can't be written.
    """
    if path.suffix not in (".png", ".html"):
        raise InvalidInputError(f"{path} is neither .png nor .html", hint="--output chart.png")
    try:
        if path.suffix == ".html":
            path.write_text(page(chart), encoding="utf-8")
        else:
            _png(chart, path)
    except OSError as error:
        raise FileError(
            f"{path} can't be written: {error.strerror}", hint="name another"
        ) from error


def page(chart: Chart) -> str:
    """The drawing as a page of its own: SVG, nothing is loaded."""
    title = html.escape(chart.title)
    parts = [
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        for y, label in chart.levels()
    ]
    parts += [
        f'<text x="{x:.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{label}</text>'
        for x, label in chart.moments()
    ]
    for number, (column, colour) in enumerate(COLUMNS.items()):
        for run in chart.runs(column):
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.5" fill="{colour}"/>' for x, y in run
            ]
        parts.append(f'<text x="{_LEFT + 60 * number}" y="28" fill="{colour}">{column}</text>')
    drawing = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n'
        f"<h1>{title}</h1>\n"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" font-family="sans-serif"'
        f' font-size="12">\n{drawing}\n</svg></html>\n'
    )


def _png(chart: Chart, path: Path) -> None:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    draw.text((_LEFT, 6), chart.title, fill="black")
    for y, label in chart.levels():
        draw.line((_LEFT, y, _WIDTH - _RIGHT, y), fill="#dddddd")
        draw.text((_LEFT - 8, y), label, fill="black", anchor="rm")
    for x, label in chart.moments():
        draw.text((x, _HEIGHT - 20), label, fill="black", anchor="mm")
    for number, (column, colour) in enumerate(COLUMNS.items()):
        draw.text((_LEFT + 60 * number, 22), column, fill=colour)
        for run in chart.runs(column):
            draw.line(run, fill=colour, width=2)
            for x, y in run:
                draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=colour)
    image.save(path)
