"""The images that come inside packages, and what is made from them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from negspace import samples
from negspace.analysis import get
from negspace.errors import FileError


def test_they_are_there_with_a_profile_that_the_analyser_has() -> None:
    found = samples.inside_packages()
    assert len(found) >= 8
    assert {s.path.suffix for s in found} >= {".jpg", ".png", ".fits", ".dcm"}
    assert {s.profile for s in found} == set(get("negative_space").profiles)


def test_what_is_derived_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    def hashes(folder: Path) -> list[str]:
        derived = samples.write_derived(samples.inside_packages(), folder)
        return [hashlib.sha256(s.path.read_bytes()).hexdigest() for s in derived]

    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_a_folder_that_cant_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match="can't be written") as told:
        samples.write_derived(samples.inside_packages(), tmp_path / "file")
    assert told.value.hint
