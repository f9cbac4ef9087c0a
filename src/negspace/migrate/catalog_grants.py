"""Grants and revocations as statements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["granted"]

_EVERYTHING: Final = {
    "select",
    "insert",
    "update",
    "delete",
    "truncate",
    "references",
    "trigger",
}
_MAINTAIN_SINCE: Final = 170_000


def granted(rows: Iterable[Mapping[str, Any]], server_version: int) -> list[str]:
    """The statements that give what ``catalog_grants.sql`` found for one object.

    Every privilege of a table is said as ``all``: PostgreSQL 17 has one more, and the text
    is to be the same, and to load, on any version.
    """
    groups: dict[tuple[bool, str, bool, str, str], dict[str, list[str]]] = {}
    for row in rows:
        key = (not row["granted"], row["grantee"], row["grantable"], row["kind"], row["name"])
        columns = groups.setdefault(key, defaultdict(list))[row["privilege"]]
        if row["column"] is not None:
            columns.append(row["column"])
    return [
        _statement(key, privileges, server_version) for key, privileges in sorted(groups.items())
    ]


def _statement(
    key: tuple[bool, str, bool, str, str], privileges: dict[str, list[str]], server_version: int
) -> str:
    revoked, grantee, grantable, kind, name = key
    on = name if kind == "table" else f"{kind} {name}"
    verb, toward = ("revoke", "from") if revoked else ("grant", "to")
    option = " with grant option" if grantable else ""
    what = _privileges(kind, privileges, server_version)
    return f"{verb} {what} on {on} {toward} {grantee}{option};"


def _privileges(kind: str, privileges: dict[str, list[str]], server_version: int) -> str:
    whole = {name for name, columns in privileges.items() if not columns}
    everything = _EVERYTHING | ({"maintain"} if server_version >= _MAINTAIN_SINCE else set())
    if kind == "table" and everything <= whole:
        whole, said = whole - everything, ["all"]
    else:
        said = []
    said += sorted(whole)
    said += [
        f"{name} ({', '.join(sorted(columns))})"
        for name, columns in sorted(privileges.items())
        if columns
    ]
    return ", ".join(said)
