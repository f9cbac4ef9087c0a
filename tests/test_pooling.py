"""Every command through a real PgBouncer in transaction mode."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from PIL import Image

from calling import called
from conftest import Postgres, TestDatabase, clean_environment, programs
from negspace import database
from negspace.cli import NOUNS, negspace
from pgbouncer import PROGRAM, pgbouncer, through
from test_migrate_docs import examples

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")

PAGE = Path(__file__).parent.parent / "docs/pooling.md"


@dataclass(frozen=True)
class Pooled:
    """A database, and the addresses that lead to it by PgBouncer."""

    direct: TestDatabase
    app: str
    owner: str

    @property
    def environment(self) -> dict[str, str]:
        return {"DATABASE_URL": self.app, "NEGSPACE_OWNER_URL": self.owner}


@pytest.fixture(scope="module")
def ports(postgres: Postgres) -> Iterator[tuple[int, int]]:
    """One PgBouncer for the services' role, one for the owner's."""
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as other,
        pgbouncer(postgres.server.url("operator"), Path(one)) as app,
        pgbouncer(postgres.server.url("owner"), Path(other)) as owner,
    ):
        yield app, owner


def pooled(made: TestDatabase, ports: tuple[int, int]) -> Pooled:
    return Pooled(made, through(made.app, ports[0]), through(made.owner, ports[1]))


@pytest.fixture(scope="module")
def platform(
    postgres: Postgres, template_with_ledger: str, ports: tuple[int, int], run: Path
) -> Iterator[tuple[Pooled, dict[str, str], Path]]:
    """A database with an account, images, results and a storage; tests only add to it."""
    made = postgres.create(template_with_ledger)
    home = Path(tempfile.mkdtemp(dir=run))
    home.chmod(0o711)
    given = pooled(made, ports)
    environment = (
        clean_environment(home) | given.environment | {"NEGSPACE_STORAGE": str(home / "s")}
    )
    yield given, environment, home
    shutil.rmtree(home)


COMMANDS = """
    users add ada@example.org
    users list
    users show ada@example.org
    users add bob@example.org
    users deactivate bob@example.org
    users activate bob@example.org
    users role bob@example.org admin
    users token bob@example.org verify_email
    users sessions bob@example.org
    users logout bob@example.org
    users unlock bob@example.org
    users password bob@example.org
    keys create bob@example.org --name laptop
    keys list
    keys check
    keys rotate 1
    keys revoke 1
    images add one.png two.png
    images list
    images show 1
    images set 1 batch=7
    images check
    images export 1 out.png --purpose test
    duplicates report
    duplicates mark
    jobs enqueue 1 2
    jobs list
    jobs show 1
    jobs status
    jobs limit 2 --group small
    worker run --drain
    worker list --all
    jobs log 1
    results list
    results show 1 --purpose test
    results export --purpose test
    duplicates near
    duplicates scan
    duplicates review
    jobs enqueue 1 --no-cache
    jobs cancel 3
    jobs retry 3
    jobs purge --older-than 30d --yes
    cache stats
    cache purge --all --yes
    metrics record depth 3
    metrics rollup
    metrics list
    metrics show depth
    metrics export
    metrics purge --yes
    audit list
    audit show 1
    audit who-saw 1
    audit what-did bob@example.org
    audit seal
    audit verify
    audit keygen seal.key
    audit anchor anchors --key seal.key
    audit prove 1
    audit hold test
    audit holds
    audit release 1 over
    audit export 2020-01 archive
    audit check-export archive/manifest
    audit retain --before 2020-01-01 --anchor anchors --folder archive --yes
    images archive 2
    images delete 2 --yes
    maintain
    migrate status --check
    migrate history
    migrate validate
    migrate drift
    migrate dump
    migrate up
    migrate redo --yes --development
    migrate down --yes --development
    migrate up
    migrate lint
    migrate prove
    migrate baseline
    doctor
    doctor --security
    dev generate --images 10 --into-existing --yes
    server url
