"""Faults of the server, its disk and the network, each under every kind of command.

A command ends with a message, a hint and the right exit status, nothing is half done, and the
same command works when the fault is over. docs/troubleshooting.md has the same symptoms.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from bench import PATIENCE, PLUGIN, Bench, png, until
from calling import Ran, called
from conftest import TestDatabase, at, clean_environment, migrate_up, programs
from negspace import database, server
from negspace.database import Actor, Database, PoolSize, again
from negspace.errors import NegspaceError, UnavailableError
from stalling import Way, by, way_to

WRITING = [
    "users add eve@example.org",
    "keys create ada@example.org --name laptop",
    "images add new.png",
    "jobs enqueue 1 --no-cache",
    "results export --purpose test",
    "results show 1 --purpose test",
    "metrics record depth 1",
    "metrics rollup",
    "cache purge --expired",
    "worker run --drain",
    "dev generate --images 10 --into-existing --yes",
]
READING = [
    "users list",
    "keys list",
    "images list",
    "images check",
    "jobs list",
    "jobs status",
    "results list",
    "audit list",
    "cache stats",
    "metrics export",
    "worker list",
]
# The runner has a patience with locks of its own, and reads the ledger as the owner.
MIGRATING = ["migrate status", "migrate history", "migrate up"]

COUNTED = """
    select (select count(*) from users) as users, (select count(*) from images) as images,
           (select count(*) from processing_queue) as jobs,
           (select count(*) from api_keys) as keys,
           (select count(*) from analysis_results) as results,
           (select count(*) from performance_metrics) as metrics,
           (select count(*) from workers) as workers,
           (select count(*) from security_audit) as events
