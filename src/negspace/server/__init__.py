"""The embedded PostgreSQL: found, made, started, stopped; nobody has to install it.

``open_database(settings)`` is what services use: the server that the settings name, or the
embedded one, made and started if need be. The server outlives the command that started it.
Its process, folders and guarantees: docs/server.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from negspace import database, fit
from negspace.database import Actor, Answer, Database
from negspace.errors import NegspaceError, ServerError
from negspace.server import access, logs
from negspace.server.access import Role, set_password
from negspace.server.layout import (
    Layout,
    Mode,
    Progress,
    State,
    explained,
    layout_of,
    locked,
    make_home,
    read_state,
    write_state,
)
from negspace.settings import load

if TYPE_CHECKING:
    from negspace.server.binaries import Binaries
    from negspace.server.postmaster import Launch
    from negspace.settings import Settings

__all__ = [
    "Mode",
    "Role",
    "Server",
    "address",
    "change_password",
    "connect",
    "ensure",
    "home",
    "open_database",
    "set_password",
    "status",
    "stop",
    "storage_folder",
]


@dataclass(frozen=True)
class Server:
    """The embedded server as it was found.

    Attributes:
        home: Its folder.
        status: ``running`` takes connections, ``starting`` answers but takes none yet
            (it recovers or stops), ``stopped``, or ``absent``: never made.
        version: Such as ``18.6``, of the last start; None when absent.
        port: On 127.0.0.1; None when absent.
        process: The postmaster's process id, or None.
        log: Where it writes.
    """

    home: Path
    status: Literal["running", "starting", "stopped", "absent"]
    version: str | None
    port: int | None
    process: int | None
    log: Path
    _state: State | None = field(repr=False, compare=False)

    @property
    def running(self) -> bool:
        """Whether it takes connections."""
        return self.status == "running"

    def url(self, role: Role = "operator", *, name: str = access.DATABASE) -> str:
        """The address on the loopback interface, with the role's password, for any client.

        Args:
            role: ``operator`` for this machine's own work, ``app`` for services that people
                use, ``owner`` for migrations, or ``superuser``.
            name: The database.

        Raises:
            ServerError: The server was never made.
        """
        return access.url(self._made(), role, name)

    def socket_address(self, role: Role = "operator", *, name: str = access.DATABASE) -> str:
        """The same by the server's socket, quicker, for processes of the same user."""
        return access.socket_address(Layout(self.home), self._made(), role, name)

    def _made(self) -> State:
        if self._state is None:
            raise ServerError(f"no server in {self.home} yet", hint="negspace server start")
        return self._state


def _silent(_: str) -> None:
    """No progress wanted."""


def home(settings: Settings) -> Path:
    """The folder of the embedded server and of the images; it may not be there yet."""
    return layout_of(settings).home


def storage_folder(settings: Settings) -> Path:
    """The folder of the image files, made if need be, closed to other users.

    Raises:
        ServerError: It can't be made.
    """
    layout = layout_of(settings)
    folder = settings.storage.absolute() if settings.storage else layout.images
    if not folder.is_dir():
        with explained(layout, "NEGSPACE_STORAGE" if settings.storage else "NEGSPACE_HOME"):
            if folder == layout.images:
                make_home(layout)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def address(settings: Settings, *, owner: bool = False, progress: Progress | None = None) -> str:
    """Where to connect: for services, or for migrations.

    Args:
        settings: From ``settings.load()``.
        owner: The owner's connection, for migrations.
        progress: Called with a line at a time while the embedded server is made or starts.

    Returns:
        A libpq connection string. The embedded server answered just now; one that the
        settings name was not asked.

    Raises:
        ServerError: The embedded server can't be made or started.
        SettingsError: The settings contradict each other.
    """
    if not settings.embedded:
        return database.conninfo(settings, owner=owner)
    return ensure(settings, progress=progress).socket_address("owner" if owner else "operator")


