"""The demo as a stranger runs it: a home with nothing in it, then once more."""

from __future__ import annotations

import html.parser
from collections.abc import Callable
from pathlib import Path

from calling import Ran

Cli = Callable[..., Ran]


class Page(html.parser.HTMLParser):
    """What stands in a page: its words, pictures, bars and headings of cards."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.pictures = 0
        self.bars = 0
        self.cards: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img" and (given.get("src") or "").startswith("data:image/jpeg;base64,"):
            self.pictures += 1
        self.bars += tag == "rect"
        if (given.get("id") or "").startswith("image-"):
            self.cards.append(given["id"] or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_demo_takes_real_images_through_the_whole_system(cli: Cli, tmp_path: Path) -> None:
    first = cli("demo", "--folder", str(tmp_path / "demo"))
    assert first.status == 0, first.err
    for name in ("hubble_deep_field.jpg", "retina.jpg", "m13.fits", "CT_small.dcm", "page.png"):
        assert name in first.out
    assert "12 images analysed, 1 failed, 1 answered from the cache" in first.out
    assert "coins.png is there again as coins (copy).png" in first.out
    assert "hubble_deep_field.jpg and hubble-for-the-web.jpg look alike" in first.out
    assert "notes.png: refused" in first.out
    assert "retina-truncated.jpg: retina-truncated.jpg can't be decoded" in first.out
    assert "p99" in first.out
    assert "run_analysis" in first.out

    page = Page((tmp_path / "demo" / "report.html").read_text(encoding="utf-8"))
    assert len(page.cards) == page.pictures == 12
    assert page.bars > 40

    listed = cli("images", "list", "--json").json
    assert sum(row["analysis_status"] == "completed" for row in listed) == 13
    assert sum(row["is_duplicate"] for row in listed) == 1

    again = cli("demo", "--folder", str(tmp_path / "demo"), "--json")
    assert again.status == 0, again.err
    assert {one["outcome"] for one in again.json["asked"]} == {"cached"}
    assert len(again.json["asked"]) == 13
    assert len(cli("images", "list", "--json").json) == len(listed)
    assert cli("cache", "stats", "--json").json["hits"] >= 13

    examined = cli("doctor", "--deep", "--security", "--json")
    assert [one for one in examined.json["findings"] if one["status"] != "well"] == []