"""

# The same, less what a worker does meanwhile.
KEPT = COUNTED.replace("from workers", "from users").replace("from security_audit", "from users")


@pytest.fixture
def platform(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    """With one image, and a file that isn't taken in yet; libpq doesn't wait for long."""
    bench.add_image()
    (tmp_path / "new.png").write_bytes(png(99))
    monkeypatch.chdir(tmp_path)
    return bench


def ran(bench: Bench, line: str) -> Ran:
    """Run a command in this process; a password it asks for is on its stdin."""
    arguments = line.split()
    acting = [] if arguments[0] == "users" else ["--as", "ada@example.org"]
    return bench.cli(*acting, *arguments, given="correct horse battery\n")


# ── faults that a database can be given ──────────────────────────────────────────────────


@contextmanager
def no_connection_left(bench: Bench) -> Iterator[None]:
    """As with max_connections, for this database alone; superusers get in."""
    with _altered(bench, "connection limit 0", "connection limit -1"):
        yield


@contextmanager
def read_only(bench: Bench) -> Iterator[None]:
    """What a standby says, too."""
    setting = "default_transaction_read_only"
    with _altered(bench, f"set {setting} = on", f"reset {setting}"):
        yield


@contextmanager
def out_of_time(bench: Bench) -> Iterator[None]:
    """Somebody holds every table, and statements may take 200 ms."""
    with (
        _altered(bench, "set statement_timeout = 200", "reset statement_timeout"),
        database.connect(bench.database.superuser) as holder,
    ):
        holder.execute("set statement_timeout = 0")
        for table in database.rows(
            holder, "select oid::regclass::text as name from pg_class"
            " where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace"
        ):  # fmt: skip
            holder.execute(f"lock table {table['name']} in access exclusive mode".encode())
        yield


@contextmanager
def _altered(bench: Bench, fault: str, mended: str) -> Iterator[None]:
    alter = f"alter database {bench.database.name} "
    bench.services.close()
    bench.owner.execute((alter + fault).encode())
    try:
        yield
    finally:
        bench.owner.execute((alter + mended).encode())


Fault = Callable[[Bench], AbstractContextManager[None]]

FAULTS: list[tuple[Fault, list[str], int, str, str]] = [
    (no_connection_left, WRITING + READING + MIGRATING, 5, "too many connections", "DB_POOL_MAX"),
    (read_only, WRITING, 5, "in a read-only transaction", "target_session_attrs"),
    (out_of_time, WRITING + READING, 1, "statement timeout", "statement_timeout"),
]


@pytest.mark.parametrize(
    ("fault", "commands", "status", "said", "hint"),
    FAULTS,
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_each_command_says_what_is_wrong_and_leaves_nothing_half_done(
    platform, fault, commands, status, said, hint
):
    before = platform.all(COUNTED)
    wrong = []
    with fault(platform):
        for line in commands:
            done = ran(platform, line)
            if done.status != status or said not in done.err or hint not in done.err:
                wrong.append(f"{line}: {done.status}\n{done.err}{done.out}")
            if re.search(r"Traceback|psycopg", done.err):
                wrong.append(f"{line}: a traceback\n{done.err}")
    assert not wrong, "\n".join(wrong)
    assert platform.all(COUNTED) == before
    for line in ("images add new.png", "jobs enqueue 1 --no-cache", "images list"):
        assert ran(platform, line).status == 0, line


def test_reading_the_ledger_needs_no_writes(platform):
    with read_only(platform):
        assert ran(platform, "migrate status").status == 0


# ── the way to the server ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("line", ["jobs list", "images add new.png", "migrate status"])
def test_a_network_that_lets_nothing_through_is_given_up(platform, line):
    with way_to(platform.database.app) as way:
        way.stall()
        done = stalled(platform, way, line)
    assert done.status == 5
    assert "connection timeout expired" in done.err
    assert "is the server up?" in done.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("jobs list", b"from processing_queue"),
        ("audit verify", b"audit_seals"),
        ("migrate status", b"negspace_migrations"),
    ],
)
def test_a_network_that_stalls_under_a_statement_is_noticed(platform, line, words):
    """What was sent was acknowledged by the proxy: no keepalive fails, and no answer comes."""
    before = platform.all(COUNTED)
    with way_to(platform.database.app) as way:
        way.stall_after(words)
        done = stalled(platform, way, line)
        assert way.stalled.is_set()
    assert done.status == 5, done.err
    assert "no answer from 127.0.0.1" in done.err
    assert "may be repeated" in done.err
    until(lambda: not sessions(platform), "the server has noticed, and rolled back")
    assert platform.all(COUNTED) == before
    assert ran(platform, line).status == 0


@pytest.mark.parametrize(
    ("line", "words", "counted", "one"),
    [
        (  # a statement that commits by itself
            "jobs enqueue 1", [b"enqueue_jobs"],
            "select count(*) from processing_queue", "waiting",
        ),
        (
            "images add new.png", [b"register_image", b"COMMIT"],
            "select count(*) - 1 from images", "taken in",
        ),
    ],
)  # fmt: skip
def test_a_commit_whose_answer_was_lost_is_not_done_twice(platform, line, words, counted, one):
    """It was done, and nobody was told: the command asks again, and is told of that one."""
    with way_to(platform.database.app) as way:
        way.stall_after(*words)
        variables = platform.environment | {
            "DATABASE_URL": by(platform.database.app, way),
            "NEGSPACE_USER": "ada@example.org",
        }
        command = [sys.executable, "-m", "negspace", *line.split(), "--json"]
        process = subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        until(way.stalled.is_set, "the commit was sent")
        until(lambda: platform.value(counted), "it was done")
        way.open()
        platform.all(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            f" where datname = current_database() and query ~ '{words[-1].decode()}'"
            " and state = 'idle' and pid <> pg_backend_pid()"
        )
        done = finished(process)
    assert (done.status, "; trying again for 60 s" in done.err) == (0, True), done.err
    assert [answer.get("outcome") or answer["status"] for answer in done.json] == [one]
    assert platform.value(counted) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [("images set 1 width=2", b"update images"), ("images add new.png", b"register_image")],
)
def test_patience_has_an_end_and_whom_nobody_answered_is_not_waited_for(platform, line, words):
    variables = platform.environment | {"NEGSPACE_USER": "ada@example.org"}
    before = platform.all(COUNTED)
    with way_to(platform.database.app) as way:
        way.stall_after(words)
        there = {"DATABASE_URL": by(platform.database.app, way), "NEGSPACE_PATIENCE": "0.1"}
        done = called(variables | there, *line.split())
        assert (done.status, "; trying again for 0.1 s" in done.err) == (5, True), done.err
        way.stall()
        done = called(variables | there, *line.split())
    assert (done.status, "trying again" in done.err) == (5, False), done.err
    until(lambda: not sessions(platform), "the server has noticed, and rolled back")
    assert platform.all(COUNTED) == before


def test_a_slow_statement_is_no_stall(platform):
    """It computes for longer than the limit, and the server answers when one knocks."""
    with way_to(platform.database.app) as way:
        address = by(platform.database.app, way, tcp_user_timeout=200)
        with database.connect(address) as connection:
            row = database.only(connection, "select pg_sleep(1.5), 7 as seven")
    assert row
    assert row["seven"] == 7


def test_a_worker_outlives_a_stall(platform):
    """Its heartbeats stop, its lease is lost, and it goes on when the way is open again."""
    with way_to(platform.database.app) as way:
        run = platform.start(DATABASE_URL=by(platform.database.app, way, connect_timeout=2))
        first = platform.enqueue(platform.add_image())
        until(lambda: platform.status(first) == "completed", "it works")
        way.stall()
        second = platform.enqueue(platform.add_image())
        until(lambda: "waits for it" in run.said, "it notices")
        way.open()
        until(lambda: platform.status(second) == "completed", "it goes on")
        run.signal(15)
        assert run.ended()["completed"] == 2


def stalled(bench: Bench, way: Way, line: str) -> Ran:
    variables = bench.environment | {
        "DATABASE_URL": by(bench.database.app, way),
        "NEGSPACE_OWNER_URL": by(bench.database.owner, way),
        "NEGSPACE_USER": "ada@example.org",
    }
    return called(variables, *line.split())


def sessions(bench: Bench) -> int:
    bench.services.close()
    return bench.value(
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and usename in ('app_user', 'negspace_owner')"
    )


# ── the server ───────────────────────────────────────────────────────────────────────────

ENDING = [
    "images add new.png",
    "keys create ada@example.org --name laptop",
    "results export --purpose test",
    "metrics record depth 1",
    "cache purge --all --yes",
    "audit verify",
    "users list",
    "images check",
    "jobs list",
    "results list",
    "worker list",
]
REPEATED = [
    "jobs enqueue 1 --no-cache",
    "jobs limit 2 --user ada@example.org",
    "images set 1 instrument=HST",
    "users role ada@example.org analyst",
]
WAITING = ENDING + REPEATED


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_the_server_restarts_under_every_command(home, tmp_path, monkeypatch, mode):
    """All of them wait for a lock when it stops; a worker stays, and finds it again."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    found = server.ensure(at(home), binaries=programs())
    bench = own_bench(found, tmp_path)
    try:
        bench.add_image()
        (tmp_path / "new.png").write_bytes(png(99))
        before = bench.all(KEPT)
        worker = bench.start(DATABASE_URL=f"{bench.database.app}?application_name=worker")
        until(lambda: bench.value("select count(*) from workers") == 1, "the worker has begun")
        holder = database.connect(found.url("superuser"))
        holder.execute("lock table users, images, processing_queue, security_audit")
        holder.execute("lock table performance_metrics, analysis_cache, audit_seals, api_keys")
        holder.execute("lock table analysis_results, workers")
        waiting = {line: started_command(bench, line) for line in WAITING}
        query = (
            "select count(*) from pg_stat_activity"
            " where wait_event_type = 'Lock' and application_name = 'negspace'"
        )
        until(lambda: bench.value(query) >= len(WAITING), "they wait")
        bench.services.close()
        server.stop(at(home), mode=mode)
        holder.close()
        bench.owner.close()
        ended = {line: finished(waiting[line]) for line in ENDING}
        found = server.ensure(at(home), binaries=programs())
        bench.owner = database.connect(found.url("superuser"), autocommit=True)
        wrong = [f"{line}: {done}" for line, done in ended.items() if not said_well(done)]
        assert not wrong, "\n".join(wrong)
        (kept,) = before
        repeated = {line: finished(waiting[line]) for line in REPEATED}
        wrong = [f"{one}: {done}" for one, done in repeated.items() if done.status]
        assert not wrong, "\n".join(wrong)
        assert all("; trying again for 60 s" in done.err for done in repeated.values())
        (now,) = bench.all(KEPT)
        # The worker may have found the server again already, and done the job.
        done_since = {"results": now["results"], "metrics": now["metrics"]}
        assert now == kept | {"jobs": kept["jobs"] + 1} | done_since
        assert now["results"] <= kept["results"] + 1
        for line in WAITING:
            assert finished(started_command(bench, line)).status == 0, line
        job = bench.enqueue(bench.add_image())
        until(lambda: bench.status(job) == "completed", "the worker goes on")
        worker.signal(15)
        worker.ended()
    finally:
        bench.close()


