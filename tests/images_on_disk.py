"""Real image files, made on the fly, good and bad."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def sky(seed: int = 0, size: tuple[int, int] = (48, 64)) -> Image.Image:
    """A few discs on a noisy ground, as an 8-bit grey image; size is (height, width)."""
    random = np.random.default_rng(seed)
    pixels = random.normal(30, 4, size)
    y, x = np.mgrid[: size[0], : size[1]]
    for _ in range(6):
        cy, cx = random.uniform(0, size[0]), random.uniform(0, size[1])
        pixels += 150 * (np.hypot(y - cy, x - cx) < 5)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def png(path: Path, seed: int = 0) -> Path:
    sky(seed).save(path, "PNG")
    return path


def text_called_png(path: Path) -> Path:
    path.write_text("This is no image, whatever it is called.\n" * 10)
    return path


def truncated_jpeg(path: Path) -> Path:
    sky(1, (200, 300)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:200])  # before the header says how large it is
    return path


def bomb(path: Path, side: int = 60_000) -> Path:
    """A PNG that says it is side × side, in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * (side + 1) * 10)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


def two_pages(path: Path) -> Path:
    sky(1).save(path, "TIFF", save_all=True, append_images=[sky(2)])
    return path
