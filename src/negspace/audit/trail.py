"""The events of the audit trail: who did what, when, from where, and what it changed.

Nearly every event is written by the database itself, in the transaction of what it speaks of:
new and removed images, changed accounts and keys, ended jobs, read results. ``record`` adds
what only the caller knows. Nobody changes or removes an event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, LiteralString, TypeAlias, get_args

from negspace.database import Connection, Database, Jsonb, only, rows
from negspace.errors import InvalidInputError, NotFoundError

Action: TypeAlias = Literal[
    "login",
    "logout",
    "create_image",
    "delete_image",
    "run_analysis",
    "view_results",
    "export_data",
    "api_call",
    "permission_change",
    "config_change",
]
Status: TypeAlias = Literal["success", "failure", "partial"]
ACTIONS: Final[tuple[str, ...]] = get_args(Action)
STATUSES: Final[tuple[str, ...]] = get_args(Status)


@dataclass(frozen=True)
class Event:
    """One event. ``user_email`` is the address the account has now, None where it is gone."""

    id: int
    timestamp: datetime
    user_id: int | None
    user_email: str | None
    api_key_id: int | None
    action: Action
    resource_type: str
    resource_id: str | None
    status: Status
    ip_address: str | None
    user_agent: str | None
    request_id: str | None
    error_message: str | None
    changes_before: Mapping[str, Any] | None
    changes_after: Mapping[str, Any] | None


@dataclass(frozen=True)
class Detail:
    """More about an event; ``duration_ms`` in milliseconds."""

    id: int
    event_name: str
    event_description: str | None
    event_data: Mapping[str, Any]
    system_state: Mapping[str, Any]
    duration_ms: float | None
    success_count: int
    failure_count: int
    created_at: datetime


@dataclass(frozen=True)
class FullEvent:
    """An event with its details, oldest first."""

    event: Event
    details: tuple[Detail, ...]


@dataclass(frozen=True)
class Cursor:
    """Where a page ends: the time and number of its last event."""

    timestamp: datetime
    id: int

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read it as ``str`` wrote it.

        Raises:
            InvalidInputError: It is none.
        """
        time, _, number = text.rpartition("/")
        try:
            return cls(datetime.fromisoformat(time), int(number))
        except ValueError:
            raise InvalidInputError(
                f"{text!r} is no place in the audit trail", hint="take it from the page before"
            ) from None

    def __str__(self) -> str:
        return f"{self.timestamp.isoformat()}/{self.id}"


@dataclass(frozen=True)
class Page:
    """Events, newest first; ``next`` continues with older ones, None where there are none."""

    events: tuple[Event, ...]
    next: Cursor | None


@dataclass(frozen=True)
class Sighting:
    """How somebody saw an image's results or took its data out.

    Attributes:
        user_id: Who; None where nobody known acted.
        user_email: The account's address.
        api_key_id: With which key, or None.
        action: ``view_results`` or ``export_data``.
        times: How often.
        first_at: When first.
        last_at: When last.
        purposes: What for, as stated.
    """

    user_id: int | None
    user_email: str | None
    api_key_id: int | None
    action: Action
    times: int
    first_at: datetime
    last_at: datetime
    purposes: tuple[str, ...]


_EVENT: Final[LiteralString] = (
    'select a.id, a."timestamp", a.user_id, u.email as user_email, a.api_key_id,'
    " a.action::text, a.resource_type, a.resource_id, a.status::text,"
    " host(a.ip_address) as ip_address, a.user_agent, a.request_id, a.error_message,"
    " a.changes_before, a.changes_after"
    " from security_audit a left join users u on u.id = a.user_id "
)
_PAGE: Final[LiteralString] = (
    _EVENT + "where (%(user_id)s::bigint is null or a.user_id = %(user_id)s)"
    " and (%(action)s::audit_action is null or a.action = %(action)s::audit_action)"
    " and (%(status)s::audit_status is null or a.status = %(status)s::audit_status)"
    " and (%(resource_type)s::text is null or a.resource_type = %(resource_type)s)"
    " and (%(resource_id)s::text is null or a.resource_id = %(resource_id)s)"
    ' and (%(since)s::timestamptz is null or a."timestamp" >= %(since)s)'
    ' and (%(until)s::timestamptz is null or a."timestamp" < %(until)s)'
    ' and (%(before)s::timestamptz is null or (a."timestamp", a.id) < (%(before)s, %(before_id)s))'
    ' order by a."timestamp" desc, a.id desc limit %(limit)s'
)


