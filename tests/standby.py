"""Streaming standbys of the tests' own, made with PostgreSQL's own tools.

A standby is a home like any other: ``server.ensure(at(home))`` starts it, and whoever removes
the folder that it lies in stops it before.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench import until
from conftest import MIGRATIONS, at, programs
from negspace import database, migrate, server
from negspace.server import Server, account, binaries
from negspace.server.layout import layout_of
from negspace.server.postmaster import free_port

SMALL = {"shared_buffers": "32MB", "max_connections": "60", "jit": "off"}


def started(home: Path, **options: str) -> Server:
    return server.ensure(at(home), options=SMALL | options, binaries=programs())


def copied(primary: Server, home: Path, name: str, port: int | None = None) -> None:
    """Make a home whose server follows the primary, under that name; it isn't started."""
    home.mkdir(mode=0o711)
    settings = at(home)
    place = layout_of(settings)
    owner = account.account_for(settings, place)
    account.make_folder(owner, place.server, place)
    tools = binaries.reachable(programs() or binaries.choose(primary.home), owner, place)
    source = f"{primary.url('superuser', name='postgres')}?application_name={name}"
    copying = subprocess.run(
        [
            *(tools.program("pg_basebackup"), "--pgdata", str(place.data), "--dbname", source),
            *("--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "--no-sync"),
        ],
        capture_output=True,
        text=True,
        check=False,
        **owner.popen(),
    )
    assert copying.returncode == 0, copying.stderr
    state = json.loads((primary.home / "state.json").read_text())
    place.state.write_text(json.dumps(state | {"port": port or free_port()}))
    place.state.chmod(0o600)


def told(found: Server, statement: str) -> None:
    """One statement, as the superuser, outside a transaction."""
    with database.connect(found.url("superuser"), autocommit=True) as connection:
        connection.execute(statement.encode())


def asked(found: Server, query: str) -> object:
    with database.connect(found.url("superuser")) as connection:
        row = database.only(connection, query.encode())  # type: ignore[arg-type]
    return None if row is None else next(iter(row.values()))


def synchronous(primary: Server, name: str) -> None:
    """From now on a commit is acknowledged when that standby has it on its disk too."""
    told(primary, f"alter system set synchronous_standby_names = '{name}'")
    told(primary, "select pg_reload_conf()")
    query = "select state = 'streaming' and sync_state = 'sync' from pg_stat_replication"
    until(lambda: asked(primary, query), "the standby is synchronous")


def caught_up(primary: Server, standby: Server) -> None:
    """Wait until the standby shows all that the primary has committed."""
    place = asked(primary, "select pg_current_wal_lsn()::text")
    query = f"select pg_last_wal_replay_lsn() >= '{place}'::pg_lsn"
    until(lambda: asked(standby, query), "the standby has replayed it")


def killed(found: Server) -> None:
    """SIGKILL to the postmaster and all of its processes, as when a machine goes."""
    assert found.process
    children = Path(f"/proc/{found.process}/task/{found.process}/children").read_text().split()
    for process in [found.process, *map(int, children)]:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


def several(servers: list[Server], role: str = "operator", **parameters: str) -> str:
    """One address of all of them, for whichever takes writes."""
    user, secret = servers[0].url(role).split("//")[1].split("@")[0].split(":")  # type: ignore[arg-type]
    hosts = ",".join(f"127.0.0.1:{found.port}" for found in servers)
    given = {"target_session_attrs": "read-write", "connect_timeout": "5"} | parameters
    more = "&".join(f"{name}={value}" for name, value in given.items())
    return f"postgresql://{user}:{secret}@{hosts}/negative_space?{more}"


def environment(servers: list[Server]) -> Mapping[str, str]:
    return {
        "DATABASE_URL": several(servers),
        "NEGSPACE_OWNER_URL": several(servers, "owner"),
    }


def pair(home: Path, name: str = "standby") -> tuple[Server, Server]:
    """A migrated primary and its asynchronous standby."""
    primary = started(home / "primary")
    done = migrate.up(primary.url("owner"), MIGRATIONS)
    assert done.ok, done.failure
    copied(primary, home / name, name)
    found = started(home / name)
    until(lambda: asked(primary, "select count(*) from pg_stat_replication"), "it follows")
    return primary, found
