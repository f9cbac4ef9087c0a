"""``negspace server``, and finding a running server quickly."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from bench import until
from conftest import at, clean_environment, programs
from negspace import database, server
from negspace.errors import InvalidInputError, NotFoundError, UnavailableError
from negspace.server import access, binaries, logs
from servers import ask, log_of, passwords, start

# ── the quick way, and the commands ──────────────────────────────────────────────────────


def test_a_running_server_is_found_without_starting_any_process(home):
    start(home)
    code = (
        "import sys\n"
        "def refuse(event, arguments):\n"
        "    if event in ('subprocess.Popen', 'os.fork', 'os.exec', 'os.posix_spawn'):\n"
        "        raise SystemExit(event)\n"
        "sys.addaudithook(refuse)\n"
        "from negspace import database, server, settings\n"
        "with database.connect(server.address(settings.load())) as connection:\n"
        "    print(connection.execute('select 1 as one').fetchone()['one'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(home), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_status_from_absent_to_running_to_stopped(home, cli):
    assert json.loads(cli("server", "status", "--json").out)["status"] == "absent"
    assert cli("server", "stop").status == 0
    assert not (home / "state.json").exists()
    assert cli("server", "start").status == 0
    assert json.loads(cli("server", "status", "--json").out)["status"] == "running"
    assert cli("server", "stop").out.startswith("status   stopped")
    assert json.loads(cli("server", "status", "--json").out)["status"] == "stopped"


def test_url_is_all_that_psql_needs(home, cli):
    ran = cli("server", "url")
    assert ran.out.count("\n") == 1
    psql = (programs() or next(binaries.installed())).program("psql")
    done = subprocess.run(
        [psql, ran.out.strip(), "-Atc", "select current_user"],
        env=clean_environment(home),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "negspace_owner\n"
    assert "app_user:" in cli("server", "url", "--role", "app").out


def test_psql_hands_over_its_arguments_and_status(cli):
    assert cli("server", "psql", "--role", "app", "-Atc", "select current_user").out == "app_user\n"
    assert cli("server", "psql", "-v", "ON_ERROR_STOP=1", "-c", "select 1/0").status == 1


def test_logs_show_the_end_of_the_log(cli):
    ran = cli("server", "logs")
    assert (ran.status, "negspace server start" in ran.err) == (1, True)
    cli("server", "start")
    assert "ready to accept connections" in cli("server", "logs", "-n", "3").out
    assert len(cli("server", "logs", "-n", "2", "--json").json["lines"]) == 2


def test_logs_go_on_into_the_next_file(home, cli):
    made = start(home)
    command = [sys.executable, "-m", "negspace", "server", "logs", "--tail", "1", "--follow"]
    followed = home / "followed"
    with followed.open("w") as out:
        following = subprocess.Popen(command, env=clean_environment(home), stdout=out)
    try:
        until(followed.read_text, "the last line")
        ask(made.url("superuser"), "do $$ begin raise log 'before'; end $$")
        until(lambda: "before" in followed.read_text(), "what comes is shown")
        time.sleep(1.1)  # the next file's name has another second
        ask(made.url("superuser"), "select pg_rotate_logfile()")
        until(lambda: len(list((home / "server/log").iterdir())) == 2, "a new file")
        ask(made.url("superuser"), "do $$ begin raise log 'after'; end $$")
        until(lambda: "after" in followed.read_text(), "the next file is followed")
    finally:
        following.terminate()
        following.wait()
    assert cli("server", "logs", "--follow", "--json").status == 2


def test_old_logs_go(home, cli):
    made = start(home)
    folder = home / "server/log"
    for day in range(10, 30):
        (folder / f"server-202001{day}T000000.log").write_text(f"day {day}\n")
    assert cli("server", "url").status == 0  # any command that uses the server
    left = sorted(path.name for path in folder.iterdir())
    assert len(left) == logs.KEPT
    assert left[0] == "server-20200121T000000.log"
    assert ask(made.url("superuser"), "show log_rotation_age") == "1d"
    assert ask(made.url("superuser"), "show log_rotation_size") == "16MB"


def test_a_password_can_be_given_made_or_refused(home, cli):
    made = start(home, log_statement="all")
    assert cli("server", "password", given="s3cret/with@signs\n").status == 0
    assert ask(server.ensure(at(home)).url("app"), "select 1") == 1
    assert access.quote("s3cret/with@signs", safe="") in server.status(at(home)).url("app")
    with pytest.raises(UnavailableError):
        database.connect(made.url("app"))
    ran = cli("server", "password", "negspace_owner", "--generate")
    assert passwords(home)["negspace_owner"] == ran.out.strip()
    assert ask(server.status(at(home)).url("owner"), "select 1") == 1
    said = log_of(home)
    assert "SCRAM-SHA-256$" in said
    assert "s3cret" not in said
    assert ran.out.strip() not in said
    assert cli("server", "password", given="").status == 2
    missing = cli("server", "password", "nobody_there", "--generate", "--json")
    assert (missing.status, missing.error["code"]) == (1, "not_found")


def test_a_password_on_a_server_that_the_settings_name(home, cli):
    made = start(home)
    remote = {"DATABASE_URL": made.url("app"), "NEGSPACE_OWNER_URL": made.url("owner")}
    assert cli("server", "password", env=remote, given="another\n").status == 0
    changed = made.url("app").replace(passwords(home)["app_user"], "another")
    assert ask(changed, "select current_user") == "app_user"
    only_app = {"DATABASE_URL": changed}
    assert cli("server", "password", "postgres", env=only_app, given="x\n").status == 4


def test_set_password_refuses_what_no_password_is(home):
    with database.connect(start(home).url("owner")) as connection:
        for nothing in ("", "a\0b"):
            with pytest.raises(InvalidInputError):
                server.set_password(connection, "app_user", nothing)
        with pytest.raises(NotFoundError, match="no role 'x'"):
            server.set_password(connection, "x", "y")


def test_settings_that_name_a_server_leave_the_embedded_one_alone(home, empty_database):
    with database.connect(server.address(empty_database.settings)) as connection:
        row = database.only(connection, "select current_database() as name")
    assert row == {"name": empty_database.name}
    assert not list(home.iterdir())
