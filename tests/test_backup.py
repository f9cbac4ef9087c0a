"""Backups: taken, proven, damaged and found so, thinned out."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from conftest import _remove, at, programs
from negspace import backup, images, server, settings, upkeep
from negspace import database as db
from negspace.backup import manifest, moment
from negspace.errors import BackupError, InvalidInputError, NotFoundError, RefusedError
from plant import GUARDED, VIEWS, Plant, ask_at, planted, with_programs
from tampering import master

MAJOR = 18 if programs() is None else programs().major  # type: ignore[union-attr]
newer = pytest.mark.skipif(MAJOR < 17, reason="PostgreSQL takes incremental backups since 17")


@pytest.fixture(scope="module")
def plant(run: Path) -> Iterator[Plant]:
    home = Path(tempfile.mkdtemp(dir=run))
    home.chmod(0o711)
    with with_programs():
        with planted(home) as made:
            yield made
        _remove(home)


@pytest.fixture
def folder(home: Path) -> Path:
    """Where a test's backups go; the server's user can get there."""
    return home / "backups"


@pytest.fixture
def taken(plant: Plant, folder: Path) -> backup.Backup:
    return backup.create(plant.settings, folder)


def in_thread(
    work: Callable[[threading.Event], object],
) -> tuple[threading.Thread, threading.Event]:
    """Work that goes on until the event is set."""
    done = threading.Event()
    thread = threading.Thread(target=work, args=[done])
    thread.start()
    return thread, done


# ── what it holds ────────────────────────────────────────────────────────────────────────


def test_a_backup_is_proven_by_restoring_it(plant, folder, taken):
    assert (taken.kind, taken.parent, taken.exact, taken.why_dump) == ("full", None, True, None)
    assert taken.facts.tables["public.images"].rows == len(plant.images)
    assert taken.facts.seals == plant.ask("select max(number) from audit_seals")
    assert taken.files == len(plant.images)
    said: list[str] = []
    found = backup.verify(plant.settings, folder, progress=said.append)
    assert (found.problems, found.notes) == ((), ())
    assert (found.rows, found.seals, found.files) == (
        taken.facts.rows, taken.facts.seals, len(plant.images),
    )  # fmt: skip
    assert any("audit trail" in line for line in said)
    assert backup.last_verification(folder, taken) == found
    written = json.loads((folder / taken.name / "verification.json").read_text())
    assert written["name"] == taken.name
    assert not list(folder.glob(".scratch-*"))


@pytest.mark.skipif(MAJOR < 15, reason="PostgreSQL 14 reads views as their owner")
def test_a_dump_of_postgresql_14_shows_people_their_views_again(plant, folder, home):
    as_on_14 = [
        f"alter view {view} reset (security_invoker); revoke select on {view} from app_user;"
        f" grant select on {view} to operator_role"
        for view in VIEWS
    ]
    assert plant.ask(GUARDED) == VIEWS
    plant.ask("; ".join(as_on_14))
    try:
        assert plant.ask(GUARDED) is None
        backup.create(plant.settings, folder, form="dump")
        done = backup.restore(plant.settings, folder, home / "restored")
    finally:
        plant.ask("select guard_views()")
    restored = server.ensure(at(done.home), binaries=programs())
    assert ask_at(restored.url("superuser"), GUARDED) == VIEWS
    assert plant.ask(GUARDED) == VIEWS


def test_a_dump_is_proven_too(plant, folder):
    plant.ask("create role reporting")
    plant.ask("grant select on images to reporting")
    taken = backup.create(plant.settings, folder, form="dump")
    assert (taken.kind, taken.why_dump, taken.position) == ("dump", "it was asked for", None)
    found = backup.verify(plant.settings, folder)
    assert found.problems == ()
    assert found.files == len(plant.images)


@newer
def test_an_incremental_backup_builds_on_the_last(plant, folder, taken):
    plant.add_image()
    second = backup.create(plant.settings, folder, incremental=True)
    plant.add_image()
    third = backup.create(plant.settings, folder, incremental=True)
    assert (second.parent, third.parent) == (taken.name, second.name)
    found = backup.verify(plant.settings, folder)
    assert (found.name, found.problems) == (third.name, ())
    assert found.rows == third.facts.rows > taken.facts.rows
    size = {one.name: sum(p.stat().st_size for p in (folder / one.name / "database").rglob("*"))
            for one in (taken, third)}  # fmt: skip
    assert size[third.name] < size[taken.name] / 3


def test_an_incremental_backup_needs_one_to_build_on(plant, folder):
    with pytest.raises(RefusedError, match=r"to build on|takes no incremental"):
        backup.create(plant.settings, folder, incremental=True)
    with pytest.raises(RefusedError, match="a dump can't be incremental"):
        backup.create(plant.settings, folder, incremental=True, form="dump")


# ── one moment, while others write ───────────────────────────────────────────────────────


def test_rows_are_those_of_one_moment_whoever_writes(plant, folder):
    plant.ask("create table written (id int primary key, n int not null)")

    def write(done: threading.Event) -> None:
        with db.connect(plant.superuser) as connection:
            for n in range(10_000_000):
                connection.execute("insert into written values (%s, 0)", [n])
                connection.execute("update written set n = n + 1 where id > %s", [n - 5])
                connection.execute("delete from written where id = %s", [n - 50])
                connection.commit()
                if done.is_set():
                    return

    thread, done = in_thread(write)
    try:
        kinds = [backup.create(plant.settings, folder, form=form).kind for form in (None, "dump")]
    finally:
        done.set()
        thread.join()
        plant.ask("drop table written")
    assert kinds == ["full", "dump"]
    for one in backup.backups(folder):
        assert one.exact
        assert one.facts.tables["public.written"].rows > 0
        assert backup.verify(plant.settings, folder, name=one.name).problems == ()


def test_who_writes_for_long_is_not_waited_for(plant, folder):
    with db.connect(plant.superuser) as writer:
        writer.execute("update users set full_name = 'Ada L.'")
        taken = backup.create(plant.settings, folder, patience=0.3)
        writer.rollback()
    assert not taken.exact
    found = backup.verify(plant.settings, folder)
    assert found.problems == ()
    assert "rows were not compared" in found.notes[0]


def test_no_file_is_removed_while_a_backup_is_taken(plant):
    image = plant.add_image()
    with moment.files_held(plant.superuser):
        gone = images.delete(plant.services, plant.storage, image.id)
        assert not gone.file_removed
        assert plant.storage.path(image.file_path).exists()
        with (
            pytest.raises(RefusedError, match="another backup"),
            moment.files_held(plant.superuser),
        ):
            pass
    assert upkeep.tidy(plant.services, plant.storage, older_than=timedelta(0)) == [image.file_path]
    plant.images.remove(image)


# ── what is damaged ──────────────────────────────────────────────────────────────────────


def flip(path: Path, at_byte: int = -10) -> None:
    content = bytearray(path.read_bytes())
    content[at_byte] ^= 1
    path.write_bytes(content)


def test_everything_that_a_restore_has_otherwise_is_named(plant, folder, taken):
    where = folder / taken.name
    tables = dict(taken.facts.tables)
    tables["public.users"] = manifest.Table(7, tables["public.users"].digest)
    tables["public.images"] = replace(tables["public.images"], digest="1")
    tables["public.gone"] = manifest.Table(1, "1")
    wrong = replace(
        taken.facts,
        tables=tables,
        migrations=taken.facts.migrations[:-1],
        last_seal="0" * 64,
        fingerprint="0",
    )
    manifest.write_manifest(where, replace(taken, facts=wrong))
    first, second = plant.images[:2]
    flip(folder / "files" / first.file_path)
    (folder / "files" / second.file_path).unlink()
    found = backup.verify(plant.settings, folder)
    told = "\n".join(found.problems)
    assert not found.fine
    assert "public.users holds 1 rows, not 7" in told
    assert f"the {len(plant.images)} rows of public.images are not the same ones" in told
    assert "the table public.gone is missing" in told
    assert "migrations as applied" in told
    assert "the audit trail ends with seal" in told
    assert "fingerprint is another" in told
    assert f"the image file {first.file_path} is damaged" in told
    assert f"the image file {second.file_path} is missing" in told
    assert len(found.problems) == 8


def test_a_trail_that_somebody_rewrote_is_found(plant, folder):
    before = plant.ask("select user_agent from security_audit where id = 1")
    change(plant, "nobody")
    try:
        backup.create(plant.settings, folder)
        found = backup.verify(plant.settings, folder)
    finally:
        change(plant, str(before))
    assert any("security_audit 1 was changed" in problem for problem in found.problems)


def change(plant: Plant, user_agent: str) -> None:
    with master(plant.superuser) as connection:
        connection.execute("update security_audit set user_agent = %s where id = 1", [user_agent])


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("database/global/pg_control", "pg_verifybackup"),
        ("database/backup_manifest", "backup_manifest is damaged"),
        ("wal/*", "is damaged"),
        ("files.txt", "files.txt is damaged"),
    ],
)
def test_a_damaged_part_is_named(plant, folder, taken, what, said):
    flip(sorted((folder / taken.name).glob(what))[-1])
    found = backup.verify(plant.settings, folder)
    assert len(found.problems) == 1
    assert said in found.problems[0]
    if what.startswith("wal"):
        with pytest.raises(BackupError, match="is damaged"):
            backup.restore(plant.settings, folder, folder.parent / "restored")


def test_a_damaged_manifest_is_refused(plant, folder, taken):
    path = folder / taken.name / "manifest.json"
    path.write_text(path.read_text().replace('"files": ', '"files": 1'))
    with pytest.raises(BackupError, match="checksum is another"):
        backup.backups(folder)
    with pytest.raises(BackupError, match="checksum is another"):
        backup.verify(plant.settings, folder)
    with pytest.raises(RefusedError, match=r"to build on|takes no incremental"):  # not on that
        backup.create(plant.settings, folder, incremental=True)
    second = backup.create(plant.settings, folder)  # nor is it in the next one's way
    assert backup.verify(plant.settings, folder).name == second.name


def test_a_damaged_stored_file_is_told_and_the_rest_is_taken(plant, folder, cli):
    image = plant.add_image()
    flip(plant.storage.path(image.file_path))
    ran = cli("backup", "create", str(folder), "--json", env={"NEGSPACE_HOME": str(plant.home)})
    assert ran.status == 3
    assert image.file_path in ran.err
    (taken,) = backup.backups(folder)
    assert taken.damaged == (image.file_path,)
    flip(plant.storage.path(image.file_path))
    assert backup.copy_files(plant.settings, folder).copied == 1


# ── the folder ───────────────────────────────────────────────────────────────────────────


def test_what_a_killed_one_left_is_swept_away(plant, folder, taken):
    (folder / ".taking-20200101T000000Z").mkdir()
    (folder / ".scratch-x").mkdir()
    backup.copy_files(plant.settings, folder)
    assert [one.name for one in backup.backups(folder)] == [taken.name]
    assert not list(folder.glob(".taking-*"))
    assert not list(folder.glob(".scratch-*"))


def test_a_folder_of_something_else_is_refused(plant, folder):
    folder.mkdir()
    (folder / "letters.txt").touch()
    with pytest.raises(RefusedError, match=r"holds letters\.txt"):
        backup.create(plant.settings, folder)
    with pytest.raises(NotFoundError):
        backup.backups(folder / "nowhere")
    with pytest.raises(NotFoundError):
        backup.verify(plant.settings, folder)


def test_each_server_has_its_own_folder(plant, folder, taken):
    path = folder / taken.name
    other = replace(taken, origin=replace(taken.origin, system="1"))
    manifest.write_manifest(path, other)
    with pytest.raises(RefusedError, match="another server"):
        backup.create(plant.settings, folder)


def test_prune_keeps_the_last_that_is_proven(plant, folder, taken):
    image = plant.add_image()
    second = backup.create(plant.settings, folder)
    images.delete(plant.services, plant.storage, image.id)
    plant.images.remove(image)
    assert backup.verify(plant.settings, folder, name=taken.name).fine
    third = backup.create(plant.settings, folder)
    with pytest.raises(InvalidInputError):
        backup.prune(folder)
    assert backup.prune(folder, older_than=timedelta(days=1)).removed == ()
    shown = backup.prune(folder, keep=1, dry_run=True)
    assert len(backup.backups(folder)) == 3
    done = backup.prune(folder, keep=1)
    assert done == shown
    assert (done.removed, done.kept) == ((second.name,), (taken.name, third.name))
    # The deleted image was in the second alone, but newer than the first: the log may need it.
    assert (folder / "files" / image.file_path).exists()
    assert backup.verify(plant.settings, folder, name=third.name).fine
    assert backup.prune(folder, keep=1).removed == (taken.name,)
    assert not (folder / "files" / image.file_path).exists()
    assert all((folder / "files" / kept.file_path).exists() for kept in plant.images)


@newer
def test_prune_keeps_what_others_build_on(plant, folder, taken):
    second = backup.create(plant.settings, folder, incremental=True)
    assert backup.prune(folder, keep=1).kept == (taken.name, second.name)


# ── servers of others ────────────────────────────────────────────────────────────────────


def test_a_server_that_lets_nobody_replicate_is_dumped(database, folder, tmp_path):
    given = settings.load(database.environment | {"NEGSPACE_STORAGE": str(tmp_path)})
    with with_programs():
        taken = backup.create(given, folder)
        assert (taken.kind, taken.origin.database) == ("dump", database.name)
        assert taken.why_dump == "the role negspace_owner may not replicate"
        with pytest.raises(RefusedError, match="may not replicate"):
            backup.create(given, folder, form="physical")
        done = backup.restore(given, folder, folder.parent / "restored")
    found = server.ensure(at(done.home))
    assert ask_at(found.url("operator"), "select count(*) from images") == 0


def test_another_server_is_copied_where_the_role_may(plant, folder):
    given = settings.load(plant.environment)
    taken = backup.create(given, folder)
    assert (taken.kind, taken.origin.embedded) == ("full", False)
    assert backup.verify(given, folder).problems == ()
