"""Images: what is known of each, and their rows.

``facts`` is what results, jobs and the audit trail go by, so that they agree with the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from negspace.generate.plan import Plan, chosen, lognormal
from negspace.generate.text import (
    Piece,
    Text,
    either,
    hexadecimal,
    join,
    number,
    pick,
    timestamp,
)

STATUSES: Final = ("pending", "processing", "completed", "failed", "archived")
PENDING, PROCESSING, COMPLETED, FAILED, ARCHIVED = range(5)
SUFFIXES: Final = ("png", "jpg", "tif", "fits", "dcm")
TYPES: Final = ("image/png", "image/jpeg", "image/tiff", "image/fits", "application/dicom")
PROFILES: Final = ("document", "photo", "fundus", "astronomy", "radiology")  # one per type
REASONS: Final = (
    "the file ends early",
    "this DICOM transfer syntax can't be decoded",
    "the analyser stopped: out of memory",
    "worker was not heard of for 00:00:10",
)
HASH: Final = "dct64"
_NAMES: Final = ("scan", "frame", "macula", "NGC", "slice")
_INSTRUMENTS: Final = ("flatbed", "camera-2", "fundus-1", "telescope", "ct-3")
_METADATA: Final = tuple(
    f'{{"instrument": "{instrument}", "profile": "{profile}"}}'
    for instrument, profile in zip(_INSTRUMENTS, PROFILES, strict=True)
)
_SIDES: Final = (512, 1024, 1411, 2048, 3000, 4096)
_DUPLICATES: Final = 0.05  # of the images whose owner has earlier ones in the same slice


@dataclass(frozen=True)
class Facts:
    """The images of one slice, an array element each; times in milliseconds since 1970.

    Attributes:
        number: The image's id.
        owner: Its user, counted from 0.
        uploaded: When it was taken in.
        processed: When its last job ended; means something where ``ended``.
        kind: Index into ``TYPES``.
        size: Bytes.
        width: Pixels.
        height: Pixels.
        content: SHA-256 of the file, shape (images, 32).
        status: Index into ``STATUSES``.
        original: Index in the slice of the image it repeats; its own where it is original.
        waited: Milliseconds its job waited.
        ran: Milliseconds its analysis took.
        results: How many results it has.
    """

    number: NDArray[np.int64]
    owner: NDArray[np.int64]
    uploaded: NDArray[np.int64]
    processed: NDArray[np.int64]
    kind: NDArray[np.int64]
    size: NDArray[np.int64]
    width: NDArray[np.int64]
    height: NDArray[np.int64]
    content: NDArray[np.uint8]
    status: NDArray[np.int64]
    original: NDArray[np.int64]
    waited: NDArray[np.int64]
    ran: NDArray[np.int64]
    results: NDArray[np.int64]

    @property
    def repeats(self) -> NDArray[np.bool_]:
        """Which are duplicates."""
        return self.original != np.arange(len(self.original))

    @property
    def ended(self) -> NDArray[np.bool_]:
        """Whose job ended, well or not."""
        return self.status >= COMPLETED


def facts(plan: Plan, first: Mapping[str, int], piece: int) -> Facts:
    """What is known of the images of a slice."""
    chance = plan.chance("images", piece)
    begin, end = plan.part(plan.images, piece)
    count = end - begin
    owner = plan.owners(chance, count)
    uploaded = plan.times(chance, plan.images, piece)
    original = _originals(chance, owner)
    kind = chosen(chance, (20, 35, 10, 20, 15), count)[original]
    width = np.array(_SIDES)[chosen(chance, (1, 3, 2, 3, 2, 1), count)][original]
    height = (width * np.array((1.414, 0.667, 1, 1, 1))[kind]).astype(np.int64)
    ratio = lognormal(chance, 0.35, 0.5, count)[original]
    status = _status(chance, np.arange(begin, end), plan.images)
    waited = lognormal(chance, 900, 1.4, count).astype(np.int64) + 5
    # of the megapixels the analyser looks at, which it bounds
    megapixels = np.minimum(width * height / 1e6, 4)
    ran = (megapixels * lognormal(chance, 800, 0.7, count)).astype(np.int64) + 20
    twice = chance.random(count) < 0.09
    done = (status == COMPLETED) | (status == ARCHIVED)
    return Facts(
        number=first["images"] + np.arange(begin, end),
        owner=owner,
        uploaded=uploaded,
        processed=np.minimum(uploaded + waited + ran, plan.end),
        kind=kind,
        size=(width * height * ratio).astype(np.int64) + 1000,
        width=width,
        height=height,
        content=chance.integers(0, 256, (count, 32), np.uint8)[original],
        status=status,
        original=original,
        waited=waited,
        ran=ran,
        results=done * (1 + twice),
    )


def _status(
    chance: np.random.Generator, index: NDArray[np.int64], images: int
) -> NDArray[np.int64]:
    old = chosen(chance, (0, 0, 88, 7, 5), len(index))
    new = chosen(chance, (45, 10, 40, 5, 0), len(index))
    return np.where(index >= images - max(images // 100, 50), new, old)


def _originals(chance: np.random.Generator, owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each image the one it repeats: the owner's last original before it, or itself."""
    count = len(owner)
    order = np.argsort(owner, kind="stable")  # each owner's images stand together, oldest first
    begins = np.ones(count, bool)
    begins[1:] = owner[order][1:] != owner[order][:-1]
    place = np.arange(count)
    is_original = begins | (chance.random(count) >= _DUPLICATES)
    last = np.maximum.accumulate(np.where(is_original, place, 0))
    original = np.empty(count, np.int64)
    original[order] = order[last]
    return original


