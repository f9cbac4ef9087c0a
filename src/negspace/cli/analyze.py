"""``negspace analyze``: image files analysed here and now, without a database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from negspace.cli import output
from negspace.errors import InvalidInputError, NegspaceError

if TYPE_CHECKING:
    from negspace.analysis import Analysis, Analyzer

_LARGEST = 5


@click.command("analyze")
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--profile", metavar="NAME", help="A named set of parameters, such as astronomy.")
@click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help="Change a parameter.")
@click.option(
    "--overlay",
    type=click.Path(path_type=Path),
    metavar="OUT.png",
    help="Draw what was found; a folder, for several files.",
)
@click.option("--page", type=click.IntRange(min=1), help="Which image of a file with several.")
@click.option(
    "--analyzer", "name", default="negative_space", show_default=True, help="Which analyser."
)
@output.json_option
def group(
    files: tuple[Path, ...],
    profile: str | None,
    changes: tuple[str, ...],
    overlay: Path | None,
    page: int | None,
    name: str,
    as_json: bool,
) -> int:
    """Find the empty regions of image files; needs no database.

    With one FILE, --json prints one object; with several, a list of {file, result} and
    {file, error}. A file that can't be analysed is reported, the others are analysed, and
    the exit status is 1.
    """
    from negspace import analysis, settings

    loaded = settings.load()
    analyzer = analysis.get(name, loaded.analyzers)
    parameters = analysis.parameters_of(analyzer, profile, parsed(changes))
    if overlay is not None and len(files) > 1 and not overlay.is_dir():
        raise InvalidInputError(
            f"{overlay} is one picture for {len(files)} files", hint="name a folder that exists"
        )
    task = _Task(analyzer, parameters, overlay, page, loaded.max_pixels)
    if len(files) == 1:
        found = task.run(files[0])
        _show(found) if not as_json else output.show_json(_plain(found))
        return 0
    return _several(task, files, as_json=as_json)


class _Task:
    """What is done with each file."""

    def __init__(
        self,
        analyzer: Analyzer,
        parameters: dict[str, Any],
        overlay: Path | None,
        page: int | None,
        max_pixels: int,
    ) -> None:
        self.analyzer = analyzer
        self.parameters = parameters
        self._overlay = overlay
        self._page = page
        self._max_pixels = max_pixels

    def run(self, file: Path) -> dict[str, Any]:
        """The file, its facts and its ``Analysis``."""
        import time

        from negspace import analysis
        from negspace.analysis.reading import open_image

        with open_image(file, max_pixels=self._max_pixels, page=self._page) as image:
            started = time.perf_counter()
            result = analysis.run(self.analyzer, image, self.parameters)
            seconds = time.perf_counter() - started
            picture = self._draw(file, image, result)
            return {
                "file": str(file),
                "mime_type": image.mime_type,
                "image_dimensions": image.dimensions,
                "parameters": self.parameters,
                "processing_time_ms": round(seconds * 1000),
                "overlay": picture,
                "analysis": result,
            }

    def _draw(self, file: Path, image: Any, result: Analysis) -> str | None:
        if self._overlay is None:
            return None
        from negspace.analysis import overlay

        path = self._overlay
        if path.is_dir():
            path = path / f"{file.name}.overlay.png"
        overlay.save(overlay.draw(image, result), path)
        return str(path)


def _several(task: _Task, files: tuple[Path, ...], *, as_json: bool) -> int:
    entries: list[dict[str, Any]] = []
    broken = 0
    for file in files:
        try:
            found = task.run(file)
        except NegspaceError as error:
            broken += 1
            entries.append({"file": str(file), "error": error.as_dict()})
            if not as_json:
                output.note(f"negspace: {error.message}")
                output.note(f"  hint: {error.hint}\n" if error.hint else "")
            continue
        entries.append({"file": str(file), "result": _plain(found)})
        if not as_json:
            _show(found)
            output.show_text()
    if as_json:
        output.show_json(entries)
    elif broken:
        output.note(f"{broken} of {len(files)} files could not be analysed")
    return 1 if broken else 0


def parsed(changes: tuple[str, ...]) -> dict[str, Any]:
    """``key=value`` texts as parameters: numbers, true, false, lists like 4,8, or texts.

    Raises:
        InvalidInputError: One has no ``=``.
    """
    found: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise InvalidInputError(
                f"--set {change} names no value", hint="like --set background_k=4"
            )
        found[key] = _value(text)
    return found


def _value(text: str) -> Any:
    if "," in text:
        return [_value(part) for part in text.strip("[]").split(",") if part.strip()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    facts = {key: value for key, value in found.items() if key != "analysis"}
    return facts | found["analysis"].as_dict()


def _show(found: dict[str, Any]) -> None:
    """What a person wants to see of one analysis."""
    result: Analysis = found["analysis"]
    data, size = result.negative_space_data, found["image_dimensions"]
    title = f"{found['file']}: {found['mime_type']}, {size['width']} × {size['height']} px"
    output.show_text(title)
    if "voids" not in data:  # another analyser: its numbers are its own
        output.show_fields(data, as_json=False)
        return
    output.show_fields(_key_numbers(found, result), as_json=False)
    output.show_text()
    rows = [_void_row(void, result) for void in data["voids"][:_LARGEST]]
    columns = ["id", "radius_px", "area_px", "centre_y", "centre_x", "depth", "unusual"]
    output.show_rows(rows, columns, as_json=False, title="largest voids", empty="no voids")
    output.show_text()
    output.show_fields(
        {f"quality: {key}": value for key, value in result.quality_metrics.items()}, as_json=False
    )
    if found["overlay"]:
        output.show_text(f"\noverlay written to {found['overlay']}")


def _key_numbers(found: dict[str, Any], result: Analysis) -> dict[str, Any]:
    data = result.negative_space_data
    radius, rect = data["void_radius_px"] or {}, data["largest_rect"]
    threshold = data["threshold"]
    return {
        "empty_fraction": data["negative_fraction"],
        "voids": data["void_count"],
        "median_void_radius_px": radius.get("median"),
        "largest_empty_rectangle": f"{rect['w']} × {rect['h']} px at y {rect['y']}, x {rect['x']}"
        if rect
        else None,
        "unusual_voids": len(result.anomalies),
        "confidence": result.confidence_score,
        "flags": ", ".join(data["flags"]) or None,
        "method": f"{data['mode']}, {threshold['method']}",
        "time_ms": found["processing_time_ms"],
    }


def _void_row(void: dict[str, Any], result: Analysis) -> dict[str, Any]:
    kinds = [entry["type"] for entry in result.anomalies if entry["void_id"] == void["id"]]
    return {
        "id": void["id"],
        "radius_px": void["inscribed"]["r"],
        "area_px": void["area_px"],
        "centre_y": void["inscribed"]["cy"],
        "centre_x": void["inscribed"]["cx"],
        "depth": void["depth"],
        "unusual": ", ".join(kinds) or None,
    }
