"""What commands that use the database share: it is opened, and somebody acts.

Who acts is whom ``--as`` names, else ``NEGSPACE_USER``, else nobody known; the audit trail
has it so.
"""

from __future__ import annotations

import functools
import ipaddress
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from negspace import fit, server, settings, users
from negspace.cli import output
from negspace.database import Actor, Database, again, program_agent
from negspace.errors import (
    AccessError,
    InvalidInputError,
    NegspaceError,
    ReadOnlyServerError,
    UnavailableError,
)
from negspace.settings import Settings
from negspace.users import User

if TYPE_CHECKING:
    from negspace.storage import Storage

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Session:
    """One command's settings, database and acting user.

    Attributes:
        settings: As they were read.
        database: Its transactions are attributed to ``user``.
        user: Who acts, or None where nobody was named.
    """

    settings: Settings
    database: Database
    user: User | None

    def acting_user(self) -> User:
        """Who acts, for what somebody must own.

        Raises:
            InvalidInputError: Nobody was named.
        """
        if self.user is None:
            raise InvalidInputError(
                "who acts is not known",
                hint="negspace --as EMAIL …, or set NEGSPACE_USER; negspace users add makes one",
            )
        return self.user

    def storage(self) -> Storage:
        """The image files."""
        from negspace.storage import Storage

        return Storage(server.storage_folder(self.settings))


@contextmanager
def opened() -> Generator[Session]:
    """The session of the running command; its connections are closed at the end of the block.

    Raises:
        NegspaceError: The settings are wrong, no database was reached, it isn't migrated, or
            who should act isn't there or may not.
    """
    given = settings.load()
    actor = Actor(ip_address=_address(), user_agent=program_agent())
    asked = click.get_current_context().find_root().obj
    opening = server.open_database(
        given, replica=asked["replica"], actor=actor, progress=output.note
    )
    with opening as database:
        fit.see_operator(database)
        asked["reached"] = True
        email = asked["user"] or given.user
        if email is None:
            yield Session(given, database, None)
            return
        user = users.find(database, email)
        if not user.is_active:
            raise AccessError(
                f"the account {user.email} is switched off",
                hint=f"negspace users activate {user.email}",
            )
        acting = database.acting_as(replace(actor, user_id=user.id))
        yield Session(given, acting, user)


def repeated(command: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """A command that gives the same when it is done twice: repeated while its server is away.

    It prints last. A server that it has not reached yet is not waited for, nor is one that
    takes no writes: then the address is wrong more often than a failover is under way.
    """

    @functools.wraps(command)
    def run(*args: Given.args, **given: Given.kwargs) -> Answer:
        asked, said = click.get_current_context().find_root().obj, settings.load()

        def attempt() -> Answer | NegspaceError:
            if asked.get("reached"):
                _see_not_stopped(said)
            try:
                return command(*args, **given)
            except NegspaceError as error:
                if asked.get("reached"):
                    raise
                return error

        answer = again(
            attempt,
            patience=said.patience,
            unless=ReadOnlyServerError,
            on_wait=lambda error: say_lost(error, said),
        )
        if isinstance(answer, NegspaceError):
            raise answer
        return answer

    return run


def say_lost(error: NegspaceError, given: Settings) -> None:
    """Say that a lost server is waited for, on stderr."""
    output.note(f"{error.message}; trying again for {given.patience:g} s")


def _see_not_stopped(given: Settings) -> None:
    """Whoever stopped the embedded server doesn't want it started by a command of before."""
    if given.embedded and server.status(given).status == "stopped":
        raise UnavailableError(
            "the server was stopped meanwhile", hint="negspace server start starts it"
        )


def _address() -> str:
    """Where the person at the command line sits: at this machine, or the other end of SSH."""
    origin = os.environ.get("SSH_CONNECTION", "").split(" ")[0]
    try:
        return str(ipaddress.ip_address(origin.partition("%")[0]))
    except ValueError:
        return "127.0.0.1"
