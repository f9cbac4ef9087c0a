"""The recogniser of DDL, held equal to PostgreSQL's own parser (pglast) on a corpus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pglast
import pytest
from pglast import ast
from pglast.enums import AlterTableType as A
from pglast.enums import ConstrType as C
from pglast.enums import ObjectType as O

from negspace.migrate.ddl import Change, Column, Constraint, Name, changes
from negspace.migrate.lexer import Statement, split

OWN = sorted((Path(__file__).parent.parent / "src/negspace/sql/migrations").glob("*.sql"))
EVERY_KIND = Path(__file__).parent / "migrations/every_kind.sql"

FORMS = [
    'create table "A b".t (id bigint generated always as identity primary key, "C" text null)',
    "create table if not exists t (a int not null default 3, b numeric(10, 2) default (1 + 2))",
    "create unlogged table t (exclude int, check (exclude in (1, 2)), constraint c unique (a, b))",
    "create table t (a int constraint n references x.y (id) on delete set null not null, b int)",
    "create table t (foreign key (a, b) references y (c, d) match full deferrable, a int, b int)",
    "create table t (a text collate \"C\" default 'x'::text check (a <> ''), b serial unique)",
    "create table t (a int generated always as (b * 2) stored, b int[] default array[1, 2])",
    "create table t (like u including all, primary key (a), exclude using gist (a with &&))",
    "create table p partition of q for values in (1)",
    "create temp table t (a timestamp with time zone default now() not null)",
    "create index on t (a)",
    "create unique index concurrently if not exists i on only s.t using btree (a desc, lower(b))",
    "create index i on t using gin (a jsonb_path_ops) include (c, d) where (x > 3) and y",
    "create index i on t (a nulls last, b desc nulls first, (c + 1)) with (fillfactor = 70)",
    "alter table if exists only t add column if not exists a int not null, add b text default ''",
    "alter table t add constraint c check (a > 0) not valid, validate constraint d",
    "alter table t add foreign key (a) references b not valid, add unique using index i",
    "alter table t add constraint k primary key using index i, drop constraint if exists c cascade",
    "alter table t alter column a type varchar(10) using a::text, alter b set data type text",
    "alter table t alter a set not null, alter column b drop not null, alter c set default 3",
    "alter table t drop column if exists a cascade, drop b",
    "alter table t set (fillfactor = 70), enable row level security, set logged",
    "alter table t attach partition p for values in (1)",
    "alter table t detach partition p concurrently",
    "alter table s.t rename to u",
    "alter table t rename column a to b",
    "alter table t rename a to b",
    "alter table t rename constraint a to b",
    "alter type s.e add value if not exists 'it''s' before 'x'",
    "alter type e rename to f",
    "alter type e rename value 'a' to 'b'",
    "create type s.e as enum ('a', 'b')",
    "create type c as (a int, b text)",
    "create domain d as text check (value <> '')",
    "create or replace view s.v as select 1",
    "create materialized view m as select 1",
    "create or replace function s.f(a int) returns int language sql as 'select 1'",
    "create procedure p() language sql as 'select 1'",
    "create trigger g before insert on s.t for each row execute function f()",
    "create or replace trigger g after update of a on t execute function f()",
    "create constraint trigger g after insert on t for each row execute function f()",
    "create policy p on s.t using (true)",
    "drop table if exists a, s.b cascade",
    "drop index concurrently if exists i",
    "drop type e restrict",
    "drop domain d",
    "drop function if exists f(int, text), s.g cascade",
    "drop procedure p()",
    "drop view v, w",
    "drop materialized view m",
    "truncate table only a, s.b cascade",
    "cluster t using i",
    "vacuum full t",
    "vacuum (full, analyze) s.t",
    "vacuum t",
    "reindex table concurrently t",
    "reindex (verbose) table s.t",
    "refresh materialized view concurrently m",
    "select 1",
    "insert into t values (1)",
    "comment on table t is 'create index i on t (a)'",
    "grant select on t to u",
]

Row = tuple[object, ...]
KEYS = {
    C.CONSTR_PRIMARY: "primary key",
    C.CONSTR_UNIQUE: "unique",
    C.CONSTR_FOREIGN: "foreign key",
    C.CONSTR_CHECK: "check",
    C.CONSTR_EXCLUSION: "exclude",
}


# ── what ours says, and what PostgreSQL's parser says, in the same words ─────────────────


def ours(statement: Statement) -> list[Row]:
    return [our_row(change) for change in changes(statement)]


def our_row(change: Change) -> Row:
    detail: object = None
    if change.column:
        detail = our_column(change.column)
    elif change.constraint:
        detail = our_constraint(change.constraint)
    elif change.index:
        index = change.index
        desc = tuple("desc" in key for key in index.keys)
        detail = (
            index.unique,
            index.method,
            index.columns,
            desc,
            len(index.include),
            bool(index.where),
        )
    return change.kind, change.object, change.name, detail, change.concurrently, change.cascade


def our_column(column: Column) -> Row:
    return (
        column.name,
        column.not_null,
        column.default is not None,
        column.stored,
        tuple(our_constraint(made) for made in column.constraints),
    )


def our_constraint(made: Constraint) -> Row:
    columns = made.columns if made.kind != "exclude" else ()
    return (
        made.kind,
        made.name,
        columns,
        made.references,
        made.referenced,
        bool(made.expression),
        made.valid,
        made.using_index,
    )


def texts(nodes: object) -> tuple[str, ...]:
    return tuple(node.sval for node in nodes or ())


def ranged(node: ast.RangeVar) -> Name:
    return Name(node.schemaname, node.relname)


def listed(nodes: object) -> Name:
    found = texts(nodes)
    return Name(found[-2] if len(found) > 1 else None, found[-1])


def theirs(node: ast.Node) -> Iterator[Row]:
    name = type(node).__name__
    if name in THEIRS:
        yield from (row if len(row) == 6 else (*row, False, False) for row in THEIRS[name](node))


def create_table(node: ast.CreateStmt) -> Iterator[Row]:
    table = ranged(node.relation)
    yield "create table", table, None, None
    if node.partbound:
        yield "attach partition", ranged(node.inhRelations[0]), None, None
        return  # its columns are the parent's
    for element in node.tableElts or ():
        if isinstance(element, ast.ColumnDef):
            yield "add column", table, element.colname, their_column(element)
        elif isinstance(element, ast.Constraint):
            yield "add constraint", table, element.conname, their_constraint(element)


SERIAL = {"serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"}


def their_column(node: ast.ColumnDef) -> Row:
    found = node.constraints or ()
    kinds = {one.contype for one in found}
    stored = bool(kinds & {C.CONSTR_IDENTITY, C.CONSTR_GENERATED})
    type_name = texts(node.typeName.names)[-1] if node.typeName else ""
    return (
        node.colname,
        C.CONSTR_NOTNULL in kinds,
        C.CONSTR_DEFAULT in kinds,
        stored or type_name in SERIAL,
        tuple(their_constraint(one, node.colname) for one in found if one.contype in KEYS),
    )


def their_constraint(node: ast.Constraint, column: str | None = None) -> Row:
    kind = KEYS[node.contype]
    columns = texts(node.fk_attrs if kind == "foreign key" else node.keys)
    if column is not None and kind != "check":
        columns = (column,)
    return (
        kind,
        node.conname,
        columns,
        ranged(node.pktable) if node.pktable else None,
        texts(node.pk_attrs),
        kind == "check",
        not node.skip_validation,
        node.indexname,
    )


def create_index(node: ast.IndexStmt) -> Iterator[Row]:
    keys = tuple(key.name for key in node.indexParams)
    desc = tuple(key.ordering == 2 for key in node.indexParams)
    more = len(node.indexIncludingParams or ()), node.whereClause is not None
    detail = bool(node.unique), node.accessMethod, keys, desc, *more
    yield "create index", ranged(node.relation), node.idxname, detail, bool(node.concurrent), False


PLAIN = {
    A.AT_DropColumn: "drop column",
    A.AT_DropConstraint: "drop constraint",
    A.AT_ValidateConstraint: "validate constraint",
    A.AT_AlterColumnType: "alter column type",
    A.AT_SetNotNull: "set not null",
    A.AT_DropNotNull: "alter column",
    A.AT_ColumnDefault: "alter column",
    A.AT_SetStatistics: "alter column",
    A.AT_SetStorage: "alter column",
    A.AT_SetOptions: "alter column",
}


def alter_table(node: ast.AlterTableStmt) -> Iterator[Row]:
    if node.objtype != O.OBJECT_TABLE:
        return
    table = ranged(node.relation)
    for command in node.cmds:
        if command.subtype == A.AT_AddColumn:
            yield "add column", table, command.def_.colname, their_column(command.def_)
        elif command.subtype == A.AT_AddConstraint:
            yield "add constraint", table, command.def_.conname, their_constraint(command.def_)
        elif command.subtype == A.AT_AttachPartition:
            yield "attach partition", table, None, None
        elif command.subtype == A.AT_DetachPartition:
            yield "detach partition", table, None, None, bool(command.def_.concurrent), False
        elif command.subtype in PLAIN:
            cascade = command.behavior == 1
            yield PLAIN[command.subtype], table, command.name, None, False, cascade
        else:
            yield "alter table", table, None, None


def rename(node: ast.RenameStmt) -> Iterator[Row]:
    if node.renameType == O.OBJECT_TYPE:
        yield "rename type", listed(node.object), node.newname, None
    elif O.OBJECT_TABLE in {node.renameType, node.relationType}:
        table = ranged(node.relation)
        if node.renameType == O.OBJECT_TABLE:
            yield "rename table", table, node.newname, None
        elif node.renameType == O.OBJECT_COLUMN:
            yield "rename column", table, node.subname, None
    elif node.renameType == O.OBJECT_TABCONSTRAINT:
        yield "rename constraint", ranged(node.relation), node.subname, None


DROPS = {
    O.OBJECT_TABLE: "table",
    O.OBJECT_INDEX: "index",
    O.OBJECT_VIEW: "view",
    O.OBJECT_MATVIEW: "materialized view",
    O.OBJECT_TYPE: "type",
    O.OBJECT_DOMAIN: "domain",
    O.OBJECT_FUNCTION: "function",
    O.OBJECT_PROCEDURE: "procedure",
}


def drop(node: ast.DropStmt) -> Iterator[Row]:
    for what in node.objects if node.removeType in DROPS else ():
        names = what.names if isinstance(what, ast.TypeName) else what
        names = what.objname if isinstance(what, ast.ObjectWithArgs) else names
        kind = f"drop {DROPS[node.removeType]}"
        yield kind, listed(names), None, None, bool(node.concurrent), node.behavior == 1


def alter_enum(node: ast.AlterEnumStmt) -> Iterator[Row]:
    if node.oldVal is None:
        yield "add enum value", listed(node.typeName), node.newVal, None
    else:
        yield "alter type", listed(node.typeName), None, None


def vacuum(node: ast.VacuumStmt) -> Iterator[Row]:
    if any(option.defname == "full" for option in node.options or ()):
        yield "vacuum full", ranged(node.rels[0].relation), None, None


def reindex(node: ast.ReindexStmt) -> Iterator[Row]:
    if node.kind == 1:
        concurrently = any(o.defname == "concurrently" for o in node.params or ())
        yield "reindex", ranged(node.relation), None, None, concurrently, False


def function(node: ast.CreateFunctionStmt) -> Iterator[Row]:
    kind = "create procedure" if node.is_procedure else "create function"
    yield kind, listed(node.funcname), None, None


def table_as(node: ast.CreateTableAsStmt) -> Iterator[Row]:
    made = "create table" if node.objtype == O.OBJECT_TABLE else "create materialized view"
    yield made, ranged(node.into.rel), None, None


THEIRS = {
    "CreateStmt": create_table,
    "CreateTableAsStmt": table_as,
    "IndexStmt": create_index,
    "AlterTableStmt": alter_table,
    "RenameStmt": rename,
    "DropStmt": drop,
    "AlterEnumStmt": alter_enum,
    "VacuumStmt": vacuum,
    "ReindexStmt": reindex,
    "CreateFunctionStmt": function,
    "AlterTypeStmt": lambda n: [("alter type", listed(n.typeName), None, None)],
    "CreateEnumStmt": lambda n: [("create type", listed(n.typeName), None, None)],
    "CompositeTypeStmt": lambda n: [("create type", ranged(n.typevar), None, None)],
    "CreateRangeStmt": lambda n: [("create type", listed(n.typeName), None, None)],
    "CreateDomainStmt": lambda n: [("create domain", listed(n.domainname), None, None)],
    "ViewStmt": lambda n: [("create view", ranged(n.view), None, None)],
    "CreateTrigStmt": lambda n: [("create trigger", ranged(n.relation), n.trigname, None)],
    "CreatePolicyStmt": lambda n: [("create policy", ranged(n.table), n.policy_name, None)],
    "ClusterStmt": lambda n: [("cluster", ranged(n.relation), None, None)] if n.relation else [],
    "RefreshMatViewStmt": lambda n: [
        ("refresh", ranged(n.relation), None, None, bool(n.concurrent), False)
    ],
    "TruncateStmt": lambda n: [
        ("truncate", ranged(r), None, None, False, n.behavior == 1) for r in n.relations
    ],
}


# ── the tests ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read_as_postgresql_reads_it(form):
    (statement,) = split(form).statements
    (parsed,) = pglast.parse_sql(form)
    assert ours(statement) == list(theirs(parsed.stmt))


# What these change is no object of a plan: settings of functions, lines of their bodies.
SETTINGS_ALONE = {"042_seal_by_index", "044_search_by_bands", "054_look_once"}


@pytest.mark.parametrize("path", [*OWN, EVERY_KIND], ids=lambda path: path.name)
def test_a_script_is_read_as_postgresql_reads_it(path):
    seen = 0
    for statement in split(path.read_text(encoding="utf-8")).statements:
        (parsed,) = pglast.parse_sql(statement.text)
        expected = list(theirs(parsed.stmt))
        assert ours(statement) == expected, statement.text
        seen += len(expected)
    assert bool(seen) is (path.name.split(".")[0] not in SETTINGS_ALONE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(a)", '("a" asc nulls last)'),
        ("(a desc)", "(a desc nulls first)"),
        ("(a) where (b > 1)", "(a) where b > 1"),
        ("((a + 1))", "(((a + 1)))"),
        ("((a + 1) desc)", "(((a + 1)) desc nulls first)"),
    ],
)
def test_what_means_the_same_index_is_equal(one, other):
    (left,), (right,) = (
        changes(split(f"create index i on t {keys}").statements[0]) for keys in (one, other)
    )
    assert left == right
    (third,) = changes(split("create index i on t (a, z)").statements[0])
    assert left.index != third.index
