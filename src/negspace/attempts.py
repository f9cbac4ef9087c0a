"""Acts that failed: the audit trail keeps them although their own transaction rolled back."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, LiteralString

from negspace.database import Database
from negspace.errors import NegspaceError, UnavailableError

log = logging.getLogger("negspace.audit")

_FAILED: Final[LiteralString] = (
    "select record_event(%s::audit_action, %s, %s, 'failure', error_message => %s)"
)


@contextmanager
def recorded(
    database: Database, action: str, resource_type: str, resource_id: str | int | None
) -> Generator[None]:
    """Write a failure event, in a transaction of its own, for what is raised inside the block.

    Put it around the act's transaction. What is raised goes on as it is; a database that isn't
    there can't be told.

    Args:
        database: Where; its actor is who tried.
        action: What was tried, one of ``audit.ACTIONS``.
        resource_type: On what kind of thing.
        resource_id: On which one.
    """
    try:
        yield
    except UnavailableError:
        raise
    except NegspaceError as error:
        which = None if resource_id is None else str(resource_id)
        try:
            with database.transaction() as connection:
                connection.execute(_FAILED, [action, resource_type, which, error.message])
        except NegspaceError as unheard:
            log.warning("a failed %s is not in the audit trail: %s", action, unheard.message)
        raise
