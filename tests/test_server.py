"""The embedded server, for real: what is made, many at once, crashes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import at, clean_environment, programs
from negspace import database, server
from negspace.errors import AccessError, ServerError, UnavailableError
from negspace.server import account, layout
from servers import ask, log_of, mode, passwords, start


def together(home: Path, *commands: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """Run the commands at the same time."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "negspace", *command],
            env=clean_environment(home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    done = [(process, *process.communicate()) for process in started]
    return [subprocess.CompletedProcess(p.args, p.returncode, out, err) for p, out, err in done]


# ── what is made ─────────────────────────────────────────────────────────────────────────


def test_first_start_makes_roles_and_database_and_later_ones_keep_them(home):
    said: list[str] = []
    made = server.ensure(at(home), progress=said.append, binaries=programs())
    assert made.running
    assert [line.split()[0] for line in said] == ["making", "starting"]
    with database.connect(made.url("superuser")) as connection:
        found = database.rows(
            connection,
            "select rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,"
            " rolcanlogin from pg_roles where rolname !~ '^pg_'",
        )
    roles = {row.pop("rolname"): row for row in found}
    nothing = dict.fromkeys(roles["app_user"], False) | {"rolcanlogin": True}
    assert set(roles) == {"postgres", "negspace_owner", "app_user"}
    assert roles["app_user"] == nothing
    assert roles["negspace_owner"] == nothing | {"rolcreaterole": True}
    assert ask(made.url("app"), "select current_user::text || '@' || current_database()") == (
        "app_user@negative_space"
    )
    before = passwords(home)
    server.stop(at(home))
    assert start(home).port == made.port
    assert passwords(home) == before


def test_owner_may_create_in_public_and_app_user_may_not(home):
    made = start(home)
    ask(made.url("owner"), "create table t as select 1 as a")
    with (
        database.connect(made.url("app")) as app,
        pytest.raises(AccessError),
        database.translated(),
    ):
        app.execute("create table u (a int)")


def test_texts_sort_by_code_point_and_pages_have_checksums(home):
    made = start(home)
    ordered = "select string_agg(x, '' order by x) from unnest(array['a','B','é','Z','_']) as x"
    assert ask(made.url(), ordered) == "BZ_aé"
    assert ask(made.url(), "select lower('É')") == "é"
    assert ask(made.url(), "show server_encoding") == "UTF8"
    assert ask(made.url(), "show data_checksums") == "on"
    assert ask(made.url(), "show timezone") == "UTC"


def test_a_server_is_durable_unless_told_otherwise(home):
    made = start(home)
    for name in ("fsync", "synchronous_commit", "full_page_writes"):
        assert ask(made.url(), f"show {name}") == "on"


def test_nobody_gets_in_without_a_password(home):
    made = start(home)
    rules = (home / "server/data/pg_hba.conf").read_text().splitlines()
    methods = {line.split()[-1] for line in rules if line.strip() and not line.startswith("#")}
    assert methods == {"scram-sha-256"}
    for address in (made.url(), made.socket_address()):
        secret = passwords(home)["app_user"]
        with pytest.raises(UnavailableError, match="password"):
            database.connect(address.replace(secret, "wrong"))


def test_only_its_owner_can_read_what_it_keeps(home):
    made = start(home)
    assert mode(home / "state.json") == 0o600
    assert mode(home / "server.log") == 0o600
    assert mode(home / "server") == 0o700
    assert mode(home / "server/data") == 0o700
    assert mode(server.storage_folder(at(home))) == 0o700
    assert ask(made.url("superuser"), "show listen_addresses") == "127.0.0.1"


def test_passwords_stand_in_the_state_file_alone(home, monkeypatch):
    monkeypatch.setenv("KEPT_FROM_IT", "a secret of the caller")
    made = start(home, log_statement="all", log_connections="on")
    assert ask(made.url("owner"), "select 1") == 1
    seen = [subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout]
    seen.append(Path(f"/proc/{made.process}/environ").read_bytes())
    assert b"KEPT_FROM_IT" not in seen[-1]
    server.stop(at(home))
    files = [file for file in home.rglob("*") if file.is_file()]
    seen += [file.read_bytes() for file in files if file.name != "state.json"]
    everywhere = b"".join(seen)
    assert b"starting PostgreSQL" in everywhere
    for password in passwords(home).values():
        assert password.encode() not in everywhere


def test_shown_and_printed_a_server_keeps_its_passwords(home):
    made = start(home)
    for password in passwords(home).values():
        assert password not in repr(made)
        assert password not in repr(layout.read_state(layout.Layout(home)))


# ── many at once ─────────────────────────────────────────────────────────────────────────


def test_eight_processes_make_one_server(home):
    done = together(home, *[["server", "url"]] * 8)
    assert [(p.returncode, p.stdout) for p in done] == [(0, done[0].stdout)] * 8, done
    assert log_of(home).count("ready to accept connections") == 1
    assert not list((home / "server").glob("new-*"))


def test_eight_processes_start_one_server(home):
    start(home)
    server.stop(at(home))
    done = together(home, *[["server", "start", "--json"]] * 8)
    assert [p.returncode for p in done] == [0] * 8, done
    assert len({json.loads(p.stdout)["process"] for p in done}) == 1
    assert log_of(home).count("ready to accept connections") == 2


def test_starts_and_stops_at_once_leave_a_server_that_works(home):
    start(home)
    done = together(home, *[["server", "stop"], ["server", "start"]] * 4)
    for process in done:
        # A start whose server another one stops at that moment may say so, and nothing else.
        assert process.returncode == 0 or "ended while it started" in process.stderr, process
    assert ask(start(home).url(), "select 1") == 1


def test_a_stop_that_waits_for_clients_is_in_nobodys_way(home, cli):
    made = start(home)
    with database.connect(made.url()):
        waiting = subprocess.Popen(
            [sys.executable, "-m", "negspace", "server", "stop", "--mode", "smart"],
            env=clean_environment(home),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while "received smart shutdown request" not in log_of(home):
            assert waiting.poll() is None
        assert server.status(at(home)).status == "starting"
        assert cli("server", "stop").status == 0
    assert waiting.wait() == 0
    assert server.status(at(home)).status == "stopped"


# ── crashes ──────────────────────────────────────────────────────────────────────────────


def test_after_a_kill_the_next_start_recovers_what_was_committed(home):
    made = start(home)
    ask(made.url("owner"), "create table kept as select 42 as a")
    assert made.process is not None
    os.kill(made.process, signal.SIGKILL)
    assert server.status(at(home)).status == "stopped"
    again = start(home)
    assert again.process != made.process
    assert ask(again.url("owner"), "select a from kept") == 42


def test_a_recycled_process_id_is_not_taken_for_the_server(home):
    made = start(home)
    assert made.process is not None
    os.kill(made.process, signal.SIGKILL)
    runs_as = account.account_for(at(home), layout.Layout(home))
    other = subprocess.Popen(["sleep", "600"], **runs_as.popen())
    try:
        for file in (home / "server/data/postmaster.pid", *(home / "server").glob(".s.*.lock")):
            rest = file.read_text().partition("\n")[2]
            file.write_text(f"{other.pid}\n{rest}")
        assert server.status(at(home)).status == "stopped"
        assert server.stop(at(home)).status == "stopped"
        assert other.poll() is None  # not ours to end
        assert ask(start(home).url(), "select 1") == 1
    finally:
        other.kill()
        other.wait()


def test_a_start_waits_for_the_last_processes_of_a_crashed_server(home):
    made = start(home)
    assert made.process is not None
    with database.connect(made.url("app")) as connection:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        os.kill(made.process, signal.SIGKILL)
        said: list[str] = []

        def tell(line: str) -> None:
            said.append(line)
            if "last processes" in line:
                os.kill(backend, signal.SIGCONT)

        again = server.ensure(at(home), progress=tell, binaries=programs())
    assert any("last processes" in line for line in said)
    assert ask(again.url(), "select 1") == 1


def test_a_port_that_was_taken_meanwhile_gives_way_to_another(home):
    made = start(home)
    assert made.port is not None
    server.stop(at(home))
    with socket.create_server(("127.0.0.1", made.port)):
        moved = start(home)
        assert moved.port != made.port
        assert ask(moved.url(), "select 1") == 1
    assert server.status(at(home)).port == moved.port


def test_making_that_was_killed_halfway_begins_again(home):
    made = start(home)
    server.stop(at(home))
    data = home / "server/data"
    data.rename(home / "server/new-killed")  # as initdb leaves it: no data directory yet
    change_state(home, prepared=False)
    said: list[str] = []
    again = server.ensure(at(home), progress=said.append, binaries=programs())
    assert said[0].startswith("making")
    assert not (home / "server/new-killed").exists()
    assert again.url() != made.url()
    assert ask(again.url(), "select 1") == 1


def test_roles_that_were_not_all_made_are_made_at_the_next_start(home):
    made = start(home)
    ask(made.url("superuser", name="postgres"), "drop role app_user")
    change_state(home, prepared=False)
    assert ask(start(home).url("app"), "select 1") == 1
    assert json.loads((home / "state.json").read_text())["prepared"]


def change_state(home: Path, **values: object) -> None:
    state = json.loads((home / "state.json").read_text())
    (home / "state.json").write_text(json.dumps(state | values))


def test_data_that_went_away_is_not_made_anew(home):
    start(home)
    server.stop(at(home))
    (home / "server/data").rename(home / "server/elsewhere")
    before = (home / "state.json").read_text()
    with pytest.raises(ServerError, match="data is gone") as caught:
        start(home)
    assert "state.json" in str(caught.value.hint)
    assert (home / "state.json").read_text() == before
    (home / "server/elsewhere").rename(home / "server/data")
    assert start(home).running


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "its passwords are lost"), ("{", "is damaged"), ('{"port": 1}', "is damaged")],
)
def test_a_lost_or_damaged_state_file_is_a_clear_error(home, content, message):
    start(home)
    server.stop(at(home))
    state = (home / "state.json").read_text()
    (home / "state.json").unlink()
    if content is not None:
        (home / "state.json").write_text(content)
    with pytest.raises(ServerError, match=message):
        start(home)
    (home / "state.json").write_text(state)
    assert start(home).running


def test_a_server_that_cannot_start_says_why(home):
    start(home)
    server.stop(at(home))
    with pytest.raises(ServerError, match="max_connections") as caught:
        start(home, max_connections="-1")
    assert str(home / "server.log") in str(caught.value.hint)
