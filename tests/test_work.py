"""What is said of a job: reasons that can be stored, advice where something is slow."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from negspace.errors import ConstraintError, FileError, ImageError, UnavailableError
from negspace.storage import Storage
from negspace.worker import leases, work
from negspace.worker.leases import Claimed

QUICK = {"open": 1.0, "decode_and_hash": 20.0, "analyze": 300.0, "draw": 50.0}


def test_nothing_is_advised_where_nothing_is_slow() -> None:
    assert work.suggestions(QUICK, 12.0, {"max_pixels": 2_000_000}, 3) == []


def test_a_slow_analysis_names_the_size_that_would_help() -> None:
    slow = QUICK | {"analyze": 7000.0}
    [large] = work.suggestions(slow, 12.0, {"max_pixels": 2_000_000}, 3)
    assert ("7.0 s" in large, "below 2000000" in large) == (True, True)
    [small] = work.suggestions(slow, 0.5, {"max_pixels": 2_000_000}, 1)
    assert "below 500000" in small
    assert work.suggestions(slow, 0.5, {}, 1) == []


def test_slow_reading_of_what_is_shrunk_anyway() -> None:
    slow = QUICK | {"decode_and_hash": 9000.0}
    [advice] = work.suggestions(slow, 400.0, {"max_pixels": 2_000_000}, 15)
    assert "shrunk 15 times" in advice
    assert work.suggestions(slow, 400.0, {"max_pixels": 500_000_000}, 1) == []


def test_reasons_are_for_people_and_hide_the_storage_folder() -> None:
    storage = Storage(Path("/srv/private"))
    job = Claimed(
        id=1,
        token=uuid4(),
        attempt=1,
        image_id=1,
        owner=1,
        file_path="ab/cd/x.png",
        file_hash="0" * 64,
        original_filename="sky.png",
        algorithm_name="negative_space",
        algorithm_version="1.0.0",
        algorithm_parameters={},
        answered=False,
    )
    error = ImageError("/srv/private/ab/cd/x.png is broken", hint="send it again")
    assert work.reason(error, job, storage) == "sky.png is broken (send it again)"
    assert work.reason(OSError("/srv/private is full"), job, storage) == (
        "OSError: the image storage is full"
    )
    assert work.reason(KeyError("voids"), job, storage) == "KeyError: 'voids'"


def test_only_what_may_pass_is_tried_again() -> None:
    for_good = [ImageError("x"), ConstraintError("x")]
    passing = [FileError("x"), UnavailableError("x"), MemoryError(), KeyError("x")]
    assert [work.may_help(error) for error in for_good + passing] == [False] * 2 + [True] * 4


def test_any_reason_can_be_stored() -> None:
    assert leases.storable("a\0b") == "a�b"
    assert leases.storable("name \udcff.png") == "name ?.png"
    assert len(leases.storable("x" * 20_000)) == 10_000
