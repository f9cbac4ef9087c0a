"""Duplicates: the same file, the same pixels, and what looks alike."""

from __future__ import annotations

from random import Random

import pytest
from PIL import Image as Pillow

import images_on_disk as disk
from negspace import audit, duplicates, images, intake, users
from negspace import database as db
from negspace.analysis import hashes
from negspace.analysis.reading import open_image
from negspace.database import Actor
from negspace.errors import FileError, InvalidInputError, NotFoundError
from negspace.storage import Storage
from schema_rows import add


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


# ── near hashes, exactly ─────────────────────────────────────────────────────────────────


def fill(connection, hashes_of):
    """An owner with images of these hashes, put where they are looked for."""
    user = add(connection, "users")["id"]
    values = ", ".join(f"({n}, {h})" for n, h in enumerate(hashes_of))
    connection.execute(
        "insert into images (user_id, file_name, original_filename, file_path, file_size,"
        " mime_type, file_hash, perceptual_hash, perceptual_hash_algorithm)"
        " select %s, n::text, n::text, n::text, 1, 'image/png', lpad(n::text, 64, '0'), h, 'x/1'"
        f" from (values {values}) as v (n, h)",
        [user],
    )
    return user


def flipped(hash_, bits):
    for bit in bits:
        hash_ ^= 1 << bit
    return hash_ - (1 << 64) if hash_ >= 1 << 63 else hash_


@pytest.mark.parametrize("distance", range(0, 14))
def test_nothing_near_is_missed(owner, distance):
    random = Random(distance)
    centres = [random.getrandbits(64) for _ in range(12)]
    hashes_of = [
        flipped(centre, random.sample(range(64), bits))
        for centre in centres
        for bits in range(15)
        for _ in range(4)
    ]
    # the worst for bands: every bit of a difference in one of them, or spread evenly
    hashes_of += [flipped(centres[0], range(start, start + 8)) for start in range(57)]
    hashes_of += [flipped(centres[0], range(start, 64, 8)) for start in range(8)]
    hashes_of += [flipped(random.getrandbits(64), []) for _ in range(400)]
    user = fill(owner, hashes_of)
    other = fill(owner, [flipped(centre, []) for centre in centres])
    scan = (
        "select image_id, bit_count((perceptual_hash # %s)::bit(64))::int as bits"
        " from image_fingerprints where user_id = %s"
        " and bit_count((perceptual_hash # %s)::bit(64)) <= %s order by image_id"
    )
    found = 0
    for centre in centres:
        query = flipped(centre, [])
        all_of_them = db.rows(owner, scan, [query, user, query, distance])
        by_index = "select * from near_hashes(%s, %s, %s) order by image_id"
        assert db.rows(owner, by_index, [user, query, distance]) == all_of_them
        found += len(all_of_them)
    assert found > 12 * distance
    assert other != user


def test_the_search_uses_the_bands(owner):
    random = Random(1)
    user = fill(owner, [flipped(random.getrandbits(64), []) for _ in range(20_000)])
    owner.execute("analyze image_fingerprints")
    before = scans(owner)
    db.rows(owner, "select * from near_hashes(%s, 1, 8)", [user])
    after = scans(owner)
    used = {name for name in after if after[name] > before[name]}
    assert used == {f"image_fingerprints_band_{n}_idx" for n in (1, 2, 3, 4)}


def scans(connection):
    query = (
        "select indexrelname as name, pg_stat_get_xact_numscans(indexrelid) as n"
        " from pg_stat_user_indexes where relname = 'image_fingerprints'"
    )
    return {row["name"]: row["n"] for row in db.rows(connection, query)}


# ── pairs that are kept, and decisions ───────────────────────────────────────────────────


@pytest.fixture
def alike(take_in, tmp_path):
    """Three images that look alike, one that doesn't."""
    picture = disk.sky(3, (256, 256))
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "again.jpg", quality=60)
    picture.resize((200, 200), Pillow.Resampling.LANCZOS).save(tmp_path / "small.png")
    disk.sky(4, (256, 256)).save(tmp_path / "other.png")
    names = ("a.png", "again.jpg", "small.png", "other.png")
    return [take_in(tmp_path / name).id for name in names]


