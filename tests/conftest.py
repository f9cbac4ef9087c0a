"""Real servers for the suite, started by the suite.

One PostgreSQL serves a whole run, shared by its xdist workers; the first test that needs it
starts it. It lies in a folder of the run, which holds a lock as long as pytest lives: the
next run stops and removes what a killed one left. POSTGRES_UNDER_TEST names the folder
of another version's programs.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from calling import Ran, called
from negspace import database, server, settings
from negspace import migrate as runner
from negspace.database import Database
from negspace.server import Server, binaries
from negspace.settings import Settings

MIGRATIONS = Path(__file__).parent.parent / "src/negspace/sql/migrations"

# What makes a throw-away server quick. Durability is tested on servers of their own.
OPTIONS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "max_wal_size": "512MB",
    "jit": "off",
}

LONGEST = frozenset(
    {
        "test_backup",
        "test_backup_moments",
        "test_demo",
        "test_docs_pages",
        "test_failover",
        "test_faults",
        "test_worker_chaos",
    }
)

# ── the folder of this run ───────────────────────────────────────────────────────────────


def _runs() -> Path:
    """Where runs have their folders: in memory if there is room, where a clone of the
    schema takes 20 ms; it took 200 to 600 ms on a disk."""
    memory = Path("/dev/shm")
    roomy = os.access(memory, os.W_OK | os.X_OK) and shutil.disk_usage(memory).free > 2**31
    base = memory if roomy and "TMPDIR" not in os.environ else Path(tempfile.gettempdir())
    folder = base / f"negspace-tests-{os.getuid()}"
    folder.mkdir(mode=0o711, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to somebody else; set TMPDIR")
    return folder


def _held(folder: Path) -> int | None:
    """The run's lock, or None where its pytest lives."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(folder: Path) -> None:
    """Stop every server below the folder, then remove it.

    After Ctrl-C an initdb may still be writing: what it leaves is the next run's to remove.
    """
    for state in folder.rglob("state.json"):
        server.stop(at(state.parent), mode="immediate")
    shutil.rmtree(folder, ignore_errors=True)


def at(home: Path, **variables: str) -> Settings:
    """Settings with that home and nothing of the environment."""
    return settings.load({"NEGSPACE_HOME": str(home), **variables})


def pytest_configure(config: pytest.Config) -> None:
    for name in [n for n in os.environ if n.startswith(("DB_", "NEGSPACE_", "PG"))]:
        del os.environ[name]
    os.environ.pop("DATABASE_URL", None)
    if hasattr(config, "workerinput"):
        config.stash[RUN] = Path(config.workerinput["negspace_run"])
        return
    runs = _runs()
    alone = os.open(runs, os.O_RDONLY)
    fcntl.flock(alone, fcntl.LOCK_EX)  # nobody sweeps away a folder before its lock is held
    for left in runs.iterdir():
        descriptor = _held(left)
        if descriptor is not None:
            _remove(left)
            os.close(descriptor)
    run = Path(tempfile.mkdtemp(dir=runs))
    run.chmod(0o711)  # a server that root starts runs as somebody else
    config.stash[RUN], config.stash[LOCK] = run, _held(run)
    os.close(alone)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What ``-n auto`` means: half of the time tests wait, for locks, leases and processes."""
    cores = os.cpu_count() or 1
    return min(cores * 3 // 2, cores + 4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no worker is left with it at the end."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker the folder of the run."""
    node.workerinput["negspace_run"] = str(node.config.stash[RUN])


def pytest_unconfigure(config: pytest.Config) -> None:
    descriptor = config.stash.get(LOCK, None)
    if descriptor is not None:
        _remove(config.stash[RUN])
        os.close(descriptor)


RUN: pytest.StashKey[Path] = pytest.StashKey()
LOCK: pytest.StashKey[int | None] = pytest.StashKey()


