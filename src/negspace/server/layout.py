"""Where the embedded server keeps what it has: folders, the lock, the state file.

home/                 NEGSPACE_HOME, or the user's data folder, or /var/lib/negspace for root
  state.json          port, version and passwords; mode 0600
  lock                held while a server is made, started or stopped
  server.log          what PostgreSQL says as it starts; the rest is in server/log
  server/data         its data directory; `server` belongs to whom it runs as, mode 0700
  binaries/           a copy of the programs, only where that user can't reach them
  images/             the image files; mode 0700
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from negspace.errors import ServerError
from negspace.settings import Secret

if TYPE_CHECKING:
    from negspace.settings import Settings

Progress: TypeAlias = Callable[[str], object]
Mode: TypeAlias = Literal["smart", "fast", "immediate"]

ROOT_HOME: Final = Path("/var/lib/negspace")
LONGEST_SOCKET: Final = 100  # bytes of a socket's path; the kernels allow 104 to 108


@dataclass(frozen=True)
class Layout:
    """The places below one home."""

    home: Path

    @property
    def state(self) -> Path:
        """Port, version and passwords."""
        return self.home / "state.json"

    @property
    def log(self) -> Path:
        """What PostgreSQL says before its collector runs."""
        return self.home / "server.log"

    @property
    def logs(self) -> Path:
        """The folder of what it says then; see ``server.logs``."""
        return self.server / "log"

    @property
    def server(self) -> Path:
        """The folder that belongs to the account the server runs as."""
        return self.home / "server"

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.server / "data"

    @property
    def images(self) -> Path:
        """The image files, unless NEGSPACE_STORAGE says otherwise."""
        return self.home / "images"

    @property
    def sockets(self) -> Path:
        """The folder of the socket: ``server``, or a plain one where that wouldn't do.

        A socket's path is short, and clients take a comma for the end of a name.
        """
        longest = len(os.fsencode(self.server / ".s.PGSQL.65535"))
        if longest <= LONGEST_SOCKET and "," not in str(self.server):
            return self.server
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
        return Path("/tmp") / f"negspace-{digest}"  # noqa: S108  its owner is checked before use


@dataclass(frozen=True)
class State:
    """What must be remembered between two starts.

    Attributes:
        port: The port on 127.0.0.1.
        version: The version that ran last, such as ``18.6``.
        prepared: The roles and the database have been made.
        passwords: Role → password.
    """

    port: int
    version: str
    prepared: bool
    passwords: Mapping[str, Secret] = field(repr=False)

    def with_password(self, role: str, password: str) -> State:
        """The same with another password for a role."""
        return replace(self, passwords={**self.passwords, role: Secret(password)})


def layout_of(settings: Settings) -> Layout:
    """The layout of the home that the settings name."""
    if settings.home is not None:
        return Layout(settings.home.absolute())
    if os.geteuid() == 0:
        return Layout(ROOT_HOME)
    import platformdirs

    return Layout(platformdirs.user_data_path("negspace"))


@contextmanager
def explained(layout: Layout, setting: str = "NEGSPACE_HOME") -> Generator[None]:
    """Raise ``ServerError`` for what the file system refuses inside the block."""
    try:
        yield
    except OSError as error:
        raise ServerError(
            f"can't use {error.filename or layout.home}: {error.strerror or error}",
            hint=f"set {setting} to a folder that you may write to",
            home=str(layout.home),
        ) from error


def make_home(layout: Layout) -> None:
    """Make the home. Root's lets others pass through, for the account that serves."""
    if not layout.home.is_dir():
        layout.home.mkdir(parents=True, exist_ok=True)
        layout.home.chmod(0o711 if os.geteuid() == 0 else 0o700)  # whatever the umask is


def read_state(layout: Layout) -> State | None:
    """The state, or None where no server was made yet.

    Raises:
        ServerError: The file is there and can't be read.
    """
    try:
        found = json.loads(layout.state.read_text(encoding="utf-8"))
        passwords = {role: Secret(text) for role, text in found["passwords"].items()}
        return State(int(found["port"]), str(found["version"]), bool(found["prepared"]), passwords)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise ServerError(
            f"{layout.state} may be read only by whom the server belongs to",
            hint="be that user, or set NEGSPACE_HOME to a folder of your own",
            home=str(layout.home),
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ServerError(
            f"{layout.state} is damaged",
            hint="restore it from a backup: it holds the passwords of the server's roles",
            home=str(layout.home),
        ) from error


def write_state(layout: Layout, state: State) -> State:
    """Replace the state file, readable by its owner alone; returns the state."""
    content = {
        "port": state.port,
        "version": state.version,
        "prepared": state.prepared,
        "passwords": {role: secret.reveal() for role, secret in state.passwords.items()},
    }
    fresh = layout.state.with_suffix(f".{os.getpid()}")
    with os.fdopen(private_file(layout, fresh, os.O_WRONLY | os.O_TRUNC), "w") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(layout.state)
    return state


def private_file(layout: Layout, path: Path, flags: int) -> int:
    """Open a file of mode 0600 that belongs to whom the home belongs to."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        owner = layout.home.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor


@contextmanager
def locked(layout: Layout, progress: Progress) -> Generator[None]:
    """Hold the home's lock; the kernel drops it when the process ends, however it ends."""
    descriptor = private_file(layout, layout.home / "lock", os.O_RDWR)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another negspace that starts or stops the server …")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
