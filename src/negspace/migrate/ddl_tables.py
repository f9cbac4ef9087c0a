"""Columns and constraints, as CREATE TABLE and ALTER TABLE write them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from negspace.migrate.ddl_reader import Name, Reader, identifier, parts

__all__ = ["Column", "Constraint", "column", "constraint", "is_constraint"]


@dataclass(frozen=True)
class Constraint:
    """A constraint as it is made.

    Attributes:
        kind: ``primary key``, ``unique``, ``foreign key``, ``check``, ``exclude`` or
            ``not null``.
        columns: Of the table; none for a check.
        references: The other table, of a foreign key.
        referenced: Its columns, where they are said.
        expression: The tokens of a check.
        valid: False where the rows that are there aren't looked at (``NOT VALID``).
        using_index: The index that it takes over, which is there already.
    """

    kind: str
    name: str | None = None
    columns: tuple[str, ...] = ()
    references: Name | None = None
    referenced: tuple[str, ...] = ()
    expression: tuple[str, ...] = ()
    valid: bool = True
    using_index: str | None = None


@dataclass(frozen=True)
class Column:
    """A column as it is made.

    Attributes:
        type: Its tokens: ``("numeric", "(", "10", ",", "2", ")")``.
        default: The tokens of its default, or None.
        stored: Generated and stored, an identity or a serial: each row gets a value.
        constraints: Those said with the column.
    """

    name: str
    type: tuple[str, ...]
    not_null: bool = False
    default: tuple[str, ...] | None = None
    stored: bool = False
    constraints: tuple[Constraint, ...] = ()


_TABLE_CONSTRAINTS: Final = {"constraint", "primary", "unique", "foreign", "check", "exclude"}
_AFTER_TYPE: Final = (
    "constraint",
    "not",
    "null",
    "default",
    "check",
    "unique",
    "primary",
    "references",
    "generated",
    "collate",
    "deferrable",
    "initially",
    "storage",
    "compression",
)
_SERIAL: Final = {"serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"}


def is_constraint(reader: Reader) -> bool:
    """Whether a constraint comes next, and not a column."""
    word, after = reader.peek(), reader.peek(1)
    if word == "exclude":  # no reserved word: a column may be called that
        return after in {"(", "using"}
    return word in _TABLE_CONSTRAINTS or (word, after) == ("not", "null")


def constraint(reader: Reader) -> Constraint:
    """Take a table's constraint."""
    name = reader.identifier() if reader.take("constraint") else None
    if reader.take("foreign", "key"):
        return _foreign_key(reader, name, _names(reader.group()))
    if reader.take("check"):
        expression = reader.group()
        valid = not _has(reader.rest(), "not", "valid")
        return Constraint("check", name, expression=expression, valid=valid)
    if reader.take("primary", "key"):
        return _key(reader, "primary key", name)
    if reader.take("unique"):
        if reader.take("nulls"):
            reader.take("not")
            reader.take("distinct")
        return _key(reader, "unique", name)
    if reader.take("not", "null"):
        column = reader.identifier()
        return Constraint(
            "not null", name, (column,), valid=not _has(reader.rest(), "not", "valid")
        )
    return Constraint("exclude", name)


def _key(reader: Reader, kind: str, name: str | None) -> Constraint:
    if reader.take("using", "index"):
        return Constraint(kind, name, using_index=reader.identifier())
    return Constraint(kind, name, _names(reader.group()))


def _foreign_key(reader: Reader, name: str | None, columns: tuple[str, ...]) -> Constraint:
    reader.take("references")
    other, referenced = reader.name(), _names(reader.group())
    valid = not _has(reader.until(*_AFTER_TYPE[:1], *_AFTER_TYPE[2:]), "not", "valid")
    return Constraint("foreign key", name, columns, other, referenced, valid=valid)


def _names(tokens: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(identifier(part[0]) for part in parts(tokens) if part)


def _has(tokens: tuple[str, ...], *words: str) -> bool:
    return any(tokens[at : at + len(words)] == words for at in range(len(tokens)))


def column(reader: Reader) -> Column:
    """Take a column's definition, to its end."""
    name, kind = reader.identifier(), reader.until(*_AFTER_TYPE)
    not_null = False
    default: tuple[str, ...] | None = None
    stored = bool(kind) and kind[0] in _SERIAL
    found: list[Constraint] = []
    said: str | None = None  # the name of the constraint that follows
    while reader.peek():
        if reader.take("constraint"):
            said = reader.identifier()
            continue
        if reader.take("not", "null"):
            not_null = True
        elif reader.take("default"):
            default = _expression(reader)
        elif reader.take("generated"):
            stored |= _is_stored(reader.until(*(w for w in _AFTER_TYPE if w != "default")))
        else:
            made = _inline(reader, said, name)
            found += [made] if made else []
        said = None
    return Column(name, kind, not_null, default, stored, tuple(found))


def _is_stored(tokens: tuple[str, ...]) -> bool:
    return tokens[-1:] == ("stored",) or "identity" in tokens


def _expression(reader: Reader) -> tuple[str, ...]:
    """A default's tokens: at least one, whatever word it is."""
    first = reader.group() if reader.peek() == "(" else (reader.next(),)
    return first + reader.until(*_AFTER_TYPE)


def _inline(reader: Reader, name: str | None, column_name: str) -> Constraint | None:
    """A constraint said with its column; None for what is none."""
    columns = (column_name,)
    if reader.take("primary", "key"):
        return Constraint("primary key", name, columns)
    if reader.take("unique"):
        return Constraint("unique", name, columns)
    if reader.take("check"):
        return Constraint("check", name, expression=reader.group())
    if reader.peek() == "references":
        return _foreign_key(reader, name, columns)
    reader.next()
    return None
