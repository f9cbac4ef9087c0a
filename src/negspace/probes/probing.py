"""What a probe is, what it looks at, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from negspace import database
from negspace.database import Connection, Query, Row


@dataclass(frozen=True)
class Ground:
    """Where probes look.

    Attributes:
        operator: A connection of the owner, or of the superuser: read only, each query a
            transaction of its own.
        owner: The address of that connection.
        services: The address that the services log in at.
    """

    operator: Connection
    owner: str
    services: str

    @property
    def role(self) -> str:
        """The name of the services' role."""
        return database.libpq_environment(self.services).get("PGUSER", "app_user")

    def rows(self, query: Query, given: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        """All rows of a query, as the operator."""
        return database.examined(self.operator, query, given)


@dataclass(frozen=True)
class Leak:
    """A control that doesn't hold.

    Attributes:
        what: Where, and what is possible.
        mends: The command that mends it; None: the probe's own says it.
    """

    what: str
    mends: str | None = None


@dataclass(frozen=True)
class Probe:
    """One control, and how to see on a live database that it holds.

    Attributes:
        name: A word or two.
        title: What holds where all is well, in a sentence.
        why: Why it matters.
        mends: What to do where it doesn't hold.
        run: Looks, and says what doesn't hold. It reads, or rolls back what it tries; what it
            raises says why it couldn't look.
    """

    name: str
    title: str
    why: str
    mends: str
    run: Callable[[Ground], Iterator[Leak]]


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
