"""Forty indexes or more, each for a reason, none twice."""

from __future__ import annotations

import pytest

import index_reference
from negspace import database

# On every table and partition; what a column expression means hangs on class and collation too.
INDEXES = """
    select c.relname as name, t.relname as relation, a.amname as method, i.indisunique as is_unique,
           coalesce(pg_get_expr(i.indpred, i.indrelid), '') as predicate,
           array(select pg_get_indexdef(c.oid, n, false) from generate_series(1, i.indnkeyatts) n)
               as columns,
           i.indclass::oid[]::text[] as classes, i.indcollation::oid[]::text[] as collations,
           i.indoption::int2[]::int[] as options, i.indisvalid as valid,
           c.relispartition as is_partition, obj_description(c.oid, 'pg_class') as comment
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_class t on t.oid = i.indrelid
    join pg_am a on a.oid = c.relam
    where c.relnamespace = 'public'::regnamespace
    order by c.relname"""

FOREIGN_KEYS = """
    select c.conname as name, r.relname as relation,
           array(select quote_ident(a.attname) from unnest(c.conkey) with ordinality k (number, n)
                 join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.number order by n)
               as columns
    from pg_constraint c join pg_class r on r.oid = c.conrelid
    where c.contype = 'f' and c.connamespace = 'public'::regnamespace and not r.relispartition
      and c.conparentid = 0"""

# An index that another begins with, and why both are there.
ALLOWED: dict[tuple[str, str], str] = {}


@pytest.fixture
def indexes(owner):
    return database.rows(owner, INDEXES)


def keys(index):
    """The key columns, each with all that decides its order."""
    parts = zip(
        index["columns"], index["classes"], index["collations"], index["options"], strict=True
    )
    return list(parts)


def backwards(parts):
    """A btree read from its end: descending for ascending, nulls first for nulls last."""
    return [(column, cls, collation, option ^ 3) for column, cls, collation, option in parts]


def begins_with(longer, shorter):
    same = ("relation", "method", "predicate")
    if longer is shorter or any(longer[name] != shorter[name] for name in same):
        return False
    head = keys(longer)[: len(keys(shorter))]
    return keys(shorter) in ([head, backwards(head)] if longer["method"] == "btree" else [head])


def test_forty_or_more(indexes):
    assert len([index for index in indexes if not index["is_partition"]]) >= 40


def test_all_are_valid(indexes):
    assert [index["name"] for index in indexes if not index["valid"]] == []


def test_none_is_the_beginning_of_another(indexes):
    # two that are equal are each the beginning of the other
    found = {
        (shorter["name"], longer["name"])
        for shorter in indexes
        for longer in indexes
        if begins_with(longer, shorter)
    }
    assert found == set(ALLOWED)


def test_the_search_for_beginnings_finds_them(owner):
    owner.execute("create index one on images (uploaded_at)")
    owner.execute("create index two on images (user_id)")
    owner.execute("create index three on analysis_results using gin (anomalies jsonb_path_ops)")
    made = {row["name"]: row for row in database.rows(owner, INDEXES)}
    assert begins_with(made["images_uploaded_at_idx"], made["one"])  # read backwards
    assert begins_with(made["images_user_id_created_at_idx"], made["two"])
    assert begins_with(made["analysis_results_anomalies_idx"], made["three"])
    assert not begins_with(made["images_original_key"], made["two"])  # partial
    assert not begins_with(made["images_analysis_status_uploaded_at_idx"], made["one"])


def test_every_foreign_key_has_an_index(owner, indexes):
    found = database.rows(owner, FOREIGN_KEYS)
    assert found
    for key in found:
        first = [f"({column} IS NOT NULL)" for column in key["columns"]]
        assert [
            index["name"]
            for index in indexes
            if index["relation"] == key["relation"]
            and index["method"] == "btree"
            and index["columns"][: len(key["columns"])] == key["columns"]
            and index["predicate"] in ("", *first)
        ], key["name"]


def test_every_index_says_what_it_is_for(indexes):
    for index in indexes:
        if not index["is_partition"]:
            assert index["comment"], index["name"]
            assert index["comment"].endswith("."), index["name"]


def test_the_specified_kinds(indexes):
    """Latest first, by status, composite, GIN on searched JSONB, partial for failures."""
    own = [index for index in indexes if not index["is_partition"]]
    assert [i for i in own if i["columns"] == ["user_id", "created_at"] and i["options"] == [0, 3]]
    assert {i["relation"] for i in own if i["method"] == "gin"} >= {
        "users",
        "images",
        "analysis_results",
        "api_keys",
        "audit_log_details",
    }
    for status in ("failed", "retrying"):
        assert [i for i in own if f"'{status}'" in i["predicate"] and "ANY" not in i["predicate"]]
    for relation in ("images", "processing_queue_ended"):
        assert [i for i in own if i["relation"] == relation and "status" in i["columns"][0]]


def test_the_reference_is_what_the_catalog_says(owner):
    assert index_reference.table(owner) == index_reference.written()
