"""``negspace users``: accounts."""

from __future__ import annotations

import sys
from typing import Literal

import click

from negspace import users
from negspace.cli import output, session
from negspace.errors import InvalidInputError

_COLUMNS = ("id", "email", "full_name", "role", "is_active", "last_login_at", "created_at")


@click.group("users")
def group() -> None:
    """Accounts. USER is an e-mail address or a number."""


@group.command()
@click.argument("email")
@click.option("--role", type=click.Choice(users.ROLES), default="viewer", show_default=True)
@click.option("--name", help="As the person writes it.")
@output.json_option
def add(email: str, role: str, name: str | None, as_json: bool) -> None:
    """Make an account. The password is asked for, or read from the first line of stdin."""
    with session.opened() as opened:
        password = asked_password(email)
        made = users.add(opened.database, email, password, role=role, full_name=name)
    output.show_fields(made, as_json=as_json)
    output.note(f"next: negspace --as {made.email} images add FILE")


@group.command("list")
@click.option("--role", type=click.Choice(users.ROLES), help="Only that role.")
@click.option("--active/--inactive", default=None, help="Only those switched on, or off.")
@output.json_option
def list_(role: str | None, active: bool | None, as_json: bool) -> None:
    """List the accounts."""
    with session.opened() as opened:
        found = users.list_users(opened.database, role=role, active=active)
    output.show_rows(
        found, _COLUMNS, as_json=as_json, empty="no accounts; negspace users add EMAIL makes one"
    )


@group.command()
@click.argument("user")
@output.json_option
def show(user: str, as_json: bool) -> None:
    """Show one account."""
    with session.opened() as opened:
        output.show_fields(users.find(opened.database, user), as_json=as_json)


@group.command()
@click.argument("user")
@click.argument("role", type=click.Choice(users.ROLES))
@output.json_option
@session.repeated
def role(user: str, role: str, as_json: bool) -> None:
    """Give an account another role."""
    with session.opened() as opened:
        output.show_fields(users.set_role(opened.database, user, role), as_json=as_json)


@group.command()
@click.argument("user")
@output.json_option
@session.repeated
def activate(user: str, as_json: bool) -> None:
    """Switch an account on."""
    with session.opened() as opened:
        output.show_fields(users.set_active(opened.database, user, True), as_json=as_json)


@group.command()
@click.argument("user")
@output.json_option
@session.repeated
def deactivate(user: str, as_json: bool) -> None:
    """Switch an account off: no login, and its API keys are refused. Nothing is removed."""
    with session.opened() as opened:
        output.show_fields(users.set_active(opened.database, user, False), as_json=as_json)


@group.command()
@click.argument("user")
@output.json_option
def password(user: str, as_json: bool) -> None:
    """Give an account another password. It is asked for, or the first line of stdin."""
    with session.opened() as opened:
        found = users.find(opened.database, user)
        changed = users.set_password(opened.database, found.id, asked_password(found.email))
    if as_json:
        output.show_json(changed)
    output.note(f"{changed.email} has its new password")


@group.command()
@click.argument("user")
@output.json_option
@session.repeated
def unlock(user: str, as_json: bool) -> None:
    """Let an account log in again, whatever failed before."""
    with session.opened() as opened:
        output.show_fields(users.unlock(opened.database, user), as_json=as_json)


@group.command("sessions")
@click.argument("user")
@click.option("--all", "ended", is_flag=True, help="Those that have ended too.")
@output.json_option
def sessions_(user: str, ended: bool, as_json: bool) -> None:
    """List an account's sessions, newest first."""
    from negspace import sessions

    with session.opened() as opened:
        found = sessions.list_sessions(opened.database, user, ended=ended)
    columns = ["id", "ip_address", "user_agent", "created_at", "expires_at", "ended_at"]
    output.show_rows(found, columns, as_json=as_json, empty="no sessions")


@group.command()
@click.argument("user")
@output.json_option
def logout(user: str, as_json: bool) -> None:
    """End all sessions of an account."""
    from negspace import sessions

    with session.opened() as opened:
        ended = sessions.end_all(opened.database, user)
    if as_json:
        output.show_json({"ended": ended})
        return
    output.show_text(f"ended {output.counted(ended, 'session')}")


@group.command()
@click.argument("user")
@click.argument("purpose", type=click.Choice(["verify_email", "reset_password"]))
@output.json_option
def token(user: str, purpose: Literal["verify_email", "reset_password"], as_json: bool) -> None:
    """Make a token to send to an account's address. It is printed once.

    It verifies the address for three days, or sets a password anew for an hour.
    """
    from negspace import recovery

    with session.opened() as opened:
        mail = recovery.issue(opened.database, user, purpose)
    if as_json:
        output.show_json({**output.plain(mail), "token": mail.token.reveal()})
        return
    output.show_text(mail.token.reveal())
    output.note(f"for {mail.email}; it is not shown again")


def asked_password(whose: str) -> str:
    """A new password: typed twice at a terminal, else the first line of stdin."""
    if sys.stdin.isatty():
        return click.prompt(f"new password of {whose}", hide_input=True, confirmation_prompt=True)
    given = sys.stdin.readline().rstrip("\r\n")
    if not given:
        raise InvalidInputError(
            "no password on stdin", hint="write it there as one line, or run it at a terminal"
        )
    return given