def open_database(
    settings: Settings,
    *,
    owner: bool = False,
    replica: bool = False,
    actor: Actor | None = None,
    progress: Progress | None = None,
) -> Database:
    """The database of the settings, with a pool of the size that they ask for.

    Makes the monthly partitions that are missing, so that no insert fails for want of one.

    Args:
        settings: From ``settings.load()``.
        owner: As the owner.
        replica: Read-only transactions go to the standby of ``NEGSPACE_REPLICA_URL``; the
            primary is reached when something is to be written, and not before.
        actor: Who acts.
        progress: Called with a line at a time while the embedded server starts.

    Raises:
        RefusedError: Its schema is absent, older or newer than this negspace; says what to do.
        NegspaceError: It can't be reached; or the replica, or that is too far behind.
    """
    if replica:
        from negspace.server.replica import open_replica

        reader = open_replica(settings, actor=actor, progress=progress)
        where = address(settings, owner=owner, progress=progress)
        size = database.PoolSize.of(settings)
        return Database(where, actor=actor, pool=size, replica=reader)
    where = address(settings, owner=owner, progress=progress)
    opened = Database(where, actor=actor, pool=database.PoolSize.of(settings))
    try:
        with opened.transaction() as connection:
            fit.see(connection)
            if fit.sees_all_rows(connection):  # a service of people keeps no house
                connection.execute("select public.ensure_partitions()")
    except NegspaceError as error:
        try:
            raise fit.explained(error, opened) from error.__cause__
        finally:
            opened.close()
    return opened


def connect(*, actor: Actor | None = None) -> Database:
    """The services' database that the environment names; close it, or use it in a ``with``.

    Args:
        actor: Who acts, as the audit trail records it.

    Raises:
        NegspaceError: The settings are wrong, or it can't be reached, or has another schema.
    """
    return open_database(load(), actor=actor)


def ensure(
    settings: Settings,
    *,
    progress: Progress | None = None,
    options: Mapping[str, str] | None = None,
    binaries: Binaries | None = None,
) -> Server:
    """The embedded server, running: found so, or started, or made first.

    Any number of processes may do this at once: one makes and starts it, all get it.

    Args:
        settings: Where its home is, and under root whom it runs as.
        progress: Called with a line at a time: what is done, how long recovery takes.
        options: PostgreSQL's own settings for this start, ``fsync`` and the like.
        binaries: The programs to use; chosen when None.

    Raises:
        ServerError: It can't be made or started; says why, and where the log is.
    """
    layout = layout_of(settings)
    with explained(layout):
        ready = _ready(layout)
        if ready is not None:
            return ready
        make_home(layout)
        say = progress or _silent
        with locked(layout, say):
            launch = _launch(settings, layout, say, options or {}, binaries)
            state = _start(launch)
        _finish(launch, state)
        return status(settings)


def stop(settings: Settings, *, mode: Mode = "fast", progress: Progress | None = None) -> Server:
    """Stop the embedded server and wait until it has gone.

    Args:
        settings: Where its home is.
        mode: ``fast`` ends the connections, ``smart`` waits for them, ``immediate`` lets the
            next start recover.
        progress: Called with a line at a time while it lasts.

    Raises:
        ServerError: It belongs to somebody else.
    """
    layout = layout_of(settings)
    with explained(layout):
        if read_state(layout) is not None:
            from negspace.server import postmaster

            say = progress or _silent
            # It may wait for clients for ever: a start or a quicker stop must not wait for it.
            with nullcontext() if mode == "smart" else locked(layout, say):
                postmaster.end(layout, mode, say)
    return status(settings)


def status(settings: Settings) -> Server:
    """The embedded server as it is; starts nothing.

    Raises:
        ServerError: It belongs to somebody else.
    """
    layout = layout_of(settings)
    with explained(layout):
        state = read_state(layout)
        if state is None:
            return _server(layout, None, "absent")
        from negspace.server import postmaster

        said = postmaster.answer(layout, state.port)
        if said is Answer.READY:
            return _server(layout, state, "running")
        there = said is Answer.BUSY or postmaster.running(layout) is not None
        return _server(layout, state, "starting" if there else "stopped")