"""

# What a command ends with, where that is neither 0 nor what the pooler has to do with.
ENDS = {
    "jobs retry 3": 1,  # cancelled ones aren't tried again
    "keys check": 3,  # the line on stdin is no key
    "doctor": 3,
    "doctor --security": 3,
    "audit check-export archive/manifest": 1,  # an empty month gives no file
    "migrate baseline": 4,  # there is a ledger
}

# These know no pooler: they take no address, or look at the embedded server alone.
WITHOUT = {"analyze", "demo", "settings", "migrate new", "migrate squash"}
# psql takes the place of our process; it prepares nothing by itself. Backups are made by
# PostgreSQL's own tools over direct connections; jobs watch is a loop of jobs status, until Ctrl-C.
BACKUP = ("archive", "create", "files", "list", "prune", "restore", "verify")
SERVER = ("logs", "password", "psql", "start", "status", "stop", "upgrade")
WITHOUT |= {f"backup {verb}" for verb in BACKUP} | {f"server {verb}" for verb in SERVER}
WITHOUT |= {"jobs watch"}


def verbs() -> set[str]:
    """Every verb that the program has, or the noun that has none."""
    found = set()
    for noun in NOUNS:
        command = negspace.get_command(click.Context(negspace), noun)
        if isinstance(command, click.Group):
            found |= {f"{noun} {verb}" for verb in command.list_commands(click.Context(command))}
        else:
            found.add(noun)
    return found


def test_every_verb_is_tried_or_has_nothing_to_do_with_it():
    tried = {" ".join(line.split()[:2]).removesuffix(" ") for line in COMMANDS.splitlines()}
    assert verbs() - tried - WITHOUT == set()


def prints_otherwise() -> bool:
    """Drift's shadow, since the owner may make none there, is on a newer PostgreSQL.

    Before 16 that one's views are printed otherwise, and 14 has none that are read as their reader.
    """
    tested = programs()
    return tested is not None and tested.major < 16


def test_every_command_works_behind_a_pooler(platform, monkeypatch):
    _, variables, home = platform
    for shade, name in enumerate(("one.png", "two.png")):
        Image.new("RGB", (24, 16), (shade, 3, 7)).save(home / name)
    (home / "archive").mkdir()
    monkeypatch.chdir(home)
    ends = ENDS | ({"migrate drift": 3} if prints_otherwise() else {})
    wrong = []
    for line in COMMANDS.strip().splitlines():
        command = line.strip()
        acting = [] if command.startswith("users") else ["--as", "ada@example.org"]
        ran = called(variables, *acting, *shlex.split(command), given="correct horse battery\n")
        if ran.status != ends.get(command, 0) or "Traceback" in ran.err:
            wrong.append(f"{command}: {ran.status} {ran.err[-600:]}")
    assert not wrong, "\n".join(wrong)


def test_what_a_session_was_told_is_not_left_to_others(platform):
    """The pooler's server connections serve everybody: a SET would outlive its command."""
    given, variables, _ = platform
    for command in ("doctor", "doctor --security", "migrate validate", "audit verify"):
        called(variables, *command.split())
    query = (
        "select name, setting from pg_settings"
        " where source = 'session' and name not in ('application_name', 'client_encoding',"
        " 'DateStyle', 'TimeZone', 'standard_conforming_strings', 'transaction_read_only',"
        " 'transaction_isolation', 'transaction_deferrable')"
    )
    for address in (given.app, given.owner):
        for _ in range(5):
            with database.connect(address, autocommit=True) as connection:
                assert database.rows(connection, query) == []


def test_no_lock_is_left_in_the_poolers_connections(platform):
    given, variables, _ = platform
    for command in ("migrate up", "migrate status", "audit seal", "jobs list"):
        assert called(variables, *command.split()).status == 0
    with database.connect(given.direct.superuser) as connection:
        held = (
            "select * from pg_locks where locktype = 'advisory' and database = (select oid"
            " from pg_database where datname = current_database())"
        )
        assert database.rows(connection, held) == []


def test_the_examples_of_the_page_do_what_it_says(home, tmp_path):
    environment = clean_environment(home)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    commands = 0
    for block in examples("console", PAGE):
        for example in block.removeprefix("$ ").split("\n$ "):
            typed, _, expected = example.partition("\n")
            done = subprocess.run(
                ["bash", "-c", f"exec 2>&1; {typed}"],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            said = done.stdout + (f"[exit status {done.returncode}]\n" if done.returncode else "")
            squeezed = [" ".join(line.split()) for line in said.splitlines()]
            assert squeezed == [" ".join(line.split()) for line in expected.splitlines()], typed
            commands += 1
    assert commands == 2
