"""A table as text: columns aligned, constraints inside, what else belongs to it below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["TableParts", "comment_on", "quoted", "render_table"]

_WIDEST_TYPE: Final = 30  # a longer one isn't aligned for
_ORDER: Final = ("PRIMARY", "UNIQUE", "EXCLUDE", "CHECK")
_MAXIMA: Final = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}


@dataclass(frozen=True)
class TableParts:
    """A table's row of the catalog, those of its columns, and of the constraints inside it."""

    table: Mapping[str, Any]
    columns: Sequence[Mapping[str, Any]]
    constraints: Sequence[Mapping[str, Any]]


def quoted(text: str) -> str:
    """A string literal that means the same whatever ``standard_conforming_strings`` says."""
    doubled = text.replace("'", "''")
    return "E'" + doubled.replace("\\", "\\\\") + "'" if "\\" in text else f"'{doubled}'"


def comment_on(target: str, row: Mapping[str, Any]) -> str:
    """The COMMENT statement on a line of its own, or nothing where there is no comment."""
    return "" if row["comment"] is None else f"\ncomment on {target} is {quoted(row['comment'])};"


def render_table(parts: TableParts) -> str:
    """The statements that make a table, without its indexes, triggers and foreign keys."""
    table, name = parts.table, parts.table["name"]
    kind = "create unlogged table" if table["unlogged"] else "create table"
    if table["is_partition"]:
        head = f"{kind} {name} partition of {table['parents'][0]}"
        body = _body([], parts.constraints)
        head += f"{body} {_bound(table['partition_bound'])}"
    else:
        local = [c for c in parts.columns if c["is_local"]]
        head = f"{kind} {name}{_body(local, parts.constraints) or ' ()'}"
        if table["parents"]:
            head += f" inherits ({', '.join(table['parents'])})"
    lines = [head + _tail(table) + ";"]
    lines += _afterwards(parts)
    text = "\n".join(lines) + comment_on(f"table {name}", table)
    return text + "".join(comment_on(f"column {name}.{c['name']}", c) for c in parts.columns)


def _bound(bound: str) -> str:
    return bound.lower() if bound == "DEFAULT" else bound.replace("FOR VALUES", "for values", 1)


def _tail(table: Mapping[str, Any]) -> str:
    tail = ""
    if table["partition_key"]:
        method, rest = table["partition_key"].split(" ", 1)
        tail += f" partition by {method.lower()} {rest}"
    if table["method"] not in {None, "heap"}:
        tail += f" using {table['method']}"
    if table["options"]:
        tail += f" with ({table['options']})"
    return tail


def _body(columns: Sequence[Mapping[str, Any]], constraints: Sequence[Mapping[str, Any]]) -> str:
    name = max((len(c["name"]) for c in columns), default=0)
    types = [len(_type(c)) for c in columns if len(_type(c)) <= _WIDEST_TYPE]
    type_ = max(types, default=0)
    lines = [
        f"    {c['name']:<{name}} {_type(c):<{type_}} {_qualifiers(c)}".rstrip() for c in columns
    ]
    ordered = sorted(constraints, key=lambda k: (_rank(k["body"]), k["name"]))
    lines += [f"    constraint {k['name']} {_indented(k['body'])}" for k in ordered]
    return " (\n" + ",\n".join(lines) + "\n)" if lines else ""


def _rank(body: str) -> int:
    word = body.split(" ", 1)[0]
    return _ORDER.index(word) if word in _ORDER else len(_ORDER)


def _indented(body: str) -> str:
    return body if "'" in body else body.replace("\n", "\n        ")


def _type(column: Mapping[str, Any]) -> str:
    compression = column["compression"]
    return column["type"] + (f" compression {compression}" if compression else "")


def _qualifiers(column: Mapping[str, Any]) -> str:
    said: list[str] = []
    if column["collation"]:
        said.append(f"collate {column['collation']}")
    if column["not_null"]:
        said.append("not null")
    if column["identity"]:
        how = "always" if column["identity"] == "a" else "by default"
        said.append(f"generated {how} as identity{_sequence_options(column)}")
    elif column["generated"]:
        kind = "stored" if column["generated"] == "s" else "virtual"
        said.append(f"generated always as ({column['default']}) {kind}")
    elif column["default"] is not None:
        said.append(f"default {column['default']}")
    return " ".join(said)


def _sequence_options(column: Mapping[str, Any]) -> str:
    """What the sequence of an identity column has that isn't the default."""
    up = column["seqincrement"] > 0
    high = _MAXIMA[column["type"]]
    low = 1 if up else -high - 1
    top = high if up else -1
    options = [
        ("start with", "seqstart", column["seqmin"] if up else column["seqmax"]),
        ("increment by", "seqincrement", 1),
        ("minvalue", "seqmin", low),
        ("maxvalue", "seqmax", top),
        ("cache", "seqcache", 1),
    ]
    said = [f"{word} {column[key]}" for word, key, usual in options if column[key] != usual]
    said += ["cycle"] if column["seqcycle"] else []
    return f" ({' '.join(said)})" if said else ""


def _afterwards(parts: TableParts) -> list[str]:
    """What CREATE TABLE can't say on every version, or a partition says in its own way."""
    table = parts.table
    alter = f"alter table {'only ' if table['partition_key'] else ''}{table['name']}"
    lines: list[str] = []
    for column in parts.columns:
        alter_column = f"{alter} alter column {column['name']}"
        if not column["is_local"] or table["is_partition"]:
            lines += _overrides(alter_column, column)
        if column["storage"]:
            lines.append(f"{alter_column} set storage {column['storage']};")
        if column["statistics"] is not None:
            lines.append(f"{alter_column} set statistics {column['statistics']};")
        if column["options"]:
            lines.append(f"{alter_column} set ({column['options']});")
    lines += [f"{alter} enable row level security;"] if table["row_security"] else []
    lines += [f"{alter} force row level security;"] if table["forced_row_security"] else []
    if table["replica_identity"] in {"f", "n"}:
        how = "full" if table["replica_identity"] == "f" else "nothing"
        lines.append(f"{alter} replica identity {how};")
    return lines


def _overrides(alter_column: str, column: Mapping[str, Any]) -> list[str]:
    """Where an inherited column differs from the parent's."""
    lines: list[str] = []
    if column["not_null"] and not column["parent_not_null"]:
        lines.append(f"{alter_column} set not null;")
    if column["default"] != column["parent_default"] and not column["generated"]:
        default = column["default"]
        lines.append(f"{alter_column} {f'set default {default}' if default else 'drop default'};")
    return lines
