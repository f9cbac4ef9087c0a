"""The log of somebody else's server, followed: restores to any moment, without its help."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import PATIENCE, until
from conftest import clean_environment
from negspace import backup, server, settings
from negspace.backup import following
from negspace.errors import RefusedError
from plant import Plant, planted, with_programs
from test_backup_moments import noted, rows
from test_deploy import command


@pytest.fixture(scope="module", autouse=True)
def programs_on_path():
    with with_programs():
        yield


@pytest.fixture
def plant(home: Path):
    (home / "plant").mkdir(mode=0o711)
    with planted(home / "plant", images=1) as made:
        made.ask("create table acknowledged (n int primary key)")
        yield made


@contextmanager
def followed(plant: Plant, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The unit's command, at work; ended as systemd does."""
    *words, place = command("negspace-archive.service")
    assert place == "/var/lib/negspace/backups"
    process = subprocess.Popen(
        [*words, str(folder), "--json"],
        env=clean_environment(plant.home) | plant.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: plant.ask(SENT) or process.poll() is not None, "it follows")
        yield process
        process.send_signal(signal.SIGTERM)
        out, said = process.communicate(timeout=PATIENCE)
        assert (process.returncode, str(folder / "archive") in out) == (0, True), said
    finally:
        process.kill()
        process.communicate()


SENT = f"select count(*) from pg_stat_replication where application_name = '{following.SLOT}'"
ARRIVED = (
    "select flush_lsn >= pg_current_wal_flush_lsn() from pg_stat_replication"
    f" where application_name = '{following.SLOT}'"
)


def test_a_followed_log_has_all_that_was_written_before_the_end(plant, home):
    folder, remote = home / "backups", settings.load(plant.environment)
    with followed(plant, folder):
        taken = backup.create(remote, folder)
        assert taken.origin.embedded is False
        moment = noted(plant, 1)
        noted(plant, 2)
        until(lambda: plant.ask(ARRIVED), "it has the last row")
        process = server.status(plant.settings).process
        assert process
        os.kill(process, signal.SIGKILL)
    # Nothing of the dead server is needed, nor a full file of the log.
    assert [path.suffix for path in sorted((folder / "archive").iterdir())][-1] == ".partial"
    assert rows(backup.restore(remote, folder, home / "early", to=moment)) == {1}
    assert rows(backup.restore(remote, folder, home / "latest", to="latest")) == {1, 2}


def test_a_log_that_was_left_is_followed_again_from_there(plant, home):
    folder, remote = home / "backups", settings.load(plant.environment)
    with (
        followed(plant, folder),
        pytest.raises(RefusedError, match="followed already"),
        backup.follow_log(remote, folder),
    ):
        pass
    taken = backup.create(remote, folder)
    noted(plant, 1)
    plant.ask("select pg_switch_wal()")
    noted(plant, 2)
    with followed(plant, folder):
        until(lambda: plant.ask(ARRIVED), "it has what it missed")
    assert rows(backup.restore(remote, folder, home / "latest", to="latest")) == {1, 2}
    assert backup.backups(folder) == [taken]


def test_what_was_left_halfway_does_not_replace_more_of_the_same(plant, home):
    """Who followed was killed while the backup was taken, and has less of the log than that."""
    folder, remote = home / "backups", settings.load(plant.environment)
    taken = backup.create(remote, folder)
    content = (folder / taken.name / "wal" / taken.log.first_wal).read_bytes()
    (folder / "archive").mkdir()
    left = folder / "archive" / f"{taken.log.first_wal}.partial"
    left.write_bytes(content[:256].ljust(len(content), b"\0"))
    assert rows(backup.restore(remote, folder, home / "restored", to="latest")) == set()


def test_a_log_that_is_followed_no_more_is_not_kept(plant, home, cli):
    slots = "select count(*) from pg_replication_slots"
    with followed(plant, home / "backups"):
        ran = cli("backup", "archive", "--stop", env=plant.environment)
        assert (ran.status, "followed already" in ran.err) == (4, True)
    assert plant.ask(slots) == 1
    for _ in range(2):
        assert cli("backup", "archive", "--stop", env=plant.environment).status == 0
    assert plant.ask(slots) == 0


def test_a_role_that_may_not_replicate_is_told(plant, home):
    address = server.status(plant.settings).url("owner")
    remote = settings.load({"DATABASE_URL": address})
    with (
        pytest.raises(RefusedError, match="negspace_owner may not replicate"),
        backup.follow_log(remote, home / "backups"),
    ):
        pass
