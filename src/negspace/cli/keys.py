"""``negspace keys``: API keys."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import datetime, timedelta

import click

from negspace import keys
from negspace.cli import output, session
from negspace.cli.times import ahead, span
from negspace.errors import InvalidInputError

_COLUMNS = (
    *("id", "user_id", "name", "is_active", "scopes", "ip_whitelist", "expires_at"),
    *("last_used_at", "total_requests"),
)


@click.group("keys")
def group() -> None:
    """API keys. USER is an e-mail address or a number."""


@group.command()
@click.argument("user")
@click.option("--name", required=True, help="What its owner calls it.")
@click.option("--description", help="What it is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help="What it may do; several times for more. read:images and read:results if none is given.",
)
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="CIDR",
    help="Where it may be used from, such as 192.0.2.0/24; several times for more.",
)
@click.option(
    "--expires",
    type=ahead,
    metavar="TIME",
    help="When it ends: 90d, or a date. Never if not given.",
)
@click.option(
    "--rate-limit",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    metavar="N",
    help="Requests a minute.",
)
@output.json_option
def create(
    user: str,
    name: str,
    description: str | None,
    scopes: tuple[str, ...],
    networks: tuple[str, ...],
    expires: datetime | None,
    rate_limit: int,
    as_json: bool,
) -> None:
    """Make a key and print it, once: it is stored nowhere."""
    with session.opened() as opened:
        made = keys.create(
            opened.database,
            user,
            name,
            scopes=scopes or keys.DEFAULT_SCOPES,
            networks=networks or None,
            expires_at=expires,
            rate_limit_per_minute=rate_limit,
            description=description,
        )
    _show_new(made, as_json=as_json)
    output.note(f"next: negspace keys check, or negspace keys revoke {made.key.id}")


@group.command("list")
@click.option("--user", help="Only that account's: e-mail address or number.")
@click.option("--active/--revoked", default=None, help="Only those that may be used, or not.")
@output.json_option
def list_(user: str | None, active: bool | None, as_json: bool) -> None:
    """List the keys, without their texts."""
    with session.opened() as opened:
        found = keys.list_keys(opened.database, owner=user, active=active)
    output.show_rows(
        found, _COLUMNS, as_json=as_json, empty="no keys; negspace keys create makes one"
    )


@group.command()
@click.argument("key", type=int)
@output.json_option
@session.repeated
def revoke(key: int, as_json: bool) -> None:
    """Switch a key off for good, by its number."""
    with session.opened() as opened:
        output.show_fields(keys.revoke(opened.database, key), as_json=as_json)


@group.command()
@click.argument("key", type=int)
@click.option(
    "--overlap",
    type=span,
    metavar="SPAN",
    default="1d",
    show_default=True,
    help="How long both are accepted, such as 12h; at most 90d.",
)
@output.json_option
def rotate(key: int, overlap: timedelta, as_json: bool) -> None:
    """Make a key's successor and print it, once. The key ends after the overlap."""
    with session.opened() as opened:
        made = keys.rotate(opened.database, key, overlap=overlap)
    _show_new(made, as_json=as_json)
    output.note(f"next: give it to all who use key {key}, which ends after the overlap")


@group.command()
@click.option("--scope", help="What it is to be used for.")
@click.option("--address", help="Where the request is from; this machine if not given.")
@output.json_option
def check(scope: str | None, address: str | None, as_json: bool) -> int:
    """Say whether a key may be used. The key is asked for, or the first line of stdin.

    Exit status 3 where it may not. The check is a use: the limit counts it, and it is audited.
    """
    text = _asked_key()
    with session.opened() as opened:
        database = opened.database
        if address is not None:
            database = database.acting_as(replace(database.actor, ip_address=address))
        answer = keys.check(database, text, scope=scope)
    output.show_fields(answer, as_json=as_json)
    return 0 if answer.accepted else 3


def _show_new(made: keys.NewKey, *, as_json: bool) -> None:
    if as_json:
        output.show_json({"text": made.text.reveal(), **output.plain(made.key)})
        return
    output.show_text(made.text.reveal())
    output.note(f"key {made.key.id}; keep it now, it is not shown again")


def _asked_key() -> str:
    if sys.stdin.isatty():
        return click.prompt("key", hide_input=True).strip()
    given = sys.stdin.readline().strip()
    if not given:
        raise InvalidInputError("no key on stdin", hint="write it there as one line")
    return given
