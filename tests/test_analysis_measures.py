"""Measures with analytic values, quality with known noise, parameters, plug-ins, pictures."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import negspace.analysis as analysis
from negspace.analysis import geometry, overlay, quality, voids
from negspace.analysis.image import ImageHandle, MemoryImage
from negspace.analysis.negative_space import NegativeSpace, analyze
from negspace.errors import (
    AnalysisError,
    FileError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
)
from pictures import disc, holes, noisy, packaged

ANALYSER = NegativeSpace()
ALL = np.ones((256, 256), dtype=bool)


# ── analytic values ──────────────────────────────────────────────────────────────────────


def test_lacunarity_of_independent_pixels() -> None:
    p = 0.3
    mask = np.random.default_rng(1).random((512, 512)) < p
    found = geometry.lacunarity(mask, np.ones_like(mask))
    for side in (2, 4, 8, 16):
        assert found[str(side)] == pytest.approx(1 + (1 - p) / (p * side**2), rel=0.01)


def test_lacunarity_of_what_is_the_same_everywhere() -> None:
    chess = np.indices((64, 64)).sum(axis=0) % 2 == 0
    assert set(geometry.lacunarity(chess, ALL[:64, :64]).values()) == {1.0}
    halves = np.zeros((256, 256), dtype=bool)
    halves[:, :128] = True  # almost all boxes are full or empty: E[M²]/E[M]² is near 2
    assert geometry.lacunarity(halves, ALL)["2"] == pytest.approx(2, rel=0.01)


def test_lacunarity_leaves_out_what_is_not_valid() -> None:
    p = 0.5
    valid = ALL.copy()
    valid[:, 128:] = False
    mask = (np.random.default_rng(1).random((256, 256)) < p) & valid
    found = geometry.lacunarity(mask, valid)
    assert found["4"] == pytest.approx(1 + (1 - p) / (p * 16), rel=0.01)


def test_euler_number_is_components_minus_holes() -> None:
    mask = disc((256, 256), 70, 70, 50) & ~disc((256, 256), 60, 60, 10)
    mask &= ~disc((256, 256), 90, 80, 12)
    mask |= disc((256, 256), 190, 190, 40)
    assert geometry.minkowski(mask, ALL, 1)["euler"] == 2 - 2
    corner = np.array([[1, 0], [0, 1]], dtype=bool)  # one component, as corners connect
    assert geometry.minkowski(np.pad(corner, 3), ALL[:8, :8], 1)["euler"] == 1


def test_perimeter_and_area_of_a_disc() -> None:
    found = geometry.minkowski(disc((256, 256), 128, 128, 100), ALL, 1)
    assert found["perimeter_px"] == pytest.approx(2 * math.pi * 100, rel=0.02)
    assert found["area_fraction"] == pytest.approx(math.pi * 100**2 / 256**2, rel=0.01)


def test_empty_space_of_a_disc() -> None:
    mask = disc((256, 256), 128, 128, 100)
    found = geometry.empty_space(mask, voids.distances(mask))
    for r in (1, 2, 4, 8, 16, 32, 64):  # the points at least r from the edge: a smaller disc
        assert found[str(r)] == pytest.approx((1 - r / 100) ** 2, abs=0.025)


def test_dimension_of_a_line_and_of_dust() -> None:
    half = np.zeros((256, 256), dtype=bool)
    half[:128] = True
    assert geometry.boundary_dimension(half) == pytest.approx(1, abs=0.02)
    dust = np.random.default_rng(1).random((256, 256)) < 0.5
    assert (geometry.boundary_dimension(dust) or 0) > 1.8
    assert geometry.boundary_dimension(ALL) is None


def test_the_edge_of_the_image_is_an_obstacle() -> None:
    distance = voids.distances(np.ones((21, 41), dtype=bool))
    circle = geometry.largest_circle(distance, 1)
    assert circle is not None
    assert circle["r"] == 11  # rows −1 and 21 are the obstacles
    assert circle["cy"] == 10


def slow_largest(mask: NDArray[np.bool_]) -> int:
    height, width = mask.shape
    best = 0
    for top in range(height):
        for left in range(width):
            for bottom in range(top + 1, height + 1):
                for right in range(left + 1, width + 1):
                    if mask[top:bottom, left:right].all():
                        best = max(best, (bottom - top) * (right - left))
    return best


def test_the_largest_rectangle_is_the_one_that_trying_all_finds() -> None:
    rng = np.random.default_rng(4)
    for _ in range(30):
        mask = rng.random((rng.integers(1, 10), rng.integers(1, 10))) < 0.7
        found = geometry.largest_rectangle(mask, 1)
        area = 0 if found is None else found["h"] * found["w"]
        assert area == slow_largest(mask)
        if found is not None:
            rows = slice(found["y"], found["y"] + found["h"])
            assert mask[rows, found["x"] : found["x"] + found["w"]].all()


def test_histogram_bins_hold_what_they_say() -> None:
    radii = np.array([2.0, 2.9, 4.0, 16.0])
    found = geometry.radius_histogram(radii, 1)
    counts, _ = np.histogram(radii + 1e-9, np.array(found["edges_px"]))
    assert found["counts"] == counts.tolist()
    assert found["edges_px"][0] == 2
    assert geometry.radius_histogram(np.zeros(0), 1) == {"edges_px": [], "counts": []}


# ── quality ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sigma", [0.01, 0.03, 0.1])
def test_noise_is_measured_within_one_in_fifty_on_a_structured_image(sigma: float) -> None:
    rows, columns = np.mgrid[:500, :500] / 500
    picture = 0.5 + 0.2 * np.sin(20 * rows) * np.cos(15 * columns)
    picture[100:200, 100:300] += 0.2
    noisy_picture = picture + np.random.default_rng(1).normal(0, sigma, picture.shape)
    found = quality.noise_sigma([noisy_picture.astype(np.float32)])
    assert found == pytest.approx(sigma, rel=0.02)


def test_saturation_sharpness_and_entropy() -> None:
    picture = np.full((100, 100), 128, np.uint8)
    picture[:10], picture[10:15] = 0, 255
    found = analyze(picture).quality_metrics
    assert found["saturated_low_fraction"] == pytest.approx(0.10)
    assert found["saturated_high_fraction"] == pytest.approx(0.05)
    shares = np.array([0.1, 0.05, 0.85])
    assert found["entropy_bits"] == pytest.approx(-(shares * np.log2(shares)).sum(), rel=1e-5)
    assert found["median"] == pytest.approx(128 / 255, rel=1e-5)
    sharp = analyze(np.kron(np.eye(8), np.ones((16, 16)))).quality_metrics
    from scipy import ndimage

    soft = ndimage.gaussian_filter(np.kron(np.eye(8), np.ones((16, 16))), 3)
    assert (
        sharp["sharpness_var_laplacian"]
        > 20 * analyze(soft).quality_metrics["sharpness_var_laplacian"]
    )


# ── parameters ───────────────────────────────────────────────────────────────────────────


def test_equal_parameters_have_equal_json() -> None:
    one = ANALYSER.resolve({"background_k": 3, "max_pixels": 2e6, "ridge_scales_px": [8, 4, 4]})
    other = ANALYSER.resolve({"ridge_scales_px": (4, 8), "max_pixels": 2_000_000})
    assert analysis.canonical_json(one) == analysis.canonical_json(other)
    assert ANALYSER.resolve(one) == one  # what is stored resolves to itself


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"backgroundk": 3}, "'backgroundk'"),
        ({"mode": "darkness"}, "mode"),
        ({"mode": 3}, "mode"),
        ({"sigma_px": -1}, "sigma_px"),
        ({"sigma_px": float("nan")}, "sigma_px"),
        ({"sigma_px": float("inf")}, "sigma_px"),
        ({"sigma_px": "1"}, "sigma_px"),
        ({"sigma_px": True}, "sigma_px"),
        ({"max_voids": 2.5}, "max_voids"),
        ({"max_pixels": 10**12}, "max_pixels"),
        ({"max_pixels": 1e400}, "max_pixels"),
        ({"ridge_scales_px": 4}, "ridge_scales_px"),
        ({"ridge_scales_px": []}, "ridge_scales_px"),
        ({"ridge_scales_px": [0]}, "ridge_scales_px"),
        ({"saddle_ratio": None}, "saddle_ratio"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(given: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words) as caught:
        ANALYSER.resolve(given)
    assert caught.value.hint


def test_a_misspelt_parameter_gets_a_suggestion() -> None:
    with pytest.raises(InvalidInputError) as caught:
        ANALYSER.resolve({"backgroundk": 3})
    assert caught.value.hint == "did you mean background_k?"


def test_profiles_resolve_and_can_be_changed() -> None:
    for profile in ANALYSER.profiles:
        analysis.parameters_of(ANALYSER, profile, {})
    fundus = analysis.parameters_of(ANALYSER, "fundus", {"max_voids": 5})
    assert (fundus["channel"], fundus["clean_radius_px"], fundus["max_voids"]) == ("green", 1, 5)
    assert analysis.parameters_of(ANALYSER, None, {})["clean_radius_px"] == 2
    with pytest.raises(InvalidInputError, match="'retina'") as caught:
        analysis.parameters_of(ANALYSER, "retina", {})
    assert "fundus" in (caught.value.hint or "")


# ── plug-ins ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution that offers a sound and three broken analysers."""
    (tmp_path / "plugged.py").write_text(
        "from negspace.analysis.negative_space import NegativeSpace\n"
        "class Sound(NegativeSpace):\n    name = 'sound'\n    version = '2.1.0'\n"
        "class Partial:\n    name = 'partial'\n"
        "class Failing:\n    def __init__(self):\n        raise RuntimeError('no licence')\n"
    )
    info = tmp_path / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[negspace.analyzers]\nsound = plugged:Sound\npartial = plugged:Partial\n"
        "failing = plugged:Failing\nmissing = plugged_not:There\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("plugins")
