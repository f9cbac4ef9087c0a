"""The units and the container file of deploy/ say what can be done."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import servers
from bench import until
from conftest import clean_environment
from negspace import settings
from negspace.database import connect, conninfo, rows
from test_migrate_docs import examples

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
INSTALLED = "/opt/negspace/bin/negspace"
PROGRAM = str(Path(sys.executable).parent / "negspace")
UNITS = sorted(path.name for path in DEPLOY.glob("negspace-*"))


def unit(name: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None, strict=False)
    found.optionxform = str  # type: ignore[assignment]
    found.read(DEPLOY / name)
    return found


def command(name: str) -> list[str]:
    """The ExecStart line, by the program of this checkout."""
    words = shlex.split(unit(name)["Service"]["ExecStart"])
    assert words[0] == INSTALLED
    return [PROGRAM, *words[1:]]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    for name in UNITS:
        text = (DEPLOY / name).read_text().replace(INSTALLED, PROGRAM)
        (tmp_path / name).write_text(text)
    for name in UNITS:
        instance = name.replace("@.", "@1.")
        if instance != name:
            (tmp_path / instance).symlink_to(name)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", instance],
            cwd=tmp_path,
            env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        said = [line for line in done.stderr.splitlines() if "negspace" in line]
        assert (done.returncode, said) == (0, []), done.stderr


def test_the_worker_unit_starts_a_worker_and_stops_it(database, home):
    process = subprocess.Popen(
        command("negspace-worker@.service"),
        env=clean_environment(home) | database.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    count = "select count(*) as n from workers where sleeping_since is not null"
    with connect(database.superuser) as connection:
        until(lambda: rows(connection, count)[0]["n"], "it has begun")
    number = getattr(
        signal, unit("negspace-worker@.service")["Service"].get("KillSignal", "SIGTERM")
    )
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert '"logger": "negspace.worker"' in said  # --log-json: for the journal's filters


def test_a_start_that_cannot_help_is_not_repeated(home, cli):
    """The exit statuses that the unit excepts are those of a wrong setting and another schema."""
    excepted = unit("negspace-worker@.service")["Service"]["RestartPreventExitStatus"].split()
    assert excepted == ["2", "4"]
    assert cli("worker", "run", env={"DB_PORT": "no"}).status == 2
    gone = cli("worker", "run", env={"DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c"})
    assert str(gone.status) not in excepted  # no database yet: tried again


def test_the_maintenance_unit_does_its_work(database, home):
    done = subprocess.run(
        command("negspace-maintain.service"),
        env=clean_environment(home) | database.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_timer_starts_the_service_of_its_name():
    assert "Unit" not in unit("negspace-maintain.timer")["Timer"]
    assert "OnCalendar" in unit("negspace-maintain.timer")["Timer"]
    assert (DEPLOY / "negspace-maintain.service").exists()


def test_the_page_makes_a_database_on_a_server_of_ones_own(home):
    found = servers.start(home)
    with connect(found.url("superuser", name="postgres"), autocommit=True) as superuser:
        superuser.execute("drop database negative_space")
        superuser.execute("drop role app_user, operator_role, negspace_owner")
        making, before_15 = examples("sql", ROOT / "docs/deploy.md")
        for statement in making.splitlines():
            superuser.execute(statement.encode())
    if int(str(found.version).split(".")[0]) < 15:
        with connect(found.url("superuser")) as superuser:
            superuser.execute(before_15.encode())
    [script] = examples("sh", ROOT / "docs/deploy.md")
    done = subprocess.run(
        ["bash", "-e", "-c", script.replace("@db1/", f"@127.0.0.1:{found.port}/")],
        env=clean_environment(home / "none")
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "33 checks: all is well" in done.stdout


@pytest.mark.parametrize("name", ["environment.example", "archive.environment.example"])
def test_the_example_environments_are_read(name):
    text = (DEPLOY / name).read_text()
    given = dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))
    found = settings.load(given)
    address = conninfo(found, owner=True)
    assert not found.embedded
    assert "target_session_attrs='read-write'" in address or "read-write" in address
    assert "verify-full" in address


def test_the_container_file_copies_and_runs_what_there_is():
    text = (DEPLOY / "Containerfile").read_text()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
    steps = re.findall(r"^RUN (.+)$", text, re.MULTILINE)
    assert len(steps) == 4
    for step in steps:
        subprocess.run(["sh", "-n", "-c", step], check=True)
    arguments = re.findall(r"^(?:ENTRYPOINT|CMD) \[(.+)\]$", text, re.MULTILINE)
    words = [word.strip().strip('"') for line in arguments for word in line.split(",")]
    assert words == ["negspace", "--log-json", "worker", "run"]
