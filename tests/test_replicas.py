"""Reading from a standby, writing through a multi-host address."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Timer
from typing import Any

import click
import pytest

from bench import until
from conftest import at
from negspace import cli as faces
from negspace import database, server, settings
from negspace.cli import session
from negspace.database import Database
from negspace.errors import SettingsError
from negspace.server import Server
from negspace.server.replica import seconds_behind
from standby import asked, caught_up, environment, pair, several, told
from test_migrate_docs import examples

PAGE = Path(__file__).parent.parent / "docs/failover.md"
ABSENT = "postgresql://app_user:x@127.0.0.1:1/negative_space"


@dataclass
class Pair:
    home: Path
    primary: Server
    standby: Server

    @property
    def reading(self) -> dict[str, str]:
        """The replica is there; the primary is not."""
        return {"DATABASE_URL": ABSENT, "NEGSPACE_REPLICA_URL": self.standby.url("operator")}

    @property
    def both(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.primary.url("operator"),
            "NEGSPACE_REPLICA_URL": self.standby.url("operator"),
        }


@pytest.fixture(scope="module")
def servers(run: Path) -> Iterator[Pair]:
    """A primary with some data, and its standby; what a test changes it puts back."""
    home = Path(tempfile.mkdtemp(dir=run))
    home.chmod(0o711)
    primary, standby = pair(home)
    yield Pair(home, primary, standby)
    for found in (standby, primary):
        server.stop(at(found.home), mode="immediate")
    shutil.rmtree(home)


@pytest.fixture
def filled(servers: Pair, cli, tmp_path) -> Pair:
    """With an account, which has an image and a job."""
    env = servers.both
    if asked(servers.primary, "select count(*) from images"):
        return servers
    assert (
        cli("users", "add", "ada@example.org", "--json", given="abcdefgh12\n", env=env).status == 0
    )
    picture = tmp_path / "a.png"
    from PIL import Image

    Image.new("RGB", (8, 8), (1, 2, 3)).save(picture)
    as_ada = env | {"NEGSPACE_USER": "ada@example.org"}
    assert cli("images", "add", str(picture), env=as_ada).status == 0
    assert cli("jobs", "enqueue", "1", env=as_ada).status == 0
    caught_up(servers.primary, servers.standby)
    return servers


READING = [
    "audit list",
    "audit verify",
    "audit who-saw image 1",
    "duplicates report",
    "duplicates near 1",
    "images list",
    "images show 1",
    "jobs list",
    "jobs log 1",
    "jobs show 1",
    "jobs status",
    "keys list",
    "metrics export",
    "metrics list",
    "metrics show job_run_ms",
    "results list",
    "users list",
    "users sessions ada@example.org",
    "users show ada@example.org",
    "worker list",
]


@pytest.mark.parametrize("command", READING)
def test_what_only_reads_is_answered_by_the_replica_alone(filled, cli, command):
    plain = cli(*command.split(), "--json", env=filled.both)
    ran = cli("--replica", *command.split(), "--json", env=filled.reading)
    assert (ran.status, ran.err) == (plain.status, plain.err)
    assert ran.status != 5


# ── who also writes ──────────────────────────────────────────────────────────────────────


def test_what_leaves_an_event_reads_the_replica_and_writes_it_to_the_primary(filled, cli):
    events = "select count(*) from security_audit where action = 'export_data'"
    before = asked(filled.primary, events)
    command = ["--replica", "results", "export", "--purpose", "to see", "--format", "json"]
    assert cli(*command, env=filled.both).status == 0
    assert asked(filled.primary, events) == before + 1
    # nothing leaves without its event
    ran = cli(*command, env=filled.reading)
    assert (ran.status, ran.out) == (5, "")
    assert "127.0.0.1:1" in ran.err


# ── behind, gone, or not named ───────────────────────────────────────────────────────────


def test_a_replica_that_is_not_named_or_not_wanted_is_refused(filled, cli):
    ran = cli("--replica", "jobs", "list", env={"DATABASE_URL": ABSENT})
    assert (ran.status, "NEGSPACE_REPLICA_URL" in ran.err) == (2, True)
    for command in (["migrate", "status"], ["doctor"], ["worker", "run", "--drain"]):
        ran = cli("--replica", *command, env=filled.both)
        assert ran.status == 2, command
        assert "leave --replica out" in ran.err
    with pytest.raises(SettingsError, match="no replica is named"):
        server.open_database(settings.load({"DATABASE_URL": ABSENT}), replica=True)


def test_a_replica_that_is_gone_is_said_to_be(filled, cli):
    gone = filled.both | {"NEGSPACE_REPLICA_URL": ABSENT}
    ran = cli("--replica", "jobs", "list", env=gone)
    assert ran.status == 5
    assert "the replica isn't there: can't reach" in ran.err
    assert "without --replica the primary is read" in ran.err


def test_a_replica_that_is_behind_says_how_far_and_from_some_point_on_is_refused(filled, cli):
    told(filled.standby, "select pg_wal_replay_pause()")
    try:
        paused = "select pg_get_wal_replay_pause_state() = 'paused'"
        until(lambda: asked(filled.standby, paused), "it replays nothing")
        told(filled.primary, "create table late ()")
        told(filled.primary, "drop table late")
        arrived = "select pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()"
        until(lambda: asked(filled.standby, arrived), "it receives nothing")
        # Less than a second is said by nobody.
        long = "select clock_timestamp() - pg_last_xact_replay_timestamp() > interval '2 seconds'"
        until(lambda: asked(filled.standby, long), "time passes")
        patient = cli("--replica", "jobs", "list", env=filled.both)
        assert patient.status == 0
        assert "s behind" in patient.err
        strict = filled.both | {"NEGSPACE_REPLICA_MAX_LAG": "0.01"}
        ran = cli("--replica", "jobs", "list", "--json", env=strict)
        assert (ran.status, ran.error["code"]) == (5, "unavailable")
        assert "s behind, and 0.01 s are allowed" in ran.error["message"]
    finally:
        told(filled.standby, "select pg_wal_replay_resume()")
    caught_up(filled.primary, filled.standby)
    again = cli("--replica", "jobs", "list", env=strict)
    assert (again.status, again.err) == (0, "")


@contextmanager
def applied_late(servers: Pair) -> Iterator[None]:
    """The standby replays a commit an hour after it was made."""
    told(servers.standby, "alter system set recovery_min_apply_delay = '1h'")
    told(servers.standby, "select pg_reload_conf()")
    setting = "select setting <> '0' from pg_settings where name = 'recovery_min_apply_delay'"
    until(lambda: asked(servers.standby, setting), "it is told")
    try:
        yield
    finally:
        told(servers.standby, "alter system reset recovery_min_apply_delay")
        told(servers.standby, "select pg_reload_conf()")
        caught_up(servers.primary, servers.standby)


def test_a_replica_that_lacks_one_small_commit_is_behind(filled):
    """Some hundred bytes are enough: no amount of the log is too little to count."""
    with applied_late(filled), database.connect(filled.standby.url("operator")) as reading:
        assert seconds_behind(reading) == 0
        told(filled.primary, "comment on database negative_space is 'late'")
        missing = "select pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()"
        until(lambda: asked(filled.standby, missing), "it lacks the commit")
        assert seconds_behind(reading) > 0


def test_the_rest_of_a_record_that_nobody_has_committed_is_not_missing(filled):
    """The primary keeps the rest of a record until somebody commits: that is no lag."""
    torn = (
        "select pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()"
        " and mod(pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0'), 8192) = 0"
    )
    told(filled.primary, "create table noted (a text)")
    with (
        database.connect(filled.standby.url("operator"), autocommit=True) as reading,
        database.connect(filled.primary.url("superuser")) as writing,
    ):

        def is_torn() -> bool:
            writing.execute("insert into noted values (repeat('x', 1000))")
            time.sleep(0.5)  # the log's writer has sent whole pages by then
            return bool(asked(filled.standby, torn))

        until(is_torn, "what was received ends within a record")
        committing = Timer(2, writing.commit)
        committing.start()
        assert seconds_behind(reading) == 0
        committing.join()
    told(filled.primary, "drop table noted")


# ── several hosts ────────────────────────────────────────────────────────────────────────


def test_writing_to_a_standby_says_what_to_do(filled, cli, tmp_path):
    env = {"DATABASE_URL": filled.standby.url("operator"), "NEGSPACE_USER": "ada@example.org"}
    ran = cli("jobs", "enqueue", "1", "--json", env=env)
    assert (ran.status, ran.error["code"]) == (5, "read_only_server")
    assert "target_session_attrs=read-write" in ran.error["hint"]
    env = {"DATABASE_URL": several([filled.standby])}
    ran = cli("jobs", "list", "--json", env=env)
    assert (ran.status, ran.error["code"]) == (5, "unavailable")
    assert "which is the primary" in ran.error["hint"]


def test_every_host_is_tried_for_the_one_that_takes_writes(filled, cli):
    servers = [filled.standby, filled.primary]
    env = environment(servers)
    ran = cli(
        "jobs", "enqueue", "1", "--json", env=dict(env) | {"NEGSPACE_USER": "ada@example.org"}
    )
    assert ran.status == 0, ran.err
    ran = cli("migrate", "status", "--check", env=env)
    assert ran.status == 0, ran.err
    for name in ("doctor", "server"):
        more = ["--json"] if name == "doctor" else ["url"]
        ran = cli(name, *more, env=env)
        assert ran.status in {0, 3}, ran.err
    preferring = several(servers, target_session_attrs="prefer-standby")
    ran = cli("--replica", "jobs", "list", env=filled.both | {"NEGSPACE_REPLICA_URL": preferring})
    assert ran.status == 0, ran.err


def test_the_python_example_of_the_page_runs(filled):
    (code,) = examples("python", PAGE)
    address = several([filled.standby, filled.primary])
    with Database(address) as opened:
        found: dict[str, Any] = {"database": opened, "image": 1}
        exec(code, found)
        exec(code, found)
    assert found["answers"][0].outcome == "waiting"


def test_the_page_names_the_commands_that_repeat():
    (row,) = re.findall(r"^\| repeat by themselves \|(.+)\|$", PAGE.read_text(), re.MULTILINE)
    found = {
        f"{noun} {verb}"
        for noun in faces.NOUNS
        for verb, command in nested(noun)
        if getattr(command.callback, "__code__", None) is session.repeated(print).__code__
    }
    # A file after the other: what was taken in before isn't done again.
    assert set(re.findall(r"`(.+?)`", row)) == found | {"images add"}


def nested(noun: str) -> list[tuple[str, click.Command]]:
    group = import_module(f"negspace.cli.{noun}").group
    return list(group.commands.items()) if isinstance(group, click.Group) else []
