"""Rows made from the catalog: every type, what checks and keys ask for, what can't be met."""

from __future__ import annotations

import pytest

from negspace.database import attempt, connect, rows
from negspace.migrate.filling import Filler
from negspace.migrate.session import open_session


@pytest.fixture
def fill(empty_database):
    """Run SQL, fill what it made; the reasons for what could not be filled, by table."""

    def call(script: str) -> dict[str, str]:
        with open_session(empty_database.owner) as connection:
            assert attempt(connection, script.encode()) is None
            return {one.table: one.reason for one in Filler(connection).fill()}

    return call


@pytest.fixture
def found(empty_database):
    def call(query: str) -> list[tuple]:
        with connect(empty_database.owner) as connection:
            return [tuple(row.values()) for row in rows(connection, query)]

    return call


TYPES = """
    smallint, integer, bigint, numeric, numeric(3,2), numeric(2,2), real, double precision, money,
    text, varchar(1), varchar(40), char(3), "char", name, boolean, bytea, uuid, date, time, timetz,
    timestamp, timestamptz(0), interval, inet, cidr, macaddr, macaddr8, json, jsonb, bit(8),
    bit, bit varying, point, line, lseg, box, path, polygon, circle, tsvector, tsquery, pg_lsn,
    oid, int4range, int8range, numrange, tsrange, tstzrange, daterange, int4multirange,
    datemultirange, integer[], text[][], varchar(3)[], uuid[], jsonb[], inet[], mood, mood[],
    tense, positive, positive[], span, span[], "Odd Type", moods, email
""".replace("\n", " ").split(", ")


def test_every_type_gets_values(fill, found):
    columns = ", ".join(f"c{n} {kind}" for n, kind in enumerate(TYPES))
    assert len(TYPES) > 60
    script = f"""
        create type mood as enum ('low', 'high, and "quoted"');
        create type tense as enum ();
        create domain positive as int not null check (value > 3);
        create domain email as text check (value ~ '^[a-z0-9]+@[a-z.]+$');
        create type span as (low int, high mood, "a b" text[]);
        create type "Odd Type" as (x span, y timestamptz);
        create type moods as range (subtype = text);
        create table every ({columns});
    """
    assert fill(script) == {}
    empty = [
        kind for n, kind in enumerate(TYPES) if found(f"select count(c{n}) from every")[0][0] < 2
    ]
    assert [kind.strip() for kind in empty] == ["tense"]
    assert found("select count(*) from every") == [(3,)]


@pytest.mark.parametrize(
    "column",
    [
        "text check (x in ('only', 'these'))",
        "text check (x ~ '^[0-9a-f]{64}$')",
        "text check (char_length(x) = 17)",
        "text check (x ~* '^[^@ ]+@[^@ ]+[.][^@ ]+$')",
        r"text check (x ~ '^\d+\.\d+\.\d+$')",
        "text check (x like 'image/%')",
        "bytea check (octet_length(x) = 32)",
        "int check (x between 500 and 510)",
        "numeric check (x >= 0 and x <= 1)",
        "int check (x < -40)",
        "jsonb check (jsonb_typeof(x) = 'array')",
        "jsonb check (x ? 'width' and (x ->> 'width')::int > 0)",
        "timestamptz check (x > '2199-01-01')",
        "date check (extract(isodow from x) = 7)",
        "int[] check (cardinality(x) = 1 and x[1] > 99)",
        "text check (x = lower(x) and x <> '' and x !~ ' ')",
    ],
)
def test_checks_are_met(fill, found, column):
    assert fill(f"create table t (x {column.replace('check', 'not null check', 1)})") == {}
    assert found("select count(x) from t")[0][0] >= 2


