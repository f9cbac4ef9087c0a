"""The pixels of each kind of file, and the handle that reads them."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from astropy.io import fits
from numpy.typing import NDArray
from PIL import Image

from negspace.analysis.image import MemoryImage, Window
from negspace.analysis.negative_space import NegativeSpace
from negspace.analysis.reading import open_image
from negspace.errors import ImageError
from pictures import holes, packaged, pattern, read

ANALYSER = NegativeSpace()


# ── pixels ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mode", "dtype", "channels"),
    [
        ("1", "bool", 1),
        ("L", "uint8", 1),
        ("LA", "uint8", 2),
        ("P", "uint8", 3),
        ("RGB", "uint8", 3),
        ("RGBA", "uint8", 4),
        ("I;16", "uint16", 1),
    ],
)
def test_png_of_every_mode(mode: str, dtype: str, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if mode == "I;16":
        picture = Image.fromarray(pattern("u2") * 257)
    else:
        source = pattern(channels=3 if mode == "P" else 4)
        picture = Image.fromarray(source).convert(mode)
    picture.save(path)
    with open_image(path) as image:
        assert image.dimensions == {"width": 90, "height": 70, "channels": channels}
        assert image.dtype == dtype
        expected = np.asarray(picture.convert("RGB") if mode == "P" else picture)
        np.testing.assert_array_equal(image.read(), expected)


def test_a_transparent_palette_has_alpha(tmp_path: Path) -> None:
    picture = Image.fromarray(pattern() % 4).convert("P")
    picture.save(tmp_path / "a.png", transparency=0)
    pixels = read(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels[..., 3] == 0, pattern() % 4 == 0)


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (32, 32), (200, 30, 40))
    red.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    pixels = read(tmp_path / "a.jpg")
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels.astype(int) - (200, 30, 40)).max() < 12


def test_a_jpeg_is_turned_as_the_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(np.kron(pattern()[:8, :12], np.ones((8, 8), np.uint8)))
    picture.save(tmp_path / "a.jpg", exif=exif, quality=100)
    with open_image(tmp_path / "a.jpg") as image:
        assert image.dimensions == {"width": 64, "height": 96, "channels": 1}
        upright = np.rot90(np.asarray(picture), k=-1)
        assert np.abs(image.read().astype(int) - upright).mean() < 3


def test_pillow_s_warnings_do_not_leak(tmp_path: Path) -> None:
    data = bytearray(packaged("retina.jpg").read_bytes())
    exif = b"\xff\xe1\x00\x20Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(14)
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(data[:2]) + exif + bytes(data[2:]))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        read(path)
    assert seen == []


TIFFS: list[tuple[NDArray[Any], dict[str, Any]]] = [
    (pattern(), {}),
    (pattern("u2"), {"compression": "zlib", "predictor": True}),
    (pattern("f4"), {"compression": "zlib", "tile": (32, 48)}),
    (pattern("f8"), {"bigtiff": True, "rowsperstrip": 16}),
    (pattern("i2"), {"compression": "lzma", "rowsperstrip": 7}),
    (pattern("u1", 3), {"photometric": "rgb", "tile": (16, 16)}),
    (pattern("u2", 3), {"photometric": "rgb", "compression": "zlib", "rowsperstrip": 9}),
    (pattern("u1", 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    (pattern("u1", 2), {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
    (pattern("u2"), {"byteorder": ">"}),
    (pattern("u2"), {"byteorder": ">", "compression": "zlib"}),
]


@pytest.mark.parametrize(("pixels", "options"), TIFFS)
def test_tiff_by_window(pixels: NDArray[Any], options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    if pixels.ndim == 3:
        options = {"planarconfig": "contig"} | options
    tifffile.imwrite(path, pixels, **options)
    with open_image(path) as image:
        assert image.shape == pixels.shape
        np.testing.assert_array_equal(image.read(), pixels)
        for window in (Window(0, 0, 1, 1), Window(10, 20, 35, 41), Window(69, 89, 1, 1)):
            y, x, h, w = window
            np.testing.assert_array_equal(image.read(window), pixels[y : y + h, x : x + w])


@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "tile": (32, 32)}])
def test_tiff_with_a_plane_per_channel(options: dict[str, Any], tmp_path: Path) -> None:
    planes = np.moveaxis(pattern("u1", 3), 2, 0)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", **options)
    with open_image(path) as image:
        np.testing.assert_array_equal(image.read(), pattern("u1", 3))
        part = image.read(Window(30, 31, 20, 33))
        np.testing.assert_array_equal(part, pattern("u1", 3)[30:50, 31:64])


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "group4", "packbits"])
def test_tiff_that_pillow_decodes(compression: str, tmp_path: Path) -> None:
    picture = Image.fromarray(pattern() // 50 * 50)
    picture = picture.convert("1") if compression == "group4" else picture
    picture.save(tmp_path / "a.tif", compression=compression)
    found, expected = read(tmp_path / "a.tif"), np.asarray(picture)
    if compression == "jpeg":
        assert np.abs(found.astype(int) - expected).mean() < 20
    else:
        np.testing.assert_array_equal(found, expected)


def test_tiff_where_white_is_zero_is_shown_as_it_looks(tmp_path: Path) -> None:
    empty, count = holes()
    ground = np.where(empty, 240, 20).astype(np.uint8)  # stored inverted: holes look black
    tifffile.imwrite(tmp_path / "a.tif", ground, photometric="miniswhite")
    with open_image(tmp_path / "a.tif") as image:
        assert image.scale.inverted
        data = ANALYSER.analyze(image, {}).negative_space_data
    assert data["void_count"] == count
    assert data["scale"]["inverted"]


def test_a_tiff_of_many_bands_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pattern("u2", 7), photometric="minisblack")
    with pytest.raises(ImageError):
        read(tmp_path / "a.tif")


def test_fits_gives_physical_values(tmp_path: Path) -> None:
    values = pattern("f8") * 0.5 + 100
    hdu = fits.PrimaryHDU(values.copy())
    hdu.scale("int16", bscale=0.5, bzero=100)
    hdu.header["BLANK"], hdu.header["BUNIT"] = int(pattern()[0, 0]), "electron/s"
    hdu.writeto(tmp_path / "a.fits")
    values[pattern() == pattern()[0, 0]] = np.nan
    with open_image(tmp_path / "a.fits") as image:
        assert image.scale.unit == "electron/s"
        assert image.scale.kind == "physical"
        np.testing.assert_array_equal(image.read(), values)
        np.testing.assert_array_equal(image.read(Window(5, 6, 20, 30)), values[5:25, 6:36])


@pytest.mark.parametrize("name", ["m13_rice.fits", "m13_gzip.fits", "m13_plio.fits"])
def test_compressed_fits_equals_the_plain_one(name: str) -> None:
    np.testing.assert_array_equal(read(packaged(name)), read(packaged("m13.fits")))


def test_a_ct_is_in_hounsfield_units_and_padding_is_nothing(tmp_path: Path) -> None:
    path = packaged("CT_small.dcm")
    with open_image(path) as image:
        values = image.read()
        assert image.scale.unit == "HU"
        stored = pydicom.dcmread(path).pixel_array
        np.testing.assert_array_equal(values, stored - 1024.0)
    data = pydicom.dcmread(path)
    data.PixelPaddingValue = int(stored[0, 0])
    data.save_as(tmp_path / "a.dcm")
    np.testing.assert_array_equal(np.isnan(read(tmp_path / "a.dcm")), stored == stored[0, 0])


def test_monochrome1_is_shown_as_it_looks(tmp_path: Path) -> None:
    data = pydicom.dcmread(packaged("MR_small.dcm"))
    with open_image(packaged("MR_small.dcm")) as image:
        upright = ANALYSER.analyze(image, {})
    data.PhotometricInterpretation = "MONOCHROME1"
    data.PixelData = (4095 - data.pixel_array).astype("<i2").tobytes()
    data.save_as(tmp_path / "a.dcm")
    with open_image(tmp_path / "a.dcm") as image:
        assert image.scale.inverted
        found = ANALYSER.analyze(image, {})
    np.testing.assert_array_equal(found.mask, upright.mask)


# ── the handle ───────────────────────────────────────────────────────────────────────────


def test_the_pyramid_is_of_block_means_of_valid_pixels() -> None:
    pixels = np.arange(24, dtype=float).reshape(4, 6)
    pixels[0, 0] = np.nan
    pixels[2:, 4:] = np.nan
    level = MemoryImage.of(pixels).pyramid(6)
    assert level.factor == 2
    expected = [[(1 + 6 + 7) / 3, 5.5, 7.5], [15.5, 17.5, np.nan]]
    np.testing.assert_allclose(level.pixels, expected)
    assert (level.low, level.high) == (1, 21)


def test_the_pyramid_of_a_file_is_that_of_its_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).random((1300, 4100)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(256, 256), compression="zlib")
    with open_image(tmp_path / "a.tif") as image:
        ours = image.pyramid(100_000)  # more than one strip
    theirs = MemoryImage.of(pixels).pyramid(100_000)
    assert ours.pixels.shape == (163, 513)
    np.testing.assert_array_equal(ours.pixels, theirs.pixels)
    assert ours.pixels[0, 0] == pytest.approx(pixels[:8, :8].mean(), rel=1e-6)
    assert ours.pixels[-1, -1] == pytest.approx(pixels[1296:, 4096:].mean(), rel=1e-6)


def test_a_large_tiff_costs_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "a.tif"
    shape = (9000, 8000)
    ramp = tifffile.memmap(path, shape=shape, dtype="uint16", photometric="minisblack")
    ramp[:] = np.arange(shape[1]) % 5000
    ramp.flush()
    del ramp
    with open_image(path) as image:
        tracemalloc.start()
        found = ANALYSER.analyze(image, {"max_pixels": 100_000})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < shape[0] * shape[1] * 4  # less than the image as floats
    assert found.negative_space_data["grid"]["shrink"] == 27
    assert found.quality_metrics["sampled_fraction"] == pytest.approx(9 * 1024**2 / 72e6, rel=1e-3)
