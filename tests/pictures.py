"""Pictures with known answers, and real ones that come inside packages."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from negspace.analysis.reading import open_image


def packaged(name: str) -> Path:
    """A real image: a file of scikit-image, ``m13.fits`` of astropy, ``*.dcm`` of pydicom."""
    folders = {".fits": ("astropy", "io/fits/hdu/compressed/tests/data")}
    folders[".dcm"] = ("pydicom", "data/test_files")
    package, folder = folders.get(Path(name).suffix, ("skimage", "data"))
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / folder / name


def disc(shape: tuple[int, int], y: float, x: float, r: float) -> NDArray[np.bool_]:
    """True within r of (y, x)."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= r * r


def noisy(empty: NDArray[np.bool_], snr: float, seed: int = 1) -> NDArray[np.float64]:
    """Ground of 1 with holes of 0, and normal noise of standard deviation 1 / snr."""
    noise = np.random.default_rng(seed).normal(0, 1 / snr, empty.shape)
    return np.where(empty, 0.0, 1.0) + noise


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks."""
    return float((one & other).sum() / (one | other).sum())


def holes() -> tuple[NDArray[np.bool_], int]:
    """Nine discs and three rectangles that don't touch, and how many they are."""
    shape = (420, 420)
    empty = np.zeros(shape, dtype=bool)
    for i, r in enumerate((14, 18, 22, 26, 30, 34, 38, 24, 16)):
        empty |= disc(shape, 55 + 100 * (i // 3), 60 + 110 * (i % 3), r)
    for x, width in ((20, 60), (110, 130), (270, 40)):
        empty[340:395, x : x + width] = True
    return empty, 12


def starfield(
    count: int, hole: tuple[int, int, int] | None, seed: int, size: int = 500
) -> NDArray[np.float64]:
    """Stars of one pixel spread by a telescope, over a noisy sky; none within the hole."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    sky = np.zeros((size, size))
    placed = 0
    while placed < count:
        y, x = rng.integers(0, size, 2)
        if hole is not None and (y - hole[0]) ** 2 + (x - hole[1]) ** 2 < hole[2] ** 2:
            continue
        sky[y, x] += rng.uniform(30, 100)
        placed += 1
    return ndimage.gaussian_filter(sky, 1.5) + rng.normal(0.5, 0.05, (size, size))


def pattern(dtype: str = "u1", channels: int = 0) -> NDArray[Any]:
    """70 × 90 random values below 250, always the same."""
    shape = (70, 90, channels) if channels else (70, 90)
    values = np.random.default_rng(1).integers(0, 250, shape)
    return values.astype(dtype)


def read(path: Path, **options: Any) -> NDArray[Any]:
    """The pixels of a file, which are as its header said."""
    with open_image(path, **options) as image:
        pixels = image.read()
        assert pixels.shape == image.shape
        assert pixels.dtype == image.dtype
        return pixels
