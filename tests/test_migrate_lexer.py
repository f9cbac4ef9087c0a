"""The lexer, held equal to PostgreSQL's own parser (pglast) and to a running server."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pglast.parser
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from negspace import database
from negspace.migrate.lexer import Kind, LexError, Statement, split, tokenize

EVERY_KIND = Path(__file__).parent / "migrations/every_kind.sql"


def texts(script: str, **options: bool) -> list[str]:
    return [statement.text for statement in split(script, **options).statements]


VALID = [
    "select 1",
    "select 'a;b', 'it''s', '\\'",
    "select e'a\\';b', E'\\\\'",
    "select 'one'\n  'two;' -- between\n 'three'",
    "select e'a\\''\n'b\\';'",
    "select U&'d\\0061t;' uescape '!', u&\"d;t\"",
    "select b'101', X'1f', n'x;y'",
    'select 1 as "a;""b", 2 as "$$"',
    "select $$;$$, $a$ $$ ; $b$ $a$, $_x1$;$_x1$",
    "select a$b$c from (select 1 as a$b$c) as x",
    "select 1 /* ; /* nested ; */ ; */ + 2 -- ; '\n, 3",
    "select 1.5e3, .5, 1., 2 ::int, (array[1,2])[1]",
    "select 5 %-3, 5*-1, 3-(-2), '{\"a\":1}'::jsonb ?| array['a']",
    "create rule r as on insert to t do also (select 1; select (2); delete from t)",
    "create function f(a int) returns int language sql begin atomic select 1; select 2; end",
    "create or replace procedure begin() language sql begin atomic\n"
    "  select case when true then 1 else case 2 when 2 then 3 end end as x;\n"
    "  select 1 as end; end",
    "create function f() returns int language sql begin atomic end",
    "create function atomic(begin int) returns int return begin",
    "create table begin (atomic int, begin int)",
    "do $do$ begin perform ';'; end $do$",
    "begin",
    "commit",
    "prepare p as select $1::int, $2",
    "create function g() returns text language plpgsql as 'begin return '';''; end;'",
    "select 'é;ü', \"ñ\", ö from x",
]


@pytest.mark.parametrize("statement", VALID)
def test_a_statement_stays_whole(statement):
    assert texts(statement) == [statement]
    assert texts(f"-- before\n;; {statement} ;\n/* after */") == [statement]
    assert [s.strip() for s in pglast.parser.split(statement)] == [statement]


@given(
    st.lists(st.sampled_from(VALID), max_size=6), st.sampled_from([";", " ;\n", ";/* ; */;--;\n"])
)
@settings(deadline=None, max_examples=150)
def test_statements_are_split_as_postgresql_splits_them(statements, separator):
    script = separator.join(statements)
    assert texts(script) == statements
    assume(script.strip())
    assert [s.strip() for s in pglast.parser.split(script)] == statements


def test_a_large_script_is_split_as_postgresql_splits_it():
    script = EVERY_KIND.read_text(encoding="utf-8")
    assert texts(script) == [s.strip() for s in pglast.parser.split(script)]
    assert len(texts(script)) > 80


MARKS = """
    ' '' " "" $$ $a$ $a $1 /* */ -- e' E'\\ u&' U&" b' x' n' ; ( ) + - ->> -@ @- =- >= <> := :: ..
    . , 1 1.5 1e5 .5 1. begin atomic end create function a é # ! ? | % ^ & ~ ` * / < > = [ ] :
