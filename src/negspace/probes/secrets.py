"""Probes of secrets: none where it doesn't belong, none that everybody knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, LiteralString

from negspace import database
from negspace.errors import UnavailableError
from negspace.probes.probing import Ground, Leak, Probe
from negspace.settings import DEFAULT_PASSWORD

__all__ = ["PROBES"]

# What a password's hash and an API key look like; names under which hashes would be kept.
_SHAPES: Final = (
    r"\$2[abxy]\$[0-9]{2}\$[./A-Za-z0-9]{53}|nsk_[1-9][0-9]{0,18}_[0-9A-Za-z]{38}"
    r'|"(password|password_hash|key_hash|token_hash|token)": *"(?!\*)'
)
_MONTHS: Final[LiteralString] = (
    "select generate_series(date_trunc('month', min(a.timestamp), 'UTC'), now(),"
    "                       interval '1 month') as month from public.security_audit a"
)
_EVENTS: Final[LiteralString] = (
    "select a.id from public.security_audit a"
    " where a.timestamp >= %(month)s and a.timestamp < %(month)s + interval '1 month'"
    " and concat_ws(' ', a.changes_before, a.changes_after, a.error_message, a.user_agent,"
    "               a.resource_id, a.request_id) ~ %(shapes)s order by a.id limit 5"
)
_DETAILS: Final[LiteralString] = (
    "select d.id from public.audit_log_details d"
    " where d.created_at >= %(month)s and d.created_at < %(month)s + interval '1 month'"
    " and concat_ws(' ', d.event_data, d.system_state, d.event_description) ~ %(shapes)s"
    " order by d.id limit 5"
)


def _in_trail(ground: Ground) -> Iterator[Leak]:
    for month in ground.rows(_MONTHS):
        given = month | {"shapes": _SHAPES}
        for row in ground.rows(_EVENTS, given):
            yield Leak(f"event {row['id']} of the audit trail holds a secret")
        for row in ground.rows(_DETAILS, given):
            yield Leak(f"detail {row['id']} of the audit trail holds a secret")


def _default_password(ground: Ground) -> Iterator[Leak]:
    for address in dict.fromkeys((ground.services, ground.owner)):
        role = database.libpq_environment(address).get("PGUSER", "")
        try:
            with database.connect(address, password=DEFAULT_PASSWORD) as opened:
                taken = opened.pgconn.used_password
        except UnavailableError:
            continue
        if taken:
            yield Leak(
                f"{role} logs in with the default password",
                f"negspace server password {role} --generate",
            )


PROBES: Final = (
    Probe(
        "secrets",
        "No password's hash, key or token is in the audit trail.",
        "whoever may read the trail, or its exports, has them",
        "change what it gives away: negspace keys revoke, negspace users password; events stay",
        _in_trail,
    ),
    Probe(
        "default password",
        "No role of the database lets the default password in.",
        "it is in the documentation",
        "negspace server password app_user --generate; then set DB_PASSWORD or DATABASE_URL",
        _default_password,
    ),
)
