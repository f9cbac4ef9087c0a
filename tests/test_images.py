"""Images through the whole of it: real files, storage, rows, audit trail."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import LiteralString

import pytest

import images_on_disk as disk
from bench import until
from conftest import clean_environment
from negspace import audit, images, intake, upkeep, users
from negspace import database as db
from negspace.errors import (
    AlreadyExistsError,
    FileError,
    ImageError,
    InvalidInputError,
    NotFoundError,
)
from negspace.storage import Storage
from schema_waiting import DEADLINE, Other

PIXELS = 10_000_000


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path / "storage")


@pytest.fixture
def ada(services):
    return users.add(services, "ada@example.org", "correct horse", role="analyst", cost=4)


@pytest.fixture
def take_in(services, storage, ada):
    def call(path: Path, user_id: int = ada.id) -> images.Image:
        return intake.add(services, storage, path, user_id=user_id, max_pixels=PIXELS)

    return call


def test_a_file_becomes_a_row_and_stored_bytes(services, storage, ada, take_in, tmp_path):
    path = disk.png(tmp_path / "field.jpeg")  # the name lies, the bytes count
    image = take_in(path)
    content = path.read_bytes()
    assert image.file_hash == hashlib.sha256(content).hexdigest()
    assert (image.mime_type, image.original_filename) == ("image/png", "field.jpeg")
    assert image.file_name == f"{image.file_hash}.png"
    assert (image.file_size, image.user_id) == (len(content), ada.id)
    assert image.image_dimensions == {"width": 64, "height": 48, "channels": 1}
    assert (image.analysis_status, image.is_duplicate) == ("pending", False)
    with storage.open(image.file_path) as file:
        assert file.readall() == content
    assert images.find(services, image.id) == image
    assert images.list_images(services) == [image]


def test_the_event_of_an_image_says_who_from_where_and_what(services, storage, ada, tmp_path):
    acting = services.acting_as(db.Actor(ada.id, None, "192.0.2.7", "a browser", "request 5"))
    path = disk.png(tmp_path / "a.png")
    image = intake.add(acting, storage, path, user_id=ada.id, max_pixels=PIXELS)
    event = audit.events(services, action="create_image").events[0]
    assert (event.user_id, event.user_email) == (ada.id, ada.email)
    assert (event.resource_type, event.resource_id) == ("image", str(image.id))
    assert (event.ip_address, event.user_agent) == ("192.0.2.7", "a browser")
    assert (event.request_id, event.status) == ("request 5", "success")
    assert event.changes_before is None
    assert event.changes_after == {
        "original_filename": "a.png",
        "file_hash": image.file_hash,
        "file_size": image.file_size,
        "mime_type": "image/png",
    }


def test_the_same_file_again_is_a_duplicate_and_stored_once(services, storage, take_in, tmp_path):
    path = disk.png(tmp_path / "a.png")
    first, second = take_in(path), take_in(path)
    assert (second.is_duplicate, second.duplicate_of) == (True, first.id)
    assert second.file_path == first.file_path
    assert list(storage.files()) == [first.file_path]
    bob = users.add(services, "bob@example.org", "correct horse", cost=4)
    assert not take_in(path, bob.id).is_duplicate  # what others have is nobody's business
    assert images.list_images(services, duplicates=True) == [second]


BROKEN = {
    "text.png": (disk.text_called_png, ImageError, "looks like text"),
    "cut.jpg": (disk.truncated_jpeg, ImageError, "can't be decoded"),
    "bomb.png": (disk.bomb, ImageError, "60,000 × 60,000"),
    "empty.png": (disk.empty, FileError, "is empty"),
    "pages.tif": (disk.two_pages, ImageError, "holds 2 images"),
    "missing.png": (lambda _: None, FileError, "is not there"),
    "folder.png": (Path.mkdir, FileError, "is a folder"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_image_is_refused_at_the_door(services, storage, take_in, tmp_path, name):
    make, kind, word = BROKEN[name]
    path = tmp_path / name
    make(path)
    with pytest.raises(kind, match=word) as caught:
        take_in(path)
    assert str(path) in caught.value.message
    assert "incoming" not in caught.value.message
    assert caught.value.hint
    assert images.list_images(services) == []
    assert [p for p in storage.folder.rglob("*") if p.is_file()] == []
    event = audit.events(services).events[0]
    assert (event.action, event.status) == ("create_image", "failure")
    assert event.error_message == caught.value.message
    assert event.changes_after == {"original_filename": name}


def test_what_is_no_image_is_not_even_copied(storage, take_in, tmp_path):
    with pytest.raises(ImageError, match="looks like text"):
        take_in(disk.text_called_png(tmp_path / "text.png"))
    assert not storage.folder.exists()


def test_broken_files_never_stop_the_others(services, storage, ada, tmp_path):
    for name, (make, _, _) in BROKEN.items():
        make(tmp_path / name)
        disk.png(tmp_path / f"{name}.good.png", seed=len(name))
    disk.png(tmp_path / ".hidden.png")
    (tmp_path / "below").mkdir()
    disk.png(tmp_path / "below" / "deep.png", seed=99)
    outcomes = list(
        intake.add_all(
            services,
            storage,
            intake.files_in([tmp_path, tmp_path / "missing.png"]),
            user_id=ada.id,
            max_pixels=PIXELS,
        )
    )
    failed = {o.path.name for o in outcomes if o.status == "failed"}
    assert failed == set(BROKEN) - {"folder.png"}
    good = [o for o in outcomes if o.image]
    assert {o.path.name for o in good} == {f"{n}.good.png" for n in BROKEN} | {"deep.png"}
    assert len(images.list_images(services)) == len(good)


def test_a_file_that_changes_while_it_is_read_is_refused(services, storage, ada, tmp_path):
    path = disk.png(tmp_path / "growing.png")

    def grow(_: int) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(FileError, match="changed while it was read"):
        intake.add(services, storage, path, user_id=ada.id, max_pixels=PIXELS, progress=grow)
    assert images.list_images(services) == []


def test_a_name_that_is_no_text_is_stored_as_one(take_in, tmp_path):
    raw = os.fsencode(tmp_path) + b"/\xff\x1b[31m.png"
    path = Path(os.fsdecode(raw))
    disk.png(path)
    assert take_in(path).original_filename == "\ufffd\ufffd[31m.png"


def test_no_image_for_nobody(services, storage, ada, take_in, tmp_path):
    path = disk.png(tmp_path / "a.png")
    users.set_active(services, ada.id, active=False)
    for who in (ada.id, 999):
        with pytest.raises(NotFoundError, match="no active user"):
            take_in(path, who)
    # the bytes may lie there; no row names them, and upkeep says so
    assert len(upkeep.check(services, storage).unnamed) == 1


def test_many_processes_take_in_the_same_file_at_once(database, services, ada, storage, tmp_path):
    path = disk.png(tmp_path / "a.png")
    program = (
        "import sys; from pathlib import Path\n"
        "from negspace import intake, server, settings; from negspace.storage import Storage\n"
        "with server.open_database(settings.load()) as database:\n"
        "    print('ready', flush=True); sys.stdin.readline()\n"
        "    for _ in range(5):\n"
        "        intake.add(database, Storage(Path(sys.argv[1])), Path(sys.argv[2]),\n"
        "                   user_id=int(sys.argv[3]), max_pixels=10**7)"
    )
    command = [sys.executable, "-c", program, str(storage.folder), str(path), str(ada.id)]
    environment = clean_environment(tmp_path) | database.environment
    running = [
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        process.communicate()
    assert [process.returncode for process in running] == [0] * 4
    found = images.list_images(services)
    originals = [image for image in found if not image.is_duplicate]
    assert (len(found), len(originals)) == (20, 1)
    assert {i.duplicate_of for i in found if i.is_duplicate} == {originals[0].id}
    assert list(storage.files()) == [originals[0].file_path]


def test_deleting_and_taking_in_at_once_never_loses_bytes(
    database, services, ada, storage, tmp_path
):
    path = disk.png(tmp_path / "a.png")
    program = (
        "import sys; from pathlib import Path\n"
        "from negspace import images, intake, server, settings\n"
        "from negspace.storage import Storage\n"
        "storage = Storage(Path(sys.argv[1]))\n"
        "with server.open_database(settings.load()) as database:\n"
        "    for _ in range(25):\n"
        "        image = intake.add(database, storage, Path(sys.argv[2]),\n"
        "                           user_id=int(sys.argv[3]), max_pixels=10**7)\n"
        "        with storage.open(image.file_path): pass\n"
        "        images.delete(database, storage, image.id)"
    )
    command = [sys.executable, "-c", program, str(storage.folder), str(path), str(ada.id)]
    environment = clean_environment(tmp_path) | database.environment
    running = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0] * 3, said
    assert images.list_images(services) == []
    assert list(storage.files()) == []


REGISTER: LiteralString = (
    "select id from register_image(%s, 'a.png', 'a', 'a', 1, 'image/png', sha256_hex('a'))"
)


def test_an_original_waits_for_the_duplicate_that_goes_just_when_it_would_follow(database, ada):
    with (
        db.connect(database.superuser, autocommit=True) as watcher,
        db.connect(database.superuser) as slow,
        db.connect(database.superuser) as holder,
        db.connect(database.superuser) as leaver,
        Other(database.superuser) as remover,
    ):
        original = only(watcher, REGISTER, [ada.id])
        first = only(slow, REGISTER, [ada.id])  # not committed yet, and the older one
        second = only(watcher, REGISTER, [ada.id])
        holder.execute("select from images where id = %s for update", [second])
        done = remover.start(lambda c: c.execute("select delete_image(%s)", [original]))
        assert remover.is_waiting(watcher, done)
        slow.commit()
        until(lambda: waits_for(watcher, remover.connection, holder), "it waits for the second")
        leaver.execute("select delete_image(%s)", [first])
        holder.rollback()
        until(lambda: waits_for(watcher, remover.connection, leaver), "it waits for the first")
        leaver.commit()
        done.result(DEADLINE)
        left = db.rows(watcher, "select id, is_duplicate from images")
        assert left == [{"id": second, "is_duplicate": False}]


def only(connection, query, values):
    row = db.only(connection, query, values)
    assert row is not None
    return row["id"]


def waits_for(watcher, waiting, other) -> bool:
    row = db.only(
        watcher,
        "select %s = any (pg_blocking_pids(%s)) as so",
        [other.info.backend_pid, waiting.info.backend_pid],
    )
    return bool(row and row["so"])


def test_an_image_that_is_deleted_leaves_its_place_to_a_duplicate(
    services, storage, take_in, tmp_path
):
    path = disk.png(tmp_path / "a.png")
    first, second, third = take_in(path), take_in(path), take_in(path)
    assert not images.delete(services, storage, first.id).file_removed
    assert not images.find(services, second.id).is_duplicate
    assert images.find(services, third.id).duplicate_of == second.id
    assert not images.delete(services, storage, third.id).file_removed
    assert images.delete(services, storage, second.id).file_removed
    assert list(storage.files()) == []
    with pytest.raises(NotFoundError):
        images.delete(services, storage, second.id)
    gone = audit.events(services, action="delete_image", status="success")
    assert len(gone.events) == 3


def test_an_image_whose_bytes_can_not_be_removed_is_deleted_all_the_same(
    services, storage, take_in, tmp_path
):
    image = take_in(disk.png(tmp_path / "a.png"))
    file = storage.path(image.file_path)
    content = file.read_bytes()
    file.unlink()
    file.mkdir()  # what even root can't unlink
    gone = images.delete(services, storage, image.id)
    assert not gone.file_removed
    assert "can't write to the image storage" in (gone.problem or "")
    file.rmdir()
    file.write_bytes(content)
    assert upkeep.check(services, storage).unnamed == (image.file_path,)


def test_an_archived_image_stays_and_comes_no_more_to_analysis(services, take_in, tmp_path):
    image = take_in(disk.png(tmp_path / "a.png"))
    with services.transaction() as connection:
        connection.execute(
            "select enqueue_jobs(array[%s]::bigint[], %s)", [image.id, image.user_id]
        )
    assert images.pipeline(services, image.id).job_status == "queued"
    assert images.archive(services, image.id).analysis_status == "archived"
    assert images.pipeline(services, image.id).job_status == "cancelled"
    with pytest.raises(NotFoundError):
        images.archive(services, 999)


def test_metadata_is_set_key_by_key_and_audited(services, take_in, tmp_path):
    image = take_in(disk.png(tmp_path / "a.png"))
    images.set_metadata(services, image.id, {"instrument": "HST", "filter": "F814W"})
    changed = images.set_metadata(services, image.id, {"filter": None, "exposure_s": 1200})
    assert changed.metadata == {"instrument": "HST", "exposure_s": 1200}
    event = audit.events(services, action="config_change").events[0]
    assert event.changes_before == {"metadata": {"filter": "F814W", "exposure_s": None}}
    assert event.changes_after == {"metadata": {"filter": None, "exposure_s": 1200}}
    with pytest.raises(NotFoundError):
        images.set_metadata(services, 999, {"a": 1})


def test_an_export_is_whole_audited_and_overwrites_nothing(services, storage, take_in, tmp_path):
    source = disk.png(tmp_path / "a.png")
    image = take_in(source)
    target = tmp_path / "out.png"
    assert images.export(services, storage, image.id, target, "review") == target
    assert target.read_bytes() == source.read_bytes()
    event = audit.events(services).events[0]
    assert (event.action, event.resource_id) == ("export_data", str(image.id))
    with pytest.raises(AlreadyExistsError):
        images.export(services, storage, image.id, target, "review")
    images.export(services, storage, image.id, target, "review", overwrite=True)
    folder = tmp_path / "out"
    folder.mkdir()
    assert images.export(services, storage, image.id, folder, "review").name == image.file_name
    with pytest.raises(FileError, match="can't write"):
        images.export(
            services, storage, image.id, tmp_path / "no" / "such" / "folder.png", "review"
        )
    with storage.path(image.file_path).open("r+b") as file:
        file.write(b"X")
    with pytest.raises(FileError, match="damaged"):
        images.export(services, storage, image.id, tmp_path / "damaged.png", "review")
    assert {p.name for p in tmp_path.iterdir() if "out" in p.name or "damaged" in p.name} == {
        "out.png",
        "out",
    }


def test_upkeep_finds_what_is_missing_damaged_and_left(services, storage, take_in, tmp_path):
    kept, missing, damaged = (take_in(disk.png(tmp_path / f"{n}.png", n)) for n in range(3))
    storage.path(missing.file_path).unlink()
    with storage.path(damaged.file_path).open("r+b") as file:
        file.write(b"X")
    left = storage.put(b"left by a crash", "png")
    half = storage.incoming / "half"
    half.write_bytes(b"half")
    os.utime(half, (0, 0))
    found = upkeep.check(services, storage, read=True)
    assert found == upkeep.Report(3, (missing.file_path,), (damaged.file_path,), (left,), ("half",))
    assert not found.fine
    assert upkeep.tidy(services, storage) == ["half"]  # what is young may get its row yet
    os.utime(storage.path(left), (0, 0))
    assert upkeep.tidy(services, storage) == [left]
    assert set(storage.files()) == {kept.file_path, damaged.file_path}


def test_bytes_that_are_a_result_s_overlay_too_are_kept(services, storage, take_in, tmp_path):
    image, other = (take_in(disk.png(tmp_path / f"{n}.png", n)) for n in range(2))
    with services.transaction() as connection:
        connection.execute(
            "insert into analysis_results (image_id, user_id, algorithm_version,"
            " negative_space_data, confidence_score, processing_time_ms, visualization_path)"
            " values (%s, %s, '1.0.0', '{}', 0.5, 1, %s)",
            [other.id, other.user_id, image.file_path],
        )
    assert not images.delete(services, storage, image.id).file_removed
    assert upkeep.check(services, storage).unnamed == ()


def test_an_unknown_status_is_refused_by_name(services):
    with pytest.raises(InvalidInputError, match="'done'"):
        images.list_images(services, status="done")


# ── the command line ─────────────────────────────────────────────────────────────────────


@pytest.fixture
def env(database, ada, storage):
    return database.environment | {
        "NEGSPACE_USER": ada.email,
        "NEGSPACE_STORAGE": str(storage.folder),
        "NEGSPACE_MAX_PIXELS": str(PIXELS),
    }


def test_the_commands_take_in_show_export_and_delete(cli, env, tmp_path):
    path = disk.png(tmp_path / "a.png")
    added = cli("images", "add", str(path), str(path), "--set", "exposure_s=5", "--json", env=env)
    assert added.status == 0, added.err
    assert [(o["status"], o["error"]) for o in added.json] == [
        ("taken in", None),
        ("duplicate", None),
    ]
    first, second = (o["image"]["id"] for o in added.json)
    shown = cli("images", "show", str(first), "--json", env=env).json
    assert shown["image"]["metadata"] == {"exposure_s": 5}
    assert shown["pipeline"]["job_status"] is None
    listed = cli("images", "list", "--duplicates", "--json", env=env).json
    assert [image["id"] for image in listed] == [second]
    assert (
        cli(
            "images", "export", str(first), str(tmp_path / "o.png"), "--purpose", "x", env=env
        ).status
        == 0
    )
    assert (tmp_path / "o.png").read_bytes() == path.read_bytes()
    refused = cli("images", "delete", str(first), env=env)
    assert refused.status == 4
    assert "--yes" in refused.err
    assert cli("images", "delete", str(first), "--dry-run", env=env).status == 0
    gone = cli("images", "delete", str(first), str(second), "--yes", "--json", env=env).json
    assert [g["file_removed"] for g in gone] == [False, True]
    assert cli("images", "list", "--json", env=env).json == []
    checked = cli("images", "check", "--read", "--json", env=env)
    assert (checked.status, checked.json["files"]) == (0, 0)


def test_a_batch_with_broken_files_says_which_and_exits_1(cli, env, tmp_path):
    folder = tmp_path / "batch"
    folder.mkdir()
    disk.png(folder / "good.png")
    disk.text_called_png(folder / "text.png")
    plain = cli("images", "add", str(folder), env=env)
    assert plain.status == 1
    assert "--recursive" in cli("images", "add", str(folder), "--json", env=env).out
    ran = cli("images", "add", "-r", str(folder), env=env)
    assert ran.status == 1
    assert "good.png" in ran.out
    assert "looks like text" in ran.out
    assert "jobs enqueue" in ran.err


def test_taking_in_needs_somebody_who_acts(cli, env, database, tmp_path):
    path = disk.png(tmp_path / "a.png")
    ran = cli("images", "add", str(path), "--json", env=database.environment)
    assert ran.status == 2
    assert "--as EMAIL" in ran.error["hint"]


def test_a_storage_that_can_not_be_used_is_a_word_not_a_traceback(cli, env, tmp_path):
    path = disk.png(tmp_path / "a.png")
    (tmp_path / "file").touch()
    ran = cli("images", "add", str(path), env=env | {"NEGSPACE_STORAGE": str(tmp_path / "file/x")})
    assert ran.status == 5
    assert "can't use" in ran.err
    assert "NEGSPACE_STORAGE" in ran.err


def test_json_of_a_failed_batch_names_code_and_hint(cli, env, tmp_path):
    ran = cli("images", "add", str(tmp_path / "missing.png"), "--json", env=env)
    assert ran.status == 1
    assert ran.json[0]["error"]["code"] == "file"
    assert json.loads(ran.out)[0]["image"] is None