"""
PIECES = st.lists(
    st.one_of(
        st.sampled_from([*MARKS.split(), " ", "\n", "\r\n"]),
        st.text(alphabet="ab1'\"$/*-; \n\te&U_é", max_size=4),
    ),
    max_size=14,
).map("".join)


@given(PIECES)
@settings(deadline=None, max_examples=2000)
@example("e'\\''\n'\\''")
@example("'a'--x\n'b'")
@example("@-+ =-1 *-- x\n1")
def test_tokens_are_those_of_postgresqls_scanner(text):
    try:
        expected = [
            (token.start, token.end + 1, token.name.endswith("COMMENT"))
            for token in pglast.parser.scan(text)
        ]
    except pglast.parser.ParseError:
        return
    try:
        found = [(t.start, t.end, t.kind is Kind.COMMENT) for t in tokenize(text)]
    except LexError as refused:
        found = expected if text[refused.offset] == "\\" else []  # the parser refuses those
    assert found == expected


@given(PIECES)
@settings(deadline=None, max_examples=1000)
def test_whatever_the_scanner_refuses_as_unterminated_is_refused(text):
    try:
        list(tokenize(text))
    except LexError as refused:
        if text[refused.offset] == "\\":
            return
        with pytest.raises(pglast.parser.ParseError):
            pglast.parser.scan(text)


LITERALS = st.sampled_from(
    [
        "'a;b'",
        "'\\'",
        "e'\\';'",
        "$$;$$",
        "$x$ $$; $x$",
        "'a'\n'b;'",
        "U&'\\0061;'",
        "/*;*/ 1",
        "n';'",
        "1 -- ;\n",
        '1 as ";"',
        "(select ';')",
        "5 *-3",
        "e'\\\\' /* ; /* ; */ */",
    ]
)


@given(st.lists(st.lists(LITERALS, min_size=1, max_size=4), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_the_server_gives_the_same_rows_for_the_script_and_for_its_statements(postgres, statements):
    script = ";\n".join("select " + ", ".join(items) for items in statements)
    found = texts(script)
    assert len(found) == len(statements)
    with database.connect(postgres.superuser(), autocommit=True) as connection:
        cursor = connection.cursor()
        cursor.execute(script.encode())
        whole = [list(cursor.fetchall()[0].values())]
        while cursor.nextset():
            whole.append(list(cursor.fetchall()[0].values()))
        single = [list(connection.execute(s.encode()).fetchall()[0].values()) for s in found]
    assert single == whole


def test_backslashes_are_escapes_where_strings_are_not_standard():
    assert canonical("set standard_conforming_strings = off; select 'a\\''\n'\\';'")[1] == (
        "select",
        "'a\\'\\';'",
    )
    script = "select 'a\\'; b'; select 2"
    assert texts(script, standard_strings=False) == ["select 'a\\'; b'", "select 2"]
    switched = [
        "set standard_conforming_strings = off",
        "select 'a\\'; b'",
        "reset standard_conforming_strings",
        "select '\\'",
    ]
    assert texts(";".join(switched)) == switched


def test_a_statement_knows_its_place():
    script = "-- é\r\n  select 1;\r\n\r\n\tselect\r\n 2"
    one, two = split(script).statements
    assert (one.line, one.column, script[one.offset :][:8]) == (2, 3, "select 1")
    assert (two.line, two.column) == (4, 2)
    assert split(script).position(script.index("2")) == (5, 2)


@pytest.mark.parametrize(
    ("script", "says", "offset"),
    [
        ("select 'abc", "string is never closed", 7),
        ("select 1; select $x$ $$", "dollar quote $x$ is never closed", 17),
        ('select "abc', "quoted identifier is never closed", 7),
        ("/* /* */ select 1", "comment is never closed", 0),
        ("select (1; select 2", "parenthesis is never closed", 7),
        ("create function f() returns int begin atomic select 1;", "BEGIN ATOMIC is never", 38),
        ("select 1;\n\\connect other", "psql command \\connect", 10),
        ("select 1\0", "NUL character", 8),
    ],
)
def test_what_cannot_be_split_is_refused_with_its_place(script, says, offset):
    with pytest.raises(LexError, match=says.replace("\\", "\\\\").replace("$", "\\$")) as refused:
        split(script)
    assert refused.value.offset == offset
    assert refused.value.hint


def canonical(script: str) -> list[tuple[str, ...]]:
    return [statement.tokens for statement in split(script).statements]


@given(st.sampled_from(VALID), st.sampled_from([" ", "\t", "\r\n\t", " /* x */", " -- x\n"]))
@settings(deadline=None)
def test_tokens_do_not_see_comments_white_space_and_line_ends(statement, between):
    (found,) = split(statement).statements
    pieces = [statement[t.start : t.end] for t in tokenize(statement) if t.kind is not Kind.COMMENT]
    spaced = pieces[0]
    for one, other in pairwise(pieces):
        # Two strings with a line break between them would be one.
        spaced += (" " if one.endswith("'") and other.startswith("'") else between) + other
    assert canonical(spaced) == [found.tokens]


def test_tokens_see_what_has_a_meaning():
    assert canonical("SELECT Foo, 'Bar'") == canonical("select\nfoo,'Bar' -- x\n;;")
    assert canonical("select 'a'\r\n  'b'") == canonical("select 'ab'")
    assert canonical("select $$a\r\nb$$") == canonical("select $$a\nb$$")
    for one, other in [
        ("select 'a'", "select 'A'"),
        ('select "a"', 'select "A"'),
        ("select 'a b'", "select 'a  b'"),
        ("select 1; select 2", "select 1 select 2"),
        ("select 1 - -1", "select 1 + 1"),
        ("select $$ -- a$$", "select $$ -- b$$"),
    ]:
        assert canonical(one) != canonical(other)


def test_begins():
    (statement,) = split("CREATE /* x */ Index Concurrently i on t (a)").statements
    assert isinstance(statement, Statement)
    assert statement.begins("create", "index", "concurrently")
    assert not statement.begins("create", "table")
