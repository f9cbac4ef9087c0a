"""The tools that benchmarks/migrate.py measures: how each is installed, fed and started.

Every one gets the same two statements a migration, in the form of file that it is fastest with.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".servers" / "peers"
PYTHON, NODE = CACHE / "python", CACHE / "node"
FROM_PYPI = ("alembic", "yoyo-migrations", "psycopg[binary]", "psycopg2-binary", "setuptools")
FROM_NPM = ("dbmate", "node-pg-migrate", "knex", "pg")
PSQL = "psql, one transaction"
OURS = "negspace"

Command = Callable[[Path, str], Sequence[str | Path]]


@dataclass(frozen=True)
class Tool:
    """One tool; its commands are made of the folder of its files and the database's address.

    Attributes:
        write: Makes its files in a folder, a number of migrations.
        up: The command that applies all of them.
        listed: The command that lists them with their state, or None.
        program: What has to be there.
        version: The command that tells which version it is.
    """

    name: str
    write: Callable[[Path, int], None]
    up: Command
    listed: Command | None
    program: Path
    version: Sequence[str | Path]

    @property
    def is_there(self) -> bool:
        return self.program.exists()


def statements(number: int) -> tuple[str, str]:
    table = f"thing_{number:05}"
    return (
        f"create table {table} (id bigint generated always as identity primary key,"
        " name text not null, made_at timestamptz not null default now());",
        f"create index {table}_name_idx on {table} (name);",
    )


def undoing(number: int) -> str:
    return f"drop table thing_{number:05};"


def _stem(number: int) -> str:
    return f"{1_700_000_000_000 + number}_thing"


def _pairs(folder: Path, count: int) -> None:
    for number in range(count):
        (folder / f"{_stem(number)}.up.sql").write_text("\n".join(statements(number)) + "\n")
        (folder / f"{_stem(number)}.down.sql").write_text(undoing(number) + "\n")


def ups_only(folder: Path, count: int) -> None:
    for number in range(count):
        (folder / f"{_stem(number)}.up.sql").write_text("\n".join(statements(number)) + "\n")


def _marked(up: str, down: str) -> Callable[[Path, int], None]:
    """Files of both ways, with a tool's marks."""

    def write(folder: Path, count: int) -> None:
        for number in range(count):
            text = "\n".join((up, *statements(number), down, undoing(number), ""))
            (folder / f"{_stem(number)}.sql").write_text(text)

    return write


def _yoyo(folder: Path, count: int) -> None:
    for number in range(count):
        (folder / f"{_stem(number)}.sql").write_text("\n".join(statements(number)) + "\n")
        (folder / f"{_stem(number)}.rollback.sql").write_text(undoing(number) + "\n")


def _knex(folder: Path, count: int) -> None:
    config = "client: 'pg', connection: process.env.DATABASE_URL, pool: { min: 1, max: 1 }"
    (folder / "knexfile.js").write_text(f"module.exports = {{ {config} }};\n")
    (folder / "migrations").mkdir()
    (folder / "node_modules").symlink_to(NODE / "node_modules")  # it starts the knex of a project
    for number in range(count):
        up = "; ".join(f"await knex.raw(`{one}`)" for one in statements(number))
        text = (
            f"exports.up = async (knex) => {{ {up}; }};\n"
            f"exports.down = async (knex) => {{ await knex.raw(`{undoing(number)}`); }};\n"
        )
        (folder / "migrations" / f"{_stem(number)}.js").write_text(text)


