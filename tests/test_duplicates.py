"""Duplicates: the same file, the same pixels, and what looks alike."""

from __future__ import annotations

import pytest
from PIL import Image as Pillow

import images_on_disk as disk
from negspace import audit, duplicates, images, intake, users
from negspace.analysis import hashes
from negspace.analysis.reading import open_image
from negspace.errors import InvalidInputError
from negspace.storage import Storage


@pytest.fixture
def ada(services):
    return users.add(services, "ada@example.org", "correct horse", role="analyst", cost=4)


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path / "storage")


@pytest.fixture
def take_in(services, storage, ada):
    """Take a file in and keep its pixels' hashes, as a worker does."""

    def call(path, user_id: int = ada.id) -> images.Image:
        image = intake.add(services, storage, path, user_id=user_id, max_pixels=10**7)
        with open_image(path) as opened:
            found = hashes.of_image(opened)
        with services.transaction() as connection:
            connection.execute(
                "select set_image_hashes(%s, %s, %s, %s)",
                [image.id, found.pixel_sha256, found.perceptual, found.algorithm],
            )
        return image

    return call


def test_the_report_names_each_original_with_its_duplicates(services, ada, take_in, tmp_path):
    path = disk.png(tmp_path / "a.png")
    first, second, third = take_in(path), take_in(path), take_in(path)
    take_in(disk.png(tmp_path / "b.png", seed=5))
    (found,) = duplicates.report(services)
    assert (found.original_id, found.user_id) == (first.id, ada.id)
    assert found.duplicate_ids == (second.id, third.id)
    assert found.duplicate_filenames == ("a.png", "a.png")
    assert found.duplicate_bytes == 2 * first.file_size
    assert duplicates.report(services, user_id=ada.id) == [found]
    assert duplicates.report(services, user_id=ada.id + 1) == []


def test_the_same_pixels_in_another_file_are_marked_and_audited(services, take_in, tmp_path):
    first = take_in(disk.png(tmp_path / "a.png"))
    disk.sky().save(tmp_path / "a.tif")
    second = take_in(tmp_path / "a.tif")
    assert not second.is_duplicate
    assert duplicates.mark(services) == 1
    assert images.find(services, second.id).duplicate_of == first.id
    event = audit.events(services, action="config_change").events[0]
    assert event.changes_after == {"marked_duplicate": 1}
    assert duplicates.mark(services) == 0


def test_a_recompressed_image_is_near_and_another_is_not(services, take_in, tmp_path):
    picture = disk.sky(3, (256, 256))
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "again.jpg", quality=60)
    picture.resize((200, 200), Pillow.Resampling.LANCZOS).save(tmp_path / "small.png")
    disk.sky(4, (256, 256)).save(tmp_path / "other.png")
    original, again, small = (
        take_in(tmp_path / name).id for name in ("a.png", "again.jpg", "small.png")
    )
    take_in(tmp_path / "other.png")
    pairs = duplicates.near(services)
    assert {(p.first_id, p.second_id) for p in pairs} == {
        (original, again),
        (original, small),
        (again, small),
    }
    assert [p.distance for p in pairs] == sorted(p.distance for p in pairs)
    assert duplicates.groups(pairs) == [(original, again, small)]


def test_only_originals_of_one_owner_are_compared(services, ada, take_in, tmp_path):
    path = disk.png(tmp_path / "a.png")
    bob = users.add(services, "bob@example.org", "correct horse", cost=4)
    take_in(path)
    take_in(path)  # an exact duplicate is no news
    take_in(path, bob.id)
    assert duplicates.near(services) == []
    disk.sky().save(tmp_path / "a.tif")
    mine = take_in(tmp_path / "a.tif")
    pairs = duplicates.near(services)
    assert [(p.second_id, p.user_id, p.distance) for p in pairs] == [(mine.id, ada.id, 0)]
    assert duplicates.near(services, user_id=bob.id) == []


@pytest.mark.parametrize("distance", [-1, 33])
def test_a_distance_out_of_range_is_refused(services, distance):
    with pytest.raises(InvalidInputError):
        duplicates.near(services, distance=distance)


def pair(first: int, second: int) -> duplicates.NearPair:
    return duplicates.NearPair(1, first, "a", second, "b", 3)


@pytest.mark.parametrize(
    ("pairs", "groups"),
    [
        ([], []),
        ([(1, 2)], [(1, 2)]),
        ([(1, 2), (3, 4)], [(1, 2), (3, 4)]),
        ([(1, 2), (3, 4), (2, 3)], [(1, 2, 3, 4)]),
        ([(5, 6), (1, 2), (6, 7), (1, 7), (3, 9)], [(1, 2, 5, 6, 7), (3, 9)]),
    ],
)
def test_chains_of_pairs_make_groups(pairs, groups):
    assert duplicates.groups(pair(*p) for p in pairs) == groups


def test_the_commands_report_mark_and_propose(cli, database, take_in, tmp_path):
    env = database.environment
    path = disk.png(tmp_path / "a.png")
    first, second = take_in(path), take_in(path)
    disk.sky().save(tmp_path / "a.tif")
    third = take_in(tmp_path / "a.tif")
    report = cli("duplicates", "report", "--json", env=env).json
    assert [(g["original_id"], g["duplicate_ids"]) for g in report] == [(first.id, [second.id])]
    near = cli("duplicates", "near", "--user", "ada@example.org", "--json", env=env).json
    assert [(p["first_id"], p["second_id"]) for p in near] == [(first.id, third.id)]
    assert cli("duplicates", "mark", "--json", env=env).json == {"marked": 1}
    assert "no near duplicates" in cli("duplicates", "near", env=env).out