def test_checks_of_several_columns_are_met(fill, found):
    script = """
        create table t (
            id int generated always as identity primary key,
            state text not null check (state in ('new', 'done')),
            low int not null, high int not null, done_at timestamptz, parent int references t,
            check (low < high), check ((state = 'done') = (done_at is not null)),
            check (parent is null or parent <> id)
        );
    """
    assert fill(script) == {}
    assert found("select count(*), count(distinct (low, high)) > 1 from t") == [(3, True)]


def test_keys_are_met_in_any_order_and_in_circles(fill, found):
    script = """
        create table a (id int primary key);
        create table b (id int primary key, a int not null references a, unique (id, a));
        create table c (a int not null, b int not null, foreign key (b, a) references b (id, a),
                        foreign key (a) references a);
        create table one (id int primary key, two int);
        create table two (id int primary key, one int not null references one);
        alter table one add foreign key (two) references two;
        create table once (b int not null unique references b);
        create unique index on c ((a + b)) where a > 0;
        create table room (during tsrange not null, exclude using gist (during with &&));
    """
    assert fill(script) == {}
    assert found("select count(two) > 0 from one") == [(True,)]
    assert found("select count(*) from once") == [(3,)]
    assert found("select count(*) from c") == [(3,)]
    assert found("select count(*) > 1 from room") == [(True,)]


def test_every_partition_gets_rows(fill, found):
    script = """
        create table t (id int generated always as identity, at timestamptz not null, kind text)
            partition by range (at);
        create table t_1 partition of t for values from ('2031-05-01') to ('2031-06-01');
        create table t_2 partition of t for values from ('2031-06-01') to ('2031-07-01')
            partition by list (kind);
        create table t_2a partition of t_2 for values in ('a');
        create table t_2b partition of t_2 default;
        create table h (id int) partition by hash (id);
        create table h_0 partition of h for values with (modulus 2, remainder 0);
        create table h_1 partition of h for values with (modulus 2, remainder 1);
        create table bare (id int) partition by list (id);
    """
    assert fill(script) == {"public.bare": "it has no partition"}
    counted = found("select tableoid::regclass::text, count(*) from t group by 1 order by 1")
    assert [name for name, count in counted if count >= 2] == ["t_1", "t_2a", "t_2b"]
    assert len(found("select distinct tableoid from h")) == 2


def test_a_trigger_that_refuses_is_a_reason(fill, found):
    script = """
        create table closed (a int);
        create table picky (id int generated by default as identity, state text default 'new');
        create function refuse() returns trigger language plpgsql as
            $$ begin raise exception 'not today'; end $$;
        create function first_new() returns trigger language plpgsql as
            $$ begin if new.state <> 'new' then raise exception 'no'; end if; return new; end $$;
        create trigger t before insert on closed for each row execute function refuse();
        create trigger t before insert on picky for each row execute function first_new();
    """
    assert fill(script) == {"public.closed": "not today (P0001)"}
    assert found("select count(*) from picky where state = 'new'") == [(3,)]


def test_what_can_t_be_met_is_a_reason(fill, found):
    reasons = fill("create table t (x text not null check (md5(x) = 'no such'))")
    assert list(reasons) == ["public.t"]
    assert "t_x_check" in reasons["public.t"]
    assert found("select count(*) from t") == [(0,)]


def test_triggers_find_what_they_name(fill):
    script = """
        create table seen (n int);
        create table t (a int);
        create function see() returns trigger language plpgsql as
            $$ begin insert into seen values (1); return new; end $$;
        create trigger t before insert on t for each row execute function see();
    """
    assert fill(script) == {}


def test_only_named_and_empty_tables_get_rows(empty_database):
    with open_session(empty_database.owner) as connection:
        assert attempt(connection, b"create table a (n int); create table b (n int)") is None
        Filler(connection).fill()
        assert attempt(connection, b"create table c (n int)") is None
        Filler(connection).fill({"public.a"})
        found = {name: rows(connection, "select from " + name) for name in ("a", "b", "c")}
    assert {name: len(there) for name, there in found.items()} == {"a": 6, "b": 3, "c": 3}
