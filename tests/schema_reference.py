"""docs/reference.md and docs/entities.svg, from the comments and foreign keys in the catalog.

python tests/schema_reference.py DATABASE_URL    writes both anew
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import entity_diagram
from negspace import database

DOCS = Path(__file__).parent.parent / "docs"
PAGE, PICTURE = DOCS / "reference.md", DOCS / "entities.svg"
MIGRATIONS = DOCS.parent / "src/negspace/sql/migrations"

RELATIONS: Final = """
    select c.oid::int8 as oid, c.relname as name, c.relkind in ('r', 'p') as is_table,
           case c.relkind when 'p' then pg_get_partkeydef(c.oid) end as partitioned,
           obj_description(c.oid, 'pg_class') as comment
    from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v')
      and not c.relispartition
    order by c.relname"""

COLUMNS: Final = """
    select a.attrelid::int8 as relation, a.attname as name,
           format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as not_null,
           coalesce(pg_get_expr(d.adbin, d.adrelid, true),
                    case when a.attidentity <> '' then 'identity' end) as filled,
           col_description(a.attrelid, a.attnum) as comment
    from pg_attribute a
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attnum > 0 and not a.attisdropped
    order by a.attrelid, a.attnum"""

KEYS: Final = """
    select c.conrelid::int8 as relation, c.contype = 'p' as is_primary, t.relname as target,
           array(select a.attname::text from unnest(c.conkey) with ordinality k (number, n)
                 join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.number
                 order by n) as columns
    from pg_constraint c
    left join pg_class t on t.oid = c.confrelid
    where c.connamespace = 'public'::regnamespace and c.contype in ('p', 'f')
      and c.conparentid = 0
    order by c.conname"""

ROUTINES: Final = """
    select p.proname as name, pg_get_function_arguments(p.oid) as arguments,
           pg_get_function_result(p.oid) as result, p.prosecdef as definer,
           obj_description(p.oid, 'pg_proc') as comment
    from pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.prorettype <> 'trigger'::regtype
    order by p.proname, pg_get_function_identity_arguments(p.oid)"""

TYPES: Final = """
    select t.typname as name, obj_description(t.oid, 'pg_type') as comment,
           array(select e.enumlabel::text from pg_enum e where e.enumtypid = t.oid
                 order by e.enumsortorder) as labels
    from pg_type t
    where t.typnamespace = 'public'::regnamespace and t.typtype = 'e'
    order by t.typname"""

HEAD: Final = """# Schema reference

Written from the catalog's own comments by `make reference`; a test holds it equal to them. What
belongs together and why is in [schema.md](schema.md), the indexes are in [indexes.md](indexes.md).
Constraints stand in `src/negspace/sql/schema.sql`, each by its name.

![The tables and their foreign keys](entities.svg)
"""


def page(connection: database.Connection) -> str:
    """The whole page."""
    columns = _by_relation(database.rows(connection, COLUMNS))
    keys = _by_relation(database.rows(connection, KEYS))
    relations = _ours(database.rows(connection, RELATIONS))
    parts = [HEAD, "## Types\n", *map(_type, database.rows(connection, TYPES)), "## Tables\n"]
    parts += [_table(r, columns[r["oid"]], keys.get(r["oid"], [])) for r in _are(relations, True)]
    parts.append("## Views\n")
    parts += [_view(r, columns[r["oid"]]) for r in _are(relations, False)]
    parts.append("## Functions\n\n| function | does |\n| --- | --- |")
    parts += [_routine(row) for row in _ours(database.rows(connection, ROUTINES))]
    parts.append("\n## Migrations\n\n| migration | |\n| --- | --- |")
    parts += map(_migration, sorted(MIGRATIONS.glob("*.up.sql")))
    return "\n".join(parts) + "\n"


def picture(connection: database.Connection) -> str:
    """The diagram."""
    columns = _by_relation(database.rows(connection, COLUMNS))
    keys = _by_relation(database.rows(connection, KEYS))
    found: list[entity_diagram.Entity] = []
    for row in _are(_ours(database.rows(connection, RELATIONS)), True):
        own = keys.get(row["oid"], [])
        primary = {name for key in own if key["is_primary"] for name in key["columns"]}
        targets = {name: k["target"] for k in own if k["target"] for name in k["columns"][:1]}
        fields = tuple(
            entity_diagram.Field(c["name"], c["type"], c["name"] in primary, targets.get(c["name"]))
            for c in columns[row["oid"]]
        )
        found.append(entity_diagram.Entity(row["name"], fields))
    return entity_diagram.draw(found)


def _by_relation(rows: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["relation"], []).append(row)
    return found


def _ours(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the runner's own ledger, which is not part of the schema."""
    return [row for row in rows if not row["name"].startswith("negspace_migrations")]


def _are(rows: list[dict[str, Any]], tables: bool) -> list[dict[str, Any]]:
    return [row for row in rows if row["is_table"] is tables]


def _type(row: dict[str, Any]) -> str:
    labels = ", ".join(f"`{label}`" for label in row["labels"])
    return f"- `{row['name']}`: {labels}. {_cell(row['comment'])}\n"


def _table(row: dict[str, Any], columns: list[dict[str, Any]], keys: list[dict[str, Any]]) -> str:
    primary = {name for key in keys if key["is_primary"] for name in key["columns"]}
    target = {name: k["target"] for k in keys if k["target"] for name in k["columns"]}
    said = f" Partitioned by {_cell(row['partitioned']).lower()}." if row["partitioned"] else ""
    lines = [
        f"### {row['name']}\n",
        f"{_cell(row['comment'])}.{said}\n".replace("..", "."),
        "| column | type | | default | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for column in columns:
        name = column["name"]
        marks = ["primary key"] if name in primary else []
        marks += [f"→ [{target[name]}](#{target[name]})"] if name in target else []
        marks += [] if column["not_null"] else ["null"]
        filled = f"`{_plain(column['filled'])}`" if column["filled"] else ""
        lines.append(
            f"| `{name}` | {column['type']} | {', '.join(marks)} | {filled}"
            f" | {_cell(column['comment'])} |"
        )
    return "\n".join(lines) + "\n"


def _view(row: dict[str, Any], columns: list[dict[str, Any]]) -> str:
    names = ", ".join(f"`{column['name']}` {column['type']}" for column in columns)
    return f"### {row['name']}\n\n{_cell(row['comment'])}\n\n{names}\n"


def _routine(row: dict[str, Any]) -> str:
    call = f"{row['name']}({_plain(row['arguments'])}) → {row['result']}"
    definer = " Runs as its owner." if row["definer"] else ""
    return f"| `{_cell(call)}` | {_cell(row['comment'])}{'.' if definer else ''}{definer} |"


def _migration(file: Path) -> str:
    """What the file says of itself: the first paragraph of the comment at its top."""
    said = file.read_text("utf-8").partition("\n\n")[0].partition("\n--\n")[0]
    words = " ".join(line.removeprefix("--").strip() for line in said.splitlines())
    return f"| `{file.name.removesuffix('.up.sql')}` | {_cell(words)} |"


def _plain(text: str) -> str:
    """An expression as every version writes it, without the casts of its literals."""
    for cast in ("::text", "::jsonb", "::queue_status", "::analysis_status", "::user_role"):
        text = text.replace(cast, "")
    return _cell(text)


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def main() -> None:
    with database.connect(sys.argv[1]) as connection:
        PAGE.write_text(page(connection), encoding="utf-8")
        PICTURE.write_text(picture(connection), encoding="utf-8")


if __name__ == "__main__":
    main()
