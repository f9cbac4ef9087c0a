"""Hashes of pixels, and of what they look like."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from negspace.analysis import hashes
from negspace.analysis.image import MemoryImage
from negspace.analysis.reading import open_image
from pictures import packaged

# What imagehash 4.3.2 gives for these files.
REFERENCE = {
    "retina.jpg": -4554230387718476465,
    "coins.png": -1957458724841565638,
    "camera.png": -4615695111570944836,
}


def pixels_of(name: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(packaged(name)))


def phash(pixels: NDArray[np.uint8]) -> int:
    found = hashes.perceptual_hash(pixels)
    assert found is not None
    return found


@pytest.mark.parametrize(("name", "expected"), REFERENCE.items())
def test_the_perceptual_hash_is_imagehash_s(name: str, expected: int) -> None:
    assert phash(pixels_of(name)) == expected
    assert -(2**63) <= expected < 2**63


@pytest.mark.parametrize("name", ["retina.jpg", "coins.png", "camera.png", "page.png"])
def test_copies_stay_near(name: str) -> None:
    picture = Image.open(packaged(name)).convert("RGB")
    original = phash(np.asarray(picture))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=30)
    noise = np.random.default_rng(1).normal(0, 8, (*picture.size[::-1], 3))
    copies = [
        picture.resize((picture.width // 2, picture.height // 2)),
        Image.open(buffer),
        ImageEnhance.Brightness(picture).enhance(1.15),
        Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)),
        picture.convert("L"),
    ]
    assert max(hashes.distance(original, phash(np.asarray(copy))) for copy in copies) <= 8


def test_different_images_are_far_apart() -> None:
    names = ["retina.jpg", "coins.png", "camera.png", "page.png", "coffee.png", "moon.png"]
    found = [phash(pixels_of(name)) for name in names]
    apart = [hashes.distance(a, b) for i, a in enumerate(found) for b in found[:i]]
    assert min(apart) >= 20


def test_a_stereo_pair_is_near_and_a_mirror_image_is_not() -> None:
    left, right = pixels_of("motorcycle_left.png"), pixels_of("motorcycle_right.png")
    assert hashes.distance(phash(left), phash(right)) <= 8
    assert hashes.distance(phash(left), phash(left[:, ::-1])) > 8


def test_depth_of_colour_does_not_matter() -> None:
    eight = pixels_of("camera.png")
    for other in (eight.astype(np.uint16) * 257, eight.astype(np.float32) * 3 - 100):
        assert hashes.distance(phash(eight), phash(other)) <= 2


def test_distance_counts_the_sign_too() -> None:
    assert hashes.distance(-1, 0) == 64
    assert hashes.distance(-(2**63), 0) == 1
    assert hashes.distance(5, 5) == 0


def test_an_image_of_one_brightness_has_no_perceptual_hash() -> None:
    for flat in (np.full((50, 60), 9, np.uint8), np.zeros((1, 1)), np.full((8, 8), np.nan)):
        assert hashes.perceptual_hash(flat) is None
        assert len(hashes.of_image(MemoryImage.of(flat)).pixel_sha256) == 64


def test_equal_pixels_have_one_hash_whatever_the_file(tmp_path: Path) -> None:
    pixels = pixels_of("coins.png")
    Image.fromarray(pixels).save(tmp_path / "a.bmp")
    Image.fromarray(pixels).save(tmp_path / "b.png", compress_level=1)
    tifffile.imwrite(tmp_path / "c.tif", pixels, compression="zlib", tile=(64, 64))
    expected = hashes.pixel_sha256(pixels)
    for name in ("a.bmp", "b.png", "c.tif"):
        with open_image(tmp_path / name) as image:
            found = hashes.of_image(image)
            assert found.pixel_sha256 == expected
            assert found.perceptual == REFERENCE["coins.png"]
            assert found.algorithm == "dct-phash-64/1"


def test_the_hash_knows_shape_type_and_every_pixel() -> None:
    pixels = pixels_of("coins.png")
    changed = pixels.copy()
    changed[-1, -1] ^= 1
    others = [
        changed,
        pixels.T,
        pixels.reshape(-1, 2),
        pixels.astype(np.uint16),
        pixels[:, :, None],
    ]
    found = {hashes.pixel_sha256(other) for other in [pixels, *others]}
    assert len(found) == 1 + len(others)
    wide = np.array([[1, 258]], dtype=">u2")
    text = "negspace pixels/1 1 × 2 <u2\n".encode() + b"\x01\x00\x02\x01"
    assert hashes.pixel_sha256(wide) == hashlib.sha256(text).hexdigest()
    swapped = pixels.astype(">u2")
    assert hashes.pixel_sha256(swapped) == hashes.pixel_sha256(pixels.astype("<u2"))


def test_strips_hash_as_the_whole(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 65535, (3000, 3000)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with open_image(tmp_path / "a.tif") as image:
        assert len(list(image.strips())) > 1
        assert hashes.of_image(image).pixel_sha256 == hashes.pixel_sha256(pixels)
