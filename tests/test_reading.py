"""Image files, sound and broken: what they are, how large, and what is said about them."""

import io
import os
import struct
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
from astropy.io import fits
from PIL import Image

from negspace.analysis.negative_space import NegativeSpace
from negspace.analysis.reading import open_image, sniff
from negspace.errors import FileError, ImageError
from pictures import packaged, pattern, read

ANALYSER = NegativeSpace()


# ── what it is ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "mime_type"),
    [
        ("coins.png", "image/png"),
        ("retina.jpg", "image/jpeg"),
        ("multipage.tif", "image/tiff"),
        ("no_time_for_that_tiny.gif", "image/gif"),
        ("m13.fits", "image/fits"),
        ("CT_small.dcm", "application/dicom"),  # its preamble is a TIFF header
        ("MR_small.dcm", "application/dicom"),
    ],
)
def test_the_kind_is_told_by_the_bytes(name: str, mime_type: str, tmp_path: Path) -> None:
    data = packaged(name).read_bytes()
    assert sniff(data[:4096]) == mime_type
    renamed = tmp_path / "holiday.txt"
    renamed.write_bytes(data)
    with open_image(renamed, page=1) as image:
        assert image.mime_type == mime_type


@pytest.mark.parametrize("kind", ["BMP", "WEBP"])
def test_bmp_and_webp_are_known(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pattern()).save(buffer, format=kind)
    assert sniff(buffer.getvalue()[:64]) == f"image/{kind.lower()}"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello, I am a text\n" * 9, "looks like text"),
        ("Grüße".encode(), "looks like text"),
        (b"%PDF-1.7", "a PDF"),
        (b"PK\x03\x04....", "a ZIP"),
        (b"\x1f\x8b....", "gzip"),
        (b"BMW is a car, not a bitmap", "text"),
        (bytes(range(256)), "binary data"),
        (b"\0\0\0\x20ftypheic", "HEIF"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=words) as caught:
        open_image(path)
    assert "picture.png" in caught.value.message
    assert "PNG" in (caught.value.hint or "")


# ── broken files ─────────────────────────────────────────────────────────────────────────


def test_a_missing_file_a_folder_and_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="isn't there"):
        open_image(tmp_path / "none.png")
    with pytest.raises(FileError, match="is a folder"):
        open_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match="0 bytes"):
        open_image(tmp_path / "empty.png")
    with pytest.raises(FileError, match="can't be read"):
        open_image("a\0b")
    os.mkfifo(tmp_path / "pipe")  # would wait for a writer for ever
    with pytest.raises(FileError, match="no regular file"):
        open_image(tmp_path / "pipe")