def images(plan: Plan, first: Mapping[str, int]) -> Iterator[dict[str, Piece]]:
    """The rows of ``images``."""
    for piece in range(plan.slices):
        known = facts(plan, first, piece)
        yield _rows(plan, first, known, piece)


def image_fingerprints(plan: Plan, first: Mapping[str, int]) -> Iterator[dict[str, Piece]]:
    """The rows of ``image_fingerprints``: the hashes again, where near ones are looked for."""
    for piece in range(plan.slices):
        known = facts(plan, first, piece)
        seen = _seen(known)
        if seen.any():
            yield {
                "image_id": number(known.number[seen]),
                "user_id": number(first["users"] + known.owner[seen]),
                "perceptual_hash": number(_perceptual(plan, piece, known)[seen]),
                "algorithm": HASH,
            }


def _rows(plan: Plan, first: Mapping[str, int], known: Facts, piece: int) -> dict[str, Piece]:
    chance = plan.chance("image rows", piece)
    count, original = len(known.number), known.original
    digest = hexadecimal(known.content)
    pixels = hexadecimal(chance.integers(0, 256, (count, 32), np.uint8)[original])
    retries = np.where(known.ended, chosen(chance, (94, 4, 2), count), 0)
    failed = known.status == FAILED
    changed = np.where(known.ended, known.processed, known.uploaded)
    taken, done = timestamp(known.uploaded), timestamp(known.processed)
    began = timestamp(np.minimum(known.uploaded + known.waited, plan.end))
    seen = _seen(known)
    return {
        "id": number(known.number),
        "user_id": number(first["users"] + known.owner),
        "file_name": join(digest, ".", pick(SUFFIXES, known.kind)),
        "original_filename": original_name(known),
        "file_path": path(digest, known),
        "file_size": number(known.size),
        "mime_type": pick(TYPES, known.kind),
        "file_hash": digest,
        "image_dimensions": _dimensions(known),
        "analysis_status": pick(STATUSES, known.status),
        "metadata": pick(_METADATA, known.kind),
        "uploaded_at": taken,
        "processed_at": either(known.ended, done),
        "created_at": taken,
        "updated_at": timestamp(changed),
        "analysis_retry_count": number(retries),
        "failure_reason": either(failed, pick(REASONS, chosen(chance, (5, 3, 1, 1), count))),
        "last_retry_at": either(retries > 0, began),
        "processing_history": _history(known, began, done),
        "is_duplicate": pick("ft", known.repeats.astype(int)),
        "duplicate_of": either(known.repeats, number(known.number[original])),
        "pixel_hash": either(seen, pixels),
        "perceptual_hash": either(seen, number(_perceptual(plan, piece, known))),
        "perceptual_hash_algorithm": either(seen, HASH),
    }  # fmt: skip


def path(digest: Text, known: Facts) -> Text:
    """Where the file would lie in the storage; no file is made."""
    return join(digest[:2], "/", digest[2:4], "/", digest, ".", pick(SUFFIXES, known.kind))


def original_name(known: Facts) -> Text:
    """The name the file came with."""
    serial = known.number % 1_000_000
    return join(pick(_NAMES, known.kind), "_", number(serial), ".", pick(SUFFIXES, known.kind))


def _dimensions(known: Facts) -> Text:
    channels = pick("13311", known.kind)
    sides = number(known.width), number(known.height)
    return join('{"width": ', sides[0], ', "height": ', sides[1], ', "channels": ', channels, "}")


def _history(known: Facts, began: Text, done: Text) -> Text:
    to = pick(("processing", "completed", "failed"), np.clip(known.status, 1, 3) - 1)
    start = join('[{"at": "', began, '", "from": "pending", "to": "processing"}')
    end = join(', {"at": "', done, '", "from": "processing", "to": "', to, '"}')
    return either(known.status == PENDING, "[]", join(start, either(known.ended, end, ""), "]"))


def _seen(known: Facts) -> NDArray[np.bool_]:
    """Whose pixels an analyser has seen."""
    return known.ended & (known.status != FAILED)


def _perceptual(plan: Plan, piece: int, known: Facts) -> NDArray[np.int64]:
    """64-bit hashes; those of every 50th image are near that of the one before it."""
    chance, count = plan.chance("perceptual", piece), len(known.number)
    bits = chance.integers(-(2**63), 2**63 - 1, count, np.int64, endpoint=True)
    near = np.flatnonzero(np.arange(count) % 50 == 49)
    flipped = np.int64(1) << chance.integers(0, 63, len(near))
    bits[near] = bits[near - 1] ^ flipped
    return bits[known.original]
