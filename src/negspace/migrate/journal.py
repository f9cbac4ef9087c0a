"""The journal of what runs outside the run's transaction: what a run that died had got done.

The table ``public.negspace_migrations_journal`` is append-only, as the ledger. A part of a
file that runs in a transaction of its own has its ``done`` row in that very transaction, so
that the row says exactly what the database holds. A statement that no transaction takes has a
``begun`` row before it, with what the catalog held of its object, and a ``done`` or ``failed``
row after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from negspace.database import Connection, Jsonb, translated
from negspace.errors import DatabaseError, InvalidInputError, RefusedError
from negspace.migrate.names import key_of
from negspace.migrate.queries import query

if TYPE_CHECKING:
    from negspace.migrate.plan import Plan, Step

__all__ = ["Answer", "Journal", "Record", "check_answers", "name_of", "of_step", "refuse_crossing"]

_UNDEFINED_TABLE: Final = "42P01"

Answer = Literal["done", "redo", "restart"]
"""What an operator says of a migration that a run left unfinished: its statement in question
``done``, or to ``redo``; or ``restart``, nothing of what was done counts any more."""


@dataclass(frozen=True)
class Record:
    """One row of the journal.

    Attributes:
        migration: Number and name, the number without leading zeros.
        unit: Which part of the file, from 1.
        event: ``begun``, ``done`` or ``failed``.
        checksum: Over the tokens of the part.
        statement: The statement, where it ran outside a transaction.
        before: What the catalog held of its object before it ran.
        decided_by: ``statement``, ``catalog`` or ``operator``.
    """

    id: int
    run_id: UUID
    migration: str
    direction: str
    unit: int
    event: str
    checksum: str | None
    statement: str | None
    before: dict[str, Any] | None
    decided_by: str
    at: datetime


def name_of(migration: str) -> str:
    """What the journal calls a migration: ``001_a`` and ``1_a`` are the same."""
    number, title = key_of(migration)
    return f"{'.'.join(map(str, number))}_{title}"


class Journal:
    """The journal, as one run reads and writes it.

    Args:
        connection: In autocommit: a write outside a transaction is one of its own.
        run_id: Of the run.
    """

    def __init__(self, connection: Connection, run_id: UUID) -> None:
        self._connection = connection
        self._run_id = run_id

    def create(self) -> None:
        """Make the table where it isn't there; the ledger is, and the caller holds the lock."""
        with translated():
            self._connection.execute(query("journal_create"))

    def unfinished(self) -> list[Record]:
        """What migrations that never ended have got done, oldest first."""
        try:
            with translated():
                found = self._connection.execute(query("journal_open")).fetchall()
        except DatabaseError as error:
            if error.details.get("sqlstate") == _UNDEFINED_TABLE:
                return []
            raise
        return [Record(**row) for row in found]

    def write(
        self,
        migration: str,
        direction: str,
        event: str,
        *,
        unit: int = 0,
        checksum: str | None = None,
        statement: str | None = None,
        before: Mapping[str, Any] | None = None,
        decided_by: str = "statement",
    ) -> None:
        """Append one row, in the connection's present transaction."""
        with translated():
            self._connection.execute(
                query("journal_insert"),
                {
                    "run_id": self._run_id,
                    "migration": name_of(migration),
                    "direction": direction,
                    "unit": unit,
                    "event": event,
                    "checksum": checksum,
                    "statement": statement,
                    "before": None if before is None else Jsonb(dict(before)),
                    "decided_by": decided_by,
                },
            )


def of_step(records: Iterable[Record], step: Step) -> list[Record]:
    """The records of one step: of its migration, in its direction."""
    name = name_of(step.name)
    return [r for r in records if r.migration == name and r.direction == step.direction]


def refuse_crossing(plan: Plan, records: Sequence[Record]) -> None:
    """Refuse to go one way while a migration is half gone the other way.

    Raises:
        RefusedError: Names the migration, and what ends it.
    """
    going = "up" if plan.direction == "up" else "down"  # redo goes down first
    for record in records:
        if record.direction != going and record.event == "done":
            way = "applied" if record.direction == "up" else "undone"
            raise RefusedError(
                f"{record.migration} is half {way}: an earlier run of"
                f" {record.direction} did not finish it",
                hint=f"finish it with negspace migrate {record.direction}; or put everything back"
                f" by hand, and say --restart {record.migration}",
            )


def check_answers(answers: Mapping[str, Answer], records: Sequence[Record]) -> dict[str, Answer]:
    """The answers by the journal's names.

    Raises:
        InvalidInputError: One is about a migration that no run left unfinished.
    """
    known = {record.migration for record in records}
    given: dict[str, Answer] = {name_of(name): answer for name, answer in answers.items()}
    for name in given:
        if name not in known:
            raise InvalidInputError(
                f"no run left {name} unfinished",
                hint="negspace migrate status says which is interrupted; name it whole: 3_title",
            )
    return given