_ALEMBIC = """import os
from alembic import context
from sqlalchemy import create_engine, pool
url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg2://")
with create_engine(url, poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""


def _alembic(folder: Path, count: int) -> None:
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s\n")
    (folder / "env.py").write_text(_ALEMBIC)
    (folder / "script.py.mako").write_text("")
    (folder / "versions").mkdir()
    for number in range(count):
        before = repr(_stem(number - 1)) if number else None
        up = "\n".join(f"    op.execute({one!r})" for one in statements(number))
        text = (
            f"from alembic import op\nrevision = {_stem(number)!r}\ndown_revision = {before}\n"
            f"def upgrade():\n{up}\ndef downgrade():\n    op.execute({undoing(number)!r})\n"
        )
        (folder / "versions" / f"{_stem(number)}.py").write_text(text)


def tools(psql: str) -> list[Tool]:
    """Ours, psql, and the peers, whether they are installed or not."""
    return [
        _ours(),
        _psql(psql),
        *_from_npm(NODE / "node_modules/.bin"),
        *_from_pypi(PYTHON / "bin"),
    ]


def _ours() -> Tool:
    program = Path(sys.executable).with_name("negspace")
    return Tool(
        OURS,
        _pairs,
        lambda folder, _: (program, "migrate", "up", "--dir", folder),
        lambda folder, _: (program, "migrate", "status", "--dir", folder),
        program,
        (program, "--version"),
    )


def _psql(program: str) -> Tool:
    def up(folder: Path, address: str) -> Sequence[str | Path]:
        files = [part for file in sorted(folder.glob("*.up.sql")) for part in ("-f", file)]
        options = ("-X", "-q", "-v", "ON_ERROR_STOP=1", "--single-transaction")
        return (program, *options, "-d", address, *(files or ("-c", "select 1")))

    return Tool(PSQL, _pairs, up, None, Path(program), (program, "--version"))


def _from_npm(programs: Path) -> list[Tool]:
    dbmate, npgm, knex = (programs / name for name in ("dbmate", "node-pg-migrate", "knex"))
    package = programs.parent / "node-pg-migrate/package.json"
    return [
        Tool(
            "dbmate",
            _marked("-- migrate:up", "-- migrate:down"),
            lambda folder, _: (dbmate, "-d", folder, "--no-dump-schema", "migrate"),
            lambda folder, _: (dbmate, "-d", folder, "status"),
            dbmate,
            (dbmate, "--version"),
        ),
        Tool(
            "node-pg-migrate",
            _marked("-- Up Migration", "-- Down Migration"),
            lambda folder, _: (npgm, "up", "--migrations-dir", folder, "--verbose=false"),
            None,
            npgm,
            ("node", "-p", f"require('{package}').version"),
        ),
        Tool(
            "knex",
            _knex,
            lambda folder, _: (knex, "migrate:latest", "--knexfile", folder / "knexfile.js"),
            lambda folder, _: (knex, "migrate:list", "--knexfile", folder / "knexfile.js"),
            knex,
            (knex, "--version"),
        ),
    ]


def _from_pypi(programs: Path) -> list[Tool]:
    alembic, yoyo = programs / "alembic", programs / "yoyo"
    told = "import importlib.metadata as m; print(m.version('yoyo-migrations'))"

    def of_yoyo(verb: str) -> Command:
        def command(folder: Path, address: str) -> Sequence[str | Path]:
            where = address.replace("postgresql:", "postgresql+psycopg:")
            return (yoyo, verb, "--batch", "--no-config-file", "--database", where, folder)

        return command

    return [
        Tool(
            "Alembic",
            _alembic,
            lambda folder, _: (alembic, "-c", folder / "alembic.ini", "upgrade", "head"),
            lambda folder, _: (alembic, "-c", folder / "alembic.ini", "history", "-i"),
            alembic,
            (alembic, "--version"),
        ),
        Tool(
            "yoyo",
            _yoyo,
            of_yoyo("apply"),
            of_yoyo("list"),
            yoyo,
            (programs / "python", "-c", told),
        ),
    ]


def install() -> list[str]:
    """Install the peers that aren't there; what went wrong, a line each."""
    failed: list[str] = []
    steps = [
        (PYTHON / "bin/yoyo", [sys.executable, "-m", "venv", PYTHON]),
        (
            PYTHON / "bin/yoyo",
            [PYTHON / "bin/python", "-m", "pip", "install", "--quiet", "--no-input", *FROM_PYPI],
        ),
        (
            NODE / "node_modules/.bin/dbmate",
            ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", NODE, *FROM_NPM],
        ),
    ]
    NODE.mkdir(parents=True, exist_ok=True)
    for made, command in steps:
        if made.exists():
            continue
        print(f"installing the peers: {Path(command[0]).name} …", flush=True)
        try:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            failed.append(f"{Path(command[0]).name}: {error}")
    return failed


def environment(address: str) -> Mapping[str, str]:
    """Of every tool: the address, and nothing from outside that would change what it does."""
    others = ("DB_", "NEGSPACE_", "PG", "PYTHON", "NODE_", "PIP_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(others)}
    return kept | {"DATABASE_URL": address}
