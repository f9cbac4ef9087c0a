"""A home whose data directory comes from a backup: recovered, then given passwords of its own.

While it recovers, nobody knows a password of it. So for that time it lets in, by its socket
alone, whoever gets there: the socket lies in a folder of mode 0700 that belongs to whom the
server runs as, who could read the data directory as well.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from negspace import database
from negspace.database import sql, translated
from negspace.errors import RefusedError
from negspace.server import account, binaries, postmaster
from negspace.server.access import DATABASE, ROLES, lend_to_owner, role_exists, set_password
from negspace.server.layout import (
    Layout,
    Progress,
    State,
    explained,
    layout_of,
    locked,
    make_home,
    write_state,
)
from negspace.server.postmaster import Launch, free_port
from negspace.settings import Secret

if TYPE_CHECKING:
    from negspace.database import Connection
    from negspace.server.account import Account
    from negspace.server.binaries import Binaries
    from negspace.settings import Settings

__all__ = ["Adoption", "adopt", "see_free"]

_DOOR: Final = "local all all trust\n"
_DOORS: Final = (
    "# Written by negspace as it restored this server.\n"
    "local all         all              scram-sha-256\n"
    "host  all         all 127.0.0.1/32 scram-sha-256\n"
    "local replication all              scram-sha-256\n"
    "host  replication all 127.0.0.1/32 scram-sha-256\n"
)
_FORGOTTEN: Final = ("archive_mode", "archive_command", "archive_timeout")


@dataclass(frozen=True)
class Adoption:
    """What is to be adopted.

    Attributes:
        fill: Makes ``data``, and ``wal`` where files of the log are needed, in a folder.
        programs: The PostgreSQL of the data's major version.
        options: PostgreSQL's settings for the recovery; ``{wal}`` stands for that folder,
            quoted for a shell.
        superuser: The server's first role.
        database: The name of the database; it becomes ``negative_space``.
        foreign: It was no embedded server: its own configuration files stay behind.
    """

    fill: Callable[[Path], None]
    programs: Binaries
    options: Mapping[str, str]
    superuser: str
    database: str
    foreign: bool


def see_free(settings: Settings) -> None:
    """Refuse a home that holds something already.

    Raises:
        RefusedError: It does.
    """
    layout = layout_of(settings)
    with explained(layout):
        if layout.home.is_dir() and any(layout.home.iterdir()):
            raise RefusedError(
                f"{layout.home} is not empty, and nothing there is ever overwritten",
                hint="name a folder that isn't there yet",
            )


def adopt(settings: Settings, adoption: Adoption, *, progress: Progress) -> None:
    """Make a home of a data directory from elsewhere; it runs afterwards.

    Args:
        settings: Whose home is free.
        adoption: What comes into it.
        progress: Called with a line at a time; recovery may take long.

    Raises:
        RefusedError: The home is not empty.
        ServerError: It didn't recover; says why. The home is empty again then.
    """
    see_free(settings)
    layout = layout_of(settings)
    with explained(layout):
        made = not layout.home.is_dir()
        make_home(layout)
        try:
            with locked(layout, progress):
                _adopt(settings, layout, adoption, progress)
        except BaseException:
            postmaster.end(layout, "immediate", progress)
            shutil.rmtree(layout.home, ignore_errors=True)  # the reason is what matters
            if not made:
                make_home(layout)
            raise


def _adopt(settings: Settings, layout: Layout, adoption: Adoption, progress: Progress) -> None:
    runs_as = account.account_for(settings, layout)
    account.make_folder(runs_as, layout.server, layout)
    _make_sockets(runs_as, layout)
    programs = binaries.reachable(adoption.programs, runs_as, layout)
    work = Path(tempfile.mkdtemp(prefix="new-", dir=layout.server))
    adoption.fill(work)
    if adoption.foreign:
        _leave_configuration(work / "data")
    (work / "data/recovery.signal").touch()
    (work / "door").write_text(_DOOR, encoding="ascii")
    _give(runs_as, work)
    door, wal = layout.server / "door", layout.server / "wal"
    for name in ("data", "door", "wal"):
        if (work / name).exists():
            (work / name).rename(layout.server / name)
    quoted = shlex.quote(str(wal)).replace("%", "%%")
    passwords = {role: Secret(secrets.token_urlsafe(24)) for role in ROLES.values()}
    state = State(free_port(), programs.version, prepared=False, passwords=passwords)
    write_state(layout, state)
    options = {
        **{name: text.replace("{wal}", quoted) for name, text in adoption.options.items()},
        "hba_file": str(door),
        "archive_mode": "off",
        "hot_standby": "off",
    }
    state = postmaster.launch(Launch(layout, programs, runs_as, options, progress), state)
    postmaster.wait_until_ready(layout, state.port, progress)
    _settle(layout, state, adoption)
    postmaster.end(layout, "fast", progress)
    door.unlink()
    shutil.rmtree(wal, ignore_errors=True)
    shutil.rmtree(work)
    # From here on everybody needs a password.
    _make_sockets(runs_as, layout)
    state = postmaster.launch(Launch(layout, programs, runs_as, {}, progress), state)
    postmaster.wait_until_ready(layout, state.port, progress)
    write_state(layout, replace(state, prepared=True))


def _make_sockets(runs_as: Account, layout: Layout) -> None:
    """The folder of the socket, which goes whenever the server ends."""
    if layout.sockets != layout.server:
        account.make_folder(runs_as, layout.sockets, layout)


def _give(runs_as: Account, folder: Path) -> None:
    """Give a folder with all in it to the account; PostgreSQL wants it closed to others."""
    for place, folders, names in os.walk(folder):
        runs_as.own(Path(place))
        for name in (*folders, *names):
            runs_as.own(Path(place, name))
    (folder / "data").chmod(0o700)


def _leave_configuration(data: Path) -> None:
    """Begin with PostgreSQL's defaults: another machine's addresses and files aren't here."""
    for name in ("postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"):
        file = data / name
        if file.exists():
            file.rename(file.with_name(f"{name}.before"))
        file.write_text(_DOORS if name == "pg_hba.conf" else "", encoding="ascii")
        file.chmod(0o600)