# What names the image, and exports that it was among: of its results, or of all its owner's.
# Of an image that is gone nobody knows what results it had: it counts as among all of them.
_SAW: Final[LiteralString] = (
    "with it as (select coalesce((select i.user_id from images i where i.id = %(image)s),"
    " (select (g.changes_before ->> 'user_id')::bigint from security_audit g"
    " where g.resource_type = 'image' and g.resource_id = %(image)s::text"
    " and g.action = 'delete_image' and g.status = 'success' limit 1)) as owner)"
    " select a.user_id, u.email as user_email, a.api_key_id, a.action::text,"
    " count(distinct a.id)::integer as times,"
    ' min(a."timestamp") as first_at, max(a."timestamp") as last_at,'
    " coalesce(array_agg(distinct d.event_description)"
    " filter (where d.event_description is not null), '{}') as purposes"
    " from security_audit a cross join it left join users u on u.id = a.user_id"
    ' left join audit_log_details d on d.audit_id = a.id and d.audit_timestamp = a."timestamp"'
    " where a.action in ('view_results', 'export_data') and a.status <> 'failure'"
    ' and (%(since)s::timestamptz is null or a."timestamp" >= %(since)s)'
    " and case a.resource_type when 'image' then a.resource_id = %(image)s::text"
    " when 'user' then a.resource_id = it.owner::text"
    " when 'result' then coalesce(a.resource_id, %(image)s::text) = %(image)s::text"
    " and (not exists (select from images i where i.id = %(image)s) or exists ("
    "select from analysis_results r where r.image_id = %(image)s"
    ' and r.created_at <= a."timestamp"'
    " and r.user_id = coalesce((a.changes_after ->> 'user')::bigint, r.user_id)"
    " and r.algorithm_name = coalesce(a.changes_after ->> 'algorithm', r.algorithm_name)"
    " and r.created_at >= coalesce((a.changes_after ->> 'since')::timestamptz, r.created_at)))"
    " end group by a.user_id, u.email, a.api_key_id, a.action order by last_at desc"
)


def record(
    connection: Connection,
    action: Action,
    resource_type: str,
    resource_id: str | int | None = None,
    *,
    status: Status = "success",
    changes_before: Mapping[str, Any] | None = None,
    changes_after: Mapping[str, Any] | None = None,
    error_message: str | None = None,
    user_id: int | None = None,
) -> int:
    """Write an event into a transaction that is under way, and return its number.

    Who acts is the transaction's actor. Never give it a secret.

    Args:
        connection: From ``Database.transaction()``.
        action: What was done.
        resource_type: To what kind of thing, such as ``image``.
        resource_id: To which one.
        status: How it ended.
        changes_before: The changed keys before.
        changes_after: The changed keys after.
        error_message: Why it failed.
        user_id: Who, where the actor names nobody.

    Raises:
        InvalidInputError: A value the trail doesn't take.
    """
    found = only(
        connection,
        "select record_event(%s::audit_action, %s, %s, %s::audit_status, %s, %s, %s, %s) as id",
        [
            action,
            resource_type,
            None if resource_id is None else str(resource_id),
            status,
            None if changes_before is None else Jsonb(changes_before),
            None if changes_after is None else Jsonb(changes_after),
            error_message,
            user_id,
        ],
    )
    assert found is not None  # noqa: S101  a function's row
    return found["id"]


def events(
    database: Database,
    *,
    user_id: int | None = None,
    action: str | None = None,
    status: str | None = None,
    resource_type: str | None = None,
    resource_id: str | int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: Cursor | None = None,
    limit: int = 100,
) -> Page:
    """A page of events, newest first.

    Args:
        database: Where.
        user_id: Only what that account did.
        action: Only that action, one of ``ACTIONS``.
        status: Only those that ended so, one of ``STATUSES``.
        resource_type: Only what was done to that kind of thing.
        resource_id: Only what was done to that one.
        since: From that time on.
        until: Before that time.
        before: The ``next`` of the page before. Pages don't shift while events come in.
        limit: How many at most.

    Raises:
        InvalidInputError: There is no such action or status.
    """
    _one_of("action", action, ACTIONS)
    _one_of("status", status, STATUSES)
    given = {
        "user_id": user_id,
        "action": action,
        "status": status,
        "resource_type": resource_type,
        "resource_id": None if resource_id is None else str(resource_id),
        "since": since,
        "until": until,
        "before": before.timestamp if before else None,
        "before_id": before.id if before else None,
        "limit": limit + 1,
    }
    with database.transaction(read_only=True) as connection:
        found = [Event(**row) for row in rows(connection, _PAGE, given)]
    more = len(found) > limit
    page = tuple(found[:limit])
    return Page(page, Cursor(page[-1].timestamp, page[-1].id) if more and page else None)


def find(database: Database, event_id: int) -> FullEvent:
    """One event with its details.

    Raises:
        NotFoundError: There is none of that number.
    """
    details: LiteralString = (
        "select id, event_name, event_description, event_data, system_state,"
        " duration_ms::double precision, success_count, failure_count, created_at"
        " from audit_log_details where audit_id = %s and audit_timestamp = %s order by id"
    )
    with database.transaction(read_only=True) as connection:
        row = only(connection, _EVENT + "where a.id = %s", [event_id])
        if row is None:
            raise NotFoundError(
                f"there is no audit event {event_id}", hint="negspace audit list shows them"
            )
        event = Event(**row)
        found = rows(connection, details, [event.id, event.timestamp])
    return FullEvent(event, tuple(Detail(**detail) for detail in found))


def who_saw(database: Database, image_id: int, *, since: datetime | None = None) -> list[Sighting]:
    """Who read an image's results or exported its data, with the purposes stated.

    Images that are gone are answered for too: their events stay.

    Args:
        database: Where.
        image_id: The image's number.
        since: From that time on.
    """
    with database.transaction(read_only=True) as connection:
        found = rows(connection, _SAW, {"image": image_id, "since": since})
    return [Sighting(purposes=tuple(row.pop("purposes")), **row) for row in found]


def _one_of(what: str, given: str | None, known: tuple[str, ...]) -> None:
    if given is not None and given not in known:
        raise InvalidInputError(f"there is no {what} {given!r}", hint=f"one of {', '.join(known)}")