def test_a_scan_keeps_pairs_and_a_person_decides(services, ada, alike):
    first, again, small, _ = alike
    found = duplicates.scan(services)
    assert (found.images, found.pairs, found.marked, found.alerts) == (4, 3, 0, 0)
    assert duplicates.scan(services) == duplicates.Scanned(0, 0, 0, 0)
    (group,) = duplicates.review(services)
    assert (group.id, group.image_ids, group.undecided) == (first, (first, again, small), 3)
    mine = services.acting_as(Actor(user_id=ada.id))
    assert duplicates.decide(mine, "same", [(again, first)], note="the original") == 1
    decided = next(p for p in duplicates.pairs(services) if p.decision == "same")
    assert (decided.first_id, decided.second_id, decided.note) == (first, again, "the original")
    assert (decided.decided_by, decided.decided_by_email) == (ada.id, ada.email)
    event = audit.events(services, resource_type="duplicate_pair").events[0]
    assert (event.user_id, event.changes_before["decision"]) == (ada.id, "undecided")
    assert event.changes_after == {"decision": "same", "note": "the original"}
    assert not images.find(services, again).is_duplicate  # nothing is merged


def test_decisions_outlive_the_next_scan_and_part_groups(services, database, ada, alike):
    first, again, small, _ = alike
    duplicates.scan(services)
    pairs = [(p.first_id, p.second_id) for p in duplicates.pairs(services)]
    duplicates.decide(services, "different", [p for p in pairs if small in p], user_id=ada.id)
    with services.transaction() as connection:
        connection.execute("update images set perceptual_hash = perceptual_hash # 1")
    assert duplicates.scan(services).images == 4
    (group,) = duplicates.review(services)
    assert group.image_ids == (first, again)
    duplicates.decide(services, "same", [(first, again)], user_id=ada.id)
    assert duplicates.review(services) == []
    assert len(duplicates.review(services, everything=True)) == 1
    duplicates.decide(services, "undecided", [(first, again)], user_id=ada.id)
    taken_back = duplicates.pairs(services, decision="undecided")
    assert [(p.decided_by, p.decided_at) for p in taken_back] == [(None, None)]


def test_decisions_that_are_refused(services, ada, alike):
    duplicates.scan(services)
    with pytest.raises(InvalidInputError, match="no decision"):
        duplicates.decide(services, "perhaps", [(alike[0], alike[1])], user_id=ada.id)
    with pytest.raises(InvalidInputError, match="nobody"):
        duplicates.decide(services, "same", [(alike[0], alike[1])])
    with pytest.raises(NotFoundError, match="none that were found"):
        duplicates.decide(services, "same", [(alike[0], alike[3])], user_id=ada.id)
    with pytest.raises(NotFoundError):
        duplicates.decide(services, "same", [], user_id=ada.id)
    assert {p.decision for p in duplicates.pairs(services)} == {"undecided"}


def test_the_same_pixels_under_another_owner_are_an_alert_once(services, ada, take_in, tmp_path):
    bob = users.add(services, "bob@example.org", "correct horse", cost=4)
    first = take_in(disk.png(tmp_path / "a.png"))
    disk.sky().save(tmp_path / "a.tif")
    assert duplicates.scan(services).alerts == 0
    second = take_in(tmp_path / "a.tif", bob.id)
    assert duplicates.scan(services).alerts == 1
    (event,) = audit.events(services, resource_type="shared_pixels").events
    assert event.resource_id == str(second.id)
    assert event.changes_after["images"] == [first.id]
    assert event.changes_after["owners"] == [ada.id]
    assert duplicates.scan(services).alerts == 0
    assert duplicates.pairs(services) == []  # nobody learns what others have
    assert duplicates.near(services) == []


