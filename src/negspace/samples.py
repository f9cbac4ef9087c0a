"""Real images that come inside packages, each with the profile that fits it.

Nothing is downloaded. ``write_derived`` makes from them what a real folder has too: a copy
under another name, the same picture compressed again, and files that are broken.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from negspace.errors import FileError


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        path: The file.
        profile: The analyser's profile for it.
        shows: What it is, in a few words.
        broken: Made to fail.
    """

    path: Path
    profile: str
    shows: str
    broken: bool = False


_SKIMAGE: Final = "data"
_ASTROPY: Final = "io/fits/hdu/compressed/tests/data"
_PYDICOM: Final = "data/test_files"

_INSIDE: Final = (
    ("skimage", _SKIMAGE, "hubble_deep_field.jpg", "astronomy", "galaxies, Hubble deep field"),
    ("skimage", _SKIMAGE, "retina.jpg", "fundus", "a human retina"),
    ("skimage", _SKIMAGE, "microaneurysms.png", "fundus", "microaneurysms in a retina"),
    ("skimage", _SKIMAGE, "cell.png", "radiology", "a cell, phase microscopy"),
    ("skimage", _SKIMAGE, "coins.png", "radiology", "coins on a dark ground"),
    ("skimage", _SKIMAGE, "page.png", "document", "a page of print"),
    ("skimage", _SKIMAGE, "ihc.png", "document", "stained tissue on bright glass"),
    ("skimage", _SKIMAGE, "camera.png", "photo", "a photographer and the sky"),
    ("astropy", _ASTROPY, "m13.fits", "astronomy", "star cluster M13, Digitized Sky Survey"),
    ("pydicom", _PYDICOM, "CT_small.dcm", "radiology", "a computed tomography slice"),
    ("pydicom", _PYDICOM, "MR_small.dcm", "radiology", "a magnetic resonance slice"),
)


def inside_packages() -> list[Sample]:
    """The images, found without importing the packages.

    Raises:
        FileError: A package or a file of it is missing.
    """
    samples: list[Sample] = []
    for package, folder, name, profile, shows in _INSIDE:
        spec = find_spec(package)
        places = spec.submodule_search_locations if spec else None
        path = Path(places[0]) / folder / name if places else Path(name)
        if not path.is_file():
            raise FileError(f"{name} of {package} is not installed", hint="make install")
        samples.append(Sample(path, profile, shows))
    return samples


def write_derived(samples: list[Sample], folder: Path) -> list[Sample]:
    """Make the awkward files of a real folder; the same bytes each time.

    Args:
        samples: From ``inside_packages``.
        folder: Where to write; made if need be.

    Returns:
        An exact copy, a re-compressed picture, a truncated JPEG, and a text called .png.

    Raises:
        FileError: The folder can't be written.
    """
    named = {sample.path.name: sample for sample in samples}
    coins, hubble, retina = (
        named[name] for name in ("coins.png", "hubble_deep_field.jpg", "retina.jpg")
    )
    copy = folder / "coins (copy).png"
    again = folder / "hubble-for-the-web.jpg"
    broken = folder / "retina-truncated.jpg"
    text = folder / "notes.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(coins.path, copy)
        _compress_again(hubble.path, again)
        content = retina.path.read_bytes()
        broken.write_bytes(content[: len(content) * 6 // 10])
        text.write_text("Voids seen on the second night: see page 4.\n", encoding="utf-8")
    except OSError as error:
        raise FileError(
            f"{folder} can't be written: {error.strerror}",
            hint="run in a folder that is writable, or name one with --folder",
        ) from error
    return [
        Sample(copy, coins.profile, "the coins again, under another name"),
        Sample(again, hubble.profile, "the deep field, compressed again"),
        Sample(broken, retina.profile, "a JPEG that ends too early", broken=True),
        Sample(text, "photo", "a text that is called .png", broken=True),
    ]


def _compress_again(source: Path, target: Path) -> None:
    from PIL import Image

    with Image.open(source) as picture:
        picture.save(target, format="JPEG", quality=60)
