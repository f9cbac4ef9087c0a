"""The reference analyser on pixels of every kind, and on what is no image."""

import numpy as np
import pytest
from numpy.typing import NDArray

from negspace.analysis.negative_space import analyze
from negspace.errors import ImageError, InvalidInputError
from pictures import holes, iou, noisy

# ── pixels of every kind ─────────────────────────────────────────────────────────────────


def test_one_picture_in_every_type_has_one_answer() -> None:
    empty, _ = holes()
    eight = np.clip(60 + 120 * noisy(empty, 5), 0, 255).astype(np.uint8)
    expected = analyze(eight)
    colours = np.stack([eight] * 3, axis=2)
    opaque = np.dstack([colours, np.full(eight.shape, 255, np.uint8)])
    for other in (
        eight.astype(np.uint16) * 257,
        eight.astype(np.int32) - 1000,
        eight.astype(np.float32),
        eight.astype(np.float64) * 1e-12,
        eight.astype(np.float16),
        eight.astype(">f4"),
        eight[:, :, None],
        colours,
        opaque,
        np.asfortranarray(eight),
    ):
        found = analyze(other)
        assert iou(found.mask, expected.mask) > 0.999, other.dtype
        assert found.negative_space_data["void_count"] == 12
        assert found.confidence_score == pytest.approx(expected.confidence_score, abs=0.01)


def test_booleans_are_black_and_white() -> None:
    empty, count = holes()
    assert analyze(~empty).negative_space_data["void_count"] == count


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -3.4028235e38, 9.97e36])
def test_what_is_no_measurement_counts_as_nothing(bad: float) -> None:
    empty, _ = holes()
    picture = noisy(empty, 5)
    picture[:, 390:] = bad
    found = analyze(picture)
    data = found.negative_space_data
    assert data["grid"]["valid_fraction"] == pytest.approx(390 / 420)
    assert not found.mask[:, 390:].any()
    assert iou(found.mask[:, :390], empty[:, :390]) > 0.98
    assert data["scale"]["high"] < 3


def test_transparent_pixels_and_a_given_mask_count_as_nothing() -> None:
    empty, _ = holes()
    grey = np.clip(60 + 120 * noisy(empty, 5), 0, 255).astype(np.uint8)
    alpha = np.full(grey.shape, 255, np.uint8)
    alpha[:100] = 0
    valid = alpha > 0
    clear = analyze(np.dstack([grey, grey, grey, alpha]))
    assert clear.negative_space_data["grid"]["valid_fraction"] == pytest.approx(320 / 420)
    assert not clear.mask[:100].any()
    assert iou(analyze(grey, valid=valid).mask, clear.mask) > 0.999
    assert iou(analyze(np.dstack([grey, alpha])).mask, clear.mask) == 1


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((40, 60)),
        np.full((40, 60), 200, np.uint8),
        np.full((1, 1), 7, np.uint8),
        np.full((1, 1, 4), 255, np.uint8),
        np.ones((1, 500), dtype=bool),
    ],
)
def test_a_constant_image_is_empty_and_says_so(picture: NDArray[np.float64]) -> None:
    found = analyze(picture)
    data = found.negative_space_data
    assert data["flags"] == ["constant", "no_voids", "low_confidence"]
    assert data["negative_fraction"] == 1
    assert found.confidence_score == 0
    assert found.mask.all()
    assert found.quality_metrics["snr_db"] is None


def test_an_image_without_a_valid_pixel_says_so() -> None:
    found = analyze(np.full((20, 30), np.nan))
    assert found.negative_space_data["flags"][0] == "no_valid_pixels"
    assert found.negative_space_data["negative_fraction"] == 0
    assert set(found.quality_metrics.values()) == {None}
    assert not found.mask.any()


def test_one_star_in_a_black_frame_is_not_constant() -> None:
    picture = np.zeros((300, 300))
    picture[100:103, 200:203] = 1
    data = analyze(picture, {"threshold": "background"}).negative_space_data
    assert "constant" not in data["flags"]
    assert 0.99 < data["negative_fraction"] < 1


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (1, 40), (40, 2), (5, 7, 3)])
def test_tiny_images_are_analysed(shape: tuple[int, ...]) -> None:
    for mode in ("dark", "bright", "texture", "ridge"):
        analyze(np.random.default_rng(1).normal(size=shape), {"mode": mode, "valid_area": "auto"})


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((0, 5)),
        np.zeros(5),
        np.zeros((5, 5, 5)),
        np.zeros((2, 5, 5, 3)),
        np.zeros((5, 5), dtype=complex),
        np.array([["a"]]),
    ],
)
def test_what_is_no_image_is_refused(picture: NDArray[np.float64]) -> None:
    with pytest.raises(ImageError):
        analyze(picture)


def test_the_image_is_not_changed() -> None:
    picture = np.random.default_rng(1).normal(size=(50, 50))
    picture[0, 0] = np.nan
    before = picture.copy()
    analyze(picture, valid=np.ones((50, 50), dtype=bool))
    np.testing.assert_array_equal(picture, before)


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="mask"):
        analyze(np.zeros((5, 5)), valid=np.ones((5, 4), dtype=bool))