def test_a_broken_plugin_is_listed_and_stops_nothing() -> None:
    listed = {entry.name: entry for entry in analysis.found()}
    assert set(listed) == {"negative_space", "sound", "partial", "failing", "missing"}
    assert listed["sound"].problem is None
    assert listed["sound"].version == "2.1.0"
    assert listed["sound"].distribution == "plugged 1.0"
    assert "no licence" in (listed["failing"].problem or "")
    assert "plugged_not" in (listed["missing"].problem or "")
    assert "protocol" in (listed["partial"].problem or "")
    assert analysis.get("sound").version == "2.1.0"
    with pytest.raises(AnalysisError, match="failing"):
        analysis.get("failing")


@pytest.mark.usefixtures("plugins")
def test_the_allow_list_keeps_plugins_from_being_loaded() -> None:
    listed = {entry.name: entry for entry in analysis.found(["negative_space"])}
    assert listed["failing"].problem == "not in the allow-list"
    with pytest.raises(RefusedError, match="sound"):
        analysis.get("sound", ["negative_space"])


def test_an_unknown_analyser_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="'other'") as caught:
        analysis.get("other")
    assert "negative_space" in (caught.value.hint or "")


def output(**changes: object) -> analysis.Analysis:
    given: dict[str, object] = {
        "negative_space_data": {"schema": "x/1", "value": 1 / 3},
        "anomalies": [],
        "confidence_score": 0.5,
        "quality_metrics": {},
        "mask": np.ones((2, 2), dtype=bool),
        "provenance": {},
    }
    return analysis.Analysis.checked(**(given | changes))  # pyright: ignore


