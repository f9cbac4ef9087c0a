"""The parts of a file that runs outside the run's transaction, each done or not done. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import pairwise
from typing import Final

from negspace.migrate import autocommit
from negspace.migrate.lexer import Statement
from negspace.migrate.plan import Step
from negspace.migrate.script import MigrationFile

__all__ = ["Unit", "Way", "units_of"]


class Way(Enum):
    """How a unit runs, and so what is known of it after a crash."""

    TRANSACTION = "in a transaction that the runner makes: done or not, the journal says"
    BLOCK = "in the file's own BEGIN … COMMIT: done or not, the journal says"
    ALONE = "outside a transaction: the catalog says, or a person"
    SESSION = "a SET, which every run sends again"


@dataclass(frozen=True)
class Unit:
    """One part of a file.

    Attributes:
        number: From 1 among those that the journal has; 0 for a SET.
        statements: In order; none of a Python file.
        local: The SET LOCAL and SET CONSTRAINTS of the parts before, which a commit ended.
    """

    number: int
    way: Way
    file: MigrationFile
    statements: tuple[Statement, ...]
    local: tuple[Statement, ...] = ()

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over the tokens, in hexadecimal; of the whole file for Python."""
        if not self.statements:
            return self.file.checksum
        text = "\0\0".join("\0".join(statement.tokens) for statement in self.statements)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


_LOCAL: Final = (("set", "local"), ("set", "constraints"))
_NO_SETTING: Final = (*_LOCAL, ("set", "transaction"))
_BEGINS: Final = (("begin",), ("start", "transaction"))
_ENDS: Final = (("commit",), ("end",), ("abort",), ("rollback",), ("prepare", "transaction"))


def units_of(step: Step) -> tuple[Unit, ...]:
    """The parts of a step that is outside the run's transaction, in order."""
    if step.file.is_python:
        return (Unit(1, Way.ALONE, step.file, ()),)
    found = _cut(step) if step.cuts else _each(step.file)
    units: list[Unit] = []
    number = 0
    for way, statements, local in found:
        number += way is not Way.SESSION
        units.append(Unit(0 if way is Way.SESSION else number, way, step.file, statements, local))
    return tuple(units)


Found = tuple[Way, tuple[Statement, ...], tuple[Statement, ...]]


def _cut(step: Step) -> Iterator[Found]:
    """The parts between the commits that enum values need."""
    statements = step.file.statements
    edges = (0, *step.cuts, len(statements))
    for start, end in pairwise(edges):
        local = tuple(s for s in statements[:start] if any(s.begins(*words) for words in _LOCAL))
        yield Way.TRANSACTION, statements[start:end], local


def _each(file: MigrationFile) -> Iterator[Found]:
    """Statement by statement; a transaction of the file's own is one part."""
    block: list[Statement] = []
    for statement in file.statements:
        if block or any(statement.begins(*words) for words in _BEGINS):
            block.append(statement)
            if len(block) > 1 and _ends(statement):
                yield _way_of_block(block), tuple(block), ()
                block = []
        else:
            yield _way(statement), (statement,), ()
    if block:
        yield Way.ALONE, tuple(block), ()


def _ends(statement: Statement) -> bool:
    if not any(statement.begins(*words) for words in _ENDS):
        return False
    return not _chains(statement) and "to" not in statement.tokens[1:3]


def _chains(statement: Statement) -> bool:
    return statement.tokens[-2:] == ("and", "chain")


def _way_of_block(block: list[Statement]) -> Way:
    """Its last row of the journal can stand inside only if the block is one that commits."""
    chained = any(_chains(statement) for statement in block)
    commits = block[-1].tokens[0] in {"commit", "end"}
    return Way.BLOCK if commits and not chained else Way.ALONE


def _way(statement: Statement) -> Way:
    if is_setting(statement):
        return Way.SESSION
    alone = autocommit.command(statement) or autocommit.controls_transactions(statement)
    return Way.ALONE if alone else Way.TRANSACTION


def is_setting(statement: Statement) -> bool:
    """Whether the statement only sets something for the rest of the session."""
    if any(statement.begins(*words) for words in _NO_SETTING):
        return False
    names = [token for token in statement.tokens[:4] if token not in {"pg_catalog", "."}]
    return statement.tokens[0] in {"set", "reset"} or names[:2] == ["select", "set_config"]
