"""Whom the embedded server runs as: PostgreSQL refuses to run as root."""

from __future__ import annotations

import os
import pwd
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from negspace.errors import ServerError

if TYPE_CHECKING:
    from negspace.server.layout import Layout
    from negspace.settings import Settings

CANDIDATES: Final = ("postgres", "nobody")
PASSED_ON: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True)
class Account:
    """A user and group id to drop to; both None where the caller is no root."""

    uid: int | None = None
    gid: int | None = None

    def popen(self, **variables: str) -> dict[str, Any]:
        """What ``subprocess`` needs to start a program as that user.

        Little of our environment goes along: other users may read that of a process of
        theirs, and PostgreSQL's own variables, the language and the zone change its ways.
        """
        kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        common = {"cwd": "/", "env": kept | {"LC_ALL": "C", "TZ": "UTC"} | variables}
        if self.uid is None:
            return common
        return common | {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give the file or folder to the account."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def account_for(settings: Settings, layout: Layout) -> Account:
    """The account to run as.

    Under root: whom an existing data directory belongs to, else NEGSPACE_SERVER_USER, else
    ``postgres``, else ``nobody``. Otherwise the caller's own.

    Raises:
        ServerError: There is no such user, or it is root.
    """
    if os.geteuid() != 0:
        return Account()
    if layout.data.is_dir():
        owner = layout.data.stat()
        return Account(owner.st_uid, owner.st_gid)
    for name in (settings.server_user,) if settings.server_user else CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid)
    wanted = settings.server_user or " or ".join(CANDIDATES)
    raise ServerError(
        f"PostgreSQL doesn't run as root, and there is no ordinary user {wanted}",
        hint="set NEGSPACE_SERVER_USER to an unprivileged user of this machine",
    )


def make_folder(account: Account, folder: Path, layout: Layout) -> None:
    """Make a folder of mode 0700 that belongs to the account, and see that it can work there.

    Raises:
        ServerError: The folder is somebody else's, or the account can't get there.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        account.own(folder)
    uid = os.geteuid() if account.uid is None else account.uid
    if folder.is_symlink() or folder.stat().st_uid not in {uid, os.geteuid()}:
        raise ServerError(
            f"{folder} belongs to somebody else",
            hint="set NEGSPACE_HOME to a folder of your own",
            home=str(layout.home),
        )
    probe = subprocess.run(
        ["/bin/sh", "-c", 'cd -- "$1" && test -w .', "sh", str(folder)],
        capture_output=True,
        check=False,
        **account.popen(),
    )
    if probe.returncode != 0:
        name = _name(uid)
        raise ServerError(
            f"the user {name}, whom PostgreSQL runs as, can't get into {folder}",
            hint=f"set NEGSPACE_HOME to a folder that {name} can reach, such as /var/lib/negspace,"
            " or NEGSPACE_SERVER_USER to a user who can reach this one",
            home=str(layout.home),
        )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