def test_an_image_of_another_owner_leaves_its_pairs(services, alike):
    duplicates.scan(services)
    bob = users.add(services, "bob@example.org", "correct horse", cost=4)
    with services.transaction() as connection:
        connection.execute("update images set user_id = %s where id = %s", [bob.id, alike[0]])
    duplicates.scan(services)
    assert [(p.first_id, p.second_id) for p in duplicates.pairs(services)] == [(alike[1], alike[2])]


def test_a_crowd_of_equal_hashes_makes_no_square_of_pairs(database, services):
    with db.connect(database.superuser) as connection:
        fill(connection, [7] * 300)
    assert duplicates.scan(services).images == 300
    assert len(duplicates.pairs(services)) <= 20 * 300
    (group,) = duplicates.review(services)
    assert len(group.image_ids) == 300


def test_an_image_that_somebody_removes_is_left_to_the_next_scan(services, database, alike):
    with db.connect(database.owner) as other:
        other.execute("select from images where id = %s for update", [alike[0]])
        assert duplicates.scan_new(services).images == 3
        assert len(duplicates.pairs(services)) == 1
    assert duplicates.scan_new(services).images == 1
    assert len(duplicates.pairs(services)) == 3


@pytest.mark.parametrize("given", ["0", "10001", "null", "1, 33", "1, 8, 0"])
def test_scans_that_mean_nothing_are_refused(services, given):
    with pytest.raises(InvalidInputError):
        services.ask(f"select scan_duplicates({given})")


def test_the_page_shows_groups_and_pictures(services, storage, ada, alike, take_in, tmp_path):
    take_in(disk.png(tmp_path / "<b>twice.png", seed=9))
    take_in(tmp_path / "<b>twice.png")
    duplicates.scan(services)
    duplicates.decide(services, "same", [(alike[0], alike[1])], user_id=ada.id, note="<i>")
    storage.remove(images.find(services, alike[2]).file_path)
    page = duplicates.write(services, storage, tmp_path / "out/page.html", user_id=ada.id)
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == 3
    assert html.count("no picture</div>") == 1
    assert f'id="group-{alike[0]}"' in html
    assert "&lt;b&gt;twice.png is there 1 more time" in html
    assert "<i>" not in html
    assert "ada@example.org" in html
    event = audit.events(services, action="export_data").events[0]
    assert (event.resource_type, event.resource_id) == ("user", str(ada.id))
    with pytest.raises(FileError):
        duplicates.write(services, storage, tmp_path, user_id=ada.id)


def test_the_commands_scan_review_and_report(cli, database, alike, tmp_path, storage):
    env = database.environment | {"NEGSPACE_STORAGE": str(storage.folder)}
    assert cli("duplicates", "scan", "--json", env=env).json["pairs"] == 3
    (group,) = cli("duplicates", "review", "--json", env=env).json
    assert group["image_ids"] == alike[:3]
    assert "again.jpg" in cli("duplicates", "review", env=env).out
    nobody = cli("duplicates", "review", str(alike[0]), "--decide", "same", env=env)
    assert (nobody.status, "who acts" in nobody.err) == (2, True)
    env["NEGSPACE_USER"] = "ada@example.org"
    assert cli("duplicates", "review", "--decide", "same", env=env).status == 2
    assert cli("duplicates", "review", "999", env=env).status == 1
    pair = ["--pair", str(alike[0]), str(alike[2])]
    one = cli("duplicates", "review", "--decide", "different", *pair, "--json", env=env).json
    assert one == {"pairs": 1, "decision": "different"}
    rest = cli("duplicates", "review", str(alike[1]), "--decide", "same", "--json", env=env).json
    assert rest == {"pairs": 2, "decision": "same"}
    assert "nothing to review" in cli("duplicates", "review", env=env).out
    page = tmp_path / "page.html"
    assert "is written" in cli("duplicates", "report", "--html", str(page), env=env).out
    assert "They look alike" in page.read_text()
