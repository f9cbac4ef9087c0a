"""Restores to a moment: exactly what was acknowledged by then, whatever became of the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bench import until
from conftest import at, clean_environment
from negspace import backup, server
from negspace import database as db
from negspace.errors import BackupError, NotFoundError, RefusedError
from plant import Plant, planted, with_programs

# Two writers of this kind acknowledge each row, once its commit came back, on their own pipes.
WRITER = textwrap.dedent("""
    import sys
    from negspace import database
    with database.connect(sys.argv[1], autocommit=True) as connection:
        for n in range(int(sys.argv[2]), 10**9, 2):
            connection.execute("insert into acknowledged (n) values (%s)", [n])
            print(n, flush=True)
""")


@pytest.fixture(scope="module", autouse=True)
def programs_on_path():
    with with_programs():
        yield


@pytest.fixture
def plant(home: Path):
    (home / "plant").mkdir(mode=0o711)
    with planted(home / "plant", images=1) as made:
        yield made


def kill(plant: Plant) -> None:
    process = server.status(plant.settings).process
    assert process is not None
    os.kill(process, signal.SIGKILL)


def writers(plant: Plant, home: Path) -> list[subprocess.Popen[str]]:
    return [writer(plant, home, start) for start in (0, 1)]


def writer(plant: Plant, home: Path, start: int) -> subprocess.Popen[str]:
    with (home / f"acknowledged-{start}").open("w") as told:
        return subprocess.Popen(
            [sys.executable, "-c", WRITER, plant.superuser, str(start)],
            env=clean_environment(home),
            stdout=told,
            stderr=subprocess.DEVNULL,
            text=True,
        )


def acknowledged(home: Path) -> set[int]:
    """What the writers were told; a last line may be torn by the kill."""
    texts = [path.read_text() for path in home.glob("acknowledged-*")]
    return {int(line) for text in texts for line in text.split("\n")[:-1]}


def rows(done: backup.Restored) -> set[int]:
    found = server.ensure(at(done.home))
    with db.connect(found.url("superuser")) as connection:
        return {row["n"] for row in db.rows(connection, "select n from acknowledged")}


def test_a_killed_server_is_restored_to_the_row(plant, home):
    folder = home / "backups"
    archived = backup.start_archiving(plant.settings, folder)
    assert archived.restarted
    assert archived.last is not None
    plant.ask("create table acknowledged (n int primary key)")
    backup.create(plant.settings, folder)
    running = writers(plant, home)
    until(lambda: len(acknowledged(home)) > 100, "a hundred rows")
    # A moment at which nobody's insert is on its way: all before it is acknowledged.
    for process in running:
        os.kill(process.pid, signal.SIGSTOP)
    idle = "select count(*) = 0 from pg_stat_activity where query ~ '^insert' and state = 'active'"
    until(lambda: plant.ask(idle), "nobody writes")
    before = set(plant_rows(plant))
    moment = plant.ask("select clock_timestamp()")
    plant.ask("select pg_switch_wal()")  # half of it in the archive, half in pg_wal alone
    image = plant.add_image()
    for process in running:
        os.kill(process.pid, signal.SIGCONT)
    until(lambda: len(acknowledged(home)) > len(before) + 100, "a hundred more")
    kill(plant)
    for process in running:
        process.wait()
    told = acknowledged(home)

    wal = plant.home / "server/data/pg_wal"
    earlier = backup.restore(plant.settings, folder, home / "earlier", to=moment, wal=wal)
    assert rows(earlier) == before
    assert earlier.missing == ()
    all_of_it = backup.restore(
        plant.settings, folder, home / "latest", to="latest", wal=wal, storage=plant.home / "images"
    )
    found = rows(all_of_it)
    assert told <= found  # every acknowledged row, and at most two that were on their way
    assert len(found - told) <= 2
    assert all_of_it.missing == ()
    assert (all_of_it.home / "images" / image.file_path).exists()


def plant_rows(plant: Plant) -> list[int]:
    with db.connect(plant.superuser) as connection:
        return [row["n"] for row in db.rows(connection, "select n from acknowledged")]


def test_a_restore_goes_where_nothing_is_and_to_times_that_were(plant, home):
    folder = home / "backups"
    backup.start_archiving(plant.settings, folder)
    taken = backup.create(plant.settings, folder)
    image = plant.add_image()
    plant.ask("select pg_switch_wal()")
    last = plant.ask("select pg_walfile_name(pg_current_wal_lsn() - 1)")
    archived = "select last_archived_wal from pg_stat_archiver"
    until(lambda: str(plant.ask(archived)) >= str(last)[:24] or None, "the log is archived")
    with pytest.raises(RefusedError, match="not empty"):
        backup.restore(plant.settings, folder, plant.home)
    with pytest.raises(NotFoundError, match="older than that"):
        backup.restore(plant.settings, folder, home / "r", to=taken.taken_at - timedelta(seconds=1))
    past = taken.taken_at - timedelta(seconds=1)
    with pytest.raises(RefusedError, match="after that"):
        backup.restore(plant.settings, folder, home / "r", name=taken.name, to=past)
    with pytest.raises(BackupError, match="log ends before that moment"):
        backup.restore(
            plant.settings, folder, home / "r", to=datetime.now(UTC) + timedelta(hours=1)
        )
    assert not (home / "r").exists() or not any((home / "r").iterdir())
    # The image came after the backup: its row is in the log, its file must be looked for.
    done = backup.restore(plant.settings, folder, home / "r", to="latest")
    assert done.missing == (image.file_path,)
    assert backup.copy_files(plant.settings, folder).copied == 1
    again = backup.restore(plant.settings, folder, home / "s", to="latest")
    assert (again.missing, again.files) == ((), 2)
    # It has passwords of its own, and archives nowhere.
    restored = server.ensure(at(again.home))
    assert restored.url("app").partition("@")[0] != server.status(plant.settings).url("app")
    with db.connect(restored.url("superuser")) as connection:
        row = db.only(connection, "select current_setting('archive_mode') as mode")
    assert row == {"mode": "off"}
    assert not (again.home / "server/door").exists()


def test_the_log_is_archived_whole_and_once(home):
    script = Path(backup.__file__).with_name("archive-wal.sh")
    archive = home / "archive"
    archive.mkdir()
    segment = home / "000000010000000000000001"
    segment.write_bytes(os.urandom(1000))

    def call() -> int:
        command = ["sh", str(script), str(segment), segment.name, str(archive)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    (archive / f".{segment.name}.part").write_text("a killed one's")
    assert call() == 0
    assert [path.name for path in archive.iterdir()] == [f"{segment.name}.gz"]
    assert call() == 0  # again, after a crash
    segment.write_bytes(os.urandom(1000))
    assert call() == 1  # another server's: never replaced


def test_archiving_that_does_not_work_is_told(plant, home):
    blocked = home / "backups"
    blocked.mkdir(mode=0o711)
    (blocked / "lock").touch()
    (blocked / "archive").write_text("a file in its place")
    with pytest.raises(BackupError):
        backup.start_archiving(plant.settings, blocked)
    assert backup.where_archived(plant.settings).folder is None


def test_archiving_is_shown_and_stopped(plant, home):
    started = backup.start_archiving(plant.settings, home / "it's 100% mine")
    assert backup.where_archived(plant.settings).folder == started.folder
    assert backup.start_archiving(plant.settings, home / "it's 100% mine").restarted is False
    assert backup.stop_archiving(plant.settings).folder is None
    assert backup.where_archived(plant.settings).folder is None


# ── thinned out ──────────────────────────────────────────────────────────────────────────


def archived(plant: Plant) -> None:
    """All of the log until now is in the archive."""
    last = plant.ask("select pg_walfile_name(pg_switch_wal())")
    newest = "select coalesce(last_archived_wal, '') from pg_stat_archiver"
    until(lambda: str(plant.ask(newest))[:24] >= str(last), "the log is archived")


def noted(plant: Plant, number: int) -> datetime:
    """A row, and a moment at which it and those before it are there."""
    plant.ask(f"insert into acknowledged (n) values ({number})")
    moment = plant.ask("select clock_timestamp()")
    assert isinstance(moment, datetime)
    return moment


def test_prune_leaves_the_log_that_a_moment_needs(plant, home):
    """Every moment since the oldest backup that stays, and none of the log before it."""
    folder = home / "backups"
    backup.start_archiving(plant.settings, folder)
    plant.ask("create table acknowledged (n int primary key)")
    first = backup.create(plant.settings, folder)
    noted(plant, 1)
    archived(plant)
    second = backup.create(plant.settings, folder)
    early = noted(plant, 2)
    archived(plant)
    third = backup.create(plant.settings, folder)
    late = noted(plant, 3)
    noted(plant, 4)
    archived(plant)
    before = {path.name for path in (folder / "archive").iterdir()}
    done = backup.prune(folder, keep=2)
    assert (done.removed, done.kept) == ((first.name,), (second.name, third.name))
    left = {path.name for path in (folder / "archive").iterdir()}
    assert done.log == len(before - left) > 0
    assert min(left)[:24] == second.log.first_wal
    for moment, expected in ((early, {1, 2}), (late, {1, 2, 3}), ("latest", {1, 2, 3, 4})):
        target = home / f"to-{len(expected)}"
        assert rows(backup.restore(plant.settings, folder, target, to=moment)) == expected
    begun = backup.restore(plant.settings, folder, home / "begun", name=second.name, to=late)
    assert (begun.backup, rows(begun)) == (second.name, {1, 2, 3})


def test_prune_leaves_what_the_first_moment_of_the_span_needs(plant, home):
    """The backup before the span stays where there is a log to go on with, and no older one."""
    folder = home / "backups"
    backup.start_archiving(plant.settings, folder)
    plant.ask("create table acknowledged (n int primary key)")
    old, older = (backup.create(plant.settings, folder) for _ in range(2))
    moment = noted(plant, 1)
    newest = backup.create(plant.settings, folder)
    archived(plant)
    span = datetime.now(UTC) - moment
    done = backup.prune(folder, older_than=span)
    assert (done.removed, done.kept) == ((old.name,), (older.name, newest.name))
    assert rows(backup.restore(plant.settings, folder, home / "restored", to=moment)) == {1}
