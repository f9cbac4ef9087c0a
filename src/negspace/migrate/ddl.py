"""What a statement changes, told from its tokens: the forms that the lint rules need. Pure.

No parser of PostgreSQL: a small recogniser over the lexer's tokens, held equal in tests to
what PostgreSQL's own parser says of a corpus. What it doesn't know it leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from negspace.migrate.ddl_reader import Name, Reader, identifier, parts
from negspace.migrate.ddl_tables import Column, Constraint, column, constraint, is_constraint
from negspace.migrate.lexer import Statement

__all__ = ["Change", "Column", "Constraint", "Index", "Name", "bare", "changes"]


@dataclass(frozen=True)
class Index:
    """An index as it is made.

    Attributes:
        keys: Each key's tokens: ``("email",)``, ``("lower", "(", "email", ")")``.
        where: The tokens of its predicate, without parentheses around them.
    """

    unique: bool
    method: str
    keys: tuple[tuple[str, ...], ...]
    include: tuple[str, ...]
    where: tuple[str, ...]

    @property
    def columns(self) -> tuple[str | None, ...]:
        """Each key's column; None for an expression."""
        return tuple(
            key[0] if key[0] != "(" and (len(key) == 1 or _is_word(key[1])) else None
            for key in self.keys
        )


def _is_word(token: str) -> bool:
    """An operator class, COLLATE or DESC; what goes on as an expression is none."""
    return token[0].isalpha() or token[0] in '_"'


@dataclass(frozen=True)
class Change:
    """One thing that a statement does to one object.

    Attributes:
        kind: ``create table``, ``add column``, ``alter table`` where nothing more is known …
        object: The table that is changed, or the object that is made or dropped; for
            ``create index`` the table.
        name: Of the column, constraint, index or enum value.
        type: The new type's tokens, of ``alter column type``.
        concurrently: It lets others write meanwhile.
        cascade: It takes along what depends on the object.
    """

    kind: str
    object: Name
    name: str | None = None
    column: Column | None = None
    constraint: Constraint | None = None
    index: Index | None = None
    type: tuple[str, ...] = ()
    concurrently: bool = False
    cascade: bool = False


def changes(statement: Statement) -> tuple[Change, ...]:
    """What a statement changes; nothing where it is no DDL that the rules know."""
    return _changes(statement.tokens)


@lru_cache(maxsize=1 << 14)  # lint asks twice: for the whole run, and in its place
def _changes(tokens: tuple[str, ...]) -> tuple[Change, ...]:
    reader = Reader(tokens)
    for words, read in _FORMS:
        if reader.take(*words):
            return tuple(read(reader))
    return ()


# ── create ───────────────────────────────────────────────────────────────────────────────

_LASTING: Final = ("global", "local", "temp", "temporary", "unlogged")


def _create(reader: Reader) -> Iterator[Change]:
    while reader.take_any(*_LASTING):
        pass
    if reader.take("table"):
        yield from _create_table(reader)
    elif reader.take("unique", "index"):
        yield from _create_index(reader, unique=True)
    elif reader.take("index"):
        yield from _create_index(reader, unique=False)
    else:
        yield from _create_named(reader)


def _create_named(reader: Reader) -> Iterator[Change]:
    reader.take("or", "replace")
    reader.take("constraint")
    reader.take("recursive")
    if reader.take("trigger"):
        yield from _on_table(reader, "create trigger")
    elif reader.take("policy"):
        yield from _on_table(reader, "create policy")
    else:
        for kind in ("materialized view", "view", "type", "domain", "function", "procedure"):
            if reader.take(*kind.split()):
                reader.take("if", "not", "exists")
                yield Change(f"create {kind}", reader.name())


def _on_table(reader: Reader, kind: str) -> Iterator[Change]:
    name = reader.identifier()
    if reader.skip_to("on"):
        yield Change(kind, reader.name(), name=name)


def _create_table(reader: Reader) -> Iterator[Change]:
    reader.take("if", "not", "exists")
    table = reader.name()
    yield Change("create table", table)
    if reader.take("partition", "of"):
        yield Change("attach partition", reader.name())
        return
    if reader.peek() != "(":
        return
    for item in parts(reader.group()):
        piece = Reader(item)
        if is_constraint(piece):
            made = constraint(piece)
            yield Change("add constraint", table, name=made.name, constraint=made)
        elif piece.peek() != "like":
            yield from _column_added(table, piece)


def _column_added(table: Name, reader: Reader) -> Iterator[Change]:
    found = column(reader)
    yield Change("add column", table, name=found.name, column=found)


def _create_index(reader: Reader, *, unique: bool) -> Iterator[Change]:
    concurrently = reader.take("concurrently")
    reader.take("if", "not", "exists")
    name = None if reader.peek() == "on" else reader.identifier()
    if not reader.take("on"):
        return
    reader.take("only")
    table = reader.name()
    method = reader.identifier() if reader.take("using") else "btree"
    keys = tuple(map(_plain_key, parts(reader.group())))
    include: tuple[str, ...] = ()
    if reader.take("include"):
        include = tuple(" ".join(part) for part in parts(reader.group()))
    where = bare(reader.rest()) if reader.skip_to("where") else ()
    index = Index(unique, method, keys, include, where)
    yield Change("create index", table, name=name, index=index, concurrently=concurrently)


def _plain_key(key: tuple[str, ...]) -> tuple[str, ...]:
    """A key without what is so anyway: ASC, NULLS LAST, all parentheses around it but one."""
    is_default = ("nulls", "first") if "desc" in key else ("nulls", "last")
    if key[-2:] == is_default:
        key = key[:-2]
    key = key[:-1] if key[-1:] == ("asc",) else key
    if key[:1] != ("(",):
        return (identifier(key[0]), *key[1:])
    reader = Reader(key)
    return ("(", *bare(reader.group()), ")", *reader.rest())


