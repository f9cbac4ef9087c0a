"""What several verbs of ``negspace migrate`` share: options, and the settings' database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from negspace.migrate.plan import Plan
    from negspace.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

OWN_MIGRATIONS: Final = Path(__file__).parent.parent / "sql" / "migrations"


def folder_option(command: Command) -> Command:
    """``--dir``: the folder of the migrations."""
    return click.option(
        "--dir",
        "folder",
        type=click.Path(path_type=Path),
        default=OWN_MIGRATIONS,
        help="Folder of the migrations; negspace's own by default.",
    )(command)


def strip_option(command: Command) -> Command:
    """``--strip-transaction``: for files with a transaction of their own."""
    return click.option(
        "--strip-transaction",
        is_flag=True,
        help="Leave out the BEGIN and COMMIT that files have of their own.",
    )(command)


def settings() -> Settings:
    """The settings of the environment."""
    from negspace import settings

    return settings.load()


def is_embedded(found: Settings) -> bool:
    """Whether migrations run on the embedded server: a developer's own."""
    return found.embedded and found.owner_url is None


def either_order(address: str, folder: Path, *, strip: bool) -> Callable[[Plan], None]:
    """The trial of late migrations; shadows are made on the settings' server."""
    from negspace.migrate import ordering, shadow

    return ordering.either_order(
        lambda: shadow.ground(settings()), address, folder, strip_transaction=strip
    )


def address() -> str:
    """The database that the settings name, as its owner; the embedded one without any."""
    found = settings()
    if is_embedded(found):
        from negspace import server

        return server.address(found, owner=True)
    from negspace.database import conninfo

    return conninfo(found, owner=True)
