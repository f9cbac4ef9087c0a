"""Lint on a real server: each rule fires, not on its twin, and a waiver with a reason holds."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest

from negspace import migrate
from negspace.database import connect
from negspace.errors import MigrationFileError
from negspace.migrate import lint as linter
from negspace.migrate import squawk
from negspace.migrate.files import read_folder
from negspace.migrate.lint_rules import NO_WAY_DOWN, RULES

PAGE = Path(__file__).parent.parent / "docs/lint.md"
OWN = Path(__file__).parent.parent / "src/negspace/sql/migrations"

# What is there before: big has 16 MB of rows, small a handful, empty none.
THERE = """
    create table big (id bigint primary key, a bigint, b varchar(10), c text, parent bigint);
    insert into big select n, n, 'b', repeat('x', 100), n from generate_series(1, 100000) as n;
    create index big_a on big (a);
    alter table big add constraint big_a_positive check (a > 0);
    alter table big add constraint big_b_there check (b is not null);
    create table small (id bigint primary key, a bigint, c text);
    insert into small select n, n from generate_series(1, 10) as n;
    create table empty (id bigint primary key, a bigint);
    create type color as enum ('red');
    create type unused as enum ('x');
    create table paint (id bigint primary key, color color);
    create function twice(n bigint) returns bigint language sql as 'select 2 * n';
    create function four(n bigint) returns bigint language plpgsql
        as 'begin return twice(twice(n)); end';
    create function lonely() returns int language sql as 'select 1';
    analyze;
