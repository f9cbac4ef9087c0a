"""Making the embedded server: its data directory, its roles, its database.

Every password is random, kept in the home's state file, and reaches PostgreSQL as a SCRAM
verifier. The superuser's own is handed to initdb in a file of mode 0600 that is gone when
initdb ends.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from negspace import database
from negspace.errors import ServerError
from negspace.server.access import (
    DATABASE,
    ROLES,
    role_exists,
    set_password,
    socket_address,
)
from negspace.server.layout import State, read_state, write_state
from negspace.server.postmaster import free_port
from negspace.settings import Secret

if TYPE_CHECKING:
    from negspace.database import Connection
    from negspace.server.postmaster import Launch


def make_data(launch: Launch) -> State:
    """Make the data directory in a folder of its own, then rename it into its place.

    Whoever is killed in between leaves nothing that the next one takes for a server. The
    caller holds the lock.

    Returns:
        The state, written before the data directory appears.

    Raises:
        ServerError: initdb failed; its reason is in the message.
    """
    layout = launch.layout
    for leftover in layout.server.glob("new-*"):
        shutil.rmtree(leftover)
    passwords = {role: Secret(secrets.token_urlsafe(24)) for role in ROLES.values()}
    state = State(free_port(), launch.binaries.version, prepared=False, passwords=passwords)
    write_state(layout, state)
    work = Path(tempfile.mkdtemp(prefix="new-", dir=layout.server))
    try:
        launch.account.own(work)
        _initdb(launch, work, passwords[ROLES["superuser"]])
        (work / "data").rename(layout.data)
        _sync(layout.server)
    finally:
        shutil.rmtree(work)
    return state


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _initdb(launch: Launch, work: Path, password: Secret) -> None:
    file = work / "password"
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(password.reveal() + "\n")
    launch.account.own(file)
    said = ""
    for locale in _locales(launch.binaries.major):
        command = [launch.binaries.program("initdb"), "-D", str(work / "data"), *locale]
        command += ["-U", ROLES["superuser"], "--pwfile", str(file), "--auth=scram-sha-256"]
        command += ["--encoding=UTF8", "--data-checksums"]
        if launch.options.get("fsync") == "off":
            command.append("--no-sync")
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            umask=0o077,
            check=False,
            **launch.account.popen(),
        )
        if done.returncode == 0:
            return
        said = " ".join(done.stderr.split())
    raise ServerError(
        f"initdb of PostgreSQL {launch.binaries.version} failed: {said}",
        hint=f"see that {launch.layout.home} has 50 MB to spare",
        home=str(launch.layout.home),
    )


def _locales(major: int) -> list[list[str]]:
    """What to try, so that texts sort by code point on every machine and after every upgrade."""
    if major >= 17:
        return [["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]]
    return [["--locale=C.UTF-8"], ["--locale=C"]]  # the first is the machine's; some have none


def prepare(launch: Launch) -> State:
    """Make the roles and the database, those that are missing; the caller holds the lock."""
    layout = launch.layout
    state = read_state(layout)
    if state is None:
        raise ServerError(
            f"{layout.state} went away while the server started", hint="run the command again"
        )
    if state.complete:
        return state
    for role in set(ROLES.values()) - state.passwords.keys():  # made by an older negspace
        state = write_state(layout, state.with_password(role, secrets.token_urlsafe(24)))
    with database.translated():
        _make_roles_and_database(launch, state)
    return write_state(layout, replace(state, prepared=True))


def _make_roles_and_database(launch: Launch, state: State) -> None:
    anywhere = socket_address(launch.layout, state, "superuser", "postgres")
    with database.connect(anywhere, autocommit=True) as connection:
        _make_roles(connection, state)
        known = "select from pg_catalog.pg_database where datname = %s"
        if database.only(connection, known, [DATABASE]) is None:
            connection.execute("create database negative_space owner negspace_owner")
    if launch.binaries.major < 15:  # later ones give it to the database's owner, and to no one
        with database.connect(socket_address(launch.layout, state, "superuser")) as connection:
            connection.execute("alter schema public owner to negspace_owner")
            connection.execute("revoke create on schema public from public")


def _make_roles(connection: Connection, state: State) -> None:
    if not role_exists(connection, ROLES["owner"]):
        connection.execute("create role negspace_owner login createrole")
    # By the owner, who may then give them their passwords and rights.
    connection.execute("set role negspace_owner")
    if not role_exists(connection, ROLES["app"]):
        connection.execute("create role app_user login")
    if not role_exists(connection, ROLES["operator"]):
        connection.execute("create role operator_role login")
    connection.execute("reset role")
    # The superuser, since an older app_user may be anybody's.
    connection.execute("grant app_user to operator_role")
    for role in (ROLES["owner"], ROLES["app"], ROLES["operator"]):
        set_password(connection, role, state.passwords[role].reveal())
