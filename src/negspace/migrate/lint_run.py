"""What a run has made and dropped where a statement stands: what comes before it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from negspace.migrate.ddl import Change, Constraint, Name
from negspace.migrate.lexer import Statement
from negspace.migrate.script import MigrationFile

__all__ = ["Made", "Progress", "Thresholds", "constraints_of", "same"]

_MAKES: Final = (
    "create table",
    "create materialized view",
    "create view",
    "create type",
    "create domain",
    "create function",
    "create procedure",
)


@dataclass(frozen=True)
class Thresholds:
    """From when on a table counts.

    Attributes:
        small_bytes: Up to this size a scan or a rewrite is over at once.
        large_bytes: From this size on it isn't.
        large_rows: The same in rows.
        hot_per_second: Scans and rows written a second, from which on a wait is felt.
    """

    small_bytes: int = 8 << 20
    large_bytes: int = 100 << 20
    large_rows: int = 1_000_000
    hot_per_second: float = 10.0


@dataclass(frozen=True)
class Made:
    """A change of the run, where it stands."""

    file: MigrationFile
    statement: Statement
    change: Change


def same(one: Name, other: Name) -> bool:
    """Whether two names may mean the same object: a schema that isn't said is any."""
    schemas = {one.schema, other.schema} - {None}
    return one.name == other.name and len(schemas) < 2


def constraints_of(change: Change) -> tuple[Constraint, ...]:
    """The constraints that a change makes."""
    inline = change.column.constraints if change.column else ()
    return (change.constraint, *inline) if change.constraint else inline


@dataclass
class Progress:
    """What the statements so far have done to the database.

    Attributes:
        whole: Every change of the run, those to come too.
        before: Those up to here.
        makes: The objects that those make, by name.
        parts: The changes among those that give a table an index or a constraint, by its name.
        drops: Those that drop something.
    """

    whole: tuple[Made, ...]
    before: list[Made] = field(default_factory=list[Made])
    makes: dict[str, list[Name]] = field(default_factory=dict[str, list[Name]])
    parts: dict[str, list[Change]] = field(default_factory=dict[str, list[Change]])
    drops: list[Change] = field(default_factory=list[Change])
    lock_timeout: bool = False

    def enter(self, *, one_run: bool) -> None:
        """Go on to the next file; unless they run together, it knows of itself alone."""
        self.lock_timeout = False
        if not one_run:
            self.before, self.makes, self.parts, self.drops = [], {}, {}, []

    def add(self, made: Made) -> None:
        """Go on after a change."""
        self.before.append(made)
        if made.change.kind in _MAKES:
            self.makes.setdefault(made.change.object.name, []).append(made.change.object)
        if made.change.kind.startswith("drop"):
            self.drops.append(made.change)
        if _is_part(made.change):
            self.parts.setdefault(made.change.object.name, []).append(made.change)

    def branch(self) -> Progress:
        """The same, to go on with apart."""
        makes = {name: list(names) for name, names in self.makes.items()}
        parts = {name: list(changes) for name, changes in self.parts.items()}
        return Progress(
            self.whole, list(self.before), makes, parts, list(self.drops), self.lock_timeout
        )

    def has_made(self, name: Name) -> bool:
        """Whether the object was made by the run, and is therefore nobody else's yet."""
        return any(same(made, name) for made in self.makes.get(name.name, ()))

    def has_dropped(self, name: str, kind: str = "drop") -> bool:
        """Whether something of that name was dropped, of the kind that ``kind`` begins."""
        return any(
            change.kind.startswith(kind) and name in {change.object.name, change.name}
            for change in self.drops
        )

    def parts_of(self, table: Name, *, to_come: bool = False) -> Iterator[Change]:
        """The indexes and constraints that the run gives a table: so far, or all of them."""
        known = self._whole_parts if to_come else self.parts
        for change in known.get(table.name, ()):
            if same(change.object, table):
                yield change

    @cached_property
    def _whole_parts(self) -> dict[str, list[Change]]:
        found: dict[str, list[Change]] = {}
        for made in self.whole:
            if _is_part(made.change):
                found.setdefault(made.change.object.name, []).append(made.change)
        return found


def _is_part(change: Change) -> bool:
    """Whether it gives its table an index or a constraint."""
    return bool(change.index or constraints_of(change))