def bare(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Tokens without parentheses around the whole of them."""
    while tokens[:1] == ("(",) and Reader(tokens).group() == tokens[1:-1]:
        tokens = tokens[1:-1]
    return tokens


# ── alter ────────────────────────────────────────────────────────────────────────────────


def _alter_table(reader: Reader) -> Iterator[Change]:
    reader.take("if", "exists")
    reader.take("only")
    table = reader.name()
    reader.take("*")
    for item in parts(reader.rest()):
        yield _altered(table, Reader(item))


def _altered(table: Name, reader: Reader) -> Change:
    for words, read in _ALTERATIONS:
        if reader.take(*words):
            return read(table, reader)
    return Change("alter table", table, type=reader.rest())


def _added(table: Name, reader: Reader) -> Change:
    if is_constraint(reader):
        made = constraint(reader)
        return Change("add constraint", table, name=made.name, constraint=made)
    reader.take("column")
    reader.take("if", "not", "exists")
    found = column(reader)
    return Change("add column", table, name=found.name, column=found)


def _dropped(table: Name, reader: Reader) -> Change:
    kind = "drop constraint" if reader.take("constraint") else "drop column"
    reader.take("column")
    reader.take("if", "exists")
    return Change(kind, table, name=reader.identifier(), cascade=reader.ends("cascade"))


def _column_altered(table: Name, reader: Reader) -> Change:
    reader.take("column")
    name = reader.identifier()
    if reader.take("type") or reader.take("set", "data", "type"):
        return Change("alter column type", table, name=name, type=reader.until("using", "collate"))
    if reader.take("set", "not", "null"):
        return Change("set not null", table, name=name)
    return Change("alter column", table, name=name, type=reader.rest())


def _validated(table: Name, reader: Reader) -> Change:
    return Change("validate constraint", table, name=reader.identifier())


def _renamed(table: Name, reader: Reader) -> Change:
    if reader.take("to"):
        return Change("rename table", table, name=reader.identifier())
    kind = "rename constraint" if reader.take("constraint") else "rename column"
    reader.take("column")
    return Change(kind, table, name=reader.identifier())


def _attached(table: Name, reader: Reader) -> Change:
    del reader
    return Change("attach partition", table)


def _detached(table: Name, reader: Reader) -> Change:
    return Change("detach partition", table, concurrently=reader.ends("concurrently"))


_ALTERATIONS: Final[tuple[tuple[tuple[str, ...], Callable[[Name, Reader], Change]], ...]] = (
    (("add",), _added),
    (("drop",), _dropped),
    (("alter",), _column_altered),
    (("validate", "constraint"), _validated),
    (("rename",), _renamed),
    (("attach", "partition"), _attached),
    (("detach", "partition"), _detached),
)


def _alter_type(reader: Reader) -> Iterator[Change]:
    of = reader.name()
    if reader.take("add", "value"):
        reader.take("if", "not", "exists")
        yield Change("add enum value", of, name=reader.next().strip("'").replace("''", "'"))
    elif reader.take("rename", "to"):
        yield Change("rename type", of, name=reader.identifier())
    else:
        yield Change("alter type", of, type=reader.rest())


# ── drop, and what locks a table whole ───────────────────────────────────────────────────

_DROPPED: Final = (
    "table",
    "index",
    "view",
    "materialized view",
    "type",
    "domain",
    "function",
    "procedure",
)


def _drop(reader: Reader) -> Iterator[Change]:
    kind = next((kind for kind in _DROPPED if reader.take(*kind.split())), None)
    if kind is None:
        return
    concurrently = reader.take("concurrently")
    reader.take("if", "exists")
    cascade = reader.ends("cascade")
    for item in parts(reader.rest()):
        name = Reader(item).name()
        yield Change(f"drop {kind}", name, concurrently=concurrently, cascade=cascade)


def _truncate(reader: Reader) -> Iterator[Change]:
    reader.take("table")
    cascade = reader.ends("cascade")
    for item in parts(reader.rest()):
        piece = Reader(item)
        piece.take("only")
        yield Change("truncate", piece.name(), cascade=cascade)


def _cluster(reader: Reader) -> Iterator[Change]:
    reader.take("verbose")
    if reader.peek():
        yield Change("cluster", reader.name())


def _vacuum(reader: Reader) -> Iterator[Change]:
    options = reader.group() if reader.peek() == "(" else ()
    full = reader.take("full") or "full" in options
    while reader.take_any("freeze", "verbose", "analyze", "full"):
        pass
    if full and reader.peek():
        yield Change("vacuum full", reader.name())


def _reindex(reader: Reader) -> Iterator[Change]:
    options = reader.group() if reader.peek() == "(" else ()
    if reader.take("table"):
        concurrently = reader.take("concurrently") or "concurrently" in options
        yield Change("reindex", reader.name(), concurrently=concurrently)


def _refresh(reader: Reader) -> Iterator[Change]:
    concurrently = reader.take("concurrently")
    yield Change("refresh", reader.name(), concurrently=concurrently)


_Form = Callable[[Reader], Iterator[Change]]
_FORMS: Final[tuple[tuple[tuple[str, ...], _Form], ...]] = (
    (("create",), _create),
    (("alter", "table"), _alter_table),
    (("alter", "type"), _alter_type),
    (("drop",), _drop),
    (("truncate",), _truncate),
    (("cluster",), _cluster),
    (("vacuum",), _vacuum),
    (("reindex",), _reindex),
    (("refresh", "materialized", "view"), _refresh),
)