def test_output_is_rounded() -> None:
    assert output().negative_space_data["value"] == 0.333333


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"negative_space_data": {"value": 1}}, "schema"),
        ({"negative_space_data": {"schema": "x/1", "a": {"b": [1.0, math.nan]}}}, r"a\.b\[1\]"),
        ({"quality_metrics": {"snr": math.inf}}, r"quality_metrics\.snr"),
        ({"anomalies": [{"z": np.float32(1)}]}, r"anomalies\.z.*float32"),
        ({"confidence_score": 1.5}, "confidence_score"),
        ({"mask": np.ones((2, 2))}, "mask"),
    ],
)
def test_output_that_can_not_be_stored_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(AnalysisError, match=words):
        output(**changes)


class Careless(NegativeSpace):
    """Fails on small images, and returns NaN for others."""

    def analyze(self, image: ImageHandle, parameters: Mapping[str, object]) -> analysis.Analysis:
        if image.shape[0] < 10:
            raise ZeroDivisionError("too small")
        found = analyze(image.read(), parameters)
        return replace(found, quality_metrics={"median": math.nan})


@pytest.mark.parametrize(
    ("side", "words"), [(5, "ZeroDivisionError: too small"), (20, r"quality_metrics\.median")]
)
def test_a_failing_analyser_is_an_error_with_its_name(side: int, words: str) -> None:
    with pytest.raises(AnalysisError, match=words) as caught:
        analysis.run(Careless(), MemoryImage.of(np.eye(side)), {})
    assert caught.value.hint


