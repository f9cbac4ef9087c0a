"""``negspace audit``: who did what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime

import click

from negspace import audit, users
from negspace.audit import Cursor, Event, Sighting
from negspace.cli import audit_retention, audit_seals, output, session
from negspace.cli.times import past

_COLUMNS = ("id", "timestamp", "who", "action", "resource", "status", "ip_address", "what")

since_option = click.option(
    "--since", type=past, metavar="TIME", help="Only from then on: 7d, 12h, or a date."
)
before_option = click.option(
    "--before", metavar="PLACE", help="Go on where the page before ended, as it says."
)


@click.group("audit")
def group() -> None:
    """The audit trail: who did what, when, from where, and what it changed."""


@group.command("list")
@click.option("--user", help="Only what that account did: e-mail address or number.")
@click.option("--action", type=click.Choice(audit.ACTIONS))
@click.option("--status", type=click.Choice(audit.STATUSES))
@click.option("--resource", metavar="KIND[:NUMBER]", help="Only that kind or thing: image:7.")
@since_option
@before_option
@output.limit_option
@output.csv_option
@output.json_option
def list_(
    user: str | None,
    action: str | None,
    status: str | None,
    resource: str | None,
    since: datetime | None,
    before: str | None,
    limit: int,
    as_csv: bool,
    as_json: bool,
) -> None:
    """List events, newest first."""
    kind, _, number = (resource or "").partition(":")
    with session.opened() as opened:
        page = audit.events(
            opened.database,
            user_id=None if user is None else users.find(opened.database, user).id,
            action=action,
            status=status,
            resource_type=kind or None,
            resource_id=number or None,
            since=since,
            before=Cursor.parse(before) if before else None,
            limit=limit,
        )
    _show(page, as_csv=as_csv, as_json=as_json)


@group.command("what-did")
@click.argument("user")
@since_option
@before_option
@output.limit_option
@output.csv_option
@output.json_option
def what_did(
    user: str, since: datetime | None, before: str | None, limit: int, as_csv: bool, as_json: bool
) -> None:
    """List what an account did, newest first. USER is an e-mail address or a number."""
    with session.opened() as opened:
        page = audit.events(
            opened.database,
            user_id=users.find(opened.database, user).id,
            since=since,
            before=Cursor.parse(before) if before else None,
            limit=limit,
        )
    _show(page, as_csv=as_csv, as_json=as_json)


@group.command()
@click.argument("event", type=int)
@output.json_option
def show(event: int, as_json: bool) -> None:
    """Show one event with its details."""
    with session.opened() as opened:
        found = audit.find(opened.database, event)
    if as_json:
        output.show_json(found)
        return
    output.show_fields(found.event, as_json=False)
    for detail in found.details:
        output.show_text()
        output.show_fields(detail, as_json=False)


@group.command("who-saw")
@click.argument("image", type=int)
@since_option
@output.csv_option
@output.json_option
def who_saw(image: int, since: datetime | None, as_csv: bool, as_json: bool) -> None:
    """List who read an image's results or took its data out. With what for."""
    with session.opened() as opened:
        found = audit.who_saw(opened.database, image, since=since)
    if as_csv:
        output.show_csv(found, [field.name for field in fields(Sighting)])
        return
    output.show_rows(
        found,
        ["user_id", "user_email", "action", "times", "first_at", "last_at", "purposes"],
        as_json=as_json,
        empty=f"nobody has read the results of image {image}",
    )


def _show(page: audit.Page, *, as_csv: bool, as_json: bool) -> None:
    if as_csv:
        output.show_csv(page.events, [field.name for field in fields(Event)])
        if page.next is not None:
            output.note(f"older ones: --before {page.next}")
        return
    if as_json:
        output.show_json({"events": page.events, "next": page.next and str(page.next)})
        return
    rows = [_row(event) for event in page.events]
    output.show_rows(rows, _COLUMNS, as_json=False, empty="no such events")
    if page.next is not None:
        output.note(f"older ones: --before {page.next}")
    if page.events:
        output.note("next: negspace audit show NUMBER")


def _row(event: Event) -> dict[str, object]:
    thing = event.resource_type
    return {
        "id": event.id,
        "timestamp": event.timestamp,
        "who": event.user_email or event.user_id,
        "action": event.action,
        "resource": f"{thing} {event.resource_id}" if event.resource_id else thing,
        "status": event.status,
        "ip_address": event.ip_address,
        "what": event.error_message or _changes(event.changes_before, event.changes_after),
    }


def _changes(before: Mapping[str, object] | None, after: Mapping[str, object] | None) -> str:
    """What changed, in a line: the names of the keys, and short values."""
    sides = (before or {}, after or {})
    parts: list[str] = []
    for name in {**sides[0], **sides[1]}:
        values = [side[name] for side in sides if name in side]
        shown = " → ".join(output.cell(value) for value in values)
        parts.append(f"{name}: {shown}" if len(shown) <= 40 else name)
    return ", ".join(parts)


group.add_command(audit_seals.seal)
group.add_command(audit_seals.verify)
group.add_command(audit_seals.keygen)
group.add_command(audit_seals.anchor)
group.add_command(audit_seals.prove)
group.add_command(audit_retention.hold)
group.add_command(audit_retention.holds)
group.add_command(audit_retention.release)
group.add_command(audit_retention.export)
group.add_command(audit_retention.check_export)
group.add_command(audit_retention.retain)