def _settle(layout: Layout, state: State, adoption: Adoption) -> None:
    """Roles, passwords and the database as this home has them; nothing is archived."""
    with _inside(layout, state, adoption, "template1") as connection:
        _settle_roles(connection, state)
        for name in _FORGOTTEN:
            connection.execute(sql.SQL("alter system reset {}").format(sql.Identifier(name)))
        if adoption.database != DATABASE:
            rename = sql.SQL("alter database {} rename to {}")
            connection.execute(
                rename.format(sql.Identifier(adoption.database), sql.Identifier(DATABASE))
            )
    with _inside(layout, state, adoption, DATABASE) as connection:
        lend_to_owner(connection)


@contextmanager
def _inside(layout: Layout, state: State, adoption: Adoption, name: str) -> Generator[Connection]:
    where: dict[str, Any] = {
        "host": str(layout.sockets),
        "port": state.port,
        "user": adoption.superuser,
    }
    address = database.in_database("", name)
    with translated(), database.connect(address, autocommit=True, **where) as connection:
        yield connection


def _settle_roles(connection: Connection, state: State) -> None:
    rights: dict[str, sql.SQL] = {
        ROLES["superuser"]: sql.SQL("superuser"),
        ROLES["owner"]: sql.SQL("createrole"),
        ROLES["app"]: sql.SQL(""),
        ROLES["operator"]: sql.SQL(""),
    }
    for role, right in rights.items():
        there = role_exists(connection, role)
        verb = sql.SQL("alter role {} login {}" if there else "create role {} login {}")
        connection.execute(verb.format(sql.Identifier(role), right))
        set_password(connection, role, state.passwords[role].reveal())
    connection.execute("grant app_user to operator_role")