def change_password(
    settings: Settings, role: str, password: str, *, progress: Progress | None = None
) -> None:
    """Give a role of the settings' server a password: as its owner, or as the embedded's superuser.

    Args:
        settings: Which server.
        role: The role's name in the database, such as ``app_user``.
        password: Hashed here; see ``set_password``.
        progress: As for ``ensure``.

    Raises:
        NegspaceError: The server isn't there, has no such role, or doesn't allow it.
    """
    if not settings.embedded:
        with database.connect(database.conninfo(settings, owner=True)) as connection:
            set_password(connection, role, password)
        return
    server = ensure(settings, progress=progress)
    layout = layout_of(settings)
    with explained(layout), locked(layout, progress or _silent):
        with database.connect(server.socket_address("superuser")) as connection:
            set_password(connection, role, password)
        state = read_state(layout)
        if state is not None and role in state.passwords:
            write_state(layout, state.with_password(role, password))


def _ready(layout: Layout) -> Server | None:
    """The server, where it is up: the one thing that every command pays for."""
    state = read_state(layout)
    if state is None or not state.complete:
        return None
    from negspace.server import postmaster

    if postmaster.answer(layout, state.port) is not Answer.READY:
        return None
    logs.prune(layout)
    return _server(layout, state, "running")


def _server(
    layout: Layout, state: State | None, found: Literal["running", "starting", "stopped", "absent"]
) -> Server:
    from negspace.server import postmaster

    return Server(
        home=layout.home,
        status=found,
        version=state.version if state else None,
        port=state.port if state else None,
        process=postmaster.running(layout) if state else None,
        log=logs.newest(layout),
        _state=state,
    )


def _start(launch: Launch) -> State:
    """Make the data directory if need be, and start; the caller holds the lock."""
    from negspace.server import making, postmaster

    layout, progress = launch.layout, launch.progress
    state = read_state(layout)
    if not layout.data.is_dir():
        if state is not None and state.prepared:
            raise ServerError(
                f"the data directory {layout.data} is gone",
                hint="negspace server upgrade finishes what was killed"
                if (layout.home / "upgrade").is_dir()
                else f"mount or restore it; to begin anew with nothing, remove {layout.state}",
                home=str(layout.home),
            )
        progress(f"making a PostgreSQL {launch.binaries.version} in {layout.home} …")
        state = making.make_data(launch)
    if state is None:
        raise ServerError(
            f"{layout.data} is there but {layout.state} is not: its passwords are lost",
            hint=f"restore {layout.state.name} from a backup, or move {layout.data} away",
            home=str(layout.home),
        )
    if postmaster.answer(layout, state.port) is Answer.NONE and not postmaster.running(layout):
        progress(f"starting PostgreSQL {launch.binaries.version} …")
        state = postmaster.launch(launch, state)
    return state


def _finish(launch: Launch, state: State) -> None:
    """Wait until it is ready. Recovery may take minutes: no lock is held, so one can stop it."""
    from negspace.server import making, postmaster

    postmaster.wait_until_ready(launch.layout, state.port, launch.progress)
    if not state.complete:
        with locked(launch.layout, launch.progress):
            making.prepare(launch)


def _launch(
    settings: Settings,
    layout: Layout,
    progress: Progress,
    options: Mapping[str, str],
    programs: Binaries | None,
) -> Launch:
    from negspace.server import account, binaries, postmaster

    runs_as = account.account_for(settings, layout)
    account.make_folder(runs_as, layout.server, layout)
    if layout.sockets != layout.server:
        account.make_folder(runs_as, layout.sockets, layout)
    found = binaries.reachable(programs or binaries.choose(layout.data), runs_as, layout)
    return postmaster.Launch(layout, found, runs_as, options, progress)