"""
LARGE = linter.Thresholds(small_bytes=1 << 20, large_bytes=4 << 20, hot_per_second=1e9)
HOT = linter.Thresholds(hot_per_second=0.0001)
COLD = linter.Thresholds(hot_per_second=1e9)


@pytest.fixture(scope="module")
def address(postgres):
    made = postgres.create()
    with connect(made.owner, autocommit=True) as connection:
        connection.execute(THERE.encode())
    yield made.owner
    postgres.drop(made.name)


def write(folder: Path, up: str, **more: str) -> Path:
    for name, sql in {"001_x.up.sql": up, "001_x.down.sql": "select 1"}.items():
        (folder / name).write_text(sql, encoding="utf-8")
    for name, sql in more.items():
        (folder / f"{name}.sql").write_text(sql, encoding="utf-8")
    return folder


@pytest.fixture
def check(address, tmp_path):
    def call(up: str, thresholds=LARGE, **options) -> linter.LintResult:
        folder = write(tmp_path, up)
        return linter.lint(folder, address, thresholds=thresholds, **options)

    return call


def ours(result: linter.LintResult) -> list[str]:
    return [finding.rule for finding in result.findings if finding.rule in RULES]


def rules(result: linter.LintResult) -> set[str]:
    return {finding.rule for finding in result.findings}


# ── our own rules: what fires, and its twin that doesn't ─────────────────────────────────

CASES = [
    (
        "blocks-large-table",
        [
            "create index i on big (c)",
            "alter table big alter column a type numeric",
            "alter table big alter column c set not null",
            "alter table big add column u uuid default gen_random_uuid()",
            "alter table big add constraint k check (a < 1000000)",
            "alter table big add foreign key (a) references small (id)",
            "alter table big add column s bigserial",
            "alter table public.big add unique (c)",
            "cluster big using big_a",
        ],
        [
            "create index i on small (c)",
            "create index i on empty (a)",
            "create index concurrently i on big (c)",
            "create table fresh (a bigint); create index i on fresh (a)",
            "alter table big alter column b type varchar(20)",
            "alter table big alter column b type text",
            "alter table big alter column b set not null",
            "alter table big add column u timestamptz default now()",
            "alter table big add column n bigint not null default 7",
            "alter table big add constraint k check (a < 1000000) not valid",
            "alter table big drop column c",
            "alter table big set (fillfactor = 70)",
        ],
    ),
    (
        "duplicate-index",
        [
            "create index i on big (a)",
            "create index i on big using btree (a asc nulls last)",
            "create unique index i on small (id)",
            "create index i on small (c); create index j on small (c)",
            "create table t (a bigint, unique (a)); create index i on t (a)",
        ],
        [
            "create index i on big (a desc)",
            "create unique index i on big (a)",
            "create index i on big (a) where a > 5",
            "drop index big_a; create index i on big (a)",
            "create index i on small (c); create index j on empty (a)",
        ],
    ),
    (
        "duplicate-constraint",
        [
            "alter table big add constraint k check (a > 0) not valid",
            "create table t (a int, constraint k check (a > 0), constraint l check ((a > 0)))",
            "alter table small add constraint k unique (id)"
            ", add constraint l unique (a), add constraint m unique (a)",
        ],
        [
            "alter table big add constraint k check (a > 1) not valid",
            "alter table big drop constraint big_a_positive;"
            " alter table big add constraint k check (a > 0) not valid",
            "alter table small add constraint l unique (a), add constraint m unique (c)",
        ],
    ),
    (
        "foreign-key-without-index",
        [
            "alter table big add constraint k foreign key (parent) references small not valid",
            "create table t (a bigint references small (id))",
            "create table t (a bigint references small); create index i on t (id, a)",
            "create table t (a bigint references small); create index i on t (a) where a > 3",
            "create table t (a bigint references small); create index i on t ((a + 1))",
        ],
        [
            "alter table big add constraint k foreign key (a) references small not valid",
            "create table t (a bigint references small (id), primary key (a))",
            "create table t (a bigint references small); create index i on t (a, id)",
            "create table t (a bigint references small); create index i on t (a)"
            " where a is not null",
        ],
    ),
    (
        "still-used",
        [
            "drop type color cascade",
            "drop function twice(bigint)",
            "drop function twice(bigint) cascade",
        ],
        [
            "drop type unused",
            "drop function lonely()",
            "drop table paint; drop type color",
            "drop function four(bigint); drop function twice(bigint)",
        ],
    ),
    (
        "enum-value-used",
        [
            "alter type color add value 'blue'; insert into paint values (1, 'blue')",
            "alter type color add value 'b''e'; update paint set color = 'b''e'",
        ],
        [
            "alter type color add value 'blue'; insert into paint values (1, 'red')",
            "-- negspace: no-transaction\nalter type color add value 'blue';"
            " insert into paint values (1, 'blue')",
            "create type mood as enum ('a'); alter type mood add value 'b'; select 'b'::mood",
            "alter type color add value 'blue'; alter type color add value 'x' after 'blue'",
        ],
    ),
]


def each(which: int) -> list[tuple[str, str]]:
    return [(case[0], sql) for case in CASES for sql in case[which]]


@pytest.mark.parametrize(("rule", "sql"), each(1))
def test_a_rule_fires_and_a_waiver_with_a_reason_holds(check, rule, sql):
    found = check(sql)
    assert rule in ours(found)
    said = next(finding for finding in found.findings if finding.rule == rule)
    assert said.message
    assert said.remedy
    allowed = check(f"-- negspace: allow {rule} in this file because it is a test\n{sql}")
    assert rule not in ours(allowed)
    assert {finding.waived for finding in allowed.waived} == {"it is a test"}


@pytest.mark.parametrize(("rule", "sql"), each(2))
def test_its_twin_is_left_alone(check, rule, sql):
    assert rule not in ours(check(sql))


def test_severities(check):
    assert [f.rule for f in check("create index i on big (c)").errors] == ["blocks-large-table"]
    assert [f.rule for f in check("drop type color cascade").errors] == ["still-used"]
    assert check("drop function twice(bigint)").errors == ()


def test_a_hot_table_wants_a_lock_timeout(check, address):
    with connect(address, autocommit=True) as connection:
        for _ in range(3):
            connection.execute("select count(*) from small")
        connection.execute("select count(*) from small")
    sql = "alter table small add column n int"
    without = partial(check, lock_timeout=False)
    assert ours(without(sql, HOT)) == ["missing-lock-timeout"]
    assert ours(without(sql, COLD)) == []
    assert ours(check(sql, HOT)) == []  # up has one by default
    assert ours(without(f"set lock_timeout = '2s'; {sql}", HOT)) == []
    assert ours(without(f"set local lock_timeout = '2s'; {sql}", HOT)) == []
    assert ours(without("create index concurrently i on small (c)", HOT)) == []
    allow = "-- negspace: allow missing-lock-timeout because the shop is shut\n"
    waived = without(allow + sql, HOT)
    assert ours(waived) == []
    assert [f.waived for f in waived.waived if f.rule in RULES] == ["the shop is shut"]


def test_a_down_that_is_missing_is_said_unless_it_says_why(address, tmp_path):
    (tmp_path / "001_x.up.sql").write_text("create table t (a text)")
    (tmp_path / "002_y.up.sql").write_text("-- negspace: irreversible it is gone\nselect 1")
    (tmp_path / "003_z.py").write_text("def up(connection): ...\n")
    (tmp_path / "004_z.py").write_text("def up(connection): ...\ndef down(connection): ...\n")
    (tmp_path / "005_v.py").write_text(
        "# negspace: allow no-way-down because nobody goes back\ndef up(connection): ...\n"
    )
    found = linter.lint(tmp_path, address)
    assert [(f.file.name, f.rule) for f in found.findings] == [
        ("001_x.up.sql", NO_WAY_DOWN),
        ("003_z.py", NO_WAY_DOWN),
    ]
    assert [f.rule for f in found.waived] == [NO_WAY_DOWN]


# ── squawk's rules ───────────────────────────────────────────────────────────────────────


def test_the_names_of_squawks_rules_are_squawks(tmp_path):
    (tmp_path / "x.sql").write_text("select 1;\n")

    def exclude(names: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [squawk.program(), f"--exclude={names}", "x.sql"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    names = squawk.RULES - {"unused-ignore"}  # a rule that can't be left out
    assert exclude(",".join(sorted(names))).returncode == 0
    assert exclude("no-such-rule").returncode != 0


def test_a_finding_of_squawk_has_its_place_and_remedy(check, tmp_path):
    found = check("select 'é';\nselect 1; alter table \"small\" /* é */ add column n int;")
    (one,) = found.findings
    assert (one.rule, one.line, one.column) == ("prefer-bigint-over-int", 2, 52)
    assert one.where == f"{tmp_path}/001_x.up.sql:2:52"
    assert "64-bit" in one.remedy
    assert one.severity == "warning"


def test_squawk_ignore_is_obeyed(check):
    assert rules(check("-- squawk-ignore prefer-bigint-over-int\ncreate table t (a int);")) == set()
    assert rules(check("create table t (a int);")) == {"prefer-bigint-over-int"}


@pytest.mark.parametrize(
    ("sql", "rule", "reason"),
    [
        ("create index i on small (c)", "require-concurrent-index-creation", "small"),
        ("create table t (a text); create index i on t (a)", None, None),
        (
            "create table t (a text); alter table t drop column a",
            "ban-drop-column",
            "same run",
        ),
        ("alter table big alter column b type text", "changing-column-type", "wider"),
        ("alter table big alter column b set not null", "adding-not-nullable-field", "PostgreSQL"),
        ("create index i on big (c)", "require-concurrent-index-creation", "blocks-large-table"),
    ],
)
def test_what_does_not_apply_is_counted_with_its_reason(check, sql, rule, reason):
    found = check(sql)
    reasons = {one.rule: one.reason for one in found.suppressed if "time-out" not in one.reason}
    assert rule not in rules(found)
    if rule is None:
        assert reasons == {}
    else:
        assert reason in reasons[rule]


def test_what_applies_stays(check):
    middle = linter.Thresholds(small_bytes=1 << 20, hot_per_second=1e9)
    assert rules(check("create index i on big (c)", middle)) == {
        "require-concurrent-index-creation"
    }
    assert rules(check("alter table big alter column a type numeric", middle)) == {
        "changing-column-type"
    }
    assert rules(check("alter table small drop column c")) == {"ban-drop-column"}


def test_a_down_may_drop_what_it_undoes(address, tmp_path):
    write(tmp_path, "create table t (a text)")
    (tmp_path / "001_x.down.sql").write_text("drop table t")
    found = linter.lint(tmp_path, address)
    assert found.findings == ()
    assert "ban-drop-table" in {one.rule for one in found.suppressed}


# ── waivers ──────────────────────────────────────────────────────────────────────────────


def test_a_waiver_holds_for_its_statement_only(check):
    found = check(
        "create table t (a int);\n"
        "-- negspace: allow prefer-bigint-over-int because it is a count\n"
        "create table u (\n    a int,\n    b int\n);\n"
        "create table v (\n    -- negspace: allow prefer-bigint-over-int because so\n    a int);\n"
        "create table w (a int);\n"
    )
    assert [finding.line for finding in found.findings] == [1, 10]
    assert [finding.line for finding in found.waived] == [4, 5, 9]


@pytest.mark.parametrize(
    "directive",
    ["allow", "allow still-used", "allow still-used because", "allow because so", "allow a b"],
)
def test_a_waiver_without_rule_or_reason_is_refused(address, tmp_path, directive):
    write(tmp_path, f"select 1;\n-- negspace: {directive}\nselect 2")
    (problem,) = migrate.validate(tmp_path)
    assert problem.line == 2
    assert "allow RULE because WHY" in problem.hint
    assert [(f.rule, f.line) for f in linter.lint(tmp_path, address).errors] == [
        ("invalid-file", 2)
    ]


def test_an_unknown_rule_is_refused(check):
    (error,) = check("-- negspace: allow no-such because so\nselect 1").errors
    assert (error.rule, error.line) == ("unknown-rule", 1)
    assert "no-such" in error.message


# ── what is linted ───────────────────────────────────────────────────────────────────────


def test_only_what_is_pending_is_linted(empty_database, tmp_path):
    write(tmp_path, "create table t (a int)")
    assert linter.lint(tmp_path, empty_database.owner).files == 2
    assert migrate.up(empty_database.owner, tmp_path).ok
    assert linter.lint(tmp_path, empty_database.owner).files == 0
    assert linter.lint(tmp_path).files == 2


def test_what_an_earlier_file_of_the_run_made_is_known(address, tmp_path):
    write(
        tmp_path,
        "create table t (a text)",
        **{"002_y.up": "create index i on t (a)", "002_y.down": "drop index i"},
    )
    assert linter.lint(tmp_path, address).findings == ()
    assert rules(linter.lint(tmp_path)) == {"require-concurrent-index-creation"}


def test_our_own_migrations_are_clean(empty_database):
    assert linter.lint(OWN).findings == ()
    online = linter.lint(OWN, empty_database.owner)
    assert online.findings == ()
    assert online.files == 2 * len(read_folder(OWN).migrations)


def test_up_with_the_guard_refuses_errors_and_touches_nothing(address, tmp_path):
    write(tmp_path, "create table never ();\ndrop type color cascade")
    guard = linter.linted(address, tmp_path)
    with pytest.raises(MigrationFileError, match=r"001_x\.up\.sql:2:1: still-used") as raised:
        migrate.up(address, tmp_path, guard=guard)
    assert "allow still-used because" in (raised.value.hint or "")
    assert migrate.history(address) == ()
    seen = []
    write(tmp_path, "select 1 from (select 'int') as x; create table n (a int); drop table n")
    guard = linter.linted(address, tmp_path, on_warnings=seen.append)
    assert migrate.up(address, tmp_path, guard=guard).ok
    assert [finding.rule for finding in seen[0].findings] == ["prefer-bigint-over-int"]
    assert migrate.down(address, tmp_path).ok


def test_each_rule_of_ours_has_its_section():
    sections = [
        line[3:].strip("`")
        for line in PAGE.read_text("utf-8").splitlines()
        if line.startswith("## `")
    ]
    assert sections == [*RULES, NO_WAY_DOWN]
