"""The report: hostile names stay text, and a folder that can't be written is said."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from negspace import report
from negspace.errors import FileError


def entry(**given: object) -> report.Entry:
    row: dict[str, object] = {
        "image_id": 1,
        "name": "a.png",
        "status": "pending",
        **dict.fromkeys(
            (
                "duplicate_of",
                "voids",
                "empty_fraction",
                "confidence",
                "anomalies",
                "milliseconds",
                "cache_hit",
                "reason",
                "data",
                "quality",
                "parameters",
                "provenance",
                "overlay",
            )
        ),
    }
    return report.Entry(**(row | given))  # pyright: ignore[reportArgumentType]


def page(folder: Path, *entries: report.Entry) -> str:
    made = report.Report(datetime(2026, 1, 1, tzinfo=UTC), list(entries), [], [], [], [])
    return report.write(made, folder / "r.html", storage=folder).read_text(encoding="utf-8")


def test_a_hostile_name_stays_text(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>.png"
    text = page(tmp_path, entry(name=name, status="failed", reason=name))
    assert "<script>" not in text
    assert text.count("&lt;script&gt;") == 3


def test_an_image_without_a_result_has_no_card(tmp_path: Path) -> None:
    assert 'class="card"' not in page(tmp_path, entry())


def test_a_file_in_the_way_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match="can't be written"):
        page(tmp_path / "file", entry())