def test_a_command_that_waits_does_not_start_the_embedded_server_again(home, tmp_path):
    """Whoever stopped it wants it stopped."""
    found = server.ensure(at(home), binaries=programs())
    made = own_bench(found, tmp_path)
    with closing(database.connect(found.url("superuser"))) as holder:
        holder.execute("lock table users")
        process = subprocess.Popen(
            [sys.executable, "-m", "negspace", "users", "role", "ada@example.org", "analyst"],
            env=clean_environment(home) | {"NEGSPACE_PATIENCE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        until(lambda: made.value(query), "it waits")
        made.close()
        server.stop(at(home))
    done = finished(process)
    assert (done.status, "; trying again for 1 s" in done.err) == (5, True), done.err
    assert "the server was stopped meanwhile" in done.err
    assert server.status(at(home)).status == "stopped"


def own_bench(found: server.Server, folder: Path) -> Bench:
    made = TestDatabase(
        "negative_space",
        *(found.url(role) for role in ("owner", "operator", "app", "superuser")),
    )
    migrate_up(made)
    return Bench(made, folder, Database(made.app, pool=PoolSize(0, 2)))


def started_command(bench: Bench, line: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "negspace", *line.split()],
        cwd=bench.folder,
        env=bench.environment | {"NEGSPACE_USER": "ada@example.org"}
        if not line.startswith("users")
        else bench.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> Ran:
    out, err = process.communicate(timeout=PATIENCE)
    return Ran(process.returncode, out, err)


def said_well(done: Ran) -> bool:
    return done.status == 5 and "hint: " in done.err and "Traceback" not in done.err


# ── the disk ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small_disk(run: Path) -> Iterator[Path]:
    """A disk of 160 MB, in memory."""
    if shutil.which("mount") is None:
        pytest.skip("there is no program to mount a small disk with")
    folder = Path(tempfile.mkdtemp(dir=run))
    command = ["mount", "-t", "tmpfs", "-o", "size=160m,mode=0711", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        folder.rmdir()
        pytest.skip(f"only root may mount a small disk: {done.stderr.strip()}")
    yield folder
    for state in folder.rglob("state.json"):
        server.stop(at(state.parent), mode="immediate")
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def filled(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        for _ in range((shutil.disk_usage(disk).free - left) // 65_536):
            file.write(bytes(65_536))
    return ballast


def test_a_full_disk_of_the_server(small_disk, tmp_path):
    """Tables and the log share it: the worst case, where the server itself may go down."""
    home = small_disk / "home"
    home.mkdir(mode=0o711)
    environment = clean_environment(tmp_path) | {"NEGSPACE_HOME": str(home)}
    assert called(environment, "migrate", "up").status == 0
    before = called(environment, "dev", "generate", "--images", "20", "--json")
    assert before.status == 0, before.err
    counted = called(environment, "images", "list", "--json").json
    ballast = filled(small_disk, 1_000_000)
    done = called(environment, "dev", "generate", "--images", "20000", "--into-existing")
    assert done.status in {1, 5}
    assert "No space left on device" in done.err or "may be repeated" in done.err, done.err
    assert "hint: " in done.err
    ballast.unlink()
    assert called(environment, "images", "list", "--json").json == counted
    assert called(environment, "migrate", "status", "--check").status == 0
    done = called(environment, "dev", "generate", "--images", "20", "--into-existing")
    assert done.status == 0, done.err


def test_a_full_disk_of_the_images(small_disk, platform):
    filled(small_disk, 0)
    variables = platform.environment | {
        "NEGSPACE_STORAGE": str(small_disk),
        "NEGSPACE_USER": "ada@example.org",
    }
    large = Path("large.png")
    large.write_bytes(os.urandom(300_000))
    shutil.copy("new.png", large)
    done = called(variables, "images", "add", "new.png", "--json")
    assert done.status == 1
    assert "No space left on device" in done.err + done.out
    assert platform.value("select count(*) from images") == 1
    (small_disk / "ballast").unlink()
    assert called(variables, "images", "add", "new.png").status == 0


# ── who writes meanwhile ─────────────────────────────────────────────────────────────────


def test_a_step_is_repeated_while_no_server_takes_it():
    tries: list[int] = []
    told: list[NegspaceError] = []

    def step() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise UnavailableError("not yet")
        return "done"

    assert again(step, on_wait=told.append) == "done"
    assert (len(tries), len(told)) == (3, 1)
    with pytest.raises(UnavailableError, match="not yet"):
        again(lambda: tries.clear() or step(), patience=0.2)


def test_a_repeated_step_has_a_new_connection(platform):
    """By then another server may take writes: who keeps the connection never meets it."""
    sessions: list[int] = []

    def step() -> None:
        with platform.services.acting_as(Actor()).transaction() as connection:
            row = database.only(connection, "select pg_backend_pid() as process")
        sessions.append(row["process"])
        if len(sessions) % 2:
            raise UnavailableError("not yet")

    again(step, of=platform.services.acting_as(Actor()))
    assert len(set(sessions)) == 2
    again(step)
    assert len(set(sessions)) == 2


def test_the_page_has_every_symptom_that_is_caused_here():
    page = " ".join((Path(__file__).parent.parent / "docs/troubleshooting.md").read_text().split())
    said = [fault[3] for fault in FAULTS]
    said += ["connection timeout expired", "nor on a new connection", "No space left on device"]
    said += ["server closed the connection unexpectedly", "in a read-only transaction"]
    assert [words for words in said if words not in page] == []