def test_a_sound_analyser_is_passed_on() -> None:
    picture = noisy(holes()[0], 5)
    found = analysis.run(ANALYSER, MemoryImage.of(picture), {})
    assert found.as_dict() == analyze(picture).as_dict()
    np.testing.assert_array_equal(found.mask, analyze(picture).mask)


# ── overlay ──────────────────────────────────────────────────────────────────────────────


def test_the_overlay_shows_what_was_found(tmp_path: Path) -> None:
    empty, _ = holes()
    picture = noisy(empty, 8)
    found = analyze(picture)
    drawn = np.asarray(overlay.draw(picture, found)).astype(int)
    assert drawn.shape == (420, 420, 3)
    calm = voids.distances(empty) > 25
    calm &= ~(drawn == (60, 220, 90)).all(axis=2) & ~(drawn == 255).all(axis=2)
    assert (drawn[calm][:, 2] > drawn[calm][:, 0]).all()  # tinted blue
    ground = voids.distances(~found.mask) > 6
    assert (np.ptp(drawn[ground], axis=1) == 0).all()  # the figure keeps its own colour
    for colour in ((255, 214, 10), (60, 220, 90), (255, 255, 255)):
        assert (drawn == colour).all(axis=2).sum() > 100
    overlay.save(overlay.draw(picture, found), tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(FileError, match=r"no\.png"):
        overlay.save(overlay.draw(picture, found), tmp_path / "not" / "no.png")


def test_the_overlay_is_as_large_as_the_grid() -> None:
    picture = noisy(disc((401, 603), 200, 300, 120), 8)
    found = analyze(picture, {"max_pixels": 30_000})
    assert overlay.draw(picture, found).size == found.mask.shape[::-1]


def test_an_overlay_of_nothing_valid_is_black() -> None:
    nothing = np.full((30, 40), np.nan)
    assert not np.asarray(overlay.draw(nothing, analyze(nothing))).any()


def test_real_images_of_every_profile_give_plain_json() -> None:
    from PIL import Image

    for name, profile in (
        ("coins.png", "radiology"),
        ("page.png", "document"),
        ("coffee.png", "photo"),
        ("horse.png", "document"),
        ("microaneurysms.png", "fundus"),
    ):
        pixels = np.asarray(Image.open(packaged(name)))
        found = analyze(pixels, ANALYSER.profiles[profile])
        analysis.canonical_json(found.as_dict())
        assert 0 < found.negative_space_data["negative_fraction"] < 1
