"""What a file is, by its first bytes and never by its name."""

from __future__ import annotations

from typing import Final

from negspace.errors import ImageError

HEAD_BYTES: Final = 4096

_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),  # BigTIFF
    (b"MM\0+", "image/tiff"),
    (b"SIMPLE  =", "image/fits"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_BMP_HEADER_SIZES: Final = frozenset({12, 40, 52, 56, 64, 108, 124})

_OTHERS: Final = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"<!DOCTYPE html", "a web page"),
    (b"<html", "a web page"),
)


def sniff(head: bytes, *, name: str = "the file") -> str:
    """The MIME type of an image.

    Args:
        head: The first bytes of the file; 4096 are plenty.
        name: What messages call the file.

    Returns:
        image/png, image/jpeg, image/tiff, image/fits, image/gif, image/bmp, image/webp or
        application/dicom. DICOM is known by its preamble; old files without one are not.

    Raises:
        ImageError: It is none of these; the message says what it looks like.
    """
    if head[128:132] == b"DICM":  # first: the 128 bytes before may be the header of a TIFF
        return "application/dicom"
    for magic, mime_type in _MAGIC:
        if head.startswith(magic):
            return mime_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "image/bmp"  # two letters alone would be little
    raise ImageError(
        f"{name} is no image of a known kind: it looks like {_looks_like(head)}",
        hint="PNG, JPEG, TIFF, FITS, DICOM, GIF, BMP and WebP are read",
    )


def _looks_like(head: bytes) -> str:
    for magic, words in _OTHERS:
        if head.startswith(magic):
            return words
    if not head:
        return "nothing: 0 bytes"
    if head[4:8] == b"ftyp":
        return "a film or HEIF"
    try:
        text = head[:-3].decode() or head.decode()  # the last letter may be cut in two
    except UnicodeDecodeError:
        return "binary data"
    return "text" if all(c.isprintable() or c.isspace() for c in text) else "binary data"
