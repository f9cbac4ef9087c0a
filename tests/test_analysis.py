"""The reference analyser on pictures whose answer is known."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from negspace.analysis import Analysis, canonical_json
from negspace.analysis.negative_space import NegativeSpace, analyze
from pictures import disc, holes, iou, noisy, packaged, starfield

ANALYSER = NegativeSpace()


def text_of(analysis: Analysis) -> str:
    return canonical_json(analysis.as_dict())


# ── known voids ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("snr", "least"), [(5, 0.99), (2, 0.98), (1, 0.95)])
def test_discs_and_rectangles_are_found_in_noise(snr: float, least: float) -> None:
    empty, count = holes()
    found = analyze(noisy(empty, snr))
    assert iou(found.mask, empty) > least
    data = found.negative_space_data
    assert data["void_count"] == data["components"] == count
    assert data["negative_fraction"] == pytest.approx(empty.mean(), rel=0.02)


def test_measures_of_a_disc() -> None:
    picture = np.where(disc((200, 300), 90, 120, 40), 0.0, 1.0)
    data = analyze(picture).negative_space_data
    (void,) = data["voids"]
    assert void["area_px"] == pytest.approx(math.pi * 40**2, rel=0.02)
    assert void["eq_diameter_px"] == pytest.approx(80, rel=0.01)
    assert void["centroid"] == pytest.approx([90, 120], abs=0.1)
    assert [void["inscribed"][k] for k in ("cy", "cx", "r")] == pytest.approx([90, 120, 40], abs=1)
    assert void["bbox"] == pytest.approx([50, 80, 131, 161], abs=1)
    assert void["eccentricity"] < 0.1
    assert void["solidity"] > 0.97
    assert not void["touches_border"]
    assert data["largest_circle"]["r"] == pytest.approx(40, abs=1)
    side = 40 * math.sqrt(2)  # the largest rectangle in a disc is a square
    rect = data["largest_rect"]
    assert rect["h"] * rect["w"] == pytest.approx(side * side, rel=0.05)


def test_a_rectangle_of_copy_space_is_found_to_the_pixel() -> None:
    picture = np.ones((120, 200))
    picture[30:70, 20:150] = 0
    picture[75:115, 160:190] = 0
    data = analyze(picture, {"sigma_px": 0, "clean_radius_px": 0}).negative_space_data
    assert data["largest_rect"] == {"y": 30, "x": 20, "h": 40, "w": 130}


@pytest.mark.parametrize(("spread", "voids"), [(0.95, 1), (1.05, 2)])
def test_two_discs_are_one_void_where_the_neck_is_wide(spread: float, voids: int) -> None:
    r, ratio = 60.0, 0.75
    apart = 2 * r * math.sqrt(1 - ratio**2) * spread  # there the neck is ratio × r
    shape = (200, 360)
    empty = disc(shape, 100, 100, r) | disc(shape, 100, 100 + apart, r)
    data = analyze(np.where(empty, 0.0, 1.0), {"saddle_ratio": ratio}).negative_space_data
    assert data["components"] == 1
    assert data["void_count"] == voids


@pytest.mark.parametrize(("spread", "voids"), [(0.94, 1), (1.08, 5)])
def test_a_chain_of_discs_is_cut_at_every_neck_or_at_none(spread: float, voids: int) -> None:
    r = 30.0
    apart = 2 * r * math.sqrt(1 - 0.75**2) * spread
    shape = (100, 350)
    empty = np.zeros(shape, dtype=bool)
    for i in range(5):
        empty |= disc(shape, 50, 50 + apart * i, r)
    assert analyze(np.where(empty, 0.0, 1.0)).negative_space_data["void_count"] == voids


@pytest.mark.parametrize("seed", range(4))
def test_a_hole_among_stars_is_the_largest_void(seed: int) -> None:
    hole = (150 + 60 * seed, 330 - 50 * seed, 60)
    found = analyze(starfield(400, hole, seed), ANALYSER.profiles["astronomy"])
    (y, x, r), void = hole, found.negative_space_data["voids"][0]["inscribed"]
    assert math.hypot(void["cy"] - y, void["cx"] - x) < 15
    assert void["r"] == pytest.approx(r, rel=0.1)
    assert found.confidence_score > 0.9


def test_circles_are_empty_and_inside_and_voids_do_not_overlap() -> None:
    found = analyze(starfield(300, None, 9), {"threshold": "background", "max_voids": 100_000})
    data = found.negative_space_data
    assert found.labels is not None
    assert len(data["voids"]) == data["void_count"] == found.labels.max()
    assert (found.mask[found.labels > 0]).all()
    for void in data["voids"]:
        centre = void["inscribed"]
        inside = disc(found.mask.shape, centre["cy"], centre["cx"], centre["r"] - 0.01)
        assert found.mask[inside].all()
        assert centre["r"] <= min(centre["cy"], centre["cx"]) + 1
        assert void["area_px"] == (found.labels == void["id"]).sum()
    radii = [void["inscribed"]["r"] for void in data["voids"]]
    assert radii == sorted(radii, reverse=True)
    assert sum(data["void_radius_histogram"]["counts"]) == data["void_count"]


def test_texture_is_told_from_calm_of_equal_brightness() -> None:
    rng = np.random.default_rng(3)
    calm = disc((300, 300), 150, 150, 70)
    picture = 0.5 + np.where(calm, 0.005, 0.15) * rng.normal(size=(300, 300))
    found = analyze(picture, ANALYSER.profiles["photo"])
    # A window that touches the texture is active: the calm shrinks by half a window.
    assert iou(found.mask, disc((300, 300), 150, 150, 70 - 7)) > 0.93
    assert found.negative_space_data["void_count"] == 1
    assert found.confidence_score > 0.7
    assert iou(analyze(picture).mask, calm) < 0.5  # brightness alone doesn't see it


def test_bright_is_the_inverse_of_dark() -> None:
    empty, _ = holes()
    picture = noisy(empty, 5)
    dark, bright = analyze(picture), analyze(-picture, {"mode": "bright"})
    assert iou(dark.mask, bright.mask) > 0.999


def test_dark_lines_part_a_retina_into_fields() -> None:
    picture = np.full((300, 300), 0.6) + np.random.default_rng(1).normal(0, 0.01, (300, 300))
    for at in (60, 180):
        picture[at : at + 6] -= 0.3
        picture[:, at : at + 6] -= 0.3
    data = analyze(picture, {"mode": "ridge"}).negative_space_data
    assert data["components"] == data["void_count"] == 9


def test_black_padding_of_a_round_image_is_no_void() -> None:
    rng = np.random.default_rng(1)
    field = disc((300, 300), 150, 150, 140)
    picture = np.where(field, 0.5 + rng.normal(0, 0.02, (300, 300)), 0.01)
    picture[148:153, 20:280] = 0.2
    found = analyze(picture, ANALYSER.profiles["fundus"])
    grid = found.negative_space_data["grid"]
    assert grid["valid_fraction"] == pytest.approx(field.mean(), rel=0.04)
    assert not (found.mask & ~field).any()
    assert found.negative_space_data["void_count"] == 2


# ── trust ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mode", "threshold"),
    [
        ("dark", "otsu"),
        ("dark", "background"),
        ("dark", "li"),
        ("dark", "triangle"),
        ("bright", "otsu"),
        ("texture", "otsu"),
        ("texture", "background"),
        ("ridge", "otsu"),
    ],
)
def test_pure_noise_earns_no_confidence(mode: str, threshold: str) -> None:
    for seed in (7, 8, 9):
        noise = np.random.default_rng(seed).normal(size=(300, 300))
        found = analyze(noise, {"mode": mode, "threshold": threshold})
        assert found.confidence_score < 0.2
        assert "low_confidence" in found.negative_space_data["flags"]


def test_confidence_ranks_as_the_masks_do() -> None:
    from scipy import stats

    empty, _ = holes()
    pairs = []
    for snr in (5, 3, 2, 1.5, 1, 0.7, 0.5):
        found = analyze(noisy(empty, snr))
        pairs.append((found.confidence_score, iou(found.mask, empty)))
    assert stats.spearmanr(pairs).statistic > 0.9


# ── anomalies ────────────────────────────────────────────────────────────────────────────


def grid_of_holes(odd_radius: float | None) -> NDArray[np.float64]:
    rng = np.random.default_rng(5)
    shape = (480, 480)
    empty = np.zeros(shape, dtype=bool)
    for i in range(25):
        usual = rng.uniform(11, 15)
        r = odd_radius if odd_radius is not None and i == 7 else usual
        empty |= disc(shape, 60 + 90 * (i // 5), 60 + 90 * (i % 5), r)
    return noisy(empty, 8)


def test_the_planted_outlier_is_the_one_anomaly() -> None:
    found = analyze(grid_of_holes(32))
    (entry,) = found.anomalies
    assert entry["void_id"] == 1
    assert entry["type"] in ("size", "area")
    assert entry["z"] > 3.5
    assert entry["centroid"] == pytest.approx([150, 240], abs=1)
    assert entry["r"] == pytest.approx(32, abs=1.5)
    assert next(iter(entry["features"])) == entry["type"]


def test_without_an_outlier_there_is_no_anomaly() -> None:
    assert analyze(grid_of_holes(None)).anomalies == []


def test_a_small_void_is_no_anomaly() -> None:
    found = analyze(grid_of_holes(5.5))
    assert found.negative_space_data["voids"][-1]["inscribed"]["r"] < 7
    assert [entry for entry in found.anomalies if entry["type"] in ("size", "area")] == []


def test_few_voids_are_not_compared() -> None:
    empty, count = holes()
    found = analyze(noisy(empty, 5), {"anomaly_min_voids": count + 1})
    assert found.anomalies == []
    assert "too_few_voids_for_anomalies" in found.negative_space_data["flags"]


# ── large images ─────────────────────────────────────────────────────────────────────────


def test_a_shrunk_image_gives_full_resolution_coordinates() -> None:
    empty = disc((1200, 1600), 500, 900, 220)
    picture = noisy(empty, 3)
    full, small = (
        analyze(picture, {"max_pixels": most}).negative_space_data for most in (2_000_000, 130_000)
    )
    assert full["grid"]["shrink"] == 1
    assert small["grid"] == {"height": 300, "width": 400, "shrink": 4, "valid_fraction": 1.0}
    a, b = full["voids"][0], small["voids"][0]
    assert b["area_px"] == pytest.approx(a["area_px"], rel=0.02)
    assert b["centroid"] == pytest.approx(a["centroid"], abs=1)
    assert b["inscribed"]["r"] == pytest.approx(220, abs=5)
    assert b["bbox"] == pytest.approx(a["bbox"], abs=8)
    assert small["minkowski"]["perimeter_px"] == pytest.approx(2 * math.pi * 220, rel=0.05)


def test_quality_is_that_of_the_full_resolution() -> None:
    picture = noisy(disc((900, 900), 450, 450, 200), 10)
    full, small = analyze(picture), analyze(picture, {"max_pixels": 50_000})
    assert small.quality_metrics == full.quality_metrics


# ── real images, and the same bytes again ────────────────────────────────────────────────


def test_hubble_deep_field() -> None:
    pixels = np.asarray(Image.open(packaged("hubble_deep_field.jpg")))
    found = analyze(pixels, ANALYSER.profiles["astronomy"])
    data, quality = found.negative_space_data, found.quality_metrics
    assert data["negative_fraction"] == pytest.approx(0.844, abs=0.002)
    assert data["void_count"] == pytest.approx(277, abs=4)
    assert data["threshold"]["value"] == pytest.approx(0.0716, abs=0.001)
    assert data["largest_circle"]["r"] == pytest.approx(36.2, abs=0.5)
    assert len(data["voids"]) == 100
    assert found.confidence_score > 0.9
    assert quality["noise_sigma"] == pytest.approx(0.01218, rel=0.01)
    assert quality["snr_db"] == pytest.approx(34.57, abs=0.1)
    assert quality["entropy_bits"] == pytest.approx(5.048, abs=0.01)
    assert quality["sharpness_var_laplacian"] == pytest.approx(566, rel=0.01)


def test_the_fovea_is_the_largest_field_of_a_retina() -> None:
    pixels = np.asarray(Image.open(packaged("retina.jpg")))
    found = analyze(pixels, ANALYSER.profiles["fundus"])
    data = found.negative_space_data
    assert data["grid"]["valid_fraction"] == pytest.approx(math.pi / 4 * 0.97, abs=0.03)
    circle = data["largest_circle"]
    assert math.hypot(circle["cy"] - 704, circle["cx"] - 690) < 60  # seen by eye
    assert circle["r"] > 100


def test_equal_input_gives_equal_bytes() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from pictures import starfield;"
        "from negspace.analysis import canonical_json;"
        "from negspace.analysis.negative_space import analyze;"
        "found = analyze(starfield(300, None, 2), {'threshold': 'background'});"
        "print(canonical_json(found.as_dict()))"
    )
    folder = str(packaged.__code__.co_filename).rsplit("/", 1)[0]
    run = subprocess.run(
        [sys.executable, "-c", script, folder], capture_output=True, text=True, check=True
    )
    picture = starfield(300, None, 2)
    parameters = {"threshold": "background"}
    assert run.stdout.strip() == text_of(analyze(picture, parameters))
    assert text_of(analyze(picture.copy(order="F"), parameters)) == run.stdout.strip()


def test_numbers_have_six_digits_and_none_is_nan() -> None:
    found = analyze(starfield(300, None, 2), {"threshold": "background"})
    text = json.dumps(found.as_dict(), allow_nan=False)

    def see(number: str) -> float:
        assert float(f"{float(number):.6g}") == float(number)
        return float(number)

    json.loads(text, parse_float=see)
    assert found.negative_space_data["schema"] == "negspace.negative_space/1"
    assert set(found.provenance) == {"analyzer", "version", "numpy", "scipy", "scikit-image"}
