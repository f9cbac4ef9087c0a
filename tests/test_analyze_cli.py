"""``negspace analyze`` as its users meet it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from negspace.cli import main
from pictures import holes, noisy, packaged


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    empty, _ = holes()
    path = tmp_path / "holes.png"
    Image.fromarray(np.clip(60 + 120 * noisy(empty, 8), 0, 255).astype(np.uint8)).save(path)
    return path


def test_a_summary_for_people(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(picture)]) == 0
    shown = capsys.readouterr().out
    for words in ("empty fraction", "voids", "12", "confidence", "largest voids", "noise sigma"):
        assert words in shown


def test_json_for_programs(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["analyze", str(picture), "--json", "--profile", "radiology"]
    assert main([*command, "--set", "max_voids=3", "--set", "ridge_scales_px=4,8"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["image_dimensions"] == {"width": 420, "height": 420, "channels": 1}
    assert found["negative_space_data"]["void_count"] == 12
    assert len(found["negative_space_data"]["voids"]) == 3
    assert found["parameters"]["ridge_scales_px"] == [4, 8]
    assert 0.9 < found["confidence_score"] <= 1
    assert found["quality_metrics"]["noise_sigma"] > 0


def test_a_real_image_of_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    for name, profile in (("m13.fits", "astronomy"), ("CT_small.dcm", "radiology")):
        assert main(["analyze", str(packaged(name)), "--profile", profile, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["negative_space_data"]["void_count"] > 0


def test_the_overlay_is_written(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = picture.with_name("out.png")
    assert main(["analyze", str(picture), "--overlay", str(out)]) == 0
    with Image.open(out) as drawn:
        assert drawn.size == (420, 420)
    assert str(out) in capsys.readouterr().out


def test_a_broken_file_stops_no_other(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    files = [str(broken), str(picture), str(tmp_path / "missing.png")]
    assert main(["analyze", *files]) == 1
    shown = capsys.readouterr()
    assert "holes.png" in shown.out
    assert "broken.png" in shown.err
    assert "missing.png" in shown.err
    assert "2 of 3" in shown.err
    assert main(["analyze", *files, "--json"]) == 1
    entries = json.loads(capsys.readouterr().out)
    assert [set(entry) for entry in entries] == [
        {"file", "error"},
        {"file", "result"},
        {"file", "error"},
    ]
    assert entries[0]["error"]["code"] == "image"
    assert entries[2]["error"]["code"] == "file"


def test_overlays_of_several_files_need_a_folder(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(picture), str(picture)]
    assert main(["analyze", *files, "--overlay", str(tmp_path / "one.png")]) == 2
    assert "folder" in capsys.readouterr().err
    assert main(["analyze", *files, "--overlay", str(tmp_path)]) == 0
    assert (tmp_path / "holes.png.overlay.png").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--profile", "retina"], 2, "no profile 'retina'"),
        (["--set", "sigma=1"], 2, "did you mean sigma_px"),
        (["--set", "sigma_px=wide"], 2, "sigma_px"),
        (["--set", "sigma_px"], 2, "names no value"),
        (["--analyzer", "other"], 1, "no analyser is called 'other'"),
        (["--overlay", "/no/such/folder/out.png"], 1, "can't be written"),
        (["--page", "2"], 1, "no frame 2"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str],
    status: int,
    words: str,
    picture: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["analyze", str(picture), *arguments]) == status
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_one_broken_file_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_text("no image")
    assert main(["analyze", str(tmp_path / "a.png"), "--json"]) == 1
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "image"
    assert error["hint"]


def test_a_page_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(packaged("multipage.tif"))
    assert main(["analyze", path]) == 1
    assert "--page 1" in capsys.readouterr().err
    assert main(["analyze", path, "--page", "1"]) == 0


def test_the_limit_of_the_settings_holds(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEGSPACE_MAX_PIXELS", "1000")
    assert main(["analyze", str(picture)]) == 1
    assert "the limit is 1,000" in capsys.readouterr().err
