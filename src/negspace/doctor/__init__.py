"""What is wrong with a server, a database and its files, why that matters, what mends it.

>>> from negspace import doctor, settings
>>> report = doctor.examine(settings.load())  # doctest: +SKIP
>>> report.healthy, [finding.remedy for finding in report.findings]  # doctest: +SKIP

Nothing is changed: queries run in read-only transactions, what is tried is rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, LiteralString

from negspace import database, server
from negspace.database import Connection
from negspace.doctor import configuration, connecting, keeping, queue, schema, security, vacuum
from negspace.doctor.examining import Check, Fault, Finding, Limits, Patient, run
from negspace.errors import AccessError, NegspaceError
from negspace.settings import Settings
from negspace.storage import Storage

__all__ = ["CHECKS", "Check", "Fault", "Finding", "Limits", "Patient", "Report", "examine"]

CHECKS: Final = (
    *connecting.CHECKS,
    *configuration.CHECKS,
    *schema.CHECKS,
    *vacuum.CHECKS,
    *queue.CHECKS,
    *keeping.CHECKS,
    *security.CHECKS,
)


@dataclass(frozen=True)
class Report:
    """What all checks said, in their order.

    Attributes:
        findings: One or more for each check.
    """

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing was found; what couldn't be looked at doesn't count."""
        return all(finding.status != "found" for finding in self.findings)


def examine(
    settings: Settings,
    *,
    deep: bool = False,
    security: bool = False,
    limits: Limits | None = None,
    progress: Callable[[str], object] | None = None,
) -> Report:
    """Run the checks.

    Args:
        settings: Which server and which storage.
        deep: The slow ones too: drift, and the files of any number of images.
        security: What the services' role may do too, by the catalog and by trying it.
        limits: From where on something is found.
        progress: Called with a line at a time while the embedded server starts.

    Returns:
        What was found. A database that isn't reached is a finding, and no error; checks that
        need it are ``unknown`` then.

    Raises:
        SettingsError: The settings are at odds with each other.
        ServerError: The storage folder can't be made.
    """
    asked = {None, *(["deep"] if deep else []), *(["security"] if security else [])}
    with reached(settings, limits or Limits(), deep=deep, progress=progress) as patient:
        found = [run(check, patient) for check in CHECKS if check.asked in asked]
    return Report(tuple(finding for findings in found for finding in findings))


@contextmanager
def reached(
    settings: Settings,
    limits: Limits,
    *,
    deep: bool = False,
    progress: Callable[[str], object] | None = None,
) -> Generator[Patient]:
    """What is examined, with the operator's connection where there is one."""
    storage = Storage(server.storage_folder(settings))
    address = operator = connection = unreached = None
    try:
        address, operator = _addresses(settings, progress)
        connection = _opened(operator)
    except NegspaceError as error:
        unreached = error
    try:
        yield Patient(
            settings, address, operator, connection, storage, unreached, limits, deep=deep
        )
    finally:
        if connection is not None:
            connection.close()


# Tables whose policies don't let whoever looks through to every row.
_HIDDEN: Final[LiteralString] = (
    "select from pg_class c where c.relnamespace = 'public'::regnamespace"
    " and c.relkind in ('r', 'p') and row_security_active(c.oid) and not exists ("
    "  select from pg_policy p where p.polrelid = c.oid and p.polpermissive"
    "  and pg_get_expr(p.polqual, p.polrelid) = 'true' and exists ("
    "   select from unnest(p.polroles) as r (oid)"
    "   where r.oid = 0 or pg_has_role(r.oid, 'usage')))"
)


def _opened(operator: str) -> Connection:
    """A connection that sees every row: findings about a part would be false comfort."""
    connection = database.connect(operator, autocommit=True, application_name="negspace doctor")
    try:
        with database.translated():
            hidden = database.examined(connection, _HIDDEN)
    except BaseException:
        connection.close()
        raise
    if hidden:
        who = connection.info.user
        connection.close()
        raise AccessError(
            f"{who} sees only the rows that are shown to it",
            hint="name the owner: NEGSPACE_OWNER_URL; or log in as operator_role: DB_USER",
        )
    return connection


def _addresses(settings: Settings, progress: Callable[[str], object] | None) -> tuple[str, str]:
    """Where services connect, and the operator."""
    if settings.embedded and settings.owner_url is None:
        found = server.ensure(settings, progress=progress)
        return found.socket_address("operator"), found.socket_address("superuser")
    return (
        server.address(settings, progress=progress),
        database.conninfo(settings, owner=True),
    )
