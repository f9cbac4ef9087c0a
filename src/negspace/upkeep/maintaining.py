"""Going through the steps: of many who keep house at once, one does each step."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from negspace.database import Database, Row, only, rows
from negspace.errors import NegspaceError, UnavailableError
from negspace.upkeep.keeping import Keeping
from negspace.upkeep.steps import STEPS, Step

State: TypeAlias = Literal["done", "busy", "not due", "failed", "left out", "would be done"]

# Longer than any step takes; where one takes longer, two do it, which does no harm.
LEASE: Final = timedelta(minutes=15)


@dataclass(frozen=True)
class Outcome:
    """What became of one step.

    Attributes:
        step: Its name.
        state: ``done``; ``busy``: somebody else is at it; ``not due``: it was done of late;
            ``failed``; ``left out``: what it needs was not given; or ``would be done``.
        count: How much was done, or, where it would be, how much waits; None: not known.
        counts: What the count counts.
        seconds: How long it took.
        said: Who is at it, why it failed, or what it needs; None where it was done.
        last_done_at: When it had been done before, by anybody; None: never.
    """

    step: str
    state: State
    count: int | None
    counts: str
    seconds: float
    said: str | None
    last_done_at: datetime | None


def maintain(keeping: Keeping, *, due_only: bool = False, dry_run: bool = False) -> list[Outcome]:
    """Keep house: every step, one after another. Many may do it at once, at any time.

    A step that fails is told, and noted for ``negspace doctor``; the others are done all the
    same.

    Args:
        keeping: What the steps work on.
        due_only: Leave out what was done within its time, by anybody.
        dry_run: Only say what would be done.

    Raises:
        UnavailableError: The database has gone.
    """
    known = _known(keeping.database)
    return [_one(step, keeping, known.get(step.name), due_only, dry_run) for step in STEPS]


def _one(
    step: Step, keeping: Keeping, before: Row | None, due_only: bool, dry_run: bool
) -> Outcome:
    last = before["ended_at"] if before else None

    def outcome(
        state: State, said: str | None = None, count: int | None = None, seconds: float = 0.0
    ) -> Outcome:
        return Outcome(step.name, state, count, step.counts, seconds, said, last)

    if getattr(keeping, step.needs) is None:
        return outcome("left out", f"it needs the {step.needs}")
    if dry_run:
        return outcome("would be done", count=_waiting(step, keeping.database))
    every = step.every if due_only else timedelta()
    lease = _begin(keeping.database, step, every)
    if lease["token"] is None:
        busy = lease["state"] == "busy"
        return (
            outcome("busy", f"{_holder(keeping.database, step)} is at it")
            if busy
            else outcome("not due")
        )
    began = time.monotonic()
    try:
        count = step.work(keeping)
    except UnavailableError:
        raise
    except NegspaceError as error:
        _end(keeping.database, step, lease, failure=error.message)
        return outcome("failed", error.message, seconds=time.monotonic() - began)
    _end(keeping.database, step, lease, count)
    return outcome("done", count=count, seconds=time.monotonic() - began)


def _begin(database: Database, step: Step, every: timedelta) -> Row:
    holder = f"{socket.gethostname()}:{os.getpid()}"
    query = "select * from begin_upkeep(%s, %s, %s, %s)"
    return database.ask(query, [step.name, every, LEASE, holder]) or {}


def _end(
    database: Database, step: Step, lease: Row, count: int = 0, failure: str | None = None
) -> None:
    query = "select end_upkeep(%s, %s, %s, %s)"
    database.ask(query, [step.name, lease["token"], count, failure])


def _holder(database: Database, step: Step) -> str:
    row = database.ask("select held_by from upkeep_steps where step = %s", [step.name])
    return row["held_by"] if row else "somebody"


def _known(database: Database) -> dict[str, Row]:
    with database.transaction(read_only=True) as connection:
        return {row["step"]: row for row in rows(connection, "select * from upkeep_steps")}


def _waiting(step: Step, database: Database) -> int | None:
    if step.waiting is None:
        return None
    with database.transaction(read_only=True) as connection:
        row = only(connection, step.waiting)
    return int(row["n"]) if row else None