# ── the server of this run ───────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Postgres:
    """The suite's server; each address is a URL with its password."""

    server: Server
    names: Iterator[str] = field(repr=False)

    @property
    def major(self) -> int:
        return int(str(self.server.version).split(".")[0])

    def superuser(self, name: str = "postgres") -> str:
        return self.server.url("superuser", name=name)

    def create(self, template: str | None = None) -> TestDatabase:
        """A new database, owned by the owner role; a copy of the template where one is named."""
        name = next(self.names)
        sql = database.sql
        query = sql.SQL("create database {} owner negspace_owner").format(sql.Identifier(name))
        if template is not None:
            query += sql.SQL(" template {}").format(sql.Identifier(template))
            if self.major >= 15:  # 17 ms against 24 ms for the default
                query += sql.SQL(" strategy file_copy")
        with database.connect(self.superuser(), autocommit=True) as connection:
            connection.execute(query)
        made = TestDatabase(
            name,
            owner=self.server.url("owner", name=name),
            app=self.server.url("operator", name=name),
            web=self.server.url("app", name=name),
            superuser=self.superuser(name),
        )
        if template is None and self.major < 15:  # as making.py does for the server's own
            with database.connect(made.superuser) as connection:
                connection.execute("alter schema public owner to negspace_owner")
                connection.execute("revoke create on schema public from public")
        return made

    def drop(self, name: str) -> None:
        query = database.sql.SQL("drop database if exists {} with (force)")
        with database.connect(self.superuser(), autocommit=True) as connection:
            connection.execute(query.format(database.sql.Identifier(name)))


@dataclass(frozen=True)
class TestDatabase:
    """One database of one test; the addresses are URLs, fit for DATABASE_URL.

    ``app`` is what negspace's own processes log in as, operator_role; ``web`` what a service
    for people does, app_user.
    """

    __test__ = False

    name: str
    owner: str
    app: str
    web: str
    superuser: str

    @property
    def environment(self) -> dict[str, str]:
        """What makes a negspace process use it."""
        return {"DATABASE_URL": self.app, "NEGSPACE_OWNER_URL": self.owner}

    @property
    def settings(self) -> Settings:
        return settings.load(self.environment)


def programs() -> binaries.Binaries | None:
    """The version under test; None for the embedded one."""
    folder = os.environ.get("POSTGRES_UNDER_TEST")
    if folder is None:
        return None
    found = binaries.inspect(Path(folder))
    if found is None:
        raise RuntimeError(f"no PostgreSQL that runs in {folder} (POSTGRES_UNDER_TEST)")
    return found


@pytest.fixture(scope="session")
def run(pytestconfig: pytest.Config) -> Path:
    """The folder of this run; others may pass through it."""
    return pytestconfig.stash[RUN]


@pytest.fixture(scope="session")
def postgres(run: Path, worker_id: str) -> Postgres:
    """The suite's server. Workers that come at once get the same: ``ensure`` is made for that."""
    found = server.ensure(at(run / "server"), options=OPTIONS, binaries=programs())
    return Postgres(found, (f"test_{worker_id}_{n}" for n in itertools.count()))


@pytest.fixture
def empty_database(postgres: Postgres) -> Iterator[TestDatabase]:
    """A fresh database without any object, owned by the owner role."""
    made = postgres.create()
    yield made
    postgres.drop(made.name)


@pytest.fixture(scope="session")
def template(postgres: Postgres) -> str:
    """The name of a database that holds the whole schema and nothing else, made once a run."""
    return _template(postgres, "template_negspace", migrate)


@pytest.fixture(scope="session")
def template_with_ledger(postgres: Postgres) -> str:
    """The same as users make it: by the runner, with its ledger."""
    return _template(postgres, "template_with_ledger", migrate_up)