@contextmanager
def as_nobody() -> Generator[None]:
    """As another user, where this one is root and may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "private.png"
    Image.fromarray(pattern()).save(path)
    path.chmod(0)
    with as_nobody(), pytest.raises(FileError, match="may not be read"):
        open_image(path)


@pytest.mark.parametrize("name", ["retina.jpg", "coins.png", "m13.fits", "CT_small.dcm"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file_is_refused(name: str, share: float, tmp_path: Path) -> None:
    data = packaged(name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ImageError, match=r"can't be decoded|holds no image|without an image"):
        read(path)


def test_damage_at_any_place_is_an_error_or_an_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    sound = [packaged("microaneurysms.png"), packaged("MR_small.dcm"), tmp_path / "a.tif"]
    sound += [tmp_path / "a.jpg", tmp_path / "a.gif", tmp_path / "a.fits"]
    tifffile.imwrite(sound[2], pattern(), compression="zlib", tile=(32, 32))
    Image.fromarray(pattern()).save(sound[3])
    Image.fromarray(pattern()).save(sound[4])
    fits.writeto(sound[5], pattern("i2"))
    errors: list[FileError] = []
    images = 0
    for path in sound:
        data = path.read_bytes()
        for _ in range(25):
            broken = bytearray(data)
            for at in rng.integers(0, min(len(data), 2000), 4):
                broken[at] = rng.integers(0, 256)
            damaged = tmp_path / "damaged"
            damaged.write_bytes(broken)
            try:
                read(damaged, max_pixels=100_000)
                images += 1
            except FileError as error:
                errors.append(error)
    assert images > 10
    assert len(errors) > 10
    assert all(error.hint for error in errors)


def test_pydicom_s_odd_files_are_read_or_refused_with_a_reason() -> None:
    folder = packaged("CT_small.dcm").parent
    refused: list[tuple[str, str]] = []
    images = 0
    for path in sorted(folder.glob("*.dcm")):
        try:
            read(path, page=1)
            images += 1
        except FileError as error:
            refused.append((path.name, error.message))
    assert images > 30
    assert len(refused) > 10
    assert all(name in message for name, message in refused)


def bomb(path: Path, side: int) -> None:
    """A PNG of side × side pixels in a few kilobytes, by its header alone."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        data += struct.pack(">I", len(content)) + kind + content
        data += struct.pack(">I", zlib.crc32(kind + content))
    path.write_bytes(data)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    bomb(tmp_path / "bomb.png", 100_000)
    with pytest.raises(ImageError, match=r"100,000 × 100,000 pixels; the limit is") as caught:
        open_image(tmp_path / "bomb.png")
    assert "NEGSPACE_MAX_PIXELS" in (caught.value.hint or "")


def test_the_limit_holds_for_every_kind(tmp_path: Path) -> None:
    paths = [packaged(n) for n in ("coins.png", "retina.jpg", "m13.fits", "CT_small.dcm")]
    paths += [packaged("multipage.tif"), tmp_path / "a.tif"]
    tifffile.imwrite(paths[-1], pattern(), compression="zlib")
    for path in paths:
        with pytest.raises(ImageError, match="the limit is 100"):
            open_image(path, max_pixels=100, page=1)


def test_an_image_larger_than_pillow_s_own_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    bomb(path, 14_000)  # 196 million: Pillow by itself refuses from 179 million
    with open_image(path) as image:
        assert image.dimensions == {"width": 14_000, "height": 14_000, "channels": 1}


def test_a_file_that_changes_after_its_header_was_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pattern()).save(path)
    with open_image(path) as image:
        Image.fromarray(pattern()[:50]).save(path)
        with pytest.raises(FileError, match="changed while it was read"):
            image.read()


# ── several images in a file ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "pages", "noun"),
    [
        ("multipage.tif", 2, "pages"),
        ("multipage_rgb.tif", 2, "pages"),
        ("no_time_for_that_tiny.gif", 24, "frames"),
        ("SC_rgb_rle_2frame.dcm", 2, "frames"),
    ],
)
def test_several_images_need_a_choice(name: str, pages: int, noun: str) -> None:
    path = packaged(name)
    with pytest.raises(ImageError, match=f"holds {pages} {noun}") as caught:
        open_image(path)
    assert "--page 1" in (caught.value.hint or "")
    first, last = read(path, page=1), read(path, page=pages)
    assert first.shape == last.shape
    assert not np.array_equal(first, last)
    for none in (0, pages + 1):
        with pytest.raises(ImageError, match=f"no {noun[:-1]} {none}"):
            open_image(path, page=none)


def test_planes_of_fits_are_counted_over_all_images(tmp_path: Path) -> None:
    cube = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(cube), fits.ImageHDU(cube[0] * 10)]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    with pytest.raises(ImageError, match="holds 3 planes"):
        open_image(tmp_path / "a.fits")
    np.testing.assert_array_equal(read(tmp_path / "a.fits", page=2), cube[1])
    np.testing.assert_array_equal(read(tmp_path / "a.fits", page=3), cube[0] * 10)


def test_small_copies_in_a_tiff_are_not_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(pattern())
        writer.write(pattern()[::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(read(path), pattern())
