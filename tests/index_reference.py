"""The table of docs/indexes.md, from the comments in the catalog.

python tests/index_reference.py DATABASE_URL    writes it anew
"""

from __future__ import annotations

import sys
from pathlib import Path

from negspace import database

PAGE = Path(__file__).parent.parent / "docs/indexes.md"
BEGIN, END = "<!-- from the catalog -->\n", "<!-- end -->\n"

INDEXES = """
    select t.relname as relation, c.relname as name, i.indisunique as is_unique,
           a.amname as method,
           (select string_agg(pg_get_indexdef(c.oid, n, true)
                              || case when a.amname <> 'btree' then ''
                                      when i.indoption[n - 1] = 3 then ' desc'
                                      when i.indoption[n - 1] = 1 then ' desc nulls last'
                                      else '' end, ', ' order by n)
            from generate_series(1, i.indnkeyatts) n) as columns,
           pg_get_expr(i.indpred, i.indrelid, true) as predicate,
           obj_description(c.oid, 'pg_class') as comment
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_class t on t.oid = i.indrelid
    join pg_am a on a.oid = c.relam
    where c.relnamespace = 'public'::regnamespace and not c.relispartition
    order by t.relname, i.indisprimary desc, c.relname"""


def table(connection: database.Connection) -> str:
    """One part per table of the database, one line per index."""
    lines: list[str] = []
    relation = None
    for row in database.rows(connection, INDEXES):
        if row["relation"] != relation:
            relation = row["relation"]
            lines += ["", f"### {relation}", "", "| index | on | serves |", "| --- | --- | --- |"]
        kind = "unique " if row["is_unique"] else "" if row["method"] == "btree" else row["method"]
        where = f" where {plain(row['predicate'])}" if row["predicate"] else ""
        on = f"{kind.strip()} ({row['columns']}){where}".strip()
        lines.append(f"| `{row['name']}` | {on} | {row['comment']} |")
    return "\n".join([*lines[1:], ""])


def plain(predicate: str) -> str:
    """A predicate as every version writes it, without the casts of its literals."""
    for cast in ("::text", "::queue_status", "::analysis_status", "::audit_status", "::jsonb"):
        predicate = predicate.replace(cast, "")
    return predicate


def written() -> str:
    """The table as the page has it."""
    return PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]


if __name__ == "__main__":
    with database.connect(sys.argv[1]) as connection:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(text.replace(written(), table(connection)), encoding="utf-8")