def _template(postgres: Postgres, name: str, fill: Callable[[TestDatabase], None]) -> str:
    with database.connect(postgres.superuser(), autocommit=True) as lock:
        lock.execute("select pg_advisory_lock(1)")
        if database.only(lock, "select from pg_database where datname = %s", [name]) is None:
            made = postgres.create()
            fill(made)
            sql = database.sql
            rename = sql.SQL("alter database {} rename to {}")
            lock.execute(rename.format(sql.Identifier(made.name), sql.Identifier(name)))
    return name


def migrate(target: TestDatabase) -> None:
    """Apply every migration as the owner, in one transaction."""
    with database.connect(target.owner) as connection:
        for file in sorted(MIGRATIONS.glob("*.up.sql")):
            connection.execute(file.read_text(encoding="utf-8").encode())


def migrate_up(target: TestDatabase) -> None:
    """Apply every migration with the runner."""
    done = runner.up(target.owner, MIGRATIONS)
    assert done.ok, done.failure


@pytest.fixture(name="database")
def migrated_database(postgres: Postgres, template_with_ledger: str) -> Iterator[TestDatabase]:
    """A migrated database, of this test alone."""
    made = postgres.create(template_with_ledger)
    yield made
    postgres.drop(made.name)


@pytest.fixture
def services(database: TestDatabase) -> Iterator[Database]:
    """That database as services open it."""
    with server.open_database(database.settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def schema(postgres: Postgres, template: str) -> Iterator[TestDatabase]:
    """A database with the whole schema that a module shares: its tests commit nothing."""
    made = postgres.create(template)
    yield made
    postgres.drop(made.name)


@pytest.fixture
def owner(schema: TestDatabase) -> Iterator[database.Connection]:
    """The owner's transaction in the module's database, rolled back after the test."""
    with database.connect(schema.owner) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def app(schema: TestDatabase) -> Iterator[database.Connection]:
    """The services' transaction in the module's database, rolled back after the test."""
    with database.connect(schema.app) as connection:
        yield connection
        connection.rollback()


# ── the command line ─────────────────────────────────────────────────────────────────────


def clean_environment(home: Path) -> dict[str, str]:
    """What a negspace process of a test sees, and nothing of ours."""
    kept = {n: os.environ[n] for n in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if n in os.environ}
    tested = programs()
    if tested is not None:  # it finds them there for data of their version
        kept["PATH"] = f"{tested.folder}{os.pathsep}{kept['PATH']}"
    return kept | {"HOME": str(home), "NEGSPACE_HOME": str(home), "LC_ALL": "C.UTF-8"}


@pytest.fixture
def home(run: Path) -> Iterator[Path]:
    """A home for a server of the test's own, stopped and removed after it, and any below it."""
    folder = Path(tempfile.mkdtemp(dir=run))
    folder.chmod(0o711)
    yield folder
    _remove(folder)


@pytest.fixture
def cli(home: Path) -> Callable[..., Ran]:
    """Run ``negspace`` with those arguments: ``cli("users", "list", env=database.environment)``.

    In this process where a database is named; as one of its own where it has to do with the
    embedded server, runs for long or becomes psql.
    """

    def call(*arguments: str, env: Mapping[str, str] | None = None, given: str = "") -> Ran:
        variables = clean_environment(home) | dict(env or {})
        if "DATABASE_URL" in variables and not {"worker", "watch", "psql"} & set(arguments):
            return called(variables, *arguments, given=given)
        done = subprocess.run(
            [sys.executable, "-m", "negspace", *arguments],
            env=variables,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def drivers(home: Path) -> Iterator[Any]:
    """Runners of migrations that are killed where a test says: tests/killing.py."""
    from killing import Drivers

    made = Drivers(home)
    yield made
    made.close()


# ── the queue ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def bench(database: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Users, images, jobs and real workers on a database of the test's own: tests/bench.py."""
    from bench import PLUGIN, Bench
    from negspace.database import Database, PoolSize

    monkeypatch.syspath_prepend(str(PLUGIN))
    made = Bench(database, tmp_path, Database(database.app, pool=PoolSize(0, 2)))
    yield made
    made.close()
